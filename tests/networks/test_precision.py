"""Convolutions in bfloat16: what computes in it, what stays float32, and when it is chosen."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from learning.learners import IMAGE, Batches, build_learner
from toy_networks import make_options, make_spec

from distdqn.networks import precision
from distdqn.networks.precision import choose_precision, set_precision
from distdqn.networks.q_network import make_networks

SPEC = make_spec((10, 10, 4), 3, "uint8", 255.0)
IMAGES = np.random.default_rng(0).integers(256, size=(16, 10, 10, 4)).astype(np.uint8)


def make_network(torso: str = "small", head: str = "value") -> keras.Model:
    return make_networks(make_options(torso=torso, head=head, atoms=5), SPEC, 0)[0]


@pytest.mark.parametrize("torso", ["small", "impala"])
def test_convolutions_compute_in_bfloat16_and_all_else_in_float32(torso: str) -> None:
    network = make_network(torso, "implicit")
    expected = network(IMAGES).numpy()
    set_precision(network, "bfloat16")

    found = network(IMAGES)

    kinds = {type(layer).__name__: layer.compute_dtype for layer in network.layers}
    assert kinds["Conv2D"] == "bfloat16"
    assert kinds["Dense"] == "float32"
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert found.dtype == "float32"
    difference = np.abs(found.numpy() - expected).max()
    assert 0.0 < difference < 0.02 * np.abs(expected).max()  # 8 bits: 0.004 in each of up to 15 layers


def test_float32_is_restored_to_the_bit() -> None:
    network = make_network()
    expected = network(IMAGES).numpy()

    for each in ("bfloat16", "float32"):
        set_precision(network, each)

    np.testing.assert_array_equal(network(IMAGES).numpy(), expected)


def test_network_without_convolutions_stays_float32() -> None:
    network = make_networks(make_options(), make_spec((4,), 3), 0)[0]
    set_precision(network, "bfloat16")

    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def test_layers_of_the_user_keep_their_precision() -> None:
    learner = build_learner(IMAGE, network="toy_user_networks:rounded")

    kinds = {type(layer).__name__: layer.compute_dtype for layer in learner._loop.online.layers}
    assert kinds["Conv2D"] == "bfloat16"


@pytest.mark.parametrize(
    ("flags", "seconds", "expected"),
    [
        ("fma avx512_bf16 sse", 0.7, "bfloat16"),
        ("amx_bf16", 0.7, "bfloat16"),
        ("amx_bf16", 0.95, "float32"),  # not worth it
        ("avx512f amx_int8", 0.7, "float32"),
        (None, 0.7, "float32"),  # no Linux
    ],
)
def test_bfloat16_is_chosen_where_the_processor_has_it_and_it_is_faster(
    flags: str | None, seconds: float, expected: str, tmp_path: Path, monkeypatch: Any
) -> None:
    network, cpu = make_network(), tmp_path / "cpuinfo"
    if flags is not None:
        cpu.write_text(f"processor: 0\nflags: {flags}\n")
    times = {"float32": 1.0, "bfloat16": seconds}
    monkeypatch.setattr(precision, "_passes", lambda *arguments: arguments[-1])
    monkeypatch.setattr(precision, "_seconds", times.get)

    assert choose_precision(network, 4, cpu) == expected
    assert network.layers[2].compute_dtype == expected


def test_measured_passes_leave_the_weights_alone() -> None:
    network = make_network()
    before = network.get_weights()

    passes = [precision._passes(network, IMAGES, each) for each in ("float32", "bfloat16")]

    exact, rounded = (each().numpy() for each in passes)
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.02)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_learner_in_bfloat16_learns_nearly_the_same_and_actors_evaluate_it_in_numpy() -> None:
    learners = [build_learner(IMAGE, torso="small", precision=each) for each in ("float32", "bfloat16")]
    published = [learner.learn(Batches(IMAGE).make(0), publish=True)[1] for learner in learners]

    exact, rounded = (weights.arrays for weights in published if weights)
    assert any((a != b).any() for a, b in zip(exact, rounded, strict=True))
    for a, b in zip(exact, rounded, strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.045)  # two steps of Adam of 0.01, each in either direction
    assert published[1].layers[0]["kind"] == "input"


def test_learner_chooses_if_it_may_and_says_so(monkeypatch: Any) -> None:
    monkeypatch.setattr(precision, "choose_precision", lambda *_: "bfloat16")

    learner = build_learner(IMAGE, torso="small", precision="auto")

    assert "convolutions in bfloat16" in (learner.compile() or "")
