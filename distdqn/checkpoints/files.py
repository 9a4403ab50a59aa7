"""The files of a store, on a local disk or in an object store, by their names below its root."""

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from distdqn.errors import CheckpointDamaged, ConfigError

_DAMAGE = {
    errno.ENOENT: "is missing.",
    errno.ENOTDIR: "is missing.",
    errno.ELOOP: "is a symbolic link.",
    errno.EISDIR: "is not a regular file.",
    errno.ENXIO: "is not a regular file.",
    errno.EIO: "cannot be read (input/output error).",
}


class LocalFiles:
    """Files below a folder that processes of several machines share, named by their path below it.

    Folders are "" and "blobs/". Disk faults (full, gone, no permission) raise `OSError`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, content: bytes) -> None:
        """Writes and syncs a temporary file, then renames it; creates its folder if there is none."""
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
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

    def holds(self, name: str, size: int) -> bool:
        """Whether there is a regular file of `size` bytes; if so, its age restarts."""
        path = self._root / name
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_size == size:
                os.utime(path)
                return True
        return False

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[io.BufferedIOBase, int]]:
        """Opens a file and gives its size in bytes; `CheckpointDamaged` if missing, irregular or broken."""
        path = self._root / name
        try:
            # Follows no link and waits for no pipe.
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

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and bytes of the files in a folder, if there is one; -1 for what is no regular file."""
        found = {}
        with contextlib.suppress(FileNotFoundError):  # no folder
            for path in (self._root / folder).iterdir():
                with contextlib.suppress(FileNotFoundError):  # renamed or deleted since
                    status = path.lstat()
                    found[folder + path.name] = status.st_size if stat.S_ISREG(status.st_mode) else -1
        return found

    def modified(self, name: str) -> float:
        """When a file was last written or found by `holds`, in Unix time."""
        return (self._root / name).lstat().st_mtime

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there."""
        (self._root / name).unlink(missing_ok=True)

    def sync(self, folder: str) -> None:
        """Makes the names of the files in a folder durable."""
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
    """Turns errors of the libraries of object stores (no credentials, no network) into `OSError`."""
    try:
        yield
    except (OSError, CheckpointDamaged):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


class RemoteFiles:
    """The same in an object store, by fsspec; a put is atomic and durable."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    @_as_os_errors()
    def write(self, name: str, content: bytes) -> None:
        """Puts an object in one call: a stream that fails would leave half an object."""
        self._system.pipe_file(self._path(name), content)

    @_as_os_errors()
    def holds(self, name: str, size: int) -> bool:
        """Whether there is an object of `size` bytes."""
        self._system.invalidate_cache()  # other processes write too
        with contextlib.suppress(FileNotFoundError):
            found = self._system.info(self._path(name))
            return bool(found["type"] == "file" and found["size"] == size)
        return False

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[io.BufferedIOBase, int]]:
        """Opens an object and gives its size in bytes; `CheckpointDamaged` if there is none."""
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
        """Names and bytes of the objects below a prefix; -1 for what is no object."""
        self._system.invalidate_cache()
        try:
            listing = self._system.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {
            folder + PurePosixPath(item["name"]).name: item["size"] if item["type"] == "file" else -1
            for item in listing
        }

    @_as_os_errors()
    def modified(self, name: str) -> float:
        """When an object was put, in Unix time; now, so that it stays, if the store does not know."""
        try:
            return float(self._system.modified(self._path(name)).timestamp())
        except NotImplementedError:
            return time.time()

    @_as_os_errors()
    def delete(self, name: str) -> None:
        """Deletes an object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def sync(self, folder: str) -> None:
        """Not needed: a put is durable."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


def files_at(root: str) -> LocalFiles | RemoteFiles:
    """The files below a path or a URL; `ConfigError` if its scheme is unknown or lacks its package."""
    if "://" not in root:
        return LocalFiles(Path(root))
    try:
        import fsspec.core  # takes 0.1 s

        system, path = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{root}: {error}") from error
    return LocalFiles(Path(path)) if "file" in system.protocol else RemoteFiles(system, path)
