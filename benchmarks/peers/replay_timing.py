"""What both scripts that sample replays share: the transitions, the draws and the clock."""

import argparse
import json
import time

import numpy as np

TRANSITIONS = 100_000
# Name, and `U` batches of `B`. distdqn draws all batches of a call at once, and cpprb one batch.
DRAWS = {"512": (1, 512), "8192": (64, 128)}
SAMPLERS = ("uniform", "prioritized")
EXPONENT = 0.4  # of the importance weights of prioritized sampling
PRIORITY_EXPONENT = 0.6


def make_columns(seed):
    """Columns of 100,000 transitions like those of CartPole-v1, and their priorities."""
    generator = np.random.default_rng(seed)
    observation, next_observation = generator.normal(size=(2, TRANSITIONS, 4)).astype(np.float32)
    reward, discount, priority = generator.random((3, TRANSITIONS)).astype(np.float32)
    action = generator.integers(2, size=TRANSITIONS).astype(np.int32)
    return observation, action, reward, discount, next_observation, priority


def rate(draw, transitions, seconds):
    """Transitions per second of calls of `draw`, each of so many `transitions`."""
    for _ in range(10):  # caches and lazy parts
        draw()
    calls, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        for _ in range(10):
            draw()
        calls += 10
    return calls * transitions / elapsed


def main(description, make_draw, versions):
    """Measures every sampler and draw, and prints one line of JSON.

    `make_draw(sampler, columns, seed)` returns a function that draws `U` batches of `B`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement (default: 2)")
    options = parser.parse_args()
    columns, figures = make_columns(options.seed), {}
    for sampler in SAMPLERS:
        draw = make_draw(sampler, columns, options.seed)
        for name, (batches, batch_size) in DRAWS.items():
            figures[f"{sampler}_{name}"] = rate(
                lambda: draw(batches, batch_size),  # noqa: B023
                batches * batch_size,
                options.seconds,
            )
    print(json.dumps({**figures, "versions": versions}))
