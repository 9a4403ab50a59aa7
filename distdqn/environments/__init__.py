"""Environments: from an id to an environment, many of them stepped together, and checks of their outputs.

`registry` is for whatever names an environment, `vector` for whatever steps one.
"""
