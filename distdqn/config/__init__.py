"""Every option of a run once, with its type, default, range and help; presets, files and command lines.

Import options from `config`. The commands also import from `model` and `command_line`.
"""
