"""What every model of options shares: files and text become values, and mistakes become words."""

import difflib
import importlib
import inspect
import json
import operator
import tomllib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from distdqn.config.validation import contradictions
from distdqn.errors import UNEXPECTED, ConfigError, one_line

T = TypeVar("T")

Text = Annotated[str, Field(min_length=1)]

PRESETS = {path.stem: path for path in sorted(Path(__file__).with_name("presets").glob("*.yaml"))}

# Options that say where a run is, not what it does: a resumed run may have others.
NOT_RESUMED = ("resume", "run_dir", "checkpoint_dir", "address")

# Names of other projects, by the option here.
_OTHER_NAMES = {
    "replay_capacity": ["buffer_size"],
    "min_replay_size": ["learning_starts"],
    "batch_size": ["train_batch_size"],
    "max_env_steps": ["total_timesteps", "timesteps", "n_timesteps"],
    "env": ["env_id"],
    "envs_per_actor": ["num_envs", "n_envs"],
    "actors": ["workers", "num_workers", "num_env_runners"],
    "samples_per_insert": ["train_freq", "gradient_steps", "replay_ratio"],
    "target_update_period": ["target_update_interval", "target_update_freq", "target_network_frequency"],
    "target_update_rate": ["tau"],
    "epsilon_decay_steps": ["exploration_fraction"],
    "epsilon_start": ["exploration_initial_eps", "start_e"],
    "epsilon_end": ["exploration_final_eps", "end_e"],
    "max_gradient_norm": ["max_grad_norm", "grad_clip"],
    "hidden_sizes": ["net_arch", "fcnet_hiddens"],
    "priority_exponent": ["alpha"],
    "importance_sampling_exponent_start": ["beta"],
    "checkpoint_seconds": ["save_freq"],
    "eval_period": ["eval_freq"],
    "eval_episodes": ["n_eval_episodes"],
    "report_seconds": ["log_interval"],
    "preset": ["algo"],
    "atoms": ["num_quantile_samples"],
    "tau_samples": ["num_tau_samples"],
    "target_tau_samples": ["num_tau_prime_samples"],
}

# What pydantic's types of errors say an option must be.
_BOUNDS = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}
_WORDS = _BOUNDS | {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "`true` or `false`",
    "string_type": "text",
    "string_too_short": "text",
    "callable_type": "text",
    "literal_error": "{expected}",
    "listed": "{form}",
    "tuple_type": "a pair",
    "missing": "a pair",
    "too_long": "a pair",
    "too_short": "at least one value",
}


class InvalidOptions(ConfigError):
    """Invalid options: `single` mistakes by the name of the option, and `contradictions` between options."""

    def __init__(self, single: dict[str, str], contradictions: list[str]) -> None:
        super().__init__([*single.values(), *contradictions])
        self.single = single
        self.contradictions = contradictions


class Options(BaseModel):
    """Options, each with its type, range and default, and its meaning as the docstring below it."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    heading: ClassVar[str] = "options"  # what the options of the class stand under in `--help`
    elsewhere: ClassVar[dict[str, str]] = {}  # headings of options that stand under another one
    has_opposites: ClassVar[bool] = False  # `--x` and `--no-x`, since a file may switch x on

    if not typing.TYPE_CHECKING:  # type checkers derive the arguments from the fields

        def __init__(self, **given: Any) -> None:
            single = {}
            try:
                super().__init__(**given)
            except ValidationError as error:
                single = _mistakes(type(self), error)
            defaults = {name: field.default for name, field in type(self).model_fields.items()}
            valid = {name: value for name, value in (defaults | given).items() if name not in single}
            others = contradictions(valid, defaults)
            if single or others:
                raise InvalidOptions(single, others)

    @classmethod
    def heading_of(cls, name: str) -> str:
        """What an option stands under in `--help`."""
        owner = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", ()))
        return owner.elsewhere.get(name, owner.heading) if issubclass(owner, Options) else ""


def function_name(function: str | Callable[..., Any]) -> str:
    """`module:Name` of a function, or of the class of an object."""
    if isinstance(function, str):
        return function
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"


def import_named(option: str, text: str) -> Any:
    """What `module:Name` names; None without such a name, `ConfigError` without such a module."""
    module_name, _, name = text.rpartition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"`{option}`: cannot import `{module_name}` of `{text}`: {type(error).__name__}: "
            f"{one_line(error)} (is its folder on the Python path, and does it import by itself?)"
        ) from error
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        return None


def document(model: type[Options]) -> None:
    """Lets `help` show what each option of a model means, and its default."""
    fields = model.model_fields.items()
    about = [f"{name}: {' '.join((field.description or '').split())}" for name, field in fields]
    model.__doc__ = "\n    ".join([f"{model.__doc__}\n\nArgs:", *about])
    kind = inspect.Parameter.KEYWORD_ONLY
    shown = [inspect.Parameter(name, kind, default=field.default) for name, field in fields]
    model.__signature__ = inspect.Signature(shown)


def listed(form: str) -> BeforeValidator:
    """Takes lists, which files have, for tuples, and says in the words `form` what a value must be."""

    def validate(value: Any) -> Any:
        if not isinstance(value, tuple | list):
            raise PydanticCustomError("listed", "{form}", {"form": form})
        return tuple(tuple(each) if isinstance(each, list) else each for each in value)

    return BeforeValidator(validate)


Sizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=10**6)], ...],
    Field(min_length=1),
    listed("whole numbers separated by commas"),
]
Points = Annotated[tuple[tuple[int, T], ...], Field(min_length=1), listed("points like `0:1,5000:0.1`")]


def read_preset(name: str) -> dict[str, Any]:
    """The options that a preset sets; `ConfigError` if there is no such preset."""
    if name not in PRESETS:
        names = ", ".join(f"`{each}`" for each in PRESETS)
        raise ConfigError(f"`preset` must be one of {names}, not `{name}`.")
    return read_options(PRESETS[name])


def read_options(path: str | Path) -> dict[str, Any]:
    """Options by name, unchecked, from a YAML, TOML or JSON file; `ConfigError` if it cannot be read."""
    import yaml  # 20 ms that most runs do not need

    path = Path(path)
    readers: dict[str, Callable[[str], Any]] = {
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
        ".toml": tomllib.loads,
        ".json": json.loads,
    }
    if path.suffix not in readers:
        raise ConfigError(f"`config` must name a file that ends in {', '.join(readers)}, not `{path}`.")
    try:
        content = readers[path.suffix](path.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"{path} cannot be read: {error.strerror} (name another file)."
        raise ConfigError(f"`config`: {why}") from error
    except (yaml.YAMLError, *UNEXPECTED) as error:
        why = f"{path} is no {path.suffix[1:].upper()}: {one_line(error)}."
        raise ConfigError(f"`config`: {why}") from error
    if not isinstance(content, dict | None):  # None: an empty file
        raise ConfigError(f"`config`: {path} must hold options by name, like `actors: 8`.")
    return {str(name): value for name, value in (content or {}).items()}


def values_from_text(fields: Mapping[str, FieldInfo], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, text among them parsed as its field says; what cannot be parsed stays text."""
    return {
        name: _parse(fields[name].annotation, value) if name in fields and isinstance(value, str) else value
        for name, value in given.items()
    }


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint for a name that does not exist: the nearest one that does."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{near[0]}`?" if near else "see `--help`"


def unknown_option(given: str, names: Collection[str], spell: Callable[[str], str] = str) -> str:
    """What to say of an option that is not among `names`, where `spell` writes options."""
    name = given.partition("=")[0]
    other = name.removeprefix("--").replace("-", "_")
    for ours, others in _OTHER_NAMES.items():
        if other in others and ours in names:
            return f"`{name}` is `{spell(ours)}` here (see `--help` for its unit)."
    return f"Unknown option `{given}` ({did_you_mean(name, map(spell, names))})."


def alternatives(kind: Any) -> list[Any]:
    """The alternatives of a union without their ranges, or the type itself."""
    if typing.get_origin(kind) is Annotated:
        return alternatives(typing.get_args(kind)[0])
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return [part for each in typing.get_args(kind) for part in alternatives(each)]
    return [kind]


def bounds(part: Any) -> list[str]:
    """The range in a field or its type, in words: `at least 1`, `at most 10`."""
    words = {"gt": "above", "ge": "at least", "le": "at most"}
    own = [f"{word} {getattr(part, name):g}" for name, word in words.items() if hasattr(part, name)]
    inside = [*getattr(part, "metadata", ()), getattr(part, "annotation", None), *typing.get_args(part)]
    return own or [found for each in inside if each is not None for found in bounds(each)]


def _parse(kind: Any, text: str) -> Any:
    """`text` as a value of an option's type; `text` itself if it is none."""
    parts = alternatives(kind)
    if types.NoneType in parts and text.lower() == "none":
        return None
    if bool in parts:
        return {"true": True, "false": False}.get(text.lower(), text)
    for part in parts:
        try:
            if typing.get_origin(part) is tuple:
                return tuple(_parse_item(each) for each in text.split(","))
            if part in (int, float):
                return part(text)
        except ValueError:
            continue
    return text


def _parse_item(text: str) -> int | tuple[int, float]:
    """`128`, or `5000:0.1` as a pair; `ValueError` if it is neither."""
    first, colon, second = text.partition(":")
    return (int(first), float(second)) if colon else int(first)


def _mistakes(model: type[Options], error: ValidationError) -> dict[str, str]:
    """One line for each option that is wrong, in the order of the fields."""
    errors: dict[str, list[ErrorDetails]] = {}
    for each in error.errors():
        errors.setdefault(str(each["loc"][0]), []).append(each)
    return {name: _mistake(model, name, found) for name, found in errors.items()}


def _mistake(model: type[Options], name: str, errors: list[ErrorDetails]) -> str:
    if name not in model.model_fields:
        return unknown_option(name, model.model_fields)
    if errors[0]["loc"] == (name,) and errors[0]["type"] == "missing":
        return f"`{name}` is missing (see `--help`)."
    if errors[0]["type"] == "value_error":
        return f"`{name}` {errors[0]['ctx']['error']}."
    found = [each for each in errors if each["type"] in _BOUNDS]
    if not found:
        depth = max(len(each["loc"]) for each in errors)
        found = [each for each in errors if len(each["loc"]) == depth]
    words = [_WORDS[each["type"]].format(**each.get("ctx", {})).replace("'", "`") for each in found]
    is_part = isinstance(found[0]["loc"][-1], int) or found[0]["type"] in _BOUNDS
    if not is_part and types.NoneType in alternatives(model.model_fields[name].annotation):
        words.append("`none`")
    is_zero = name == "actors" and found[0]["input"] == 0 and "mode" in model.model_fields
    hint = " (for a run in one process, give `--mode serial`)" if is_zero else ""
    return f"`{name}` must be {' or '.join(dict.fromkeys(words))}, not `{found[0]['input']}`{hint}."
