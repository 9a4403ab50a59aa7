"""Several replays sampled as if they were one; a shard does not know the others."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distdqn.replay.frames import frame_capacity, make_frame_layout
from distdqn.types import (
    AnyArray,
    EnvironmentSpec,
    FloatArray,
    PriorityUpdate,
    ReplayInfo,
    SampledBatches,
    SampledRows,
    ShardAssignment,
    Transitions,
)


def shard_capacities(capacity: int, shards: int) -> list[int]:
    """The capacity of each shard, equal but for rounding; the sum is `capacity`."""
    return [capacity // shards + (shard < capacity % shards) for shard in range(shards)]


def assign_shards(
    replay_infos: Sequence[ReplayInfo],
    batches: int,
    batch_size: int,
    importance_sampling_exponent: float,
    generator: np.random.Generator,
) -> ShardAssignment:
    """Assigns `U = batches` times `B = batch_size` draws to shards by their total priority.

    `E[draws of s] = U * B * total_priority_s / sum_k total_priority_k`

    One random offset moves all borders between shards, so each number of draws is its mean rounded up
    or down. The order of the draws is random. At least one total priority must be positive.
    """
    count = batches * batch_size
    total_priority = np.array([info.total_priority for info in replay_infos], np.float64)  # [S]
    until = np.cumsum(total_priority)  # [S]
    until /= until[-1]  # exactly 1 after the last positive one: shards without priority get no draws
    borders = np.minimum(np.floor(until * count + generator.random()), count).astype(np.int64)
    shard = np.repeat(np.arange(len(total_priority), dtype=np.int16), np.diff(borders, prepend=0))  # [U * B]
    return ShardAssignment(
        generator.permutation(shard).reshape(batches, batch_size),
        total_priority / total_priority.sum(),
        sum(info.size for info in replay_infos),
        importance_sampling_exponent,
    )


def merge(assignment: ShardAssignment, parts: Sequence[SampledRows]) -> SampledBatches:
    """The batches `[U, B]` from the `parts` `[C, ...]` of the shards with draws, in order.

    The probability of a draw is that of its shard times that within the shard, so the
    importance weights are those of one replay with all items.
    """
    positions = _positions(assignment)

    def join(rows: Sequence[AnyArray]) -> Any:
        joined = np.empty((assignment.shard.size, *rows[0].shape[1:]), rows[0].dtype)  # [U * B, ...]
        for at, part in zip(positions, rows, strict=True):
            joined[at] = part
        return joined.reshape(*assignment.shard.shape, *joined.shape[1:])  # [U, B, ...]

    names = parts[0].transitions.columns()
    columns = {name: join([getattr(part.transitions, name) for part in parts]) for name in names}
    drawn = zip(parts, assignment.counts, strict=True)
    probability = join([part.probability * assignment.shard_probability[shard] for part, shard in drawn])
    weight = importance_weights(probability, assignment.size, assignment.importance_sampling_exponent)
    return SampledBatches(Transitions(**columns), join([part.item_id for part in parts]), weight)


def split_update(assignment: ShardAssignment, update: PriorityUpdate) -> list[PriorityUpdate]:
    """The part `[C]` of an update `[U, B]` for each shard with draws, in the order of the draws."""
    item_id, priority = update.item_id.ravel(), update.priority.ravel()  # [U * B]
    return [PriorityUpdate(item_id[at], priority[at]) for at in _positions(assignment)]


def _positions(assignment: ShardAssignment) -> list[npt.NDArray[np.intp]]:
    """The positions of each shard's draws among all `U * B`."""
    shard = assignment.shard.ravel()
    return [np.flatnonzero(shard == index) for index in assignment.counts]


def importance_weights(
    probability: npt.NDArray[np.float64], size: int, importance_sampling_exponent: float
) -> FloatArray:
    """Weights `[U, B]` in (0, 1] of items drawn with `probability` `[U, B]`.

    `(size * probability)^-importance_sampling_exponent`, divided by the maximum of its batch, and at least
    the smallest normal float32

    Source: Schaul et al. (2016), section 3.4, arXiv:1511.05952.
    """
    weight = (size * probability) ** -importance_sampling_exponent  # [U, B]
    weight /= weight.max(axis=1, keepdims=True)
    return np.maximum(weight, np.finfo(np.float32).tiny).astype(np.float32)


def replay_bytes(capacity: int, spec: EnvironmentSpec, prioritized: bool = False) -> int:
    """Bytes of a full replay, without the extra frames of one chunk."""
    tree = 2 * 8 << (capacity - 1).bit_length() if prioritized else 0
    numbers = capacity * 3 * 4 + tree  # action, reward, discount
    if spec.observation_dtype != "uint8":
        return numbers + capacity * 2 * 4 * math.prod(spec.observation_shape)
    layout = make_frame_layout(spec.observation_shape, spec.observation_high)
    frame_ids = capacity * 2 * 8 * layout.frames
    frame_bytes = math.prod(layout.frame_shape) + 8  # pixels and key
    return numbers + frame_ids + frame_capacity(layout, capacity) * frame_bytes
