"""Everything that needs Ray: connecting to a cluster, starting roles, placement, logs and commands.

The only folder that imports `ray`. `launch` is for `runner`, `control` for `scale`.
"""
