"""Which GPUs are asked for: in every mode those of `learner_gpus`, and no others."""

from typing import Any

import pytest
import tensorflow as tf
from toy_networks import make_options, make_spec

from distdqn.config.config import Config
from distdqn.learning import learner as learner_module
from distdqn.networks.tensorflow_setup import import_tensorflow


class Imported(Exception):
    """TensorFlow would be imported now."""


@pytest.mark.parametrize(("uses_gpus", "visible"), [(True, ["gpu:0"]), (False, [])])
def test_tensorflow_sees_gpus_only_if_it_is_to_use_them(
    monkeypatch: pytest.MonkeyPatch, uses_gpus: bool, visible: list[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *_: ["gpu:0"])
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *arguments: asked.append(arguments))

    import_tensorflow.__wrapped__(1, uses_gpus)

    assert asked == [(visible, "GPU")]


@pytest.mark.parametrize(("learner_gpus", "uses_gpus"), [(0.0, False), (0.25, True), (1.0, True)])
def test_learner_uses_gpus_exactly_if_the_option_names_some(
    monkeypatch: pytest.MonkeyPatch, learner_gpus: float, uses_gpus: bool
) -> None:
    asked: list[Any] = []

    def note_and_stop(*arguments: Any) -> None:
        asked.append(arguments)
        raise Imported

    monkeypatch.setattr(learner_module, "import_tensorflow", note_and_stop)
    options = make_options(learner_gpus=learner_gpus, learner_threads=3)
    with pytest.raises(Imported):
        learner_module.Learner(options, make_spec((4,), 2))

    assert asked == [(3, uses_gpus)]


@pytest.mark.parametrize("mode", ["serial", "lockstep", "async"])
def test_learner_may_be_given_a_gpu_in_every_mode(mode: Any) -> None:
    assert Config(mode=mode, learner_gpus=1.0).learner_gpus == 1.0
