"""The supervisor: it schedules the calls to the roles, handles faults, and keeps the number of actors.

Roles are called through the protocol `Backend`, without Ray. Only `runner` and `cluster` import from here.
"""
