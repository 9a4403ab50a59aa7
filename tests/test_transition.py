import numpy as np
import pytest

from distdqn.transition import Transitions


def make_transitions(*numbers):
    column = np.array(numbers, np.float32)
    return Transitions(
        observation=column[:, None],
        action=column.astype(np.int32),
        reward=column * 10,
        discount=column * 100,
        next_observation=column[:, None] * 1000,
    )


def test_length_of_transitions_is_their_number_of_rows():
    assert len(make_transitions(7, 8, 9)) == 3
    assert len(make_transitions()) == 0


def test_columns_come_by_name_in_the_order_of_the_fields():
    columns = make_transitions(1, 2).columns()

    assert list(columns) == ["observation", "action", "reward", "discount", "next_observation"]
    assert columns["discount"].tolist() == [100.0, 200.0]


def test_columns_are_the_arrays_themselves_and_no_copies():
    transitions = make_transitions(1, 2)

    assert transitions.columns()["reward"] is transitions.reward


def test_transitions_refuse_to_be_changed_in_place():
    transitions = make_transitions(1)

    with pytest.raises(AttributeError, match="cannot assign"):
        transitions.reward = np.zeros(1)
