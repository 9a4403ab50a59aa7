"""Many environments stepped as one, and rebuilt when one of them raises."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import iterate

from distdqn.environments.output_checks import OutputCheck, check_first_episodes
from distdqn.environments.registry import autoreset_mode, make_vector_environment
from distdqn.environments.sources import EnvironmentSource, environment_name
from distdqn.environments.spaces import NumberedActions, ObservationPacker, mask_from_info
from distdqn.errors import ConsecutiveFailures, DistdqnError, EnvironmentFault, one_line
from distdqn.types import AnyArray, BoolArray, IntArray, Steps

_SURROUNDINGS = ("distdqn", "gymnasium")
_RENDER_FPS = 15.0  # of an environment that does not say it


class EpisodeEnd(NamedTuple):
    """An episode that ended."""

    row: int  # of its last step in `Steps`
    environment: int  # position of its environment
    episode_return: float  # undiscounted
    length: int  # in env steps


class FaultLog:
    """What is wrong with environments. The owner resets `consecutive` after each success."""

    count: int  # errors since `clear`
    tracebacks: list[str]  # of these errors, at places that never raised before
    episodes_lost: int  # open episodes that these errors ended
    warnings: dict[str, str]  # lines for the user, by what they are about

    def __init__(self, env: EnvironmentSource, max_failures: int) -> None:
        self.consecutive = ConsecutiveFailures(max_failures)
        self._name = environment_name(env)
        self._known: set[tuple[object, ...]] = set()
        self._worst: dict[str, float] = {}
        self.clear()

    def clear(self) -> None:
        """Starts a new count after a report."""
        self.count, self.tracebacks, self.episodes_lost = 0, [], 0
        self.warnings, self._worst = {}, {}

    def warn(self, about: str, excess: float, text: str) -> None:
        """Keeps the line about `about` with the largest excess."""
        if excess > self._worst.get(about, 0.0):
            self._worst[about], self.warnings[about] = excess, text

    def add(self, error: Exception, episodes_lost: int = 0) -> None:
        """Counts one error; `EnvironmentFault` after `max_failures` consecutive ones."""
        text = "".join(traceback.format_exception(error))
        if (place := _place(error)) not in self._known:
            self._known.add(place)
            self.tracebacks.append(text)
        self.count += 1
        self.episodes_lost += episodes_lost
        if self.consecutive.add():
            raise EnvironmentFault(
                f"The environment `{self._name}` raised {self.consecutive.count} consecutive errors, "
                f"the last one {type(error).__name__}: {one_line(error)}",
                details=text,
            ) from error


def _place(error: Exception) -> tuple[object, ...]:
    """Type and lines of code of an error, whatever its message is.

    The wrappers around an environment change after its first episode, so of their lines only the
    innermost one counts.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    own = [f for f in frames if f[0].f_globals.get("__name__", "").split(".")[0] not in _SURROUNDINGS]
    lines = [(frame.f_code.co_filename, line) for frame, line in [*own, *frames[-1:]]]
    return type(error).__name__, *lines


class VectorEnvironment:
    """`E = environments` stepped together, whatever their autoreset mode.

    When one raises, all are rebuilt from the next of `seeds`. `checks_outputs` checks what each
    returns until its first episode ends. If `has_mask`, `info` says which actions are allowed. `ConfigError`
    if there is no such environment, `EnvironmentFault` if it returns wrong values or keeps raising errors.
    """

    observation: AnyArray  # [E, *observation_shape], what to act on next: uint8 for images, else float32
    open_returns: npt.NDArray[np.float64]  # [E], undiscounted return of each open episode
    open_lengths: IntArray  # [E], env steps of each open episode

    def __init__(
        self,
        env: EnvironmentSource,
        environments: int,
        seeds: Iterator[int],
        faults: FaultLog,
        checks_outputs: bool = False,
        has_mask: bool = False,
    ) -> None:
        self._env, self._environments = env, environments
        self._name = environment_name(env)
        self._has_mask = has_mask
        self._seeds = seeds
        self._faults = faults
        self._unchecked = np.full(environments, checks_outputs)  # [E], their first episode is open
        self._opened = contextlib.ExitStack()
        self._recover(_error_of(self._build))

    def empty_steps(self, length: int) -> Steps:
        """`length` vector steps to be filled by `step`."""
        return Steps.empty(length, self._environments, self.observation.shape[1:], self.observation.dtype)

    def step(self, actions: IntArray, steps: Steps, row: int) -> list[EpisodeEnd] | None:
        """Takes `actions` `[E]` from 0 and writes row `row` of `steps` `[T, E]`; returns the ended episodes.

        An environment that only resets itself ignores its action. None if an environment raised: then
        every open episode is truncated, no step is a transition, and all begin new episodes.
        """
        steps.observation[row], steps.action[row] = self.observation, actions
        try:
            return self._step(actions, steps, row)
        except DistdqnError:
            raise
        except Exception as error:
            self._recover(error, int(np.count_nonzero(self.open_lengths)))
        steps.next_observation[row], steps.reward[row] = self.observation, 0.0
        steps.terminated[row], steps.truncated[row], steps.is_transition[row] = False, True, False
        return None

    def restart(self, seeds: Iterator[int]) -> int:
        """Ends all episodes and continues like a new object with these seeds.

        Single environments are rebuilt, because some keep state over a reset (MinAtar its last
        action). A vector class of its own is only reset, because building Atari games is slow.
        Returns how many episodes with at least one step were lost.
        """
        episodes_lost = int(np.count_nonzero(self.open_lengths))
        self._seeds = seeds
        if isinstance(self._vector.unwrapped, SyncVectorEnv):
            self.close()
            self._recover(_error_of(self._build))
        else:
            self._recover(_error_of(lambda: self._reset(next(seeds))))
        return episodes_lost

    def render(self) -> AnyArray:
        """The frame `[H, W, 3]` uint8 of a lone environment; `EnvironmentFault` if it draws none."""
        try:
            frame: AnyArray = np.asarray(self._vector.render())  # [1, H, W, 3], or [H, W, 3] of some classes
            frame = frame.reshape(frame.shape[-3:])
            if [*frame.shape][2:] != [3]:
                raise ValueError(f"its frames have the shape {frame.shape}, not height, width and 3")  # noqa: TRY301
            return (frame * (255 if frame.dtype.kind == "f" else 1)).astype(np.uint8)
        except Exception as error:
            why = f"cannot be drawn: {type(error).__name__}: {one_line(error)}"
            raise EnvironmentFault(f"The environment `{self._name}` {why}") from error

    @property
    def render_fps(self) -> float:
        """Frames per second, as the environment says."""
        return float(self._vector.metadata.get("render_fps") or _RENDER_FPS)

    def close(self) -> None:
        """Closes the environments and ignores errors in doing so."""
        with contextlib.suppress(Exception):
            self._opened.close()

    def _recover(self, error: Exception | None, episodes_lost: int = 0) -> None:
        """Builds new environments after `error`, if there is one, and after each further one."""
        while error is not None:
            self.close()
            self._faults.add(error, episodes_lost)
            self._unchecked[:] = self._unchecked.any()
            error, episodes_lost = _error_of(self._build), 0

    def _build(self) -> None:
        seed = next(self._seeds)
        self._vector = vector = make_vector_environment(self._env, self._environments)
        self._opened.callback(vector.close)
        self._mode, self._mode_note = autoreset_mode(vector, self._name)
        self._actions = NumberedActions(vector.single_action_space)
        self._packer = ObservationPacker(vector.single_observation_space, self._actions, self._has_mask)
        self._check: OutputCheck | None = None  # of a vector class of its own
        if self._unchecked.any():
            self._check = check_first_episodes(vector, self._name, self._faults.warn)
        self._reset(seed)

    def _reset(self, seed: int) -> None:
        self.observation = self._pack(*self._call_reset(seed=seed))
        self.open_returns = np.zeros(self._environments, np.float64)
        self.open_lengths = np.zeros(self._environments, np.int64)
        self._resets_next = np.zeros(self._environments, np.bool_)  # [E]

    def _call_reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        result = self._vector.reset(seed=seed, options=options)
        if self._check is not None:
            self._check.check_reset(result)
        return result

    def _pack(self, observation: Any, info: dict[str, Any], ended: BoolArray | None = None) -> AnyArray:
        """Packed copies `[E, *observation_shape]`: an environment may return the same buffer again.

        The last observation of an episode that has `ended` `[E]` may allow no action.
        """
        mask = mask_from_info(info, self._environments, self._actions.choices) if self._has_mask else None
        return self._packer.pack(observation, mask, ended)

    def _step(self, actions: IntArray, steps: Steps, row: int) -> list[EpisodeEnd]:
        result = self._vector.step(self._actions.decode(actions))
        if self._check is not None:
            self._check.check_step(result, self._unchecked)
        observation, reward, terminated, truncated, info = result
        is_transition = ~self._resets_next  # [E]
        ended = np.logical_or(terminated, truncated) & is_transition  # [E]
        packed = self._pack(observation, info, ended)
        steps.next_observation[row] = packed
        if self._mode is AutoresetMode.SAME_STEP:
            for i in np.flatnonzero(ended):
                steps.next_observation[row, i] = self._pack_final(info, int(i))[0]
        elif self._mode is AutoresetMode.DISABLED and ended.any():
            packed = packed.copy()
            packed[ended] = self._pack(*self._call_reset(options={"reset_mask": ended}))[ended]
        elif self._mode is AutoresetMode.NEXT_STEP:
            self._resets_next = ended
            if self._mode_note is not None and "final_obs" in info:
                raise EnvironmentFault(f"{self._mode_note} Its `final_obs` is that of `SAME_STEP` (name it).")
        self.observation = packed
        rewards = np.where(is_transition, reward, 0.0)
        steps.reward[row], steps.is_transition[row] = rewards, is_transition
        steps.terminated[row], steps.truncated[row] = terminated, truncated
        self.open_returns += rewards
        self.open_lengths += is_transition
        ends = [
            EpisodeEnd(row, int(i), float(self.open_returns[i]), int(self.open_lengths[i]))
            for i in np.flatnonzero(ended)
        ]
        self.open_returns[ended], self.open_lengths[ended], self._unchecked[ended] = 0.0, 0, False
        if not self._unchecked.any():
            self._check = None
        return ends

    def _pack_final(self, info: dict[str, Any], i: int) -> AnyArray:
        """The last observation of environment `i`'s episode, where `step` returned the next one's first."""
        told = mask_from_info(info.get("final_info", {}), self._environments, self._actions.choices)  # [E, A]
        mask = None if told is None else told[i : i + 1]
        final = info.get("final_obs")
        if final is None:
            raise EnvironmentFault(
                f"The environment `{self._name}` is in the autoreset mode `SAME_STEP`, and its `info` has no "
                "`final_obs` where an episode ends (add the last observation, or name another mode)."
            )
        if not isinstance(final, np.ndarray):  # a batch of a space with parts
            final = list(iterate(self._vector.observation_space, final))
        return self._packer.pack(final[i], mask, np.ones(1, np.bool_), is_batch=False)


def _error_of(function: Callable[[], None]) -> Exception | None:
    """What the environments raise in `function`, if they do."""
    try:
        function()
    except DistdqnError:
        raise
    except Exception as error:
        return error
    return None
