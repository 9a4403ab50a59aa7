"""The learner: losses as pure functions, the heads, and the compiled update. It computes with TensorFlow.

Import `Learner` from `learner`; the other modules are for it.
"""
