"""The checkpoints of a run: arrays by their content, and one manifest per checkpoint."""

import contextlib
import errno
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distdqn.checkpoints.arrays import Entry, blob_from_array, blob_name, check_blob, entry_fault, read_blob
from distdqn.checkpoints.files import files_at
from distdqn.checkpoints.format import (
    MAX_BYTES,
    document_from_bytes,
    entries_of,
    manifest_bytes,
    manifest_name,
    number_from_name,
)
from distdqn.errors import CheckpointDamaged, CheckpointError, NoCheckpoint
from distdqn.types import AnyArray, Tree

_MAX_REMEMBERED = 100_000  # digests, of 32 bytes each


class Store:
    """Keeps checkpoints below a folder or URL, written by several processes at once.

        <root>/blobs/<sha256>.npy            arrays, never changed, equal ones stored once
        <root>/checkpoint-000000000123.json  the manifest: names the arrays of checkpoint 123

    A checkpoint exists if and only if its manifest does, and that is written last. Any
    process may write arrays. One process alone, the driver, writes manifests and prunes,
    one after the other.

    What cannot be read back raises `CheckpointError`. Faults of the disk (full, gone, no
    permission) are `OSError`s, after which everything that was whole still is.

    Args:
        root: local path, or URL of an object store that fsspec knows.
        grace_seconds: age below which files that no manifest names are left alone, as
            somebody may still be writing that manifest.
    """

    def __init__(self, root: str, grace_seconds: float = 3600.0) -> None:
        self._files = files_at(root)
        self.place = place_of(root)  # URL or absolute path
        self._root = root.rstrip("/") or "/"
        self._grace_seconds = grace_seconds
        # Digests of blobs whose content was right when this process last saw it.
        self._seen_whole: set[bytes] = set()

    def check_writable(self) -> None:
        """Makes the folders if need be, and writes and deletes a file in each.

        Nothing else makes folders: if they vanish later, writing fails.

        Raises:
            OSError: this cannot be done; or what fsspec raises in its place.
        """
        self._files.make_folders()
        for folder in ("", "blobs/"):
            probe = f"{folder}.{secrets.token_hex(8)}.part"  # deleted as a leftover if we die here
            self._files.write(probe, b"probe")
            self._files.delete(probe)

    def write_array(self, array: AnyArray) -> Entry:
        """Stores an array `[...]`, unless its content is there already, and returns its entry.

        A file that is there is read back once before it is relied on: damaged, it would
        go on to damage every later checkpoint that holds the same content.

        Raises:
            ValueError: its elements are neither booleans, integers nor plain floats.
            OSError: it could not be written.
        """
        entry, header, data = blob_from_array(array)
        if not (self._files.holds(blob_name(entry), entry["bytes"]) and self._is_whole(entry)):
            self._files.write(blob_name(entry), header, data)
            self._remember(entry)
        return entry

    def read_array(self, entry: Entry) -> AnyArray:
        """The array `[*shape]` of an entry, writable and this process's own.

        Raises:
            CheckpointDamaged: it is not what was written, byte for byte. Before memory is
                taken for it, its file was seen to be as long as that.
        """
        if fault := entry_fault(entry):
            raise CheckpointDamaged(f"{self._root}: {fault}.")
        self._seen_whole.discard(_digest(entry))
        with self._files.reading(blob_name(entry)) as (stream, size):
            array = read_blob(stream, size, entry, self._where(blob_name(entry)))
        self._remember(entry)
        return array

    def write_tree(self, tree: Any) -> Any:
        """Stores the arrays in nested dictionaries and lists; they come back as entries.

        Tuples become lists, NumPy's scalars Python's. Integers keep every digit. Entries
        from `write_array` stay as they are.

        Raises:
            TypeError: something else is in it.
            ValueError: a key is no text, or is `blob` and its dictionary no entry.
        """
        match tree:
            case np.ndarray():
                return self.write_array(tree)
            case np.bool_() | np.integer() | np.floating():
                return tree.item()
            case dict():
                if "blob" in tree and (fault := entry_fault(tree)):
                    raise ValueError(f"`tree` has the key `blob`, which marks stored arrays: {fault}.")
                return {_text(key): self.write_tree(value) for key, value in tree.items()}
            case list() | tuple():
                return [self.write_tree(value) for value in tree]
            case None | bool() | int() | float() | str():
                return tree
        raise TypeError(f"`tree` holds a {type(tree).__name__}: neither an array nor JSON.")

    def read_tree(self, document: Any) -> Any:
        """The document with every entry replaced by its array.

        Raises:
            CheckpointDamaged: see `read_array`.
        """
        match document:
            case {"blob": _}:
                return self.read_array(document)
            case dict():
                return {key: self.read_tree(value) for key, value in document.items()}
            case list():
                return [self.read_tree(value) for value in document]
        return document

    def sync(self) -> None:
        """Makes durable that the arrays written so far have their names.

        `write_manifest` does it for all writers on its own machine. A writer on another
        machine calls it before it hands over its entries.
        """
        self._files.sync("blobs")

    def write_manifest(self, number: int, document: dict[str, Any]) -> None:
        """Makes checkpoint `number` exist, in one step; one that had the number is replaced.

        Raises:
            ValueError: `number` is negative, or `document` is no JSON that can be read back.
            TypeError: `document` holds something that is not JSON.
            OSError: it could not be written, or an array that it names is not there.
        """
        if number < 0:
            raise ValueError(f"`number` ({number}) must be at least 0.")
        content = manifest_bytes(number, document)
        sizes = self._files.sizes("blobs")
        for entry in _entries(document):
            name = blob_name(entry)
            if sizes.get(name.removeprefix("blobs/")) != entry["bytes"]:
                raise FileNotFoundError(errno.ENOENT, "Array of a checkpoint is gone", self._where(name))
        self.sync()
        self._files.write(manifest_name(number), content)
        self._files.sync("")

    def numbers(self) -> list[int]:
        """Numbers of all checkpoints, ascending; whether they are whole is not looked at."""
        found = (number_from_name(name) for name in self._files.sizes(""))
        return sorted(number for number in found if number is not None)

    def read_manifest(self, number: int) -> dict[str, Any]:
        """The document of a checkpoint; its entries are sound, their files not looked at.

        Raises:
            CheckpointDamaged: it is not what was written, or missing.
            CheckpointTooNew: a later release wrote it.
        """
        name = manifest_name(number)
        with self._files.reading(name) as (stream, size):
            if size > MAX_BYTES:
                raise CheckpointDamaged(
                    f"{self._where(name)}: is {size} bytes long, too long for a manifest."
                )
            content = stream.read(size)
        return document_from_bytes(content, number, self._where(name))

    def verify(self, number: int, relied_on: str | None = None) -> dict[str, Any]:
        """The document of a checkpoint of which every byte is as it was written.

        Arrays are read a chunk at a time.

        Args:
            number: of the checkpoint.
            relied_on: key of a part of the document that is too large to be read twice. Arrays
                in it that this process has written, or read, need a file of their length only:
                if its content has changed since, `read_array` raises.

        Raises:
            CheckpointDamaged: it is not whole.
            CheckpointTooNew: a later release wrote it.
        """
        document = self.read_manifest(number)
        part = {relied_on: document[relied_on]} if relied_on in document else {}
        known = {_digest(entry) for entry in self.arrays(part)} & self._seen_whole
        sizes = self._files.sizes("blobs") if known else {}
        for entry in self.arrays(document):
            name = blob_name(entry).removeprefix("blobs/")
            if _digest(entry) not in known or sizes.get(name) != entry["bytes"]:
                self._check(entry)
        return document

    @staticmethod
    def arrays(document: dict[str, Any]) -> list[Entry]:
        """The arrays that a document names, each once."""
        distinct = {(entry["blob"], entry["dtype"], *entry["shape"]): entry for entry in _entries(document)}
        return list(distinct.values())

    def fault(self, entry: Entry) -> str:
        """What is wrong with the file of a sound entry, read a chunk at a time; empty if it is whole."""
        try:
            self._check(entry)
        except CheckpointDamaged as error:
            return str(error)
        return ""

    def written_at(self, number: int) -> float:
        """When a checkpoint was completed, in seconds since 1970."""
        return self._files.modified(manifest_name(number))

    def newest_whole(
        self, *numbers: int, relied_on: str | None = None
    ) -> tuple["CheckpointRef", list[tuple[int, str]]]:
        """The newest checkpoint that can be loaded, of these or, if none are given, of all.

        `relied_on` is what `verify` need not read.

        Returns:
            It, and the newer ones passed over, each with the reason.

        Raises:
            NoCheckpoint: there is none.
            CheckpointDamaged: none is whole; one line for each. Nothing is deleted.
            CheckpointTooNew: a later release wrote one that is newer than the first whole one.
        """
        candidates = sorted(numbers or self.numbers(), reverse=True)
        if not candidates:
            raise NoCheckpoint(f"{self._root}: holds no checkpoint.")
        passed_over: list[tuple[int, str]] = []
        for number in candidates:
            try:
                return CheckpointRef(self, number, self.verify(number, relied_on)), passed_over
            except CheckpointDamaged as error:
                passed_over.append((number, str(error)))
        summary = f"{self._root}: no checkpoint is whole; nothing was deleted."
        raise CheckpointDamaged([summary, *(reason for _, reason in passed_over)])

    def prune(self, keep: int, also: Collection[int] = ()) -> list[tuple[int, str]]:
        """Keeps the newest `keep` checkpoints and those in `also`; deletes what nobody needs.

        Manifests go first, then the arrays that only they named, then whatever no
        manifest names, half-written files too, once it is older than the grace period.
        Manifests that cannot be read do not count as kept. They stay as long as they are
        newer than the last one kept, or in `also`; while one does, no array is deleted.

        Returns:
            The unreadable ones left in place, each with the reason.

        Raises:
            ValueError: `keep` is not at least 1.
            OSError: something could not be read or deleted.
        """
        if keep < 1:
            raise ValueError(f"`keep` ({keep}) must be at least 1: nothing could be resumed.")
        kept: list[int] = []
        obsolete: list[int] = []
        unreadable: list[tuple[int, str]] = []
        named: set[str] = set()
        for number in reversed(self.numbers()):
            if len(kept) >= keep and number not in also:
                obsolete.append(number)
                continue
            try:
                named |= self._blobs_of(number)
                kept.append(number)
            except CheckpointError as error:
                unreadable.append((number, str(error)))
        given_up: set[str] = set()
        for number in obsolete:
            with contextlib.suppress(CheckpointError):  # its arrays go when they are old enough
                given_up |= self._blobs_of(number)
            self._files.delete(manifest_name(number))
        self._files.sync("")
        self._delete_leftovers()
        if not unreadable:
            self._delete_blobs(named, given_up, kept)
        return unreadable

    def _delete_blobs(self, named: set[str], given_up: set[str], kept: list[int]) -> None:
        """Deletes arrays that no kept manifest names."""
        old = time.time() - self._grace_seconds
        # What was written or asked for since belongs to a checkpoint still being made.
        before_newest = self._files.modified(manifest_name(kept[0])) if kept else 0.0
        for name in self._files.sizes("blobs"):
            if re.fullmatch(r"[0-9a-f]{64}\.npy", name) and f"blobs/{name}" not in named:
                self._delete_older(f"blobs/{name}", before_newest if f"blobs/{name}" in given_up else old)

    def _delete_leftovers(self) -> None:
        """Deletes what writers left half-written when they were killed."""
        old = time.time() - self._grace_seconds
        for folder in ("", "blobs/"):
            for name in self._files.sizes(folder):
                if re.fullmatch(r"\.[0-9a-f]{16}\.part", name):
                    self._delete_older(folder + name, old)

    def _delete_older(self, name: str, limit: float) -> None:
        with contextlib.suppress(FileNotFoundError):  # its writer has renamed it
            if self._files.modified(name) < limit:
                self._files.delete(name)

    def _blobs_of(self, number: int) -> set[str]:
        return {blob_name(entry) for entry in _entries(self.read_manifest(number))}

    def _check(self, entry: Entry) -> None:
        self._seen_whole.discard(_digest(entry))
        with self._files.reading(blob_name(entry)) as (stream, size):
            check_blob(stream, size, entry, self._where(blob_name(entry)))
        self._remember(entry)

    def _is_whole(self, entry: Entry) -> bool:
        """Whether the file of an entry is right, read only if this process never saw it so."""
        if _digest(entry) in self._seen_whole:
            return True
        return not self.fault(entry)

    def _remember(self, entry: Entry) -> None:
        if len(self._seen_whole) >= _MAX_REMEMBERED:
            self._seen_whole.clear()
        self._seen_whole.add(_digest(entry))

    def _where(self, name: str) -> str:
        return f"{self._root}/{name}"


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint that can be loaded."""

    store: Store
    number: int
    document: Tree  # what it holds, arrays as entries of the store

    def read(self, key: str) -> Any:
        """The part of it with that key, arrays and all."""
        return self.store.read_tree(self.document[key])


def find_checkpoints(place: str) -> tuple[Store, list[int]]:
    """Store and numbers of the checkpoints that a path or URL names: of a run, of a store, or one alone.

    Raises:
        NoCheckpoint: there is none.
    """
    root, _, name = place.rpartition("/")
    number = number_from_name(name)
    if number is not None:
        return Store(root or "."), [number]
    inner = Path(place) / "checkpoints"
    store = Store(str(inner) if inner.is_dir() else place)
    numbers = [] if Path(place).is_file() else store.numbers()
    if not numbers:
        raise NoCheckpoint(f"{place} holds no checkpoint (name the folder of a run).")
    return store, numbers


def place_of(root: str) -> str:
    """The URL, or the absolute path, of a store."""
    return root.rstrip("/") if "://" in root else str(Path(root).absolute())


def _entries(document: dict[str, Any]) -> list[Entry]:
    """The entries of a document in which all are known to be sound."""
    return [entry for entry in entries_of(document) if isinstance(entry, dict)]


def _digest(entry: Entry) -> bytes:
    """The SHA-256 sum that a sound entry names."""
    return bytes.fromhex(entry["blob"])


def _text(key: object) -> str:
    if not isinstance(key, str):
        raise ValueError(f"`tree` has the key {key!r}: JSON would make it text.")  # noqa: TRY004
    return key
