"""What travels from actors through replay to the learner: columns of transitions."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from distdqn.frames import Frames

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Transitions:
    """Columns of n-step transitions, alike in their leading axes.

    Leading axes are `[C]` for a chunk from an actor and `[U, B]` for the batches of
    one learner call.

    Attributes:
        observation: `[..., *observation_shape]`, where the window starts.
        action: `[...]` int32 from 0, the action taken there.
        reward: `[...]` float32, discounted sum of the window's rewards.
        discount: `[...]` float32, product of the discounts over the window; 0 where
            the episode *terminated* in it. A truncated episode still bootstraps.
        next_observation: `[..., *observation_shape]`, where the window ends.
        priority: `[C]` float32, by the actor's own Q-values, in chunks for a prioritized
            replay; not stored with the transition.
        frames: of a chunk of images, each distinct frame once. `observation` and
            `next_observation` are then `[C, S]` int32, positions of their frames.
    """

    observation: AnyArray
    action: IntArray
    reward: FloatArray
    discount: FloatArray
    next_observation: AnyArray
    priority: FloatArray | None = None
    frames: Frames | None = None

    def __len__(self) -> int:
        return len(self.action)

    def columns(self) -> dict[str, AnyArray]:
        """The columns that are stored, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("priority", "frames")}


@dataclass(frozen=True)
class SampledBatches:
    """`U` batches of `B` transitions, stacked, as replay draws them for one learner call.

    Attributes:
        transitions: columns with leading axes `[U, B]`.
        item_id: `[U, B]` int64, insertion numbers; they name items for later updates.
        importance_weight: `[U, B]` float32 in (0, 1], what each loss is multiplied with.
    """

    transitions: Transitions
    item_id: npt.NDArray[np.int64]
    importance_weight: FloatArray


@dataclass(frozen=True)
class PriorityUpdate:
    """New priorities on their way from the learner back to replay.

    Attributes:
        item_id: `[U, B]` int64, in the order of the updates.
        priority: `[U, B]` float32, at least 0.
    """

    item_id: npt.NDArray[np.int64]
    priority: FloatArray
