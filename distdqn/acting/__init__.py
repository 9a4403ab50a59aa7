"""The actor, which explores and makes n-step transitions, and the evaluator, which plays greedily.

`actor` and `evaluator` are for `training.builders`; the other modules are theirs. NumPy and Gymnasium only.
"""
