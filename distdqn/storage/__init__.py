"""Checkpoints on disk: arrays named by their content, and one manifest per checkpoint."""
