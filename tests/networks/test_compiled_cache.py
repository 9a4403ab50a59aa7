"""What XLA has compiled is kept for later runs, and a damaged file of it harms none."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os
from distdqn.config.config import Config
from distdqn.environments.registry import inspect_environment
from distdqn.learning.learner import Learner
from distdqn.training.resolve import resolve

given = Config(hidden_sizes=(4,), atoms=3, batch_size=4, updates_per_call=2)
spec = inspect_environment(given.env)
learner = Learner(resolve(given, spec), spec)
print(learner.compile(), os.environ.get("TF_XLA_FLAGS"))
"""


def _compile(cache: Path) -> str:
    """Compiles a small update in a process of its own; its notice and TensorFlow's flags."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "TF_XLA_FLAGS": ""}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return ended.stdout.strip()


def _files(cache: Path) -> list[Path]:
    return sorted(cache.glob("distdqn/xla-*/*"))


def test_second_compilation_reads_a_file_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    assert _compile(tmp_path).startswith("None  --tf_xla_persistent_cache_directory=")
    (kept,) = _files(tmp_path)
    content, written = kept.read_bytes(), kept.stat().st_mtime_ns
    assert kept.parent.stat().st_uid == os.getuid()

    assert _compile(tmp_path).startswith("None ")
    assert (kept.read_bytes(), kept.stat().st_mtime_ns) == (content, written)  # it was read

    kept.write_bytes(content[: len(content) // 3])
    assert _compile(tmp_path).startswith("None ")
    (again,) = _files(tmp_path)
    assert again.stat().st_size > len(content) // 2


def test_compilation_works_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert _compile(tmp_path / "file").rstrip() == "None"
