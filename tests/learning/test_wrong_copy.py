"""A copy of the network for NumPy that is wrong: found with real observations, and replaced by Keras."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from learning.learners import VECTOR, Batches, build_learner
from toy_actors import make_actor

import distdqn
from distdqn.learning.learner import Learner
from distdqn.networks import numpy_policy
from distdqn.networks.keras_policy import KerasPolicy
from distdqn.networks.numpy_policy import NumpyPolicy, load_policy, make_policy
from distdqn.types import RolloutRequest

NOTICE = "NumPy evaluates this network differently from Keras: actors evaluate this network with Keras"


@pytest.fixture
def _eagerly() -> Iterator[None]:
    """Runs updates operation by operation, which is faster than to compile them for a few."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


eagerly = pytest.mark.usefixtures("_eagerly")


def wrong_relu(x: Any) -> Any:
    """Right at 0, and wrong by a thousandth elsewhere."""
    return np.maximum(x, 0.0) * np.float32(1.001)


def wrong_for_one_alone(x: Any) -> Any:
    """Right for a batch, and wrong for one observation."""
    return np.maximum(x, 0.0) + np.float32(len(x) == 1 and x.any())


def assert_is_the_keras_network(learner: Learner, observation: Any) -> None:
    policy = make_policy(learner.publish())
    assert isinstance(policy, KerasPolicy)
    expected = learner._q_network(observation).numpy()
    np.testing.assert_allclose(policy.q_values(observation), expected, rtol=1e-4, atol=1e-5)


@eagerly
@pytest.mark.parametrize("wrong", [wrong_relu, wrong_for_one_alone])
def test_fault_47_wrong_copy_of_the_network_is_found_by_the_first_call_of_the_learner(
    monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    monkeypatch.setitem(numpy_policy.ACTIVATIONS, "relu", wrong)
    learner, batches = build_learner(), Batches()
    assert isinstance(make_policy(learner.publish()), NumpyPolicy)  # it has seen no observation yet

    report, weights, _ = learner.learn(batches.make(1), publish=False)
    again, _, _ = learner.learn(batches.make(2), publish=False)

    assert (report.notice or "").startswith(NOTICE)
    assert again.notice is None
    assert weights is not None  # published at once
    assert report.weights_version == weights.weights_version == (0, 2)
    assert isinstance(make_policy(weights), KerasPolicy)
    assert_is_the_keras_network(learner, batches.make(1).transitions.observation[0])


@eagerly
def test_fault_47_restored_learner_publishes_for_keras_as_the_saved_one_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(numpy_policy.ACTIVATIONS, "relu", wrong_relu)
    learner, restored = build_learner(), build_learner()
    learner.learn(Batches().make(1), publish=False)

    restored.set_state(learner.get_state())

    assert_is_the_keras_network(restored, Batches().make(1).transitions.observation[0])


def test_fault_47_copy_that_fails_is_replaced_before_any_actor_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_x: Any) -> Any:
        raise IndexError("no such axis")

    monkeypatch.setitem(numpy_policy.ACTIVATIONS, "relu", fail)
    learner = build_learner()

    assert isinstance(make_policy(learner.publish()), KerasPolicy)
    assert "NumPy cannot evaluate this network (IndexError: no such axis)" in (learner.compile() or "")


@eagerly
@pytest.mark.parametrize("options", [{}, {"noisy": True}, {"head": "implicit", "dueling": True}], ids=str)
def test_right_copy_of_the_network_is_kept_without_a_line(options: dict[str, Any]) -> None:
    learner = build_learner(VECTOR, **options)

    report, weights, _ = learner.learn(Batches().make(1), publish=False)

    assert (report.notice, weights) == (None, None)
    assert isinstance(make_policy(learner.publish()), NumpyPolicy)


@eagerly
def test_keras_policy_of_a_noisy_network_explores_by_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    observation = Batches().make(1).transitions.observation[0]
    learner = build_learner(noisy=True)
    by_numpy = make_policy(learner.publish())
    monkeypatch.setitem(numpy_policy.ACTIVATIONS, "relu", wrong_relu)
    learner.learn(Batches().make(1), publish=False)
    by_keras = make_policy(learner.publish())
    assert isinstance(by_keras, KerasPolicy)
    mean, generator = by_keras.q_values(observation), np.random.default_rng(0)

    spreads = []
    for policy in (by_numpy, by_keras):
        values = []
        for _ in range(300):
            policy.resample(generator)
            values.append(policy.q_values(observation))
        spreads.append(np.std(values, axis=0).mean())

    assert spreads[1] == pytest.approx(spreads[0], rel=0.2)
    np.testing.assert_array_equal(make_policy(learner.publish()).q_values(observation), mean)  # of new arrays


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
def test_fault_47_run_with_a_wrong_copy_says_so_and_acts_with_keras(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(numpy_policy.ACTIVATIONS, "relu", wrong_relu)
    config = distdqn.Config(
        mode="serial",
        actors=1,
        max_env_steps=600,
        min_replay_size=300,
        hidden_sizes=(8,),
        updates_per_call=8,
        batch_size=16,
        run_dir=str(tmp_path / "run"),
    )

    summary = distdqn.train(config)

    weights = load_policy(tmp_path / "run" / "policy.npz")
    assert summary["learner_steps"] > 50
    assert capsys.readouterr().out.count(NOTICE) == 1
    assert [layer["kind"] for layer in weights.layers] == ["keras"]
    # An actor takes these weights after any others.
    actor = make_actor("CartPole-v1")
    actor.rollout(RolloutRequest(0, 100), weights)
    assert isinstance(actor._policy, KerasPolicy)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["reason"] == "max_env_steps"
