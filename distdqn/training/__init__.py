"""The algorithm on one page (`loop`), when it stops, how options become roles, and checkpoints in rounds.

`runner`, `distributed` and `cluster` import from here. The roles are a `team`, called by `calls` through a
`backend`.
"""
