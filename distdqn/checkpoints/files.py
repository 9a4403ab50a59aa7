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
    """Files below a folder, shared by processes of one or more machines.

    Names are paths below the root; folders are "" and "blobs/". Faults of the disk (full,
    gone, not permitted) are `OSError`s.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def make_folders(self) -> None:
        """Makes the folders that files are written to; nothing else does."""
        (self._root / "blobs").mkdir(parents=True, exist_ok=True)
        self.sync("")

    def write(self, name: str, content: bytes) -> None:
        """Writes a file aside, syncs it and gives it its name last."""
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

    def holds(self, name: str, size: int) -> bool:
        """Whether there is a regular file of that size; if so, its age restarts."""
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
        """Opens a file and tells its size; follows no link, and waits for no pipe's other end.

        Raises:
            CheckpointDamaged: it is missing, no regular file, or its place on the disk is broken.
        """
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

    def sizes(self, folder: str) -> dict[str, int]:
        """Names and sizes of all in a folder, if there is one; -1 for what is no regular file."""
        found = {}
        with contextlib.suppress(FileNotFoundError):  # no folder
            for path in (self._root / folder).iterdir():
                with contextlib.suppress(FileNotFoundError):  # renamed or deleted since
                    status = path.lstat()
                    found[folder + path.name] = status.st_size if stat.S_ISREG(status.st_mode) else -1
        return found

    def modified(self, name: str) -> float:
        """When a file was last written or asked for by `holds`, in seconds since 1970."""
        return (self._root / name).lstat().st_mtime

    def delete(self, name: str) -> None:
        """Deletes a file, if it is there."""
        (self._root / name).unlink(missing_ok=True)

    def sync(self, folder: str) -> None:
        """Makes durable which names files in a folder have."""
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


class RemoteFiles:
    """The same in an object store, by fsspec; one put makes an object whole and durable."""

    def __init__(self, system: Any, root: str) -> None:
        self._system = system
        self._root = root.rstrip("/")

    def make_folders(self) -> None:
        """Object stores have none."""

    @_as_os_errors()
    def write(self, name: str, content: bytes) -> None:
        """Puts an object in one call: a stream would leave half an object when it fails."""
        self._system.pipe_file(self._path(name), content)

    @_as_os_errors()
    def holds(self, name: str, size: int) -> bool:
        """Whether there is an object of that size."""
        self._system.invalidate_cache()  # others write too
        try:
            found = self._system.info(self._path(name))
        except FileNotFoundError:
            return False
        return bool(found["type"] == "file" and found["size"] == size)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[tuple[io.BufferedIOBase, int]]:
        """Opens an object and tells its size; `CheckpointDamaged` if there is none."""
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
        """Names and sizes of the objects below a prefix; -1 for what is none."""
        self._system.invalidate_cache()
        try:
            listing = self._system.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return {}
        sizes = (item["size"] if item["type"] == "file" else -1 for item in listing)
        names = (folder + PurePosixPath(item["name"]).name for item in listing)
        return dict(zip(names, sizes, strict=True))

    @_as_os_errors()
    def modified(self, name: str) -> float:
        """When an object was put; now, so that it never gets old, if the store cannot tell."""
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
        """A put is durable already."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")


def files_at(root: str) -> LocalFiles | RemoteFiles:
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
