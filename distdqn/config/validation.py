"""What pydantic's types cannot say about options: texts with a form of their own, and contradictions."""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

_CROSSED = "raise the one or lower the other"
_EMPTY_SHARDS = "some would stay empty (lower it)"

_OF_IMPLICIT_HEAD = ("tau_samples", "target_tau_samples")

# Options of the network's layers, which a network of the user's own replaces. No `layer_norm`, which most
# presets set.
_OF_LAYERS = (
    *("torso", "hidden_sizes", "dueling", "noisy", "noisy_sigma"),
    *("spectral_norm", "output_init_scale", "output_bias"),
)

# Options that have no effect in a run whose env steps are all recorded. Presets set none of them.
_OF_ACTING = ("actors", "min_actors", "max_actors", "max_env_steps", "max_episodes")

# Options of which the first must not exceed the second, and why; {0} and {1} stand for their names.
_ORDERED = (
    ("min_replay_size", "replay_capacity", "sampling could never start (lower `{0}` or raise `{1}`)"),
    ("batch_size", "replay_capacity", "no batch could be all different (lower `{0}`)"),
    ("min_actors", "actors", _CROSSED),
    ("min_actors", "max_actors", _CROSSED),
    ("actors", "max_actors", _CROSSED),
    ("replay_shards", "actors", _EMPTY_SHARDS),
    ("replay_shards", "max_actors", _EMPTY_SHARDS),
    ("replay_shards", "replay_capacity", _EMPTY_SHARDS),
)


def check_address(address: str) -> str:
    """The address of a Ray cluster; `ValueError` unless it is `auto`, `local` or `host:port`."""
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


def check_url(url: str) -> str:
    """A path or URL; `ValueError` if it contains a password."""
    if re.search(r"://[^/@]*:[^/@]*@", url):
        raise ValueError(
            "contains a password, which would be shown and saved (leave it out, and set it in the "
            "environment or in fsspec's own configuration)"
        )
    return url


def check_seeds(text: str) -> str:
    """First and last seed; `ValueError` unless they are like `0-9`."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise ValueError(f"must be like `0-9`, not `{text}`")
    return text


def parse_arguments(given: Any) -> dict[str, Any]:
    """Arguments by name, from a dictionary, text like `size=5,name=ice`, JSON or texts; or `ValueError`."""
    if isinstance(given, Mapping):
        try:
            arguments: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"must hold what JSON can hold: {error} (use a `functools.partial`)") from error
        return arguments
    text = ",".join(map(str, given)) if isinstance(given, list) else str(given)
    read = _value(text)
    if not isinstance(read, dict):
        parts = re.split(r",(?=\s*[A-Za-z_]\w*=)", text) if text != "none" else []
        pairs = [part.strip().partition("=") for part in parts]
        read = {name: _value(value) for name, _, value in pairs}
        if len(read) < len(pairs) or not all(name.isidentifier() and sign for name, sign, _ in pairs):
            raise ValueError(f"must be like `size=5,slippery=false`, each name once, not `{text}`")
    return parse_arguments(read)


def _value(text: str) -> Any:
    """JSON, a word of Python's for it, or the text itself."""
    words = {"True": True, "False": False, "None": None}
    try:
        return words[text] if text in words else json.loads(text)
    except ValueError:
        return text


def parse_names(given: Any) -> tuple[str, ...]:
    """Texts that `parse_name` takes; `ValueError` if one is malformed."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"must be a list of texts like `module:Name,size=5`, not `{given}`")
    texts = [text for text in texts if text != "none"]
    for text in texts:
        parse_name(text)
    return tuple(texts)


def parse_name(text: str) -> tuple[str, dict[str, Any]]:
    """`module:Name` and its arguments, from text like `module:Name,size=5`; or `ValueError`."""
    name, _, arguments = text.partition(",")
    if not all(name.partition(":")):
        raise ValueError(f"must be like `module:Name` or `module:Name,size=5`, not `{text}`")
    return name, parse_arguments(arguments or "none")


def check_amounts(text: str) -> str:
    """Amounts of custom resources as text; `ValueError` as from `parse_amounts`."""
    parse_amounts(text)
    return text


def parse_amounts(text: str) -> dict[str, float]:
    """Amounts of custom resources by name, from text like `fast=1,simulator=0.5`; or `ValueError`."""
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


def contradictions(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """A line for each contradiction between `options`, which are valid by themselves; no others count."""
    changed = {name for name, value in options.items() if _plain(value) != _plain(defaults.get(name))}
    return [*_ranges(options), *_of_mode(options), *_without_effect(options, changed), *_points(options)]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value  # files have lists


def _is_offline(options: Mapping[str, Any]) -> bool:
    return options.get("offline") is not None and options.get("offline_fraction") == 1


def _ranges(options: Mapping[str, Any]) -> Iterator[str]:
    for small, large, why in _ORDERED:
        if _is_offline(options) and "actors" in large:
            continue  # each shard has its own reader
        low, high = options.get(small), options.get(large)
        if isinstance(low, int) and isinstance(high, int) and low > high:
            yield f"`{small}` ({low}) exceeds `{large}` ({high}): {why.format(small, large)}."
    low, high = options.get("min_replay_size"), options.get("max_env_steps")
    if isinstance(low, int) and isinstance(high, int) and low >= high:
        yield (
            f"`min_replay_size` ({low}) must be below `max_env_steps` ({high}): learning could never start "
            "(lower the one or raise the other)."
        )
    v_min, v_max = options.get("v_min", -math.inf), options.get("v_max", math.inf)
    if v_min >= v_max:
        yield f"`v_min` ({v_min:g}) must be below `v_max` ({v_max:g}): the support would be empty."


def _of_mode(options: Mapping[str, Any]) -> Iterator[str]:
    """Options that a mode does not have."""
    mode = options.get("mode", "async")
    if mode == "async":
        return
    changing = [f"`{name}`" for name in ("min_actors", "max_actors") if options.get(name) is not None]
    changing += ["`actors auto`"] * (options.get("actors") == "auto")
    if changing:
        yield (
            f"{' and '.join(changing)} cannot be used in mode `{mode}`, whose result depends on the number "
            "of actors (give `actors` a number, or choose mode `async`)."
        )
    if (shards := options.get("replay_shards", 1)) > 1:
        yield (
            f"`replay_shards` ({shards}) needs `mode` to be `async`: the other modes have one replay (leave "
            "it out)."
        )
    for name in ("address", "learner_resources", "actor_resources"):
        if mode == "serial" and options.get(name):
            yield (
                f"`{name}` has no effect in mode `serial`, which does not use Ray (leave it out, or choose "
                "mode `lockstep`, which ends with the same weights)."
            )


def _without_effect(options: Mapping[str, Any], changed: Collection[str]) -> Iterator[str]:
    """Options that others leave without effect; `changed` ones do not have their defaults."""
    if options.get("final") and options.get("checkpoint") is not None:
        yield "`final` and `checkpoint` exclude each other (give one of them)."
    if options.get("gif") and options.get("mp4"):
        yield "`gif` and `mp4` exclude each other (give one of them)."
    if options.get("munchausen") and options.get("double"):
        yield "`munchausen` has a softmax policy, so `double` has no effect (add `--no-double`)."
    if options.get("output_bias") and options.get("head") == "categorical":
        yield "`output_bias` has no effect on the `categorical` head, which puts out logits (leave it out)."
    if options.get("head") != "implicit":
        for name in [each for each in _OF_IMPLICIT_HEAD if each in changed]:
            yield f"`{name}` has no effect without the `implicit` head (leave it out, or set `head`)."
    elif options.get("network"):
        yield (
            "`head` cannot be `implicit` with a `network` of your own, which has no input for quantile "
            "fractions (choose `quantile`, or leave `network` out)."
        )
    if options.get("offline") is None:
        if "offline_fraction" in changed:
            yield "`offline_fraction` has no effect without `offline` (name a dataset)."
    elif _is_offline(options):
        if options.get("max_learner_steps", 1) is None:
            yield "`offline` takes no env steps, whose budget ends other runs (give `max_learner_steps`)."
        for name in [each for each in _OF_ACTING if each in changed]:
            yield f"`{name}` has no effect where all env steps are recorded (leave it out)."
    if options.get("network"):
        for name in [each for each in _OF_LAYERS if each in changed]:
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
