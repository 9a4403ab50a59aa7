"""One array as one file: the `.npy` format, named by its SHA-256.

Nothing in such a file is ever parsed. An entry says what the array is; from that
follow the header and the size, to the byte, and the file must have just these.
"""

import hashlib
import io
import math
import re
import reprlib
from typing import Any, NamedTuple

import numpy as np

from distdqn.errors import CheckpointDamaged
from distdqn.types import AnyArray

Entry = dict[str, Any]

_KEYS = ("blob", "bytes", "dtype", "shape")

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

_DTYPES = ("bool", *_INTEGERS, "float16", "float32", "float64")

_MAX_AXES = 32

_CHUNK_BYTES = 2**20


class Blob(NamedTuple):
    """An array on its way to disk.

    Attributes:
        entry: what a manifest says of it.
        header: the first bytes of its file.
        data: the rest; the array's own memory where that lies in order.
    """

    entry: Entry
    header: bytes
    data: memoryview


def blob_from_array(array: AnyArray) -> Blob:
    """The file of an array `[...]`, without a copy if it is contiguous and little-endian.

    Raises:
        ValueError: its elements are neither booleans, integers nor plain floats.
    """
    name, shape = array.dtype.name, list(array.shape)
    if name not in _DTYPES or len(shape) > _MAX_AXES:
        raise ValueError(
            f"`array` is {name} of shape {shape}: only booleans, integers and floats are stored."
        )
    ordered = np.asarray(array, dtype=_dtype_on_disk(name), order="C")
    header, data = _header(name, shape), ordered.reshape(-1).view(np.uint8).data
    digest = hashlib.sha256(header)
    digest.update(data)  # lets other threads run meanwhile
    entry = {
        "blob": digest.hexdigest(),
        "bytes": len(header) + len(data),
        "dtype": name,
        "shape": shape,
    }
    return Blob(entry, header, data)


def blob_name(entry: Entry) -> str:
    """The file of a sound entry, below the root."""
    return f"blobs/{entry['blob']}.npy"


def entry_fault(entry: object) -> str:
    """What makes an entry unusable, found without touching any file; empty if it is sound."""
    if not isinstance(entry, dict) or sorted(entry) != sorted(_KEYS):
        return f"an array's entry needs {', '.join(_KEYS)} and nothing else, not {reprlib.repr(entry)}"
    blob, size, dtype, shape = (entry[key] for key in _KEYS)
    if not isinstance(blob, str) or not re.fullmatch("[0-9a-f]{64}", blob):
        return f"`blob` must be 64 hexadecimal digits, not {reprlib.repr(blob)}"
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        return f"`dtype` must be one of {', '.join(_DTYPES)}, not {reprlib.repr(dtype)}"
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_AXES
        or any(type(length) is not int or length < 0 for length in shape)
        # NumPy counts axes of length 0 as 1 when it looks for overflow.
        or math.prod(max(length, 1) for length in shape) * np.dtype(dtype).itemsize >= 2**63
    ):
        return f"`shape` must be the lengths of an array's axes, not {reprlib.repr(shape)}"
    wanted = len(_header(dtype, shape)) + math.prod(shape) * np.dtype(dtype).itemsize
    if type(size) is not int or size != wanted:
        return f"`bytes` must be {wanted} for {dtype} of shape {shape}, not {reprlib.repr(size)}"
    return ""


def check_blob(stream: io.BufferedIOBase, size: int, entry: Entry, where: str) -> None:
    """Checks the file of a sound entry, a chunk at a time.

    Raises:
        CheckpointDamaged: it is not what the entry says; `where` names it.
    """
    _check_size(size, entry, where)
    header = stream.read(len(_header(entry["dtype"], entry["shape"])))
    digest = hashlib.sha256(header)
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
    _check_content(digest.hexdigest(), header, entry, where)


def read_blob(stream: io.BufferedIOBase, size: int, entry: Entry, where: str) -> AnyArray:
    """The array `[*shape]` of a sound entry; besides it, no second copy is held.

    Raises:
        CheckpointDamaged: the file is not what the entry says; `where` names it.
    """
    _check_size(size, entry, where)
    try:
        content = np.empty(size, np.uint8)
    except MemoryError as error:
        raise CheckpointDamaged(f"{where}: its {size} bytes do not fit into memory.") from error
    view, digest, position = content.data, hashlib.sha256(), 0
    while count := stream.readinto(view[position : position + _CHUNK_BYTES]):
        digest.update(view[position : position + count])
        position += count
    length = len(_header(entry["dtype"], entry["shape"]))
    _check_content(digest.hexdigest(), content[:length].tobytes(), entry, where)
    return content[length:].view(_dtype_on_disk(entry["dtype"])).reshape(entry["shape"])


def _check_size(size: int, entry: Entry, where: str) -> None:
    """Refuses a file of another size before anything of it is read."""
    if size != entry["bytes"]:
        raise CheckpointDamaged(f"{where}: is {size} bytes long, not {entry['bytes']}.")


def _check_content(digest: str, header: bytes, entry: Entry, where: str) -> None:
    """Refuses what was changed since it was written, and what was never such an array."""
    if digest != entry["blob"]:
        raise CheckpointDamaged(f"{where}: its content is not what was written (SHA-256 differs).")
    if header != _header(entry["dtype"], entry["shape"]):
        raise CheckpointDamaged(f"{where}: does not hold {entry['dtype']} of shape {entry['shape']}.")


def _dtype_on_disk(name: str) -> np.dtype[Any]:
    return np.dtype(name).newbyteorder("<")


def _header(name: str, shape: list[int]) -> bytes:
    """The `.npy` header, version 1.0, by us alone so that every NumPy gives the same bytes.

    Source: numpy.lib.format, "Format Version 1.0".
    """
    text = f"{{'descr': '{_dtype_on_disk(name).str}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"  # 10 bytes before it, a multiple of 64 in all
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("ascii")
