"""Several replays drawn from as if they were one: who draws how much, and how parts become batches.

A shard knows nothing of the others. What one part needs to know of the whole, its share
and the size of all, is put together here, by functions of numbers alone.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from distdqn.replay.frames import frame_capacity, make_frame_layout
from distdqn.types import (
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
    """What of `replay_capacity` each of the shards holds."""
    return [capacity // shards + (shard < capacity % shards) for shard in range(shards)]


def assign_shards(
    replay_infos: Sequence[ReplayInfo],
    batches: int,
    batch_size: int,
    importance_sampling_exponent: float,
    generator: np.random.Generator,
) -> ShardAssignment:
    """Spreads `U * B` draws over shards in proportion to their mass.

    `E[draws of s] = U * B * mass_s / sum_k mass_k`

    The numbers of draws are stratified: one random offset moves all borders between the
    shards, so that each number is the whole one below or above its mean. Which draws they
    are is random.

    Args:
        stocks: of all shards, at least one with a mass above 0.
        batches: `U`.
        batch_size: `B`.
        importance_sampling_exponent: of the importance weights.
        generator: all randomness comes from it.
    """
    count = batches * batch_size
    total_priority = np.array([info.total_priority for info in replay_infos], np.float64)  # [S]
    until = np.cumsum(total_priority)  # [S]
    until /= until[-1]  # 1 from the last mass on, exactly: a shard without any is not drawn from
    borders = np.minimum(np.floor(until * count + generator.random()), count).astype(np.int64)
    shard = np.repeat(np.arange(len(total_priority), dtype=np.int16), np.diff(borders, prepend=0))  # [U * B]
    return ShardAssignment(
        generator.permutation(shard).reshape(batches, batch_size),
        total_priority / total_priority.sum(),
        sum(info.size for info in replay_infos),
        importance_sampling_exponent,
    )


def merge(split: ShardAssignment, parts: Sequence[SampledRows]) -> SampledBatches:
    """The batches `[U, B]` of which every shard has drawn its part.

    The probability of a draw is that of its shard times that within the shard, so the
    importance weights are those of one replay with all items.

    Args:
        split: from which shard each draw is.
        parts: of the shards that were drawn from, in their order; each `[C, ...]`.
    """
    shape = split.shard.shape
    places = _places(split)
    columns: dict[str, Any] = {
        field.name: _joined([getattr(part.transitions, field.name) for part in parts], places, shape)
        for field in fields(Transitions)
        if field.name not in ("priority", "frames")
    }
    probability = [
        part.probability * split.shard_probability[shard]
        for part, shard in zip(parts, split.counts, strict=True)
    ]
    weight = importance_weights(
        _joined(probability, places, shape), split.size, split.importance_sampling_exponent
    )
    item_id = _joined([part.item_id for part in parts], places, shape)
    return SampledBatches(Transitions(**columns), item_id, weight)


def split_update(split: ShardAssignment, update: PriorityUpdate) -> list[PriorityUpdate]:
    """The part `[C]` of an update `[U, B]` for each shard that was drawn from, in the order of the draws."""
    item_id, priority = update.item_id.ravel(), update.priority.ravel()  # [U * B]
    return [PriorityUpdate(item_id[places], priority[places]) for places in _places(split)]


def importance_weights(
    probability: npt.NDArray[np.float64], size: int, importance_sampling_exponent: float
) -> FloatArray:
    """`(size * probability)^-importance_sampling_exponent`, divided by the largest of its batch.

    So that it only ever makes a step smaller.

    Args:
        probability: `[U, B]`, how likely one draw was to give each item.
        size: transitions that could be drawn.
        importance_sampling_exponent: 0 makes all weights 1, 1 undoes the sampling fully.

    Returns:
        `[U, B]` in (0, 1].

    Source: Schaul et al. (2016), section 3.4, arXiv:1511.05952.
    """
    weight = (size * probability) ** -importance_sampling_exponent  # [U, B]
    weight /= weight.max(axis=1, keepdims=True)
    return weight.astype(np.float32)


def _places(split: ShardAssignment) -> list[npt.NDArray[np.intp]]:
    """Of each shard that is drawn from, where in the `U * B` draws its own are."""
    shard = split.shard.ravel()
    return [np.flatnonzero(shard == index) for index in split.counts]


def _joined(
    parts: Sequence[npt.NDArray[Any]], places: Sequence[npt.NDArray[np.intp]], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """`[U, B, ...]` with the rows of each part `[C, ...]` at its places."""
    row_shape = parts[0].shape[1:]
    whole = np.empty((shape[0] * shape[1], *row_shape), parts[0].dtype)
    for part, at in zip(parts, places, strict=True):
        whole[at] = part
    return whole.reshape(*shape, *row_shape)


def replay_bytes(capacity: int, spec: EnvironmentSpec, prioritized: bool = False) -> int:
    """Bytes of a full replay, except room for the frames of one chunk.

    Args:
        capacity: most transitions kept.
        spec: of the environment.
        prioritized: whether there is a sum tree, too.
    """
    tree = 2 * 8 << (capacity - 1).bit_length() if prioritized else 0
    numbers = capacity * 3 * 4 + tree  # action, reward, discount
    if spec.observation_dtype != "uint8":
        return numbers + capacity * 2 * 4 * math.prod(spec.observation_shape)
    layout = make_frame_layout(spec.observation_shape, spec.observation_high)
    frame_ids = capacity * 2 * 8 * layout.frames
    frame_bytes = math.prod(layout.frame_shape) + 8  # its pixels and its key
    return numbers + frame_ids + frame_capacity(layout, capacity) * frame_bytes
