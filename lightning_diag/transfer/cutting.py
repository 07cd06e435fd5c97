"""Finds where a model can be cut: what runs before is frozen, and nothing else of it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.transfer.prefix import Cut, cuts, first_reason, traced
from lightning_diag.transfer.serving import Known, Serving, captured, detached
from lightning_diag.transfer.stand_in import CachedInput, Features
from lightning_diag.transfer.store import CacheRefusedError
from lightning_diag.transfer.trees import leaves, rebuilt
from lightning_diag.transfer.where import Where

_TRIES = 12
"""Our choice: places to cut at that are tried out."""


def find_cut(where: Where, batch: Any, bound: str | None, *, moves: bool = True) -> Cut:
    """Return the deepest place at which the model can be cut now.

    Args:
        bound: Module that is the deepest to come in question, None for any.
        moves: Whether a shallower one will do.

    Raises:
        CacheRefusedError: If there is none, with the reason of the deepest one.
    """
    args, kwargs = where.arguments(batch)
    with where.context(), _kept_buffers(where.model):
        torch.manual_seed(0)
        trace = traced(where.model, where.within, args, kwargs)
        args, kwargs = where.arguments(batch)
        torch.manual_seed(0)
        # Anew, without hooks, for which some of torch's layers compute in another way.
        result = where.model.get_submodule(where.within)(*args, **kwargs)
        candidates = cuts(where.model, trace, where.within, bound)[: None if moves else 1]
        usable = [
            cut
            for cut in candidates
            if cut.why_not(where.model) is None and _has_weights(where.model, cut)
        ]
        refusal: CacheRefusedError | None = None
        for cut in usable[:_TRIES]:
            try:
                _try_out(where, cut, batch, result)
            except CacheRefusedError as error:
                refusal = refusal or error
                continue
            return cut
    raise refusal or CacheRefusedError(first_reason(where.model, candidates))


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Put buffers back: what is behind the frontier may be in train mode, and runs here."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            if not _same(value, buffer):
                buffer.copy_(value)


def _has_weights(model: nn.Module, cut: Cut) -> bool:
    return bool(cut.tensors(model))


def _try_out(where: Where, cut: Cut, batch: Any, result: Any) -> None:
    """See that the model gives the same with features in the place of what comes before."""
    before = [tensor.detach().clone() for tensor in cut.tensors(where.model)]
    output = _output(where, cut, batch)
    torch.manual_seed(1)
    again = leaves(_output(where, cut, batch))
    after = cut.tensors(where.model)
    if not all(_same(old, new) for old, new in zip(before, after, strict=True)):
        raise CacheRefusedError(f"{cut.frontier!r} changes its buffers when it runs")
    known, rows = leaves(output), len(leaves(batch)[where.inputs[0][1]])
    for path, value in known.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
            raise CacheRefusedError(
                f"{cut.frontier!r} does not put out tensors with one row for each sample"
            )
        if not _same(value, again[path]):
            raise CacheRefusedError(
                f"{cut.frontier!r} is random: it gives another output for the same input, as "
                "dropout in train mode does"
            )
    if cut.frontier == cut.within:
        return
    features = Features(known, "", lambda tensors: rebuilt(output, lambda path, _: tensors[path]))
    fresh, real = leaves(_served(where, cut, batch, features)), leaves(result)
    if fresh.keys() != real.keys() or any(
        isinstance(value, Tensor) and not _same(value, fresh[path]) for path, value in real.items()
    ):
        raise CacheRefusedError(
            f"{cut.within!r} gives another output when {cut.frontier!r} is taken from a cache: "
            "what comes behind it uses more than its output, or is random"
        )


def _output(where: Where, cut: Cut, batch: Any) -> Any:
    args, kwargs = where.arguments(batch)
    return rebuilt(captured(where.model, cut, args, kwargs), lambda _, value: detached(value))


def _served(where: Where, cut: Cut, batch: Any, features: Features) -> Any:
    """Return what the model gives when it takes features."""
    stand_ins = {
        path: CachedInput(path, leaves(batch)[path].to("meta"), features, _never)
        for _, path in where.inputs
    }
    serving = Serving(where.model, cut, {"": Known(where.inputs)}, is_current=lambda: True)
    torch.manual_seed(0)
    try:
        return where.model.get_submodule(where.within)(
            *(stand_ins[path] for name, path in where.inputs if name is None),
            **{name: stand_ins[path] for name, path in where.inputs if name is not None},
        )
    except (TypeError, AttributeError) as error:
        raise CacheRefusedError(f"{cut.frontier!r} cannot be cut at: {error}") from error
    finally:
        serving.detach()


def _never(path: str) -> Tensor:
    raise CacheRefusedError(f"{path!r} is used besides")


def _same(first: Any, second: Any) -> bool:
    if not isinstance(second, Tensor) or first.shape != second.shape or first.dtype != second.dtype:
        return False
    return torch.equal(first, second) or bool(
        ((first == second) | (first.isnan() & second.isnan())).all()
    )
