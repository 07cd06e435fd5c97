"""Decides what is loaded where, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from lightning_diag.transfer.fitting import Fitting, first_convolution
from lightning_diag.transfer.load_report import LeftOut, Loaded, LoadReport, Lone
from lightning_diag.transfer.mapping import Prefix, Renaming, find_prefix, near, renamed
from lightning_diag.transfer.slots import Slot, without_wrappers

_SUGGESTED = 10
"""Names for which like ones are looked for; our choice, since that is slow."""


@dataclass
class Names:
    """Which name of the source goes to which of the module."""

    origins: dict[str, str] = field(default_factory=dict)
    """Names of the module to those of the source."""
    unexpected: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    prefix: Prefix = field(default_factory=Prefix)
    rivals: tuple[Prefix, ...] = ()


@dataclass
class Plan:
    """What will be written, and the report of it."""

    writes: list[tuple[Slot, Tensor]]
    report: LoadReport


def match_names(
    state: Mapping[str, Any], slots: Sequence[Slot], mapping: Renaming | None, prefix: str | None
) -> Names:
    """Find the partners of a source's names.

    Raises:
        ValueError: If two names become one, or `mapping` or `prefix` fits none.
    """
    clean = {without_wrappers(name): name for name in state}
    if len(clean) < len(state):
        raise ValueError("The source holds two names that differ in what wrappers add alone.")
    new = renamed(list(clean), mapping)
    names = Names(dropped=[clean[name] for name, becomes in new.items() if becomes is None])
    kept = {becomes: clean[name] for name, becomes in new.items() if becomes is not None}
    start = _chosen(prefix, kept)
    names.dropped += [raw for name, raw in kept.items() if not name.startswith(start)]
    kept = {n.removeprefix(start): raw for n, raw in kept.items() if n.startswith(start)}
    target = {slot.name: _shape(slot.tensor) for slot in slots}
    found, names.rivals = find_prefix({n: _shape(state[raw]) for n, raw in kept.items()}, target)
    names.prefix = Prefix(start + found.removed, found.added)
    partners = {n: there for n in kept if (there := found(n)) is not None and there in target}
    taken = set(partners.values())
    partners |= {n: n for n in kept if n not in partners and n in target and n not in taken}
    names.origins = {there: kept[n] for n, there in partners.items()}
    names.unexpected = [raw for n, raw in kept.items() if n not in partners]
    return names


def _chosen(prefix: str | None, names: Mapping[str, str]) -> str:
    if not prefix:
        return ""
    start = prefix if prefix.endswith(".") else prefix + "."
    if not any(name.startswith(start) for name in names):
        known = dict.fromkeys(name.split(".")[0] + "." for name in names if "." in name)
        raise ValueError(
            f"`prefix` is {prefix!r}, with which no name of the source begins: they begin with "
            f"{', '.join(map(repr, list(known)[:5])) or 'none'}."
        )
    return start


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else (-1,)


def skipped_names(slots: Sequence[Slot], skip: str | Sequence[str]) -> set[str]:
    """Return the module's names that patterns choose, and those tied with them.

    Args:
        skip: Names with ``*`` and ``?``; the name of a layer stands for all that is in it.

    Raises:
        ValueError: If a pattern fits none.
    """
    chosen: set[str] = set()
    for pattern in [skip] if isinstance(skip, str) else skip:
        fits = {s.name for s in slots if _is_in(s.name, pattern)}
        if not fits:
            like = near(pattern, [slot.name for slot in slots])
            hint = f": did you mean {like[0]!r}?" if like else "."
            raise ValueError(f"`skip` has {pattern!r}, which fits no name of the module{hint}")
        chosen |= fits
    tied = {slot.identity for slot in slots if slot.name in chosen}
    return {slot.name for slot in slots if slot.identity in tied}


def _is_in(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def make_plan(
    state: Mapping[str, Any], slots: Sequence[Slot], names: Names, skip: set[str], fitting: Fitting
) -> Plan:
    """Decide for each tensor of the module; `report.source` stays empty."""
    convolution = first_convolution([slot for slot in slots if slot.name in names.origins])
    planner = _Planner(state, names.origins, skip, fitting, convolution)
    # A weight first, since its bias is of no use without it.
    for slot in sorted(slots, key=lambda slot: slot.attribute == "bias"):
        planner.consider(slot)
    planner.tie(slots)
    order = {slot.name: i for i, slot in enumerate(slots)}
    lacking = [n for n in order if n not in names.origins and n not in planner.settled]
    shapes = {slot.name: _shape(slot.tensor) for slot in slots}
    sizes = {slot.identity: slot.tensor.numel() for slot in slots}
    report = LoadReport(
        source="",
        matched=tuple(sorted(planner.matched, key=lambda each: order[each.name])),
        reshaped=tuple(sorted(planner.reshaped, key=lambda each: order[each.name])),
        left_out=tuple(sorted(planner.left_out, key=lambda each: order[each.name])),
        missing=_lone(lacking, {n: _shape(state[n]) for n in names.unexpected}, shapes),
        unexpected=_lone(names.unexpected, {n: shapes[n] for n in lacking}, {}),
        dropped=tuple(names.dropped),
        prefix=names.prefix,
        rivals=names.rivals,
        values=sum(sizes.values()),
        loaded_values=sum(sizes[slot.identity] for slot, _ in planner.writes),
    )
    return Plan(planner.writes, report)


_Shapes = Mapping[str, tuple[int, ...]]


def _lone(these: Sequence[str], others: _Shapes, shapes: _Shapes) -> tuple[Lone, ...]:
    """Say which names of the other are like these: of the same shape, if any are."""
    found = []
    for i, name in enumerate(these):
        alike = [other for other, shape in others.items() if shape == shapes.get(name)]
        found.append(Lone(name, near(name, alike or list(others)) if i < _SUGGESTED else ()))
    return tuple(found)


@dataclass
class _Planner:
    """Goes through a module's tensors and keeps what was decided."""

    state: Mapping[str, Any]
    origins: Mapping[str, str]
    skip: set[str]
    fitting: Fitting
    convolution: str | None
    writes: list[tuple[Slot, Tensor]] = field(default_factory=list)
    matched: list[Loaded] = field(default_factory=list)
    reshaped: list[Loaded] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    settled: set[str] = field(default_factory=set)
    leaders: dict[tuple[object, ...], tuple[Slot, Tensor]] = field(default_factory=dict)
    """By the memory that is written to: by which name, and what."""

    def consider(self, slot: Slot) -> None:
        """Decide on one tensor, if the source has something for it or it is to be skipped."""
        origin = self.origins.get(slot.name, "")
        if slot.name in self.skip:
            self._leave(slot, "skipped, as asked", asked=True)
            return
        if not origin:
            return
        if self._lacks_weight(slot):
            self._leave(slot, "the weight beside it does not fit")
            return
        value, change, reason = self.fitting.fit(
            slot, self.state[origin], is_first_convolution=slot.name == self.convolution
        )
        if value is None:
            self._leave(slot, reason)
            return
        leader = self.leaders.get(slot.identity)
        if leader is not None and not _is_equal(value, leader[1]):
            self._leave(slot, f"tied with {leader[0].name}, for which the source has other values")
            return
        self.settled.add(slot.name)
        if leader is None:
            self.leaders[slot.identity] = slot, value
            self.writes.append((slot, value))
        is_reshaped = value.shape != self.state[origin].shape
        (self.reshaped if is_reshaped else self.matched).append(Loaded(slot.name, origin, change))

    def tie(self, slots: Sequence[Slot]) -> None:
        """Count what the source lacks as loaded where it is tied with what was loaded."""
        for slot in slots:
            leader = self.leaders.get(slot.identity)
            if slot.name in self.settled or slot.name in self.origins or leader is None:
                continue
            self.settled.add(slot.name)
            origin = self.origins[leader[0].name]
            self.matched.append(Loaded(slot.name, origin, f"tied with {leader[0].name}"))

    def _lacks_weight(self, slot: Slot) -> bool:
        weight = f"{slot.name.removesuffix('bias')}weight"
        return slot.attribute == "bias" and any(
            left.name == weight and left.origin and not left.asked for left in self.left_out
        )

    def _leave(self, slot: Slot, reason: str, *, asked: bool = False) -> None:
        self.settled.add(slot.name)
        origin = self.origins.get(slot.name, "")
        self.left_out.append(LeftOut(slot.name, origin, reason, asked))


def _is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN among them."""
    if one.shape != other.shape:
        return False
    other = other.to(one)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
