"""When which layers thaw: what the arguments of `LayerFreezing` mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from lightning_diag._compat import MisconfigurationException
from lightning_diag.transfer import select
from lightning_diag.transfer.select import Finder, Selection, Unit, below

Entry: TypeAlias = Selection | Sequence[Selection]
Schedule: TypeAlias = Mapping[int, Entry] | Sequence[Entry] | str | None
Counter: TypeAlias = Literal["epoch", "step"]

OTHERS, FROZEN = "others", "frozen"
"""Units that no entry names: what `freeze` leaves out, and what never thaws."""


@dataclass(frozen=True)
class Timetable:
    """Entries in the order in which they thaw; see `LayerFreezing` for the arguments."""

    entries: list[list[Selection]] | None
    """None: the layers of the network, found when there is one, the last first."""
    starts: list[int] | None
    """When each entry thaws; None: one after the other."""
    freeze: list[Selection] | None
    every: int | None
    unfreeze_all: int | None
    on_plateau: bool

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        *,
        freeze: Entry | None,
        every: int | None,
        unfreeze_all: int | None,
        on_plateau: bool,
    ) -> Timetable:
        """Read the arguments.

        Raises:
            ValueError: If they contradict each other, or one is out of range.
            TypeError: If what shall be a selection is none.
        """
        entries, starts = _entries(schedule)
        held = None if freeze is None else _selections("freeze", freeze)
        for name, value in (("every", every), ("unfreeze_all", unfreeze_all)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        _check_pace(starts, every, on_plateau=on_plateau)
        is_paced = every is not None or on_plateau
        if entries is None and held is not None and not is_paced:
            entries = []
        least = 1 if held is None else 0
        if (entries is None or len(entries) > least) and starts is None and not is_paced:
            raise ValueError(
                "Nothing says when the entries of `schedule` thaw: write {0: 'head', 3: 'layer4'}, "
                "or give `every` or `on_plateau`."
            )
        if starts is not None and held is None and starts[0] > 0:
            raise ValueError(
                f"`schedule` begins at {starts[0]}, and nothing would train before: add an entry "
                "for 0, or say what else is frozen with `freeze`."
            )
        return cls(entries, starts, held, every, unfreeze_all, on_plateau)

    def units(self, module: nn.Module) -> tuple[list[Unit], list[int]]:
        """Find the layers of a module.

        Returns:
            The units, those that thaw first before the others, and the entry of each. The entry
            of what never thaws is the number of entries; of what `freeze` leaves out it is -1.

        Raises:
            MisconfigurationException: If an entry fits nothing.
        """
        finder = Finder(module, "schedule")
        units: list[Unit] = []
        places: list[int] = []
        if self.freeze is not None:
            outside = _outside(module, self.freeze, finder)
            if not outside.is_empty:
                units, places = [outside], [-1]
        entries, titles = self.entries, []
        if entries is None:
            stages = [each for each in finder.stages[::-1] if finder.has(below(each.members))]
            entries = [[below(each.members)] for each in stages]
            titles = [each.name for each in stages]
        for i, entry in enumerate(entries):
            for selection in entry:
                units.append(finder.take(selection, titles[i] if titles else None))
                places.append(i)
        rest = finder.rest(FROZEN)
        if not rest.is_empty:
            units, places = [*units, rest], [*places, len(entries)]
        if not any(p < self.first for p in places):
            raise MisconfigurationException("`freeze` has all layers, so that nothing trains.")
        return units, places

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from another one in a checkpoint: which layers, but not when."""
        entries = [[select.title(each) for each in entry] for entry in self.entries or ()]
        frozen = [select.title(each) for each in self.freeze or ()]
        return {"schedule": str(entries), "freeze": str(frozen)}

    @property
    def first(self) -> int:
        """Number of entries that train from the start."""
        return 1 if self.freeze is None else 0

    def due(self, now: int, count: int) -> int:
        """Return how many entries train at a time, by the schedule; never fewer than `first`.

        Args:
            now: Epoch or step.
            count: Number of entries that there are.
        """
        if self.unfreeze_all is not None and now >= self.unfreeze_all:
            return count + 1
        if self.starts is not None:
            return sum(start <= now for start in self.starts)
        if self.every is not None:
            return min(count, self.first + now // self.every)
        return self.first

    def start(self, entry: int) -> float:
        """Return when an entry thaws; infinite if that is never, NaN if it is not known."""
        latest = math.inf if self.unfreeze_all is None else self.unfreeze_all
        if entry < self.first:
            return 0
        if self.entries is not None and entry >= len(self.entries):
            return latest
        if self.starts is not None:
            return min(self.starts[entry], latest)
        if self.every is not None:
            return min((entry + 1 - self.first) * self.every, latest)
        return math.nan


def _entries(schedule: Schedule) -> tuple[list[list[Selection]] | None, list[int] | None]:
    if schedule is None:
        return None, None
    if isinstance(schedule, Mapping):
        if not schedule:
            raise ValueError("`schedule` must have an entry, got {}: write {0: 'head'}, say.")
        for start in schedule:
            if start < 0 or start != int(start):
                raise ValueError(
                    f"`schedule` must say when layers thaw in whole numbers from 0 on, got {start}."
                )
        starts = sorted(schedule)
        return [_selections("schedule", schedule[start]) for start in starts], starts
    listed = [schedule] if isinstance(schedule, str) else list(schedule)
    if not listed:
        raise ValueError("`schedule` must name layers, got []: write ['head', 'layer4'], say.")
    return [_selections("schedule", entry) for entry in listed], None


def _selections(option: str, entry: Entry) -> list[Selection]:
    found = [entry] if isinstance(entry, str) or not isinstance(entry, Sequence) else list(entry)
    for selection in found:
        select.check(option, selection)
    return found


def _check_pace(starts: list[int] | None, every: int | None, *, on_plateau: bool) -> None:
    given = {
        "the keys of `schedule`": starts is not None,
        "`every`": every is not None,
        "`on_plateau`": on_plateau,
    }
    several = [name for name, is_given in given.items() if is_given]
    if len(several) > 1:
        raise ValueError(
            f"One thing says when layers thaw, got {' and '.join(several)}: leave one out; "
            "with `every` and `on_plateau`, `schedule` is a list."
        )


def _outside(module: nn.Module, freeze: list[Selection], finder: Finder) -> Unit:
    """Take what `freeze` does not have."""
    scratch = Finder(module, "freeze")
    held = {id(p) for each in freeze for p in scratch.take(each).parameters.values()}
    norms = scratch.rest(FROZEN).norms
    return finder.take_others(OTHERS, held, norms)
