"""The pickle language, read and written without ever running what a pickle asks for.

`parse` walks the opcodes with a machine of its own: a global stays a name and a call stays a note of what would have
been called, so nothing is imported or executed and the dangerous things can be listed. `dump` writes the same nodes
with the opcodes that every torch since 2.2 accepts under `weights_only=True`.
"""

from __future__ import annotations

import pickletools
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable

DEEPEST = 100  # nesting; a checkpoint of nnU-Net has 8
MOST_VALUES = 1_000_000  # lists that hold one another many times unfold without end


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """An object that a pickle asks to be made by calling `function`, and what it then puts into it.

    `items` are set like those of a dict, `elements` appended like those of a list; `dump` writes no elements.
    """

    function: Any
    arguments: Any = ()
    state: Any = None
    items: list[tuple[Any, Any]] = field(default_factory=list)
    elements: list[Any] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Persistent:
    """Something outside the pickle; in a checkpoint, a tensor's storage."""

    pid: Any


def parse(data: bytes) -> tuple[Any, list[Global]]:
    """Return what a pickle describes and every global that it names, in order.

    Raises `IntegrityError` where the bytes are not one whole pickle.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.stack.pop(), list(machine.globals)
            machine.step(opcode.name, argument)
    except IntegrityError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise IntegrityError(f"not a pickle: {type(error).__name__}: {error}") from error
    raise IntegrityError("not a pickle: it has no end")


class _Machine:
    """The stack, the marks and the memo of the pickle language."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[Global, None] = {}

    def step(self, name: str, argument: Any) -> None:  # noqa: C901, PLR0912 - one case for each opcode
        """Do what one opcode says."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marked.append(stack)
                self.stack = []
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_SET":
                stack.append(set())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(name[-1])
                if len(stack) < size:
                    raise IndexError(name)
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE" | "LIST" | "FROZENSET" | "DICT":
                items = self._since_mark()
                self.stack.append(_MAKERS[name](items))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                self._append([stack.pop()] if name == "APPEND" else self._since_mark())
            case "SETITEM" | "SETITEMS":
                self._set([stack.pop(-2), stack.pop()] if name == "SETITEM" else self._since_mark())
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "POP" | "POP_MARK":
                if name == "POP" and stack:
                    stack.pop()
                else:
                    self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case _:
                self._make(name, argument)

    def _make(self, name: str, argument: Any) -> None:
        """Note a global, a call or something outside; push the argument of any other opcode, which is a constant."""
        stack = self.stack
        match name:
            case "GLOBAL":
                stack.append(self._global(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack[-2:] = [self._global(str(stack[-2]), str(stack[-1]))]
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(self._global("copyreg", f"extension {argument}"))
            case "REDUCE" | "NEWOBJ":
                stack[-2:] = [Call(stack[-2], stack[-1])]
            case "NEWOBJ_EX":
                stack[-3:] = [Call(stack[-3], (stack[-2], stack[-1]))]
            case "INST":
                items = self._since_mark()
                self.stack.append(Call(self._global(*argument.split(" ", 1)), tuple(items)))
            case "OBJ":
                function, *items = self._since_mark()
                self.stack.append(Call(function, tuple(items)))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], Call):
                    raise TypeError(f"a state for {type(stack[-1]).__name__}")
                stack[-1].state = state
            case "PERSID" | "BINPERSID":
                stack.append(Persistent(argument if name == "PERSID" else stack.pop()))
            case "NEXT_BUFFER" | "READONLY_BUFFER":
                raise TypeError("buffers outside the pickle")
            case _:
                stack.append(argument)

    def _global(self, module: str, name: str) -> Global:
        found = Global(module, name)
        self.globals[found] = None
        return found

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            target.elements.extend(values)
        elif isinstance(target, set):
            target.update(values)
        else:
            target.extend(values)

    def _set(self, flat: list[Any]) -> None:
        target, pairs = self.stack[-1], _pairs(flat)
        if isinstance(target, Call):
            target.items.extend(pairs.items())
        else:
            target.update(pairs)


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": frozenset,
    "DICT": _pairs,
}


def dump(value: Any) -> bytes:
    """Write nodes and plain values (None, bool, int, float, str, tuple, list, dict) as a pickle of protocol 2.

    The bytes depend on the values only. Raises `IntegrityError` for anything else, and for nests without end.
    """
    writer = _Writer()
    writer.write(value, 0)
    return b"\x80\x02" + b"".join(writer.parts) + b"."


class _Writer:
    """Collects the opcodes of one pickle."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.known: dict[Global, int] = {}
        self.count = 0

    def write(self, value: Any, depth: int) -> None:
        """Write one value."""
        self.count += 1
        if depth > DEEPEST or self.count > MOST_VALUES:
            raise IntegrityError("the values are nested without end")
        add = self.parts.append
        match value:
            case None | True | False:
                add({None: b"N", True: b"\x88", False: b"\x89"}[value])
            case int():
                add(_integer(value))
            case float():
                add(b"G" + struct.pack(">d", value))
            case str():
                text = value.encode("utf-8", "surrogatepass")
                add(b"X" + struct.pack("<I", len(text)) + text)
            case tuple():
                self._tuple(value, depth)
            case list():
                self._list(value, depth)
            case dict():
                add(b"}")
                self._items(list(value.items()), depth)
            case Global():
                self._global(value)
            case Call():
                self._call(value, depth)
            case Persistent():
                self.write(value.pid, depth + 1)
                add(b"Q")
            case _:
                raise IntegrityError(f"a {type(value).__name__} is no plain value")

    def _tuple(self, value: tuple[Any, ...], depth: int) -> None:
        if len(value) > 3:  # noqa: PLR2004 - opcodes exist for up to three
            self.parts.append(b"(")
        for item in value:
            self.write(item, depth + 1)
        self.parts.append((b")", b"\x85", b"\x86", b"\x87")[len(value)] if len(value) <= 3 else b"t")  # noqa: PLR2004

    def _list(self, value: list[Any], depth: int) -> None:
        self.parts.append(b"]")
        if value:
            self.parts.append(b"(")
            for item in value:
                self.write(item, depth + 1)
            self.parts.append(b"e")

    def _items(self, pairs: list[tuple[Any, Any]], depth: int) -> None:
        if pairs:
            self.parts.append(b"(")
            for key, item in pairs:
                self.write(key, depth + 1)
                self.write(item, depth + 1)
            self.parts.append(b"u")

    def _global(self, value: Global) -> None:
        if value in self.known:
            self.parts.append(b"j" + struct.pack("<I", self.known[value]))
            return
        self.known[value] = len(self.known)
        name = f"c{value.module}\n{value.name}\n".encode()
        self.parts.append(name + b"r" + struct.pack("<I", self.known[value]))

    def _call(self, value: Call, depth: int) -> None:
        self.write(value.function, depth + 1)
        self.write(value.arguments, depth + 1)
        self.parts.append(b"R")
        self._items(value.items, depth)
        if value.state is not None:
            self.write(value.state, depth + 1)
            self.parts.append(b"b")


def _integer(value: int) -> bytes:
    if 0 <= value < 1 << 8:
        return b"K" + struct.pack("<B", value)
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(raw) > 255:  # noqa: PLR2004 - the length is one byte
        raise IntegrityError("an integer of more than 255 bytes")
    return b"\x8a" + bytes([len(raw)]) + raw
