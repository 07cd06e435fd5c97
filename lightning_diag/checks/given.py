"""What the first layers of a network are given, and its losses of classes: data as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.items import training_batches
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.target_watch import Target, TargetWatch
from lightning_diag.checks.twin import Twin
from lightning_diag.measure.data import leaves
from lightning_diag.probe.functions import FUNCTIONS, Function
from lightning_diag.probe.places import trained_modules
from lightning_diag.probe.watch import is_readable, running_module

SAMPLES = 64
"""Samples that are looked at (our choice): a mean is known to an eighth of a standard deviation."""
SECONDS = 0.5
"""How long steps may take before no further one is begun (our choice): most need one."""
_INPUTS = 4
"""Layers that take the data themselves, at most, as while training."""
_NORMS = frozenset(
    {functional.batch_norm, functional.layer_norm, functional.group_norm, functional.instance_norm}
)


@dataclass(frozen=True)
class Given:
    """A layer, and what it is given in one call."""

    place: str
    """Module path and function, such as ``net.0/linear``."""
    function: str
    x: Tensor
    feature_dim: int
    weight: Tensor | None
    """Of the layer; None for a recurrent one."""
    groups: int = 1
    leaf: str = ""
    """The tensor of the batch that it is, by name; empty where it was made from one."""
    is_normed: bool = False
    """Whether a norm takes what comes out."""

    @property
    def is_frozen(self) -> bool:
        """Whether the layer is not trained, and so made for what it is given."""
        return self.weight is not None and not self.weight.requires_grad


class InputWatch(TorchFunctionMode):
    """Collects what layers are given that take data, and nothing that a trained layer made.

    As `DataMonitor` does while training: the first layer, and any that is given a tensor of the
    batch itself. What a call is given is kept before it runs: it may fail because of that.

    Args:
        modules: Path of each module that may be running, by ``id``.
        batch: What the step is given.
    """

    def __init__(self, modules: Mapping[int, str], batch: Any) -> None:
        super().__init__()
        self.found: list[Given] = []
        self._modules = modules
        tensors = [x for _, x in leaves(batch)]
        self._elements = sum(x.numel() for x in tensors)
        self._storages = {
            x.untyped_storage().data_ptr(): name for name, x in leaves(batch) if is_readable(x)
        }
        self._outputs: dict[int, tuple[Tensor, int]] = {}
        self._begun = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function = FUNCTIONS.get(func)
        known = len(self.found)
        if function is not None and function.kind == "layer":
            self._take(function, args, kwargs)
        output = func(*args, **kwargs)
        if len(self.found) > known and isinstance(output, Tensor):
            self._outputs[id(output)] = (output, known)
        elif func in _NORMS and args and id(args[0]) in self._outputs:
            index = self._outputs[id(args[0])][1]
            self.found[index] = replace(self.found[index], is_normed=True)
        return output

    def _take(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = args[0] if args else kwargs.get("input")
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if not isinstance(x, Tensor) or not is_readable(x) or not x.numel():
            return
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1)
        dim = x.dim() - 1 if function.channels_last else min(1, x.dim() - 1)
        self._add(x, function.name, dim, weight, groups)

    def recurrent(self, module: nn.RNNBase, inputs: tuple[Any, ...]) -> None:
        """Take the input of a recurrent layer, which calls no function that says so."""
        if inputs and isinstance(inputs[0], Tensor) and is_readable(inputs[0]):
            weight = next(iter(module.parameters()), None)
            self._add(inputs[0], "rnn", inputs[0].dim() - 1, weight, 1)

    def _add(self, x: Tensor, function: str, dim: int, weight: Any, groups: Any) -> None:
        is_first, self._begun = not self._begun, True
        if x.requires_grad or len(self.found) >= _INPUTS:
            return
        # Taken out, since two layers may share their input.
        leaf = self._storages.pop(x.untyped_storage().data_ptr(), "")
        # What an embedding made of indices is larger than they are.
        if not leaf and (not is_first or 0 < self._elements < x.numel()):
            return
        module = running_module(self._modules)
        path = "" if module is None else self._modules[id(module)]
        place = f"{path}/{function}" if path else function
        held = weight if isinstance(weight, Tensor) else None
        count = groups if isinstance(groups, int) else 1
        self.found.append(Given(place, function, x.detach().clone(), dim, held, count, leaf))


@dataclass(frozen=True)
class Seen:
    """What layers and losses of classes were given in some batches."""

    calls: Sequence[Sequence[Given]]
    """For each batch, in the order of the calls."""
    targets: tuple[Target, ...]
    """What losses of classes were given in the first of them."""
    failed: str
    """Why the step did not come to its end; empty if it did."""
    is_spread: bool
    """Whether samples are from all over the data, and not the loader's first."""


_SEEN: WeakKeyDictionary[Subject, Seen | str] = WeakKeyDictionary()
"""Or why there is nothing: an exception would keep the subject alive."""


def seen_inputs(subject: Subject) -> Seen:
    """Return what the first layers are given; the steps are run once for each subject.

    Raises:
        Unavailable: If there is no data or no copy to run.
    """
    if subject not in _SEEN:
        try:
            _SEEN[subject] = _look(subject)
        except Unavailable as why:
            _SEEN[subject] = str(why)
    found = _SEEN[subject]
    if isinstance(found, str):
        raise Unavailable(found)
    return found


def _look(subject: Subject) -> Seen:
    batches, is_spread = training_batches(subject, SAMPLES)
    twin = subject.copy()
    calls: list[list[Given]] = []
    targets: tuple[Target, ...] = ()
    failed = ""
    began = time.monotonic()
    for index, batch in enumerate(batches):
        if calls and (subject.time_left <= 0 or time.monotonic() - began > SECONDS):
            break
        found, asked, failed = _step(twin, batch, index)
        calls.append(found)
        targets = targets or asked
        if failed and not found:
            break
    if failed and not any(calls) and not targets:
        raise Unavailable(failed)
    return Seen(calls, targets, failed, is_spread)


def _step(twin: Twin, batch: Any, index: int) -> tuple[list[Given], tuple[Target, ...], str]:
    moved = twin.moved(batch)
    paths = trained_modules(twin.module)
    watch, asked = InputWatch(paths, moved), TargetWatch(paths, moved)
    layers = [m for m in twin.module.modules() if isinstance(m, nn.RNNBase)]
    handles = [layer.register_forward_pre_hook(watch.recurrent) for layer in layers]
    failed = ""
    try:
        with watch, asked:
            twin.step(moved, index)
    except Unavailable as why:
        failed = str(why)
    finally:
        for handle in handles:
            handle.remove()
    return watch.found, tuple(asked.found), failed
