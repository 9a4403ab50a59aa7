"""Checkpoints on disk: how they are written, found, verified, and restored to any number of shards."""
