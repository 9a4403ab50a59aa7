"""The console script: `distdqn run | evaluate | inspect | scale`, each the module of that name."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

_COMMANDS = {
    "run": "train a distributed DQN",
    "evaluate": "play a run's best network greedily",
    "inspect": "show what is in the checkpoints of a run, and whether they are whole",
    "scale": "change how many actors a run has while it goes on",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Hands the rest of the command line to the command named first."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in _COMMANDS:
        if not sys.flags.safe_path:  # as `python -m` does, so that `--env module:Name` finds its module
            sys.path.insert(0, str(Path.cwd()))
        code: int = importlib.import_module(f"distdqn.{given[0]}").main(given[1:])
        return code
    lines = ["usage: distdqn COMMAND [OPTION ...]", ""]
    lines += [f"  {name:10} {text}" for name, text in _COMMANDS.items()]
    lines += ["", "`distdqn COMMAND --help` lists the options of a command."]
    is_asked = given in (["--help"], ["-h"])
    if given and not is_asked:
        print(f"distdqn: error: Unknown command `{given[0]}` (see below).", file=sys.stderr)
    print("\n".join(lines), file=sys.stdout if is_asked else sys.stderr)
    return 0 if is_asked else 2


if __name__ == "__main__":
    sys.exit(main())
