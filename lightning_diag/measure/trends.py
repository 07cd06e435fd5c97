"""The course of each sample over the epochs: learnt, forgotten, suspicious (W13)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LEAST_LOOKS = 3
"""Our choice: looks at a sample before anything is said of its course."""
CAUTION = 0.8
"""A label is suspicious if its margin is below this many times the median margin, negated. Our
choice, from planted wrong labels: see docs/hard-examples/worst-examples.md."""
LEAST_MEDIAN = 0.2
"""Our choice: median margin below which the network has not learnt enough to judge labels."""
_MOST_CLASSES = torch.iinfo(torch.int16).max
_RIGHT, _LEARNT = 1, 2
_COLUMNS: dict[str, torch.dtype] = {
    "margin": torch.float32,
    "loss": torch.float32,
    "sure": torch.float16,
    "given": torch.int16,
    "predicted": torch.int16,
    "looks": torch.int16,
    "forgotten": torch.uint8,
    "state": torch.uint8,
}
_NOT_SEEN = {"loss": -math.inf, "given": -1, "predicted": -1}
"""What stands in the columns of a sample that was never seen; zero in all others."""


class Rows(NamedTuple):
    """What was seen of some samples, on the host: ``(rows,)`` each."""

    indices: Tensor
    """Positions in the data set."""
    loss: Tensor
    """-inf where the target does not count."""
    margin: Tensor
    """NaN where a sample has no class."""
    sure: Tensor
    given: Tensor
    """-1 where a sample has no class, as in `predicted`."""
    predicted: Tensor


class Trends:
    """What is known of each sample of a data set: 18 bytes, and nothing of the sample itself.

    `add` takes what this process sees; `take` and `merge` hand it on, so that all processes know
    the same. Between the two, samples that were seen take 18 bytes more.

    Example:
        >>> one = torch.ones(1)
        >>> trends = Trends()
        >>> for margin, predicted in ((-0.5, 2), (0.5, 1), (-0.5, 2)):  # wrong, right, forgotten
        ...     seen = (torch.tensor([7]), one, margin * one, 0.7 * one, one, predicted * one)
        ...     trends.add(Rows(*seen))
        >>> trends.merge([trends.take()])
        >>> trends.course(7)["looks"], trends.course(7)["forgotten"], trends.course(7)["learnt"]
        (3, 1, True)
    """

    def __init__(self) -> None:
        self._columns = _blank(0)
        self._pending: list[Rows] = []

    def __len__(self) -> int:
        """Return how many samples were seen."""
        return int((self._columns["looks"] > 0).sum())

    def add(self, rows: Rows) -> None:
        """Take down a batch; its rows are told in the order in which they came."""
        given = rows.given.clamp(max=_MOST_CLASSES).to(torch.int16)
        predicted = rows.predicted.clamp(max=_MOST_CLASSES).to(torch.int16)
        numbers = rows.loss.float(), rows.margin.float(), rows.sure.half()
        self._pending.append(Rows(rows.indices.int(), *numbers, given, predicted))

    def take(self) -> Rows | None:
        """Return what was seen since last time, and forget it; None if nothing was."""
        pending, self._pending = self._pending, []
        if not pending:
            return None
        return Rows(*(torch.cat(column) for column in zip(*pending, strict=True)))

    def merge(self, of_ranks: Sequence[Rows | None]) -> None:
        """Enter what was seen, of one rank after the other."""
        known = [rows for rows in of_ranks if rows is not None]
        if not known:
            return
        rows = Rows(*(torch.cat(column) for column in zip(*known, strict=True)))
        rows = Rows(*(column[~(rows.loss == -math.inf)] for column in _without_nan(rows)))
        if len(rows.indices) == 0:
            return
        self._grow(int(rows.indices.max()) + 1)
        for turn in _turns(rows):
            self._enter(turn)

    def _grow(self, size: int) -> None:
        held = len(self._columns["looks"])
        if size > held:
            more = _blank(size - held)
            self._columns = {k: torch.cat([x, more[k]]) for k, x in self._columns.items()}

    def _enter(self, rows: Rows) -> None:
        """Enter rows of which no two are of one sample."""
        held, i = self._columns, rows.indices.long()
        right = (rows.given == rows.predicted) & (rows.given >= 0)
        before = held["state"][i]
        is_lost = ((before & _RIGHT) > 0) & ~right
        held["forgotten"][i] = (held["forgotten"][i].int() + is_lost).clamp(max=255).byte()
        held["state"][i] = (before & _LEARNT) | (right * (_RIGHT | _LEARNT)).byte()
        held["looks"][i] = (held["looks"][i].int() + 1).clamp(max=32_767).short()
        # A mean that goes on: the sum of many margins would lose the digits of new ones.
        weight = 1 / held["looks"][i].float()
        held["margin"][i] += weight * (rows.margin - held["margin"][i])
        for name in ("loss", "sure", "given", "predicted"):
            held[name][i] = getattr(rows, name)

    # -- what is known -----------------------------------------------------------------------

    def course(self, index: int) -> dict[str, Any]:
        """Return what is known of a sample, in plain values.

        ``loss``, ``target``, ``prediction`` and ``probability`` of the newest look; ``margin``, the
        mean over all ``looks``; how often it was ``forgotten``; whether it was ever ``learnt``.
        """
        value = {name: column[index].item() for name, column in self._columns.items()}
        has_class = value["given"] >= 0
        return {
            "index": index,
            "loss": float(f"{value['loss']:.6g}"),
            "target": value["given"] if has_class else None,
            "prediction": value["predicted"] if has_class else None,
            "probability": float(f"{value['sure']:.4g}") if has_class else None,
            "margin": float(f"{value['margin']:.4g}") if has_class else None,
            "looks": value["looks"],
            "forgotten": value["forgotten"] if has_class else None,
            "learnt": bool(int(value["state"]) & _LEARNT) if has_class else None,
        }

    @property
    def _is_judged(self) -> Tensor:
        return (self._columns["looks"] >= LEAST_LOOKS) & (self._columns["given"] >= 0)

    def threshold(self) -> float | None:
        """Return the mean margin below which a label is suspicious; None if nothing can be said.

        Where a network has learnt a class, it is as sure of it for a wrongly labelled sample as for
        others, so the margin of a wrong label is about the negative of a right one's, until the
        label is learnt by heart. So the median margin is the yardstick, without threshold samples,
        whose labels would have to be changed.
        """
        known = self._columns["margin"][self._is_judged]
        if len(known) == 0:
            return None
        median = float(known.median())
        return -CAUTION * median if median >= LEAST_MEDIAN else None

    def suspicious(self) -> list[int]:
        """Return the samples whose labels are suspicious, the most suspicious first."""
        threshold = self.threshold()
        if threshold is None:
            return []
        margin = self._columns["margin"]
        return _sorted(self._is_judged & (margin < threshold), margin)

    def never_learnt(self) -> list[int]:
        """Return the samples that were wrong at every look, of at least three; worst first."""
        never = self._is_judged & ((self._columns["state"] & _LEARNT) == 0)
        return _sorted(never, self._columns["margin"])

    def forgotten(self) -> list[int]:
        """Return the samples that were right and then wrong, those it befell most often first.

        References:
            Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network
            Learning, 2019, arXiv:1812.05159.
        """
        times = self._columns["forgotten"]
        order = -times.float() + self._columns["margin"] / 4  # within -0.25 and 0.25: ties only
        return _sorted(times > 0, order)

    def mistakes(self) -> list[int]:
        """Return the samples that were answered wrongly last, the most confident answers first."""
        given, predicted = self._columns["given"], self._columns["predicted"]
        is_wrong = (given >= 0) & (given != predicted)
        return _sorted(is_wrong, -self._columns["sure"].float())

    def worst(self) -> list[int]:
        """Return all samples that were seen, the highest loss first; NaN is above all."""
        loss = self._columns["loss"].nan_to_num(math.inf, math.inf, -math.inf)
        return _sorted(self._columns["looks"] > 0, -loss)

    def worst_by_class(self, each: int) -> list[int]:
        """Return the samples of each class with the highest loss, class after class."""
        found: dict[int, list[int]] = {}
        given = self._columns["given"].tolist()
        for i in self.worst():
            if given[i] >= 0 and len(found.setdefault(given[i], [])) < each:
                found[given[i]].append(i)
        return [i for label in sorted(found) for i in found[label]]

    # -- a checkpoint ------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors."""
        pending = self.take()
        if pending is not None:
            self._pending = [pending]
        state: dict[str, Any] = {name: x.clone() for name, x in self._columns.items()}
        return {**state, "pending": None if pending is None else pending._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._columns = {name: state[name].clone() for name in _COLUMNS}
        pending = state["pending"]
        self._pending = [] if pending is None else [Rows(**pending)]


def _blank(size: int) -> dict[str, Tensor]:
    return {
        name: torch.full((size,), _NOT_SEEN.get(name, 0), dtype=kind, device="cpu")
        for name, kind in _COLUMNS.items()
    }


def _without_nan(rows: Rows) -> Rows:
    """Make of a sample whose answer is not a number one that was answered wrongly, by nothing."""
    is_odd = rows.margin.isnan()
    return rows._replace(
        margin=rows.margin.where(~is_odd, torch.zeros_like(rows.margin)),
        given=rows.given.where(~is_odd, torch.full_like(rows.given, -1)),
    )


def _turns(rows: Rows) -> list[Rows]:
    """Return rows as groups in which each sample stands once, in the order in which it came."""
    order = rows.indices.argsort(stable=True)
    ordered = rows.indices[order]
    is_first = torch.ones(len(ordered), dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    position = torch.arange(len(ordered))
    start = position.where(is_first, torch.zeros_like(position)).cummax(0).values
    turn = position - start
    if int(turn.max()) == 0:
        return [rows]
    return [
        Rows(*(column[order[turn == number]] for column in rows))
        for number in range(int(turn.max()) + 1)
    ]


def _sorted(chosen: Tensor, order: Tensor) -> list[int]:
    """Return the chosen samples in ascending order of something, and of their positions."""
    found = chosen.nonzero()[:, 0]
    indices: list[int] = found[order[found].argsort(stable=True)].tolist()
    return indices
