"""The code of docs/serving.md does what the page says."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_runs import write_run

import distdqn
from distdqn.loading import LoadedPolicy

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "serving.md"
OBSERVATION = [0.0, 0.1, 0.02, -0.1]

CLIENT = """
import json, urllib.request
from ray import serve
from served import app

serve.start(http_options={{"port": {port}}})
serve.run(app)
request = urllib.request.Request("http://127.0.0.1:{port}/", json.dumps({observation}).encode())
print("answer:", urllib.request.urlopen(request, timeout=60).read().decode())
serve.shutdown()
"""


def block(word: str) -> str:
    """The Python code of the page that contains `word`."""
    (found,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if word in code]
    return found


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedPolicy:
    """The policy in the folder that the page names."""
    folder = tmp_path / "runs" / "cartpole"
    folder.mkdir(parents=True)
    write_run(folder, "CartPole-v1", hidden_sizes=(8,))
    monkeypatch.chdir(tmp_path)
    return distdqn.load(folder)


def test_code_of_the_page_loads_a_policy_and_acts(policy) -> None:
    names = {"batch": np.array([OBSERVATION] * 3)}
    exec(block("policy.act(batch)"), names)

    assert names["policy"].act(OBSERVATION) == policy.act(OBSERVATION)


@pytest.mark.slow
# Of what `ray[serve]` needs, other extras bring the rest.
@pytest.mark.skipif(not importlib.util.find_spec("grpc_reflection"), reason="needs the extra `serve`")
def test_application_of_the_page_answers_with_an_action(policy, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(block("serve.deployment"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "client.py").write_text(CLIENT.format(port=port, observation=OBSERVATION))

    result = subprocess.run(
        [sys.executable, "client.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert f"answer: {policy.act(OBSERVATION)}\n" in result.stdout, result.stderr
