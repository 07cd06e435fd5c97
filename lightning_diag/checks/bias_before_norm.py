"""`BiasBeforeNorm`: biases that the batch norm behind them takes away again."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lightning_diag.checks.base import Check, Level
from lightning_diag.checks.subject import Subject
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.probe.places import named_modules
from lightning_diag.wording import listing


@dataclass(frozen=True)
class BiasBeforeNorm(Check):
    """Linear and convolution layers with a bias whose output goes straight into a batch norm.

    What it sees:
        A training step on a copy: layers with a trainable bias whose output, the very tensor, is
        what a batch or instance norm gets that takes its statistics from the batch.

    Why it matters:
        The norm subtracts the mean, and the bias with it: its gradient is zero but for rounding,
        and it takes memory and time for nothing. It does no harm beyond that.

    What to do:
        Make the layer with `bias=False`; the norm has a bias of its own.

    References:
        Ioffe and Szegedy, Batch normalization, 2015, arXiv:1502.03167, section 3.2.
    """

    code: ClassVar[str] = "bias-before-norm"
    level: ClassVar[Level] = "full"
    family: ClassVar[str] = "parameters"
    needs: ClassVar[tuple[str, ...]] = ("trial",)

    least: int = 1
    """Layers from which on it counts, at least 1 (our choice: it is a note)."""

    def __post_init__(self) -> None:
        self._require("least", least=1, unit="layer")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        twin = subject.copy()
        biased = {id(m): path for path, m in named_modules(twin.module) if _has_bias(m)}
        norms = [m for m in twin.module.modules() if _takes_statistics(m)]
        if not biased or not norms:
            return []
        outputs: list[tuple[Any, str]] = []  # kept, so that no other tensor gets their place
        found: dict[str, None] = {}

        def leaves(module: nn.Module, _: Any, output: Any) -> None:
            outputs.append((output, biased[id(module)]))

        def enters(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            found.update((path, None) for output, path in outputs if output is inputs[0])

        with ExitStack() as hooks:
            for module in twin.module.modules():
                if id(module) in biased:
                    hooks.callback(module.register_forward_hook(leaves).remove)
            for norm in norms:
                hooks.callback(norm.register_forward_pre_hook(enters).remove)
            twin.step(twin.moved(subject.batch()))
        if len(found) < self.least:
            return []
        places = list(found)
        return self.found(
            "note",
            f"The bias of {listing(places)} ({len(places)} of {len(biased)} layers with a bias) is "
            "subtracted again by the norm behind it.",
            "Make the layer without a bias, as `torch.nn.Conv2d(bias=False)`: the norm has one.",
            value=len(places),
            threshold=0,
            places=places,
            window=len(biased),
        )


def _has_bias(module: nn.Module) -> bool:
    bias = getattr(module, "bias", None)
    is_layer = isinstance(module, (nn.Linear, _ConvNd))
    return is_layer and isinstance(bias, Tensor) and bias.requires_grad


def _takes_statistics(module: nn.Module) -> bool:
    """Return whether a norm subtracts the mean of each channel of what it gets."""
    if not isinstance(module, _NormBase):
        return False
    return module.training or not module.track_running_stats
