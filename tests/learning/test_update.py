"""`UpdateLoop` against a slow NumPy network with its own backward pass and its own Adam."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning.loops import (
    SETTINGS,
    build_loop,
    make_batches,
    make_loop,
    make_update_loop,
    part,
    update_eagerly,
)
from toy_networks import make_q_network

from distdqn.learning.update import UpdateLoop
from distdqn.types import Transitions

MANY_CHANGES: dict[str, Any] = {
    "loss": "huber",
    "double": True,
    "max_gradient_norm": 0.2,
    "target_update_period": 3,
    "target_update_rate": 0.5,
}


def snapshot(loop: UpdateLoop) -> list[np.ndarray]:
    """Weights of both networks, the optimizer's slots and its count of steps."""
    state = [*loop.online.variables, *loop.target.variables, *loop.optimizer.variables]
    return [variable.numpy().copy() for variable in state]


def distance(left: list[np.ndarray], right: list[np.ndarray]) -> float:
    """The largest difference between two lists of arrays."""
    return max(float(np.max(np.abs(a - b))) for a, b in zip(left, right, strict=True))


def run_singly(loop: UpdateLoop, batches: Transitions, begin: int = 0) -> list[tuple[float, float, float]]:
    """One call for each update."""
    return [loop.run(part(batches, u, u + 1), begin + u)[:3] for u in range(len(batches))]


class Twin:
    """A dense network with one hidden layer in float64, trained by loops one can follow."""

    def __init__(self, loop: UpdateLoop, **changes: Any) -> None:
        self.settings = SETTINGS | changes
        self.online = [w.astype(np.float64) for w in loop.online.get_weights()]
        self.target = [w.astype(np.float64) for w in loop.target.get_weights()]
        self.mean = [np.zeros_like(w) for w in self.online]
        self.square = [np.zeros_like(w) for w in self.online]
        self.steps = 0

    @staticmethod
    def q_values(weights: list[np.ndarray], observation: np.ndarray) -> np.ndarray:
        kernel1, bias1, kernel2, bias2 = weights
        return np.maximum(observation @ kernel1 + bias1, 0.0) @ kernel2 + bias2

    def td_target(self, reward: float, discount: float, next_observation: np.ndarray) -> float:
        values = self.q_values(self.target, next_observation)
        chooser = self.q_values(self.online, next_observation) if self.settings["double"] else values
        return reward + discount * values[int(np.argmax(chooser))]

    def update(self, batches: Transitions, u: int) -> tuple[float, float, float]:
        """One update from the batch at `u`; returns loss, mean Q-value and gradient norm."""
        kernel1, bias1, kernel2, bias2 = self.online
        gradients = [np.zeros_like(w) for w in self.online]
        count = batches.action.shape[1]
        loss = q_mean = 0.0
        for i in range(count):
            observation = batches.observation[u, i].astype(np.float64)
            action = batches.action[u, i]
            hidden = np.maximum(observation @ kernel1 + bias1, 0.0)  # [5]
            q_taken = hidden @ kernel2[:, action] + bias2[action]
            target = self.td_target(
                float(batches.reward[u, i]), float(batches.discount[u, i]), batches.next_observation[u, i]
            )
            error = target - q_taken
            if self.settings["loss"] == "squared" or abs(error) <= 1.0:
                loss += 0.5 * error**2 / count
                slope = -error / count
            else:
                loss += (abs(error) - 0.5) / count
                slope = -np.sign(error) / count
            q_mean += q_taken / count
            into_hidden = slope * kernel2[:, action] * (hidden > 0.0)  # [5]
            gradients[0] += np.outer(observation, into_hidden)
            gradients[1] += into_hidden
            gradients[2][:, action] += slope * hidden
            gradients[3][action] += slope
        norm = float(np.sqrt(sum(np.sum(g**2) for g in gradients)))
        limit = self.settings["max_gradient_norm"]
        if limit is not None and norm > limit:
            gradients = [g * limit / norm for g in gradients]
        self.adam(gradients)
        if self.steps % self.settings["target_update_period"] == 0:
            rate = self.settings["target_update_rate"]
            self.target = [(1 - rate) * t + rate * w for t, w in zip(self.target, self.online, strict=True)]
        return loss, q_mean, norm

    def adam(self, gradients: list[np.ndarray]) -> None:
        """Kingma and Ba (2015), section 2, the efficient form with epsilon hat."""
        self.steps += 1
        rate = self.settings["learning_rate"] * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for i, gradient in enumerate(gradients):
            self.mean[i] = 0.9 * self.mean[i] + 0.1 * gradient
            self.square[i] = 0.999 * self.square[i] + 0.001 * gradient**2
            step = rate * self.mean[i] / (np.sqrt(self.square[i]) + self.settings["adam_epsilon"])
            self.online[i] = self.online[i] - step


# Every pair of settings occurs.
@pytest.mark.parametrize(
    ("loss", "double", "max_gradient_norm"),
    [("huber", False, None), ("huber", True, 0.05), ("squared", False, 0.05), ("squared", True, None)],
)
def test_one_update_agrees_with_the_numpy_twin(
    loss: str, double: bool, max_gradient_norm: float | None
) -> None:
    changes = {"loss": loss, "double": double, "max_gradient_norm": max_gradient_norm}
    loop = make_loop(seed=3, **changes)
    twin = Twin(loop, **changes)
    batches = make_batches(1, 16, seed=4, reward_scale=2.0)  # errors on both sides of 1

    reported = loop.run(batches, 0)[:3]

    assert reported == pytest.approx(twin.update(batches, 0), rel=1e-5)
    assert distance(loop.online.get_weights(), twin.online) < 1e-6


@pytest.mark.parametrize(
    "change", [{"loss": "huber"}, {"double": True}, {"max_gradient_norm": 0.05}, {"target_update_period": 1}]
)
def test_numpy_twin_ends_elsewhere_when_an_option_differs(change: dict[str, Any]) -> None:
    loop = make_loop(seed=3)
    plain, changed = Twin(loop), Twin(loop, **change)
    batches = make_batches(2, 16, seed=4, reward_scale=2.0)
    for u in range(2):
        plain.update(batches, u)
        changed.update(batches, u)

    # A hundred times the tolerance between the twin and the loop: each option has an effect.
    assert distance(plain.online, changed.online) > 1e-4


def test_many_updates_agree_with_the_numpy_twin() -> None:
    loop = make_loop(seed=5, **MANY_CHANGES)
    twin = Twin(loop, **MANY_CHANGES)
    batches = make_batches(8, 4, seed=6)

    loop.run(part(batches, 0, 4), 0)
    loop.run(part(batches, 4, 8), 4)
    for u in range(8):
        twin.update(batches, u)

    assert distance(loop.online.get_weights(), twin.online) < 1e-5
    assert distance(loop.target.get_weights(), twin.target) < 1e-5


@pytest.mark.parametrize("layer_norm", [False, True])
def test_updates_in_one_call_equal_calls_with_one_update_each(layer_norm: bool) -> None:
    batches = make_batches(4, 4, seed=8)

    loop = make_loop(7, layer_norm, **MANY_CHANGES)
    loop.run(batches, 0)
    together = snapshot(loop)
    assert int(loop.optimizer.iterations) == 4

    loop = make_loop(7, layer_norm, **MANY_CHANGES)
    run_singly(loop, batches)
    assert distance(snapshot(loop), together) < 1e-6


def test_means_over_updates_equal_means_of_three_different_single_results() -> None:
    batches = make_batches(3, 4, seed=10)

    means = make_loop(9).run(batches, 0)[:3]
    singles = np.array(run_singly(make_loop(9), batches))  # [3, 3]

    for column in singles.T:
        assert len(set(column.round(3))) == 3
    assert means == pytest.approx((singles[0] + singles[1] + singles[2]) / 3.0, rel=1e-5)


def test_gradient_norm_is_reported_as_it_was_before_clipping() -> None:
    batches = make_batches(1, 16, seed=10)
    unclipped = make_loop(9).run(batches, 0)[2]
    clipped = make_loop(9, max_gradient_norm=0.05).run(batches, 0)[2]

    assert unclipped > 0.1
    assert clipped == pytest.approx(unclipped, rel=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_every_trainable_weight_changes_in_one_update(layer_norm: bool) -> None:
    loop = make_loop(11, layer_norm)
    before = loop.online.get_weights()

    update_eagerly(loop, make_batches(1, 64, seed=12))

    after = {v.path: v.numpy() for v in loop.online.trainable_variables}
    assert len(after) == (6 if layer_norm else 4)
    for (name, new), old in zip(after.items(), before, strict=True):
        assert np.all(new != old), name


def test_target_network_stays_until_its_period_and_then_equals_the_online_network() -> None:
    loop = make_loop(15, target_update_period=3)
    first = loop.target.get_weights()
    batches = make_batches(4, 4, seed=16)

    for u in range(2):
        loop.run(part(batches, u, u + 1), u)
        assert distance(loop.target.get_weights(), first) == 0.0

    loop.run(part(batches, 2, 3), 2)
    third = loop.online.get_weights()
    assert distance(loop.target.get_weights(), third) == 0.0
    assert distance(third, first) > 1e-3
    loop.run(part(batches, 3, 4), 3)
    assert distance(loop.target.get_weights(), third) == 0.0
    assert distance(loop.online.get_weights(), third) > 1e-3


def test_target_network_moves_on_time_when_its_period_ends_in_the_middle_of_a_call() -> None:
    batches = make_batches(8, 4, seed=18)
    loop = make_loop(17, target_update_period=3)
    online = []  # after each step
    for u in range(8):
        loop.run(part(batches, u, u + 1), u)
        online.append(loop.online.get_weights())
    loop = make_loop(17, target_update_period=3)

    for begin, due in ((0, 3), (4, 6)):  # calls of 4 updates
        loop.run(part(batches, begin, begin + 4), begin)
        assert distance(loop.target.get_weights(), online[due - 1]) < 1e-6
        assert distance(online[due - 1], online[due - 2]) > 1e-4  # one step off would show
        assert distance(online[due - 1], online[due]) > 1e-4


def test_target_network_moves_by_its_rate_when_updated_softly() -> None:
    loop = make_loop(19, target_update_period=1, target_update_rate=0.25)
    before = loop.target.get_weights()

    update_eagerly(loop, make_batches(1, 4, seed=20))

    expected = [0.75 * t + 0.25 * w for t, w in zip(before, loop.online.get_weights(), strict=True)]
    assert distance(loop.target.get_weights(), expected) < 1e-7
    assert distance(loop.target.get_weights(), before) > 1e-3


def with_discount(discount: float, next_observation: float) -> Transitions:
    """One batch with one transition, of reward 1, that leads to `next_observation`."""
    return Transitions(
        observation=np.array([[[1.0, 0.0, 0.0]]], np.float32),
        action=np.array([[2]], np.int32),
        reward=np.array([[1.0]], np.float32),
        discount=np.array([[discount]], np.float32),
        next_observation=np.full((1, 1, 3), next_observation, np.float32),
    )


@pytest.mark.parametrize("double", [False, True])
def test_terminated_transition_does_not_bootstrap(double: bool) -> None:
    loop = make_loop(21, double=double)
    q_value = Twin.q_values(loop.online.get_weights(), np.array([1.0, 0.0, 0.0]))[2]

    loss, *_ = loop.run(with_discount(0.0, next_observation=0.3), 0)
    here = snapshot(loop)
    loop = make_loop(21, double=double)
    loop.run(with_discount(0.0, next_observation=7.0), 0)

    assert loss == pytest.approx(0.5 * (1.0 - q_value) ** 2, rel=1e-5)
    assert distance(snapshot(loop), here) == 0.0


@pytest.mark.parametrize("double", [False, True])
def test_truncated_transition_bootstraps_from_the_target_network(double: bool) -> None:
    loop = make_loop(21, double=double)
    next_observation = np.full(3, 0.3)
    online, target = loop.online.get_weights(), loop.target.get_weights()
    chosen = np.argmax(Twin.q_values(online if double else target, next_observation))
    value = Twin.q_values(target, next_observation)[chosen]
    q_value = Twin.q_values(online, np.array([1.0, 0.0, 0.0]))[2]

    loss, q_mean, *_ = loop.run(with_discount(0.81, next_observation=0.3), 0)

    assert q_mean == pytest.approx(q_value, rel=1e-5)
    assert loss == pytest.approx(0.5 * (1.0 + 0.81 * value - q_value) ** 2, rel=1e-4)


def test_compile_changes_neither_weights_nor_slots_nor_iterations() -> None:
    loop = build_loop(target_update_period=1, target_update_rate=0.5)
    before = snapshot(loop)

    notice = loop.compile(updates=4, batch_size=8)

    assert notice is None
    assert int(loop.optimizer.iterations) == 0
    assert distance(snapshot(loop), before) == 0.0


def test_compile_prepares_the_call_that_run_then_makes() -> None:
    loop = build_loop()
    loop.compile(updates=4, batch_size=8)

    loop.run(make_batches(4, 8), 0)
    loop.run(make_batches(4, 8), 4)

    assert loop._run.experimental_get_tracing_count() == 1


def make_network_xla_cannot_compile(seed: int) -> Any:
    """The network of `make_loop` behind a layer that leaves the graph for Python."""

    class Nothing(keras.layers.Layer):
        def call(self, inputs: Any) -> Any:
            zeros = tf.numpy_function(lambda value: 0.0 * value, [inputs], tf.float32)
            return inputs + tf.stop_gradient(tf.reshape(zeros, tf.shape(inputs)))

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    inputs = keras.Input((3,))
    model = keras.Model(inputs, make_q_network((3,), 4, (5,), False, seed)(Nothing()(inputs)))
    model.set_weights(make_q_network((3,), 4, (5,), False, seed).get_weights())
    return model


def test_compile_goes_on_without_xla_and_says_so_in_one_line_when_xla_cannot() -> None:
    loop = make_update_loop(make_network_xla_cannot_compile(25), make_network_xla_cannot_compile(26))
    twin = Twin(loop)
    before, batches = snapshot(loop), make_batches(3, 4, seed=27)

    notice = loop.compile(updates=3, batch_size=4)
    unchanged = distance(snapshot(loop), before)
    loop.run(batches, 0)
    for u in range(3):
        twin.update(batches, u)

    assert "XLA" in (notice or "")
    assert "\n" not in (notice or "")
    assert unchanged == 0.0
    assert distance(loop.online.get_weights(), twin.online) < 1e-6


def test_learning_rate_of_a_call_scales_its_steps_and_those_of_the_calls_after_it() -> None:
    batches, steps, traced = make_batches(1, 4, seed=28), [], set()
    for rates in ([None], [0.0], [0.03], [0.0, None], [0.0, 0.03]):  # the usual rate is 0.01
        loop = make_loop(29)
        before = loop.online.get_weights()
        for rate in rates:
            for slot in loop.optimizer.variables[2:]:
                slot.assign(np.zeros(slot.shape))
            loop.optimizer.iterations.assign(0)
            loop.run(batches, 0, learning_rate=rate)
        steps.append(distance(loop.online.get_weights(), before))
        traced.add(loop._run.experimental_get_tracing_count())

    usual, none, triple, still_none, triple_again = steps
    assert usual > 1e-3
    assert none == still_none == 0.0
    assert triple == pytest.approx(3 * usual, rel=1e-3)
    assert triple_again == pytest.approx(triple, rel=1e-6)
    assert len(traced) == 1  # one compiled loop for all rates
