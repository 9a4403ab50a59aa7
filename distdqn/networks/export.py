"""A policy in the formats of other runtimes: SavedModel, LiteRT and ONNX, by Keras's own export."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor

from distdqn.config.config import LearningOptions
from distdqn.networks.keras_policy import KERAS_CLASSES
from distdqn.networks.layers import fixed_embedding
from distdqn.networks.numpy_policy import midpoint_embedding
from distdqn.networks.q_network import make_inputs, plain_q_network
from distdqn.networks.tensorflow_setup import without_stderr
from distdqn.types import AnyArray, EnvironmentSpec, FloatArray, Layer, PolicyWeights

_OUTPUTS = ("action", "q_values")


def export_policy(
    weights: PolicyWeights, spec: EnvironmentSpec, to: str, path: Path
) -> Callable[[AnyArray], dict[str, Any]]:
    """Writes the mean network to `path` in the format `to`; returns what it computes of packed observations.

    The exported function takes `observation` `[B, *observation_shape]`, or the parts of a packed one by
    name. It returns `action` `[B]` int32, from 0, and `q_values` `[B, A]` float32.
    """

    def unpack(packed: AnyArray) -> dict[str, AnyArray]:
        return {part.name: part.read(packed) for part in spec.parts} or {"observation": packed}

    model = make_serving_model(weights, spec)
    example = unpack(np.zeros((1, *spec.observation_shape), spec.observation_dtype))
    model(example if spec.parts else example["observation"])  # Keras exports to ONNX only what was called
    with without_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(path, format="tf_saved_model" if to == "saved-model" else to, verbose=False)
        function = _read(to, str(path))
        function(example)  # LiteRT prints at its first call
    return lambda packed: function(unpack(packed))


def make_serving_model(weights: PolicyWeights, spec: EnvironmentSpec) -> keras.Model:
    """The Keras model of standard layers, or of a user's own, that `export_policy` writes."""
    inputs, parts = make_inputs(spec, spec.parts, by_name=True)
    result = None if spec.parts else keras.ops.cast(inputs, "float32")
    values: dict[str, KerasTensor] = {}
    for layer in weights.layers:
        if layer["kind"] == "keras":
            own = plain_q_network(LearningOptions(**layer["options"]), spec, weights.arrays)
            result = own(inputs if spec.parts else keras.ops.cast(inputs, own.inputs[0].dtype))
            continue
        before = [values[name] for name in layer["inputs"]] or [result]
        if layer["kind"] == "unpack":  # of neighbouring vectors together
            numbers = range(layer["part"]["begin"], layer["part"]["end"])
            before = [parts[part.name] for part in spec.parts if part.begin in numbers]
        values[layer["name"]] = result = _apply(layer, weights.arrays, before)
    _, positions = keras.ops.top_k(result, 1)  # LiteRT lacks an operation of `argmax`
    return keras.Model(inputs, dict(zip(_OUTPUTS, (positions[:, 0], result), strict=True)))


def _apply(layer: Layer, arrays: list[FloatArray], inputs: list[KerasTensor]) -> KerasTensor:
    """The outputs of a layer of `PolicyWeights.layers`, made in Keras."""
    kind = layer["kind"]
    if kind in ("input", "identity", "unpack"):
        return keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    settings = {name: layer[name] for name in layer.keys() - {"name", "kind", "inputs", "arrays"}}
    own = [arrays[i] for i in layer["arrays"]]
    if "dense" in kind:
        own = own[:2]  # of a noisy layer, the means
        settings |= {"units": own[0].shape[1], "use_bias": len(own) > 1}
    elif kind == "conv2d":
        *kernel_size, _, filters = own[0].shape
        settings |= {"filters": filters, "kernel_size": kernel_size, "use_bias": len(own) > 1}
    if kind == "quantile_embedding":
        own = [midpoint_embedding(layer["atoms"], own)]
        made = fixed_embedding(own[0].shape)
    else:
        made = getattr(keras.layers, KERAS_CLASSES[kind])(**settings)
    result = made(inputs if len(inputs) > 1 else inputs[0])
    made.set_weights(own)
    return result


def _read(to: str, path: str) -> Callable[[dict[str, AnyArray]], dict[str, Any]]:
    """The function in an exported file."""
    if to == "saved-model":
        loaded = tf.saved_model.load(path)

        def call(inputs: dict[str, AnyArray]) -> dict[str, Any]:
            outputs = loaded.signatures["serving_default"](**tf.nest.map_structure(tf.constant, inputs))
            return {name: value.numpy() for name, value in outputs.items()}

        return call
    if to == "litert":
        runner = tf.lite.Interpreter(path).get_signature_runner()
        return lambda inputs: dict(runner(**inputs))
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: dict(zip(_OUTPUTS, session.run(_OUTPUTS, inputs), strict=True))
