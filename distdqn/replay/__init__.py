"""Replay: where transitions wait to be sampled. NumPy only."""
