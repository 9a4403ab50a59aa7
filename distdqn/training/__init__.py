"""The algorithm in one process (`loop`), when it stops (`stopping`), and how options become roles.

`runner`, `distributed` and `cluster` import from here. Read `loop` first.
"""
