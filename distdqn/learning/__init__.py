"""Learning: the formulas, the update and the learner. The one place for TensorFlow."""
