"""Noisy networks: that noise perturbs, is learned from, stays apart, and is left out in the end."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning.loops import make_batches, make_update_loop, update_eagerly
from toy_networks import make_options, make_spec

from distdqn.networks.keras_policy import layers_from_model
from distdqn.networks.layers import NoisyDense
from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.networks.q_network import make_networks, plain_q_network
from distdqn.types import PolicyWeights

SPEC = make_spec((3,), 4)
OBSERVATION = np.array([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]], np.float32)


def noisy_layers(model: Any) -> list[Any]:
    """The noisy layers of a model, in order."""
    return [layer for layer in model.layers if isinstance(layer, NoisyDense)]


def test_noisy_layer_adds_factorised_noise_to_its_means_by_hand() -> None:
    layer = NoisyDense(2, "linear", 0.5, 0)
    layer.build((None, 1))
    values = ([[1.0, 2.0]], [0.5, -0.5], [[0.1, 0.2]], [0.3, 0.4], [2.0], [3.0, -1.0])
    layer.set_weights([np.array(value, np.float32) for value in values])

    found = layer(tf.constant([[10.0]])).numpy()

    # kernel 1 + 0.1 * 2 * 3 and 2 + 0.2 * 2 * -1; bias 0.5 + 0.3 * 3 and -0.5 + 0.4 * -1.
    np.testing.assert_allclose(found, [[10 * 1.6 + 1.4, 10 * 1.6 - 0.9]], rtol=1e-6)


def test_noise_is_drawn_by_its_seed_alone_and_is_the_signed_root_of_normal_numbers() -> None:
    layer = NoisyDense(4_000, "linear", 0.5, 0)
    layer.build((None, 3))
    drawn = []
    for seed in ([1, 2], [1, 2], [1, 4], [2, 2]):
        layer.resample(tf.constant(seed))
        drawn.append(layer.noise_out.numpy())

    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.any(drawn[0] == drawn[2])
    assert not np.any(drawn[0] == drawn[3])
    normal = np.sign(drawn[0]) * drawn[0] ** 2
    assert abs(normal.mean()) < 0.06
    assert normal.std() == pytest.approx(1.0, abs=0.05)


def test_initial_means_and_deviations_are_those_of_the_paper() -> None:
    layer = NoisyDense(50, "linear", 0.5, 0)
    layer.build((None, 16))

    assert np.abs(layer.kernel.numpy()).max() == pytest.approx(1 / 4, rel=0.02)
    assert set(layer.kernel_sigma.numpy().ravel()) | set(layer.bias_sigma.numpy()) == {0.5 / 4}


@pytest.mark.parametrize("dueling", [False, True], ids=["plain", "dueling"])
def test_numpy_policy_equals_keras_without_noise_and_perturbs_with_it(dueling: bool) -> None:
    _, q_network = make_networks(make_options(noisy=True, dueling=dueling), SPEC, 1)
    policy = NumpyPolicy(PolicyWeights(layers_from_model(q_network), q_network.get_weights(), (0, 1), 0))
    mean = q_network(OBSERVATION).numpy()
    generator = np.random.default_rng(0)

    np.testing.assert_allclose(policy.q_values(OBSERVATION), mean, rtol=1e-5, atol=1e-6)
    noisy = []
    for _ in range(2_000):
        policy.resample(generator)
        noisy.append(policy.q_values(OBSERVATION))

    assert len({values.tobytes() for values in noisy}) == 2_000
    assert np.all(np.std(noisy, axis=0) > 0.1)


def test_numpy_noise_has_the_distribution_of_the_keras_layer() -> None:
    inputs = keras.Input((3,))
    q_network = keras.Model(inputs, NoisyDense(2, "linear", 0.5, 1)(inputs))
    policy = NumpyPolicy(PolicyWeights(layers_from_model(q_network), q_network.get_weights(), (0, 1), 0))
    (layer,) = noisy_layers(q_network)
    generator = np.random.default_rng(0)
    by_numpy = []
    for _ in range(3_000):
        policy.resample(generator)
        by_numpy.append(policy.q_values(OBSERVATION[:1])[0])

    def outputs_with_noise(seed: tf.Tensor) -> tf.Tensor:
        layer.resample(seed)
        return q_network(OBSERVATION[:1])[0]

    @tf.function
    def draw(seeds: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(outputs_with_noise, seeds, 1, fn_output_signature=tf.float32)

    by_keras = draw(tf.constant([[7, 2 * step] for step in range(3_000)])).numpy()

    np.testing.assert_allclose(np.mean(by_numpy, axis=0), np.mean(by_keras, axis=0), atol=0.1)
    np.testing.assert_allclose(np.std(by_numpy, axis=0), np.std(by_keras, axis=0), rtol=0.1)


def test_exported_network_is_the_mean_network_of_standard_layers() -> None:
    options = make_options(noisy=True, layer_norm=True, head="quantile", atoms=3)
    _, q_network = make_networks(options, SPEC, 1)
    mean = q_network(OBSERVATION).numpy()
    for layer in noisy_layers(q_network):
        layer.resample(tf.constant([1, 2]))

    plain = plain_q_network(options, SPEC, q_network.get_weights())

    np.testing.assert_allclose(plain(OBSERVATION).numpy(), mean, rtol=1e-5, atol=1e-6)
    assert not np.allclose(q_network(OBSERVATION).numpy(), mean)
    assert {type(layer).__module__.split(".")[0] for layer in plain.layers} == {"keras"}


@pytest.mark.parametrize("head", ["value", "quantile"])
def test_every_mean_and_deviation_receives_a_gradient(head: str) -> None:
    options = make_options(noisy=True, head=head, atoms=3)
    (online, _), (target, _) = (make_networks(options, SPEC, seed) for seed in (1, 2))
    loop = make_update_loop(online, target, noise_seed=3, head=head, loss="huber")
    before = [variable.numpy().copy() for variable in online.trainable_variables]

    update_eagerly(loop, make_batches(1, 256, seed=4))

    assert len(before) == 8  # two layers: kernel and bias, mean and deviation
    for variable, old in zip(online.trainable_variables, before, strict=True):
        assert np.all(variable.numpy() != old), variable.path


def test_each_update_and_each_network_has_noise_of_its_own() -> None:
    (online, _), (target, _) = (make_networks(make_options(noisy=True), SPEC, seed) for seed in (1, 2))
    loop = make_update_loop(online, target, target_update_period=1, noise_seed=3)
    seen = []
    for step in range(2):
        update_eagerly(loop, make_batches(1, 4, seed=step), step)
        seen += [
            layer.noise_out.numpy().tolist() for model in (online, target) for layer in noisy_layers(model)
        ]

    assert len({tuple(noise) for noise in seen}) == len(seen) == 8
    for lagging, trained in zip(target.trainable_variables, online.trainable_variables, strict=True):
        np.testing.assert_array_equal(lagging.numpy(), trained.numpy())
