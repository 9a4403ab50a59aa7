"""The actor, which explores and makes n-step transitions, and the evaluator, which plays greedily.

Import `Actor` from `actor` and `Evaluator` from `evaluator`; the other modules are for these two.
"""
