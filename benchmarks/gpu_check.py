"""Checks distdqn on a machine with an NVIDIA GPU, in less than five minutes.

    python benchmarks/gpu_check.py --out gpu.json
    python benchmarks/gpu_check.py --cpu --parts updates      # the same code, small, without a GPU

`run`: short runs of the whole program on frames of 84 x 84 x 4. The learner must take no more of the GPU's
memory than it needs; its updates/s are reported. `updates`: the duration of one update of the Nature network
(batches of 64) and of the default dense network (batches of 128), in each precision, with and without XLA.
All must give the same Q-values within a tolerance. distdqn itself compiles with XLA only networks without
convolutions, and offers bfloat16 only for convolutions.

Ends with 1 if something is not as it must be, or if there is no GPU.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

NATURE, DENSE = "Nature network", "dense network"
ACTIONS = 6
TOLERANCES = {"float32": 0.01, "bfloat16": 0.05}  # of Q-values, relative; a GPU rounds float32 products
MOST_MEMORY = 0.5  # of the GPU: TensorFlow without memory growth takes nearly all
RUN_SECONDS = 40.0
_CALLS = 5  # timed
_NEVER = 10**12


class Frames(gymnasium.Env):
    """Images that cost nothing to make; the reward is for the action that the frame asks for."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gymnasium.spaces.Discrete(ACTIONS)

    def __init__(self):
        images = np.random.default_rng(0).integers(256, size=(32, 84, 84, 4), dtype=np.uint8)
        self._images, self._steps = images, 0

    def reset(self, *, seed=None, options=None):
        """Begins an episode of 100 steps."""
        super().reset(seed=seed, options=options)
        self._steps = 0
        return self._draw(), {}

    def step(self, action):
        """Pays 1 for the right action."""
        reward = float(action == self._index % ACTIONS)
        self._steps += 1
        return self._draw(), reward, False, self._steps >= 100, {}

    def _draw(self):
        self._index = int(self.np_random.integers(len(self._images)))
        return self._images[self._index].copy()


@dataclass(frozen=True)
class Case:
    """One way to compute the updates of one network."""

    network: str
    precision: str
    xla: bool

    @property
    def title(self):
        """For the table."""
        return f"{self.network}, {self.precision}, {'with' if self.xla else 'without'} XLA"


# The first case of each network is what the others are compared with.
CASES = [Case(NATURE, precision, xla) for precision in ("float32", "bfloat16") for xla in (False, True)]
CASES += [Case(DENSE, "float32", xla) for xla in (False, True)]


def main(arguments=None):
    """Checks and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="try this program without a GPU, with small sizes")
    parser.add_argument("--parts", nargs="+", choices=["run", "updates"], default=["run", "updates"])
    parser.add_argument("--run-seconds", type=float, default=RUN_SECONDS, help="of each run (default: 40)")
    parser.add_argument("--out", type=Path, help="file for the results as JSON")
    options = parser.parse_args(arguments)
    from distdqn.networks.tensorflow_setup import import_tensorflow

    import_tensorflow(1, uses_gpus=not options.cpu)
    found = devices()
    if not found["gpus"] and not options.cpu:
        print("TensorFlow finds no GPU (install `distdqn[cuda]`, or give `--cpu` to try this program).")
        return 1
    results = {"devices": found, "runs": [], "updates": []}
    if "run" in options.parts:  # first, while this process has no memory of the GPU
        for precision in ("float32", "bfloat16"):
            results["runs"].append(measure_run(precision, options.run_seconds, options.cpu))
            print(f"Run with {precision}: {results['runs'][-1]}", flush=True)
    if "updates" in options.parts:
        results["updates"] = measure_updates(small=options.cpu)
    results["failures"] = failures(results)
    print(table(results), json.dumps(results), sep="\n\n")
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if results["failures"] else 0


def devices():
    """The visible GPUs by name, and versions."""
    import keras
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return {"gpus": names, "tensorflow": tf.__version__, "keras": keras.__version__, "cores": os.cpu_count()}


def measure_updates(small, cases=CASES):
    """Measures every case; its Q-values are compared with those of the network's first case."""
    found, first = [], {}
    for case in cases:
        try:
            measured = measure_case(case, small, first)
        except Exception as error:  # the other cases are still of interest
            measured = {"error": f"{type(error).__name__}: {error}"[:300]}
        found.append({"case": case.title, "precision": case.precision, **measured})
        print(f"{case.title}: {measured}", flush=True)
    return found


def measure_case(case, small, first):
    """Seconds of one update of one case; `first` holds the Q-values of the first case of each network."""
    begin = time.perf_counter()
    loop, batches = make_loop(case, small)
    q_values = loop.run(batches, 0).q_values[0]  # [B], before any update
    prepared = time.perf_counter() - begin
    seconds = [timed(loop, batches) for _ in range(2 if small else _CALLS)]
    reference = first.setdefault(case.network, q_values)
    return {
        "updates_per_call": len(batches),
        "prepare_seconds": prepared,
        "update_seconds": statistics.median(seconds) / len(batches),
        "difference": float(np.abs(q_values - reference).max() / np.abs(reference).max()),
        "is_finite": bool(np.isfinite(q_values).all()),
    }


def make_loop(case, small):
    """The updates of one case, and batches `[U, B]` for them, the same for all cases of a network."""
    import tensorflow as tf

    from distdqn.config.config import Config
    from distdqn.learning.update import UpdateLoop
    from distdqn.networks.precision import set_precision
    from distdqn.networks.q_network import make_networks
    from distdqn.training.resolve import resolve
    from distdqn.types import EnvironmentSpec, Transitions

    tf.get_logger().setLevel("ERROR")  # it warns of many compiled functions
    is_image = case.network == NATURE
    shape, dtype, high = ((84, 84, 4), "uint8", 255.0) if is_image else ((4,), "float32", 1.0)
    actions = ACTIONS if is_image else 2
    spec = EnvironmentSpec("check", shape, actions, None, dtype, 0.0, high, None)
    options = resolve(Config(learning_rate=1e-5), spec)
    online, _ = make_networks(options, spec, 0)
    target, _ = make_networks(options, spec, 0)
    if case.precision != "float32":
        set_precision(online, case.precision)
        set_precision(target, case.precision)
    loop = UpdateLoop(online, target, options)
    loop._run = tf.function(loop._loop, jit_compile=case.xla, autograph=False)
    updates, batch_size = (2, 4) if small else (options.updates_per_call, options.batch_size)
    generator, lead = np.random.default_rng(0), (updates, batch_size)
    images = [(generator.random((*lead, *shape)) * high).astype(dtype) for _ in range(2)]
    action = generator.integers(actions, size=lead).astype(np.int32)
    reward = generator.random(lead).astype(np.float32)
    discount = np.full(lead, 0.99, np.float32)
    return loop, Transitions(images[0], action, reward, discount, images[1])


def timed(loop, batches):
    """Seconds of one call, with the transfer of its batches, as the learner has it."""
    begin = time.perf_counter()
    loop.run(batches, 0)
    return time.perf_counter() - begin


def measure_run(precision, seconds, cpu):
    """A run of the whole program: updates/s, and how much memory of the GPU was used at most."""
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    options = f"--env gpu_check:Frames --precision {precision} --target-return none --max-seconds {seconds}"
    options += f" --max-env-steps {_NEVER} --eval-period {_NEVER} --checkpoint-seconds none"
    options += f" --report-seconds 0.5 --learner-gpus {0 if cpu else 1} --replay-capacity 20000"
    # Far more updates than env steps, so that the learner sets the pace.
    options += " --samples-per-insert 1024 --min-replay-size 500"
    options += " --batch-size 8 --updates-per-call 8" if cpu else ""
    with tempfile.TemporaryDirectory() as folder:
        run_dir, log = Path(folder) / "run", Path(folder) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "distdqn.run", "--run-dir", str(run_dir), *options.split()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            memory = []
            while process.poll() is None:
                memory += [] if cpu else [memory_fraction()]
                time.sleep(0.5)
        path = run_dir / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        result = {"precision": precision, "exit_code": process.returncode, **learner_rate(lines)}
        result["memory_fraction"] = max(filter(None, memory), default=None)
        result["computes_on_cpu"] = "finds no GPU" in log.read_text()
        if process.returncode:
            result["log"] = log.read_text()[-2000:]
    return result


def learner_rate(lines):
    """Updates/s after the first lines of metrics with an update, or None."""
    learning = [line for line in lines if line["learner_steps"]][2:]
    if len(learning) < 2:
        return {"learner_steps": 0, "learner_steps_per_second": None, "env_steps_per_second": None}
    first, last = learning[0], learning[-1]
    period = last["wall_seconds"] - first["wall_seconds"]
    names = ("learner_steps", "env_steps")
    rates = {f"{name}_per_second": (last[name] - first[name]) / period for name in names}
    return {"learner_steps": last["learner_steps"], **rates}


def memory_fraction():
    """The part of the first GPU's memory that is in use, or None if `nvidia-smi` does not say."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    try:
        used, total = map(float, output.splitlines()[0].split(","))
    except (IndexError, ValueError):
        return None
    return used / total


def failures(results):
    """A line for everything that is not as it must be."""
    lines = []
    for run in results["runs"]:
        title = f"The run with {run['precision']}"
        if run["exit_code"]:
            lines.append(f"{title} ended with {run['exit_code']}.")
        elif run["learner_steps_per_second"] is None:
            lines.append(f"{title} was too short to measure.")
        if run["computes_on_cpu"]:
            lines.append(f"{title} found no GPU.")
        if (run["memory_fraction"] or 0.0) > MOST_MEMORY:
            lines.append(f"{title} took {run['memory_fraction']:.0%} of the GPU's memory.")
    for update in results["updates"]:
        if "error" in update:
            lines.append(f"{update['case']}: {update['error']}")
        elif not update["is_finite"]:
            lines.append(f"{update['case']}: Q-values are not finite.")
        elif update["difference"] > TOLERANCES[update["precision"]]:
            lines.append(f"{update['case']}: Q-values differ by {update['difference']:.2%}.")
    return lines


def table(results):
    """The results as Markdown."""
    found = results["devices"]
    rows = [f"{', '.join(found['gpus']) or 'no GPU'}, TensorFlow {found['tensorflow']}", ""]
    if results["updates"]:
        rows += ["| update | ms | preparation, s | difference of Q-values |", "|---|---|---|---|"]
        rows += [
            f"| {each['case']} | {1000 * each['update_seconds']:.3f} | {each['prepare_seconds']:.1f} "
            f"| {each['difference']:.2%} |"
            for each in results["updates"]
            if "error" not in each
        ]
        rows.append("")
    if results["runs"]:
        rows += ["| run | updates/s | env steps/s | most GPU memory |", "|---|---|---|---|"]
        for run in results["runs"]:
            rates = [run["learner_steps_per_second"], run["env_steps_per_second"]]
            cells = ["-" if rate is None else f"{rate:,.1f}" for rate in rates]
            memory = "-" if run["memory_fraction"] is None else f"{run['memory_fraction']:.0%}"
            rows.append(f"| {run['precision']} | {' | '.join(cells)} | {memory} |")
        rows.append("")
    return "\n".join([*rows, *(results["failures"] or ["All is as it must be."])])


if __name__ == "__main__":
    sys.exit(main())
