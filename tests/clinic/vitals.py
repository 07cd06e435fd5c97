"""What is true of a model on its whole training set, measured without `lightning_diag`."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from .data import Data
from .learner import Learner, score

_FLAT: dict[type[nn.Module], float] = {nn.Tanh: 2.65, nn.Sigmoid: 5.3}
"""Where the slope is below 2 % of its largest."""


@dataclass
class Vitals:
    """A model at one moment."""

    loss: float = math.nan
    """On the training set, in training mode."""
    eval_loss: float = math.nan
    """The same in evaluation mode."""
    batch_loss: float = math.nan
    """In training mode, over batches of the recipe's size; NaN without batch norm."""
    score: float = math.nan
    """Accuracy or R², on the training set, in evaluation mode."""
    held_score: float = math.nan
    """The same on held-out data as the run sees them."""
    lowest_recall: float = math.nan
    """Of all classes, on held-out data; NaN where there are none."""
    lowest_train_recall: float = math.nan
    """The same on the training set."""
    finite: bool = True
    """Whether all weights are finite."""
    gradient: dict[str, float | None] = field(default_factory=dict)
    """Root mean square by weight in forward order; None where there is none."""
    batch_gradient: dict[str, float | None] = field(default_factory=dict)
    """The same of one batch of the recipe's size, with batch norm, which such a batch decides."""
    dead: dict[str, float] = field(default_factory=dict)
    """Share of units of a ReLU that no sample of the training set switches on."""
    saturated: dict[str, float] = field(default_factory=dict)
    """Share of the inputs of a tanh or sigmoid where it is flat."""
    offset: float = 0.0
    """Least mean over standard deviation of what the hidden sigmoids give out."""
    std: dict[str, float] = field(default_factory=dict)
    """Spread over samples of what a linear or convolution layer gives out."""
    idle: float = 0.0
    """Share of batches of the recipe's size from which some weight matrix gets no gradient."""
    same: float = 0.0
    """Share of samples that get exactly the same answer, the most frequent one."""
    forgotten: float = math.nan
    """Gradient at the last position of a sequence over that at the first."""
    spread: float = math.nan
    """Standard deviation over samples of the predictions, over their root mean square."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @property
    def depth_ratio(self) -> float:
        """Gradient of the first weights over the largest one, NaN when there are fewer than 2."""
        return _first_over_largest(self.gradient)

    @property
    def batch_depth_ratio(self) -> float:
        """The same for `batch_gradient`."""
        return _first_over_largest(self.batch_gradient)


def _first_over_largest(gradient: dict[str, float | None]) -> float:
    known = [g for g in gradient.values() if g is not None]
    if len(known) < 2:
        return math.nan
    return known[0] / max(known) if max(known) else 0.0


def measure(learner: Learner, data: Data) -> Vitals:
    """Measure a model on all its training data; the model stays as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = copy.deepcopy(learner)
        found = Vitals()
        found.finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
        # First: in training mode batch norm forgets what it had learned.
        _evaluate(model, data, found)
        model.train()
        _note_batches(model, data, found)
        hooks = _listen(model.net, found)
        x = data.x.clone().requires_grad_(data.x.is_floating_point())
        out = model(x)
        for hook in hooks:
            hook.remove()
        loss = model.criterion(out, data.y)
        found.loss = float(loss)
        found.gradient = _gradients(model, loss)
        if x.dim() == 3 and x.requires_grad and loss.requires_grad:
            (by_time,) = torch.autograd.grad(model.criterion(model(x), data.y), [x])
            by_time = by_time.square().mean((0, 2)).sqrt()
            found.forgotten = float(by_time[-1] / by_time[0].clamp(min=1e-30))
        _note_spread(out, found)
        if _has_batch_norm(model):
            size = max(2, model.recipe.batch_size)
            of_batch = model.criterion(model(data.x[:size]), data.y[:size])
            found.batch_gradient = _gradients(model, of_batch)
        found.idle = _idle(model, data)
        return found


def _idle(model: Learner, data: Data) -> float:
    size = max(2, model.recipe.batch_size)
    starts = range(0, min(len(data.x), 20 * size) - size + 1, size)
    idle = []
    for cut in (slice(start, start + size) for start in starts):
        gradient = _gradients(model, model.criterion(model(data.x[cut]), data.y[cut]))
        idle.append(any(g is None or g == 0 for g in gradient.values()))
    return fmean(idle) if idle else 0.0


def _has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in model.modules())


def _listen(net: nn.Module, found: Vitals) -> list[Any]:
    def hear(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, out: Tensor) -> None:
            if isinstance(module, nn.ReLU):
                fired = (out.detach() > 0).flatten(2).any(2) if out.dim() == 4 else out > 0
                found.dead[name] = 1 - float(fired.flatten(0, -2).any(0).float().mean())
            elif (limit := _FLAT.get(type(module))) is not None:
                flat = inputs[0].detach().abs() > limit
                found.saturated[name] = float(flat.float().mean())
                off = float(out.detach().mean().abs() / out.detach().std().clamp(min=1e-9))
                found.offset = min(found.offset or math.inf, off)
            else:
                found.std[name] = float(out.detach().float().std(0).mean())

        return module.register_forward_hook(hook)

    kinds: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Linear, nn.Conv2d, *_FLAT)
    return [hear(name, m) for name, m in net.named_modules() if isinstance(m, kinds)]


def _gradients(model: Learner, loss: Tensor) -> dict[str, float | None]:
    weights = {n: p for n, p in model.named_parameters() if p.dim() >= 2 and p.requires_grad}
    if not loss.requires_grad:
        return dict.fromkeys(weights)
    gradients: Sequence[Tensor | None] = torch.autograd.grad(
        loss, list(weights.values()), allow_unused=True
    )
    return {
        name: None if g is None else float(g.square().mean().sqrt())
        for name, g in zip(weights, gradients, strict=True)
    }


@torch.no_grad()
def _note_batches(model: Learner, data: Data, found: Vitals) -> None:
    if _has_batch_norm(model):
        size = min(model.recipe.batch_size, len(data.x))
        starts = range(0, min(len(data.x), 400) - size + 1, size)
        cuts = [slice(start, start + size) for start in starts]
        found.batch_loss = fmean(
            float(model.criterion(model(data.x[cut]), data.y[cut])) for cut in cuts
        )


def _note_spread(out: Tensor, found: Vitals) -> None:
    seen = out.detach().float()
    if len(seen) > 1:
        size = float(seen.square().mean().sqrt())
        found.spread = float(seen.std(0).mean()) / size if size else 0.0
        _, counts = torch.unique(seen.flatten(1), dim=0, return_counts=True)
        found.same = float(counts.max()) / len(seen)


@torch.no_grad()
def _evaluate(model: Learner, data: Data, found: Vitals) -> None:
    model.eval()
    out = model(data.x)
    found.eval_loss = float(model.criterion(out, data.y))
    found.score = float(score(out, data.y, data.kind))
    held = model(data.held_x)
    found.held_score = float(score(held, data.held_y, data.kind))
    if data.kind == "classes":
        found.lowest_recall = _lowest_recall(held, data.held_y)
        found.lowest_train_recall = _lowest_recall(out, data.y)


def _lowest_recall(out: Tensor, y: Tensor) -> float:
    right = out.argmax(1) == y
    return min(float(right[y == c].float().mean()) for c in y.unique())
