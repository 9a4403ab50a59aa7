"""What travels from actors through replay to the learner: columns of transitions."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

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
    """

    observation: AnyArray
    action: IntArray
    reward: FloatArray
    discount: FloatArray
    next_observation: AnyArray

    def __len__(self) -> int:
        return len(self.action)

    def columns(self) -> dict[str, AnyArray]:
        """The columns by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class SampledBatches:
    """`U` batches of `B` transitions, stacked, as replay draws them for one learner call.

    Attributes:
        transitions: columns with leading axes `[U, B]`.
        item_id: `[U, B]` int64, insertion numbers; they name items for later updates.
    """

    transitions: Transitions
    item_id: npt.NDArray[np.int64]
