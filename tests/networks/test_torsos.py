import numpy as np
import pytest
from keras import ops
from toy_networks import make_options, make_spec

from distdqn.errors import ConfigError
from distdqn.networks.checks import check_torso, choose_torso, spatial_shape
from distdqn.networks.q_network import make_networks


def make(torso, shape, dtype="float32", high=1.0, seed=0):
    return make_networks(make_options(torso=torso), make_spec(shape, 3, dtype, high), seed)[0]


def convolutions(model):
    return [array for array in model.get_weights() if array.ndim == 4]


@pytest.mark.parametrize(
    ("shape", "is_image", "torso"),
    [
        ((4,), False, "dense"),
        ((84, 84), False, "dense"),
        ((128,), True, "dense"),
        ((4, 84, 84, 3), True, "dense"),
        ((2, 2), True, "dense"),
        ((3, 3), True, "small"),
        ((10, 10, 4), True, "small"),
        ((35, 84), True, "small"),
        ((4, 84, 35), True, "small"),
        ((36, 36), True, "nature"),
        ((4, 84, 84), True, "nature"),
        ((210, 160, 3), True, "nature"),
    ],
    ids=str,
)
def test_torso_is_chosen_by_the_smaller_side_of_an_image(shape, is_image, torso):
    assert choose_torso(shape, is_image) == torso


@pytest.mark.parametrize(
    ("shape", "spatial"),
    [
        ((5, 6), (5, 6, 1)),
        ((5, 6, 4), (5, 6, 4)),
        ((4, 5, 6), (5, 6, 4)),
        ((10, 10, 10), (10, 10, 10)),
        ((3, 5, 3), (3, 5, 3)),
    ],
    ids=str,
)
def test_spatial_shape_puts_the_channels_last(shape, spatial):
    assert spatial_shape(shape) == spatial


@pytest.mark.parametrize("torso", ["small", "nature", "impala"])
@pytest.mark.parametrize("shape", [(4,), (), (1, 2, 3, 4)], ids=str)
def test_torso_for_images_refuses_observations_that_are_none(torso, shape):
    with pytest.raises(ConfigError, match="2 or 3 axes"):
        check_torso(torso, shape)
    check_torso("dense", shape)


@pytest.mark.parametrize(
    ("torso", "shape", "advice"),
    [("nature", (35, 84), "small"), ("nature", (3, 84, 35), "small"), ("small", (9, 2, 3), "dense")],
    ids=str,
)
def test_torso_refuses_images_that_are_too_small_and_names_one_that_suits(torso, shape, advice):
    with pytest.raises(ConfigError, match=rf"pixels a side, not .* \(use `{advice}`\)"):
        make(torso, shape)
    check_torso(advice, shape)


def test_nature_torso_has_the_layers_of_its_paper():
    model = make("nature", (4, 84, 84))

    assert [kernel.shape for kernel in convolutions(model)] == [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64)]
    # 84 -> (84 - 8) / 4 + 1 = 20 -> (20 - 4) / 2 + 1 = 9 -> 9 - 3 + 1 = 7
    assert model.get_weights()[6].shape == (7 * 7 * 64, 5)


def test_small_torso_has_the_layer_of_its_paper_and_four_times_its_filters():
    model = make("small", (10, 10, 4))

    assert [kernel.shape for kernel in convolutions(model)] == [(3, 3, 4, 64)]
    assert model.get_weights()[2].shape == (8 * 8 * 64, 5)


def test_impala_torso_has_the_layers_of_its_paper():
    model = make("impala", (12, 20))

    channels = [(1, 16), *[(16, 16)] * 4, (16, 32), *[(32, 32)] * 4, (32, 32), *[(32, 32)] * 4]
    assert [kernel.shape for kernel in convolutions(model)] == [(3, 3, *pair) for pair in channels]
    # Half the pixels, rounded up, three times: 12 -> 6 -> 3 -> 2 and 20 -> 10 -> 5 -> 3.
    assert model.get_weights()[30].shape == (2 * 3 * 32, 5)


def test_wide_impala_torso_has_twice_the_filters_and_six_by_six_pixels_of_atari():
    model = make("impala-wide", (4, 84, 84))

    assert [kernel.shape[3] for kernel in convolutions(model)] == [32] * 5 + [64] * 10
    assert model.get_weights()[30].shape == (6 * 6 * 64, 5)  # 84 -> 42 -> 21 -> 11 -> 6


def test_pooling_of_the_wide_impala_torso_has_the_windows_of_adaptive_pooling_on_atari():
    features = np.random.default_rng(0).normal(size=(1, 11, 11, 2)).astype(np.float32)
    # PyTorch's adaptive pooling: from floor(i * 11 / 6) up to ceil((i + 1) * 11 / 6).
    windows = [slice(11 * i // 6, -(-11 * (i + 1) // 6)) for i in range(6)]
    expected = [[features[0, rows, columns].max(axis=(0, 1)) for columns in windows] for rows in windows]

    np.testing.assert_array_equal(ops.max_pool(features, 3, 2, "same")[0], expected)


def test_impala_block_adds_its_change_to_its_input():
    model = make("impala", (6, 6))
    arrays = model.get_weights()
    observation = np.random.default_rng(0).normal(size=(2, 6, 6)).astype(np.float32)
    for i in range(0, 30, 2):
        if (i // 2) % 5:
            arrays[i][:] = 0.0  # within the blocks, so three convolutions remain
    model.set_weights(arrays)
    features = observation[..., None]
    for i in (0, 10, 20):
        features = ops.conv(features, arrays[i], padding="same") + arrays[i + 1]
        features = ops.max_pool(features, 3, 2, "same")
    flat = np.asarray(ops.relu(features)).reshape(2, -1)
    hidden = np.maximum(flat @ arrays[30] + arrays[31], 0.0)

    np.testing.assert_allclose(model(observation).numpy(), hidden @ arrays[32] + arrays[33], atol=1e-5)


@pytest.mark.parametrize(("torso", "side"), [("small", 6), ("nature", 36), ("impala", 6), ("impala-wide", 6)])
def test_channel_first_images_have_the_values_of_the_same_images_channel_last(torso, side):
    first, last = make(torso, (2, side, side + 1)), make(torso, (side, side + 1, 2))
    images = np.random.default_rng(0).normal(size=(3, 2, side, side + 1)).astype(np.float32)

    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), last.get_weights(), strict=True))
    np.testing.assert_allclose(
        first(images).numpy(), last(images.transpose(0, 2, 3, 1)).numpy(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("torso", "side"), [("dense", 6), ("small", 6), ("nature", 36), ("impala", 6)])
def test_bytes_are_divided_by_their_largest_value_within_the_network(torso, side):
    by_bytes = make(torso, (side, side), "uint8", high=200.0)
    by_floats = make(torso, (side, side))
    images = np.random.default_rng(0).integers(201, size=(3, side, side)).astype(np.uint8)

    assert by_bytes.inputs[0].dtype == "uint8"
    np.testing.assert_allclose(
        by_bytes(images).numpy(), by_floats((images / 200).astype(np.float32)).numpy(), rtol=1e-4, atol=1e-6
    )


def test_bytes_of_zeros_and_ones_are_taken_as_they_are():
    images = np.random.default_rng(0).integers(2, size=(3, 6, 6, 2)).astype(np.uint8)

    by_bytes = make("small", (6, 6, 2), "uint8")(images).numpy()

    np.testing.assert_allclose(
        by_bytes, make("small", (6, 6, 2))(images.astype(np.float32)).numpy(), rtol=1e-5
    )


def test_every_convolution_starts_from_its_own_seed_and_within_the_limit_of_glorot():
    kernels = convolutions(make("impala", (6, 6), seed=3))
    same = convolutions(make("impala", (6, 6), seed=3))
    other = convolutions(make("impala", (6, 6), seed=4))

    assert len({kernel.tobytes() for kernel in [*kernels, *other]}) == 2 * 15
    assert all(np.array_equal(a, b) for a, b in zip(kernels, same, strict=True))
    for kernel in kernels:
        limit = (6 / (9 * (kernel.shape[2] + kernel.shape[3]))) ** 0.5
        assert 0.95 * limit < np.abs(kernel).max() <= limit
