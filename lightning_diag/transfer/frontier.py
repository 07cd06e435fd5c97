"""Where the line between frozen and trained layers of a module lies, and how it is moved."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lightning_diag._compat import MisconfigurationException
from lightning_diag.lr.apply import AppliedLR
from lightning_diag.transfer.frozen import FrozenParts
from lightning_diag.transfer.groups import Places, place_of, places_of
from lightning_diag.transfer.table import Row, table, when
from lightning_diag.transfer.timetable import Timetable


class Frontier:
    """The units of a module, and which of them train.

    Args:
        dropout: Whether dropout goes on in frozen modules.

    Raises:
        MisconfigurationException: If an entry of the timetable fits nothing.
    """

    def __init__(self, module: nn.Module, timetable: Timetable, *, dropout: bool) -> None:
        self._timetable = timetable
        self.units, self._entries = timetable.units(module)
        self.parts = FrozenParts(module, dropout=dropout)
        self.entries = [unit for unit, _ in self._named()]
        """Units that train at one time or another, and are frozen at another."""
        self.count = len({entry for _, entry in self._named()})
        """Number of entries."""
        # What is yet to thaw must not be left out by code that asks for `requires_grad`.
        self.parts.hold([], _parameters(self.entries))

    def _named(self) -> list[tuple[Any, int]]:
        pairs = zip(self.units, self._entries, strict=True)
        return [(u, e) for u, e in pairs if e >= 0 and not self._never(e)]

    def _never(self, entry: int) -> bool:
        return math.isinf(self._timetable.start(entry))

    @property
    def governed(self) -> Places:
        """What this frontier decides on: all but what trains from the start without being named."""
        return places_of([u for u, e in zip(self.units, self._entries, strict=True) if e >= 0])

    def refuse_overlap(self, other: Frontier) -> None:
        """Refuse another callback that decides on the same parameters.

        Raises:
            MisconfigurationException: If there is one.
        """
        mine, theirs = self.governed, other.governed
        for unit in [*self.entries, *other.entries]:
            for name, parameter in unit.parameters.items():
                if id(parameter) in mine and id(parameter) in theirs:
                    raise MisconfigurationException(
                        f"Two LayerFreezing callbacks decide on {name!r}: tell each with `freeze` "
                        "which layers it is for."
                    )

    @property
    def places(self) -> Places:
        """Which unit each parameter is in."""
        return places_of(self.units)

    @property
    def names(self) -> list[str]:
        """Those of the units."""
        return [unit.name for unit in self.units]

    def depth(self, place: int | None) -> int:
        """Return how many units thaw before one; 0 for what trains without being named."""
        if place is None or self._entries[place] < 0:
            return 0
        return place - sum(entry < 0 for entry in self._entries)

    def trained(self, count: int, forced: dict[str, bool]) -> list[str]:
        """Return the names of the units that train when so many entries do.

        Args:
            forced: Units that somebody has decided on by name.
        """
        pairs = zip(self.units, self._entries, strict=True)
        return [unit.name for unit, entry in pairs if forced.get(unit.name, entry < count)]

    def move(self, trained: Iterable[str]) -> None:
        """Have these units train, and freeze all others."""
        known = set(trained)
        pairs = list(zip(self.units, self._entries, strict=True))
        still = [unit for unit, _ in pairs if unit.name not in known]
        self.parts.hold(
            _parameters(still),
            _parameters(unit for unit, entry in pairs if unit.name in known and entry >= 0),
            [norm for unit in still for norm in unit.norms],
        )

    def refuse_forgotten(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Refuse optimizers that leave out what shall train (P2, P22).

        Raises:
            MisconfigurationException: If there is such a parameter.
        """
        known = {id(p) for each in optimizers for g in each.param_groups for p in g["params"]}
        for unit in self.entries:
            lost = [name for name, p in unit.parameters.items() if id(p) not in known]
            if lost:
                raise MisconfigurationException(
                    f"{lost[0]!r} and {len(lost) - 1} more parameters of {unit.name!r} are in no "
                    "optimizer, and would never train: give it all parameters in "
                    "`configure_optimizers`, `Adam(self.parameters())`; frozen ones are left alone."
                )

    def table(self, optimizers: Iterable[Any], trained: Iterable[str], counter: str) -> str:
        """Return the units as text: layers, parameters, when they train, learning rate."""
        rates: dict[int, dict[str, None]] = {}
        for optimizer in optimizers:
            applied = AppliedLR.of(optimizer)
            own = [group["lr"] for group in optimizer.param_groups]
            for group, rate in zip(
                optimizer.param_groups, applied.rates() if applied else own, strict=True
            ):
                place = place_of(group, self.places)
                if place is not None:
                    rates.setdefault(place, {})[f"{float(rate):.3g}"] = None
        known = set(trained)
        rows = []
        for i, (unit, entry) in enumerate(zip(self.units, self._entries, strict=True)):
            start = when(self._timetable.start(entry), counter)
            layers = len({name.rpartition(".")[0] for name in unit.parameters})
            trains = "yes" if unit.name in known else start
            rows.append(Row(unit.name, layers, unit.size, trains, ", ".join(rates.get(i, {}))))
        return table(rows)


def _parameters(units: Iterable[Any]) -> list[nn.Parameter]:
    return [parameter for unit in units for parameter in unit.parameters.values()]
