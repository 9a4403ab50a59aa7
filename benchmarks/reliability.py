"""Writes the counts of docs/reliability.md, from tests and long runs.

    pytest -m "" -k test_fault_ --junitxml=faults.xml
    python benchmarks/reliability.py --tests faults.xml --runs chaos.json soak.json

A test named `test_fault_N_...` causes the fault of row N once, or as often as it records with
`record_property("injected", 20)`. It records 0 if another test counts the same process. If it
passes, the fault was answered as promised each time. `record_property("lost_rollouts", 3)` records
what was lost.

The JSON of a long run has counts in `"faults": {"N": {"injected": .., "survived": .., "lost":
{..}}}`, and lines of text for the page in `"says"`. The other programs in this folder write such files.
"""

import argparse
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- counted -->", "<!-- /counted -->"


@dataclass
class Row:
    """The counts of one fault."""

    tests: int = 0
    injected: int = 0
    survived: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    def add(self, injected: int, survived: int, lost: dict[str, int]) -> None:
        """Adds the counts of one test or run."""
        self.injected += injected
        self.survived += survived
        self.lost.update(lost)


def rows_of(tests: Iterable[Path], runs: Iterable[Path]) -> dict[int, Row]:
    """Counts of pytest's files and of long runs. A test that ran twice counts with its last result."""
    rows: defaultdict[int, Row] = defaultdict(Row)
    cases = {}
    for path in tests:
        for case in ElementTree.parse(path).iter("testcase"):
            if case.find("skipped") is None:
                cases[case.get("classname"), case.get("name")] = case
    for (_, name), case in cases.items():
        if not (found := re.match(r"test_fault_(\d+)_", name or "")):
            continue
        properties = {one.get("name", ""): int(one.get("value", 0)) for one in case.iter("property")}
        injected = properties.pop("injected", 1)
        has_passed = case.find("failure") is None and case.find("error") is None
        lost = {key.removeprefix("lost_").replace("_", " "): value for key, value in properties.items()}
        rows[int(found[1])].tests += 1
        rows[int(found[1])].add(injected, injected if has_passed else 0, lost)
    for path in runs:
        for number, counted in json.loads(path.read_text()).get("faults", {}).items():
            rows[int(number)].add(counted["injected"], counted["survived"], counted["lost"])
    return rows


def titles_of(page: str) -> dict[int, str]:
    """Number and name of each fault, from the page's own tables."""
    return {int(number): name for number, name in re.findall(r"^\| (\d+) \| (.*?) \|", page, re.MULTILINE)}


def section(titles: dict[int, str], rows: dict[int, Row], runs: Iterable[Path]) -> str:
    """The generated part of the page."""
    lines = [
        "`python benchmarks/reliability.py` counts tests and the long runs below.",
        "",
        "| # | fault | tests | caused | answered as promised | lost |",
        "|--|--|--|--|--|--|",
    ]
    for number, title in sorted(titles.items()):
        row = rows.get(number, Row())
        lost = ", ".join(f"{count:,} {name}" for name, count in sorted(row.lost.items()) if count)
        counts = f"{row.tests} | {row.injected:,} | {row.survived:,}"
        lines.append(f"| {number} | {title} | {counts} | {lost or 'nothing'} |")
    for path in runs:
        lines += ["", *json.loads(path.read_text())["says"]]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the section; returns 1 if a row has no test or was not answered as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tests", type=Path, nargs="+", default=[], help="files of `pytest --junitxml`")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="JSON of long runs")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write to")
    options = parser.parse_args(arguments)
    page = options.page.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    titles, rows = titles_of(before), rows_of(options.tests, options.runs)
    text = f"{before}{BEGIN}\n\n{section(titles, rows, options.runs)}\n\n{END}{after}"
    options.page.write_text(text, encoding="utf-8")
    print(options.page)
    poor = [n for n in sorted(titles.keys() | rows) if not (r := rows.get(n)) or r.survived < r.injected]
    if poor:
        print(f"Without a test, or not answered as promised: rows {poor}", file=sys.stderr)
    return bool(poor)


if __name__ == "__main__":
    sys.exit(main())
