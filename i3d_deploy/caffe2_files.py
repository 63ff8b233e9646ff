"""Reading SlowFast's published Caffe2 weights: pickled arrays under their names, of which nothing is executed.

Note [Inert unpickling]
    A pickle is a program for a stack machine. The one here knows the operations that protocols 2 to 4 write for plain
    values and NumPy's arrays, and no more. It imports nothing and calls nothing: the few names that NumPy's pickles
    refer to are marks, and what they would build becomes an array only once type, shape and bytes agree.
    ``pickle.Unpickler`` with a restricted ``find_class`` is not enough: it hands NumPy's ``__setstate__`` whatever the
    file says, reserves memory for any number that a memo operation names, and overflows the C stack on the hash of a
    deeply nested key.

    Memory: text and bytes are parts of the file, its arrays together take no more than the file, keys are text (hashed
    with a secret), and the number of operations is limited, because one byte asks for an empty list of 56.

    Source: ``pickletools.py`` of Python 3.13; ``array_reduce`` in NumPy's ``methods.c``.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files
from i3d_deploy.errors import CheckpointError

Array = NDArray[Any]

_MAX_OPERATIONS = 1_000_000
"""The largest published file has some 700 arrays of about 40 operations each."""

_MAX_DIMENSIONS = 32
"""As many as NumPy 1 allows."""

_NUMBERS = frozenset({"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def read(path: Path) -> dict[str, Array]:
    """Read the blobs of a Caffe2 weights file.

    Args:
        path: A ``.pkl`` as SlowFast's model zoo has it: a pickled dictionary with the entry ``blobs``.

    Returns:
        By name, each array as it was stored, in native byte order, C order and memory of its own; plain numbers (such
        as ``model_iter``) have no dimension. Blobs that are None or text are left out.

    Raises:
        CheckpointError: It cannot be read, is no such file, is damaged, or needs pickled code.
    """
    problem = files.what_is_wrong(path)
    if problem is not None:
        raise CheckpointError(f"{path}: {problem}")
    try:
        document = _unpickle(path.read_bytes())
    except _RefusalError as error:
        raise CheckpointError(f"{path}: refused, {error}; only numbers, text and arrays are read") from error
    except (ValueError, MemoryError) as error:
        reason = _shown(str(error)) or "out of memory"
        raise CheckpointError(f"{path}: not a Caffe2 weights file, or a damaged one: {reason}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    blobs = document.get("blobs") if isinstance(document, dict) else None
    if not isinstance(blobs, dict):
        what = f"its entries are {_some(document)}" if isinstance(document, dict) else f"it holds {_kind(document)}"
        raise CheckpointError(f"{path}: not a Caffe2 weights file: no dictionary of blobs; {what}")
    return {name: _to_array(blob, name, path) for name, blob in blobs.items() if not isinstance(blob, str | None)}


def _to_array(blob: Any, name: str, path: Path) -> Array:
    if isinstance(blob, _Array) and blob.values is not None:
        return blob.values
    if isinstance(blob, float) or (isinstance(blob, int) and -(2**63) <= blob < 2**63):
        return np.asarray(blob)
    raise CheckpointError(f"{path}: the blob {_shown(name)} is {_kind(blob)}, it must be an array or a number")


def _some(names: Mapping[str, Any]) -> str:
    shown = ", ".join(_shown(name) for name in list(names)[:4])
    return shown + (", ..." if len(names) > 4 else "") if shown else "none"


def _shown(text: str) -> str:
    """Text out of a file, on one line and not too long."""
    return ascii(text[:100])[1:-1]


def _kind(value: Any) -> str:
    if isinstance(value, _Array):
        return "an array" if value.values is not None else "an array without values"
    return "a name" if isinstance(value, _Mark | _Dtype) else f"a value of type {type(value).__name__}"


class _RefusalError(Exception):
    """The file asks for what is not admitted."""


class _Mark(Enum):
    """Stands for a function or class that NumPy's pickles refer to."""

    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    SCALAR = "numpy.core.multiarray.scalar"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    # Protocol 2 has no bytes: Python 3 writes them as text and this call.
    ENCODE = "_codecs.encode"


# NumPy 1 says "core", NumPy 2 "_core".
_MARKS = {mark.value: mark for mark in _Mark} | {mark.value.replace(".core.", "._core."): mark for mark in _Mark}


@dataclass
class _Dtype:
    """Stands for a ``numpy.dtype`` of numbers."""

    code: str
    byte_order: str = "="


@dataclass
class _Array:
    """Stands for a ``numpy.ndarray``, whose values come after it, or for a NumPy scalar."""

    values: Array | None = None


@dataclass
class _Machine:
    """A pickle and the state of the machine that runs it. Note [Inert unpickling].

    Attributes:
        data: The pickle.
        room_bytes: What arrays may still take.
        position: Where the next byte is read.
        stack: Values, the topmost last.
        marks: Heights at which a group of values begins.
        memo: Values kept for later, by number.
    """

    data: bytes
    room_bytes: int
    position: int = 0
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise ValueError("it is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def counted(self, layout: str) -> bytes:
        """Bytes that follow their count."""
        return self.take(self.number(layout))

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + 1000)
        if end < 0:
            raise ValueError("a name has no end")
        return self.take(end + 1 - self.position)[:-1].decode()

    def pop(self, count: int) -> list[Any]:
        """The topmost values, the lowest of them first."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("an operation lacks its values")
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def pop_group(self) -> list[Any]:
        if not self.marks:
            raise ValueError("an operation lacks its values")
        values = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return values

    def remember(self, index: int) -> None:
        (value,) = self.pop(1)
        self.memo[index] = value
        self.stack.append(value)

    def recall(self, index: int) -> Any:
        if index not in self.memo:
            raise ValueError("it refers to a value that it has not")
        return self.memo[index]

    def append(self, values: list[Any]) -> None:
        (target,) = self.pop(1)
        if not isinstance(target, list):
            raise ValueError("an operation lacks its list")
        target += values
        self.stack.append(target)

    def set_items(self, values: list[Any]) -> None:
        (target,) = self.pop(1)
        if not isinstance(target, dict) or len(values) % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("a dictionary must have text for its keys")
        target.update(zip(values[::2], values[1::2], strict=True))
        self.stack.append(target)

    def build(self) -> None:
        """Give a dtype or an array the state that comes after it."""
        target, state = self.pop(2)
        match target, state:
            case _Dtype(), (3, "<" | ">" | "|" | "=" as order, None, None, None, *_):
                target.byte_order = order
            case _Array(), (1, tuple() as shape, _Dtype() as dtype, int() as is_fortran, str() | bytes() as raw):
                target.values = self.array(raw, shape, dtype, order="F" if is_fortran else "C")
            case _:
                raise ValueError("an array or type is not as NumPy writes it")
        self.stack.append(target)

    def call(self) -> Any:
        function, arguments = self.pop(2)
        match function, arguments:
            case _Mark.RECONSTRUCT, (_Mark.NDARRAY, _, _):
                return _Array()
            case _Mark.DTYPE, (str() as code, *_):
                if code not in _NUMBERS:
                    raise _RefusalError(f"it holds values of NumPy's type {_shown(code)}")
                return _Dtype(code)
            case _Mark.SCALAR, (_Dtype() as dtype, str() | bytes() as raw):
                return _Array(self.array(raw, (), dtype, order="C"))
            case _Mark.ENCODE, (str() as text, "latin1" | "latin-1"):
                return text  # as the strings of Python 2 are kept; no second copy of what may be referred to often
        raise ValueError("a call is not as NumPy writes it")

    def array(self, raw: str | bytes, shape: tuple[Any, ...], dtype: _Dtype, *, order: Literal["C", "F"]) -> Array:
        stored = np.dtype(dtype.byte_order + dtype.code)
        is_shape = len(shape) <= _MAX_DIMENSIONS and all(type(size) is int and 0 <= size < 2**31 for size in shape)
        if not is_shape or math.prod(shape) * stored.itemsize != len(raw):
            raise ValueError("the shape of an array does not fit its bytes")
        self.room_bytes -= len(raw)
        if self.room_bytes < 0:
            raise _RefusalError("its arrays would take more memory than the file has bytes")
        raw_bytes = raw if isinstance(raw, bytes) else raw.encode("latin-1")
        view: Array = np.ndarray(shape, stored, buffer=raw_bytes, order=order)
        return np.array(view, dtype=stored.newbyteorder("="), order="C")


def _find(module: str, name: str) -> _Mark:
    full_name = f"{module}.{name}"
    if full_name not in _MARKS:
        raise _RefusalError(f"it needs the pickled code {_shown(full_name)}")
    return _MARKS[full_name]


def _find_on_stack(machine: _Machine) -> _Mark:
    module, name = machine.pop(2)
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("a name is no text")
    return _find(module, name)


# Operations that put one value on the stack.
_VALUES: dict[bytes, Callable[[_Machine], Any]] = {
    b"N": lambda machine: None,
    b"\x88": lambda machine: True,
    b"\x89": lambda machine: False,
    b")": lambda machine: (),
    b"]": lambda machine: [],
    b"}": lambda machine: {},
    b"K": lambda machine: machine.number("<B"),
    b"M": lambda machine: machine.number("<H"),
    b"J": lambda machine: machine.number("<i"),
    b"G": lambda machine: machine.number(">d"),
    b"\x8a": lambda machine: int.from_bytes(machine.counted("<B"), "little", signed=True),
    b"U": lambda machine: machine.counted("<B").decode("latin-1"),
    b"T": lambda machine: machine.counted("<I").decode("latin-1"),
    b"\x8c": lambda machine: machine.counted("<B").decode(),
    b"X": lambda machine: machine.counted("<I").decode(),
    b"C": lambda machine: machine.counted("<B"),
    b"B": lambda machine: machine.counted("<I"),
    b"\x8e": lambda machine: machine.counted("<Q"),
    b"\x85": lambda machine: tuple(machine.pop(1)),
    b"\x86": lambda machine: tuple(machine.pop(2)),
    b"\x87": lambda machine: tuple(machine.pop(3)),
    b"t": lambda machine: tuple(machine.pop_group()),
    b"h": lambda machine: machine.recall(machine.number("<B")),
    b"j": lambda machine: machine.recall(machine.number("<I")),
    b"c": lambda machine: _find(machine.line(), machine.line()),
    b"\x93": _find_on_stack,
    b"R": _Machine.call,
}

# Operations that change what is there.
_CHANGES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda machine: machine.number("<B"),  # the protocol
    b"\x95": lambda machine: machine.number("<Q"),  # the length of what follows
    b"(": lambda machine: machine.marks.append(len(machine.stack)),
    b"q": lambda machine: machine.remember(machine.number("<B")),
    b"r": lambda machine: machine.remember(machine.number("<I")),
    b"\x94": lambda machine: machine.remember(len(machine.memo)),
    b"a": lambda machine: machine.append(machine.pop(1)),
    b"e": lambda machine: machine.append(machine.pop_group()),
    b"s": lambda machine: machine.set_items(machine.pop(2)),
    b"u": lambda machine: machine.set_items(machine.pop_group()),
    b"b": _Machine.build,
}


def _unpickle(data: bytes) -> Any:
    """Run a pickle.

    Raises:
        _RefusalError: It asks for what is not admitted.
        ValueError: It is damaged, or no pickle.
    """
    if data[:1] != b"\x80":
        raise ValueError("it does not begin as a pickle of protocol 2 or later")
    machine = _Machine(data, room_bytes=len(data))
    for _ in range(_MAX_OPERATIONS):
        code = machine.take(1)
        if code == b".":
            return machine.pop(1)[0]
        if code in _VALUES:
            machine.stack.append(_VALUES[code](machine))
        elif code in _CHANGES:
            _CHANGES[code](machine)
        else:
            _refuse_operation(code)
    raise _RefusalError(f"it has more than {_MAX_OPERATIONS:,} operations")


def _refuse_operation(code: bytes) -> None:
    names = [operation.name for operation in pickletools.opcodes if operation.code == code.decode("latin-1")]
    if not names:
        raise ValueError("it is no pickle")
    raise _RefusalError(f"it uses the pickle operation {names[0]}")
