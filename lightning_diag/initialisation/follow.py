"""What follows each layer: seen in a pass, or read off the order of modules where that is sure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightning_diag.initialisation import words
from lightning_diag.initialisation.flow import Use
from lightning_diag.initialisation.slots import NORMS
from lightning_diag.initialisation.trace import Trace

_SKIPPED = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.PixelShuffle,
)
_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.Embedding, nn.RNNBase)


@dataclass(frozen=True)
class Followed:
    """What follows a layer."""

    by: str = ""
    """Name of the activation, or ``layer``, ``output`` and the like; empty if not known."""
    parameter: float | None = None
    is_normed: bool = False
    is_residual: bool = False
    is_sum_normed: bool = False
    is_hidden: bool = True
    """Whether another layer comes behind the activation."""
    is_tied: bool = False
    """Whether an embedding is the weight of another layer, too."""
    is_computed: bool = False
    """Whether a weight is made of parameters rather than one itself."""
    after: frozenset[str] = frozenset()
    """What what comes out of the activation goes through: ``dropout``, ``norm``, ``sum``."""
    use: Use | None = None
    """The first call, if it was seen."""

    @property
    def text(self) -> str:
        """What to call it."""
        parts = ["norm"] if self.is_normed else []
        parts += ["residual sum"] if self.is_residual else []
        is_last = self.is_residual and (self.is_sum_normed or self.by in ("layer", "output"))
        return ", ".join([*parts, *([] if is_last or not self.by else [self.by])]) or "not known"

    @property
    def is_output(self) -> bool:
        """Whether the layer is the last one."""
        return self.by in ("output", "loss", "softmax")


def followers_seen(trace: Trace) -> dict[str, Followed]:
    """Return what follows each layer that a trace has seen, by the name of its weight."""
    uses: dict[str, list[Use]] = {}
    for use in trace.uses:
        uses.setdefault(use.weight, []).append(use)
    return {name: _joined(own) for name, own in uses.items()}


def _joined(uses: list[Use]) -> Followed:
    """Return what follows a layer that may be called several times."""
    first = next((use for use in uses if use.function not in words.EMBEDDINGS), uses[0])
    return Followed(
        by=first.follower,
        parameter=first.parameter,
        is_normed=first.is_normed,
        # What a loop adds to itself is no residual branch.
        is_residual=first.is_residual and len(uses) == 1,
        is_sum_normed=first.is_sum_normed,
        is_hidden=first.is_hidden,
        is_tied=len({use.function in words.EMBEDDINGS for use in uses}) > 1,
        is_computed=any(use.is_computed for use in uses),
        after=frozenset(first.after),
        use=first,
    )


def followers_by_order(module: nn.Module) -> dict[str, Followed]:
    """Return what follows layers in an `nn.Sequential`, the only order that modules tell surely.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
        >>> {name: found.text for name, found in followers_by_order(net).items()}
        {'0.weight': 'norm, relu', '3.weight': 'output'}
    """
    found: dict[str, Followed] = {}
    for path, owner in module.named_modules():
        if type(owner) is nn.Sequential and not _is_inner(module, path):
            chain = list(_flat(path, owner))
            for i, (name, layer) in enumerate(chain):
                if isinstance(layer, _LAYERS):
                    known = _next([each for _, each in chain[i + 1 :]], is_whole=not path)
                    found.setdefault(f"{name}.weight", known)
    return found


def _is_inner(module: nn.Module, path: str) -> bool:
    parent = path.rpartition(".")[0]
    return bool(path) and type(module.get_submodule(parent)) is nn.Sequential


def _flat(path: str, chain: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in chain.named_children():
        full = f"{path}.{name}" if path else name
        if type(child) is nn.Sequential:
            yield from _flat(full, child)
        else:
            yield full, child


def _next(behind: list[nn.Module], *, is_whole: bool) -> Followed:
    is_normed = False
    for i, each in enumerate(behind):
        if isinstance(each, NORMS):
            is_normed = True
        elif type(each) in words.MODULES:
            name, parameter = _named(each)
            is_hidden = any(isinstance(later, _LAYERS) for later in behind[i + 1 :])
            return Followed(name, parameter, is_normed, is_hidden=is_hidden)
        elif isinstance(each, _LAYERS):
            return Followed("gates" if isinstance(each, nn.RNNBase) else "layer", None, is_normed)
        elif not isinstance(each, _SKIPPED):
            return Followed(is_normed=is_normed)
    return Followed("output" if is_whole else "", None, is_normed, is_hidden=False)


def _named(activation: nn.Module) -> tuple[str, float | None]:
    name = words.MODULES[type(activation)]
    if isinstance(activation, nn.PReLU):
        return "leaky_relu", float(activation.weight.detach().mean())
    if isinstance(activation, nn.RReLU):
        return "leaky_relu", (activation.lower + activation.upper) / 2
    if isinstance(activation, nn.Hardtanh) and not isinstance(activation, nn.ReLU6):
        is_relu6 = (activation.min_val, activation.max_val) == (0.0, 6.0)
        return ("relu6" if is_relu6 else name), None
    parameter = getattr(activation, "negative_slope", getattr(activation, "alpha", None))
    return name, None if parameter is None else float(parameter)


def passed(
    module: nn.Module,
    inputs: tuple[Any, ...],
    run: Callable[[], Any] | None,
    trace: Trace,
) -> None:
    """Run a module within a trace, and leave buffers and torch's random states as they were.

    Raises:
        ValueError: If the module cannot be run like this.
    """
    with unchanged(module), torch.no_grad(), _eager():
        try:
            with trace:
                trace.end(run() if run is not None else module(*inputs))
        except Exception as error:
            raise ValueError(
                f"`module` cannot be run on the example inputs: {type(error).__name__}: {error}"
            ) from error


def _eager() -> AbstractContextManager[Any]:
    """Run compiled modules as they are written, within."""
    is_there = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("force_eager") if is_there else nullcontext()


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Put buffers and torch's random states back when it is left."""
    buffers = [
        (owner, name, buffer, buffer.detach().clone())
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    parameters = list(module.parameters())
    devices = sorted({each.device.index or 0 for each in parameters if each.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for owner, name, buffer, saved in buffers:
                buffer.copy_(saved)
                owner._buffers[name] = buffer
