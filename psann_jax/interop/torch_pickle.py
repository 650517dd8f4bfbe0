"""The pickle inside a torch file, read as data: a name in it is looked up, never imported.

A pickle is a program that calls what it names. This machine knows the opcodes of plain
containers, and the names that its caller lists; any other opcode or name ends the reading.
Source: the opcode table of Python's pickletools, protocols 2 to 4.
"""

from collections.abc import Callable, Mapping
import pickletools
from typing import Any, NamedTuple, NoReturn

import numpy as np

MOST_BYTES, MOST_OPCODES, MOST_NODES, MOST_DEPTH = 1 << 26, 4_000_000, 4_000_000, 100
_MOST_KEY = 1 << 53
_SCALARS = (str, int, float, bool, bytes, type(None))
_PUSHED = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
)


class _Symbol(NamedTuple):
    """A name that the pickle may use, and what stands behind it."""

    name: str
    meaning: Any


def loads(
    data: bytes,
    *,
    calls: Mapping[str, Callable[..., Any]],
    constants: Mapping[str, Any],
    persistent: Callable[[Any], Any],
) -> Any:
    """The tree of dicts, lists, tuples, sets, scalars and arrays in a pickle.

    Args:
      calls: what the pickle may call, under dotted names; each checks its own arguments.
      constants: names that stand for a value, as "torch.FloatStorage".
      persistent: what a persistent id stands for.

    Raises:
      ValueError: the pickle is damaged, too large, or holds anything else; says what.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"its pickle has {len(data)} bytes, more than {MOST_BYTES}")
    machine = _Machine(calls, constants, persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MOST_OPCODES:
                raise ValueError(f"its pickle has more than {MOST_OPCODES} opcodes")
            machine.step(opcode.name, argument)
        tree = machine.pop()
    except IndexError:
        raise ValueError("its pickle takes more from the stack than is there") from None
    _check_tree(tree)
    return tree


class _Machine:
    """The stack and memo of a pickle that is being read."""

    def __init__(self, calls: Mapping, constants: Mapping, persistent: Callable[[Any], Any]):
        self._symbols = {**constants, **calls}
        self._calls, self._persistent = calls, persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # one stack a mark
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self._stack.pop()

    def step(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self._stack.append(argument)
        elif name in _NEW:
            self._stack.append(_NEW[name]())
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            said = f" {argument!r:.80}" if isinstance(argument, str) else ""
            _refuse(f"the opcode {name}{said}")

    def mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self._stack = self._stack, self._below.pop()
        return items

    def make_tuple(self, count: int | None) -> None:
        items = self.marked() if count is None else [self.pop() for _ in range(count)][::-1]
        self._stack.append(tuple(items))

    def extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def add(self, items: list[Any]) -> None:
        self._top(set).update(map(_key, items))

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("its pickle has a key without a value")
        keys = map(_key, items[::2])
        self._top(dict).update(zip(keys, items[1::2], strict=True))

    def put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def get(self, place: int) -> None:
        if place not in self._memo:
            raise ValueError(f"its pickle reads place {place} of its memo, which is empty")
        self._stack.append(self._memo[place])

    def symbol(self, module: Any, name: Any) -> None:
        module = "builtins" if module == "__builtin__" else module  # Python 2's, in protocol 2
        full = f"{module}.{name}"
        if full not in self._symbols:
            _refuse(f"the global {' '.join(full.split()):.120}")
        self._stack.append(_Symbol(full, self._symbols[full]))

    def call(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Symbol) or function.name not in self._calls:
            _refuse(f"a call of {_kind(function)}")
        if not isinstance(arguments, tuple):
            raise ValueError(f"its pickle calls {function.name} without a tuple of arguments")
        self._stack.append(function.meaning(*map(_meaning, arguments)))

    def persistent(self, _: None) -> None:
        wanted = self.pop()
        wanted = tuple(map(_meaning, wanted)) if isinstance(wanted, tuple) else wanted
        self._stack.append(self._persistent(wanted))

    def build(self, _: None) -> None:
        """Drops the attributes that a state dict carries; nothing else may have any."""
        self.pop()
        self._top(dict)

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            _refuse(f"items or attributes of a {_kind(self._stack[-1])}")
        return self._stack[-1]


_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
    "MARK": _Machine.mark,
    "TUPLE": _Machine.make_tuple,
    "TUPLE1": lambda m, _: m.make_tuple(1),
    "TUPLE2": lambda m, _: m.make_tuple(2),
    "TUPLE3": lambda m, _: m.make_tuple(3),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "ADDITEMS": lambda m, _: m.add(m.marked()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.marked()),
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": lambda m, names: m.symbol(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.symbol(*[m.pop(), m.pop()][::-1]),
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}


def _refuse(what: str) -> NoReturn:
    raise ValueError(
        f"its pickle has {what}; only tensors and plain containers are read, and nothing was run"
    )


def _kind(value: Any) -> str:
    return value.name if isinstance(value, _Symbol) else type(value).__name__


def _meaning(value: Any) -> Any:
    return value.meaning if isinstance(value, _Symbol) else value


def _key(value: Any) -> Any:
    """A key of a dict or set: a scalar, and no number made to collide with others."""
    if not isinstance(value, _SCALARS):
        _refuse(f"a {_kind(value)} as a key")
    if isinstance(value, int | float) and not abs(value) < _MOST_KEY:
        _refuse(f"the key {value!r:.40}")
    return value


def _check_tree(tree: Any) -> None:
    """Counts a node each time it is reached, so what repeats itself or holds itself is refused."""
    pending, nodes = [(tree, 0)], 1
    while pending:
        node, depth = pending.pop()
        if isinstance(node, _SCALARS) or type(node) is np.ndarray:
            continue
        if type(node) not in (dict, list, tuple, set):
            _refuse(f"a bare {_kind(node)}")
        inside = node.values() if isinstance(node, dict) else node
        nodes += len(inside)
        if nodes > MOST_NODES or depth >= MOST_DEPTH:
            raise ValueError(
                f"its pickle makes a tree of more than {MOST_NODES} values or {MOST_DEPTH} levels"
            )
        pending += [(value, depth + 1) for value in inside]
