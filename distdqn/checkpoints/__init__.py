"""Checkpoints on disk: how they are written, found, verified, and restored to any number of shards.

`checkpointer`, `resume` and `reshard` are for training, `store` also for `inspect`. Nothing is unpickled.
"""
