"""Random weights of a given size: what `torch.nn.init` draws, with fans and gains of our own."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["normal", "uniform"]


@torch.no_grad()
def scaled_(
    tensor: Tensor, std: float, distribution: Distribution, generator: torch.Generator | None = None
) -> Tensor:
    """Fill a tensor with numbers of mean 0 and a standard deviation.

    From the same random state they are those that `torch.nn.init.normal_` and `uniform_` draw.

    Example:
        >>> round(float(scaled_(torch.empty(200, 500), 0.5, "uniform").std()), 2)
        0.5
    """
    if distribution == "normal":
        return tensor.normal_(0.0, std, generator=generator)
    bound = math.sqrt(3.0) * std
    return tensor.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def orthogonal_(tensor: Tensor, gain: float, generator: torch.Generator | None = None) -> Tensor:
    """Fill a tensor with an orthogonal matrix, all dimensions but the first taken together.

    Shape:
        ``(out, *)``: rows are orthonormal, times the gain; columns where there are more rows.

    Example:
        >>> weight = orthogonal_(torch.empty(2, 3, 1), 2.0).flatten(1)
        >>> torch.allclose(weight @ weight.T, 4 * torch.eye(2), atol=1e-5)
        True
    """
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    # QR knows neither half precision nor, on some devices, anything but the host.
    wide = torch.float64 if tensor.dtype is torch.float64 else torch.float32
    flat = torch.empty(rows, columns, dtype=wide, device=tensor.device)
    flat.normal_(0.0, 1.0, generator=generator)
    q, r = torch.linalg.qr(flat.T if rows < columns else flat)
    q = q * torch.where(torch.diagonal(r) < 0, -1.0, 1.0)  # without it Q is not uniform
    return tensor.copy_((q.T if rows < columns else q).reshape(tensor.shape) * gain)


@torch.no_grad()
def sparse_(
    tensor: Tensor, std: float, connections: int, generator: torch.Generator | None = None
) -> Tensor:
    """Fill a tensor so that each unit has a few inputs, at random, and the others are zero.

    Args:
        tensor: ``(out, *)``.
        std: That dense weights would have. Those that are left are larger, so that outputs have
            the same variance.
        connections: Inputs of each unit; all if there are no more.
        generator: Random numbers come from it.

    Example:
        >>> sparse_(torch.empty(3, 100), 0.1, 15).count_nonzero(1)
        tensor([15, 15, 15])

    References:
        Martens, Deep learning via Hessian-free optimization, ICML 2010, section 5.
    """
    rows, inputs = tensor.shape[0], math.prod(tensor.shape[1:])
    kept = min(connections, inputs)
    flat = torch.empty(rows, inputs, dtype=tensor.dtype, device=tensor.device)
    flat.normal_(0.0, std * math.sqrt(inputs / kept), generator=generator)
    order = torch.empty(rows, inputs, device=tensor.device)
    order.uniform_(generator=generator)
    chosen = order.topk(kept, dim=1).indices
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, value=True)
    return tensor.copy_((flat * mask).reshape(tensor.shape))
