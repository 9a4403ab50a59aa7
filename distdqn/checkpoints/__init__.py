"""Checkpoints on disk: how they are written, found, verified, and restored to any number of shards.

Import from `store`, `checkpointer`, `reshard` and `resume`; the other modules are for these.
"""
