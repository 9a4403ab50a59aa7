"""The files of a store, on a local disk or in an object store, by their names below its root."""

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from distdqn.errors import CheckpointDamaged, ConfigError

_DAMAGE = {
    errno.ENOENT: "is missing.",
    errno.ENOTDIR: "is missing.",
    errno.ELOOP: "is a symbolic link.",
    errno.EISDIR: "is not a regular file.",
    errno.ENXIO: "is not a regular file.",
    errno.EIO: "cannot be read (input/output error).",
}


class Files(Protocol):
    """What a store asks of a place.

    Faults of the place itself (full, gone, not permitted, unreachable) are `OSError`s.
    """

    def make_folders(self) -> None:
        """Makes the folders that files are written to."""

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """Writes a file of these parts, durably, and gives it its name last."""

    def holds(self, name: str, size: int) -> bool:
        """Whether there is a regular file of that size."""

    def reading(self, name: str) -> contextlib.AbstractContextManager[tuple[io.BufferedIOBase, int]]:
        """Opens a file and tells its size; `CheckpointDamaged` if it is no regular file."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes in a folder; -1 for what is no regular file, empty if it is missing."""

    def modified(self, name: str) -> float:
        """When a file was last written, in seconds since 1970."""

    def delete(self, name: str) -> None:
        """Deletes a file; nothing happens if it is gone."""

    def sync(self, folder: str) -> None:
        """Makes names durable that were given or deleted in a folder."""


class LocalFiles:
    """Files below a folder, shared by processes of one or more machines."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make_folders(self) -> None:
        """Makes the folder of blobs with those above it."""
        (self._root / "blobs").mkdir(parents=True, exist_ok=True)
        self.sync("")

    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """Writes aside, syncs and renames, so that a name never stands for half a file.

        Folders are not made: one that is gone is a fault, not a fresh start.
        """
        path = self._root / name
        aside = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with aside.open("xb") as stream:
                for part in parts:
                    stream.write(part)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise

    def holds(self, name: str, size: int) -> bool:
        """Whether there is a regular file of that size; if so, its age starts anew."""
        path = self._root / name
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[io.BufferedIOBase, int]]:
        """Opens a file without following a link or waiting for a pipe's other end."""
        path = self._root / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                os.close(descriptor)
                raise CheckpointDamaged(f"{path}: is not a regular file.")
            with os.fdopen(descriptor, "rb") as stream:
                yield stream, found.st_size
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            raise CheckpointDamaged(f"{path}: {_DAMAGE[error.errno]}") from error

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes in a folder."""
        found = {}
        with contextlib.suppress(FileNotFoundError):  # no folder
            for path in (self._root / folder).iterdir():
                with contextlib.suppress(FileNotFoundError):  # renamed or deleted since
                    status = path.lstat()
                    found[path.name] = status.st_size if stat.S_ISREG(status.st_mode) else -1
        return found

    def modified(self, name: str) -> float:
        """When a file was last written or asked for by `holds`."""
        return (self._root / name).lstat().st_mtime

    def delete(self, name: str) -> None:
        """Deletes a file."""
        (self._root / name).unlink(missing_ok=True)

    def sync(self, folder: str) -> None:
        """Syncs a folder, where the file system knows how to."""
        descriptor = os.open(self._root / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    """Makes `OSError`s of what libraries of object stores raise: no credentials, no network."""
    try:
        yield
    except (OSError, CheckpointDamaged):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class RemoteFiles:
    """Files of an object store, by fsspec; one put makes an object whole and durable."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    def make_folders(self) -> None:
        """Object stores have none."""

    @_as_os_errors()
    def write(self, name: str, *parts: bytes | memoryview) -> None:
        """Puts an object in one call; a stream would be committed half when it fails."""
        self._system.pipe_file(self._path(name), b"".join(parts))

    @_as_os_errors()
    def holds(self, name: str, size: int) -> bool:
        """Whether there is an object of that size; its age is left as it is."""
        self._system.invalidate_cache()  # others write too
        try:
            found = self._system.info(self._path(name))
        except FileNotFoundError:
            return False
        return bool(found["type"] == "file" and found["size"] == size)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[io.BufferedIOBase, int]]:
        """Opens an object."""
        path = self._path(name)
        where = self._system.unstrip_protocol(path)
        try:
            with _as_os_errors():
                self._system.invalidate_cache()
                found = self._system.info(path)
                if found["type"] != "file":
                    raise CheckpointDamaged(f"{where}: is not a regular file.")
                with self._system.open(path, "rb") as stream:
                    yield stream, found["size"]
        except FileNotFoundError as error:
            raise CheckpointDamaged(f"{where}: is missing.") from error

    @_as_os_errors()
    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes below a prefix."""
        self._system.invalidate_cache()
        try:
            listing = self._system.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            item["name"].rstrip("/").rpartition("/")[2]: item["size"] if item["type"] == "file" else -1
            for item in listing
        }

    @_as_os_errors()
    def modified(self, name: str) -> float:
        """When an object was put; now, so that none ever gets old, if the store cannot tell."""
        try:
            return float(self._system.modified(self._path(name)).timestamp())
        except NotImplementedError:
            return time.time()

    @_as_os_errors()
    def delete(self, name: str) -> None:
        """Deletes an object."""
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def sync(self, folder: str) -> None:
        """A put is durable already."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


def files_at(root: str) -> Files:
    """The files below a local path, or below a URL such as `s3://bucket/folder`.

    Raises:
        ConfigError: no such kind of URL is known, or the package for it is missing.
    """
    if "://" not in root:
        return LocalFiles(Path(root))
    try:
        import fsspec.core  # a tenth of a second that local stores do without

        system, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{root}: {error}") from error
    return LocalFiles(Path(path)) if "file" in system.protocol else RemoteFiles(system, path)
