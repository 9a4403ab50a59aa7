"""`UpdateLoop` on images: bytes, convolutions, and what layers keep from training."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from learning.loops import make_update_loop, part, update_eagerly
from toy_networks import make_options, make_spec

from distdqn.learning.update import UpdateLoop
from distdqn.networks.q_network import make_networks
from distdqn.types import EnvironmentSpec, Transitions

SPEC = make_spec((6, 6, 2), 3, "uint8", 255.0)


def make_loop(spec: EnvironmentSpec = SPEC, **changes: Any) -> UpdateLoop:
    """A loop whose target network starts elsewhere than the online network."""
    settings: dict[str, Any] = {"torso": "small", "loss": "huber", "atoms": 4, "v_min": 0.0, "v_max": 2.0}
    settings |= changes
    networks = (make_networks(make_options(**settings), spec, seed)[0] for seed in (1, 2))
    return make_update_loop(*networks, **settings)


def make_images(updates: int, batch_size: int, shape: tuple[int, ...] = (6, 6, 2)) -> Transitions:
    """Random transitions `[U, B]` between random images."""
    generator = np.random.default_rng(0)
    lead = (updates, batch_size)
    return Transitions(
        observation=generator.integers(256, size=(*lead, *shape)).astype(np.uint8),
        action=generator.integers(3, size=lead).astype(np.int32),
        reward=generator.normal(size=lead).astype(np.float32),
        discount=np.full(lead, 0.9, np.float32),
        next_observation=generator.integers(256, size=(*lead, *shape)).astype(np.uint8),
    )


def test_bytes_are_learned_from_as_their_shares_of_the_largest_and_stay_bytes_until_then() -> None:
    by_bytes = make_loop()
    by_floats = make_loop(make_spec((6, 6, 2), 3))
    images = make_images(1, 4)
    columns = images.columns()
    for name in ("observation", "next_observation"):
        columns[name] = (columns[name] / 255).astype(np.float32)

    result = by_bytes.run(images, 0)
    expected = by_floats.run(Transitions(**columns), 0)

    assert by_bytes._tensors(images, None)["observation"].dtype == tf.uint8
    assert result[:3] == pytest.approx(expected[:3], rel=1e-5)
    for new, other in zip(by_bytes.online.get_weights(), by_floats.online.get_weights(), strict=True):
        np.testing.assert_allclose(new, other, atol=1e-5)


def test_compile_prepares_the_call_with_bytes_that_run_then_makes() -> None:
    loop = make_loop()

    assert loop.compile(updates=2, batch_size=4) is None
    loop.run(make_images(2, 4), 0)

    assert loop._run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(("torso", "with_xla"), [("dense", True), ("small", False), ("impala", False)])
def test_xla_compiles_networks_without_convolutions_only(torso: str, with_xla: bool) -> None:
    assert make_loop(torso=torso)._run._jit_compile is with_xla


@pytest.mark.parametrize("dueling", [False, True], ids=["single", "dueling"])
@pytest.mark.parametrize("head", ["value", "quantile", "implicit", "categorical"])
@pytest.mark.parametrize(
    ("torso", "side"), [("dense", 6), ("small", 6), ("nature", 36), ("impala", 6), ("impala-wide", 6)]
)
def test_every_trainable_weight_receives_a_gradient_with_every_torso(
    torso: str, side: int, head: str, dueling: bool
) -> None:
    spec = make_spec((side, side, 2), 3, "uint8", 255.0)
    loop = make_loop(spec, torso=torso, head=head, dueling=dueling, target_update_period=10**6)
    before = [variable.numpy().copy() for variable in loop.online.trainable_variables]

    update_eagerly(loop, make_images(1, 16, (side, side, 2)))

    for variable, old in zip(loop.online.trainable_variables, before, strict=True):
        assert np.any(variable.numpy() != old), variable.path


def spectral_norms(model: Any) -> list[float]:
    """The largest singular value of each convolution's kernel `[h * w * C, filters]`."""
    kernels = [array for array in model.get_weights() if array.ndim == 4]
    return [np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0] for kernel in kernels]


@pytest.mark.parametrize(("torso", "side"), [("small", 6), ("nature", 36)])
def test_spectral_normalization_keeps_the_largest_singular_values_at_one(torso: str, side: int) -> None:
    spec = make_spec((side, side, 2), 3, "uint8", 255.0)
    settings = {"torso": torso, "learning_rate": 0.001, "adam_epsilon": 1e-8}
    loop = make_loop(spec, spectral_norm=True, target_update_period=10, **settings)
    plain = make_loop(spec, **settings)
    images = make_images(60, 4, (side, side, 2))

    loop.run(images, 0)
    plain.run(images, 0)

    for network in (loop.online, loop.target):
        np.testing.assert_allclose(spectral_norms(network), 1.0, atol=0.05)
    assert max(abs(norm - 1.0) for norm in spectral_norms(plain.online)) > 0.15


def test_kernels_are_normalized_where_the_loss_is_taken_and_nowhere_else() -> None:
    loop = make_loop(spectral_norm=True, double=True, target_update_period=2)
    online, target = loop.online.get_weights(), loop.target.get_weights()

    loop.run(make_images(1, 4), 0, learning_rate=0.0)
    after = loop.online.get_weights()

    changed = [not np.array_equal(a, b) for a, b in zip(online, after, strict=True)]
    assert [array.shape for array, has in zip(online, changed, strict=True) if has] == [
        (3, 3, 2, 64),
        (1, 64),
    ]
    ratio = online[0] / after[0]
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)  # one number for the whole kernel
    assert all(np.array_equal(a, b) for a, b in zip(target, loop.target.get_weights(), strict=True))
    loop.run(part(make_images(2, 4), 1, 2), 1)
    pairs = zip(loop.online.get_weights(), loop.target.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def make_user_loop(name: str, **changes: Any) -> UpdateLoop:
    """A loop over a network of `toy_user_networks`, three inputs and four actions."""
    options, spec = make_options(network=f"toy_user_networks:{name}"), make_spec((3,), 4)
    return make_update_loop(*(make_networks(options, spec, seed)[0] for seed in (1, 2)), **changes)


def constant_batches(observation: float, updates: int = 1) -> Transitions:
    """One batch `[U, 2]` of observations around a number."""
    pair = np.array([observation - 1, observation + 1], np.float32)
    images = np.broadcast_to(pair[None, :, None], (updates, 2, 3)).copy()
    zeros = np.zeros((updates, 2), np.float32)
    return Transitions(images, zeros.astype(np.int32), zeros, zeros, 100 + images)


def test_statistics_of_batches_come_from_the_loss_alone_and_reach_the_target_network_when_it_is_due() -> None:
    loop = make_user_loop("normalized", double=True, target_update_period=2)
    mean, variance = 0, 1
    statistics = [network.non_trainable_weights for network in (loop.online, loop.target)]

    update_eagerly(loop, constant_batches(6.0), 0)

    # Half of the batch's mean of 6, and half of its variance of 1 and of the first of 1.
    np.testing.assert_allclose(statistics[0][mean].numpy(), [3.0] * 3, rtol=1e-5)
    np.testing.assert_allclose(statistics[0][variance].numpy(), [1.0] * 3, rtol=1e-5)
    np.testing.assert_array_equal(statistics[1][mean].numpy(), [0.0] * 3)

    update_eagerly(loop, constant_batches(6.0), 1)

    np.testing.assert_allclose(statistics[0][mean].numpy(), [4.5] * 3, rtol=1e-5)
    np.testing.assert_array_equal(statistics[1][mean].numpy(), statistics[0][mean].numpy())


def test_regularizers_of_the_users_network_draw_its_weights() -> None:
    loop = make_user_loop("regularized")
    loop.optimizer.epsilon = 1e6  # so large that steps are as large as gradients
    kernel = loop.online.get_weights()[0]
    nothing = Transitions(*[np.zeros((1, 2, *axes), np.float32) for axes in ((3,), (), (), (), (3,))])

    loop.optimizer.learning_rate = 1e6

    loss = update_eagerly(loop, nothing)

    # The gradient is 2 * 0.5 * kernel, and Adam's first step sqrt(1 - 0.999) of it.
    np.testing.assert_allclose(loop.online.get_weights()[0], kernel * (1 - 0.001**0.5), rtol=1e-5)
    assert loss == 0.0  # of the batch
