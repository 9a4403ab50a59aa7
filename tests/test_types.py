import dataclasses

import numpy as np
import pytest

from distdqn.types import FrameLayout, Frames, Transitions


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


def test_columns_leave_out_what_is_not_stored_row_by_row():
    layout = FrameLayout((2, 2), None)
    image = np.zeros((1, 2, 2), np.uint8)
    frames = Frames(image, np.zeros(1, np.int64), layout)
    chunk = dataclasses.replace(make_transitions(1), priority=np.ones(1, np.float32), frames=frames)

    assert list(chunk.columns()) == list(make_transitions(1).columns())


def test_columns_are_the_arrays_themselves_and_no_copies():
    transitions = make_transitions(1, 2)

    assert transitions.columns()["reward"] is transitions.reward


def test_transitions_refuse_to_be_changed_in_place():
    transitions = make_transitions(1)

    with pytest.raises(AttributeError, match="cannot assign"):
        transitions.reward = np.zeros(1)
