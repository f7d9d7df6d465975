"""Read tensors from pickle-based files (of PyTorch and Detectron2) without executing code from them.

A pickle is a program: it names callables and calls them. Here the only names it can use are those of a fixed table of
harmless substitutes; any other name is an error. So PyTorch is not needed, and a file can only describe arrays.
Supported are the formats of ``torch.save`` (a zip archive since PyTorch 1.6, a stream of pickles before) and NumPy
arrays written by Python's ``pickle``.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from frcnn.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a torch.save stream from before PyTorch 1.6
ARCHIVE_START = b"PK\x03\x04"
STORAGES = {
    "FloatStorage": np.dtype("<f4"), "DoubleStorage": np.dtype("<f8"), "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16), "LongStorage": np.dtype("<i8"), "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"), "CharStorage": np.dtype("<i1"), "ByteStorage": np.dtype("<u1"),
    "BoolStorage": np.dtype("?"),
}  # fmt: skip
# Exceptions that unpickling arbitrary bytes can raise.
DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, struct.error, OSError, EOFError, LookupError, ValueError, TypeError,
    AttributeError, OverflowError, MemoryError, RecursionError, ImportError,
)  # fmt: skip
ARRAY_KINDS = "fiub"  # NumPy arrays of numbers; anything else could hold pointers


def read_pickled(file: Path) -> Any:
    """Content of the file: nested dicts, lists and plain values, with NumPy arrays for tensors.

    Raises:
        UserError: the file is damaged, has an unknown format, or uses anything but arrays.
    """
    try:
        if zipfile.is_zipfile(file):
            return _read_archive(file)
        with file.open("rb") as stream:
            if stream.read(len(ARCHIVE_START)) == ARCHIVE_START:
                raise ValueError("it starts as an archive but does not end as one: a part of it is missing")
            stream.seek(0)
            return _read_stream(stream, file.stat().st_size)
    except Forbidden as forbidden:
        raise UserError(
            f"{file} was not read: {forbidden}; only files that contain nothing but tensors are read"
        ) from None
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{file} cannot be read ({reason}); expected a file written by torch.save, or a .pkl of NumPy arrays"
        ) from error


class Forbidden(Exception):
    """A pickle uses a name that is not in the table."""


class Storage:
    """Flat memory of which PyTorch tensors are views."""

    def __init__(self, dtype: np.dtype, length: int, limit: int) -> None:
        if not 0 <= length * dtype.itemsize <= limit:
            raise ValueError(f"a storage of {length} values is larger than the file")
        self.dtype, self.length = dtype, length
        self.values = np.empty(0, dtype)

    def fill(self, data: bytes) -> None:
        if len(data) != self.length * self.dtype.itemsize:
            raise ValueError(f"a storage has {len(data)} bytes, expected {self.length * self.dtype.itemsize}")
        self.values = np.frombuffer(data, self.dtype)


class View(NamedTuple):
    """A tensor; its storage may be read later than it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        counts = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or not all(isinstance(count, int) and count >= 0 for count in counts):
            raise ValueError(f"a tensor has shape {self.shape} and strides {self.strides}")
        if 0 in self.shape:
            return np.empty(self.shape, self.storage.dtype)
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if max(last + 1, math.prod(self.shape)) > len(self.storage.values):
            raise ValueError(f"a tensor of shape {self.shape} exceeds its storage")
        strides = [stride * self.storage.dtype.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(self.storage.values[self.offset :], self.shape, strides).copy()


class NumPyType:
    """Replaces ``numpy.dtype``; only numeric types are accepted."""

    def __init__(self, code: str, align: Any = False, copy: Any = False) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in ARRAY_KINDS:
            raise Forbidden(f"it contains an array of {code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class NumPyArray:
    """Replaces ``numpy.ndarray``, whose ``__setstate__`` trusts its input."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, fortran, data = state
        flat = np.frombuffer(_bytes(data), kind.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class Inert:
    """Replaces objects other than weights (training arguments), which are reported and not used."""

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class Parameters(dict[Any, Any]):
    """Replaces ``OrderedDict``; attributes that PyTorch adds (``_metadata``) are dropped."""

    def __setstate__(self, state: Any) -> None: ...


def _bytes(data: Any) -> bytes:
    # Strings of Python 2 are unpickled as latin-1 text.
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> View:
    return View(storage, offset, tuple(shape), tuple(strides))


def _scalar(kind: NumPyType, data: Any) -> Any:
    return np.frombuffer(_bytes(data), kind.dtype)[0]


NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): Parameters,
    ("argparse", "Namespace"): Inert,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): tuple,
    ("numpy", "ndarray"): NumPyArray,
    ("numpy", "dtype"): NumPyType,
    ("_codecs", "encode"): lambda text, encoding: _bytes(text),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: NumPyArray() for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


class Reader(pickle.Unpickler):
    """Unpickler of the names above; ``storage_of(dtype, key, length)`` creates storages."""

    def __init__(self, stream: BinaryIO, storage_of: Callable[[np.dtype, str, int], Storage] | None = None) -> None:
        super().__init__(stream, encoding="latin1")
        self._storage_of = storage_of

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if (module, name) not in NAMES:
            raise Forbidden(f"it uses {module}.{name}, which could execute code")
        return NAMES[module, name]

    def persistent_load(self, identity: Any) -> Storage:
        kind, dtype, key, _device, length, *_view = identity
        if kind != "storage" or self._storage_of is None:
            raise Forbidden(f"it refers to an external {kind!r}")
        return self._storage_of(dtype, str(key), int(length))


def _read_archive(file: Path) -> Any:
    """A ``torch.save`` archive: ``NAME/data.pkl``, and each storage uncompressed as ``NAME/data/KEY``."""
    with zipfile.ZipFile(file) as archive:
        roots = {
            name.removesuffix("data.pkl")
            for name in archive.namelist()
            if name.endswith("data.pkl") and name.count("/") <= 1
        }
        if len(roots) != 1:
            raise ValueError(f"an archive with {len(roots)} entries 'data.pkl', expected one as written by torch.save")
        (root,) = roots
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("its tensors are big-endian")
        storages: dict[str, Storage] = {}

        def storage(dtype: np.dtype, key: str, length: int) -> Storage:
            if key not in storages:
                entry = archive.getinfo(f"{root}data/{key}")
                storages[key] = Storage(
                    dtype, length, entry.file_size if entry.compress_type == zipfile.ZIP_STORED else -1
                )
                storages[key].fill(archive.read(entry))
            return storages[key]

        return _with_arrays(Reader(io.BytesIO(archive.read(f"{root}data.pkl")), storage).load())


def _read_stream(stream: BinaryIO, size: int) -> Any:
    """A plain pickle, or PyTorch's older format.

    Its parts: magic number, protocol, system, objects, keys of the storages, the storages in the order of the keys.
    """
    first = Reader(stream).load()
    if first != LEGACY_MAGIC:
        return _with_arrays(first)
    for _protocol_and_system in range(2):
        Reader(stream).load()
    storages: dict[str, Storage] = {}
    tree = Reader(stream, lambda dtype, key, length: storages.setdefault(key, Storage(dtype, length, size))).load()
    for key in Reader(stream).load():
        (length,) = struct.unpack("<q", stream.read(8))
        if length != storages[key].length:
            raise ValueError(f"a storage has {length} values, expected {storages[key].length}")
        storages[key].fill(stream.read(length * storages[key].dtype.itemsize))
    return _with_arrays(tree)


def _with_arrays(tree: Any) -> Any:
    """Replace the substitutes in the tree by arrays."""
    if isinstance(tree, View):
        return tree.array()
    if isinstance(tree, NumPyArray):
        return tree.value
    if isinstance(tree, dict):
        return {key: _with_arrays(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_with_arrays(value) for value in tree]
    return tree
