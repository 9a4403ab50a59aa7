"""Virtual environments of the peers, one for each, made from `requirements-NAME.txt` beside this file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[1] / "build" / "peers"  # git ignores it, and so do the checks of the source
_COMPLETE = "installed-from.txt"  # a copy of the requirements, written last


class NotInstalled(Exception):
    """The packages of a peer cannot be installed; says why in one line."""


def python_of(name: str, folder: Path = FOLDER) -> Path:
    """Python of the environment of a peer, which is made first unless it exists.

    An environment that was made from other requirements, or not to its end, is made anew.
    """
    requirements = HERE / f"requirements-{name}.txt"
    environment = folder / name
    python, mark = environment / "bin" / "python", environment / _COMPLETE
    if mark.exists() and mark.read_text(encoding="utf-8") == requirements.read_text(encoding="utf-8"):
        return python
    print(f"Installs {name} into {environment}.", flush=True)
    shutil.rmtree(environment, ignore_errors=True)
    _run([sys.executable, "-m", "venv", environment])
    _run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements])
    shutil.copyfile(requirements, mark)
    return python


def variables(threads: int | None = None) -> dict[str, str]:
    """The environment of a peer's process: `threads`, or as many as the peer chooses."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    return kept if threads is None else {**kept, "OMP_NUM_THREADS": str(threads)}


def _run(command: list[object]) -> None:
    arguments = [str(each) for each in command]
    try:
        subprocess.run(arguments, env=variables(), capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        why = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else str(error))
        raise NotInstalled(why.strip()[:300]) from error
