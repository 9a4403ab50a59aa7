"""One checkpoint as one JSON document that lists its arrays and vouches for itself."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from distdqn.checkpoints.arrays import entry_fault
from distdqn.errors import CheckpointDamaged, CheckpointTooNew

FORMAT = 2  # 1 had a single replay in place of the list of shards, which `checkpoints` still reads

MAX_BYTES = 64 * 2**20

_DEEPEST = 100  # levels of nesting; Python's own limit is on recursion, and no error of ours


def manifest_name(number: int) -> str:
    """`checkpoint-000000000123.json` for 123."""
    return f"checkpoint-{number:012d}.json"


def number_from_name(name: str) -> int | None:
    """123 for `checkpoint-000000000123.json`, None for the names of other files."""
    found = re.fullmatch(r"checkpoint-([0-9]{12,18})\.json", name)
    number = int(found[1]) if found else -1
    return number if name == manifest_name(number) else None


def manifest_bytes(number: int, document: dict[str, Any], version: int = FORMAT) -> bytes:
    """The file of a checkpoint.

    `sha256` is taken over the same JSON without it. Every later format keeps these
    four keys and this rule, so that "too new" is told from "damaged".

    Raises:
        ValueError: a key is no text (JSON would make it one), an entry is malformed, or
            the file would be larger than is ever read.
        TypeError: something in the document is not JSON.
    """
    for entry in entries_of(document):
        if fault := entry_fault(entry):
            raise ValueError(f"`document` has an array that could not be read: {fault}.")
    content = _manifest_bytes(version, number, document)
    if len(content) > MAX_BYTES:
        raise ValueError(f"`document` takes {len(content)} bytes, {MAX_BYTES} are read: use arrays.")
    return content


def document_from_bytes(content: bytes, number: int, where: str) -> dict[str, Any]:
    """The document of checkpoint `number`, whose every entry is sound.

    Raises:
        CheckpointDamaged: the file is not what was written; `where` names it.
        CheckpointTooNew: its format is newer than ours.
    """
    try:
        envelope = json.loads(content.decode("ascii"))
        version, found = envelope["format"], envelope["number"]
        # To the byte: then no change at all goes unseen, not even one that JSON ignores.
        is_same = content == _manifest_bytes(version, found, envelope["document"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointDamaged(f"{where}: is not a manifest (cut, or not JSON).") from error
    if not is_same or type(version) is not int or version < 1:
        raise CheckpointDamaged(f"{where}: its content is not what was written (SHA-256 differs).")
    if version > FORMAT:
        raise CheckpointTooNew(
            f"{where}: has format {version}, this release reads up to {FORMAT} (install a newer distdqn)."
        )
    if type(found) is not int or found != number:
        raise CheckpointDamaged(f"{where}: is checkpoint {found!r} under another's name.")
    document = envelope["document"]
    if not isinstance(document, dict):
        raise CheckpointDamaged(f"{where}: its document is not an object.")
    try:
        fault = next(filter(None, map(entry_fault, entries_of(document))), "")
    except ValueError as error:
        raise CheckpointDamaged(f"{where}: {error}") from error
    if fault:
        raise CheckpointDamaged(f"{where}: {fault}.")
    return document


def entries_of(document: object) -> Iterator[object]:
    """Whatever stands for an array in a document: each dictionary with the key `blob`.

    Raises:
        ValueError: a key is no text, or the nesting is too deep to be ours.
    """
    level = [document]
    for _ in range(_DEEPEST):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                if not all(isinstance(key, str) for key in value):
                    raise ValueError(f"`document` has keys that are no text: {list(value)[:3]}.")
                if "blob" in value:
                    yield value
                else:
                    below += value.values()
            elif isinstance(value, list | tuple):
                below += value
        if not below:
            return
        level = below
    raise ValueError(f"`document` is nested deeper than {_DEEPEST} levels.")


def _manifest_bytes(version: object, number: object, document: object) -> bytes:
    plain = {"format": version, "number": number, "document": document}
    digest = hashlib.sha256(_canonical(plain)).hexdigest()
    return _canonical({"format": version, "number": number, "sha256": digest, "document": document}) + b"\n"


def _canonical(value: object) -> bytes:
    """JSON without spaces, in ASCII, keys in their own order; floats come back bit for bit."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")
