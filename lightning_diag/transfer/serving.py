"""Lets a model take cached features instead of computing them, and takes that back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_diag.transfer.prefix import Cut
from lightning_diag.transfer.stand_in import CachedInput, Deferred, Features, real
from lightning_diag.transfer.store import CacheRefusedError
from lightning_diag.transfer.trees import leaves


@dataclass(frozen=True)
class Known:
    """Features that a model may take."""

    inputs: Sequence[tuple[str | None, str]]
    """Paths of the batch's values that the module `cut.within` is called with, in order; with names
    of its arguments, where they are passed by name."""
    sizes: dict[int, bool] | None = None
    """Whether they have the bits of those in batches of so many samples; what is not known is tried
    out once, and a batch whose bits would differ is computed. None: they are taken as they are."""


class Serving:
    """Puts features in the place of what a model would compute before a cut.

    Modules that run before the cut are skipped when they are given what stands in for a batch's
    input. Given anything else they do what they always do, so validation on other data and calls
    of the user's are not touched.

    Args:
        cut: Where the features belong.
        known: The features that may be taken, by the key of their cache.
        is_current: Whether the weights are still those that the features were computed with.
    """

    def __init__(
        self,
        model: nn.Module,
        cut: Cut,
        known: Mapping[str, Known],
        *,
        is_current: Callable[[], bool],
    ) -> None:
        self.cut, self.hits, self.misses = cut, 0, 0
        self.stale = False
        """Whether the weights have changed while features were at hand."""
        self._model, self._known, self._is_current = model, known, is_current
        self._run: _Run | None = None
        self._patched: list[tuple[nn.Module, Any, Any]] = []
        modules = cut.modules(model)
        for name in cut.entered:
            if name not in (cut.within, cut.frontier) and not cut.around(name):
                self._patch(modules[name], self._skipping(name, modules[name].forward))
        if cut.frontier != cut.within:
            self._patch(modules[cut.frontier], self._frontier(modules[cut.frontier].forward))
        self._patch(modules[cut.within], self._entry(modules[cut.within].forward))

    def detach(self) -> None:
        """Leave the modules as they were; may be called again."""
        for module, forward, before in self._patched:
            if module.__dict__.get("forward") is forward:
                if before is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = before
        self._patched = []

    def _patch(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._patched.append((module, forward, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    def _entry(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, CachedInput)]
            if not given:
                return original(*args, **kwargs)
            features = self._features(args, kwargs, given)
            if features is None:
                self.misses += 1
                return original(*map(real, args), **{k: real(v) for k, v in kwargs.items()})
            if not self._has_same_bits(len(given[0]), features, args, kwargs):
                return original(*map(real, args), **{k: real(v) for k, v in kwargs.items()})
            self.hits += 1
            if self.cut.frontier == self.cut.within:
                return features.output()
            return self._through(original, features, args, kwargs)

        return forward

    def _features(
        self, args: Any, kwargs: dict[str, Any], given: list[CachedInput]
    ) -> Features | None:
        """Return the features of a call, None if it is not the one that they were made with."""
        passed = [(None, value) for value in args] + list(kwargs.items())
        features = given[0].features
        known = self._known.get(features.key)
        got = [
            (name, value.name if isinstance(value, CachedInput) else None) for name, value in passed
        ]
        if known is None or got != list(known.inputs):
            return None
        if any(value.features is not features for value in given):
            return None
        if not self._is_current():
            self.stale = True
            return None
        return features

    def _has_same_bits(
        self, size: int, features: Features, args: Any, kwargs: dict[str, Any]
    ) -> bool:
        """Whether features are those that the model would compute in a batch of this size."""
        sizes = self._known[features.key].sizes
        if sizes is None:
            return True
        if size not in sizes:
            live = captured(
                self._model, self.cut, [*map(real, args)], {k: real(v) for k, v in kwargs.items()}
            )
            known = features.tensors
            sizes[size] = all(
                torch.equal(value, known[path]) for path, value in leaves(live).items()
            )
        return sizes[size]

    def _through(
        self, original: Callable[..., Any], features: Features, args: Any, kwargs: dict[str, Any]
    ) -> Any:
        def hidden(value: Any) -> Any:
            return Deferred(value.meta) if isinstance(value, CachedInput) else value

        outer, self._run = self._run, _Run(features, len(args[0] if args else features.output()))
        try:
            result = original(
                *map(hidden, args), **{name: hidden(value) for name, value in kwargs.items()}
            )
            if isinstance(result, Deferred) or not self._run.is_served:
                raise CacheRefusedError(
                    f"{self.cut.within!r} did not get as far as {self.cut.frontier!r}, or returned "
                    "a value from before it: choose another frontier."
                )
            return result
        finally:
            self._run = outer

    def _frontier(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            run = self._run
            if run is None or not _is_deferred(args, kwargs):
                return original(*args, **kwargs)
            run.is_served = True
            return run.features.output()

        return forward

    def _skipping(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            run = self._run
            if run is None or not _is_deferred(args, kwargs):
                return original(*args, **kwargs)
            number = run.calls.get(name, 0)
            run.calls[name] = number + 1
            known = self.cut.shapes.get(name, ())
            if number >= len(known):
                raise CacheRefusedError(
                    f"{name!r} is not what it was: choose a frontier that is the output of the "
                    f"whole of {self.cut.within!r}."
                )
            shape, dtype = known[number]
            shape = torch.Size((run.samples, *shape[1:]))
            return Deferred(torch.empty(shape, dtype=dtype, device="meta"))

        return forward


@dataclass(eq=False)
class Ready:
    """What one stage is served with."""

    cut: Cut
    key: str
    """Hash of the frozen part."""
    is_current: Callable[[], bool]
    frozen: list[bool]
    """Which parameters of the model need no gradient."""
    serving: list[Serving]
    hits: int = 0
    """Batches that took features."""
    is_stale: bool = False
    """Whether weights changed in the middle of the epoch."""

    def detach(self) -> None:
        """Have the model compute for itself; may be called again."""
        for serving in reversed(self.serving):
            serving.detach()
            self.hits += serving.hits
            self.is_stale |= serving.stale
        self.serving = []


@dataclass
class _Run:
    """One forward pass with features."""

    features: Features
    samples: int
    is_served: bool = False
    calls: dict[str, int] = field(default_factory=dict)


def _is_deferred(args: Any, kwargs: dict[str, Any]) -> bool:
    return any(isinstance(value, Deferred) for value in (*args, *kwargs.values()))


def captured(model: nn.Module, cut: Cut, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run a model up to a cut, without gradients, and return what is there.

    What `forward` returns, without what hooks make of it: those run on features, too. And without
    a hook of our own, for which some of torch's layers would compute in another way.
    """
    found: list[Any] = []
    frontier = model.get_submodule(cut.frontier)
    original, before = frontier.forward, frontier.__dict__.get("forward")

    def stop(*args: Any, **kwargs: Any) -> Any:
        found.append(original(*args, **kwargs))
        raise _Reached

    frontier.__dict__["forward"] = stop
    try:
        with torch.no_grad():
            model.get_submodule(cut.within)(*args, **kwargs)
    except _Reached:
        pass
    finally:
        if before is None:
            frontier.__dict__.pop("forward", None)
        else:
            frontier.__dict__["forward"] = before
    if not found:
        raise CacheRefusedError(f"{cut.within!r} did not get as far as {cut.frontier!r}")
    return found[0]


class _Reached(Exception):  # noqa: N818
    """The frontier was reached, and nothing behind it has to be computed."""


def detached(value: Any) -> Any:
    """Return a tensor that does not share its memory with one that the model may reuse."""
    return value.detach().clone() if isinstance(value, Tensor) else value
