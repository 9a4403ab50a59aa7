"""Updates that NaN or infinity would get into: skipped, counted, named."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from learning.loops import make_batches, make_loop, make_update_loop, part
from toy_networks import make_options, make_spec

from distdqn.learning.update import UpdateLoop
from distdqn.networks.q_network import make_networks
from distdqn.types import EnvironmentSpec, Transitions

INPUTS = ["observation", "reward", "discount", "next_observation", "importance_weight"]
VECTOR, IMAGE = make_spec((3,), 4), make_spec((4, 4, 2), 4, "uint8", 255.0)
NORMALIZED = {"network": "toy_user_networks:normalized"}
CASES: dict[str, tuple[EnvironmentSpec, dict[str, Any]]] = {
    "value": (VECTOR, {}),
    "noisy quantiles": (VECTOR, {"head": "quantile", "atoms": 3, "noisy": True}),
    "implicit": (VECTOR, {"head": "implicit", "atoms": 3}),
    "categorical": (VECTOR, {"head": "categorical", "atoms": 5, "v_min": -2.0, "v_max": 2.0}),
    "normalized by batches": (VECTOR, NORMALIZED),
    "dueling images": (IMAGE, {"torso": "small", "spectral_norm": True, "dueling": True, "layer_norm": True}),
}


def build(spec: EnvironmentSpec, options: dict[str, Any]) -> UpdateLoop:
    """A loop whose target network moves a little after every update."""
    online, target = (make_networks(make_options(**options), spec, seed)[0] for seed in (1, 2))
    changes: dict[str, Any] = {"double": True, "max_gradient_norm": 1.0, "loss": "huber"}
    changes |= {"target_update_period": 1, "target_update_rate": 0.5}
    return make_update_loop(online, target, **(changes | options))


def make_inputs(spec: EnvironmentSpec, updates: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Columns `[U, 4]` with observations of the environment, and importance weights."""
    columns: dict[str, Any] = make_batches(updates, 4, seed).columns()
    if spec.is_image:
        generator = np.random.default_rng(seed)
        for name in ("observation", "next_observation"):
            columns[name] = generator.integers(256, size=(updates, 4, 4, 4, 2)).astype(np.uint8)
    return columns | {"importance_weight": np.ones((updates, 4), np.float32)}


def run(loop: UpdateLoop, inputs: dict[str, np.ndarray], learner_steps: int = 0) -> Any:
    """Makes the updates."""
    columns = {name: column for name, column in inputs.items() if name != "importance_weight"}
    return loop.run(Transitions(**columns), learner_steps, inputs["importance_weight"])


def snapshot(loop: UpdateLoop) -> list[np.ndarray]:
    """All that an update changes, except noise, which every update draws before its use."""
    state = loop.get_state()
    names = {
        "online": loop.online.variables,
        "target": loop.target.variables,
        "optimizer": loop.optimizer.variables,
    }
    return [
        array
        for name, variables in names.items()
        for variable, array in zip(variables, state[name], strict=True)
        if "noise" not in variable.path
    ]


def are_equal(left: list[np.ndarray], right: list[np.ndarray]) -> list[bool]:
    """Which arrays are equal to the bit."""
    return [a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True)]


@pytest.fixture(scope="module", params=CASES)
def loop(request: pytest.FixtureRequest) -> tuple[UpdateLoop, EnvironmentSpec]:
    """A loop that made one update, so that Adam's slots are no zeros."""
    spec, options = CASES[request.param]
    loop = build(spec, options)
    assert run(loop, make_inputs(spec, 1)).is_finite.tolist() == [True]
    return loop, spec


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", INPUTS)
def test_fault_21_update_with_a_number_that_is_not_finite_changes_nothing_and_is_named(
    loop: tuple[UpdateLoop, EnvironmentSpec], name: str, value: float
) -> None:
    loop, spec = loop
    inputs = make_inputs(spec, 1, seed=2)
    if inputs[name].dtype == np.uint8:
        pytest.skip("Bytes are always finite.")
    inputs[name][0, 1] = value
    before = snapshot(loop)

    updated = run(loop, inputs, 1)

    assert all(are_equal(snapshot(loop), before))
    assert updated.is_finite.tolist() == [False]
    assert updated.first_not_finite == name
    assert updated[:3] == (0.0, 0.0, 0.0)
    assert updated.td_error.tolist() == [[0.0] * 4]


def test_update_after_a_skipped_one_changes_everything_again(
    loop: tuple[UpdateLoop, EnvironmentSpec],
) -> None:
    loop, spec = loop
    before = snapshot(loop)

    updated = run(loop, make_inputs(spec, 1, seed=3), 2)

    assert updated.is_finite.tolist() == [True]
    assert updated.first_not_finite is None
    rate = 1  # of learning, in the optimizer
    unchanged = np.flatnonzero(are_equal(snapshot(loop), before)) - (
        len(before) - len(loop.optimizer.variables)
    )
    assert unchanged.tolist() == [rate]
    assert updated.td_error.all()


def test_other_updates_of_a_call_are_those_that_are_made_without_the_skipped_one() -> None:
    changes = {"loss": "huber", "double": True, "max_gradient_norm": 0.2, "target_update_period": 2}
    batches = make_batches(5, 4, seed=8)
    batches.reward[2, 3] = np.nan  # of step 2, the third

    loop = make_loop(7, **changes)
    together = loop.run(batches, 0)
    state = snapshot(loop)
    loop = make_loop(7, **changes)
    first = loop.run(part(batches, 0, 2), 0)
    second = loop.run(part(batches, 3, 5), 3)

    for one, other in zip(state, snapshot(loop), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert int(loop.optimizer.iterations) == 4
    assert together.is_finite.tolist() == [True, True, False, True, True]
    assert together.first_not_finite == "reward"
    for mean, one, other in zip(together[:3], first[:3], second[:3], strict=True):
        assert mean == pytest.approx((2 * one + 2 * other) / 4, rel=1e-5)
    expected = np.concatenate([first.td_error, np.zeros((1, 4)), second.td_error])
    np.testing.assert_allclose(together.td_error, expected, atol=1e-6)


def test_target_network_waits_for_its_next_turn_when_the_update_that_it_is_due_after_is_skipped() -> None:
    loop = make_loop(7, loss="huber", double=True, max_gradient_norm=0.2, target_update_period=2)
    batches = make_batches(4, 4, seed=8)
    batches.reward[1] = np.inf
    first = loop.target.get_weights()

    loop.run(part(batches, 0, 2), 0)
    assert all(are_equal(loop.target.get_weights(), first))

    loop.run(part(batches, 2, 4), 2)
    assert all(are_equal(loop.target.get_weights(), loop.online.get_weights()))


def test_fault_21_gradient_whose_norm_overflows_is_skipped_and_its_variable_named() -> None:
    loop = make_loop(7, loss="huber", double=True, max_gradient_norm=0.2, target_update_period=2)
    batches = make_batches(5, 4, seed=8)
    batches.observation[:] *= 1e25  # the loss is as large, the squared gradient is beyond float32
    before = snapshot(loop)

    updated = loop.run(batches, 0)

    assert not updated.is_finite.any()
    assert updated.first_not_finite == f"gradient of `{loop.online.trainable_variables[0].path}`"
    assert all(are_equal(snapshot(loop), before))


def test_fault_21_loss_that_overflows_is_named_and_so_are_weights_that_are_not_finite() -> None:
    loop = make_loop(7, loss="huber", double=True, max_gradient_norm=0.2, target_update_period=2)
    batches = make_batches(5, 4, seed=8)
    batches.reward[:] = 3e38
    batches.discount[:] = 1.0
    large = replace(batches, next_observation=1e38 * batches.next_observation)

    assert loop.run(large, 0).first_not_finite == "loss"

    bias = loop.online.trainable_variables[1]
    bias.assign(np.full(5, np.nan))
    assert loop.run(batches, 0).first_not_finite == f"weights of `{bias.path}`"


def test_statistics_of_batches_that_overflow_are_skipped_though_the_loss_is_finite() -> None:
    loop = build(VECTOR, NORMALIZED)
    inputs = make_inputs(VECTOR, 1)
    inputs["observation"] *= np.float32(1e30)  # their variance is beyond float32
    before = snapshot(loop)

    updated = run(loop, inputs)

    assert updated.first_not_finite == "norm of the gradient or the statistics of a layer"
    assert all(are_equal(snapshot(loop), before))


def test_random_numbers_of_a_layer_stay_in_a_skipped_update() -> None:
    loop = build(IMAGE, {"network": "toy_user_networks:image"})
    inputs = make_inputs(IMAGE, 1)
    counters = [v for v in loop.online.variables if v.path.endswith("seed_generator_state")]
    seen = [counters[0].numpy().tolist()]
    for reward in (1.0, np.nan, 1.0):
        inputs["reward"][:] = reward
        run(loop, inputs)
        seen.append(counters[0].numpy().tolist())

    assert len(counters) == 1  # of the dropout
    assert seen[0] != seen[1] == seen[2] != seen[3]


def test_skipping_is_part_of_the_compiled_loop_with_and_without_xla(
    loop: tuple[UpdateLoop, EnvironmentSpec],
) -> None:
    loop, spec = loop
    inputs = make_inputs(spec, 1)
    for reward in (1.0, np.nan):
        inputs["reward"][:] = reward
        run(loop, inputs)

    assert loop._run._jit_compile is not spec.is_image
    assert loop._run.experimental_get_tracing_count() == 1
