"""How an option is written down: type, default, range and help in one place."""

from dataclasses import field
from typing import Any

from distdqn.config.option_types import Range


def option(group: str, default: Any, text: str, allowed: Range | None = None) -> Any:
    """A field of a class of options, with the heading of `--help` that it stands under."""
    return field(default=default, metadata={"group": group, "help": text, "allowed": allowed})
