"""Measures how many transitions per second a replay of several shards inserts and samples.

Starts the shards as a run does, fills them, inserts chunks as fast as possible, and then samples batches,
which it does not use. The numbers of shards take turns, so that a drift of the machine's speed affects all
alike, and each is compared with the first within its turn.

    python benchmarks/shards.py --shards 1 2 4 --turns 5

Each shard is one process with one thread, and the driver, which sends the calls, is another. Fewer free
cores than processes give little gain, so use an idle machine. The CPU seconds per million transitions depend
less on free cores. The last column follows from them: how much more the shards would carry with a core each,
`shards * seconds of the first / seconds of all`, until the driver's core is busy.
"""

import argparse
import collections
import itertools
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distdqn.cluster.connection import connected
from distdqn.config.config import Config
from distdqn.replay.replay import Replay
from distdqn.replay.shards import assign_shards
from distdqn.types import Transitions

METHODS = {"insert": "insert", "draw": "sample"}
_ROUNDS_AHEAD = 2
_MAX_SECONDS = 60.0  # for a call


@dataclass(frozen=True)
class Measured:
    """Transitions per second, and CPU seconds per transition of all shards and of the driver."""

    rate: float
    of_shards: float
    of_driver: float


def main():
    """Measures every number of shards in every turn, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default: 2)")
    parser.add_argument("--sampler", choices=["uniform", "prioritized"], default="prioritized")
    parser.add_argument("--chunk", type=int, default=1024, help="transitions in an insert (default: 1024)")
    parser.add_argument(
        "--batch-size", type=int, default=64, help="of the 64 updates of a call (default: 64)"
    )
    parser.add_argument("--numbers", type=int, default=4, help="size of an observation (default: 4)")
    options = parser.parse_args()
    chunk = make_chunk(options.chunk, options.numbers)
    results = {shards: [] for shards in options.shards}
    with connected("local", roles=max(options.shards) + 1) as cluster:
        for turn, shards in itertools.product(range(options.turns), options.shards):
            config = Config(
                replay_shards=shards,
                actors=shards,
                sampler=options.sampler,
                batch_size=options.batch_size,
                seed=turn,
            )
            results[shards].append(measure(cluster, config, chunk, options.seconds))
            inserted, sampled = (results[shards][-1][method].rate for method in METHODS)
            print(
                f"turn {turn}  shards {shards}  insert {inserted:,.0f}/s  sample {sampled:,.0f}/s", flush=True
            )
    print(
        f"\n{os.cpu_count()} cores, {options.sampler}, chunks of {options.chunk}, {options.numbers} numbers\n"
    )
    print(table(results))


def make_chunk(rows, numbers):
    """Random transitions with priorities."""
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=(2, rows, numbers)).astype(np.float32)
    reward, discount, priority = generator.random((3, rows)).astype(np.float32)
    return Transitions(before, np.zeros(rows, np.int32), reward, discount, after, priority)


def measure(cluster, config, chunk, seconds):
    """Measures inserts and samples of `config.replay_shards` shards."""
    import ray

    from distdqn.cluster.ray_backend import RayBackend

    def make_parts(_role, index, _restarts):
        return Replay, (config, index)

    folder = Path(tempfile.gettempdir()) / f"shards-{config.seed}-{config.replay_shards}"  # of logs
    backend = RayBackend(cluster, folder, make_parts, config)
    handles = [backend.start("replay", index, 0)[0] for index in range(config.replay_shards)]
    in_store = ray.put(chunk)
    inserts = [(handle, in_store, len(chunk)) for handle in handles]
    rounds = config.replay_capacity // (len(chunk) * len(handles)) + 1
    pump(backend, "insert", itertools.repeat(inserts, rounds))  # full, as during most of a run
    replay_infos = [backend.get(*backend.call(handle, "insert", in_store)) for handle in handles]
    generator, shape = np.random.default_rng(config.seed), (config.updates_per_call, config.batch_size)

    def draws():
        while True:
            assignment = assign_shards(replay_infos, *shape, 0.5, generator)
            yield [(handles[index], count, count) for index, count in assignment.counts.items()]

    found = {}
    for method, rounds in (("insert", itertools.repeat(inserts)), ("draw", draws())):
        before, own, begin = cpu_seconds(handles), time.process_time(), time.perf_counter()
        until = itertools.takewhile(lambda _, begin=begin: time.perf_counter() - begin < seconds, rounds)
        count = pump(backend, method, until)
        rate, own = count / (time.perf_counter() - begin), time.process_time() - own
        found[method] = Measured(rate, (cpu_seconds(handles) - before) / count, own / count)
    for handle in handles:
        backend.end(handle)
    return found


def cpu_seconds(handles):
    """CPU seconds of all these processes together."""
    import ray

    return sum(ray.get([handle.__ray_call__.remote(lambda _: time.process_time()) for handle in handles]))


def pump(backend, method, rounds):
    """Makes the calls of all rounds, a few in flight; returns the number of transitions."""
    import ray

    in_flight, transitions = collections.deque(), 0
    for requests in itertools.chain(rounds, [()] * _ROUNDS_AHEAD):
        in_flight.append([backend.call(handle, method, argument)[0] for handle, argument, _ in requests])
        transitions += sum(count for *_, count in requests)
        if len(in_flight) > _ROUNDS_AHEAD:
            refs = in_flight.popleft()
            ready, late = ray.wait(refs, num_returns=len(refs), timeout=_MAX_SECONDS) if refs else ([], [])
            if late:
                raise TimeoutError(f"`{method}` took more than {_MAX_SECONDS:.0f} s.")
            for ref in ready if method == "insert" else ():
                ray.get(ref)  # raises the error of the call
    return transitions


def table(results):
    """Median and range for each number of shards, and their ratio to the first, as Markdown."""
    rows = [
        "| | shards | transitions/s | ratio | CPU seconds per million: all shards | driver "
        "| ratio with a core each |",
        "|---|---|---|---|---|---|---|",
    ]
    first = next(iter(results.values()))
    for (method, name), (shards, turns) in itertools.product(METHODS.items(), results.items()):
        found = [turn[method] for turn in turns]
        times = [each.rate / turn[method].rate for each, turn in zip(found, first, strict=True)]
        on_free_cores = [
            shards * turn[method].of_shards / each.of_shards for each, turn in zip(found, first, strict=True)
        ]
        cells = [
            spread([each.rate for each in found], ",.0f"),
            spread(times, ".2f"),
            spread([1e6 * each.of_shards for each in found], ".2f"),
            spread([1e6 * each.of_driver for each in found], ".2f"),
            spread(on_free_cores, ".2f"),
        ]
        rows.append(f"| {name} | {shards} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def spread(values, form):
    """`median (minimum to maximum)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
