"""Targets, first priorities and updates where the next observation does not allow every action."""

import numpy as np
import pytest
import tensorflow as tf
from learning.fractions import midpoint_fractions
from scipy.special import log_softmax, logsumexp, softmax

from distdqn.acting.actor import td_errors
from distdqn.config.config import LearningOptions
from distdqn.learning.update import UpdateLoop
from distdqn.networks.keras_policy import policy_layers
from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.networks.q_network import make_networks
from distdqn.types import EnvironmentSpec, ObservationPart, PolicyWeights, Transitions

ACTIONS, ATOMS, FEATURES, BATCH = 4, 5, 3, 16
SUPPORT = np.linspace(-2.0, 2.0, ATOMS)
PARTS = (
    ObservationPart("position", "vector", (FEATURES,), 0, FEATURES),
    ObservationPart("action_mask", "mask", (ACTIONS,), FEATURES, FEATURES + ACTIONS),
)
SPEC = EnvironmentSpec("toy", (FEATURES + ACTIONS,), ACTIONS, None, "float32", 0.0, 1.0, None, PARTS)
OPTIONS = {"hidden_sizes": (8,), "torso": "dense", "atoms": ATOMS, "v_min": -2.0, "v_max": 2.0}


def make_observations(generator):
    masks = generator.integers(2, size=(BATCH, ACTIONS)).astype(np.float32)
    masks[np.arange(BATCH), generator.integers(ACTIONS, size=BATCH)] = 1.0
    return np.concatenate([generator.normal(size=(BATCH, FEATURES)).astype(np.float32), masks], axis=1)


def make_batch(seed):
    generator = np.random.default_rng(seed)
    observation, next_observation = make_observations(generator), make_observations(generator)
    action = (observation[:, FEATURES:] * generator.random((BATCH, ACTIONS))).argmax(axis=1).astype(np.int32)
    reward = generator.normal(size=BATCH).astype(np.float32)
    discount = generator.choice([0.0, 0.9], size=BATCH).astype(np.float32)
    return Transitions(observation, action, reward, discount, next_observation)


def slow_q(head, outputs):
    """Q-values `[A']` of the outputs of some actions."""
    if head == "value":
        return outputs
    return softmax(outputs, axis=1) @ SUPPORT if head == "categorical" else outputs.mean(axis=1)


def slow_shift(head, reward, discount, chosen):
    """The target from one chosen action's outputs."""
    if head != "categorical":
        return reward + discount * chosen
    result, delta = np.zeros(ATOMS), SUPPORT[1] - SUPPORT[0]
    for z, probability in zip(SUPPORT, softmax(chosen), strict=True):
        place = (np.clip(reward + discount * z, -2.0, 2.0) + 2.0) / delta
        low = int(np.floor(place))
        result[low] += probability * (1.0 - (place - low))
        if low + 1 < ATOMS:
            result[low + 1] += probability * (place - low)
    return result


def slow_target(options, batch, b, online, target):
    """The target of transition `b`, from the outputs of the allowed actions and no others."""
    allowed = np.flatnonzero(batch.next_observation[b, FEATURES:])
    outputs = target(batch.next_observation[b : b + 1]).numpy()[0][allowed].astype(np.float64)
    reward, discount = float(batch.reward[b]), float(batch.discount[b])
    if not options.munchausen:
        chooser = online if options.double else target
        choice = chooser(batch.next_observation[b : b + 1]).numpy()[0][allowed].astype(np.float64)
        return slow_shift(options.head, reward, discount, outputs[slow_q(options.head, choice).argmax()])
    temperature = options.munchausen_temperature
    before = np.flatnonzero(batch.observation[b, FEATURES:])
    q_before = slow_q(
        options.head, target(batch.observation[b : b + 1]).numpy()[0][before].astype(np.float64)
    )
    taken = list(before).index(batch.action[b])
    bonus = temperature * log_softmax(q_before / temperature)[taken]
    reward += options.munchausen_scale * np.clip(bonus, options.munchausen_clip, 0.0)
    log_policy = log_softmax(slow_q(options.head, outputs) / temperature)
    return sum(
        np.exp(log_pi) * slow_shift(options.head, reward - discount * temperature * log_pi, discount, own)
        for log_pi, own in zip(log_policy, outputs, strict=True)
    )


@pytest.mark.parametrize("kind", ["plain", "double", "munchausen"])
@pytest.mark.parametrize("head", ["value", "quantile", "implicit", "categorical"])
def test_targets_are_made_of_allowed_actions_alone(head, kind):
    taus = {"tau_samples": ATOMS, "target_tau_samples": ATOMS} if head == "implicit" else {}
    kinds = {"double": kind == "double", "munchausen": kind == "munchausen"}
    options = LearningOptions(**OPTIONS, **taus, **kinds, head=head)
    online, _ = make_networks(options, SPEC, seed=1)
    target, _ = make_networks(options, SPEC, seed=2)
    loop, batch = UpdateLoop(online, target, options, mask=SPEC.mask), make_batch(seed=3)
    columns = {name: tf.constant(column) for name, column in batch.columns().items()}

    found = loop._td_target(columns | midpoint_fractions(loop._head, BATCH)).numpy()

    expected = [slow_target(options, batch, b, online, target) for b in range(BATCH)]
    np.testing.assert_allclose(found, np.array(expected), rtol=2e-5, atol=2e-5)


def test_first_priorities_look_at_allowed_actions_alone():
    options = LearningOptions(**OPTIONS, head="value")
    _, network = make_networks(options, SPEC, seed=1)
    layers, _ = policy_layers(options, SPEC, network)
    policy, batch = NumpyPolicy(PolicyWeights(layers, network.get_weights(), (0, 0), 0)), make_batch(seed=4)

    found = td_errors(policy, batch)

    q, next_q = (network(each).numpy() for each in (batch.observation, batch.next_observation))
    for b in range(BATCH):
        best = max(next_q[b, a] for a in range(ACTIONS) if batch.next_observation[b, FEATURES + a])
        expected = batch.reward[b] + batch.discount[b] * best - q[b, batch.action[b]]
        assert found[b] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("head", ["value", "quantile", "categorical"])
def test_loss_has_the_conservative_term_of_allowed_actions_alone(head):
    batch = make_batch(seed=3)
    columns = {name: column[None] for name, column in batch.columns().items()}  # [1, B, ...]
    weight = np.random.default_rng(4).random((1, len(batch))).astype(np.float32)
    found = {}
    for alpha in (0.0, 2.0):
        options = LearningOptions(**OPTIONS, head=head, conservative_weight=alpha)
        online, _ = make_networks(options, SPEC, seed=1)
        target, _ = make_networks(options, SPEC, seed=2)
        outputs = online(batch.observation).numpy().astype(np.float64)
        loop = UpdateLoop(online, target, options, mask=SPEC.mask)
        found[alpha] = loop.run(Transitions(**columns), 0, weight).loss

    term = 0.0
    for b, taken in enumerate(batch.action):
        allowed = np.flatnonzero(batch.observation[b, FEATURES:])
        q_values = slow_q(head, outputs[b][allowed])
        gap = logsumexp(q_values) - q_values[list(allowed).index(taken)]
        term += weight[0, b] * gap / len(batch)
    assert found[2.0] - found[0.0] == pytest.approx(2.0 * term, rel=1e-4)
    assert term > 0.1
