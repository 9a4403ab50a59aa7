"""Whole runs that must reach a return: left out unless asked for with `-m long`."""

import json
import statistics

import pytest

from distdqn import Config, train
from distdqn.config.model import PRESETS


@pytest.mark.long
@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in ("lecture", "btr")])
def test_cart_pole_is_solved_by_every_preset(preset, start_run):
    run = start_run("--preset", preset, "--actors", 2, "--seed", 100)

    assert run.wait() == 0, run.output()
    assert json.loads((run.run_dir / "summary.json").read_text())["solved"] is True


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's, when it saves
def test_lecture_keeps_the_pole_up_for_sixty_steps_within_fifty_episodes(tmp_path):
    means = []
    for seed in range(100, 105):
        config = Config.from_preset(
            "lecture",
            mode="serial",
            actors=1,
            seed=seed,
            max_episodes=50,
            target_return=None,
            run_dir=str(tmp_path / str(seed)),
        )
        summary = train(config, quiet=True)
        assert summary["reason"] == "max_episodes"
        assert summary["episodes"] == 50
        means.append(statistics.mean(summary["train_returns"][30:50]))

    assert statistics.median(means) > 60.0, means
