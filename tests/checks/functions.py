"""Functions with a backward that is right, wrong, or something else on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from checks.subjects import Plain, mlp


def run(function: Any, *args: Tensor) -> Tensor:
    """Return what a function makes of tensors."""
    out: Tensor = function.apply(*args)
    return out


class Squared(torch.autograd.Function):
    """A square, with its own backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the square."""
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return what autograd would."""
        (x,) = ctx.saved_tensors
        return 2 * x * gradient


class Halved(Squared):
    """Forgets the factor 2."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return half of the gradient."""
        return ctx.saved_tensors[0] * gradient


class Turned(Squared):
    """Has the wrong sign."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the opposite of the gradient."""
        return -2 * ctx.saved_tensors[0] * gradient


class Masked(torch.autograd.Function):
    """A leaky ReLU whose backward has another slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the activation."""
        ctx.save_for_backward(x)
        return torch.where(x > 0, x, 0.1 * x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient of another slope."""
        (x,) = ctx.saved_tensors
        return torch.where(x > 0, gradient, 0.2 * gradient)


class Layer(torch.autograd.Function):
    """A linear layer of a square matrix, written in the way that has no context in its forward."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        """Return the product."""
        return x @ weight.t()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return what autograd would."""
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.t() @ x


class Transposed(Layer):
    """Has transposed the weight's gradient."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return a gradient of the right shape."""
        x, weight = ctx.saved_tensors
        return gradient @ weight, x.t() @ gradient


class Rounded(torch.autograd.Function):
    """A straight-through estimator of rounding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return tenths."""
        return (10 * x).round() / 10

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient as if nothing had been rounded."""
        return gradient


class Reversed(torch.autograd.Function):
    """A gradient reversal layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the input."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the opposite."""
        return -gradient


class Clamped(torch.autograd.Function):
    """A clamp that is passed straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return what lies within bounds."""
        return x.clamp(-0.1, 0.1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return the gradient as if there were no bounds."""
        return gradient


class Drawn(torch.autograd.Function):
    """Writes into its input, and draws random numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the input with noise as a factor."""
        noise = 1 + 0.1 * torch.rand_like(x)
        ctx.save_for_backward(noise)
        ctx.mark_dirty(x)
        return x.mul_(noise)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Return what autograd would."""
        return ctx.saved_tensors[0] * gradient


class Through(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        out: Tensor = self.second(self.between(torch.tanh(self.first(x))))
        return out


class Matrix(nn.Module):
    """Scores by way of a matrix that a function takes."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(8, 8) / 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        out: Tensor = self.head(self.function.apply(x, self.weight).tanh())
        return out


class Teacher(Plain):
    """Learns what it said a moment ago, without gradients, and follows itself slowly."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.slow = nn.Linear(8, 3)
        self.slow.requires_grad_(False)
        self.center: Tensor
        self.register_buffer("center", torch.zeros(3))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return a loss with several kinds of what autograd is not told."""
        x, y = batch
        scores = self.net(x)
        with torch.no_grad():
            target = self.net(x + 0.1).softmax(1)
            self.slow.weight.mul_(0.9).add_(0.1 * self.net[0].weight[:3, :8])
            self.center.mul_(0.9).add_(0.1 * scores.mean(0))
        weight = 1 / scores.square().mean().item()
        hard = scores.sigmoid().round()
        straight = scores.sigmoid() + (hard - scores.sigmoid()).detach()
        own = -(target * (scores - self.center).log_softmax(1)).sum(1).mean()
        best = functional.one_hot(scores.argmax(1), 3).to(scores)
        self.seen = getattr(self, "seen", 0) + 1
        total = weight * functional.cross_entropy(scores, y) + own + straight.square().mean()
        total = total + (best * scores).sum() / self.seen
        total = total + self.slow(x).square().mean()
        return torch.as_tensor(total)


class Written(Plain):
    """Changes a tensor behind autograd's back."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of scores that were doubled where autograd does not see it."""
        scores = self.net(batch[0])
        scores.data.mul_(2)
        return functional.cross_entropy(scores, batch[1])


class Penalised(Plain):
    """Adds a multiple of the squared weights to half of its loss."""

    def __init__(self, factor: float) -> None:
        super().__init__(mlp())
        self.factor = factor

    def penalty(self, batch: Any) -> Any:
        """Return what is added."""
        return self.factor * sum(p.square().sum() for p in self.parameters())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss with its penalty."""
        total: Tensor = 0.5 * super().training_step(batch, batch_idx) + self.penalty(batch)
        return total


class Forgetful(nn.Module):
    """Gives all samples the scores of the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        """Return the same scores for all."""
        out: Tensor = self.net(x[:1]).expand(len(x), -1)
        return out


def idle(parameters: Any) -> Any:
    """Return an optimizer that moves nothing."""
    return torch.optim.SGD(parameters, lr=1e-9)


def cast(x: Tensor) -> Tensor:
    """Return a tensor by way of lower precision and autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        half = x.to(torch.bfloat16) @ torch.eye(x.shape[1], dtype=torch.bfloat16)
        return half.float() + torch.zeros(1, dtype=torch.float32)


def again(x: Tensor) -> Tensor:
    """Return a tensor by way of a checkpoint."""
    out: Tensor = checkpoint(torch.sigmoid, x, use_reentrant=True)
    return out


def clipped(x: Tensor) -> Tensor:
    """Return a tensor whose gradient is clipped by a hook."""
    x.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return x


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "square": Squared.apply,
    "written into": lambda x: run(Drawn, x.clone()),
    "straight through": Rounded.apply,
    "reversed": Reversed.apply,
    "detached": lambda x: x * x.detach(),
    "straight by detaching": lambda x: x + ((10 * x).round() / 10 - x).detach(),
    "rounded": lambda x: x.round() + x,
    "noise": lambda x: x + 0.1 * torch.randn_like(x),
    "cast": cast,
    "checkpoint": again,
    "hook": clipped,
    "sorted": lambda x: x.sort(1).values * x.topk(16, 1).values,
    "choice": lambda x: torch.where(x > 0, x, x.exp()),
}
"""What may stand between two layers."""
WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "factor": Halved.apply,
    "sign": Turned.apply,
    "slope": Masked.apply,
}
