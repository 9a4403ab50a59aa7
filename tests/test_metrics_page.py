"""docs/metrics.md and docs/grafana.json know every metric that a run writes, and no other."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import distdqn
from distdqn.config.command_line import flag
from distdqn.reporting.loggers import tag
from distdqn.reporting.metrics import Counters

DOCS = Path(__file__).resolve().parents[1] / "docs"
COUNTERS = {field.name for field in fields(Counters)}


def read_table(heading: str) -> dict[str, list[str]]:
    """Cells of each row below a heading of the page, by the key in the first."""
    section = (
        (DOCS / "metrics.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    )
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in section.splitlines() if row[:1] == "|"
    ]
    return {cells[0].strip("`"): cells for cells in rows[2:]}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run in this process."""
    folder = tmp_path_factory.mktemp("page") / "run"
    options: dict[str, Any] = {"mode": "serial", "actors": 1, "max_env_steps": 300, "min_replay_size": 100}
    options |= {"updates_per_call": 16, "batch_size": 16, "eval_episodes": 2, "run_dir": str(folder)}
    distdqn.train(distdqn.Config(**options), quiet=True)
    return folder


def read_line(run_dir: Path) -> dict[str, Any]:
    """The last line of metrics."""
    line: dict[str, Any] = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    return line


def test_page_lists_the_keys_of_a_line_of_metrics(run_dir: Path) -> None:
    assert set(read_table("A line of `metrics.jsonl`")) == set(read_line(run_dir))


def test_page_lists_the_counters_and_the_other_keys_of_the_status(run_dir: Path) -> None:
    status = json.loads((run_dir / "status.json").read_text())

    assert set(read_table("Counters")) == set(status["counters"]) == COUNTERS
    assert set(read_table("`status.json`")) == set(status)


def test_page_lists_the_keys_of_the_summary(run_dir: Path) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())

    assert set(read_table("`summary.json`")) == set(summary) - COUNTERS


def test_page_names_each_metric_as_other_tools_show_it(run_dir: Path) -> None:
    line, table = read_line(run_dir), read_table("A line of `metrics.jsonl`")

    for key, cells in table.items():
        assert cells[1] == ("" if isinstance(line[key], list) else f"`{tag(key)}`")
    tags = [tag(key) for key in table]
    assert len(set(tags)) == len(tags)


def test_page_says_what_every_metric_means() -> None:
    for heading in ("A line of `metrics.jsonl`", "Counters", "`status.json`", "`summary.json`"):
        for key, cells in read_table(heading).items():
            assert len(cells) == {"A": 6, "C": 5}.get(heading[0], 3), key
            assert cells[3 if heading[0] == "A" else 2], key


def test_page_advises_options_that_exist() -> None:
    known = {flag(name) for name in distdqn.Config.model_fields} | {"--json", "--logdir"}

    assert set(re.findall(r"`(--[a-z-]+)", (DOCS / "metrics.md").read_text())) <= known


def test_dashboard_queries_gauges_that_a_run_exports(run_dir: Path) -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    exported = {key for key, value in read_line(run_dir).items() if not isinstance(value, list)}

    queried = {re.fullmatch(r'ray_distdqn_(\w+)\{run=~"\$run"\}', query)[1] for query in queries}  # type: ignore[index]

    assert queried <= exported
    assert queried >= {"train_return_mean", "eval_return_mean", "env_steps_per_second", "replay_size", "loss"}
    assert queried >= {"learner_steps_per_second", "actors_wait_fraction", "learner_wait_fraction", "q_mean"}
    assert queried >= {"actors_alive", "actor_restarts"}


def test_dashboard_has_what_an_import_into_grafana_needs() -> None:
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    ids = [panel["id"] for panel in dashboard["panels"]]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]

    assert dashboard["schemaVersion"] >= 36
    assert dashboard["title"]
    assert "id" not in dashboard  # Grafana gives it one
    assert variables == set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard))) - {"__all"}
    assert len(set(ids)) == len(set(places)) == len(ids)
    for panel in dashboard["panels"]:
        refs = [target["refId"] for target in panel["targets"]]
        assert panel["type"] == "timeseries"
        assert len(set(refs)) == len(refs)
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
