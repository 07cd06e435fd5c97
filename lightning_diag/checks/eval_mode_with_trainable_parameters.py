"""`EvalModeWithTrainableParameters`: layers that are about to train in evaluation mode (P48)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.measure.modes import Trained, mode_watches
from lightning_diag.probe.places import named_parameters, trained_modules
from lightning_diag.wording import listing


@dataclass(frozen=True)
class EvalModeWithTrainableParameters(Check):
    """Trained layers in evaluation mode: without dropout, and with statistics that stand still.

    What it sees:
        Modes in a training step on a copy, after the module's own hooks for the start of training:
        norms with running statistics, dropout, and layers with dropout of their own that are in
        evaluation mode, with most of the parameters around them trained. A module that was put so
        alone, on purpose, does not count, nor do frozen backbones and those with adapters. If only
        layers without a mode of their own are concerned, it is a `note`.

    Why it matters:
        Dropout does nothing, and batch norm divides by statistics that no longer fit, or that were
        never taken. Lightning leaves the mode as it is when the fit begins, and pretrained models
        often come in evaluation mode (P48).

    What to do:
        Call `.train()` on the module before the fit, or in `on_train_epoch_start`.

    References:
        PyTorch documentation, nn.Module.train.
        Lightning 2.2 changelog: the Trainer keeps the mode of each module.
    """

    code: ClassVar[str] = "eval-mode-with-trainable-parameters"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("optimizers", "trial")

    share: float = 0.5
    """Share of the trained parameters in evaluation mode from which on it is noted, 0 to 1, though
    nothing that depends on the mode was seen. Our choice: then it is no detail."""

    def __post_init__(self) -> None:
        self._require("share", least=0.0, most=1.0)

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        module = subject.stepped.module
        held = {n for n, each in subject.parameters.items() if each.trainable and each.groups}
        trained = Trained(p for name, _, p in named_parameters(module) if name in held)
        known = trained_modules(module)
        amiss = [p for p, w in mode_watches(module, known).items() if w.is_amiss(trained)]
        layers = [m for m in module.modules() if id(m) in known and _has_parameters(m)]
        share = trained.share_in_eval(layers)
        if not amiss and not 0 < share >= self.share:
            return []
        places = amiss or [known[id(m)] for m in layers if not m.training]
        what = (
            f"{listing(amiss)} and what is trained around {'it' if len(amiss) == 1 else 'them'}, "
            "so dropout is off and running statistics stand still"
            if amiss
            else f"{share:.0%} of the trained parameters, which changes nothing as long as no "
            "dropout or batch norm is among them"
        )
        return self.found(
            "suspect" if amiss else "note",
            f"In evaluation mode at the first training step: {what} ({len(places)} modules).",
            "Call `.train()` on it before the fit, or in `on_train_epoch_start`.",
            value=len(amiss) if amiss else share,
            threshold=0.0 if amiss else self.share,
            places=places,
        )


def _has_parameters(module: object) -> bool:
    return next(iter(module.parameters(recurse=False)), None) is not None  # type: ignore[attr-defined]
