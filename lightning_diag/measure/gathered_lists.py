"""The lists of worst samples of one validation (W13)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_diag.measure.base import LossCall
from lightning_diag.measure.gathered import Batch, Gathered
from lightning_diag.measure.order import Order
from lightning_diag.measure.ranking import BY_CLASS, LOSS, MISTAKES, MOST_CLASSES, Ranked
from lightning_diag.measure.recent import Found, Key
from lightning_diag.measure.sample_loss import sample_losses


class GatheredLists:
    """Collects samples for each list: highest loss, and if wanted mistakes, and of each class.

    Args:
        most: Samples of a list that are kept.
        places: Loss calls that are looked at, the first ones.
        with_content: Whether to take the samples themselves as well.
        mistakes: Whether to collect confident mistakes.
        per_class: Samples of each of the first 16 classes to collect, 0 for none.
    """

    def __init__(
        self, most: int, places: int, *, with_content: bool, mistakes: bool, per_class: int
    ) -> None:
        self._most, self._places, self._with_content = most, places, with_content
        self._mistakes, self._per_class = mistakes, per_class
        self._lists = {LOSS: self._gathering(LOSS, most)}

    def _gathering(self, kind: str, most: int) -> Gathered:
        return Gathered(most, self._places, with_content=self._with_content, kind=kind)

    def add(self, call: LossCall, batch: Batch) -> None:
        """Take the worst samples of a call, without waiting for the device."""
        found = sample_losses(call)
        if found is None:
            return
        self._lists[LOSS].add(call, found, batch)
        if not (self._mistakes or self._per_class):
            return
        ranked = Ranked(call, found)
        lists_of = {MISTAKES: ranked.mistakes()} if self._mistakes else {}
        for label in range(min(ranked.classes, MOST_CLASSES) if self._per_class else 0):
            lists_of[f"{BY_CLASS} {label}"] = ranked.of_class(label)
        for name, scores in lists_of.items():
            if scores is not None:
                kind, is_class, _ = name.partition(" ")
                if name not in self._lists:
                    most = self._per_class if is_class else self._most
                    self._lists[name] = self._gathering(kind, most)
                self._lists[name].add(call, found, batch, scores)

    def told(self, orders: Sequence[Order | None], facts: Mapping[str, Any]) -> dict[Key, Found]:
        """Return what was found, by list and loss call; see `Gathered.told`."""
        return {
            (name, place): found
            for name, of_list in self._lists.items()
            for place, found in of_list.told(orders, facts).items()
        }
