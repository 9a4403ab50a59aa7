import numpy as np
import pytest
from learning.loops import make_batches, make_loop, make_update_loop, part, update_eagerly
from toy_networks import make_q_network


@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_importance_weights_scale_each_loss_and_leave_the_errors_alone(loss: str) -> None:
    batches = make_batches(1, 2, seed=21, reward_scale=3.0)
    both = make_loop(9, loss=loss).run(batches, 0, np.array([[1.0, 1.0]], np.float32))
    first = make_loop(9, loss=loss).run(batches, 0, np.array([[1.0, 0.0]], np.float32))
    second = make_loop(9, loss=loss).run(batches, 0, np.array([[0.0, 1.0]], np.float32))
    mixed = make_loop(9, loss=loss).run(batches, 0, np.array([[0.5, 0.25]], np.float32))

    assert both.loss == pytest.approx(first.loss + second.loss, rel=1e-5)
    assert mixed.loss == pytest.approx(0.5 * first.loss + 0.25 * second.loss, rel=1e-5)
    assert mixed.gradient_norm < both.gradient_norm
    np.testing.assert_array_equal(mixed.td_error, both.td_error)


def test_td_errors_are_those_before_each_update() -> None:
    batches = make_batches(3, 4, seed=22)
    together = make_loop(9).run(batches, 0).td_error  # [3, 4]
    singly = make_loop(9)
    apart = [singly.run(part(batches, u, u + 1), u).td_error[0] for u in range(3)]

    np.testing.assert_allclose(together, apart, atol=1e-6)


def test_every_trainable_weight_of_a_dueling_network_changes_in_one_update() -> None:
    networks = [make_q_network((3,), 4, (5,), True, seed, dueling=True) for seed in (0, 1)]
    loop = make_update_loop(*networks)
    before = loop.online.get_weights()

    update_eagerly(loop, make_batches(1, 64, seed=12))

    assert len(before) == 12  # two streams: dense, normalization and output, two arrays each
    for new, old in zip(loop.online.get_weights(), before, strict=True):
        assert np.all(new != old)
