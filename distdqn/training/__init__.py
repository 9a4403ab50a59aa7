"""The algorithm on one page (`loop`), when it stops, how options become roles, and checkpoints in rounds.

`runner`, `distributed` and `cluster` import from here. `backend` has the protocol for calling roles.
"""
