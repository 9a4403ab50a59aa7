"""A policy in the formats of other runtimes: SavedModel, LiteRT and ONNX, by Keras's own export."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import KerasTensor

from distdqn.networks.keras_policy import KERAS_CLASSES, KerasPolicy
from distdqn.networks.layers import Unpack
from distdqn.networks.tensorflow_setup import without_stderr
from distdqn.types import AnyArray, EnvironmentSpec, FloatArray, Layer, ObservationPart, PolicyWeights

# By format: Keras's name of it.
_FORMATS = {"saved-model": "tf_saved_model", "litert": "litert", "onnx": "onnx"}

Exported = Callable[[AnyArray], dict[str, Any]]  # from observations to `action` and `q_values`


def export_policy(weights: PolicyWeights, spec: EnvironmentSpec, to: str, path: Path) -> Exported:
    """Writes the mean network, without noise, to `path`; returns the function that the file holds.

    The function takes packed observations `[B, *observation_shape]` and returns `action` `[B]` int32, the
    number of the greedy action, and `q_values` `[B, A]` float32.

    Args:
        weights: of the network.
        spec: of the environment.
        to: `saved-model`, `litert` or `onnx`.
        path: a new folder for `saved-model`, else a file with the suffix of its format.
    """
    model = make_serving_model(weights, spec)
    example = np.zeros((1, *model.inputs[0].shape[1:]), model.inputs[0].dtype)
    model(example)  # Keras exports to ONNX only what it has called
    with without_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(path, format=_FORMATS[to], verbose=False)
        run = _READERS[to](str(path))
        run(example)  # LiteRT prints at its first call
    return lambda observation: run(observation.astype(example.dtype))


def make_serving_model(weights: PolicyWeights, spec: EnvironmentSpec) -> keras.Model:
    """Standard Keras layers from packed observations to `action` and `q_values`; see `export_policy`."""
    if weights.layers[0]["kind"] == "keras":
        model = KerasPolicy(weights).model()
        observation, result = model.inputs[0], model.outputs[0]
    else:
        observation = keras.Input(spec.observation_shape, dtype=spec.observation_dtype, name="observation")
        takes_bytes = any(layer["kind"] == "unpack" for layer in weights.layers)
        result = observation if takes_bytes else keras.ops.cast(observation, "float32")
        values: dict[str, KerasTensor] = {}
        for layer in weights.layers:
            inputs = [values[name] for name in layer["inputs"]] or [result]
            result = _apply(layer, weights.arrays, inputs)
            values[layer["name"]] = result
    return keras.Model(observation, {"action": _Argmax()(result), "q_values": result})


class _Argmax(keras.layers.Layer):  # type: ignore[misc]
    """The position `[B]` int32 of the largest of `[B, A]`; LiteRT has not all operations of Keras's."""

    def call(self, values: tf.Tensor) -> tf.Tensor:
        return tf.argmax(values, axis=-1, output_type=tf.int32)

    def compute_output_spec(self, values: KerasTensor) -> KerasTensor:
        return KerasTensor(values.shape[:1], "int32")


def _apply(layer: Layer, arrays: list[FloatArray], inputs: list[KerasTensor]) -> KerasTensor:
    """The outputs of a layer of `PolicyWeights.layers`, made in Keras."""
    kind = layer["kind"]
    if kind in ("input", "identity"):
        return inputs[0]
    if kind == "unpack":
        return Unpack(ObservationPart(**layer["part"]))(inputs[0])
    settings = {name: layer[name] for name in layer.keys() - {"name", "kind", "inputs", "arrays"}}
    own = [arrays[i] for i in layer["arrays"]]
    if kind == "noisy_dense":
        own = own[:2]  # the means
    if kind in ("dense", "noisy_dense", "conv2d"):
        *kernel_size, _, size = own[0].shape
        settings |= {"use_bias": len(own) > 1, "filters" if kernel_size else "units": size}
        settings |= {"kernel_size": kernel_size} if kernel_size else {}
    made = getattr(keras.layers, KERAS_CLASSES[kind])(**settings)
    result = made(inputs if len(inputs) > 1 else inputs[0])
    made.set_weights(own)
    return result


def _read_saved_model(path: str) -> Exported:
    loaded = tf.saved_model.load(path)
    return lambda observation: {name: value.numpy() for name, value in loaded.serve(observation).items()}


def _read_litert(path: str) -> Exported:
    runner = tf.lite.Interpreter(path).get_signature_runner()
    (name,) = runner.get_input_details()
    return lambda observation: dict(runner(**{name: observation}))


def _read_onnx(path: str) -> Exported:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    return lambda observation: dict(zip(outputs, session.run(None, {name: observation}), strict=True))


_READERS = {"saved-model": _read_saved_model, "litert": _read_litert, "onnx": _read_onnx}
