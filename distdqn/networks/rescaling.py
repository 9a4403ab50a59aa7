"""A scale of values on which large returns lie closer together, for arrays and for tensors."""

from typing import Any, TypeVar, cast

T = TypeVar("T")  # an array or a tensor of floats

_LINEAR = 1e-3  # epsilon, by which the scale has an inverse that does not explode


def rescale(values: T) -> T:
    """`h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x`, of `values` `[...]` in units of return.

    It is computed without the difference of nearly equal numbers. Epsilon is 0.001.

    Source: Pohlen et al. (2018), proposition A.2, arXiv:1805.11593; Kapturowski et al. (2019), "Recurrent
    Experience Replay in Distributed Reinforcement Learning", section 2.3.
    """
    x: Any = values
    rescaled: T = x / ((abs(x) + 1.0) ** 0.5 + 1.0) + _LINEAR * x
    return rescaled


def unscale(values: T) -> T:
    """The inverse of `rescale`.

    `sign(x) (((sqrt(1 + 4 epsilon (|x| + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1)`, without the difference of
    nearly equal numbers.

    Source: Pohlen et al. (2018), proposition A.2, arXiv:1805.11593.
    """
    x: Any = values
    root = (1.0 + 4.0 * _LINEAR * (abs(x) + 1.0 + _LINEAR)) ** 0.5
    slope = 2.0 / (root + 1.0 + 2.0 * _LINEAR)
    unscaled: T = x * slope * (2.0 + abs(x) * slope)
    return unscaled


def bootstrap(reward: T, discount: T, value: T, rescaled: bool) -> T:
    """`reward + discount * value`, `[...]`; of `rescaled` values `h(reward + discount * h^-1(value))`."""
    r, d, v = (cast("Any", each) for each in (reward, discount, value))
    target: T = rescale(r + d * unscale(v)) if rescaled else r + d * v
    return target
