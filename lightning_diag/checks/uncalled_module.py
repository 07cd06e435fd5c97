"""`UncalledModule`: dropout and norms that the module has and never calls."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from lightning_diag.checks.base import Check
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.probe.places import named_modules
from lightning_diag.wording import listing


@dataclass(frozen=True)
class UncalledModule(Check):
    """Dropout or a norm that the module holds, and that no training step calls.

    What it sees:
        Training steps on a copy, and which modules ran: dropout and norms without parameters that
        never did, in layers that are in training mode. What has parameters is told by the gradient
        that misses it. Others, such as a softmax, may be there for prediction.

    Why it matters:
        The network is not the one that was meant: it is not regularised, or not normalised.

    What to do:
        Call it in `forward`, or remove it.

    References:
        PyTorch documentation, nn.Module.
    """

    code: ClassVar[str] = "uncalled-module"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    steps: int = 4
    """Steps none of which may call it, at least 1; one is taken where that calls all. Our choice: a
    note may be wrong where blocks are dropped at random."""

    def __post_init__(self) -> None:
        self._require("steps", least=1, unit="step")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        called = subject.trial.called
        known = [path for path, module in named_modules(subject.module) if _counts(module)]
        idle = [path for path in known if path not in called and _is_in_use(path, called)]
        if idle:
            for later in subject.more_trials(self.steps - 1):
                idle = [path for path in idle if path not in later.called]
        if not idle:
            return []
        verb = "is" if len(idle) == 1 else "are"
        return self.found(
            "note",
            f"{listing(idle)} {verb} never called in {self.steps} training steps.",
            "Call it in `forward`, or remove it.",
            value=len(idle),
            threshold=0,
            places=idle,
            window=self.steps,
        )


def _is_in_use(path: str, called: Collection[str]) -> bool:
    """Return whether anything of the network that holds a module runs: averaged copies do not."""
    home = path.rpartition(".")[0]
    return not home or any(each == home or each.startswith(f"{home}.") for each in called)


def _counts(module: nn.Module) -> bool:
    is_dropout = isinstance(module, _DropoutNd) and module.p > 0
    is_norm = isinstance(module, (_NormBase, nn.LayerNorm))
    has_parameters = next(module.parameters(), None) is not None
    return module.training and not has_parameters and (is_dropout or is_norm)
