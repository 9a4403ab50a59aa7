"""Weights of networks made by hand, and the comparison of `NumpyPolicy` with Keras."""

import numpy as np

from distdqn.networks.keras_policy import layers_from_model
from distdqn.networks.numpy_policy import NumpyPolicy
from distdqn.types import PolicyWeights


def make_weights(*layers, arrays=()):
    return PolicyWeights(list(layers), [np.array(a, np.float32) for a in arrays], (1, 2), 30)


def layer(name, kind, *inputs, arrays=(), **settings):
    return {"name": name, "kind": kind, "inputs": list(inputs), "arrays": list(arrays), **settings}


def randomize(model, generator):
    """Weights as a trained network might have them, none of them 0 or 1."""
    model.set_weights([generator.normal(0.1, 0.7, array.shape) for array in model.get_weights()])


def assert_policy_equals_keras(model, observation):
    policy = NumpyPolicy(PolicyWeights(layers_from_model(model), model.get_weights(), (0, 0), 0))
    expected = np.asarray(model(observation.astype(np.float32)))

    found = policy.q_values(observation)

    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(expected).max() > 0.01
    assert (np.abs(found - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()
