"""A plan: rows (one kernel launch each), put into groups that run tile by tile, cut into chunks that threads share.

The plan, never the number of threads, decides the cuts: so any number of threads gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import Any

import numpy as np

from engine.core import CONSTANT, LEAF, OPS, Address, Launch, Node, Scratch, bits, root, topological
from engine.plan.memory import Block, Cursor, assign, begin

TILE = 2048            # elements of a tile: a few operands of it stay in the first-level cache
CHUNK_COST = 30_000.0  # nanoseconds of work worth giving to another thread
MOST_CHUNKS = 16


@dataclass
class Row:
    """One kernel launch with its offsets: `words` are int64, or what the device puts the address of in: a function's name, an array."""

    kernel: str
    dtype: str
    words: list[int | str | Address]
    size: int
    label: str
    grain: int = 1


@dataclass
class Group:
    """Rows [first, last) that run tile by tile over `[0, size)`, cut in chunks of `chunk`, each in tiles of `tile`, unless `gate` is shut."""

    first: int
    last: int
    size: int
    chunk: int
    tile: int
    gate: int = 0

    @property
    def serial(self) -> bool:
        return self.chunk >= self.size


@dataclass
class Plan:
    """Rows and groups over an arena; `nbytes` of temporaries start at `base`. `fixed` are values to be written there before the first run."""

    rows: list[Row] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    base: int = 0
    nbytes: int = 0
    nanoseconds: float = 0.0    # on one core, by the launches' own estimates
    fixed: list[tuple[int, np.ndarray]] = field(default_factory=list)
    makers: list[Node] = field(default_factory=list)     # the node that each row works for
    offsets: dict[Node, int] = field(default_factory=dict)

    def at(self, node: Node) -> int:
        """Where the value of a node is."""
        return self.offsets[root(node)]


def make(outputs: Iterable[Node], placed: Mapping[Node, int], base: int = 0, results: Iterable[tuple[Node, int]] = (), device: str = "cpu") -> Plan:
    """The plan by which `device` computes `outputs` and writes each of `results` (node, offset) to its offset.

    `placed` says where leaves live. Everything else gets a slot at or above `base`; constants and leaves with a value of their own too.
    """
    plan = Plan(base=base)
    results = list(results)
    home = dict(placed)
    copies = []
    for node, offset in results:
        if node in home or root(node) is not node or node.op in (LEAF, CONSTANT):
            copies.append((node, offset))
        else:
            home[node] = offset
    wanted = [*outputs, *(n for n, _ in results)]
    steps = _launches(wanted, home, device)
    steps += [(node, _copy(node, offset)) for node, offset in copies]
    groups = _group([launch for _, launch in steps])
    _place(plan, steps, groups, home, wanted)
    _resolve(plan, steps, groups)
    return plan


def _launches(wanted: Sequence[Node], home: Mapping[Node, int], device: str) -> list[tuple[Node, Launch]]:
    """The launches that make the wanted nodes and everything they read; nothing else (a broadcast that its user looks through is never made)."""
    needed = {root(n) for n in wanted}
    found: list[tuple[Node, Sequence[Launch]]] = []
    for node in reversed(topological(wanted)):
        if node in needed and node.op not in (LEAF, CONSTANT):
            launches = node.op.launches(node, device)
            for launch in launches:
                needed.update(root(w) for w in launch.words if isinstance(w, Node))
            found.append((node, launches))
    return [(node, launch) for node, launches in reversed(found) for launch in launches]


def _copy(node: Node, offset: int) -> Launch:
    """Copy a value to a fixed place."""
    return Launch("copy_bytes", "float32", (Place(offset), root(node), np.dtype(node.dtype).itemsize), node.size, cost=0.2)


@dataclass(frozen=True)
class Place:
    """A word that is a fixed offset in the arena."""

    offset: int


@dataclass(frozen=True)
class Part:
    """A word that points some bytes into a scratch block."""

    scratch: Scratch
    shift: int


def _group(launches: Sequence[Launch]) -> list[Group]:
    """Neighbouring elementwise launches over equally many elements share a group; any other launch is a group of its own."""
    groups: list[Group] = []
    grain = 1
    cost = 0.0
    for i, launch in enumerate(launches):
        joint = lcm(grain, launch.grain)
        last = groups[-1] if groups else None
        fits = last and last.size == launch.size and last.gate == launch.gate and joint <= max(TILE, grain, launch.grain)
        if last and fits and launch.elementwise and launches[last.first].elementwise:
            grain, cost, last.last = joint, cost + launch.cost, i + 1
        else:
            grain, cost = launch.grain, launch.cost
            groups.append(Group(i, i + 1, launch.size, launch.size, launch.size, launch.gate))
        _cut(groups[-1], grain, cost, launch.elementwise)
    return groups


def _cut(group: Group, grain: int, cost: float, elementwise: bool) -> None:
    chunks = min(MOST_CHUNKS, int(group.size * cost / CHUNK_COST))
    step = max(1, -(-group.size // chunks)) if chunks > 1 else group.size
    group.chunk = max(1, -(-step // grain) * grain)
    group.tile = max(1, TILE // grain) * grain if elementwise and group.last - group.first > 1 else group.chunk


def _place(plan: Plan, steps: Sequence[tuple[Node, Launch]], groups: Sequence[Group], home: dict[Node, int], wanted: Sequence[Node]) -> None:
    """Find offsets for constants, bound leaves, temporaries and scratch. Moments are groups: within one, rows interleave."""
    cursor = Cursor(plan.base)
    blocks: dict[Any, Block] = {}
    moment = {i: g for g, group in enumerate(groups) for i in range(group.first, group.last)}
    keep = {root(n) for n in wanted}
    for i, (_, launch) in enumerate(steps):
        for word in launch.words:
            item = root(word) if isinstance(word, Node) else word.scratch if isinstance(word, Part) else word
            if not isinstance(item, Node | Scratch) or item in home:
                continue
            if isinstance(item, Node) and item.op in (LEAF, CONSTANT):
                _fix(plan, item, home, cursor)
            elif item in blocks:
                blocks[item].last = moment[i]
            else:
                nbytes = item.nbytes if isinstance(item, Scratch) else item.size * np.dtype(item.dtype).itemsize
                blocks[item] = Block(max(nbytes, 1), moment[i], moment[i])
    for node in keep:
        if node in blocks:
            blocks[node].last = len(groups)
        elif node not in home:
            _fix(plan, node, home, cursor)
    size = assign(list(blocks.values()))
    base = begin(cursor.at, size)
    home.update({item: base + block.offset for item, block in blocks.items()})
    plan.nbytes = base + size - plan.base
    plan.offsets = home


def _fix(plan: Plan, node: Node, home: dict[Node, int], cursor: Cursor) -> None:
    value = np.asarray(node.attrs["value"], node.dtype) if node.op is CONSTANT else node.value
    if value is None:
        raise ValueError(f"{node!r} has neither a place nor a value")
    home[node] = cursor.take(value.nbytes)
    plan.fixed.append((home[node], np.ascontiguousarray(value)))


def _resolve(plan: Plan, steps: Sequence[tuple[Node, Launch]], groups: list[Group]) -> None:
    plan.groups = groups
    for node, launch in steps:
        words = [_word(word, plan.offsets) for word in launch.words]
        plan.rows.append(Row(launch.kernel, launch.dtype, words, launch.size, repr(node), launch.grain))
        plan.makers.append(node)
        plan.nanoseconds += launch.size * launch.cost


def _word(word: Any, home: Mapping[Any, int]) -> int | str | Address:
    if isinstance(word, str | Address):
        return word
    if isinstance(word, Place):
        return word.offset
    if isinstance(word, Node):
        return home[root(word)]
    if isinstance(word, Part):
        return home[word.scratch] + word.shift  # type: ignore[index]
    if isinstance(word, Scratch):
        return home[word]  # type: ignore[index]
    return bits(word) if isinstance(word, float) else int(word)


def lay(launches: Iterable[Launch], base: int = 0) -> Plan:
    """A plan of launches whose words are all places and numbers already (gather, guard, update); Scratch is put at `base`."""
    plan = Plan(base=base)
    steps = [(_NOTHING, launch) for launch in launches]
    groups = _group([launch for _, launch in steps])
    _place(plan, steps, groups, {}, ())
    _resolve(plan, steps, groups)
    return plan


def join(plans: Sequence[Plan], base: int) -> Plan:
    """Plans one after the other as one; they share the bytes from `base` on."""
    whole = Plan(base=base)
    for plan in plans:
        shift = len(whole.rows)
        whole.groups += [replace(group, first=group.first + shift, last=group.last + shift) for group in plan.groups]
        whole.rows += plan.rows
        whole.makers += plan.makers
        whole.nanoseconds += plan.nanoseconds
        whole.nbytes = max(whole.nbytes, plan.nbytes)
    return whole


_NOTHING = Node(OPS["leaf"], (), {}, (), "float32", np.zeros(()), "fixed")
