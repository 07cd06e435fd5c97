"""`OHEMLoss`: online hard example mining as a module, phased in and over the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_diag.hard.choice import (
    Choice,
    Mined,
    chosen,
    chosen_of_all_ranks,
    one_behind_the_other,
)
from lightning_diag.hard.element_losses import LOSSES, ElementLoss, Elements, element_losses
from lightning_diag.hard.mining import Mining, Stage, on_host
from lightning_diag.hard.ohem import tell_of_nonfinite
from lightning_diag.hard.pooled import Pool, ranks
from lightning_diag.hard.reduction import Reduction, check_reduction, is_compiling, tensor_of
from lightning_diag.warning import warn

Scope = Literal["batch", "accumulated", "global", "all"]
SCOPES = ("batch", "accumulated", "global", "all")


class OHEMLoss(nn.Module):
    """Online hard example mining: `ohem_loss`, phased in over epochs and over the whole batch.

    In evaluation (``.eval()``) it is the mean of all that counts, so that losses of validation can
    be compared. `HardMining` tells it the epoch and the micro-batch; or call `set_epoch` and
    `set_micro_batch`.

    Args:
        loss: See `ohem_loss`, as all that is not told here.
        scope: What is chosen from: the ``batch`` of the call, the ``accumulated`` batch of an
            optimizer step, the ``global`` batch of all ranks, or ``all``: the accumulated batch
            of all ranks. Beyond ``batch``, loss and gradient are those of one process with the
            joined batch, given that gradients are averaged over ranks, as DDP does.
        warmup_epochs: Epochs in which everything is kept, before mining begins.
        anneal_epochs: Epochs after these in which what is left out grows in equal steps.

    Raises:
        ValueError: If an argument is out of range, or two contradict each other.

    Cost:
        ``accumulated`` keeps the graphs of all micro-batches until the last: the memory of a
        batch that is not split. ``global`` gathers 4 to 12 bytes for each element from each
        rank, in one collective, and waits for it.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
        >>> OHEMLoss(keep=0.5)(logits, torch.tensor([0, 0]))
        tensor(0.6931)
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        loss: str | ElementLoss | None = "cross_entropy",
        *,
        keep: int | float | None = None,  # noqa: PYI041  # a count is 1, all are 1.0
        threshold: float | None = None,
        min_kept: int | None = None,
        ratio: float | dict[int, float] | None = None,
        skip_top: float = 0.0,
        scope: Scope = "batch",
        warmup_epochs: int = 0,
        anneal_epochs: int = 0,
        weight: Tensor | Sequence[float] | None = None,
        pos_weight: Tensor | Sequence[float] | float | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        _check_phase(scope, reduction, warmup_epochs, anneal_epochs)
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"`loss` must be one of {', '.join(LOSSES)}, got {loss!r}.")
        self.loss = loss
        self.mining = Mining(keep, threshold, min_kept, ratio, skip_top)
        self.scope: Scope = scope
        self.warmup_epochs, self.anneal_epochs = warmup_epochs, anneal_epochs
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.register_buffer("weight", _weights(weight))
        self.register_buffer("pos_weight", _weights(pos_weight))
        self.is_watched = False
        """Whether to keep what each call has mined, in `mined`."""
        self.mined: Mined | None = None
        self._stage: Stage | None = None
        if warmup_epochs or anneal_epochs:
            self._stage = Stage(torch.tensor(0, device="cpu"), anneal_epochs + 1)
        self._is_told: set[str] = set()
        self._is_last, self._divisor = True, 1
        self._pending: list[Elements] = []
        self._pool = Pool()
        self.nonfinite_count: Tensor | None = None
        """``()`` on the device: elements so far that were left out since they were not finite."""
        self._calls = 0

    def extra_repr(self) -> str:
        """Say what is kept."""
        name = self.loss if isinstance(self.loss, str) or self.loss is None else "..."
        given = {key: value for key, value in vars(self.mining).items() if value}
        return ", ".join([f"{name!r}", *(f"{k}={v}" for k, v in given.items()), self.scope])

    @property
    def accumulates(self) -> bool:
        """Whether it chooses from all micro-batches of an optimizer step."""
        return self.scope in ("accumulated", "all")

    @property
    def nonfinite(self) -> int:
        """The same as a number. Waits for the device."""
        return 0 if self.nonfinite_count is None else int(self.nonfinite_count)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, from 0 on."""
        self._is_told.add("epoch")
        if self._stage is not None:
            done = min(max(epoch - self.warmup_epochs + 1, 0), self._stage.total)
            # A tensor, since a compiled loss would be compiled anew for each number.
            self._stage = self._stage._replace(done=torch.tensor(done, device="cpu"))
        self._look()

    def set_micro_batch(self, *, is_last: bool, divisor: int = 1) -> None:
        """Say, before each call, whether the optimizer steps after this micro-batch.

        Args:
            is_last: Whether it does. If not, the call returns 0 and keeps its graph.
            divisor: What the loss will be divided by: Lightning's `accumulate_grad_batches`.
        """
        self._is_told.add("micro_batch")
        self._is_last, self._divisor = is_last, divisor

    def forget(self) -> None:
        """Let go of micro-batches that were not the last of their step, and of what was mined."""
        self._pending, self.mined = [], None
        self._is_last, self._divisor = True, 1

    def forward(self, input: Tensor, target: Tensor | None = None) -> Tensor:  # noqa: A002
        """See `ohem_loss`."""
        if self.scope == "batch":
            return self._loss(input, target)
        loss: Tensor = self._uncompiled_loss(input, target)
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _uncompiled_loss(self, x: Tensor, target: Tensor | None) -> Tensor:
        # A graph that is compiled as one is freed as one, and nobody knows the sizes of others.
        return self._loss(x, target)

    def _loss(self, x: Tensor, target: Tensor | None) -> Tensor:
        found = element_losses(
            x,
            target,
            self.loss,
            weight=self.weight,
            pos_weight=self.pos_weight,
            ignore_index=self.ignore_index,
        )
        self._count(found.broken.sum())
        if not self.training:
            return Choice(found, found.valid).reduced(self.reduction)
        if not is_compiling():
            self._ask()
        if self.accumulates:
            self._pending.append(found)
            if not self._is_last:
                # Without a path to the graph, which going backward would free.
                return found.losses.new_zeros((), requires_grad=True)
            found, self._pending = one_behind_the_other(self._pending), []
        return self._mined(found)

    def _mined(self, found: Elements) -> Tensor:
        divisor = self._divisor if self.accumulates else 1
        world = ranks() if self.scope in ("global", "all") else 1
        if world == 1:
            own = whole = chosen(found, self.mining, self._stage)
        else:
            whole, own = chosen_of_all_ranks(found, self.mining, self._stage, self._pool)
        if self.is_watched:
            self.mined = whole.mined()
        if world == 1 or self.reduction == "none":
            reduced = own.reduced(self.reduction)
            return reduced if divisor == 1 else reduced * divisor
        # Gradients will be averaged over ranks; what is returned is the same on each of them.
        part = own.total() * (world * divisor)
        if self.reduction == "mean":
            part = part / whole.size()
        return whole.reduced(self.reduction).detach() * divisor + (part - part.detach())

    def _ask(self) -> None:
        """Warn, once, where nobody says what this loss depends on."""
        needed = {"epoch": self._stage is not None, "micro_batch": self.accumulates}
        for what, is_needed in needed.items():
            if is_needed and what not in self._is_told:
                self._is_told.add(what)
                which = "the epoch" if what == "epoch" else "the micro-batch of a step"
                warn(
                    f"OHEMLoss depends on {which}, which nobody tells it: add `HardMining()` to "
                    f"the trainer's callbacks, or call `set_{what}`."
                )

    def _count(self, nonfinite: Tensor) -> None:
        known = self.nonfinite_count
        if known is not None:
            nonfinite = known.to(nonfinite.device) + nonfinite
        self.nonfinite_count = nonfinite
        if is_compiling():
            return
        self._calls += 1
        # Elsewhere reading a number waits for the device: in fewer and fewer of the calls.
        if on_host(nonfinite) or self._calls & (self._calls - 1) == 0:
            self._look()

    def _look(self) -> None:
        if "nonfinite" not in self._is_told and self.nonfinite:
            self._is_told.add("nonfinite")
            tell_of_nonfinite(self.nonfinite)

    def __getstate__(self) -> dict[str, Any]:
        """Leave graphs behind."""
        return {**self.__dict__, "_pending": [], "mined": None}


def _check_phase(scope: str, reduction: str, warmup_epochs: int, anneal_epochs: int) -> None:
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {', '.join(SCOPES)}, got {scope!r}.")
    if reduction == "none" and scope in ("accumulated", "all"):
        raise ValueError(
            f"scope={scope!r} gives one loss for several micro-batches, got reduction='none': "
            "take mean or sum."
        )
    for name, value in (("warmup_epochs", warmup_epochs), ("anneal_epochs", anneal_epochs)):
        if value < 0 or value != int(value):
            raise ValueError(f"`{name}` must be a whole number of at least 0, got {value}.")


def _weights(given: Tensor | Sequence[float] | float | None) -> Tensor | None:
    weights = tensor_of(given)
    if weights is not None and bool((weights < 0).any()):
        raise ValueError(f"Weights must be at least 0, got {weights.min():g}.")
    return weights
