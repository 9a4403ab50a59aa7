"""Observations of every space as one array, alone and from vector environments."""

from functools import partial

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from toy_actors import make_vector, step_once

from distdqn.environments.registry import inspect_environment
from distdqn.environments.spaces import NumberedActions, ObservationPacker, mask_from_info
from distdqn.errors import ConfigError, EnvironmentFault

PIXELS = Box(0, 255, (3, 4, 3), np.uint8)
SPACES = {
    "discrete": Discrete(3, start=-1),
    "multi-discrete": MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [-2, 5]]),
    "multi-binary": MultiBinary((2, 2)),
    "double": Box(-2, 2, (2, 2), np.float64),
    "bytes-of-one-axis": Box(0, 255, (5,), np.uint8),
    "tuple": Tuple((Discrete(32), Discrete(11), Discrete(2))),
    "dict": Dict({"z": Box(-1, 1, (2,), np.float32), "a": Discrete(2), "empty": Box(0, 1, (0,))}),
    "nested": Dict({"goal": Tuple((MultiBinary(2), Text(4))), "at": Dict({"y": Box(0, 9, (1,), np.int64)})}),
    "image-and-vector": Dict({"image": PIXELS, "speed": Box(-9, 9, (2,), np.float32)}),
    "two-images": Tuple((PIXELS, Box(0, 1, (2, 2), np.bool_), MultiBinary(3))),
}


def slow_numbers(space, value):
    """The numbers of one observation, part by part; images as they are."""
    if isinstance(space, Dict):
        return [numbers for key in space.spaces for numbers in slow_numbers(space[key], value[key])]
    if isinstance(space, Tuple):
        return [n for one, inner in zip(space.spaces, value, strict=True) for n in slow_numbers(one, inner)]
    if isinstance(space, Discrete):
        return [[1.0 if space.start + i == value else 0.0 for i in range(space.n)]]
    if isinstance(space, MultiDiscrete):
        sizes, starts, values = space.nvec.ravel(), space.start.ravel(), value.ravel()
        pairs = zip(sizes, starts, values, strict=True)
        return [[1.0 if start + i == v else 0.0 for size, start, v in pairs for i in range(size)]]
    if isinstance(space, Text) or not np.size(value):
        return []
    return [value.astype(np.float32).ravel().tolist()]


def batch_of(space, values):
    """A batch as `SyncVectorEnv` makes it."""
    return concatenate(space, values, create_empty_array(space, len(values)))


@pytest.mark.parametrize("name", SPACES)
def test_packed_observations_hold_every_part_in_the_order_of_the_space(name):
    space = SPACES[name]
    space.seed(1)
    values = [space.sample() for _ in range(20)]
    packer = ObservationPacker(space, NumberedActions(Discrete(2)))

    packed = packer.pack(batch_of(space, values))

    assert packed.shape == (20, *packer.shape)
    assert packed.dtype == (np.uint8 if "image" in name else np.float32)
    for row, value in zip(packed, values, strict=True):
        parts = [part.read(row) for part in packer.parts] or [row]
        assert [part.astype(np.float32).ravel().tolist() for part in parts] == slow_numbers(space, value)
        alone = packer.pack(value, is_batch=False)
        np.testing.assert_array_equal(alone[0], row)


def test_parts_have_names_kinds_and_shapes():
    packer = ObservationPacker(SPACES["image-and-vector"], NumberedActions(Discrete(4)), has_mask=True)
    image, speed, mask = packer.parts

    assert (image.name, image.kind, image.shape, image.high) == ("image", "image", (3, 4, 3), 255.0)
    assert (speed.name, speed.kind, speed.shape) == ("speed", "vector", (2,))
    assert (mask.name, mask.kind, mask.shape) == ("action_mask", "mask", (4,))
    assert packer.shape == (36 + 4 * 2 + 4 * 4,)


def test_lone_box_stays_as_it_is():
    packer = ObservationPacker(Box(-1, 1, (2, 3), np.float32), NumberedActions(Discrete(2)))
    assert (packer.shape, packer.parts, packer.low, packer.high) == ((2, 3), (), -1.0, 1.0)


def test_what_holds_no_number_is_left_out_and_told():
    class Talking(gymnasium.Env):
        observation_space = SPACES["nested"]
        action_space = Discrete(2)

    spec = inspect_environment(Talking)
    assert "`goal.1` (Text) is left out" in spec.conversion
    assert [part.name for part in spec.parts] == ["at.y", "goal.0"]

    Talking.observation_space = Dict({"mission": Text(4)})
    with pytest.raises(ConfigError, match="no number"):
        inspect_environment(Talking)


def test_discrete_value_outside_its_space_is_an_error():
    packer = ObservationPacker(Discrete(3), NumberedActions(Discrete(2)))
    for value in (3, -1):
        with pytest.raises(ValueError, match="outside its space"):
            packer.pack(np.array([value]))


class MaskedWalk(gymnasium.Env):
    """Counts to four; `info` allows action `step % 2` and the last one. Observes the step in a `Dict`."""

    observation_space = Dict({"step": Discrete(5), "picture": Box(0, 255, (2, 2), np.uint8)})
    action_space = Discrete(3)
    allows_none = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self._step = 0
        return self._result()

    def step(self, action):
        assert self.allows_none or self._result()[1]["action_mask"][action]
        self._step += 1
        observation, info = self._result()
        return observation, 1.0, False, self._step == 4, info

    def _result(self):
        mask = np.zeros(3, np.int8)
        if self._step < 4 and not self.allows_none:
            mask[[self._step % 2, 2]] = 1
        return {"step": self._step, "picture": np.full((2, 2), self._step, np.uint8)}, {"action_mask": mask}


def make_masked_vector(mode, num_envs=1):
    return SyncVectorEnv([MaskedWalk] * num_envs, autoreset_mode=mode)


for _mode in AutoresetMode:
    gymnasium.register(
        f"ToyMasked{_mode.name}-v0",
        entry_point=MaskedWalk,
        vector_entry_point=partial(make_masked_vector, _mode),
    )


@pytest.mark.parametrize("mode", AutoresetMode, ids=[mode.name for mode in AutoresetMode])
def test_masks_and_parts_follow_every_autoreset_mode(mode):
    name = f"ToyMasked{mode.name}-v0"
    parts = {part.name: part for part in inspect_environment(name).parts}
    vector = make_vector(name, 2, 0, has_mask=True)

    def seen(packed):
        step = parts["step"].read(packed).argmax(axis=-1)  # [E]
        assert (parts["picture"].read(packed) == step[:, None, None]).all()
        return step.tolist(), parts["action_mask"].read(packed).tolist()

    steps_seen, finals = [], []
    for _ in range(11):
        step, mask = seen(vector.observation)
        steps_seen.append(step[0])
        open_masks = [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
        assert mask == [open_masks[n % 2] if n < 4 else [1.0] * 3 for n in step]
        steps, ends = step_once(vector, [mask[0].index(1.0)] * 2)
        if ends:
            finals.append(seen(steps.next_observation[0]))
    assert finals == [([4, 4], [[1.0] * 3] * 2)] * len(finals)
    assert len(finals) == 2
    assert steps_seen == ([0, 1, 2, 3, 4] * 3 if mode is AutoresetMode.NEXT_STEP else [0, 1, 2, 3] * 3)[:11]


def test_open_episode_that_allows_no_action_is_an_error(monkeypatch):
    vector = make_vector("ToyMaskedNEXT_STEP-v0", 2, 0, has_mask=True)
    monkeypatch.setattr(MaskedWalk, "allows_none", True)
    with pytest.raises(EnvironmentFault, match="allows no action"):
        step_once(vector, [0, 0])


def test_mask_in_a_dict_observation_needs_no_info():
    space = Dict({"observation": Box(0, 1, (2,), np.float32), "action_mask": MultiBinary(3)})
    packer = ObservationPacker(space, NumberedActions(Discrete(3)))
    batch = {"observation": np.ones((2, 2), np.float32), "action_mask": np.array([[1, 0, 1], [0, 1, 0]])}

    packed = packer.pack(batch)

    assert [part.kind for part in packer.parts] == ["vector", "mask"]
    assert packed.tolist() == [[1, 1, 1, 0, 1], [1, 1, 0, 1, 0]]


def test_environment_that_tells_no_mask_allows_all():
    info = {"action_mask": np.array([[0, 1], [0, 0]]), "_action_mask": np.array([True, False])}
    assert mask_from_info(info, 2).tolist() == [[0, 1], [1, 1]]
    assert mask_from_info({}, 2) is None


@pytest.mark.parametrize("is_lone", [True, False], ids=["lone", "in-a-dict"])
@pytest.mark.parametrize(("largest", "high"), [(10, 10.0), (200, 255.0)], ids=["codes", "pixels"])
def test_small_images_of_codes_are_scaled_by_the_largest_number_seen(is_lone, largest, high):
    class Grid(gymnasium.Env):
        observation_space = PIXELS if is_lone else Dict({"view": PIXELS, "direction": Discrete(4)})
        action_space = Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed, options=options)
            return self._observe(0), {}

        def step(self, _):
            return self._observe(largest), 0.0, False, False, {}

        def _observe(self, number):
            view = np.full(PIXELS.shape, number, np.uint8)
            return view if is_lone else {"view": view, "direction": 0}

    spec = inspect_environment(Grid)
    assert (spec.image_high if is_lone else spec.parts[1].high) == high
    assert ("numbers up to 10 in 100 random steps" in (spec.conversion or "")) == (high == 10.0)


@pytest.mark.parametrize("name", SPACES)
def test_observations_are_discrete_where_no_part_is_a_box(name):
    packer = ObservationPacker(SPACES[name], NumberedActions(Discrete(2)))

    assert packer.is_discrete is (name in ("discrete", "multi-discrete", "multi-binary", "tuple"))
