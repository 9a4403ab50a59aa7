"""The panel keeps what it knows between two reports of a role."""

from run_contents import LINE

from distdqn.reporting.console import Panel


def test_rates_are_those_of_several_lines_and_other_values_the_last_that_are_known() -> None:
    panel = Panel(1000, None, 475.0)
    panel.add({**LINE, "wall_seconds": 10.0, "env_steps": 100, "weights_age_steps": 7.0})
    panel.add({**LINE, "wall_seconds": 12.0, "env_steps": 300, "weights_age_steps": None})
    assert panel.metrics is not None
    assert panel.metrics["env_steps_per_second"] == 100.0
    assert panel.metrics["weights_age_steps"] == 7.0
    for second in range(13, 23):
        panel.add({**LINE, "wall_seconds": float(second), "env_steps": 300})
    assert panel.metrics["env_steps_per_second"] == 0.0
