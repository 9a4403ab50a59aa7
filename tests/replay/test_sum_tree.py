import numpy as np
import pytest

from distdqn.replay.samplers import SumTree


class NaiveSumTree:
    """The same by running sums over a plain list."""

    def __init__(self, capacity):
        self.values = [0.0] * capacity

    def set(self, positions, values):
        for position, value in zip(positions, values, strict=True):
            self.values[position] = value

    def find(self, target):
        running = 0.0
        for position, value in enumerate(self.values):
            running += value
            if target < running:
                return position
        raise AssertionError(target)


@pytest.mark.parametrize("seed", range(10))
def test_sum_tree_agrees_with_naive_sum_tree_under_random_operations(seed):
    generator = np.random.default_rng(seed)
    capacity = int(generator.integers(1, 40))
    tree, naive = SumTree(capacity), NaiveSumTree(capacity)
    for _ in range(30):
        positions = generator.integers(capacity, size=generator.integers(1, 20))
        values = generator.integers(0, 5, size=len(positions)).astype(np.float64)  # sums are exact
        tree.set(positions, values)
        naive.set(positions, values)

        assert tree.get(np.arange(capacity)).tolist() == naive.values
        assert tree.total == sum(naive.values)
        assert tree.check_valid() == (True, "")
        if tree.total > 0:
            targets = generator.random(50) * tree.total
            assert tree.find(targets).tolist() == [naive.find(target) for target in targets]


def test_target_on_a_boundary_belongs_to_the_next_value():
    tree = SumTree(4)
    tree.set(np.arange(4), np.array([1.0, 0.0, 2.0, 3.0]))

    # The running sums are 1, 1, 3, 6: position 1 has nothing and is never found.
    assert tree.find(np.array([0.0, 0.999, 1.0, 2.999, 3.0, 5.999])).tolist() == [0, 0, 2, 2, 3, 3]


def test_target_that_rounding_put_past_the_end_finds_the_last_positive_value():
    tree = SumTree(5)
    tree.set(np.array([0, 2]), np.array([0.1, 0.2]))

    assert tree.find(np.array([tree.total, tree.total + 1e-9])).tolist() == [2, 2]


def test_last_value_counts_when_a_position_is_named_twice():
    tree = SumTree(3)
    tree.set(np.array([1, 1, 1]), np.array([5.0, 7.0, 2.0]))

    assert tree.total == 2.0


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_values_that_would_spoil_the_sums_are_refused(value):
    tree = SumTree(2)
    with pytest.raises(ValueError, match="finite and at least 0"):
        tree.set(np.array([0]), np.array([value]))
    assert tree.total == 0.0


def test_check_names_a_sum_that_is_wrong():
    tree = SumTree(4)
    tree.set(np.arange(4), np.ones(4))
    tree._nodes[2] = 9.0

    is_valid, reason = tree.check_valid()

    assert not is_valid
    assert "1, 2" in reason


def test_tree_of_one_value_finds_it():
    tree = SumTree(1)
    tree.set(np.array([0]), np.array([0.3]))

    assert tree.find(np.array([0.0, 0.29])).tolist() == [0, 0]
