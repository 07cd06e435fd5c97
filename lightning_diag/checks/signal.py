"""One step of a copy in which signal and gradient are followed from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import running, said
from lightning_diag.initialisation.propagation import Passage, SignalWatch
from lightning_diag.initialisation.suggest import suggest_seen
from lightning_diag.initialisation.table import InitTable
from lightning_diag.initialisation.words import EMBEDDINGS
from lightning_diag.lr.optimizers import family


@dataclass(frozen=True)
class Signal:
    """What a step without dropout showed of the layers."""

    passages: tuple[Passage, ...]
    """Each call of a layer, but embeddings, in their order."""
    table: InitTable
    """What initial weights fit, and the size of those that there are."""
    gradients: Mapping[str, float]
    """RMS gradient of each parameter that one reached."""
    is_adaptive: bool
    """Whether an optimizer may divide by the gradient's size."""
    uses: Mapping[str, int]
    """How often each weight was used."""

    def heads(self) -> list[Passage]:
        """Return the calls of last layers."""
        return [each for each in self.passages if each.followed.is_output]

    def behind_norms(self, last: Passage) -> list[Passage]:
        """Return the calls before a last one, from the newest norm on, but the first layer's.

        What goes into the first layer has the scale of the data; a norm takes any scale away.
        """
        chain: list[Passage] = []
        for each in self.passages:
            if each is last:
                break
            follows = each.followed
            if follows.is_normed or follows.is_sum_normed or "norm" in follows.after:
                chain = []
            elif 1 < each.depth < last.depth:
                chain.append(each)
        return chain


_SEEN: WeakKeyDictionary[Subject, Signal | Unavailable] = WeakKeyDictionary()


def signal(subject: Subject) -> Signal:
    """Return what a step on the first batch shows; it is run once for each subject.

    Raises:
        Unavailable: If there is no such step.
    """
    if subject not in _SEEN:
        try:
            _SEEN[subject] = _run(subject)
        except Unavailable as why:
            _SEEN[subject] = why
    found = _SEEN[subject]
    if isinstance(found, Unavailable):
        raise Unavailable(str(found))
    return found


def _run(subject: Subject) -> Signal:
    twin = subject.copy()
    if not twin.module.automatic_optimization:
        raise Unavailable("with manual optimisation one step may train several networks")
    if not subject.lacks("optimizers"):
        _ = twin.optimizers  # a step may ask for its schedules
    without_dropout(twin.module)
    batch = twin.moved(subject.batch())
    watch = SignalWatch(twin.module)
    with watch:
        loss = twin.loss(batch)
        watch.end(loss)
    if not loss.requires_grad:
        raise Unavailable("the loss has no gradient")
    with running(), said("the backward pass failed"):
        gradients = watch.back(twin.module, loss.mean())
    passages = [p for p in watch.passages() if p.function not in EMBEDDINGS]
    uses: dict[str, int] = {}
    for each in passages:
        uses[each.weight] = uses.get(each.weight, 0) + 1
    with said("the module's weights cannot be read"):
        table = suggest_seen(twin.module, watch)
    return Signal(tuple(passages), table, gradients, _is_adaptive(subject), uses)


def without_dropout(module: nn.Module) -> None:
    """Switch dropout off, whose noise makes samples differ."""
    for each in module.modules():
        if isinstance(each, _DropoutNd):
            each.eval()


def _is_adaptive(subject: Subject) -> bool:
    if subject.lacks("optimizers"):
        return True
    kinds: list[Any] = [family(each) for each in subject.optimizers]
    return any(kind != "plain" for kind in kinds)


def share(value: float | None, of: float) -> float:
    """Return a share, NaN if there is none."""
    return math.nan if value is None or of <= 0 else value / of
