"""The calls of loss functions in a training step: found by looking on, and not by asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_diag.measure.base import LossCall
from lightning_diag.probe.functions import FUNCTIONS, argument
from lightning_diag.probe.losses import loss_call
from lightning_diag.probe.places import is_metric
from lightning_diag.probe.watch import is_readable, running_module


@dataclass(frozen=True)
class SeenLoss:
    """One call of a loss function, with everything that it was given."""

    call: LossCall
    """Place, function, prediction (`input`), `target`, `output`, reduction, `activation` that the
    prediction came out of, ...; tensors are detached."""
    given: Mapping[str, Any]
    """The other arguments by name, such as ``weight``, ``pos_weight``, ``label_smoothing``, ``p``;
    what was left out is absent."""
    trained: bool
    """Whether a gradient can flow through the prediction."""

    @property
    def place(self) -> str:
        """Module path, function and index, such as ``criterion/cross_entropy#0``."""
        return self.call.place

    @property
    def function(self) -> str:
        """The function's name."""
        return self.call.function


class LossCatch(TorchFunctionMode):
    """Collects the calls of loss functions while it is entered; all functions run as they are.

    Args:
        modules: Path of each module that may be running, by ``id``.

    Example:
        >>> import torch
        >>> with LossCatch({}) as catch:
        ...     _ = torch.nn.functional.mse_loss(torch.ones(2), torch.zeros(2))
        >>> catch.seen[0].place, catch.seen[0].call.output
        ('mse_loss#0', tensor(1.))
    """

    def __init__(self, modules: Mapping[int, str]) -> None:
        super().__init__()
        self.seen: list[SeenLoss] = []
        self._modules = modules
        self._counts: dict[str, int] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        function = FUNCTIONS.get(func)
        if function is None or function.kind != "loss" or not isinstance(output, Tensor):
            return output
        first = args[0] if args else kwargs.get(function.given)
        if isinstance(first, Tensor) and is_readable(first):
            self._take(function.name, args, kwargs, output)
        return output

    def _take(
        self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        module = running_module(self._modules)
        call = loss_call(function, args, kwargs, trained=False)
        if call is None or (module is not None and is_metric(module)):
            return
        path = "" if module is None else self._modules[id(module)]
        site = f"{path}/{function}" if path else function
        index = self._counts.get(site, 0)
        self._counts[site] = index + 1
        trained = call.input.requires_grad
        call.place, call.output = f"{site}#{index}", output.detach()
        call.input, call.target = call.input.detach(), call.target.detach()
        given = {
            name: value.detach() if isinstance(value, Tensor) else value
            for name in _OTHERS
            if (value := argument(function, name, args, kwargs)) is not None
        }
        self.seen.append(SeenLoss(call, given, trained))


_OTHERS = ("weight", "pos_weight", "label_smoothing", "ignore_index", "p", "margin", "log_target",
           "log_input", "full", "eps", "var", "beta", "delta", "zero_infinity")  # fmt: skip
"""Arguments other than prediction, target and reduction that a loss function may take."""
