"""The supervisor of an `async` run: it schedules calls, handles faults, and keeps the number of actors.

Roles are called through the protocol `Backend`, without Ray. Only `runner` and `cluster` import from here.
"""
