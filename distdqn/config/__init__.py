"""Every option of a run once, with its type, default, range and help; presets and command lines.

All other folders read options from `config`; the commands use `command_line` and `run_command`.
"""
