"""Writes docs/results.md from runs: every number above its hand-written part is computed here."""

import shlex
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
from experiments import (
    ABLATION,
    ACROBOT_DEFAULT,
    CARTPOLE,
    CARTPOLE_DEFAULT,
    EPISODES,
    MINATAR,
    RANDOM,
    SECTIONS,
    SEEDS,
    ZOO,
    ZOO_DQN,
    ZOO_QR_DQN,
    Row,
)
from measured import Run, bootstrap_interval, interquartile_mean, number, read_runs, spread

Results = dict[Row, list[Run]]

BY_HAND = "<!-- Written by hand from here on. The generator keeps this part. -->"
LATE = CARTPOLE.env_steps / 2  # from here on a stable agent stays at the goal
HOW_TO_READ = f"""\
- A row is one command line, run with several seeds in one process (`--mode serial`). A seed gives the same
  returns again on the same machine with the same versions. The commands are below each table. The mode
  `async` is not measured here, because its results depend on timing.
- No run stops early, and no run is left out for a bad result.
- *Final return* is the mean undiscounted return of the weights after the last update, not of the best
  weights, over {EPISODES} greedy episodes that training never saw.
- `a (b to c)` is the median over the seeds, the minimum and the maximum. *IQM* is the mean of the middle half
  of the seeds (a quarter, rounded down, is cut at each end), with its 95 % bootstrap interval in brackets.
  With so few seeds that interval is too narrow.
- *Env steps to the goal* are those at the first regular evaluation (20 greedy episodes) whose mean reaches
  the goal; `never` counts as more than any number.
- *Seconds* are CPU seconds of the whole training command: start, training and evaluations. The command has
  one busy thread, so it takes about as long on an idle machine. Other work on the machine does not count.
- Lines in the pictures are medians over the seeds; bands reach from the minimum to the maximum. Where final
  weights are compared, a dot is a seed, the black line is the IQM, and the bar is its interval."""


def write_report(folder: Path, docs: Path) -> list[Path]:
    """Writes the page and its pictures and keeps the hand-written part; returns what was written."""
    from figures import draw

    results: Results = {}
    left_out: dict[str, str] = {}
    for row in _all_rows():
        results[row], reasons = read_runs(folder, row)
        left_out |= reasons
    docs.mkdir(parents=True, exist_ok=True)
    pictures = draw(results, docs)
    page = docs / "results.md"
    text = make_page(results, left_out, [path.name for path in pictures])
    page.write_text(text + _part_by_hand(page), encoding="utf-8")
    return [page, *pictures]


def _part_by_hand(page: Path) -> str:
    """The end of the page as it is now, from the mark on; nothing if there is none."""
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    _, mark, rest = before.partition(BY_HAND)
    return f"\n{mark}{rest}" if mark else ""


def make_page(results: Results, left_out: dict[str, str], pictures: Sequence[str] = ()) -> str:
    """The page as Markdown.

    Args:
        results: complete runs of every row.
        left_out: folders of other runs, and why they do not count.
        pictures: names of those that were drawn.
    """
    runs = sum(map(len, results.values()))
    head = [
        "# Results",
        "<!-- Written by benchmarks/results.py up to the second mark. "
        "Do not edit: change the program and run it again. -->",
        f"Measured in {runs} runs. `python benchmarks/results.py report` writes this page and its pictures "
        "from the runs that `python benchmarks/results.py run` makes.",
        "## How to read this",
        HOW_TO_READ,
        _pictures(pictures, "results.png"),
        "## Against the bars",
        _bars_table(results),
    ]
    body = [*_stability(results), *_acrobot(results), *_minatar(results)]
    body += [*_presets(results, pictures), *_ablation(results)]
    tail = ["## What is missing", _missing(results, left_out), "## Machine and versions", _machines(results)]
    return "\n\n".join(part for part in [*head, *body, *tail] if part) + "\n"


@dataclass(frozen=True)
class Bar:
    """A requirement, what was measured, and whether that passes; None if there is no requirement."""

    what: str
    asked: str
    found: str
    passed: bool | None


def bars(results: Results) -> list[Bar]:
    """Every bar whose rows have runs."""
    return [*_cartpole_bars(results), *_acrobot_bars(results), *_minatar_bars(results)]


def _cartpole_bars(results: Results) -> Iterator[Bar]:
    if not (runs := results.get(CARTPOLE_DEFAULT)):
        return
    reached = [run for run in runs if run.final >= CARTPOLE.goal]
    yield Bar(
        "CartPole-v1, default options: final return",
        f"at least {CARTPOLE.goal:g} with every seed",
        f"{len(reached)} of {len(runs)} seeds, minimum {number(min(run.final for run in runs))}",
        len(reached) == len(runs),
    )
    late = np.concatenate([run.late_returns(LATE) for run in runs])
    yield Bar(
        f"CartPole-v1, default options: late evaluations at {CARTPOLE.goal:g}",
        "none set",
        _share(late >= CARTPOLE.goal),
        None,
    )


def _acrobot_bars(results: Results) -> Iterator[Bar]:
    if not (runs := results.get(ACROBOT_DEFAULT)):
        return
    mean = statistics.fmean(run.final for run in runs)
    for name, bar in (("rl-zoo3's DQN", ZOO_DQN), ("rl-zoo3's QR-DQN", ZOO_QR_DQN)):
        yield Bar(
            "Acrobot-v1, default options: mean final return",
            f"at least {bar:g} ({name})",
            f"{number(mean)} ({len(runs)} seeds)",
            mean >= bar,
        )


def _minatar_bars(results: Results) -> Iterator[Bar]:
    for row, dense in MINATAR:
        without = "the same without convolutions"
        for what, return_of, other, words in (
            ("median final return", attrgetter("final"), RANDOM, "a random agent"),
            ("median final return", attrgetter("final"), dense, without),
            ("median of the last fifth of the evaluations", attrgetter("end_return"), dense, without),
            ("median of the means over the run", attrgetter("mean_return"), dense, without),
        ):
            if (runs := results.get(row)) and (others := results.get(other)):
                mine, theirs = (statistics.median(map(return_of, each)) for each in (runs, others))
                yield Bar(
                    f"{row.task.env}, {row.label}: {what}",
                    f"above {words}: {number(theirs)}",
                    number(mine),
                    mine > theirs,
                )


def _bars_table(results: Results) -> str:
    rows = [[bar.what, bar.asked, bar.found, verdict(bar.passed)] for bar in bars(results)]
    if not rows:
        return "No row with a bar has runs yet."
    return table(["what", "bar", "measured", "verdict"], rows)


def verdict(passed: bool | None) -> str:
    """In words; a miss is bold."""
    return "-" if passed is None else "pass" if passed else "**miss**"


def _stability(results: Results) -> list[str]:
    runs = results.get(CARTPOLE_DEFAULT)
    if not runs:
        return []
    text = (
        f"CartPole-v1 with the default options and exactly {CARTPOLE.env_steps:,} env steps: does the agent "
        f"end at the goal, and does it stay there before? It is evaluated every {CARTPOLE.eval_env_steps:,} "
        f"env steps. *Late* evaluations are those from {LATE:,.0f} env steps on."
    )
    rows = [
        [
            str(run.seed),
            number(run.final),
            verdict(run.final >= CARTPOLE.goal),
            _share(run.late_returns(LATE) >= CARTPOLE.goal),
            number(min(run.late_returns(LATE), default=float("nan"))),
            number(run.env_steps_to(CARTPOLE.goal), 0),
        ]
        for run in runs
    ]
    goal = f"{CARTPOLE.goal:g}"
    head = ["seed", "final return", f"at least {goal}", f"late ones at {goal}", "worst late one"]
    return [
        "## Stability",
        text,
        table([*head, "env steps to the goal"], rows),
        _commands([CARTPOLE_DEFAULT]),
    ]


def _acrobot(results: Results) -> list[str]:
    runs = results.get(ACROBOT_DEFAULT)
    if not runs:
        return []
    task = ACROBOT_DEFAULT.task
    text = (
        f"Acrobot-v1 with the default options and {task.env_steps:,} env steps, compared with the published "
        f"returns of [rl-zoo3]({ZOO})'s tuned agents after as many: {ZOO_DQN:g} for DQN and "
        f"{ZOO_QR_DQN:g} for QR-DQN. Theirs are of one training run each; the mean here is over seeds."
    )
    finals = [run.final for run in runs]
    rows = [[str(run.seed), number(run.final), number(run.seconds, 0)] for run in runs]
    rows.append(
        ["mean", number(statistics.fmean(finals)), number(statistics.fmean(r.seconds for r in runs), 0)]
    )
    return [
        "## Acrobot",
        text,
        table(["seed", "final return", "seconds"], rows),
        _commands([ACROBOT_DEFAULT]),
    ]


def _minatar(results: Results) -> list[str]:
    measured = [row for row in SECTIONS["minatar"] if results.get(row)]
    if not measured:
        return []
    text = (
        f"{RANDOM.task.env}, images of 10 x 10 with 4 channels, {RANDOM.task.env_steps:,} env steps: the "
        "convolutions compared with the same options without them (`--torso dense`), and with a random "
        "agent. *Last fifth* is the mean of the last fifth of the regular evaluations, which varies less "
        "than the return of the last weights. *Mean over the run* is the mean of all of them, which also "
        "depends on how fast an agent learned."
    )
    rows = [
        [
            row.label,
            str(len(results[row])),
            *_finals(results[row]),
            *(["-", "-"] if row.options is None else _courses(results[row])),
            _seconds(results[row]),
        ]
        for row in measured
    ]
    head = ["options", "seeds", "final return", "IQM", "last fifth", "mean over the run", "seconds"]
    return ["## Images: MinAtar", text, table(head, rows), _commands(measured)]


def _courses(runs: Sequence[Run]) -> list[str]:
    return [spread([run.end_return for run in runs], 1), spread([run.mean_return for run in runs], 1)]


def _presets(results: Results, pictures: Sequence[str]) -> list[str]:
    text = (
        "The default options and every preset, with no other changes. *Verdict* says whether the median "
        "final return reaches the goal."
    )
    parts = ["## Presets", text]
    for env, goal_from in (("CartPole-v1", "its threshold"), ("Acrobot-v1", "Gymnasium's threshold")):
        measured = [row for row in SECTIONS["presets"] if row.task.env == env and results.get(row)]
        if not measured:
            continue
        task, goal = measured[0].task, measured[0].task.goal
        rows = [
            [
                row.label,
                str(len(results[row])),
                *_finals(results[row]),
                _at_goal(results[row], goal),
                spread([run.env_steps_to(goal) for run in results[row]], 0),
                _seconds(results[row]),
                verdict(statistics.median(run.final for run in results[row]) >= goal),
            ]
            for row in measured
        ]
        head = ["preset", "seeds", "final return", "IQM", "seeds at the goal", "env steps to the goal"]
        parts += [
            f"### {env}, {task.env_steps:,} env steps; the goal is {goal:g}, {goal_from}",
            _pictures(pictures, f"results-{env}.png"),
            table([*head, "seconds", "verdict"], rows),
            _commands(measured),
        ]
    return parts if len(parts) > 2 else []


def _ablation(results: Results) -> list[str]:
    measured = [row for row in SECTIONS["ablation"] if results.get(row)]
    if measured in ([], [CARTPOLE_DEFAULT]):
        return []
    text = (
        f"What each part of the default contributes on CartPole-v1 in {CARTPOLE.env_steps:,} env steps: each "
        "row switches one part off. *Late* evaluations are those under Stability."
    )
    rows = [
        [
            row.label,
            f"`{ABLATION[row.label]}`" if row.label in ABLATION else "",
            str(len(results[row])),
            *_finals(results[row]),
            _at_goal(results[row], CARTPOLE.goal),
            _share(np.concatenate([run.late_returns(LATE) for run in results[row]]) >= CARTPOLE.goal),
            spread([run.env_steps_to(CARTPOLE.goal) for run in results[row]], 0),
        ]
        for row in measured
    ]
    head = ["variant", "option", "seeds", "final return", "IQM", "seeds at the goal"]
    head += [f"late ones at {CARTPOLE.goal:g}", "env steps to the goal"]
    return ["## Ablation", text, table(head, rows), _commands(measured)]


def _missing(results: Results, left_out: dict[str, str]) -> str:
    """The rows that lack runs, and the runs that do not count."""
    missing: dict[str, list[str]] = {}
    for name, rows in SECTIONS.items():
        for row in rows:
            count = len(results.get(row, []))
            if count < SEEDS[name]:
                text = f"{name}, {row.task.env}: {count or 'none'} of {SEEDS[name]} seeds"
                missing.setdefault(text, []).append(row.label)
    lines = [f"- {text}: {', '.join(labels)}" for text, labels in missing.items()]
    lines += [f"- {path} is left out: {reason}" for path, reason in left_out.items()]
    return "\n".join(lines) or "Nothing: every row has the runs that were planned."


def _machines(results: Results) -> str:
    """Machines and versions of the runs."""
    runs = [run for each in results.values() for run in each]
    machines = {
        f"- {machine['cores']} cores, {machine['processor']}, {machine['system']}; "
        f"{machine['jobs']} {'run' if machine['jobs'] == 1 else 'runs'} at a time"
        for run in runs
        if (machine := run.machine)
    }
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in {**run.versions, **run.machine.get("packages", {})}.items():
            versions.setdefault(name, set()).add(version)
    lines = sorted(machines)
    lines += [f"- {name} {', '.join(sorted(found))}" for name, found in versions.items()]
    hours = sum(run.seconds for run in runs if run.seconds == run.seconds) / 3600  # without nan
    return "\n".join([*lines, f"- {number(hours)} CPU hours of training in all"])


def _finals(runs: Sequence[Run]) -> list[str]:
    """Median and range of the final returns; their interquartile mean and its interval."""
    finals = np.array([run.final for run in runs])
    low, high = bootstrap_interval(finals)
    iqm = number(float(interquartile_mean(finals)))
    return [spread(finals.tolist()), f"{iqm} [{number(low)}, {number(high)}]"]


def _seconds(runs: Sequence[Run]) -> str:
    return spread([run.seconds for run in runs if run.seconds == run.seconds], 0)


def _at_goal(runs: Sequence[Run], goal: float) -> str:
    return f"{sum(run.final >= goal for run in runs)} of {len(runs)}"


def _share(hits: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> str:
    return f"{hits.mean():.0%} of {len(hits)}" if len(hits) else "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _pictures(names: Sequence[str], name: str) -> str:
    return f"![{name.removesuffix('.png')}]({name})" if name in names else ""


def _commands(rows: Sequence[Row]) -> str:
    """The commands of these rows, as a block of code."""
    trained = [row for row in rows if row.options is not None]
    lines = [f"python {shlex.join(row.train_command('SEED', 'RUN'))}" for row in trained]
    lines += dict.fromkeys(f"python {shlex.join(row.evaluate_command('SEED', 'RUN'))}" for row in rows)
    return "\n".join(["```sh", *lines, "```"])


def _all_rows() -> list[Row]:
    return list(dict.fromkeys(row for rows in SECTIONS.values() for row in rows))
