"""Reporting: what a run writes and shows."""
