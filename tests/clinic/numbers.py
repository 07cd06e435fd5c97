"""`Numbers`: what the published rules look at, recorded without `lightning_diag`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from .learner import score

_RANGES: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-9.4999, 9.4999),
    nn.Sigmoid: (-23.0, 16.99999),
}
"""Where SageMaker Debugger calls an input saturated."""


@dataclass
class Look:
    """One watched step."""

    gradient: dict[str, float] = field(default_factory=dict)
    """Mean absolute gradient, by weight."""
    zeros: dict[str, float] = field(default_factory=dict)
    """Share of exact zeros in it."""
    gradient_range: dict[str, float] = field(default_factory=dict)
    """From its 5th percentile to its 95th."""
    ratio: dict[str, float] = field(default_factory=dict)
    """Norm of the change over the norm, by weight."""
    silent: dict[str, float] = field(default_factory=dict)
    """Share of units of a ReLU active for less than 1 % of the batch."""
    flat: dict[str, float] = field(default_factory=dict)
    """Share of units of a tanh or sigmoid that are out of range for 99 % of the batch."""
    input_variance: dict[str, float] = field(default_factory=dict)
    """Of what an activation function is given."""
    size: dict[str, float] = field(default_factory=dict)
    """Mean absolute output, by layer."""
    largest_weight: float = 0.0
    nonfinite: bool = False
    input_offset: float = 0.0
    """Absolute mean of a batch of images."""
    accuracy: float | None = None
    answers: list[tuple[int, int]] = field(default_factory=list)
    """Target and answer of each sample."""


class Numbers(pl.Callback):
    """Looks at every n-th step."""

    def __init__(self, every: int) -> None:
        self.every, self.looks = every, [Look()]
        self._hooks: list[Any] = []
        self._is_on = False
        self._before: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.looks = []
        functions: tuple[type[nn.Module], ...] = (
            nn.ReLU,
            nn.LeakyReLU,
            nn.GELU,
            nn.SiLU,
            *_RANGES,
        )
        for name, module in pl_module.named_modules():
            if isinstance(module, functions):
                self._hooks.append(module.register_forward_hook(self._hear_function(name)))
            elif isinstance(module, (nn.Linear, nn.Conv2d)):
                self._hooks.append(module.register_forward_hook(self._hear_layer(name)))

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _hear_function(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
            if not self._is_on:
                return
            x, look = inputs[0].detach(), self.looks[-1]
            look.input_variance[name] = float(x.var())
            if isinstance(module, nn.ReLU):
                share = (out.detach() > 0).float().mean(0)
                look.silent[name] = float((share < 0.01).float().mean())
            elif type(module) in _RANGES:
                low, high = _RANGES[type(module)]
                outside = ((x < low) | (x > high)).float().mean(0)
                look.flat[name] = float((outside > 0.99).float().mean())

        return hook

    def _hear_layer(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
            if self._is_on:
                self.looks[-1].size[name] = float(out.detach().abs().mean())
                self.looks[-1].nonfinite |= not bool(torch.isfinite(out).all())

        return hook

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._is_on = batch_idx % self.every == 0
        if not self._is_on:
            return
        look, (x, _) = Look(), batch
        self.looks.append(look)
        if x.is_floating_point() and pl_module.recipe.net in ("cnn", "resnet"):
            look.input_offset = abs(float(x.mean()))
        look.largest_weight = max(float(p.detach().abs().max()) for p in pl_module.parameters())

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self._is_on:
            return
        look = self.looks[-1]
        self._before = {}
        for name, p in pl_module.named_parameters():
            if p.dim() < 2 or p.grad is None:
                continue
            size = p.grad.detach().float().abs()
            low, high = torch.quantile(
                p.grad.float().flatten()[:100_000], torch.tensor([0.05, 0.95])
            )
            look.gradient[name] = float(size.mean())
            look.zeros[name] = float((size == 0).float().mean())
            look.gradient_range[name] = float(high - low)
            look.nonfinite |= not bool(torch.isfinite(size).all())
            self._before[name] = p.detach().clone()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._is_on:
            return
        self._is_on = False
        look = self.looks[-1]
        for name, p in pl_module.named_parameters():
            if name in self._before:
                before = self._before[name]
                look.ratio[name] = float((p.detach() - before).norm() / (before.norm() + 1e-9))
        self._note_answers(pl_module, batch, look)

    @torch.no_grad()
    def _note_answers(self, pl_module: Any, batch: Any, look: Look) -> None:
        if pl_module.kind != "classes" or pl_module.recipe.net == "adversaries":
            return
        x, y = batch
        with torch.random.fork_rng():
            pl_module.eval()
            out = pl_module(x)
            pl_module.train()
        look.accuracy = float(score(out, y, "classes"))
        look.answers = list(zip(y.tolist(), out.argmax(1).tolist(), strict=True))
