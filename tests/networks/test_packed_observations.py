"""Networks on observations of several parts and masks: Keras, NumPy and the saved file agree."""

import keras
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from distdqn.config.config import LearningOptions
from distdqn.environments.spaces import NumberedActions, ObservationPacker
from distdqn.learning.learner import export_network
from distdqn.networks.keras_policy import policy_layers
from distdqn.networks.layers import MASKED
from distdqn.networks.numpy_policy import NumpyPolicy, make_policy
from distdqn.networks.q_network import make_networks
from distdqn.types import EnvironmentSpec, PolicyWeights

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPACES = {
    "vectors": Dict({"at": Discrete(5), "speed": Box(-1, 1, (3,)), "lamps": MultiBinary(2)}),
    "image-and-vectors": Dict(
        {
            "at": Discrete(5),
            "dot": Box(0, 9, (2, 2), np.uint8),  # too small for a convolution
            "image": Box(0, 255, (6, 7, 3), np.uint8),
            "speed": Box(-1, 1, (3,)),
        }
    ),
}
OPTIONS = {"hidden_sizes": (8,), "torso": "small", "atoms": 5, "v_min": -1.0, "v_max": 1.0, "head": "value"}


def make_spec(name, has_mask=True):
    packer = ObservationPacker(SPACES[name], NumberedActions(Discrete(4)), has_mask)
    dtype = packer.dtype.name
    return packer, EnvironmentSpec("toy", packer.shape, 4, None, dtype, 0.0, 1.0, None, packer.parts)


def sample(name, packer, count=9):
    """Packed observations, what they are made of, and masks with at least one action."""
    space, generator = SPACES[name], np.random.default_rng(0)
    space.seed(0)
    values = [space.sample() for _ in range(count)]
    masks = generator.integers(2, size=(count, 4))
    masks[np.arange(count), generator.integers(4, size=count)] = 1
    rows = [packer.pack(v, m[None], is_batch=False) for v, m in zip(values, masks, strict=True)]
    return np.concatenate(rows), masks


@pytest.mark.parametrize("changes", [{}, {"head": "implicit"}, {"dueling": True, "noisy": True}], ids=str)
@pytest.mark.parametrize("name", SPACES)
def test_keras_numpy_and_the_saved_file_agree_on_packed_observations(name, changes, tmp_path):
    packer, spec = make_spec(name)
    options = LearningOptions(**OPTIONS | changes)
    observation, masks = sample(name, packer)
    _, q_network = make_networks(options, spec, seed=3)
    layers, notice = policy_layers(options, spec, q_network)
    weights = PolicyWeights(layers, q_network.get_weights(), (0, 1), 0)

    expected = q_network(observation).numpy()  # [9, 4]
    found = make_policy(weights).q_values(observation)

    assert isinstance(make_policy(weights), NumpyPolicy)
    assert notice is None
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert ((expected < -0.9 * MASKED) == (masks == 0)).all()
    assert (masks[np.arange(9), found.argmax(axis=1)] == 1).all()

    file = tmp_path / "network.keras"
    file.write_bytes(export_network(options, spec, weights))
    loaded = keras.saving.load_model(file)
    parts = {part.name: part.read(observation) for part in packer.parts}
    np.testing.assert_allclose(loaded(parts).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_users_network_takes_the_parts_by_name(tmp_path):
    packer, spec = make_spec("image-and-vectors")
    options = LearningOptions(network="toy_user_networks:by_name", head="value")
    observation, masks = sample("image-and-vectors", packer)
    _, q_network = make_networks(options, spec, seed=3)
    layers, notice = policy_layers(options, spec, q_network)
    weights = PolicyWeights(layers, q_network.get_weights(), (0, 1), 0)

    expected = q_network(observation).numpy()
    found = make_policy(weights).q_values(observation)

    assert notice is None
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert ((expected < -0.9 * MASKED) == (masks == 0)).all()
    file = tmp_path / "network.keras"
    file.write_bytes(export_network(options, spec, weights))
    parts = {part.name: part.read(observation) for part in packer.parts}
    loaded = keras.saving.load_model(file)
    np.testing.assert_allclose(loaded(parts).numpy(), expected, rtol=1e-5, atol=1e-5)
