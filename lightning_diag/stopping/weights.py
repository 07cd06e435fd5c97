"""A copy of a module's weights on the host, and how it is put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lightning_diag.warning import warn

_COMPILED = "_orig_mod."
"""What compiling a module puts into the names below it."""


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Copy parameters and buffers to the host, also those that checkpoints leave out.

    Tied tensors are copied once. Averages that the module keeps (torch's `AveragedModel`) are not
    copied: they are of the whole run, and stay so.

    Returns:
        By name, as the module has it when it is not compiled.

    Cost:
        The bytes of all parameters and buffers, on the host.
    """
    # Outside of inference mode, in which Lightning validates: its tensors could not be saved for
    # a backward pass later.
    with torch.inference_mode(mode=False), torch.no_grad():
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(module)}


def put_back(module: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Write what `copied` returned into the module's own tensors.

    All or nothing: if names or shapes are no longer those of the copy, the module is left as it
    is, with a warning.

    Returns:
        Whether it was done.
    """
    own = dict(_tensors(module))
    strange = sorted(
        name
        for name in {*own, *weights}
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if strange:
        warn(
            f"The best weights were not restored: {strange[0]!r} has changed since they were "
            f"kept, as have {len(strange) - 1} more tensors. The module has its last weights."
        )
        return False
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
    return True


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    averages = tuple(
        f"{name}." for name, part in module.named_modules() if isinstance(part, AveragedModel)
    )
    for each in (module.named_parameters(), module.named_buffers()):
        for name, tensor in each:
            if not name.startswith(averages):
                yield name.replace(_COMPILED, ""), tensor
