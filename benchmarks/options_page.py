"""Writes the page about options: `python benchmarks/options_page.py > docs/options.md`."""

from distdqn.config.command_line import RUN_COMMAND, default_text, flag, meaning
from distdqn.config.config import HEADINGS
from distdqn.config.model import PRESETS, read_preset

_PAGE = """# Options

A run takes its options from the defaults, then from `--preset NAME`, then from `--config FILE`, then from the
command line; each replaces those before it. A file is YAML, TOML or JSON and names options with underscores
(`batch_size: 64`), as the `config.json` of every run does. `--print-config` prints all options as YAML for
`--config`. In Python, options are the arguments of `distdqn.Config`.

After a change of an option, write this page again: `python benchmarks/options_page.py > docs/options.md`.
"""


def options_page() -> str:
    """The page."""
    rows = []
    for heading, names in RUN_COMMAND.names.items():
        rows += [f"\n## {heading.capitalize()}\n", f"{HEADINGS[heading]}.\n"]
        rows += ["| option | default | meaning |", "|---|---|---|"]
        for name in names:
            info = RUN_COMMAND.fields[name]
            rows.append(f"| `{flag(name)}` | `{default_text(info.default)}` | {meaning(info)} |")
    rows += ["\n## Presets\n", "| preset | sets | from |", "|---|---|---|"]
    for name, path in PRESETS.items():
        settings = ", ".join(f"`{key} {default_text(value)}`" for key, value in read_preset(name).items())
        lines = path.read_text(encoding="utf-8").splitlines()
        source = " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))
        rows.append(f"| `{name}` | {settings} | {source} |")
    return _PAGE + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(options_page(), end="")
