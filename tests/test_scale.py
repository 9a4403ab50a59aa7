"""`scale`: what it refuses, before it looks for any Ray."""

import asyncio
import contextlib
import fcntl
import json
import os
import socket

import pytest

from distdqn import cli, scale
from distdqn.cluster import control as control_module
from distdqn.cluster.control import Control, describe
from distdqn.errors import ClusterError
from distdqn.types import ActorPoolStatus

LOCKS = []  # of the runs below, held as their processes would


def make_run(folder, state="running", mode="async", control="control", port=1, **config):
    LOCKS.append(os.open(folder / "run.lock", os.O_CREAT | os.O_RDWR))
    with contextlib.suppress(BlockingIOError):  # held already
        fcntl.flock(LOCKS[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    (folder / "config.json").write_text(json.dumps({"mode": mode, "max_actors": None, **config}))
    ray = {"address": f"127.0.0.1:{port}", "namespace": "distdqn-1", "control": control}
    (folder / "status.json").write_text(json.dumps({"state": state, "ray": ray}))
    return str(folder)


def refused(capsys, *arguments):
    """Exit code and the one line on stderr."""
    code = scale.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distdqn: error: ")
    return code, line


@pytest.mark.parametrize("actors", ["0", "-1", "1.5", "many", "auto", "1000000000"])
def test_fault_33_scaling_to_no_number_of_actors_is_refused_with_exit_2(tmp_path, capsys, actors):
    code, line = refused(capsys, make_run(tmp_path), f"--actors={actors}")
    assert (code, "`actors` must be" in line) == (2, True)


@pytest.mark.parametrize("arguments", [("RUN",), ("--actors", "3"), ("RUN", "--actors", "3", "--faster")])
def test_scale_without_run_or_number_is_refused_with_exit_2(capsys, arguments):
    assert refused(capsys, *arguments)[0] == 2


def test_scale_without_anything_lists_all_that_is_missing(capsys):
    assert scale.main([]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"distdqn: error: `{name}` is missing (see `--help`)." for name in ("run", "actors")
    ]


@pytest.mark.parametrize("mode", ["serial", "lockstep"])
def test_fault_33_run_that_repeats_itself_cannot_be_scaled(tmp_path, capsys, mode):
    code, line = refused(capsys, make_run(tmp_path, mode=mode), "--actors", "3")
    assert (code, f"mode `{mode}`" in line) == (2, True)


def test_fault_33_more_actors_than_max_actors_are_refused(tmp_path, capsys):
    code, line = refused(capsys, make_run(tmp_path, max_actors=8), "--actors", "9")
    assert (code, "exceeds the run's `max_actors` (8)" in line) == (2, True)


def test_folder_without_a_run_is_refused_with_exit_2(tmp_path, capsys):
    assert refused(capsys, str(tmp_path), "--actors", "3")[0] == 2
    for other in ("{", "[]", "{}"):
        run = make_run(tmp_path)
        (tmp_path / "config.json").write_text(other)
        assert refused(capsys, run, "--actors", "3")[0] == 2


@pytest.mark.parametrize("state", ["goal_reached", "max_env_steps", "interrupted", "failed", "saving"])
def test_fault_33_scaling_a_finished_run_ends_with_exit_3(tmp_path, capsys, state):
    code, line = refused(capsys, make_run(tmp_path, state=state), "--actors", "3")
    assert (code, f"is over ({state})" in line) == (3, True)


@pytest.mark.parametrize("state", ["starting", "running"])
def test_run_that_takes_no_commands_yet_is_told_apart_from_one_that_is_over(tmp_path, capsys, state):
    code, line = refused(capsys, make_run(tmp_path, state=state, control=None), "--actors", "3")
    assert (code, "still starting" in line) == (3, True)


def test_killed_run_is_told_from_one_that_is_starting(tmp_path, capsys):
    run = make_run(tmp_path)
    os.close(LOCKS.pop())
    code, line = refused(capsys, run, "--actors", "3")
    assert (code, "was killed" in line) == (3, True)


def test_fault_33_run_whose_ray_is_gone_ends_with_exit_3_at_once(tmp_path, capsys):
    with socket.socket() as taken:  # bound and not listening: nothing answers there
        taken.bind(("127.0.0.1", 0))
        run = make_run(tmp_path, port=taken.getsockname()[1])
        code, line = refused(capsys, run, "--actors", "3")
    assert (code, "does not answer" in line) == (3, True)


def test_scale_is_among_the_commands_of_the_console_script(tmp_path, capsys):
    assert cli.main(["scale", make_run(tmp_path, state="failed"), "--actors", "3"]) == 3
    assert cli.main(["--help"]) == 0
    assert "  scale " in capsys.readouterr().out


# What takes the commands.


def test_commands_are_handed_over_in_their_order_and_numbered():
    async def converse():
        control = Control()
        first = asyncio.create_task(control.next_command())
        numbers = [await control.scale(5), await control.scale(2)]
        return numbers, [await first, await control.next_command()]

    assert asyncio.run(converse()) == ([1, 2], [(1, 5), (2, 2)])


def test_client_that_watches_hears_of_every_report_also_of_the_same_again():
    one, two = (ActorPoolStatus(2, acting, 0, 0, 0, 0) for acting in (1, 2))

    async def converse():
        control = Control()
        early, again = (asyncio.create_task(control.watch(heard)) for heard in (0, 1))
        await asyncio.sleep(0)
        await control.tell(one)
        heard = [await early]
        over, _ = await asyncio.wait([again], timeout=0.01)
        await control.tell(one)
        heard.append(await again)
        await control.tell(two)
        return [*heard, await control.watch(2), await control.watch(1)], over

    assert asyncio.run(converse()) == ([(1, one), (2, one), (3, two), (3, two)], set())


def test_progress_counts_actors_that_start_wait_and_drain():
    assert describe(ActorPoolStatus(12, 5, 6, 4, 1, 1)) == (
        "  5 of 12 actors running, 2 starting, 4 waiting for resources on the cluster, 1 draining"
    )
    assert describe(ActorPoolStatus(1, 1, 0, 0, 2, 1)) == "  1 of 1 actor running, 2 draining"


@pytest.mark.parametrize(
    "told", [[], [ActorPoolStatus(1, 1, 0, 0, 0, 0)], [ActorPoolStatus(3, 1, 2, 0, 0, 1)]]
)
def test_fault_33_run_that_no_longer_answers_is_given_up_with_exit_3(ray_session, monkeypatch, told):
    monkeypatch.setattr(control_module, "_ANSWER_SECONDS", 0.3)
    control = ray_session.remote(Control).remote()
    for status in told:
        ray_session.get(control.tell.remote(status))
    if not told:
        ray_session.get(control.scale.remote(9))  # it is up
    with pytest.raises(ClusterError, match=r"does not answer within 0\.3 s") as raised:
        control_module._command(control, 3, lambda _line: None)
    assert raised.value.exit_code == 3
    ray_session.kill(control)


def test_command_is_followed_until_the_run_reports_that_it_is_done(ray_session):
    control, lines = ray_session.remote(Control).remote(), []

    def say(line):
        lines.append(line)
        if "running" in line:
            # Each waits for the one before: Ray calls an async actor in any order.
            ray_session.get(
                control.tell.remote(ActorPoolStatus(3, 1, 2, 0, 0, 1))
            )  # the same again is no news
            control.tell.remote(ActorPoolStatus(3, 3, 0, 0, 0, 1))

    ray_session.get(control.tell.remote(ActorPoolStatus(3, 1, 2, 0, 0, 1)))
    control_module._command(control, 3, say)
    assert lines == [
        "The run has 1 actor; 3 are wanted.",
        "  1 of 3 actors running, 2 starting",
        "The run has 3 actors.",
    ]
    ray_session.kill(control)
