"""Options that contradict each other, and texts that hold more than one value."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

# Options about building the network, which a network of the user's own replaces.
_REPLACED_BY_NETWORK = ("dueling", "noisy", "spectral_norm", "output_init_scale", "output_bias")

# Options about which Ray, and which of its nodes.
_OF_RAY = ("address", "learner_gpus", "learner_resources", "actor_resources")


def contradictions(options: Mapping[str, Any]) -> list[str]:
    """A line for each contradiction between options.

    Args:
        options: those that are valid by themselves; no line is about any other.
    """
    checks = (
        *(_address, _gpus, _resources, _without_ray),
        *(_passwords, _sizes, _actors, _shards, _support, _munchausen, _output_bias, _network, _points),
    )
    return [mistake for check in checks for mistake in check(options)]


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


def _actors(options: Mapping[str, Any]) -> list[str]:
    """The limits of the number of actors, and the mode that can change it."""
    mistakes = []
    sizes = {name: options.get(name) for name in ("min_actors", "actors", "max_actors")}
    given = [(name, number) for name, number in sizes.items() if isinstance(number, int)]
    for (small, low), (large, high) in itertools.combinations(given, 2):
        if low > high:
            mistakes.append(
                f"`{small}` ({low}) exceeds `{large}` ({high}): raise the one or lower the other."
            )
    mode = options.get("mode", "async")
    wanted = [f"`{name}`" for name in ("min_actors", "max_actors") if sizes[name] is not None]
    wanted += ["`actors auto`"] * (sizes["actors"] == "auto")
    if mode != "async" and wanted:
        mistakes.append(
            f"{' and '.join(wanted)} cannot be used in mode `{mode}`, whose result depends on the number of "
            "actors (give `actors` a number, or choose mode `async`)."
        )
    return mistakes


def _address(options: Mapping[str, Any]) -> list[str]:
    address = options.get("address")
    mistake = None if address is None else mistake_in_address("`address`", address)
    return [mistake] if mistake else []


def mistake_in_address(name: str, address: str) -> str | None:
    """One line about the address of a Ray cluster; None if it is valid.

    Args:
        name: of the option or variable that holds it.
        address: `auto`, `local` or `host:port`.
    """
    if address in ("auto", "local"):
        return None
    if "://" in address:
        return (
            f"{name} must not be `{address}`: a run cannot work through Ray Client or the dashboard (start "
            "it on a node of the cluster with `host:port` of the head, or submit it with `ray job submit "
            "--address http://HEAD:8265 -- python -m distdqn.run ...`)."
        )
    host, _, port = address.rpartition(":")
    if host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return None
    return f"{name} must be `auto`, `local` or `host:port`, not `{address}`."


def _gpus(options: Mapping[str, Any]) -> list[str]:
    gpus = options.get("learner_gpus", 0.0)
    if gpus <= 1 or gpus == int(gpus):
        return []
    return [f"`learner_gpus` must be a part of one GPU or a whole number of them, not `{gpus:g}`."]


def _resources(options: Mapping[str, Any]) -> list[str]:
    mistakes = []
    for name in ("learner_resources", "actor_resources"):
        try:
            parse_amounts(options.get(name) or "")
        except ValueError as error:
            mistakes.append(f"`{name}` {error}.")
    return mistakes


def _without_ray(options: Mapping[str, Any]) -> list[str]:
    if options.get("mode") != "serial":
        return []
    return [
        f"`{name}` has no effect in mode `serial`, which does not use Ray (leave it out, or choose mode "
        "`lockstep`, which ends with the same weights)."
        for name in _OF_RAY
        if options.get(name)
    ]


def _passwords(options: Mapping[str, Any]) -> list[str]:
    return [
        f"`{name}` contains a password, which would be shown and saved (leave it out, and set it in the "
        "environment or in fsspec's own configuration)."
        for name in ("checkpoint_dir", "resume")
        if re.search(r"://[^/@]*:[^/@]*@", str(options.get(name)))
    ]


def _sizes(options: Mapping[str, Any]) -> list[str]:
    pairs = [
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
    ]
    return [
        f"`{small}` ({options[small]}) exceeds `{large}` ({options[large]}): {why}."
        for small, large, why in pairs
        if options.get(small) is not None and large in options and options[small] > options[large]
    ]


def _shards(options: Mapping[str, Any]) -> list[str]:
    shards = options.get("replay_shards", 1)
    mistakes = []
    if shards > 1 and options.get("mode", "async") != "async":
        mistakes.append(
            f"`replay_shards` ({shards}) needs `mode` to be `async`: the other modes have one replay "
            "(leave it out)."
        )
    for name in ("actors", "max_actors", "replay_capacity"):
        most = options.get(name)
        if isinstance(most, int) and shards > most:
            mistakes.append(
                f"`replay_shards` ({shards}) exceeds `{name}` ({most}): some would stay empty (lower it)."
            )
    return mistakes


def _support(options: Mapping[str, Any]) -> list[str]:
    if "v_min" not in options or "v_max" not in options or options["v_min"] < options["v_max"]:
        return []
    return [
        f"`v_min` ({options['v_min']:g}) must be below `v_max` ({options['v_max']:g}): the support would be "
        "empty."
    ]


def _munchausen(options: Mapping[str, Any]) -> list[str]:
    if not (options.get("munchausen") and options.get("double")):
        return []
    return ["`munchausen` has a softmax policy, so `double` has no effect (add `--no-double`)."]


def _output_bias(options: Mapping[str, Any]) -> list[str]:
    if not (options.get("output_bias") and options.get("head") == "categorical"):
        return []
    return ["`output_bias` has no effect on the `categorical` head, whose outputs are logits (leave it out)."]


def _network(options: Mapping[str, Any]) -> list[str]:
    if not options.get("network"):
        return []
    idle = [name for name in _REPLACED_BY_NETWORK if options.get(name)]
    if options.get("torso", "auto") != "auto":
        idle.append("torso")
    return [f"`{name}` has no effect on a `network` of your own (leave one of the two out)." for name in idle]


def _points(options: Mapping[str, Any]) -> list[str]:
    mistakes = []
    for name in ("epsilon", "learning_rate"):
        shape, points = options.get(f"{name}_schedule"), options.get(f"{name}_points")
        if shape == "piecewise" and f"{name}_points" in options and points is None:
            mistakes.append(f"`{name}_schedule` is `piecewise` without points (give `{name}_points`).")
        if shape not in (None, "piecewise") and points is not None:
            mistakes.append(f"`{name}_points` need `{name}_schedule` to be `piecewise`, not `{shape}`.")
        steps = [at for at, _ in points or ()]
        if steps != sorted(set(steps)) or any(at < 0 for at in steps):
            mistakes.append(f"`{name}_points` must have rising env steps, not {steps}.")
    return mistakes
