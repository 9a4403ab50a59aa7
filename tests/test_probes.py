"""Actor, replay and learner together find known values, under every head."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from toy_parts import Parts, make_parts
from toy_probes import ActionDecides, ActionMustSuit, OneReward, RewardIsLate, RewardIsObserved

from distdqn.learning.learner import Learner
from distdqn.networks.numpy_policy import NumpyPolicy

DISCOUNT = 0.5
# Observations, and the Q-values of every action there.
PROBES = {
    OneReward: {0.0: [1.0]},
    RewardIsObserved: {-1.0: [-1.0], 1.0: [1.0]},
    RewardIsLate: {0.0: [0.0 + DISCOUNT * 1.0], 1.0: [1.0]},
    ActionDecides: {0.0: [-1.0, 1.0]},
    ActionMustSuit: {-1.0: [1.0, -1.0], 1.0: [-1.0, 1.0]},
}


def make_probe_parts(env: Any, head: str) -> Parts:
    """The parts, with a learner of their own that is not compiled yet."""
    return make_parts(
        env,
        head=head,
        atoms=None if head == "value" else 9,
        v_min=-2.0,
        v_max=2.0,
        discount=DISCOUNT,
        n_step=1,
        envs_per_actor=8,
        rollout_length=8,
        epsilon_start=0.5,
        epsilon_schedule="constant",
        sampler="prioritized",
        hidden_sizes=(16,),
        layer_norm=False,
        learning_rate=0.01,
        target_update_period=10,
        batch_size=32,
        updates_per_call=50,
    )


@cache
def learner_and_first_state(head: str, actions: int) -> tuple[Learner, dict[str, Any]]:
    """A learner for all probes with that many actions, since compiling one takes seconds."""
    env = next(env for env in PROBES if env.action_space.n == actions)
    learner = make_probe_parts(env, head).learner
    return learner, learner.get_state()


@pytest.mark.parametrize("env", PROBES, ids=lambda env: env.__name__)
@pytest.mark.parametrize("head", ["value", "quantile", "implicit", "categorical"])
def test_known_values_are_found_by_every_head_from_acting_to_policy(env: Any, head: str) -> None:
    learner, first_state = learner_and_first_state(head, int(env.action_space.n))
    learner.set_state(first_state)
    parts = make_probe_parts(env, head)._replace(learner=learner)

    for _ in range(20):
        parts.act(rollouts=1)
        parts.learn(calls=1, updates=50, batch_size=32)

    policy = NumpyPolicy(learner.publish())
    for observation, q_values in PROBES[env].items():
        found = policy.q_values(np.array([[observation]], np.float32))[0]
        np.testing.assert_allclose(found, q_values, atol=0.05)
