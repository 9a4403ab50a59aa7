"""The precision in which convolutions are computed: bfloat16 where the processor has it and it is faster."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
_REPEATS = 3
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
        seconds = {each: _seconds(network, batch_size, each) for each in _POLICIES}
        if seconds["bfloat16"] < _WORTHWHILE * seconds["float32"]:
            precision = "bfloat16"
    set_precision(network, precision)
    return precision


def _seconds(network: keras.Model, batch_size: int, precision: str) -> float:
    """The shortest of some forward and backward passes of a batch."""
    set_precision(network, precision)
    batch = tf.zeros((batch_size, *network.input_shape[1:]), network.inputs[0].dtype)

    def measure() -> float:
        begin = time.process_time()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(batch, training=True))
        for gradient in tape.gradient(loss, network.trainable_variables):
            np.asarray(gradient)
        return time.process_time() - begin

    measure()  # the first one also prepares
    return min(measure() for _ in range(_REPEATS))
