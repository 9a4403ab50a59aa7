"""Options in files: presets, and what `--config FILE` reads."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distdqn.errors import ConfigError

_PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """The presets there are."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The options that a preset sets.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in preset_names():
        names = ", ".join(f"`{each}`" for each in preset_names())
        raise ConfigError(f"`preset` must be one of {names}, not `{name}`.")
    return read_options(_PRESETS / f"{name}.yaml")


def preset_source(name: str) -> str:
    """Where a preset comes from: the comment that its file begins with."""
    lines = (_PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))


def read_options(path: Path) -> dict[str, Any]:
    """Options by name from a YAML, TOML or JSON file; nothing about them is checked.

    Raises:
        ConfigError: the file cannot be read, or holds no options.
    """
    import yaml  # 20 ms that most runs do not need

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
        raise ConfigError(
            f"`config`: {path} cannot be read: {error.strerror} (name another file)."
        ) from error
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"`config`: {path} is no {path.suffix[1:].upper()}: {reason}.") from error
    if content is None:  # an empty file
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"`config`: {path} must hold options by name, like `actors: 8`.")
    return {str(name): value for name, value in content.items()}
