"""The worst samples of many calls, of which only a few are held at a time (W13)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_diag.measure.base import LossCall
from lightning_diag.measure.batch_samples import Samples
from lightning_diag.measure.examples import Example, Look, examples, look, worst
from lightning_diag.measure.order import Order
from lightning_diag.measure.ranking import LOSS, severity
from lightning_diag.measure.sample_loss import SampleLosses

Found = tuple[int, list[Example]]
"""Rows that were looked at, and the worst of them."""


class Batch(NamedTuple):
    """A batch that is being looked at."""

    number: int
    """As its loader counts."""
    loader: int
    """Number of the loader."""
    samples: Samples


class _Taken(NamedTuple):
    """A look on its way to the host, and which loader its batch is of."""

    look: Look
    loader: int
    arrived: Any
    """The event that its copy is over, None if it is."""


class _Seen(NamedTuple):
    """A call whose samples were looked at."""

    batch: int
    loader: int
    rows: int


class Gathered:
    """Collects the worst samples of the calls of some places.

    Args:
        most: Samples of a place that are kept.
        places: Places that are looked at, the first ones.
        with_content: Whether to take the samples themselves as well.
        kind: The list that they are for.
    """

    def __init__(self, most: int, places: int, *, with_content: bool, kind: str = LOSS) -> None:
        # one more, since one may be a repeat
        self._most, self._places, self._with_content = most, places, with_content
        self._kind = kind
        self._held: dict[str, _Worst] = {}

    def add(
        self, call: LossCall, found: SampleLosses, batch: Batch, scores: Tensor | None = None
    ) -> None:
        """Take the worst samples of a call, without waiting for the device.

        Args:
            call: The call.
            found: The losses of its samples.
            batch: The batch.
            scores: What to rank them by, see `look`.
        """
        if call.place not in self._held:
            if len(self._held) >= self._places:
                return
            self._held[call.place] = _Worst(
                self._most + 1, with_content=self._with_content, kind=self._kind
            )
        self._held[call.place].add(call, found, batch, scores)

    def told(self, orders: Sequence[Order | None], facts: Mapping[str, Any]) -> dict[str, Found]:
        """Return what was found at each place, worst first; waits for what is on its way.

        A sample that another rank has as well is left out.

        Args:
            orders: What each loader gives when.
            facts: What else is known of all samples, such as the step.
        """
        found: dict[str, Found] = {}
        for place, held in self._held.items():
            told = [
                {**one, **facts, "index": index, "loader": loader if len(orders) > 1 else None}
                for one, loader in held.told()
                for is_repeat, index in [_placed(one, _order(orders, loader))]
                if not is_repeat
            ]
            found[place] = (held.fresh_rows(orders), worst(told, self._most, self._kind))
        return found


def _order(orders: Sequence[Order | None], loader: int) -> Order | None:
    return orders[loader] if loader < len(orders) else None


def _placed(one: Example, order: Order | None) -> tuple[bool, int | None]:
    """Return whether a sample is a repeat, and its index in the data set."""
    index = one["index"]
    if order is None:
        return False, index
    place = one["batch"], one["sample"]
    return order.is_repeat(*place), order.index_of(*place) if index is None else index


class _Worst:
    """Collects the worst samples of the calls of a place.

    What has reached the host is cut down to the worst, so that no more is held, however many calls
    there are.
    """

    def __init__(self, most: int, *, with_content: bool, kind: str) -> None:
        self._most, self._with_content, self._kind = most, with_content, kind
        self._pending: deque[_Taken] = deque()
        self._kept: list[_Taken] = []
        self._rows = 0
        self._least = -math.inf
        self._seen: list[_Seen] = []
        self._each = 1

    def add(self, call: LossCall, found: SampleLosses, batch: Batch, scores: Tensor | None) -> None:
        """See `Gathered.add`."""
        losses, most = found.losses, self._most
        ranks = severity(losses) if scores is None else scores
        self._seen.append(_Seen(batch.number, batch.loader, len(losses)))
        if losses.device.type == "cpu" and self._least > -math.inf:
            most = min(most, int((ranks > self._least).sum()))
        if most == 0:
            return
        taken = look(
            call,
            found,
            batch.samples,
            batch.number,
            with_content=self._with_content,
            most=most,
            scores=ranks,
            kind=self._kind,
        )
        self._each = taken.each
        self._pending.append(_Taken(taken, batch.loader, _event(losses.device)))
        while self._pending and _is_there(self._pending[0].arrived):
            self._keep(self._pending.popleft())

    def _keep(self, taken: _Taken) -> None:
        self._kept.append(taken)
        self._rows += len(taken.look.columns["loss"])
        if self._rows > 2 * self._most:
            self._cut()

    def _cut(self) -> None:
        """Let go of all but the worst."""
        sizes = [len(taken.look.columns["loss"]) for taken in self._kept]
        ranks = torch.cat([taken.look.columns["score"].double() for taken in self._kept])
        worst_of = ranks.topk(min(self._most, len(ranks)))
        is_kept = torch.zeros(len(ranks), dtype=torch.bool, device="cpu")
        is_kept[worst_of.indices] = True
        pairs = zip(self._kept, is_kept.split(sizes), strict=True)
        self._kept = [_rows_of(taken, rows) for taken, rows in pairs if rows.any()]
        self._rows = int(is_kept.sum())
        self._least = float(worst_of.values[-1]) if self._rows == self._most else -math.inf

    def told(self) -> list[tuple[Example, int]]:
        """Return the worst samples and their loaders; waits for what is on its way."""
        while self._pending:
            taken = self._pending.popleft()
            if taken.arrived is not None:
                taken.arrived.synchronize()
            self._keep(taken)
        if self._kept:
            self._cut()
        return [
            (one, taken.loader)
            for taken in self._kept
            for one in examples([taken.look], {}, most=self._most)
        ]

    def fresh_rows(self, orders: Sequence[Order | None]) -> int:
        """Return how many rows were looked at, without samples that other ranks have as well."""
        total = 0
        for batch, loader, rows in self._seen:
            order = _order(orders, loader)
            repeats = 0 if order is None else order.repeats(batch, rows // self._each)
            total += rows - repeats * self._each
        return total


def _event(device: torch.device) -> Any:
    """Return what tells when the copies so far are over, None if they are."""
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        event: Any = torch.cuda.Event()
        event.record()
        return event
    torch.zeros(1, device=device).item()  # others have no such thing: this waits
    return None


def _is_there(arrived: Any) -> bool:
    return arrived is None or bool(arrived.query())


def _rows_of(taken: _Taken, rows: torch.Tensor) -> _Taken:
    """Return some rows of a look."""
    seen = taken.look
    if rows.all():
        return taken
    columns = {name: values[rows] for name, values in seen.columns.items()}
    cut = replace(seen, columns=columns)
    return taken._replace(look=cut)
