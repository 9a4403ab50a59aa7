"""The learner: versions of weights, publishing, saving, seeds."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from toy_networks import make_options, make_spec
from toy_replay_state import make_replay

from distdqn.learning.learner import Learner
from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.replay.shards import assign_shards, merge
from distdqn.types import EnvironmentSpec, PolicyWeights, SampledBatches, Transitions

UPDATES, BATCH_SIZE = 3, 4

# Keras 3.15's own `convert_to_numpy` on NumPy 2.4, while it saves.
keras_saves_with_a_warning = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


VECTOR = make_spec((2,), 3)


def make_learner(
    seed: int = 0, generation: int = 0, spec: EnvironmentSpec = VECTOR, **changes: Any
) -> Learner:
    """Two inputs, five hidden units, three actions, but for `changes`."""
    sizes = {"batch_size": BATCH_SIZE, "updates_per_call": UPDATES}
    options: dict[str, Any] = {"learning_rate": 0.01, "target_update_period": 4, "seed": seed, **sizes}
    return Learner(make_options(**(options | changes)), spec, generation)


@functools.cache
def compiled(sampler: str) -> tuple[Learner, dict[str, Any]]:
    """A learner that is compiled once for all tests, and its first state."""
    learner = make_learner(sampler=sampler)
    return learner, learner.get_state()


def new_learner(sampler: str = "uniform") -> Learner:
    """A learner in its first state; the next call with the same sampler takes it over."""
    learner, state = compiled(sampler)
    learner.set_state(state)
    return learner


def test_priorities_are_the_sizes_of_td_errors_and_come_only_when_replay_wants_them() -> None:
    batches = make_batches(0)

    _, _, none = new_learner().learn(batches, publish=False)
    _, _, priorities = new_learner("prioritized").learn(batches, publish=False)
    td_error = new_learner()._loop.run(batches.transitions, 0).td_error

    assert none is None
    assert priorities is not None
    np.testing.assert_array_equal(priorities.item_id, batches.item_id)
    np.testing.assert_allclose(priorities.priority, np.abs(td_error), rtol=1e-6)
    assert len(np.unique(priorities.priority)) == priorities.priority.size


def test_report_holds_td_errors_and_q_values_of_the_last_update() -> None:
    batches = make_batches(0)

    report, _, _ = new_learner().learn(batches, publish=False)
    result = new_learner()._loop.run(batches.transitions, 0)

    np.testing.assert_array_equal(report.td_error, result.td_error[-1])
    np.testing.assert_array_equal(report.q_values, result.q_values[-1])
    assert result.q_values.shape == (UPDATES, BATCH_SIZE)
    assert result.q_values.mean() == pytest.approx(report.q_mean, rel=1e-5)


def test_parts_of_shards_are_learned_from_as_the_batches_they_make_up() -> None:
    shards = [make_replay(50, seed=seed) for seed in range(2)]
    for shard in shards:
        rows = make_batches(7).transitions.columns()
        shard.insert(Transitions(**{name: column[0] for name, column in rows.items()}))  # type: ignore[arg-type]
    split = assign_shards(
        [shard.info for shard in shards], UPDATES, BATCH_SIZE, 0.0, np.random.default_rng(0)
    )
    parts = [shards[index].draw(count) for index, count in split.counts.items()]

    report, weights, *updates = new_learner("prioritized").learn_from_shards(split, True, None, *parts)
    expected, expected_weights, update = new_learner("prioritized").learn(merge(split, parts), publish=True)

    assert replace(report, seconds=0.0) == replace(expected, seconds=0.0)
    assert weights is not None
    assert expected_weights is not None
    for mine, other in zip(weights.arrays, expected_weights.arrays, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert update is not None
    for index, of_shard in zip(split.counts, updates, strict=True):
        assert of_shard is not None
        np.testing.assert_array_equal(of_shard.item_id, update.item_id[split.shard == index])
        np.testing.assert_array_equal(of_shard.priority, update.priority[split.shard == index])
    assert new_learner().learn_from_shards(split, False, None, *parts)[1:] == (None, None, None)


def make_batches(seed: int) -> SampledBatches:
    """Random transitions `[U, B]`."""
    generator = np.random.default_rng(seed)
    lead = (UPDATES, BATCH_SIZE)
    transitions = Transitions(
        observation=generator.normal(size=(*lead, 2)).astype(np.float32),
        action=generator.integers(3, size=lead).astype(np.int32),
        reward=generator.normal(size=lead).astype(np.float32),
        discount=np.full(lead, 0.9, np.float32),
        next_observation=generator.normal(size=(*lead, 2)).astype(np.float32),
    )
    return SampledBatches(
        transitions, np.arange(UPDATES * BATCH_SIZE).reshape(lead), np.ones(lead, np.float32)
    )


def are_equal(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    """Whether all arrays are equal to the bit."""
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture
def shared() -> Learner:
    """A new learner that is compiled."""
    return new_learner()


@pytest.mark.parametrize("generation", [0, 2])
def test_versions_count_upwards_from_one_within_their_generation(generation: int) -> None:
    learner = make_learner(generation=generation)

    versions = [learner.publish().weights_version for _ in range(3)]

    assert versions == [(generation, 1), (generation, 2), (generation, 3)]


def test_weights_published_while_learning_have_the_next_version(shared: Learner) -> None:
    generation, version = shared.publish().weights_version

    report, weights, _ = shared.learn(make_batches(0), publish=True)

    assert weights is not None
    assert weights.weights_version == report.weights_version == (generation, version + 1)
    assert shared.publish().weights_version == (generation, version + 2)


def test_learn_publishes_only_when_asked_to(shared: Learner) -> None:
    generation, version = shared.publish().weights_version

    report, weights, _ = shared.learn(make_batches(0), publish=False)

    assert weights is None
    assert report.weights_version is None
    assert shared.publish().weights_version == (generation, version + 1)


def test_learner_steps_count_every_update_of_every_call() -> None:
    learner = new_learner()
    assert learner.publish().learner_steps == 0

    reports = [learner.learn(make_batches(call), publish=False)[0] for call in range(2)]

    assert [report.updates for report in reports] == [3, 3]
    assert [report.learner_steps for report in reports] == [3, 6]
    assert learner.publish().learner_steps == 6


def test_published_weights_are_those_after_the_last_update(shared: Learner) -> None:
    before = shared.publish()

    _, weights, _ = shared.learn(make_batches(0), publish=True)

    assert weights is not None
    assert weights.learner_steps == before.learner_steps + 3
    assert are_equal(weights.arrays, shared.publish().arrays)
    assert not are_equal(weights.arrays, before.arrays)


def test_published_weights_stay_as_they_are_while_learning_continues(shared: Learner) -> None:
    weights = shared.publish()
    copies = [array.copy() for array in weights.arrays]

    shared.learn(make_batches(1), publish=False)

    assert are_equal(weights.arrays, copies)
    assert not are_equal(shared.publish().arrays, copies)


def test_report_gives_what_the_update_loop_reports() -> None:
    batches = make_batches(0)

    report, *_ = new_learner().learn(batches, publish=False)
    loss, q_mean, gradient_norm, *_ = new_learner()._loop.run(batches.transitions, 0)

    assert len({loss, q_mean, gradient_norm}) == 3
    assert (report.loss, report.q_mean, report.gradient_norm) == (loss, q_mean, gradient_norm)
    assert report.seconds > 0.0


def test_target_network_starts_as_a_copy_of_the_online_network() -> None:
    learner = make_learner()

    assert are_equal(learner._loop.online.get_weights(), learner._loop.target.get_weights())
    assert learner._loop.online is not learner._loop.target


def test_target_network_keeps_its_period_from_call_to_call() -> None:
    learner = new_learner()  # its period of 4 ends within the second call of 3
    first = learner._loop.target.get_weights()

    learner.learn(make_batches(0), publish=False)
    assert are_equal(learner._loop.target.get_weights(), first)

    learner.learn(make_batches(1), publish=False)
    assert not are_equal(learner._loop.target.get_weights(), first)


def test_same_seed_gives_the_same_weights_to_the_bit() -> None:
    weights = []
    for learner in (new_learner(), make_learner()):
        for call in range(2):
            learner.learn(make_batches(call), publish=False)
        weights.append(learner.publish().arrays)

    assert are_equal(*weights)


def test_other_seed_gives_other_weights_from_the_start() -> None:
    kernels = [make_learner(seed).publish().arrays[0] for seed in (5, 6)]

    assert np.all(kernels[0] != kernels[1])


def test_compile_prepares_the_calls_without_changing_the_weights() -> None:
    learner, untouched = make_learner(), make_learner()

    assert learner.compile() is None

    assert are_equal(learner.publish().arrays, untouched.publish().arrays)
    learner.learn(make_batches(0), publish=False)
    assert learner._loop._run.experimental_get_tracing_count() == 1


def test_learning_rate_reaches_the_updates_of_its_call(shared: Learner) -> None:
    before = shared.publish().arrays

    still = shared.learn(make_batches(0), publish=True, learning_rate=0.0)[1]
    moved = shared.learn(make_batches(0), publish=True, learning_rate=0.01)[1]

    assert still is not None
    assert moved is not None
    assert are_equal(still.arrays, before)
    assert not are_equal(moved.arrays, before)


def test_same_seed_gives_the_same_convolutions_to_the_bit_with_spectral_normalization() -> None:
    generator = np.random.default_rng(0)
    flat = make_batches(0)
    lead = (UPDATES, BATCH_SIZE)
    columns = flat.transitions.columns()
    for name in ("observation", "next_observation"):
        columns[name] = generator.integers(256, size=(*lead, 4, 4, 2)).astype(np.uint8)
    batches = replace(flat, transitions=Transitions(**columns))
    spec = make_spec((4, 4, 2), 3, "uint8")
    learners = [make_learner(seed, spec=spec, torso="small", spectral_norm=True) for seed in (5, 5, 6)]

    first = [learner.publish().arrays for learner in learners]
    second = [learner.learn(batches, publish=True)[1] for learner in learners[:2]]
    one, same = (weights.arrays if weights else [] for weights in second)

    assert len(one) == 7  # kernel and bias of three layers, and the vector of the power iteration
    assert are_equal(one, same)
    assert not any(np.array_equal(a, b) for a, b in zip(one, first[0], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first[0], first[2], strict=True) if a.any())


@keras_saves_with_a_warning
def test_exported_network_opens_in_plain_keras_with_the_values_of_the_policy(
    shared: Learner, tmp_path: Path
) -> None:
    weights = shared.publish()
    path = tmp_path / "policy.keras"
    path.write_bytes(shared.export(weights))
    observation = np.random.default_rng(3).normal(size=(7, 2)).astype(np.float32)

    opened = keras.saving.load_model(path)

    expected = NumpyPolicy(weights).q_values(observation)  # [7, 3]
    assert expected.shape == (7, 3)
    np.testing.assert_allclose(np.asarray(opened(observation).numpy()), expected, rtol=1e-5, atol=1e-5)


@keras_saves_with_a_warning
def test_export_holds_the_weights_it_is_given_and_leaves_the_learner_alone(
    shared: Learner, tmp_path: Path
) -> None:
    weights = shared.publish()
    older = PolicyWeights(weights.layers, [array + 1.0 for array in weights.arrays], (0, 0), 0)
    path = tmp_path / "older.keras"

    path.write_bytes(shared.export(older))

    assert are_equal(keras.saving.load_model(path).get_weights(), older.arrays)
    assert are_equal(shared.publish().arrays, weights.arrays)


@pytest.mark.parametrize(("gpus", "is_reported"), [(1.0, True), (0.25, True), (0.0, False)])
def test_fault_34_gpu_that_tensorflow_cannot_use_is_reported_and_training_continues(
    monkeypatch: pytest.MonkeyPatch, gpus: float, is_reported: bool
) -> None:
    learner = new_learner()
    monkeypatch.setattr(learner, "_options", learner._options.model_copy(update={"learner_gpus": gpus}))

    notice = learner.compile() or ""

    assert ("install `distdqn[cuda]`" in notice) is is_reported
    assert learner.learn(make_batches(0), publish=False)[0].learner_steps == UPDATES
