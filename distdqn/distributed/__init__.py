"""The supervisor: it schedules the calls to the roles, handles faults, and keeps the number of actors.

Calls go through the protocol `Backend`; nothing here imports Ray. `cluster` and `runner` import from here.
"""
