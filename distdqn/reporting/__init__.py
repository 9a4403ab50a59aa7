"""What a run writes and shows: its metrics, its folder and the console.

Import `Metrics` from `metrics` to report; `runner` makes the folder (`run_directory`) and the `console`.
"""
