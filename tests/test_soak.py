"""What benchmarks/soak.py makes of its samples: slopes, and what counts as growing."""

import numpy as np
import pytest
from soak import ALLOWED, series_of, slope_per_hour, table


def samples_of(rss_of_second):
    """Half an hour of samples of a driver, whose replay of 100 is full after 20 s."""
    return [
        {
            "seconds": float(second),
            "inserted": 5 * second,
            "driver rss_mb": rss_of_second(second),
            "driver files": 40,
        }
        for second in range(0, 1800, 5)
    ]


def test_slope_is_that_of_the_line_whatever_a_few_samples_say():
    seconds = np.arange(0.0, 600.0, 5.0)
    values = 100.0 + seconds / 60
    values[[3, 40, 77]] += 1000.0

    assert slope_per_hour(seconds, values) == pytest.approx(60.0)


def test_growth_during_the_warm_up_counts_for_nothing():
    series = series_of(samples_of(lambda second: 100.0 + min(second, 60)), capacity=100)

    assert series["driver rss_mb"] == {
        "first": 160.0,
        "last": 160.0,
        "per_hour": 0.0,
        "late_per_hour": 0.0,
        "is_flat": True,
    }
    assert series["driver files"]["is_flat"]


def test_memory_that_settles_grows_over_all_and_not_in_the_last_third():
    # The samples that count are from 60 to 1,795 s, their last third from 1,217 s on.
    series = series_of(samples_of(lambda second: 100.0 + min(second, 1200) / 60), capacity=100)

    assert series["driver rss_mb"]["per_hour"] > 10.0
    assert series["driver rss_mb"]["late_per_hour"] == 0.0

    series = series_of(samples_of(lambda second: 100.0 + max(second - 1220, 0) / 60), capacity=100)

    assert series["driver rss_mb"]["late_per_hour"] == pytest.approx(60.0)


def test_memory_that_grows_faster_than_allowed_is_told():
    at_once, by_the_hour = ALLOWED["rss_mb"]
    hours = (1795 - 60) / 3600
    most = at_once / hours + by_the_hour  # MB an hour

    for factor, is_flat in ((0.9, True), (1.1, False)):
        series = series_of(samples_of(lambda s, f=factor: 100.0 + f * most * s / 3600), capacity=100)
        assert series["driver rss_mb"]["is_flat"] is is_flat


def test_run_whose_replay_is_not_full_is_too_short_to_judge():
    with pytest.raises(SystemExit, match="Only 0 of 360 samples"):
        series_of(samples_of(lambda _: 1.0), capacity=10**6)


def test_table_has_a_line_for_each_process_with_end_and_slope():
    assert table(series_of(samples_of(lambda _: 150.0), capacity=100)).splitlines()[2:] == [
        "| driver | 150 (+0.0, +0.0) |  | 40 (+0.0, +0.0) |  |  |  |"
    ]
