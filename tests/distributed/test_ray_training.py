"""Whole runs on a real Ray."""

import json
import os
import signal
import threading
import time
import zipfile
from pathlib import Path

import h5py
import light_run
import numpy as np
import psutil
import pytest
from ray.cloudpickle import register_pickle_by_value, unregister_pickle_by_value
from run_contents import FILES, OPTIONAL

import distdqn
import distdqn.runner
from distdqn.config.command_line import parse_run
from distdqn.networks.numpy_policy import load_policy
from distdqn.training import builders
from distdqn.training.stopping import StopRequest

# What may differ between two runs that end with the same weights.
_TIMES_AND_RATES = {
    "wall_seconds",
    "eval_seconds",
    "env_steps_per_second",
    "learner_steps_per_second",
    "actors_wait_fraction",
    "learner_wait_fraction",
    "actor_env_fraction",
    "actor_network_fraction",
    "seconds_per_update",
}


def _metrics(run_dir):
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def _handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


# A run in this process, on the Ray that is there, with a learner that only counts.


@pytest.fixture(scope="module")
def short_run(ray_session, tmp_path_factory):  # noqa: ARG001
    """Spends a small budget; returns its folder, its summary and the handlers before and after."""
    run_dir = tmp_path_factory.mktemp("short") / "run"
    handlers = _handlers()
    config = distdqn.Config(
        actors=2, seed=3, run_dir=str(run_dir), max_env_steps=3001, eval_period=128, confirm_episodes=4
    )
    register_pickle_by_value(light_run)  # Ray's workers cannot import it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders, "role_parts", light_run.light_parts)
        summary = distdqn.train(config, quiet=True)
    unregister_pickle_by_value(light_run)
    return run_dir, summary, handlers, _handlers()


def test_run_on_ray_spends_its_budget_exactly(short_run):
    _, summary, _, _ = short_run
    assert (summary["reason"], summary["env_steps"]) == ("max_env_steps", 3001)
    assert summary["learner_steps"] > 0
    assert summary["eval_episodes"] in (4, 20)


def test_run_on_ray_writes_every_file_of_its_directory(short_run):
    run_dir, summary, _, _ = short_run
    assert {path.name for path in run_dir.iterdir()} - OPTIONAL == FILES
    assert json.loads((run_dir / "summary.json").read_text()) == summary
    assert load_policy(run_dir / "policy.npz").arrays[0].shape[0] == 4


def test_run_on_ray_holds_samples_per_insert_to_the_end(short_run):
    run_dir, _, _, _ = short_run
    last = _metrics(run_dir)[-1]
    # Sampled in whole calls; a batch of 128 for each of the transitions beyond `min_replay_size`.
    call = distdqn.Config().updates_per_call * 128
    paced = last["replay_size"] - 1000
    assert 128.0 - call / paced <= last["samples_per_insert"] <= 128.0


def test_run_on_ray_puts_signal_handlers_back(short_run):
    _, _, before, after = short_run
    assert after == before


# A second run in this process: off the main thread, an environment given as a function, an
# actor killed on the way.


def _make_environment():
    """A function that travels by value: Ray's workers cannot import this file."""

    def make():
        import gymnasium

        return gymnasium.make("CartPole-v1")

    return make


class _KilledRun:
    """What was seen of the second run."""

    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.handlers_before = _handlers()
        self.handlers_meanwhile = None
        self.maps = {}  # role -> files mapped into its process
        self.rss_bytes = {}
        self.pids = {}
        self.pids_after = {}
        self.counters_at_kill = None
        self.summary = None
        self.error = None

    def train(self, config):
        try:
            self.summary = distdqn.train(config, quiet=True)
        except BaseException as error:
            self.error = error

    def status(self):
        path = self.run_dir / "status.json"
        return json.loads(path.read_text()) if path.exists() else {"counters": {}, "roles": []}

    def wait_until(self, condition, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not condition(self.status()):
            assert self.error is None, self.error
            assert time.monotonic() < deadline, self.status()
            time.sleep(0.1)

    def look(self):
        """Notes every role's process as it is now."""
        for role in self.status()["roles"]:
            self.pids[role["role"]] = role["pid"]
            self.maps[role["role"]] = Path(f"/proc/{role['pid']}/maps").read_text()
            self.rss_bytes[role["role"]] = psutil.Process(role["pid"]).memory_info().rss

    def kill_an_actor(self):
        self.counters_at_kill = self.status()["counters"]
        os.kill(self.pids["actor-1"], signal.SIGKILL)
        self.wait_until(lambda status: status["counters"].get("actor_restarts", 0) > 0)
        self.wait_until(lambda status: all(role["pid"] for role in status["roles"]))
        self.pids_after = {role["role"]: role["pid"] for role in self.status()["roles"]}

    def has_gone_on(self, status):
        """Whether actors and learner have made some steps since the kill."""
        names = ("env_steps", "learner_steps")
        return all(status["counters"][name] > self.counters_at_kill[name] + 1000 for name in names)


@pytest.fixture(scope="module")
def killed_run(ray_session, tmp_path_factory, short_run):  # noqa: ARG001
    run = _KilledRun(tmp_path_factory.mktemp("killed") / "run")
    config = distdqn.Config(
        env=_make_environment(),
        actors=2,
        envs_per_actor=4,
        run_dir=str(run.run_dir),
        hidden_sizes=(16,),
        batch_size=32,
        updates_per_call=16,
        report_period=64,
        eval_period=256,
        eval_episodes=4,
        target_return=None,
        max_env_steps=10**12,
        max_seconds=120.0,
    )
    requests = []

    class KeptRequest(StopRequest):
        def __init__(self):
            super().__init__()
            requests.append(self)

    patch = pytest.MonkeyPatch()
    patch.setattr(distdqn.runner, "StopRequest", KeptRequest)
    thread = threading.Thread(target=run.train, args=(config,))
    thread.start()
    try:
        run.wait_until(lambda status: status["counters"].get("learner_steps", 0) > 500)
        run.wait_until(lambda status: status["counters"]["evaluations"] > 0)
        run.handlers_meanwhile = _handlers()
        run.look()
        run.kill_an_actor()
        run.wait_until(run.has_gone_on)
    finally:
        for request in requests:
            request.reason = "interrupted"
        thread.join(90)
        patch.undo()
    assert not thread.is_alive()
    assert run.error is None, run.error
    return run


def test_fault_1_training_goes_on_when_an_actor_is_killed(killed_run, record_property):
    summary = killed_run.summary
    record_property("lost_rollouts", summary["lost_rollouts"])
    assert summary["reason"] == "interrupted"
    assert summary["actor_restarts"] == 1
    assert killed_run.has_gone_on({"counters": summary})
    assert _metrics(killed_run.run_dir)[-1]["actor_restarts"] == 1


def test_fault_1_killed_actor_alone_is_replaced_by_another_process(killed_run, record_property):
    record_property("injected", 0)  # the same kill
    before, after = killed_run.pids, killed_run.pids_after
    assert {role for role in before if before[role] != after[role]} == {"actor-1"}
    assert not psutil.pid_exists(before["actor-1"])


def test_fault_1_learning_never_pauses_long_when_an_actor_is_killed(killed_run, record_property):
    record_property("injected", 0)  # the same kill
    lines = [line for line in _metrics(killed_run.run_dir) if line["learner_steps"] > 0]
    times = [
        line["wall_seconds"]
        for line, before in zip(lines[1:], lines, strict=False)
        if line["learner_steps"] > before["learner_steps"]
    ]
    assert max(np.diff(times)) <= 3 * 5.0
    assert len(times) >= 4


def test_only_the_learner_loads_tensorflow(killed_run):
    loads = {role for role, maps in killed_run.maps.items() if "libtensorflow" in maps}
    others = {"learner", "replay-0", "evaluator"}
    assert set(killed_run.maps) - {"control"} == others | {"actor-0", "actor-1"}
    assert loads == {"learner"}


def test_actor_process_stays_under_200_megabytes(killed_run):
    assert 20e6 < killed_run.rss_bytes["actor-0"] < 200e6
    assert 20e6 < killed_run.rss_bytes["actor-1"] < 200e6


def test_environment_given_as_a_function_is_named_in_the_config(killed_run):
    assert "make" in json.loads((killed_run.run_dir / "config.json").read_text())["env"]
    assert killed_run.summary["episodes"] > 0


def test_train_off_the_main_thread_installs_no_handlers(killed_run):
    assert killed_run.handlers_meanwhile == killed_run.handlers_before


# Runs that must end alike: a serial one is a process, as are the roles of a lockstep one.


def _weights(path):
    """Every weight in a `.keras` file, by its place."""
    found = {}
    with (
        zipfile.ZipFile(path) as archive,
        archive.open("model.weights.h5") as content,
        h5py.File(content) as file,
    ):
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def _comparable(run_dir):
    return [{k: v for k, v in line.items() if k not in _TIMES_AND_RATES} for line in _metrics(run_dir)]


def _is_equal(run_dir, other_dir):
    """Whether two runs ended with the same weights, bit for bit."""
    for name in ("final.keras", "policy.keras"):
        one, two = _weights(run_dir / name), _weights(other_dir / name)
        assert one.keys() == two.keys()
        assert len(one) >= 6  # kernels and biases of three layers
        if not all(one[place].tobytes() == two[place].tobytes() for place in one):
            return False
    return True


_MANY_PARTS = ("--sampler", "prioritized", "--dueling", "--epsilon-ladder", "--noisy", "--head", "implicit")


@pytest.fixture(scope="module")
def run_alike(ray_session, start_run, tmp_path_factory):  # noqa: ARG001
    """Makes a serial run, and a lockstep one on the Ray that is there meanwhile; returns both."""
    options = {
        "actors": 2,
        "max-env-steps": 2000,
        "target-return": "none",
        "eval-period": 128,
        "report-period": 128,
        "eval-episodes": 4,
        "updates-per-call": 16,
        "hidden-sizes": 32,
    }
    common = [str(text) for name, value in options.items() for text in (f"--{name}", value)]

    def make(*extra, seed=1):
        arguments = [*common, "--seed", str(seed), *extra]
        serial = start_run("--mode", "serial", *arguments)
        lockstep = tmp_path_factory.mktemp("lockstep") / "run"
        config, _ = parse_run(["--mode", "lockstep", "--run-dir", str(lockstep), *arguments])
        distdqn.train(config, quiet=True)
        assert serial.wait() == 0, serial.output()  # no goal: the budget spent is success
        return serial, lockstep

    return make


@pytest.fixture(scope="module")
def alike(run_alike):
    return run_alike()


def test_lockstep_and_serial_end_with_the_same_weights_bit_for_bit(alike):
    serial, lockstep = alike
    assert _is_equal(lockstep, serial.run_dir)


def test_lockstep_and_serial_write_the_same_metrics_but_for_times_and_rates(alike):
    serial, lockstep = alike
    lines = _comparable(lockstep)
    assert lines == _comparable(serial.run_dir)
    assert len(lines) >= 6
    assert sum(line["eval_return_mean"] is not None for line in lines) >= 3
    assert lines[-1]["env_steps"] == 2000


@pytest.mark.long
def test_lockstep_repeats_itself_and_another_seed_does_not(alike, run_alike):
    _, first = alike
    (_, again), (_, another) = run_alike(), run_alike(seed=2)

    assert _is_equal(first, again)
    assert _comparable(first) == _comparable(again)
    assert not _is_equal(first, another)
    assert _comparable(first) != _comparable(another)


@pytest.mark.long
def test_prioritized_lockstep_and_serial_end_alike_and_unlike_uniform_ones(alike, run_alike):
    serial, lockstep = run_alike(*_MANY_PARTS)

    assert _is_equal(lockstep, serial.run_dir)
    assert _comparable(lockstep) == _comparable(serial.run_dir)
    assert _comparable(lockstep) != _comparable(alike[1])


@pytest.mark.slow
def test_observations_of_parts_and_masks_end_alike_in_lockstep_and_serial(run_alike):
    serial, lockstep = run_alike("--env", "Taxi-v4")

    assert _is_equal(lockstep, serial.run_dir)
    assert _comparable(lockstep) == _comparable(serial.run_dir)


def test_serial_run_starts_no_process_of_its_own(alike):
    assert alike[0].seen == {}


def test_ray_that_was_there_is_left_running_without_roles(killed_run, alike, ray_session):  # noqa: ARG001
    assert ray_session.is_initialized()
    deadline = time.monotonic() + 15.0
    while names := ray_session.util.list_named_actors(all_namespaces=True):
        assert time.monotonic() < deadline, f"left behind: {names}"
        time.sleep(0.2)
