"""The files of a checkpoint: arrays as safetensors, and a manifest in JSON that refers to them."""

import hashlib
import json
import math
import re
from typing import Annotated, Any, Literal, get_args

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from safetensors import SafetensorError

from distdqn.errors import CheckpointDamaged, CheckpointTooNew
from distdqn.types import AnyArray, Tree

FORMAT = 4
MAX_MANIFEST_BYTES = 64 * 2**20
_MAX_DEPTH = 100  # levels of nesting, far below Python's limit of recursion
_MAX_AXES = 32

_Integer = Literal["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
_Dtype = Literal["bool", _Integer, "float16", "float32", "float64"]
_Length = Annotated[int, Field(ge=0, lt=2**63)]


class ArrayRef(BaseModel):
    """A reference to an array, in its place in a document."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    blob: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]  # SHA-256 of the file that holds the array
    bytes: _Length  # of that file
    tensor: str  # name of the array in that file
    dtype: _Dtype
    shape: Annotated[list[_Length], Field(max_length=_MAX_AXES)]

    @field_validator("shape")
    @classmethod
    def _fits_into_its_file(cls, shape: list[int], info: ValidationInfo) -> list[int]:
        if {"bytes", "dtype"} <= info.data.keys():
            itemsize = np.dtype(info.data["dtype"]).itemsize
            # NumPy counts axes of length 0 as 1 when it looks for overflow.
            overflows = math.prod(max(length, 1) for length in shape) * itemsize >= 2**63
            if overflows or math.prod(shape) * itemsize > info.data["bytes"]:
                raise ValueError("is larger than its file")
        return shape

    @property
    def file(self) -> str:
        """Name of its file below the root of the store."""
        return f"blobs/{self.blob}.safetensors"


class Manifest(BaseModel):
    """The file of one checkpoint; later formats keep these fields, to be told from damage."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Annotated[int, Field(ge=1)]
    number: Annotated[int, Field(ge=0)]
    sha256: str  # of the same JSON without this field
    document: Tree  # numbers, text and references to arrays


def split_tree(tree: Any, arrays: dict[str, tuple[AnyArray, Tree]], name: str = "") -> Any:
    """Nested dictionaries and lists as JSON, with references in place of arrays.

    Tuples become lists, NumPy scalars become Python's, and references stay. `arrays` receives each
    array `[...]` by its name, which begins with `name`, and its reference, still without a file.
    `TypeError` for what is neither an array nor JSON, `ValueError` for what could not be read back.
    """
    prefix = f"{name}." if name else ""
    match tree:
        case np.ndarray():
            name = name or "array"
            if tree.dtype.name not in get_args(_Dtype) or tree.ndim > _MAX_AXES:
                what = f"`{name}` is an array of {tree.dtype} with shape {tree.shape}"
                raise ValueError(f"{what}: only booleans, integers and floats are stored.")
            if name in arrays or name == "__metadata__":
                raise ValueError(f"`tree` has two arrays named `{name}`, or the name is reserved.")
            ordered = np.asarray(tree, dtype=tree.dtype.newbyteorder("<"), order="C")
            arrays[name] = ordered, {"tensor": name, "dtype": tree.dtype.name, "shape": list(tree.shape)}
            return arrays[name][1]
        case np.bool_() | np.integer() | np.floating():
            return tree.item()
        case {"blob": _}:
            return _ref(tree).model_dump()
        case dict():
            return {key: split_tree(value, arrays, f"{prefix}{key}") for key, value in tree.items()}
        case list() | tuple():
            return [split_tree(value, arrays, f"{prefix}{i}") for i, value in enumerate(tree)]
        case None | bool() | int() | float() | str():
            return tree
    raise TypeError(f"`tree` holds a {type(tree).__name__}: neither an array nor JSON.")


def join_tree(document: Any, arrays: dict[tuple[str, str], AnyArray]) -> Any:
    """The document with `arrays` `[...]`, by blob and name, in place of their references."""
    match document:
        case {"blob": blob, "tensor": tensor}:
            return arrays[blob, tensor]
        case dict():
            return {key: join_tree(value, arrays) for key, value in document.items()}
        case list():
            return [join_tree(value, arrays) for value in document]
    return document


def arrays_from_bytes(content: bytes, refs: list[ArrayRef], where: str) -> dict[tuple[str, str], AnyArray]:
    """The writable arrays `[...]` of references to one file, by blob and name.

    `CheckpointDamaged` if the content of the file, `where`, is not what the references say.
    """
    if hashlib.sha256(content).hexdigest() != refs[0].blob:
        raise CheckpointDamaged(f"{where}: its content is not what was written (SHA-256 differs).")
    try:
        arrays = safetensors.numpy.load(content)
    except (SafetensorError, LookupError, ValueError) as error:  # or a type that NumPy lacks
        raise CheckpointDamaged(f"{where}: is not a file of arrays in the safetensors format.") from error
    for ref in refs:
        array = arrays.get(ref.tensor)
        if array is None or (array.dtype.name, list(array.shape)) != (ref.dtype, ref.shape):
            raise CheckpointDamaged(f"{where}: does not hold {ref.dtype} of shape {ref.shape}.")
    return {(ref.blob, ref.tensor): arrays[ref.tensor] for ref in refs}


def refs_by_file(document: object) -> dict[str, list[ArrayRef]]:
    """The references to arrays in a document, by their file's name.

    `ValueError` if one is malformed, a key is no text, or the nesting is too deep.
    """
    found: dict[str, list[ArrayRef]] = {}
    level = [document]
    for _ in range(_MAX_DEPTH):
        below: list[object] = []
        for value in level:
            match value:
                case {"blob": _}:
                    ref = _ref(value)
                    found.setdefault(ref.file, []).append(ref)
                case dict():
                    if not all(isinstance(key, str) for key in value):  # JSON would turn them into text
                        raise ValueError(f"`document` has keys that are no text: {list(value)[:3]}.")
                    below += value.values()
                case list() | tuple():
                    below += value
        level = [value for value in below if isinstance(value, dict | list | tuple)]
        if not level:
            return found
    raise ValueError(f"`document` is nested deeper than {_MAX_DEPTH} levels.")


def manifest_name(number: int) -> str:
    """`checkpoint-000000000123.json` for 123."""
    return f"checkpoint-{number:012d}.json"


def number_from_name(name: str) -> int | None:
    """123 for `checkpoint-000000000123.json`; None for other names."""
    found = re.fullmatch(r"checkpoint-([0-9]{12}|[1-9][0-9]{12,17})\.json", name)
    return int(found[1]) if found else None


def manifest_bytes(number: int, document: Tree, version: int = FORMAT) -> bytes:
    """The manifest of a checkpoint as ASCII JSON without spaces; keys keep their order, floats every bit.

    `TypeError` if the document holds something that is not JSON.
    """
    plain = {"format": version, "number": number, "document": document}
    digest = hashlib.sha256(_json(plain)).hexdigest()
    return _json({"format": version, "number": number, "sha256": digest, "document": document}) + b"\n"


def document_from_bytes(content: bytes, number: int, where: str) -> Tree:
    """The document in the manifest of checkpoint `number` in file `where`; its references are sound.

    `CheckpointDamaged` if it is not what was written, `CheckpointTooNew` if its format is newer.
    """
    try:
        manifest = Manifest.model_validate(json.loads(content.decode("ascii")))
        # To the byte, as JSON ignores some changes.
        is_same = content == manifest_bytes(manifest.number, manifest.document, manifest.format)
    except (ValueError, RecursionError) as error:
        why = _reason(error) if isinstance(error, ValidationError) else "cut, or not JSON"
        raise CheckpointDamaged(f"{where}: is not a manifest ({why}).") from error
    if not is_same:
        raise CheckpointDamaged(f"{where}: its content is not what was written (SHA-256 differs).")
    if manifest.format != FORMAT:
        what = f"{where}: has format {manifest.format}, this release reads {FORMAT}"
        if manifest.format > FORMAT:
            raise CheckpointTooNew(f"{what} (install a newer distdqn).")
        raise CheckpointDamaged(f"{what} (start a new run).")
    if manifest.number != number:
        raise CheckpointDamaged(f"{where}: is checkpoint {manifest.number} under another's name.")
    try:
        refs_by_file(manifest.document)
    except ValueError as error:
        raise CheckpointDamaged(f"{where}: {error}") from error
    return manifest.document


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _ref(value: object) -> ArrayRef:
    """The reference in a dictionary with the key `blob`."""
    try:
        return ArrayRef.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"A reference to an array is malformed: {_reason(error)}.") from error


def _reason(error: ValidationError) -> str:
    """What pydantic refused first, in one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ascii(".".join(map(str, first["loc"])))[1:-1]  # a name from the file may be anything
    return f"`{field[:80]}`: {first['msg']}"
