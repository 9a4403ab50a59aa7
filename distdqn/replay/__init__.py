"""The replay buffer: rows in ring buffers, samplers over item ids, shards, and the rate limiter. NumPy only.

Import `Replay` from `replay` and `RateLimiter` from `rate_limiter`; functions of the others are public, too.
"""
