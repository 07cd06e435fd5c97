"""The loss of each sample of every training batch, and which samples these are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_diag.measure.base import LossCall
from lightning_diag.measure.data import leaves
from lightning_diag.measure.sample_loss import losses_of_all, sample_losses
from lightning_diag.probe.drawn import Drawn
from lightning_diag.probe.loss_watch import LossWatch
from lightning_diag.probe.places import trained_modules
from lightning_diag.probe.watch import CallWatch

_PARTS = "SelectiveBackprop"
KEYS = ("losses", "sample_losses")
"""Under which of these `training_step` may return the loss of each sample."""
ADVICE = (
    'return {"loss": loss, "losses": losses} from `training_step`, where `losses` holds the loss '
    "of each sample of the batch, shape (samples,)"
)
"""What helps where no loss of single samples is seen."""


def parts_of_batches(trainer: Any) -> bool:
    """Whether a callback trains on a part of each batch, whose samples are then not known."""
    kinds = (kind for callback in trainer.callbacks for kind in type(callback).__mro__)
    return any(kind.__name__ == _PARTS for kind in kinds)


class Seen(NamedTuple):
    """The losses of the samples of a training batch, of one loss call."""

    indices: Tensor | None
    """``(samples,)``, int64 on the host: positions in the data set; None where not known."""
    losses: Tensor
    """``(samples,)``, float32 on the device, detached; -inf where the target does not count; NaN
    stays NaN."""
    call: LossCall | None
    """What the loss function was given; None where the losses come from `training_step`."""
    batch: int
    """As Lightning counts."""


class SampleWatch:
    """Shows the losses of single samples, in every training batch.

    They are seen as they enter a loss function of torch's, see `sample_losses`. Where no call is
    seen, as within compiled modules, they are what `training_step` returns as ``losses`` or
    ``sample_losses``. Rows of a loss that are the positions of sequences are averaged over each
    sample. Nothing waits for the device.

    Args:
        take: Takes what was seen of each loss call, when the call has returned.
    """

    def __init__(self, take: Callable[[Seen], None]) -> None:
        self._take = take
        self._trainer: Any = None
        self._drawn: Drawn | None = None
        self._watch: _TrainingLosses | None = None
        self._is_automatic = True
        self._batch: int | None = None
        self._indices: Tensor | None = None
        self._content: Any = None
        self.seen = 0
        """Loss calls of the newest batch whose samples were told apart."""

    @property
    def indices(self) -> Tensor | None:
        """``(samples,)``: the positions of the newest batch in the data set, None if not known."""
        return self._indices

    @property
    def reason(self) -> str:
        """Why no loss call is seen, as the rest of a sentence; empty if it is not known."""
        is_blind = self._trainer is not None and self._watch is None
        return ", as a part of the module is compiled" if is_blind else ""

    def fit_start(self, trainer: Any, module: Any) -> None:
        """Begin, before the fit makes its loaders (``on_fit_start``)."""
        self.let_go()
        self._trainer, self._drawn = trainer, Drawn.join(trainer, self)
        self._is_automatic = bool(module.automatic_optimization)
        if not _is_compiled(module):
            self._watch = _TrainingLosses(trained_modules(module), self._show)

    def batch_start(self, batch: Any, batch_idx: int) -> None:
        """Look at a batch (``on_train_batch_start``)."""
        if self._drawn is None:
            return
        self._batch, self.seen = batch_idx, 0
        self._indices = self._drawn.positions(self._trainer)
        self._content = batch
        if self._watch is not None:
            self._watch.start()

    def pause(self) -> None:
        """Look away while backward runs (``on_before_backward``): what it recomputes is not new."""
        if self._watch is not None:
            self._watch.pause()

    def resume(self) -> None:
        """Look again (``on_after_backward``), where another forward pass may follow."""
        if self._watch is not None and not self._is_automatic:
            self._watch.resume()

    def batch_end(self, outputs: Any) -> None:
        """Look away, and at what `training_step` returned (``on_train_batch_end``)."""
        if self._watch is not None:
            self._watch.stop()
        self._content = None
        if self._batch is None:
            return
        if not self.seen and isinstance(outputs, Mapping):
            given = next((outputs[key] for key in KEYS if key in outputs), None)
            if isinstance(given, Tensor) and given.dim() == 1:
                self._report(given.detach().to(torch.float32), None)
        self._batch = None

    def let_go(self) -> None:
        """Detach everything. May be called at any time, and again."""
        if self._watch is not None:
            self._watch.stop()
        if self._drawn is not None:
            self._drawn.leave(self._trainer, self)
        self._trainer = self._drawn = self._watch = None
        self._batch = self._indices = self._content = None

    def _show(self, call: LossCall) -> None:
        losses = self._of_samples(call)
        if losses is not None and self._batch is not None:
            self._report(losses, call)

    def _report(self, losses: Tensor, call: LossCall | None) -> None:
        indices = self._indices
        is_known = indices is not None and len(indices) == len(losses)
        self.seen += 1
        assert self._batch is not None
        self._take(Seen(indices if is_known else None, losses, call, self._batch))

    def _of_samples(self, call: LossCall) -> Tensor | None:
        """Return the loss of each sample of the batch, None where they cannot be told apart."""
        found = sample_losses(call)
        if found is None:
            return None
        rows = len(call.input)
        samples = rows if self._indices is None else len(self._indices)
        if samples == rows:  # of large predictions each row is looked at, as each is a sample
            every_one = found.losses if found.every == 1 else losses_of_all(call)
            return None if every_one is None else every_one.detach().to(torch.float32)
        losses = _spread(found.losses.detach().to(torch.float32), found.every, rows)
        each = rows // max(1, samples)
        is_sequence = each * samples == rows and _has_sequences(self._content, samples, each)
        return _pooled(losses, samples) if is_sequence else None


def _has_sequences(batch: Any, samples: int, positions: int) -> bool:
    """Whether a tensor of the batch holds sequences of that length, or of one position more."""
    return any(
        x.dim() > 1 and len(x) == samples and x.shape[1] in (positions, positions + 1)
        for _, x in leaves(batch)
    )


def _spread(losses: Tensor, every: int, rows: int) -> Tensor:
    """Return losses of every n-th row at their places among all: ``(n,)`` -> ``(rows,)``."""
    if every == 1:
        return losses
    found = losses.new_full((rows,), -torch.inf)
    found[::every] = losses
    return found


def _pooled(losses: Tensor, samples: int) -> Tensor:
    """Return the mean over the rows of each sample that count: ``(rows,)`` -> ``(samples,)``."""
    of_samples = losses.view(samples, -1)
    counts = of_samples != -torch.inf
    total = of_samples.masked_fill(~counts, 0).sum(1)
    return (total / counts.sum(1)).masked_fill(~counts.any(1), -torch.inf)


class _TrainingLosses(LossWatch):
    """The same as in validation, of predictions that are trained."""

    _call = CallWatch._call


def _is_compiled(module: nn.Module) -> bool:
    """Whether something in a module is compiled, and would be again if its calls were looked at."""
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    return any(
        type(each).__name__ == "OptimizedModule"
        or getattr(each, "_compiled_call_impl", None) is not None
        for each in module.modules()
    )
