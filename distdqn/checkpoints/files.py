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

from typing_extensions import override

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
    """What a store asks of a place; names are paths below its root, folders "" and "blobs/".

    Faults of the place itself (full, gone, not permitted, unreachable) are `OSError`s.
    """

    def make_folders(self) -> None:
        """Makes the folders that files are written to."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file durably, and gives it its name last."""

    def holds(self, name: str, size: int) -> bool:
        """Whether there is a regular file of that size; its age restarts where the place can do that."""

    def reading(self, name: str) -> contextlib.AbstractContextManager[tuple[io.BufferedIOBase, int]]:
        """Opens a file and tells its size; `CheckpointDamaged` if it is no regular file."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes of all in a folder, if there is one; -1 for what is no regular file."""

    def modified(self, name: str) -> float:
        """When a file was last written or asked for by `holds`, in seconds since 1970."""

    def delete(self, name: str) -> None:
        """Deletes a file; nothing happens if it is gone."""

    def sync(self, folder: str) -> None:
        """Makes durable which names files in a folder have."""


class LocalFiles(Files):
    """Files below a folder, shared by processes of one or more machines.

    Writing makes no folders: one that is gone is a fault. Reading follows no links and waits
    for no pipe's other end.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @override
    def make_folders(self) -> None:
        (self._root / "blobs").mkdir(parents=True, exist_ok=True)
        self.sync("")

    @override
    def write(self, name: str, content: bytes) -> None:
        path = self._root / name
        aside = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with aside.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise

    @override
    def holds(self, name: str, size: int) -> bool:
        path = self._root / name
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    @override
    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[io.BufferedIOBase, int]]:
        path = self._root / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as stream:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise CheckpointDamaged(f"{path}: is not a regular file.")
                yield stream, found.st_size
        except OSError as error:
            if error.errno not in _DAMAGE:
                raise
            raise CheckpointDamaged(f"{path}: {_DAMAGE[error.errno]}") from error

    @override
    def sizes(self, folder: str) -> dict[str, int]:
        found = {}
        with contextlib.suppress(FileNotFoundError):  # no folder
            for path in (self._root / folder).iterdir():
                with contextlib.suppress(FileNotFoundError):  # renamed or deleted since
                    status = path.lstat()
                    found[folder + path.name] = status.st_size if stat.S_ISREG(status.st_mode) else -1
        return found

    @override
    def modified(self, name: str) -> float:
        return (self._root / name).lstat().st_mtime

    @override
    def delete(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    @override
    def sync(self, folder: str) -> None:
        descriptor = os.open(self._root / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync a folder
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


class RemoteFiles(Files):
    """Files of an object store, by fsspec; one put makes an object whole and durable."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    @override
    def make_folders(self) -> None:
        """Object stores have none."""

    @override
    @_as_os_errors()
    def write(self, name: str, content: bytes) -> None:
        # In one call: a stream would leave half an object when it fails.
        self._system.pipe_file(self._path(name), content)

    @override
    @_as_os_errors()
    def holds(self, name: str, size: int) -> bool:
        self._system.invalidate_cache()  # others write too
        try:
            found = self._system.info(self._path(name))
        except FileNotFoundError:
            return False
        return bool(found["type"] == "file" and found["size"] == size)

    @override
    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[io.BufferedIOBase, int]]:
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

    @override
    @_as_os_errors()
    def sizes(self, folder: str) -> dict[str, int]:
        self._system.invalidate_cache()
        try:
            listing = self._system.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            folder + item["name"].rstrip("/").rpartition("/")[2]: item["size"]
            if item["type"] == "file"
            else -1
            for item in listing
        }

    @override
    @_as_os_errors()
    def modified(self, name: str) -> float:
        try:
            return float(self._system.modified(self._path(name)).timestamp())
        except NotImplementedError:  # the store cannot tell: no object is ever old enough to be deleted
            return time.time()

    @override
    @_as_os_errors()
    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    @override
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
