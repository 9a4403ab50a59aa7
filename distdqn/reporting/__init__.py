"""What a run writes and shows: its folder, its metrics, and the console.

`metrics` is for whatever trains; `console` and `run_directory` are for `metrics` and `runner`.
"""
