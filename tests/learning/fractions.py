"""Quantile fractions for tests that compare an implicit network's outputs at its midpoints."""

from typing import Any

import numpy as np
import tensorflow as tf

from distdqn.learning.heads import ImplicitHead
from distdqn.networks.numpy_policy import quantile_midpoints


def midpoint_fractions(head: Any, batch_size: int) -> dict[str, tf.Tensor]:
    """What `head.draw_fractions` returns, but for midpoints in place of what it draws."""
    if not isinstance(head, ImplicitHead):
        return {}
    uses = {
        "fractions": [head.samples],
        "target_fractions": [head.target_samples] + [head.policy_samples] * (not head.is_double),
        "policy_fractions": [head.policy_samples],
    }
    rows = {name: np.concatenate([quantile_midpoints(n) for n in counts]) for name, counts in uses.items()}
    return {name: tf.constant(np.tile(row, (batch_size, 1))) for name, row in rows.items()}
