"""Where samples of a batch are mixed: a step of a copy that stands still, followed back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from lightning_diag.checks.cut import exchanged, fitting, growing, half
from lightning_diag.checks.data import Unavailable, clone
from lightning_diag.checks.dependence import Dependence, Passing
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.probe.places import trained_modules

_MOST = 4
"""Predictions that are followed (our choice: losses of more heads have the same trunk)."""
_SEED = 0


class Spot(NamedTuple):
    """Where samples are mixed."""

    place: str
    last: Passing
    """The tensor nearest to the prediction that several samples of it contribute to."""
    samples: int
    """How many do."""


class Followed(NamedTuple):
    """A prediction, and the dimensions that count samples."""

    tensor: Tensor
    dim: int
    dims: dict[int, int]
    """Of the tensors on the way, by their number."""


class Run:
    """One step of a copy that stands still, to be followed back."""

    def __init__(self, subject: Subject, batch: Any, samples: int) -> None:
        self.batch, self.samples = batch, samples
        self._subject = subject
        self.twin = still(subject.copy())
        try:
            self.seen = _stepped(self.twin, batch)
        except Unavailable:  # some modules return something else in evaluation
            self.twin = still(subject.copy(), is_training=True)
            self.seen = _stepped(self.twin, batch)
        self.found = self.seen.predictions or self.seen.outputs

    @property
    def time_left(self) -> float:
        """Seconds until the checks have had their time."""
        return self._subject.time_left

    def seems_mixed(self) -> bool | None:
        """Return whether it looks as if samples were mixed; None if nothing leads to samples."""
        is_known = False
        for each in self.found[:_MOST]:
            dim = fitting(each.tensor.shape, self.samples)
            if dim is None:
                continue
            size, is_reached = each.tensor.shape[dim], False
            for index in (size - 1, size // 2, 0):  # one is enough, if anything leads on
                passed = self._follow(each.tensor.select(dim, index), entries_alone=True)
                if any(self._may_mix(passing) for passing in passed):
                    return True
                is_reached = any(any(passing.indices.values()) for passing in passed)
                if is_reached:
                    break
            is_known |= is_reached
        return False if is_known else None

    def spots(self, probes: int) -> list[Spot]:
        """Return where samples are mixed, for each prediction for which they are.

        Args:
            probes: Samples whose predictions are followed.
        """
        return [spot for each in self._halved() if (spot := self._spot(each, probes)) is not None]

    def _halved(self) -> list[Followed]:
        """Return the predictions that have one dimension of samples, as half of them shows."""
        for dims in ((0, 1), (1, 0)):
            try:
                other = _stepped(self.twin, half(self.batch, self.samples, dims))
            except Unavailable:
                continue
            found = self._matched(other)
            if found:
                return found
        return []

    def _matched(self, other: Dependence) -> list[Followed]:
        for one, two in ((self.seen.predictions, other.predictions),
                         (self.seen.outputs, other.outputs)):  # fmt: skip
            pairs = list(zip(one, two, strict=False)) if len(one) == len(two) else []
            found = []
            for before, after in pairs[:_MOST]:
                dim = growing(before.tensor.shape, after.tensor.shape, self.samples)
                if dim is not None:
                    found.append((before.tensor, dim))
            if found:
                dims = self._dims(other)
                return [Followed(tensor, dim, dims) for tensor, dim in found]
        return []

    def _dims(self, other: Dependence) -> dict[int, int]:
        """Return the dimension of samples of each tensor on the way that has one."""
        known: dict[tuple[str, str], list[tuple[int, ...]]] = {}
        for passing in other.passings:
            known.setdefault((passing.path, passing.kind), []).append(passing.shape)
        dims = {}
        for passing in self.seen.passings:
            shapes = known.get((passing.path, passing.kind))
            dim = growing(passing.shape, shapes.pop(0), self.samples) if shapes else None
            if dim is not None:
                dims[id(passing)] = dim
        return dims

    def _spot(self, followed: Followed, probes: int) -> Spot | None:
        """Return where samples are mixed on the way to a prediction, if they are."""
        size = followed.tensor.shape[followed.dim]
        latest: tuple[int, int] | None = None
        is_pairwise = True
        for probe in range(1, probes + 1):
            index = min(size - 1, size * probe // probes)
            self._follow(followed.tensor.select(followed.dim, index))
            own = {index * self.samples // size, index % self.samples}
            for number, (count, owners) in self._mixed(followed).items():
                is_pairwise &= count <= 2 and bool(own & owners)
                latest = max(latest or (number, count), (number, count))
        if latest is None or is_pairwise:
            return None
        last = self.seen.passings[latest[0]]
        if last.kind == "in" and "norm" in type(last.module).__name__.lower():
            return None
        return Spot(last.path or type(last.module).__name__, last, latest[1])

    def torn_words(self) -> tuple[str, int] | None:
        """Return the embedding that gets words of several samples in one, and of how many."""
        if not self.seen.embedded:
            return None
        changed = exchanged(self.batch, self.samples)
        if changed is None:
            return None
        try:
            other = _stepped(self.twin, changed)
        except Unavailable:
            return None
        for (path, one), (_, two) in zip(self.seen.embedded, other.embedded, strict=False):
            if one.shape != two.shape or one.dim() < 3:
                continue
            rows = (one != two).any(-1)
            counts = [
                int(rows.movedim(d, 0).flatten(1).any(1).sum()) // (size // self.samples)
                for d, size in enumerate(rows.shape)
                if size and size % self.samples == 0
            ]
            if counts and min(counts) > 1:
                return path, min(counts)
        return None

    def _follow(self, part: Tensor, *, entries_alone: bool = False) -> list[Passing]:
        with running(), said("the gradient of a prediction failed"):
            return self.seen.follow(part, self.samples, entries_alone=entries_alone)

    def _may_mix(self, passing: Passing) -> bool:
        """Return whether samples are mixed, whichever dimension counts them, or it is not known."""
        dims = list(passing.indices)
        either = [dim for dim in dims if dim < 2 and passing.shape[dim] == self.samples]
        if len(either) > 1 and len(passing.shape) > 2:  # as much time as samples
            return any(self._is_mixed(passing, [dim]) for dim in either)
        return self._is_mixed(passing, dims)

    def _is_mixed(self, passing: Passing, dims: list[int]) -> bool:
        """Return whether more than a sample's share is reached in each of these dimensions."""
        known = [dim for dim in dims if dim in passing.indices]
        return bool(known) and all(
            len(passing.indices[dim]) > passing.shape[dim] // self.samples for dim in known
        )

    def _mixed(self, followed: Followed) -> dict[int, tuple[int, set[int]]]:
        """Return how many samples the newest gradient reached, and which, where it was several."""
        found = {}
        for number, passing in enumerate(self.seen.passings):
            dim = followed.dims.get(id(passing))
            if dim is None or not self._is_mixed(passing, [dim]):
                continue
            each, indices = passing.shape[dim] // self.samples, passing.indices[dim]
            owners = {i // each for i in indices} | {i % self.samples for i in indices}
            found[number] = -(-len(indices) // each), owners
        return found


def still(twin: Twin, *, is_training: bool = False) -> Twin:
    """Switch off what mixes samples by design or by chance, and what would hide a gradient."""
    if not is_training:
        twin.module.eval()
    for module in twin.module.modules():
        if isinstance(module, nn.RNNBase):
            module.train()  # cuDNN has no gradient of one that evaluates
            module.dropout = 0.0
        elif isinstance(module, _BatchNorm):
            _freeze(module.eval())
        elif "Dropout" in type(module).__name__:
            module.eval()
    for parameter in twin.module.parameters():
        _stir(parameter)
    if not twin.module.automatic_optimization:
        for optimizer in twin.optimizers:
            optimizer.step = _nothing
    return twin


def _stir(parameter: nn.Parameter) -> None:
    """Change a parameter whose values are all the same: gradients do not pass zeros."""
    if isinstance(parameter, UninitializedParameter) or not parameter.is_floating_point():
        return
    values = parameter.data
    if values.numel() and bool((values == values.reshape(-1)[0]).all()):
        values.add_(0.05 * torch.randn_like(values))


def _freeze(norm: _BatchNorm) -> None:
    """Give a norm without running statistics those of numbers with mean 0 and variance 1."""
    if norm.running_mean is not None and norm.running_var is not None:
        return
    like = next(norm.parameters(), None)
    device = None if like is None else like.device
    norm.running_mean = torch.zeros(norm.num_features, device=device)
    norm.running_var = torch.ones(norm.num_features, device=device)
    norm.track_running_stats = True


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Take no step."""


def _stepped(twin: Twin, batch: Any) -> Dependence:
    """Run a step and return what was handed on; a step that fails after its predictions is fine."""
    torch.manual_seed(_SEED)
    seen = Dependence(twin.module, trained_modules(twin.module))
    with seen.watching():
        try:
            twin.step(twin.moved(clone(batch)))
        except Unavailable:
            if not seen.predictions:
                raise
    return seen
