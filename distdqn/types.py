"""All that travels between roles: transitions, batches, weights, requests and reports.

Leading axes: `[C]` a chunk of transitions, `[U, B]` the batches of one learner call, `[T, E]` vector steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[np.generic]
FrameArray = npt.NDArray[np.generic]  # of uint8
Positions = npt.NDArray[np.int32]

Layer = dict[str, Any]  # of a network: see `PolicyWeights.layers`
Tree = dict[str, Any]  # nested dictionaries and lists of arrays, numbers and text


@dataclass(frozen=True)
class ObservationPart:
    """A part of an observation that is packed into one array, of float32 or of bytes."""

    name: str  # path in the space, as in `goal.position`
    kind: str  # `vector`, `image`, or `mask`: 1 for each action that is allowed, else 0
    shape: tuple[int, ...]
    begin: int  # first number of the packed array that belongs to it
    end: int  # one past the last
    high: float = 1.0  # of an image, the value that the network scales to 1

    def read(self, packed: AnyArray) -> AnyArray:
        """The part `[..., *shape]` of packed observations `[..., N]`: images uint8, all else float32."""
        part = packed[..., self.begin : self.end]
        if packed.dtype == np.uint8 and self.kind != "image":
            part = np.ascontiguousarray(part).view(np.float32)
        return part.reshape(*packed.shape[:-1], *self.shape)


@dataclass(frozen=True)
class EnvironmentSpec:
    """What the rest of the program needs to know of an environment."""

    name: str  # as shown to people and in the run directory's name
    observation_shape: tuple[int, ...]
    actions: int  # number of actions `A`
    reward_threshold: float | None  # mean return at which Gymnasium calls it solved
    observation_dtype: str  # in replay: `uint8` for images, else `float32`
    observation_low: float  # smallest value of the observation space
    observation_high: float  # largest value of the observation space
    conversion: str | None  # a line for the user about observations that are converted
    parts: tuple[ObservationPart, ...] = ()  # none: an observation is one array of one kind
    code_high: float | None = None  # of a lone image that holds codes, the largest one seen
    is_discrete: bool = False  # observations have discrete parts alone

    @classmethod
    def from_json(cls, tree: "Tree") -> Self:
        """The inverse of `asdict` and JSON."""
        parts = [ObservationPart(**part | {"shape": tuple(part["shape"])}) for part in tree["parts"]]
        shape = tuple(tree["observation_shape"])
        return cls(**tree | {"observation_shape": shape, "parts": tuple(parts)})

    @property
    def is_image(self) -> bool:
        """Whether observations are images, kept as uint8."""
        return self.observation_dtype == "uint8"

    @property
    def torso_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of what a torso processes: of the images among the parts, or of the whole observation."""
        if self.parts:
            return [part.shape for part in self.parts if part.kind == "image"]
        return [self.observation_shape]

    @property
    def image_high(self) -> float:
        """The value of a lone image that the network scales to 1."""
        return (self.code_high or self.observation_high) or 1.0  # 0: all are black

    @property
    def mask(self) -> ObservationPart | None:
        """The part of an observation that says which actions are allowed, if there is one."""
        return next((part for part in self.parts if part.kind == "mask"), None)


@dataclass(frozen=True)
class Steps:
    """What happened in `E` environments over `T` vector steps."""

    observation: AnyArray  # [T, E, *observation_shape], what was acted on
    action: IntArray  # [T, E] int32 from 0
    reward: FloatArray  # [T, E]
    terminated: BoolArray  # [T, E]
    truncated: BoolArray  # [T, E]
    next_observation: AnyArray  # [T, E, *observation_shape], an episode's last observation included
    # [T, E]. False where the environment only reset itself, or the step is masked: no window contains it.
    is_transition: BoolArray
    is_exploratory: BoolArray  # [T, E], whether the action was not greedy; all False if nobody asks

    @classmethod
    def empty(
        cls, length: int, environments: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]
    ) -> "Steps":
        """Room for `length` vector steps of `environments`, to be filled in place."""
        size = (length, environments)
        return cls(
            observation=np.zeros((*size, *shape), dtype),
            action=np.zeros(size, np.int32),
            reward=np.zeros(size, np.float32),
            terminated=np.zeros(size, np.bool_),
            truncated=np.zeros(size, np.bool_),
            next_observation=np.zeros((*size, *shape), dtype),
            is_transition=np.zeros(size, np.bool_),
            is_exploratory=np.zeros(size, np.bool_),
        )

    def __len__(self) -> int:
        return len(self.action)

    def __getitem__(self, rows: slice) -> "Steps":
        return Steps(*(getattr(self, f.name)[rows] for f in fields(self)))

    def followed_by(self, later: "Steps") -> "Steps":
        """These steps and then `later` ones, along time."""
        pairs = ((getattr(self, f.name), getattr(later, f.name)) for f in fields(self))
        return Steps(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class FrameLayout:
    """How an observation is made of `S` frames."""

    observation_shape: tuple[int, ...]
    stack_axis: int | None  # axis of the frames; None if the whole observation is one frame
    channels: int = 1  # of one frame, along `stack_axis`

    @property
    def frames(self) -> int:
        """`S`, frames in one observation."""
        return 1 if self.stack_axis is None else self.observation_shape[self.stack_axis] // self.channels

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        plane = tuple(n for axis, n in enumerate(self.observation_shape) if axis != self.stack_axis)
        return plane if self.channels == 1 else (self.channels, *plane)

    def split(self, observation: FrameArray) -> FrameArray:
        """The frames `[C, S, *frame_shape]` of observations `[C, *observation_shape]`."""
        if self.stack_axis is None:
            return observation[:, None]
        planes = np.moveaxis(observation, 1 + self.stack_axis, 1)  # [C, S * channels, ...]
        return planes.reshape(len(planes), self.frames, *self.frame_shape)

    def join(self, frames: FrameArray) -> FrameArray:
        """The observations `[C, *observation_shape]` made of frames `[C, S, *frame_shape]`."""
        if self.stack_axis is None:
            return frames[:, 0]
        plane = self.frame_shape if self.channels == 1 else self.frame_shape[1:]
        planes = frames.reshape(len(frames), self.frames * self.channels, *plane)
        return np.ascontiguousarray(np.moveaxis(planes, 1, 1 + self.stack_axis))


@dataclass(frozen=True)
class Frames:
    """The distinct frames of a chunk of transitions."""

    image: FrameArray  # [F, *frame_shape] uint8
    key: npt.NDArray[np.int64]  # [F], a digest of each frame's content
    layout: FrameLayout


@dataclass(frozen=True)
class Transitions:
    """Columns of n-step transitions, alike in their leading axes `[...]`."""

    observation: AnyArray  # [..., *observation_shape], where the window starts
    action: IntArray  # [...] int32 from 0
    reward: FloatArray  # [...], discounted sum of the window's rewards
    discount: FloatArray  # [...], product over the window; 0 where the episode terminated, not if truncated
    next_observation: AnyArray  # [..., *observation_shape], where the window ends
    priority: FloatArray | None = None  # [C], first priorities for a prioritized replay; never stored here
    # Of a chunk of images. The two observations are then [C, S] int32, positions of their frames.
    frames: Frames | None = None

    def __len__(self) -> int:
        return len(self.action)

    def columns(self) -> dict[str, AnyArray]:
        """The columns that are stored, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("priority", "frames")}


@dataclass(frozen=True)
class SampledBatches:
    """`U` batches of `B` transitions, stacked, as replay draws them for one learner call."""

    transitions: Transitions  # [U, B]
    item_id: npt.NDArray[np.int64]  # [U, B], insertion numbers
    importance_weight: FloatArray  # [U, B] in (0, 1], factor of each loss


@dataclass(frozen=True)
class PriorityUpdate:
    """New priorities, from the learner back to replay."""

    item_id: npt.NDArray[np.int64]  # [U, B], in the order of the updates
    priority: FloatArray  # [U, B], at least 0


@dataclass(frozen=True)
class ReplayInfo:
    """What a replay holds."""

    inserted: int = 0  # transitions ever inserted
    size: int = 0  # transitions stored
    total_priority: float = 0.0  # `size`, or the sum of the powers of its priorities


@dataclass(frozen=True)
class SampledRows:
    """The part of a learner call's batches that one shard draws."""

    transitions: Transitions  # [C]
    item_id: npt.NDArray[np.int64]  # [C], insertion numbers within the shard
    probability: npt.NDArray[np.float64]  # [C], of each item in one draw from this shard


@dataclass(frozen=True)
class ShardAssignment:
    """From which shard each draw of one learner call is."""

    shard: IntArray  # [U, B], index of the shard
    shard_probability: npt.NDArray[np.float64]  # [S], of each shard in one draw
    size: int  # transitions in all shards
    importance_sampling_exponent: float

    @property
    def counts(self) -> dict[int, int]:
        """Draws by shard, of the shards that are drawn from."""
        shards, counts = np.unique(self.shard, return_counts=True)
        return dict(zip(shards.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True)
class PolicyWeights:
    """One published version of the Q-network: all that is needed to act."""

    # In the order of evaluation, each with `name`, `kind`, `inputs` (names), `arrays` (positions in `arrays`)
    # and the settings of its kind; or one layer of the kind `keras`, see `KerasPolicy`.
    layers: list[Layer]
    arrays: list[FloatArray] = field(repr=False)  # [...] each
    weights_version: tuple[int, int]  # (generation, version): the generation counts restarts of the learner
    learner_steps: int  # gradient updates behind these weights


@dataclass(frozen=True)
class RolloutRequest:
    """What an actor is asked for."""

    env_steps: int  # of the run so far, those before the first signal excluded; sets epsilon
    limit: int  # most env steps to take
    # Of the actor among the acting ones, from 0; with `actors` it sets its rungs of the ladder.
    position: int = 0
    actors: int = 1  # how many act now


@dataclass(frozen=True)
class RolloutReport:
    """What an actor reports of one rollout; the transitions travel apart."""

    env_steps: int  # real transitions of the environments, resets excluded, recorded ones included
    transitions: int  # n-step transitions completed, the size of the chunk
    episode_returns: list[float]  # undiscounted, of the episodes that ended
    episode_lengths: list[int]  # in env steps
    epsilon: float  # mean over the environments
    weights_version: tuple[int, int] | None  # of the network that acted; None before the first weights
    weights_learner_steps: int  # learner steps behind that network
    env_seconds: float  # inside the environments
    network_seconds: float  # inside the network and action selection
    total_seconds: float
    idle_seconds: float = 0.0  # of these, those without need of a CPU; 0 where the system does not tell
    env_faults: int = 0  # times an environment raised and all were rebuilt
    env_tracebacks: list[str] = field(default_factory=list)  # those never reported before
    episodes_lost: int = 0  # open episodes that these faults ended
    env_warnings: dict[str, str] = field(default_factory=dict)  # lines for the user, by what they are about
    longest_open_episode: int = 0  # in env steps
    not_finite: int = 0  # steps masked because of NaN or infinity
    has_signal: bool = True  # whether a reward is not 0 or an episode terminated: there is something to learn
    recorded_steps: int = 0  # those of `env_steps` that were read from a dataset


@dataclass(frozen=True)
class FlushReport:
    """What an actor reports of a flush; the transitions travel apart."""

    episodes_lost: int  # open episodes with at least one env step
    transitions: int  # open windows, closed as if their episodes had been truncated


@dataclass(frozen=True)
class LearnRequest:
    """What a call of the learner is made with."""

    learning_rate: float  # of Adam
    importance_sampling_exponent: float


@dataclass(frozen=True)
class LearnReport:
    """What the learner reports of one call. Means are over the updates that were applied, 0 if none was."""

    updates: int  # in this call, skipped ones included
    learner_steps: int  # in all, skipped ones included
    loss: float
    q_mean: float  # mean Q-value of the actions in the batches
    gradient_norm: float  # mean global norm before clipping
    seconds: float
    weights_version: tuple[int, int] | None  # of the weights published with it
    not_finite: int = 0  # updates skipped because of NaN or infinity
    first_not_finite: str | None = None  # the tensor that caused the first of those
    notice: str | None = None  # a line for the user
    # Of the last update, `[B]` float32: TD errors, and the Q-values of the actions taken.
    td_error: FloatArray | tuple[()] = field(default=(), compare=False, repr=False)
    q_values: FloatArray | tuple[()] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation to make."""

    weights: Any  # `PolicyWeights`, or a reference to them
    episodes: int
    number: int  # of this evaluation in the run; fixes its episodes
    confirms: bool  # whether it decides that the goal is reached
    seconds: float | None = None  # until it is cut; None: never


@dataclass(frozen=True)
class Evaluation:
    """The result of greedy episodes of one version of the weights."""

    returns: list[float]  # undiscounted, one for each episode
    weights_version: tuple[int, int]
    learner_steps: int  # gradient updates behind the weights
    seconds: float
    env_faults: int = 0  # times an environment raised and all episodes were repeated
    env_tracebacks: list[str] = field(default_factory=list)  # those never reported before
    is_cut: bool = False  # its time was over: the episodes that ended first, which are no fair sample

    @classmethod
    def joined(cls, parts: Sequence["Evaluation"]) -> "Evaluation":
        """All episodes of `parts`, which were played at the same time with the same weights."""
        return replace(
            parts[0],
            returns=[each for part in parts for each in part.returns],
            seconds=max(part.seconds for part in parts),
            env_faults=sum(part.env_faults for part in parts),
            env_tracebacks=[each for part in parts for each in part.env_tracebacks],
            is_cut=any(part.is_cut for part in parts),
        )

    @property
    def mean(self) -> float:
        """Mean return; NaN without an episode."""
        return float(np.mean(self.returns)) if self.returns else math.nan

    @property
    def standard_deviation(self) -> float:
        """Sample standard deviation of the returns; 0 for one episode."""
        with np.errstate(invalid="ignore"):  # infinite returns have none
            return float(np.std(self.returns, ddof=1)) if len(self.returns) > 1 else 0.0

    @property
    def lower_bound(self) -> float:
        """Two standard errors below the mean; minus infinity where a return is not finite."""
        if not np.isfinite(self.returns).all():
            return -math.inf
        return self.mean - 2.0 * self.standard_deviation / math.sqrt(len(self.returns))


@dataclass(frozen=True)
class ActorPoolStatus:
    """How many actors a run has."""

    wanted: int
    acting: int  # processes that are up and stay
    starting: int  # processes that are not up yet
    waiting: int  # of the starting ones, those for which the cluster has no free resources
    draining: int  # processes that finish their last rollout
    command: int  # number of the last command received; 0 before any

    @property
    def is_complete(self) -> bool:
        """Whether the run has the actors it wants, and no others."""
        return self.acting == self.wanted and not self.starting and not self.draining
