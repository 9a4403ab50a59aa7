"""The replay buffer: rows in ring buffers, samplers over item ids, shards, and the rate limiter.

Any module may be imported by the folders above; none needs more than NumPy.
"""
