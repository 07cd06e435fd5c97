"""How the signal and its gradient change from layer to layer, in one pass of a real batch (W7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.initialisation.calls import tensors_in
from lightning_diag.initialisation.flow import Use
from lightning_diag.initialisation.follow import Followed, followers_seen, unchanged
from lightning_diag.initialisation.trace import Trace
from lightning_diag.measure.moments import moments


@dataclass(frozen=True)
class Passage:
    """One call of a layer: what went in, what came out, and what comes back."""

    weight: str
    """Name of its weight."""
    function: str
    followed: Followed
    """What follows the layer."""
    depth: int
    """Layers up to it, itself included."""
    input_std: float
    """Root mean square of what goes in."""
    std: float
    """Root mean square of what comes out, before any norm or activation."""
    spread: float | None
    """How far what comes out differs from sample to sample: RMS over features of the standard
    deviation over samples. None with a single sample."""
    input_spread: float | None
    """The same of what goes in."""
    gradient: float | None
    """Root mean square of the loss's gradient with regard to what comes out; None if none came."""


def propagate(
    module: nn.Module, *inputs: Any, run: Callable[[], Any] | None = None
) -> list[Passage]:
    """Measure signal and gradient at each call of a layer, in the order of the calls.

    The gradient is that of the loss, if the module or `run` returns a single number, else of a
    random projection of the output. Layers that work inside of one fused function (recurrent ones,
    the input of attention) are not seen. Weights, gradients, buffers and torch's random states are
    as before.

    Args:
        module: Any; in the mode that it is in.
        inputs: What it is called with.
        run: Runs it instead, such as ``lambda: module.training_step(batch, 0)``.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        >>> for layer in net:
        ...     _ = layer.weight.data.copy_(2 * torch.eye(4))
        >>> [(p.weight, p.std / p.input_std) for p in propagate(net, torch.ones(2, 4))]
        [('0.weight', 2.0), ('1.weight', 2.0)]

    Cost:
        One forward and one backward pass.
    """
    watch = SignalWatch(module)
    with unchanged(module), torch.enable_grad():
        with watch:
            output = run() if run is not None else module(*inputs)
            watch.end(output)
        target = _number(output)
        if target is not None:
            watch.back(module, target)
    return watch.passages()


def _number(output: Any) -> Tensor | None:
    """Return what is differentiated."""
    outputs = [x for x in tensors_in(output) if x.requires_grad]
    if len(outputs) >= 1 and outputs[0].numel() == 1:
        return outputs[0].sum()
    if isinstance(output, dict) and isinstance(output.get("loss"), Tensor):
        loss: Tensor = output["loss"]
        return loss.sum() if loss.requires_grad else None
    parts = [(x * torch.randn_like(x)).sum() for x in outputs]
    return torch.stack(parts).sum() if parts else None


@dataclass
class _Seen:
    use: Use
    input_std: float
    std: float
    spread: float | None
    input_spread: float | None
    gradient: float | None = None

    def note(self, gradient: Tensor) -> None:
        self.gradient = _size(gradient)


class SignalWatch(Trace):
    """A trace that measures what goes into layers, what comes out, and what comes back."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._seen: list[_Seen] = []

    def layer(
        self, use: Use, x: Tensor, weight: Tensor, output: Tensor, again: Callable[[], Tensor]
    ) -> Tensor:
        """Measure a call, and the gradient when it comes."""
        with torch.no_grad():
            seen = _Seen(use, _size(x), _size(output), _spread(output), _spread(x))
        self._seen.append(seen)
        if output.requires_grad:
            # A hook, since an in-place activation may overwrite what the tensor stands for.
            output.register_hook(seen.note)
        return output

    def back(self, module: nn.Module, target: Tensor) -> dict[str, float]:
        """Go back from a number; return the RMS gradient of each parameter that it reaches.

        Gradients that parameters hold stay as they are.
        """
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not named:
            return {}
        found: Any = torch.autograd.grad(target, [p for _, p in named], allow_unused=True)
        pairs = zip(named, found, strict=True)
        return {name: _size(grad) for (name, _), grad in pairs if grad is not None}

    def passages(self) -> list[Passage]:
        """Return what was seen, in the order of the calls."""
        known = followers_seen(self)
        return [
            Passage(
                seen.use.weight,
                seen.use.function,
                known[seen.use.weight],
                seen.use.depth,
                seen.input_std,
                seen.std,
                seen.spread,
                seen.input_spread,
                seen.gradient,
            )
            for seen in self._seen
        ]


def _size(x: Tensor) -> float:
    found = moments(x)
    return (float(found.squares) / found.count) ** 0.5 if found.count else 0.0


def _spread(output: Tensor) -> float | None:
    if output.ndim < 2 or output.shape[0] < 2 or not output.numel():
        return None
    x = output.detach().float()
    spread: float = float(x.var(0).mean()) ** 0.5
    return spread
