"""The checkpoints of a run: files of arrays named by their content, and one manifest a checkpoint."""

import contextlib
import errno
import hashlib
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy

from distdqn.checkpoints.files import files_at
from distdqn.checkpoints.format import (
    MAX_MANIFEST_BYTES,
    ArrayRef,
    arrays_from_bytes,
    document_from_bytes,
    join_tree,
    manifest_bytes,
    manifest_name,
    number_from_name,
    refs_by_file,
    split_tree,
)
from distdqn.errors import CheckpointDamaged, CheckpointError, NoCheckpoint
from distdqn.types import AnyArray, Tree


class Store:
    """Keeps checkpoints below a folder or URL, written by several processes at once.

        <root>/blobs/<sha256>.safetensors    arrays, never changed; equal files are stored once
        <root>/checkpoint-000000000123.json  the manifest of checkpoint 123, which refers to its arrays

    A checkpoint exists if and only if its manifest does, which is written last. Any process may
    write arrays; only the driver writes manifests and prunes. Damage raises `CheckpointError`, a
    disk fault (full, gone, no permission) `OSError`, after which all checkpoints are still whole.

    Args:
        root: local path, or URL of an object store that fsspec knows.
        grace_seconds: pruning keeps younger files, whose manifest may not be written yet.
    """

    def __init__(self, root: str, grace_seconds: float = 3600.0) -> None:
        self._files = files_at(root)
        self.place = root.rstrip("/") if "://" in root else str(Path(root).absolute())
        self._root = root.rstrip("/") or "/"
        self._grace_seconds = grace_seconds
        self._seen_whole: set[str] = set()  # files that were whole when this process last read or wrote them

    def check_writable(self) -> None:
        """Creates the folders if needed, writes and deletes a file in each; `OSError` if it cannot."""
        for folder in ("", "blobs/"):
            probe = f"{folder}.{secrets.token_hex(8)}.part"  # pruned as a leftover if this process dies here
            self._files.write(probe, b"probe")
            self._files.delete(probe)

    def write_tree(self, tree: Any) -> Any:
        """Stores the arrays of nested dictionaries and lists in one file; returns the document.

        An existing file is read once, and written again only if it is damaged. Raises what `split_tree` does,
        and `OSError` if the file could not be written.
        """
        arrays: dict[str, tuple[AnyArray, Tree]] = {}
        document = split_tree(tree, arrays)
        if arrays:
            content = safetensors.numpy.save({name: array for name, (array, _) in arrays.items()})
            file = {"blob": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for _, ref in arrays.values():
                ref.update(file)
            refs = [ArrayRef(**ref) for _, ref in arrays.values()]
            name = refs[0].file
            is_there = self._files.holds(name, len(content))
            if not is_there or (name not in self._seen_whole and self.fault(refs)):
                self._files.write(name, content)
                self._seen_whole.add(name)
        return document

    def read_tree(self, document: Any) -> Any:
        """A document of this store with writable arrays in it; `CheckpointDamaged` if a byte differs."""
        arrays: dict[tuple[str, str], AnyArray] = {}
        for refs in refs_by_file(document).values():
            arrays |= self._read(refs)
        return join_tree(document, arrays)

    def write_manifest(self, number: int, document: Tree) -> None:
        """Creates or replaces checkpoint `number` atomically.

        `OSError` if that is impossible or a file that it refers to is missing; `ValueError` or `TypeError` if
        `document` could not be read back: see `refs_by_file`, or it is too long or no JSON.
        """
        files = refs_by_file(document)
        content = manifest_bytes(number, document)
        if (size := len(content)) > MAX_MANIFEST_BYTES:
            raise ValueError(f"`document` takes {size} bytes, {MAX_MANIFEST_BYTES} are read: use arrays.")
        sizes = self._files.sizes("blobs/")
        for name, refs in files.items():
            if sizes.get(name) != refs[0].bytes:
                raise FileNotFoundError(errno.ENOENT, "File of a checkpoint is gone", self._where(name))
        self._files.sync("blobs/")
        self._files.write(manifest_name(number), content)
        self._files.sync("")

    def numbers(self) -> list[int]:
        """Numbers of all checkpoints, ascending, whole or not."""
        found = (number_from_name(name) for name in self._files.sizes(""))
        return sorted(number for number in found if number is not None)

    def read_manifest(self, number: int) -> Tree:
        """The document of a checkpoint; its references are sound, their files are not read.

        `CheckpointDamaged` if it is missing; else as `document_from_bytes`.
        """
        name = manifest_name(number)
        where = self._where(name)
        with self._files.reading(name) as (stream, size):
            if size > MAX_MANIFEST_BYTES:
                raise CheckpointDamaged(f"{where}: is {size} bytes long, too long for a manifest.")
            content = stream.read(size)
        return document_from_bytes(content, number, where)

    def verify(self, number: int, relied_on: str = "") -> "CheckpointRef":
        """Checkpoint `number`, every byte of which is as it was written.

        `relied_on` is the key of a part too large to be read twice. Of its files that this process
        has written or read, only the length is checked here, and the content by `read_tree`.
        `CheckpointDamaged` if it is not whole, `CheckpointTooNew` if a later release wrote it.
        """
        document = self.read_manifest(number)
        relied = refs_by_file(document.get(relied_on)).keys() & self._seen_whole
        sizes = self._files.sizes("blobs/") if relied else {}
        for name, refs in refs_by_file(document).items():
            if name not in relied or sizes.get(name) != refs[0].bytes:
                self._read(refs)
        return CheckpointRef(self, number, document)

    def fault(self, refs: list[ArrayRef]) -> str:
        """What is wrong with the file of all `refs`; empty if it is whole."""
        try:
            self._read(refs)
        except CheckpointDamaged as error:
            return str(error)
        return ""

    def written_at(self, number: int) -> float:
        """When a checkpoint was completed, in Unix time."""
        return self._files.modified(manifest_name(number))

    def newest_whole(
        self, *numbers: int, relied_on: str = ""
    ) -> tuple["CheckpointRef", list[tuple[int, str]]]:
        """The newest whole checkpoint of `numbers` (default: all), and newer ones with what is wrong.

        `relied_on` is as in `verify`. `NoCheckpoint` if there is none, `CheckpointDamaged` with a line for
        each if none is whole, `CheckpointTooNew` if a later release wrote one newer than the first whole one.
        """
        candidates = sorted(numbers or self.numbers(), reverse=True)
        if not candidates:
            raise NoCheckpoint(f"{self._root}: holds no checkpoint.")
        passed_over: list[tuple[int, str]] = []
        for number in candidates:
            try:
                return self.verify(number, relied_on), passed_over
            except CheckpointDamaged as error:
                passed_over.append((number, str(error)))
        summary = f"{self._root}: no checkpoint is whole; nothing was deleted."
        raise CheckpointDamaged([summary, *(reason for _, reason in passed_over)])

    def prune(self, keep: int, also: Collection[int] = ()) -> None:
        """Keeps the newest `keep` checkpoints, at least 1, and those in `also`; deletes the others.

        Manifests go first, then the arrays that only they refer to. Unreferenced arrays and
        half-written files go after the grace period. Unreadable manifests stay, without counting as
        kept, if they are in `also` or newer than the last one kept; while one stays, all arrays do.
        `OSError` if something cannot be read or deleted.
        """
        kept: list[int] = []
        needed: set[str] = set()
        released: set[str] = set()
        is_unreadable = False
        for number in reversed(self.numbers()):
            try:
                names = refs_by_file(self.read_manifest(number)).keys()
            except CheckpointError:
                names = None
            if len(kept) >= keep and number not in also:
                self._files.delete(manifest_name(number))
                released |= names or set()  # the arrays of an unreadable one go after the grace period
            elif names is None:
                is_unreadable = True
            else:
                kept.append(number)
                needed |= names
        self._files.sync("")
        # Younger files may belong to a checkpoint that is still being written.
        newest = self._files.modified(manifest_name(kept[0])) if kept else 0.0
        old = time.time() - self._grace_seconds
        for name in (*self._files.sizes(""), *self._files.sizes("blobs/")):
            is_blob = re.fullmatch(r"blobs/[0-9a-f]{64}\.safetensors", name) and name not in needed
            if (is_blob and not is_unreadable) or re.fullmatch(r"(blobs/)?\.[0-9a-f]{16}\.part", name):
                with contextlib.suppress(FileNotFoundError):  # its writer has renamed it
                    if self._files.modified(name) < (newest if name in released else old):
                        self._files.delete(name)
                        self._seen_whole.discard(name)

    def _read(self, refs: list[ArrayRef]) -> dict[tuple[str, str], AnyArray]:
        """The arrays `[...]` of references to one file, by blob and name; may raise `CheckpointDamaged`."""
        name = refs[0].file
        where = self._where(name)
        self._seen_whole.discard(name)
        with self._files.reading(name) as (stream, size):
            for ref in refs:
                if ref.bytes != size:
                    raise CheckpointDamaged(f"{where}: is {size} bytes long, not {ref.bytes}.")
            try:
                arrays = arrays_from_bytes(stream.read(size), refs, where)
            except (MemoryError, OverflowError) as error:
                raise CheckpointDamaged(f"{where}: its {size} bytes do not fit into memory.") from error
        self._seen_whole.add(name)
        return arrays

    def _where(self, name: str) -> str:
        return f"{self._root}/{name}"


@dataclass(frozen=True)
class CheckpointRef:
    """A checkpoint that can be loaded."""

    store: Store
    number: int
    document: Tree  # what it holds, with references to arrays

    def read(self, key: str) -> Any:
        """The part with that key, with its arrays."""
        return self.store.read_tree(self.document[key])


def find_checkpoints(place: str) -> tuple[Store, list[int]]:
    """Store and numbers of the checkpoints of a run, store or manifest; `NoCheckpoint` if there is none."""
    root, _, name = place.rpartition("/")
    if (number := number_from_name(name)) is not None:
        return Store(root or "."), [number]
    inner = Path(place) / "checkpoints"
    store = Store(str(inner) if inner.is_dir() else place)
    numbers = [] if Path(place).is_file() else store.numbers()
    if not numbers:
        raise NoCheckpoint(f"{place} holds no checkpoint (name the folder of a run).")
    return store, numbers
