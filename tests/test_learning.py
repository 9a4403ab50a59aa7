"""Whole runs that must reach a return: long, so left out unless asked for with `-m slow`."""

import json

import pytest

from distdqn.presets import PRESETS


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_cart_pole_is_solved_by_every_preset(preset, start_run):
    run = start_run("--preset", preset, "--actors", 2, "--seed", 100)

    assert run.wait() == 0, run.output()
    assert json.loads((run.run_dir / "summary.json").read_text())["solved"] is True
