"""Keeps parts of a module frozen: no gradients, no steps, no running statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

_INDIFFERENT = tuple(
    f"torch.nn.modules.{name}"
    for name in (
        *("linear", "conv", "sparse", "normalization", "pooling", "flatten", "container"),
        *("padding", "upsampling", "pixelshuffle"),
    )
)
"""Modules of torch's that do the same in training and evaluation: they need no watching."""


def _be_still(module: nn.Module, _: Any) -> None:
    """Run as a frozen module: in evaluation, whatever mode somebody has set since."""
    if module.training:
        module.training = False


class FrozenParts:
    """What is frozen in a module, and how it was before.

    A frozen parameter requires no gradient and has none, so that no graph is built below it, no
    rank waits for it, and optimizers leave it alone, momentum and decay included. A module all of
    whose parameters are frozen is in evaluation, with all in it: running statistics stand still,
    and dropout is off. Where `.train()` is called on it, it goes back before it is run, by a hook
    before its forward: what is between two batches or in Lightning's loops does not matter then.

    Args:
        dropout: Whether dropout goes on in frozen modules.
    """

    def __init__(self, module: nn.Module, *, dropout: bool = False) -> None:
        self._module = module
        self._dropout = dropout
        self._parameters: list[nn.Parameter] = []
        self._modules: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []
        self._modes: dict[nn.Module, bool] = {}
        self._flags: dict[nn.Parameter, bool] = {}

    def hold(
        self,
        frozen: Collection[nn.Parameter],
        thawed: Iterable[nn.Parameter],
        norms: Iterable[nn.Module] = (),
    ) -> None:
        """Freeze these parameters and thaw those; modules follow with `calm`.

        Args:
            norms: Norms without parameters that are frozen, too.
        """
        for parameter, is_trained in [
            *((each, False) for each in frozen),
            *((each, True) for each in thawed),
        ]:
            self._flags.setdefault(parameter, parameter.requires_grad)
            parameter.requires_grad_(is_trained)
        self._parameters = list(frozen)
        self.drop_gradients()
        self._be_quiet(list(_within(self._module, {id(p) for p in frozen}, set(norms))))

    def _be_quiet(self, modules: list[nn.Module]) -> None:
        for handle in self._handles:
            handle.remove()
        if not self._dropout:
            quiet = modules
        else:
            quiet = [each for each in modules if not isinstance(each, _DropoutNd)]
        kept = set(quiet)
        for each in [each for each in self._modes if each not in kept]:
            each.training |= self._modes.pop(each)
        for each in quiet:
            self._modes.setdefault(each, each.training)
        self._modules = quiet
        self._handles = [
            each.register_forward_pre_hook(_be_still)
            for each in quiet
            if not type(each).__module__.startswith(_INDIFFERENT)
        ]

    def calm(self) -> None:
        """Put all frozen modules into evaluation, those included that no hook watches."""
        for module in self._modules:
            if module.training:
                # Somebody wants it to train, and it will when it is thawed.
                self._modes[module] = True
                module.training = False

    def rouse(self) -> None:
        """Give all frozen modules the mode that they had, until they are run again."""
        for module, mode in self._modes.items():
            module.training |= mode

    def drop_gradients(self) -> None:
        """Let no optimizer find a gradient, wherever it may have come from."""
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad = None

    def before_step(self, *_: Any) -> None:
        """Do so; what `register_step_pre_hook` of an optimizer takes."""
        self.drop_gradients()

    @property
    def count(self) -> int:
        """Number of modules that are frozen."""
        return len(self._modules)

    def release(self) -> None:
        """Leave the module as it was, but for what has been trained."""
        self._be_quiet([])
        for parameter, flag in self._flags.items():
            parameter.requires_grad_(flag)
        self._parameters, self._flags = [], {}


def _within(module: nn.Module, frozen: set[int], norms: set[nn.Module]) -> Iterator[nn.Module]:
    """Yield the modules all of whose parameters are frozen, and all that is in them."""
    seen: set[nn.Module] = set()
    for each in module.modules():
        own = [id(parameter) for parameter in each.parameters()]
        if each not in norms and not (own and frozen.issuperset(own)):
            continue
        for inner in each.modules():
            if inner not in seen and _has_mode(inner):
                seen.add(inner)
                yield inner


def _has_mode(module: nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule)
