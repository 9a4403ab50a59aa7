"""The learner: losses as pure functions, the heads, and the compiled update.

`learner` is for `training.builders`, the rest is its own. TensorFlow is used here and in `networks`.
"""
