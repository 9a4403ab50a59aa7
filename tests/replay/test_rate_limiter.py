"""RateLimiter: `samples_per_insert` within its tolerance, whichever side is faster, and no deadlock."""

import numpy as np
import pytest

from distdqn.replay.rate_limiter import RateLimiter


def simulate(
    rate_limiter: RateLimiter, chunk: int, count: int, actor_share: float, turns: int, seed: int
) -> list[tuple[int, int]]:
    """Lets either side try at random, actors with `actor_share`; (inserted, sampled) after each turn.

    Raises:
        RuntimeError: neither side may continue.
    """
    generator = np.random.default_rng(seed)
    inserted = sampled = 0
    path = []
    for is_actor in generator.random(turns) < actor_share:
        can_insert = rate_limiter.can_insert(inserted, sampled)
        can_sample = rate_limiter.can_sample(inserted, sampled, count)
        if not can_insert and not can_sample:
            raise RuntimeError(f"Deadlock at {inserted} inserted, {sampled} sampled.")
        if is_actor and can_insert:
            inserted += chunk
        elif not is_actor and can_sample:
            sampled += count
        path.append((inserted, sampled))
    return path


def ratios(rate_limiter: RateLimiter, path: list[tuple[int, int]]) -> np.ndarray:
    """`samples_per_insert` over the last tenth of a simulation."""
    late = np.array(path[-len(path) // 10 :], np.float64)  # [T, 2]
    return late[:, 1] / (late[:, 0] - rate_limiter.min_replay_size)


@pytest.mark.parametrize("actor_share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("goal", [0.5, 4.0, 16.0])
def test_ratio_stays_within_its_tolerance_whichever_side_is_faster(goal: float, actor_share: float) -> None:
    rate_limiter = RateLimiter(
        samples_per_insert=goal, tolerance=0.1, min_replay_size=50, slack=2 * 64 + goal * 40
    )

    found = ratios(rate_limiter, simulate(rate_limiter, 10, 64, actor_share, turns=60_000, seed=1))

    # One chunk may be started just within the tolerance.
    assert np.all(found <= goal)
    assert np.all(found >= goal * 0.9 * 0.98)


def test_slow_learner_holds_fast_actors_at_the_lower_bound() -> None:
    rate_limiter = RateLimiter(samples_per_insert=4.0, tolerance=0.1, min_replay_size=50, slack=300.0)

    found = ratios(rate_limiter, simulate(rate_limiter, 10, 64, 0.99, turns=60_000, seed=2))

    assert found.mean() == pytest.approx(4.0 * 0.9, rel=0.02)


def test_slow_actors_hold_a_fast_learner_at_the_goal() -> None:
    rate_limiter = RateLimiter(samples_per_insert=4.0, tolerance=0.1, min_replay_size=50, slack=300.0)

    found = ratios(rate_limiter, simulate(rate_limiter, 10, 64, 0.01, turns=60_000, seed=3))

    assert found.mean() == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("seed", range(200))
def test_neither_side_waits_for_the_other_for_ever(seed: int) -> None:
    generator = np.random.default_rng(seed)
    chunk, count = int(generator.integers(1, 500)), int(generator.integers(1, 5000))
    rate_limiter = RateLimiter(
        samples_per_insert=float(10 ** generator.uniform(-3, 3)),
        tolerance=float(generator.uniform(1e-6, 1.0)),
        min_replay_size=int(generator.integers(1, 2000)),
        slack=float(count),  # the least: one learner call
    )

    path = simulate(rate_limiter, chunk, count, float(generator.uniform(0.02, 0.98)), turns=2000, seed=seed)

    assert path[-1][0] > rate_limiter.min_replay_size or path[-1][0] >= 10 * chunk  # actors continued
    assert all(
        sampled <= rate_limiter.samples_per_insert * max(0, inserted - rate_limiter.min_replay_size)
        for inserted, sampled in path
    )


def test_slack_below_one_learner_call_can_stop_both_sides() -> None:
    rate_limiter = RateLimiter(samples_per_insert=1.0, tolerance=0.1, min_replay_size=10, slack=1.0)

    with pytest.raises(RuntimeError, match="Deadlock"):
        simulate(rate_limiter, chunk=1, count=100, actor_share=0.5, turns=1000, seed=0)


def test_nothing_is_sampled_before_the_minimum_is_in() -> None:
    rate_limiter = RateLimiter(samples_per_insert=16.0, tolerance=0.1, min_replay_size=100, slack=1e9)

    assert not rate_limiter.can_sample(inserted=99, sampled=0, count=1)
    assert not rate_limiter.can_sample(inserted=99, sampled=0, count=0)
    assert not rate_limiter.can_sample(inserted=100, sampled=0, count=1)
    assert rate_limiter.can_sample(inserted=101, sampled=0, count=16)
    assert not rate_limiter.can_sample(inserted=101, sampled=0, count=17)


def test_actors_may_always_fill_replay_up_to_the_minimum() -> None:
    rate_limiter = RateLimiter(samples_per_insert=16.0, tolerance=0.1, min_replay_size=100, slack=64.0)

    assert all(rate_limiter.can_insert(inserted, sampled=0) for inserted in range(101))


def test_actors_may_insert_while_the_backlog_is_within_the_slack() -> None:
    rate_limiter = RateLimiter(samples_per_insert=2.0, tolerance=0.1, min_replay_size=100, slack=64.0)

    # Backlog: 2 * (inserted - 100) - sampled.
    assert rate_limiter.can_insert(inserted=132, sampled=0)  # 64
    assert not rate_limiter.can_insert(inserted=133, sampled=0)  # 66
    assert rate_limiter.can_insert(inserted=133, sampled=2)  # 64


def test_actors_may_insert_while_the_backlog_is_within_the_tolerance() -> None:
    rate_limiter = RateLimiter(samples_per_insert=2.0, tolerance=0.25, min_replay_size=100, slack=64.0)

    # 1,000 inserted beyond the minimum are worth 2,000 samples; a quarter may be missing.
    assert rate_limiter.can_insert(inserted=1100, sampled=1500)
    assert not rate_limiter.can_insert(inserted=1100, sampled=1499)


def test_learner_may_sample_up_to_the_goal_and_not_beyond() -> None:
    rate_limiter = RateLimiter(samples_per_insert=2.0, tolerance=0.25, min_replay_size=100, slack=64.0)

    assert rate_limiter.can_sample(inserted=150, sampled=36, count=64)  # 36 + 64 = 2 * 50
    assert not rate_limiter.can_sample(inserted=150, sampled=37, count=64)


def test_each_actor_adds_to_the_backlog_that_is_always_allowed() -> None:
    rate_limiter = RateLimiter(
        samples_per_insert=2.0, tolerance=0.1, min_replay_size=100, slack=64.0, slack_per_actor=20.0
    )

    # Backlogs of 84, 85, 104 and 105 samples: 2 * (inserted - 100) - sampled.
    assert rate_limiter.can_insert(inserted=142, sampled=0, actors=1)
    assert not rate_limiter.can_insert(inserted=143, sampled=1, actors=1)
    assert rate_limiter.can_insert(inserted=152, sampled=0, actors=2)
    assert not rate_limiter.can_insert(inserted=153, sampled=1, actors=2)
