"""Reads pickles of tensors without running anything in them.

A pickle is a program for a small stack machine. Here that machine is written out, and the only things it can build are numbers, text,
plain containers, NumPy arrays and tensors; whatever else a pickle names becomes an inert ``Record`` of its name, arguments and state. No
name is ever looked up.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import numpy as np
import torch
from torch import Tensor

from mezzotint.errors import CheckpointError

MAX_BYTES = 16 * 2**30
"""Largest file that is read."""
MAX_STEPS = 20_000_000
"""Most instructions of one pickle; EDM's largest has less than a hundredth of them."""
LONG = 4096
"""Bytes from which a string of bytes stays in the file until it is needed."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_KINDS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


class _Bad(Exception):
    """A pickle that is damaged or asks for what it may not have."""


@dataclass(eq=False)
class Record:
    """What a pickle said of an object that is not built.

    Attributes:
        name: Module and name of the class or function.
        args: What it was to be called with.
        state: The attributes that it was to get.
        items: Entries, of what was to become a mapping.
        members: Entries, of what was to become a sequence.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    members: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; never looked up.

    Attributes:
        name: Its module and name.
    """

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers of one type in a row."""

    values: Tensor


@dataclass(frozen=True)
class _DType:
    """A NumPy type."""

    kind: str
    order: str = "<"

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.kind).newbyteorder("<" if self.order in "|=" else self.order)  # pyright: ignore[reportArgumentType]


class _Array:
    """A NumPy array before it gets its contents."""


class _Mark:
    """The stack's mark."""


class _Part:
    """A part of a file that is read when it is needed, so that the weights are in memory but once; it hands out no more than it has."""

    def __init__(self, file: BinaryIO, start: int, length: int):
        self.file, self.at, self.end = file, start, start + length

    @property
    def left(self) -> int:
        return self.end - self.at

    def again(self) -> _Part:
        """The same part, to be read from its beginning."""
        return _Part(self.file, self.at, self.left)

    def read(self, count: int = -1) -> bytes:
        self.file.seek(self.at)
        return self._read(self.file.read(self.left if count < 0 else min(count, self.left)))

    def readline(self) -> bytes:
        self.file.seek(self.at)
        return self._read(self.file.readline(self.left))

    def _read(self, data: bytes) -> bytes:
        self.at += len(data)
        return data

    def rest(self) -> bytearray:
        """What is left, to be kept and written to."""
        data = bytearray(self.left)
        self.file.seek(self.at)
        if cast(io.BufferedReader, self.file).readinto(data) != len(data):
            _fail("no end")
        self.at = self.end
        return data

    def tell(self) -> int:
        return self.at


def _fail(text: str) -> NoReturn:
    raise _Bad(text)


# --- what may be built ---------------------------------------------------------------------------------------------------


def _numbers(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not all(type(v) is int and 0 <= v < 2**48 for v in values):
        _fail(f"{what} is {values!r}")
    return values


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage, inside its bounds and no larger than it."""
    if not isinstance(storage, _Storage):
        _fail("a tensor without numbers")
    (start,), shape, steps = _numbers((offset,), "an offset"), _numbers(size, "a shape"), _numbers(stride, "a stride")
    if len(shape) != len(steps):
        _fail("a tensor's shape and strides differ in length")
    count = math.prod(shape)
    last = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if count else start - 1
    if last >= len(storage.values) or count > len(storage.values):
        _fail(f"a tensor of shape {shape} does not fit its {len(storage.values)} numbers")
    return torch.as_strided(storage.values, shape, steps, start)


def _parameter(tensor: Any, *_: Any) -> Tensor:
    return tensor if isinstance(tensor, Tensor) else _fail("a parameter that is no tensor")


def _dtype(kind: Any, *_: Any) -> _DType:
    if kind not in _KINDS:
        _fail(f"NumPy's type {kind!r}")
    return _DType(kind)


def _bytes(data: Any) -> bytes:
    if isinstance(data, _Part):
        return data.again().read()
    return bytes(data) if isinstance(data, bytes | bytearray) else _fail("numbers that are no bytes")


def _scalar(dtype: Any, data: Any) -> int | float | bool:
    if not isinstance(dtype, _DType) or len(data := _bytes(data)) != dtype.numpy.itemsize:
        _fail("a NumPy number")
    return np.frombuffer(data, dtype.numpy)[0].item()


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    shape = _numbers(shape, "a shape")
    if not isinstance(dtype, _DType) or order not in ("C", "F"):
        _fail("a NumPy array of other than numbers")
    flat = np.frombuffer(_bytes(data), dtype.numpy)
    if flat.size != math.prod(shape):
        _fail(f"a NumPy array of shape {shape} with {flat.size} numbers")
    return flat.reshape(shape, order=order).copy()


def _plain(kind: Callable[..., Any]) -> Callable[..., Any]:
    def build(*args: Any) -> Any:
        if len(args) > 1 or any(not isinstance(a, list | tuple | set | frozenset | dict) for a in args):
            _fail(f"a {getattr(kind, '__name__', 'container')} of {len(args)} arguments")
        return kind(*args)

    return build


def _text_to_bytes(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        _fail("bytes in an encoding other than latin1")
    return text.encode("latin1")


def _from_bytes(data: Any) -> _Storage:
    if isinstance(data, _Part):
        return _legacy_storage(data.again())
    data = _bytes(data)
    return _legacy_storage(_Part(io.BytesIO(data), 0, len(data)))


_BUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _from_bytes,
    "torch.Size": lambda *args: _numbers(tuple(*args), "a size"),
    "collections.OrderedDict": _plain(dict),
    "builtins.dict": _plain(dict),
    "builtins.list": _plain(list),
    "builtins.tuple": _plain(tuple),
    "builtins.set": _plain(set),
    "builtins.frozenset": _plain(frozenset),
    "builtins.bytes": lambda *args: _fail("bytes of other than nothing") if args else b"",
    "_codecs.encode": _text_to_bytes,
    "numpy.dtype": _dtype,
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: _Array() for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _array for core in ("core", "_core")},
}


def _call(target: Any, args: Any) -> Any:
    if not isinstance(target, Name) or not isinstance(args, tuple):
        _fail("a call of something that is no class or function")
    builder = _BUILDERS.get(target.name.replace("__builtin__.", "builtins."))
    return Record(target.name, args) if builder is None else builder(*args)


def _set_state(target: Any, state: Any) -> Any:
    if isinstance(target, Record):
        target.state = state
        return target
    if isinstance(target, _DType) and isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
        return _DType(target.kind, state[1])
    if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        return _array(state[4], state[2], state[1], "F" if state[3] else "C")
    if isinstance(target, dict | Tensor):  # attributes of an ordered dictionary or a parameter: nothing that is needed
        return target
    return _fail("a state for something that has none")


# --- the machine -----------------------------------------------------------------------------------------------------------


class _Machine:
    """Runs the instructions of one pickle.

    Args:
        persistent: Answers a persistent id.
    """

    def __init__(self, persistent: Callable[[Any], Any] | None = None):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.persistent = persistent

    def pop(self) -> Any:
        if not self.stack or isinstance(self.stack[-1], _Mark):
            _fail("an instruction that finds no value")
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                values = self.stack[i + 1 :]
                del self.stack[i:]
                return values
        return _fail("an instruction that finds no mark")

    def top(self) -> Any:
        if not self.stack:
            _fail("an instruction that finds no value")
        return self.stack[-1]

    def put(self, key: Any) -> None:
        self.memo[int(key)] = self.top()

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Record):
            target.members.extend(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            _fail("entries for something that is no list")

    def update(self, values: list[Any]) -> None:
        target = self.top()
        entries = target.items if isinstance(target, Record) else target
        if not isinstance(entries, dict) or len(values) % 2:
            _fail("entries for something that is no dictionary")
        entries.update(_pairs(values))

    def add(self, values: list[Any]) -> None:
        target = self.top()
        if not isinstance(target, set):
            _fail("entries for something that is no set")
        target.update(_keys(values))

    def run(self, source: _Part) -> Any:
        """Runs up to the end of the pickle and returns what it leaves."""
        for step, (code, argument, _) in enumerate(pickletools.genops(cast(Any, source))):
            if step > MAX_STEPS:
                _fail(f"more than {MAX_STEPS} instructions")
            if code.name == "STOP":
                return self.pop()
            if isinstance(argument, bytes | bytearray) and len(argument) > LONG:
                argument = _Part(source.file, source.at - len(argument), len(argument))
            action = _ACTIONS.get(code.name)
            if action is None:
                _fail(f"the instruction {code.name}")
            action(self, argument)
        return _fail("no end")

    def named(self, name: str) -> None:
        self.stack.append(Name(name))

    def global_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            _fail("a name that is no text")
        self.named(f"{module}.{name}")

    def reduce(self) -> None:
        args = self.pop()
        self.stack.append(_call(self.pop(), args))

    def new_object(self, *, keywords: bool) -> None:
        named = self.pop() if keywords else {}
        args = self.pop()
        target = self.pop()
        if not isinstance(target, Name) or not isinstance(args, tuple) or not isinstance(named, dict):
            _fail("an object without a class")
        self.stack.append(Record(target.name, args, items=dict(named)) if named else _call(target, args))

    def object_from_mark(self) -> None:
        target, *args = self.pop_mark() or [None]
        self.stack.append(_call(target, tuple(args)))

    def instance(self, argument: str) -> None:
        self.stack.append(_call(Name(argument.replace(" ", ".")), tuple(self.pop_mark())))

    def build(self) -> None:
        state = self.pop()
        target = self.pop()
        self.stack.append(changed := _set_state(target, state))
        if changed is not target:  # types and arrays have been remembered before they were complete
            self.memo.update({key: changed for key, value in self.memo.items() if value is target})

    def persistent_id(self, key: Any) -> None:
        if self.persistent is None:
            _fail("a reference to something outside of it")
        self.stack.append(self.persistent(key))

    def setitem(self) -> None:
        value = self.pop()
        key = self.pop()
        self.update([key, value])

    def append(self) -> None:
        value = self.pop()
        self.extend([value])

    def get(self, key: Any) -> None:
        if int(key) not in self.memo:
            _fail("a reference to something that was never made")
        self.stack.append(self.memo[int(key)])


def _keys(values: list[Any]) -> list[Any]:
    for value in values:
        if not isinstance(value, Hashable):
            _fail("a key that is a container")
    return values


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(values) % 2:
        _fail("a dictionary with a key too many")
    return zip(_keys(values[::2]), values[1::2], strict=True)


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def action(machine: _Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return action


def _nothing(machine: _Machine, argument: Any) -> None:
    """An instruction about the file alone."""


_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"), _push),
    **dict.fromkeys(
        ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _push
    ),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING"), _push),
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_SET": _constant(set),
    "MARK": _constant(_Mark),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_mark())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": lambda m, _: m.stack.append(m.pop_mark()),
    "DICT": lambda m, _: m.stack.append(dict(_pairs(m.pop_mark()))),
    "FROZENSET": lambda m, _: m.stack.append(frozenset(_keys(m.pop_mark()))),
    "APPEND": lambda m, _: m.append(),
    "APPENDS": lambda m, _: m.extend(m.pop_mark()),
    "SETITEM": lambda m, _: m.setitem(),
    "SETITEMS": lambda m, _: m.update(m.pop_mark()),
    "ADDITEMS": lambda m, _: m.add(m.pop_mark()),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.pop_mark(),
    "DUP": lambda m, _: m.stack.append(m.top()),
    "PUT": lambda m, a: m.put(a),
    "BINPUT": lambda m, a: m.put(a),
    "LONG_BINPUT": lambda m, a: m.put(a),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GET": lambda m, a: m.get(a),
    "BINGET": lambda m, a: m.get(a),
    "LONG_BINGET": lambda m, a: m.get(a),
    "GLOBAL": lambda m, a: m.named(a.replace(" ", ".")),
    "STACK_GLOBAL": lambda m, _: m.global_from_stack(),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.new_object(keywords=False),
    "NEWOBJ_EX": lambda m, _: m.new_object(keywords=True),
    "OBJ": lambda m, _: m.object_from_mark(),
    "INST": lambda m, a: m.instance(a),
    "BUILD": lambda m, _: m.build(),
    "PERSID": lambda m, a: m.persistent_id(a),
    "BINPERSID": lambda m, _: m.persistent_id(m.pop()),
}


# --- storages ----------------------------------------------------------------------------------------------------------------


def _legacy_storage(source: _Part) -> _Storage:
    """The one storage that ``torch.save`` wrote in its old format: five pickles, the count of numbers, the numbers."""
    if _Machine().run(source) != _LEGACY_MAGIC:
        _fail("a storage that is not in PyTorch's old format")
    _Machine().run(source)
    system = _Machine().run(source)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        _fail("a storage of another byte order")
    wanted: list[tuple[torch.dtype, int]] = []

    def persistent(key: Any) -> Any:
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], Name):
            _fail("a storage without a type")
        dtype = _DTYPES.get(key[1].name.removeprefix("torch."))
        if dtype is None or wanted:
            _fail(f"a storage of type {key[1].name}")
        wanted.append((dtype, _numbers((key[4],), "a length")[0]))
        return None

    _Machine(persistent).run(source)
    _Machine().run(source)
    if not wanted:
        _fail("a storage without numbers")
    dtype, count = wanted[0]
    if int.from_bytes(source.read(8), "little") != count:
        _fail("a storage with two lengths")
    if source.left != count * dtype.itemsize:
        _fail(f"a storage of {count} numbers with {source.left} bytes")
    if count == 0:
        return _Storage(torch.empty(0, dtype=dtype))
    raw = torch.frombuffer(source.rest(), dtype=torch.uint8)
    return _Storage(raw != 0 if dtype == torch.bool else raw.view(dtype))


# --- entry -------------------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> Any:
    """Reads a pickle; nothing in it is executed and nothing is imported.

    Args:
        path: The file.

    Returns:
        Numbers, text, lists, tuples, sets, dictionaries, arrays and tensors; ``Record`` or ``Name`` in place of everything else. Long
        strings of bytes that belong to no array are not kept.

    Raises:
        CheckpointError: The file is missing, damaged or too large, or uses what weights do not need.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(f"{path} has {size / 2**30:.0f} GiB, more than the {MAX_BYTES // 2**30} GiB of any known pickle")
        if size == 0:
            raise CheckpointError(f"{path} is empty; fetch it again")
        with path.open("rb") as file:
            return _Machine().run(_Part(file, 0, size))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None
    except (_Bad, ValueError, TypeError, IndexError, OverflowError, RecursionError, MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path} is no pickle of weights: {text}; fetch the file again, from a source you trust") from None
