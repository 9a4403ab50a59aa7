"""The precision in which convolutions are computed: bfloat16 where the processor has it and it is faster."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
_TURNS = 6  # the first one also prepares
_WORTHWHILE = 0.8  # of the time of float32: less is no noise


def set_precision(network: keras.Model, precision: str) -> None:
    """Lets the convolutions of `network` compute in `float32` or `bfloat16`; weights stay float32.

    What follows `Flatten` computes in float32: Q-values need more than the eight bits of bfloat16.
    """
    names = [type(layer).__name__ for layer in network.layers]
    if "Flatten" in names:
        end = len(names) - names[::-1].index("Flatten")
        for layer in network.layers[1:end]:  # the first one is the input
            layer.dtype_policy = keras.dtype_policies.get(_POLICIES[precision])


@contextlib.contextmanager
def in_float32(network: keras.Model) -> Iterator[None]:
    """Lets all of `network` compute in float32 inside, whatever it computes in outside."""
    policies = [layer.dtype_policy for layer in network.layers]
    set_precision(network, "float32")
    try:
        yield
    finally:
        for layer, policy in zip(network.layers, policies, strict=True):
            layer.dtype_policy = policy


def choose_precision(network: keras.Model, batch_size: int, cpu: Path = Path("/proc/cpuinfo")) -> str:
    """`bfloat16` if this processor has instructions for it and `network` is faster with it, else `float32`.

    The file `cpu` lists the instructions. Leaves the network with that precision.
    """
    precision = "float32"
    if cpu.exists() and re.search(r"\b(amx_bf16|avx512_bf16)\b", cpu.read_text()):
        batch = tf.zeros((batch_size, *network.input_shape[1:]), network.inputs[0].dtype)
        passes = [_passes(network, batch, each) for each in _POLICIES]
        # In turns, and the shortest of each: other processes are starting meanwhile.
        turns = [[_seconds(each) for each in passes] for _ in range(_TURNS)]
        exact, rounded = (min(times) for times in zip(*turns, strict=True))
        if rounded < _WORTHWHILE * exact:
            precision = "bfloat16"
    set_precision(network, precision)
    return precision


def _passes(network: keras.Model, batch: tf.Tensor, precision: str) -> Callable[[], tf.Tensor]:
    """The passes of one update of double DQN as TensorFlow compiles them: three forward, one backward."""
    set_precision(network, precision)

    def run() -> tf.Tensor:
        others = tf.reduce_sum(network(batch)) + tf.reduce_sum(network(batch + 1))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(batch, training=True))
        gradients = tape.gradient(loss, network.trainable_variables)
        return others + sum(tf.reduce_sum(gradient) for gradient in gradients)

    return tf.function(run, autograph=False).get_concrete_function()  # type: ignore[no-any-return]


def _seconds(passes: Callable[[], tf.Tensor]) -> float:
    begin = time.perf_counter()
    passes().numpy()
    return time.perf_counter() - begin
