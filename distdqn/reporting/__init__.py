"""What a run writes and shows: its metrics, its folder and the console."""
