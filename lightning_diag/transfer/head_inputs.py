"""What enters the head of a module while it is trained: the features that a backbone gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag._compat import Callback

MOST_SAMPLES = 2000
"""That a linear probe is given. Our choice: it takes about a second with 2,000 features."""
MOST_FEATURES = 8192
"""Of a sample, likewise."""


class HeadInputs(Callback):
    """Keeps what enters the head in the first epoch, with the targets of the same samples.

    Only the first epoch: later ones show the same samples again, and a probe would be asked for
    what it has seen.

    Args:
        head: Names of the head's modules that hold parameters; what enters the first of them that
            is called is kept.
        targets: Returns the targets of a batch.
    """

    def __init__(self, head: Sequence[str], targets: Callable[[Any], Any]) -> None:
        super().__init__()
        self.problem = ""
        self._head, self._targets = head, targets
        self._inputs: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._seen: Tensor | None = None
        self._handles: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at what enters the head."""
        for name in self._head:
            hook = pl_module.get_submodule(name).register_forward_pre_hook(self._enter)
            self._handles.append(hook)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a batch."""
        seen, self._seen = self._seen, None
        if trainer.current_epoch or self.problem or self._count() >= MOST_SAMPLES:
            return
        labels = self._targets(batch)
        self.problem = _why_no_probe(seen, labels)
        if not self.problem and seen is not None:
            self._inputs.append(seen)
            self._labels.append(labels.detach().cpu())

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Look no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def taken(self) -> tuple[Tensor, Tensor] | None:
        """Return features and targets; None if there are none, for which `problem` says why."""
        if self.problem or not self._inputs:
            self.problem = self.problem or "no batch was seen"
            return None
        return torch.cat(self._inputs)[:MOST_SAMPLES], torch.cat(self._labels)[:MOST_SAMPLES]

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._seen is None and inputs and isinstance(inputs[0], Tensor):
            self._seen = inputs[0].detach().flatten(1).float().cpu()

    def _count(self) -> int:
        return sum(len(each) for each in self._labels)


def _why_no_probe(seen: Tensor | None, labels: Any) -> str:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
        return "batches have no class numbers: give `targets`"
    if seen is None:
        return "no tensor entered a module of the head"
    if len(seen) != len(labels):
        return f"{len(seen)} rows entered the head for {len(labels)} targets"
    if seen.shape[1] > MOST_FEATURES:
        return f"{seen.shape[1]} features enter the head, more than {MOST_FEATURES}"
    return "" if bool(torch.isfinite(seen).all()) else "features are not finite"


def second_of(batch: Any) -> Any:
    """Return the second part of a batch, where most keep the targets; None if there is none."""
    return batch[1] if isinstance(batch, (list, tuple)) and len(batch) > 1 else None
