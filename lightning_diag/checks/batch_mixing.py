"""`BatchMixing`: what is predicted for one sample depends on other samples of its batch (P20)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_diag.checks.base import Check
from lightning_diag.checks.data import Unavailable, clone, leaves
from lightning_diag.checks.dependence import Dependence, Passing, Prediction, mapped
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import Twin, running, said
from lightning_diag.finding import Finding, NotObserved, Severity
from lightning_diag.measure import data as batches
from lightning_diag.probe.places import trained_modules

_BY_NAME = re.compile(r"batch|sample|neighbo|graph", re.IGNORECASE)
"""Names of modules that say that they compare samples."""
_TIME_FIRST = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer,
               nn.TransformerDecoderLayer, nn.Transformer)  # fmt: skip
_MOST = 4
"""Predictions that are followed (our choice: losses of more heads have the same trunk)."""
_SEED = 0


@dataclass(frozen=True)
class BatchMixing(Check):
    """A prediction for one sample that depends on other samples of the batch.

    What it sees:
        A training step of a copy in evaluation mode, and gradients that go back from what loss
        functions are given for single samples: to how many samples of the tensors on the way, and
        of what enters the network, they lead. Words are followed to their embeddings; there, a
        sample is also exchanged for another. Batch norm uses its running statistics, dropout is
        off, and zeros that would hide a gradient are not zero. Which dimension counts samples is
        seen from a second step with half of them. Not counted: what is compared after the
        prediction (contrastive losses, in-batch negatives: the prediction grows with the batch in
        two dimensions), mixing of inputs in `training_step` and of two samples at a time (mixup),
        choices without a gradient (hard mining, experts with a capacity), and norms of any name.
        A module whose name or use says that samples attend to each other is a note.

    Why it matters:
        Training runs, and the loss may even fall. But the answer for a sample changes with its
        neighbours, so that validation with other batches says something else, and a single sample
        cannot be judged at all.

    What to do:
        Find the `view`, `reshape` or `transpose` that takes the dimension of samples for another,
        the softmax or mean over dimension 0, or the layer that takes time first.

    References:
        Karpathy, A Recipe for Training Neural Networks, 2019 (use backprop to chart dependencies).
        Braiek and Khomh, TheDeepChecker, 2022, arXiv:2204.00694 (cross-sample gradient).
    """

    code: ClassVar[str] = "batch-mixing"
    family: ClassVar[str] = "batch"
    needs: ClassVar[tuple[str, ...]] = ("batch", "copy")

    samples: int = 4
    """Samples that a batch must have, at least 4: half of them are two, that can still mix."""
    probes: int = 4
    """Samples whose predictions are followed once something shows, at least 2; two before. Our
    choice: a wrong `view` concerns nearly all of them, and mixup is told from it by three."""

    def __post_init__(self) -> None:
        self._require("samples", least=4, unit="samples")
        self._require("probes", least=2, unit="samples")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        batch = subject.batch()
        samples = samples_of(batch, subject.loaders)
        if samples is None:
            return self.not_observed("how many samples a batch has is not known")
        if samples < self.samples:
            told = f"a batch has {samples} samples, and it takes {self.samples} to tell"
            return self.not_observed(told)
        run = _Run(subject, batch, samples)
        torn = run.torn_words()
        if torn is not None:
            return self._found("suspect", f"before `{torn[0]}`", "", torn[1], samples, [torn[0]])
        mixed = run.screened()
        if mixed is None:
            return self.not_observed("no gradient leads from a prediction back to single samples")
        if not mixed:
            return []
        spots = [spot for each in run.halved() if (spot := run.spot(each, self.probes))]
        if not spots:
            return []
        spot = max(spots, key=lambda each: each.samples)
        return self._told(spot, samples, list(dict.fromkeys(each.place for each in spots)))

    def _told(self, spot: Spot, samples: int, places: list[str]) -> list[Finding]:
        last = spot.last
        where = f"in `{spot.place}`" if last.kind == "in" else f"behind `{spot.place}`"
        severity: Severity = "suspect"
        if last.kind == "in" and _is_meant(last):
            severity = "note"
        is_time_first = isinstance(last.module, _TIME_FIRST) and not _is_batch_first(last.module)
        why = ", which takes time first" if is_time_first and last.kind == "in" else ""
        return self._found(severity, where, why, spot.samples, samples, places)

    def _found(
        self, severity: Severity, where: str, why: str, found: int, samples: int, places: Sequence[str]
    ) -> list[Finding]:
        is_time_first = bool(why)
        return self.found(
            severity,
            f"What is predicted for one sample depends on {found} of {samples} samples of its "
            f"batch: they are mixed {where}{why} (one batch).",
            "Give such layers batch_first=True, as in "
            "`torch.nn.MultiheadAttention(batch_first=True)`, or time first."
            if is_time_first
            else "Look there for `.view`, `.reshape` or `.transpose` that take the dimension of "
            "samples for another, and for softmax or mean over it; if samples are meant to be "
            "compared, all is well.",
            value=found,
            threshold=1,
            places=places,
        )


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


class _Run:
    """One step of a copy that stands still, to be followed back."""

    def __init__(self, subject: Subject, batch: Any, samples: int) -> None:
        self.batch, self.samples = batch, samples
        self.twin = _stilled(subject.copy())
        try:
            self.seen = _stepped(self.twin, batch)
        except Unavailable:  # some modules return something else in evaluation
            self.twin = _stilled(subject.copy(), is_training=True)
            self.seen = _stepped(self.twin, batch)
        self.found = self.seen.predictions or self.seen.outputs

    def screened(self) -> bool | None:
        """Return whether it looks as if samples were mixed; None if nothing leads to samples."""
        is_known = False
        for each in self._candidates():
            dim = _fitting(each.tensor.shape, self.samples)
            if dim is None:
                continue
            size = each.tensor.shape[dim]
            for index in (size // 2, size - 1):
                passed = self._follow(each.tensor, dim, index)
                is_known |= any(any(p.indices.values()) for p in passed)
                if any(self._is_mixed(p, list(p.indices)) for p in passed):
                    return True
        return False if is_known else None

    def halved(self) -> list[Followed]:
        """Return the predictions that have one dimension of samples, as half of them shows."""
        for dims in ((0, 1), (1, 0)):
            try:
                other = _stepped(self.twin, _half(self.batch, self.samples, dims))
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
                dim = _growing(before.tensor.shape, after.tensor.shape, self.samples)
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
            dim = _growing(passing.shape, shapes.pop(0), self.samples) if shapes else None
            if dim is not None:
                dims[id(passing)] = dim
        return dims

    def spot(self, followed: Followed, probes: int) -> Spot | None:
        """Return where samples are mixed on the way to a prediction, if they are."""
        size = followed.tensor.shape[followed.dim]
        latest: tuple[int, Passing, int] | None = None
        is_pairwise = True
        for probe in range(1, probes + 1):
            index = min(size - 1, size * probe // probes)
            self._follow(followed.tensor, followed.dim, index)
            for number, passing in enumerate(self.seen.passings):
                dim = followed.dims.get(id(passing))
                if dim is None or not self._is_mixed(passing, [dim]):
                    continue
                count = self._count(passing, dim)
                own = {index * self.samples // size, index % self.samples}
                is_pairwise &= count <= 2 and bool(own & self._owners(passing, dim))
                if latest is None or (number, count) > (latest[0], latest[2]):
                    latest = (number, passing, count)
        if latest is None or is_pairwise:
            return None
        last = latest[1]
        if "norm" in type(last.module).__name__.lower():
            return None
        return Spot(last.path or type(last.module).__name__, last, latest[2])

    def torn_words(self) -> tuple[str, int] | None:
        """Return the embedding that gets words of several samples in one, and of how many."""
        if not self.seen.embedded:
            return None
        changed = _exchanged(self.batch, self.samples)
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

    def _candidates(self) -> list[Prediction]:
        return self.found[:_MOST]

    def _follow(self, tensor: Tensor, dim: int, index: int) -> list[Passing]:
        with running(), said("the gradient of a prediction failed"):
            return self.seen.follow(tensor, dim, index, self.samples)

    def _is_mixed(self, passing: Passing, dims: list[int]) -> bool:
        """Return whether more than a sample's share is reached in each of these dimensions."""
        known = [dim for dim in dims if dim in passing.indices]
        return bool(known) and all(
            len(passing.indices[dim]) > passing.shape[dim] // self.samples for dim in known
        )

    def _count(self, passing: Passing, dim: int) -> int:
        each = passing.shape[dim] // self.samples
        return -(-len(passing.indices[dim]) // each)

    def _owners(self, passing: Passing, dim: int) -> set[int]:
        each = passing.shape[dim] // self.samples
        indices = passing.indices[dim]
        return {i // each for i in indices} | {i % self.samples for i in indices}


def samples_of(batch: Any, loaders: Any) -> int | None:
    """Return how many samples a batch has, None if its tensors do not say so.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> samples_of([torch.zeros(5, 3), torch.zeros(3)], DataLoader([1, 2, 3], batch_size=3))
        3
    """
    shapes = [x.shape for _, x in batches.leaves(batch) if x.dim()]
    if not shapes:
        return None
    loader = next(iter(leaves(loaders)), None)
    size = getattr(loader, "batch_size", None)
    size = size or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if isinstance(size, int) and any(size in shape[:2] for shape in shapes):
        return size
    if size is None and _length(getattr(loader, "dataset", None)) == 1:
        return None  # one graph, one volume: what it is made of are no samples
    first = {shape[0] for shape in shapes}
    if len(first) == 1:
        return int(first.pop())
    common = set.intersection(*(set(shape[:2]) for shape in shapes))
    return int(common.pop()) if len(common) == 1 else None


def _length(dataset: Any) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return 0


def _stilled(twin: Twin, *, is_training: bool = False) -> Twin:
    """Switch off what mixes samples by design or by chance, and what would hide a gradient."""
    if not is_training:
        twin.module.eval()
    for module in twin.module.modules():
        if isinstance(module, nn.RNNBase):
            module.train()  # cuDNN has no gradient of one that evaluates
            module.dropout = 0.0
        elif isinstance(module, _BatchNorm):
            module.eval()
            if module.running_mean is None or module.running_var is None:
                _freeze(module)
        elif "Dropout" in type(module).__name__:
            module.eval()
    for parameter in twin.module.parameters():
        is_even = parameter.is_floating_point() and parameter.numel() > 0
        if is_even and not isinstance(parameter, nn.parameter.UninitializedParameter):
            values = parameter.data
            if bool((values == values.reshape(-1)[0]).all()):
                values.add_(0.05 * torch.randn_like(values))
    if not twin.module.automatic_optimization:
        for optimizer in twin.optimizers:
            optimizer.step = _nothing
    return twin


def _freeze(norm: _BatchNorm) -> None:
    """Give a norm without running statistics those of numbers with mean 0 and variance 1."""
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


def _half(batch: Any, samples: int, dims: tuple[int, int]) -> Any:
    """Return a batch with the first half of its samples, in the first of the dimensions that fits.

    Example:
        >>> _half(torch.zeros(6, 4), 4, (0, 1)).shape
        torch.Size([6, 2])
    """

    def cut(x: Tensor) -> Tensor:
        dim = _dim_of(x, samples, dims)
        return x if dim is None else x.narrow(dim, 0, samples // 2)

    return mapped(batch, cut)


def _exchanged(batch: Any, samples: int) -> Any | None:
    """Return a batch in which one sample has the words of another; None if it has no words."""
    is_changed = False

    def exchange(x: Tensor) -> Tensor:
        nonlocal is_changed
        dim = _dim_of(x, samples, (0, 1))
        if x.is_floating_point() or x.dtype is torch.bool or x.dim() < 2 or dim is None:
            return x
        order = torch.arange(samples, device=x.device)
        order[samples // 2] = samples // 2 - 1
        other = x.index_select(dim, order)
        is_changed |= not torch.equal(x, other)
        return other

    changed = mapped(batch, exchange)
    return changed if is_changed else None


def _dim_of(x: Tensor, samples: int, dims: tuple[int, int]) -> int | None:
    return next((dim for dim in dims if dim < x.dim() and x.shape[dim] == samples), None)


def _fitting(shape: Sequence[int], samples: int) -> int | None:
    """Return the first dimension that may count samples."""
    return next((d for d, size in enumerate(shape) if size and size % samples == 0), None)


def _growing(one: Sequence[int], other: Sequence[int], samples: int) -> int | None:
    """Return the only dimension that is another with half of the samples, if it grows with them.

    Example:
        >>> _growing((6, 8, 3), (6, 4, 3), 4), _growing((8, 8), (4, 4), 8)
        (1, None)
    """
    if len(one) != len(other):
        return None
    changed = [d for d, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    if len(changed) != 1:
        return None
    dim = changed[0]
    grows = one[dim] * (samples // 2) == other[dim] * samples
    return dim if grows and one[dim] % samples == 0 else None


def _is_batch_first(module: nn.Module) -> bool:
    if isinstance(module, nn.Transformer):
        return bool(module.batch_first)
    inner = getattr(module, "self_attn", module)
    return bool(getattr(inner, "batch_first", False))


def _is_meant(last: Passing) -> bool:
    """Return whether a module is said to compare samples: by its name, or as one long sequence."""
    is_sequence = isinstance(last.module, nn.MultiheadAttention) and 1 in last.shape[:2]
    return is_sequence or bool(_BY_NAME.search(type(last.module).__name__))
