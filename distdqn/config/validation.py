"""What pydantic's types cannot say about options: texts with a form of their own, and contradictions."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Options about building the network, which a network of the user's own replaces.
_REPLACED_BY_NETWORK = ("dueling", "noisy", "spectral_norm", "output_init_scale", "output_bias")

# Options about which Ray, and which of its nodes.
_OF_RAY = ("address", "learner_gpus", "learner_resources", "actor_resources")

_SIZES = (
    (
        "min_replay_size",
        "replay_capacity",
        "sampling could never start (lower `min_replay_size` or raise `replay_capacity`)",
    ),
    ("batch_size", "replay_capacity", "no batch could be all different (lower `batch_size`)"),
    (
        "min_replay_size",
        "max_env_steps",
        "learning could never start (lower `min_replay_size` or raise `max_env_steps`)",
    ),
)


def check_address(address: str) -> str:
    """The address of a Ray cluster: `auto`, `local` or `host:port`.

    Raises:
        ValueError: it is none of these.
    """
    if "://" in address:
        raise ValueError(
            f"must not be `{address}`: a run cannot work through Ray Client or the dashboard (start it on a "
            "node of the cluster with `host:port` of the head, or submit it with `ray job submit --address "
            "http://HEAD:8265 -- python -m distdqn.run ...`)"
        )
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if address not in ("auto", "local") and not (host and is_port):
        raise ValueError(f"must be `auto`, `local` or `host:port`, not `{address}`")
    return address


def check_gpus(gpus: float) -> float:
    """A number of GPUs that Ray grants.

    Raises:
        ValueError: it is above 1 and not whole.
    """
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"must be a part of one GPU or a whole number of them, not `{gpus:g}`")
    return gpus


def check_url(url: str) -> str:
    """A path or URL that may be shown.

    Raises:
        ValueError: it contains a password.
    """
    if re.search(r"://[^/@]*:[^/@]*@", url):
        raise ValueError(
            "contains a password, which would be shown and saved (leave it out, and set it in the "
            "environment or in fsspec's own configuration)"
        )
    return url


def check_amounts(text: str) -> str:
    """Amounts of custom resources as text.

    Raises:
        ValueError: see `parse_amounts`.
    """
    parse_amounts(text)
    return text


def parse_amounts(text: str) -> dict[str, float]:
    """Amounts of custom resources by name, from text like `fast=1,simulator=0.5`.

    Raises:
        ValueError: the text is malformed, or Ray would refuse it.
    """
    amounts: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().rpartition("=")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not name or not 0.0 < amount < math.inf or name in amounts:
            raise ValueError(f"must be like `fast=1,simulator=0.5`, each name once, not `{text}`")
        if amount > 1 and amount != int(amount):
            raise ValueError(f"must ask for a part of one or for whole numbers, not `{part.strip()}`")
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            raise ValueError(f"must name custom resources, not `{name}` (the GPU's option is `learner_gpus`)")
        amounts[name] = amount
    return amounts


def contradictions(options: Mapping[str, Any]) -> list[str]:
    """A line for each contradiction between options.

    Args:
        options: those that are valid by themselves; no line is about any other.
    """
    checks = (_sizes, _actors, _shards, _without_effect, _points)
    return [mistake for check in checks for mistake in check(options)]


def _sizes(options: Mapping[str, Any]) -> Iterator[str]:
    for small, large, why in _SIZES:
        if options.get(small) is not None and large in options and options[small] > options[large]:
            yield f"`{small}` ({options[small]}) exceeds `{large}` ({options[large]}): {why}."
    low, high = options.get("v_min", -math.inf), options.get("v_max", math.inf)
    if low >= high:
        yield f"`v_min` ({low:g}) must be below `v_max` ({high:g}): the support would be empty."


def _actors(options: Mapping[str, Any]) -> Iterator[str]:
    """The limits of the number of actors, and the modes that can change it."""
    sizes = {name: options.get(name) for name in ("min_actors", "actors", "max_actors")}
    given = [(name, number) for name, number in sizes.items() if isinstance(number, int)]
    for (small, low), (large, high) in itertools.combinations(given, 2):
        if low > high:
            yield f"`{small}` ({low}) exceeds `{large}` ({high}): raise the one or lower the other."
    mode = options.get("mode", "async")
    wanted = [f"`{name}`" for name in ("min_actors", "max_actors") if sizes[name] is not None]
    wanted += ["`actors auto`"] * (sizes["actors"] == "auto")
    if mode != "async" and wanted:
        yield (
            f"{' and '.join(wanted)} cannot be used in mode `{mode}`, whose result depends on the number of "
            "actors (give `actors` a number, or choose mode `async`)."
        )


def _shards(options: Mapping[str, Any]) -> Iterator[str]:
    shards = options.get("replay_shards", 1)
    if shards > 1 and options.get("mode", "async") != "async":
        yield (
            f"`replay_shards` ({shards}) needs `mode` to be `async`: the other modes have one replay (leave "
            "it out)."
        )
    for name in ("actors", "max_actors", "replay_capacity"):
        most = options.get(name)
        if isinstance(most, int) and shards > most:
            yield f"`replay_shards` ({shards}) exceeds `{name}` ({most}): some would stay empty (lower it)."


def _without_effect(options: Mapping[str, Any]) -> Iterator[str]:
    """Options without effect beside others."""
    for name in _OF_RAY:
        if options.get("mode") == "serial" and options.get(name):
            yield (
                f"`{name}` has no effect in mode `serial`, which does not use Ray (leave it out, or choose "
                "mode `lockstep`, which ends with the same weights)."
            )
    if options.get("munchausen") and options.get("double"):
        yield "`munchausen` has a softmax policy, so `double` has no effect (add `--no-double`)."
    if options.get("output_bias") and options.get("head") == "categorical":
        yield "`output_bias` has no effect on the `categorical` head, which puts out logits (leave it out)."
    if options.get("network"):
        idle = [name for name in _REPLACED_BY_NETWORK if options.get(name)]
        idle += ["torso"] * (options.get("torso", "auto") != "auto")
        for name in idle:
            yield f"`{name}` has no effect on a `network` of your own (leave one of the two out)."


def _points(options: Mapping[str, Any]) -> Iterator[str]:
    for name in ("epsilon", "learning_rate"):
        shape, points = options.get(f"{name}_schedule"), options.get(f"{name}_points")
        if shape == "piecewise" and f"{name}_points" in options and points is None:
            yield f"`{name}_schedule` is `piecewise` without points (give `{name}_points`)."
        if shape not in (None, "piecewise") and points is not None:
            yield f"`{name}_points` need `{name}_schedule` to be `piecewise`, not `{shape}`."
        steps = [at for at, _ in points or ()]
        if steps != sorted(set(steps)) or any(at < 0 for at in steps):
            yield f"`{name}_points` must have rising env steps, not {steps}."
