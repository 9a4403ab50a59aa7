"""Environments: from an id to an environment, many of them stepped together, and checks of their outputs.

Import from `registry` to find an environment, and from `vector` to step several.
"""
