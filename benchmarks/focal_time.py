"""Processor time of a forward and backward pass of focal loss and of torch's losses.

python benchmarks/focal_time.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag import focal_loss

SHAPES: dict[tuple[int, ...], int] = {(64, 10): 200, (256, 1000): 40, (4, 21, 128, 128): 5}
"""Logits, and passes that are timed together."""


def microseconds(loss: Callable[[Tensor], Tensor], x: Tensor, passes: int) -> float:
    """Return the processor's time of one pass, the shortest mean of twelve."""
    times = []
    for _ in range(12):
        start = time.process_time()
        for _ in range(passes):
            loss(x).backward()
        times.append((time.process_time() - start) / passes)
    return 1e6 * min(times)


def main() -> None:
    """Print a table."""
    torch.set_num_threads(1)
    print("| logits | softmax: cross-entropy | focal | sigmoid: cross-entropy | focal |")
    print("|---|---:|---:|---:|---:|")
    for shape, passes in SHAPES.items():
        x = torch.randn(shape, requires_grad=True)
        y = torch.randint(shape[1], (shape[0], *shape[2:]))
        yes = functional.one_hot(y, shape[1]).movedim(-1, 1).float()
        losses: list[Callable[[Tensor], Tensor]] = [
            partial(functional.cross_entropy, target=y),
            partial(focal_loss, target=y),
            partial(functional.binary_cross_entropy_with_logits, target=yes),
            partial(focal_loss, target=yes, form="sigmoid"),
        ]
        times = " | ".join(f"{microseconds(loss, x, passes) / 1000:.2f} ms" for loss in losses)
        print(f"| {' × '.join(map(str, shape))} | {times} |", flush=True)


if __name__ == "__main__":
    main()
