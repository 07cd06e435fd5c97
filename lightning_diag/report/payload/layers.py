"""The model's layers as a tree, in its order: what a reader folds, and where each place belongs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning_diag.history import History
from lightning_diag.report.payload.numbers import chosen

MOST = 2_000
"""Layers shown. Our choice: more than anyone unfolds."""


@dataclass
class Layer:
    """One module that has parameters or calls, or holds modules that do."""

    path: str
    """Where it stands in the model; empty for the model itself."""
    kind: str = ""
    """Name of its class; empty where the history does not know it."""
    parameters: list[str] = field(default_factory=list)
    """Names of its own parameters."""
    calls: list[str] = field(default_factory=list)
    """Places of the calls that it made itself."""
    size: int | None = None
    """Elements of its own parameters; None without any."""
    trainable: bool | None = None
    """Whether any of these is trained; None without any."""
    parent: int | None = None
    """Position of the module that holds it."""
    depth: int = 0
    """Modules that it stands within."""


class Tree:
    """The layers of a run, and where its places belong.

    Args:
        history: The run.
        wanted: Places whose layers stay where there are too many layers.
    """

    def __init__(self, history: History, wanted: Iterable[str] = ()) -> None:
        meta = history.meta
        self._owners = _owners(meta)
        asked = {self._owner(place) for place in wanted}
        known = _known(meta, self._owners)
        self.left_out = max(0, len(known) - MOST)
        kept = _with_parents(chosen(list(known), MOST, asked))
        self.layers = [known[path] for path in known if path in kept]
        self._index = {layer.path: i for i, layer in enumerate(self.layers)}
        for layer in self.layers:
            if layer.path:
                layer.parent = self._index[layer.path.rpartition(".")[0]]
                layer.depth = self.layers[layer.parent].depth + 1

    def layer_of(self, place: str) -> int:
        """Return the position of the layer that a place belongs to, or of the nearest around it.

        -1 where none is known, as of a place that names no layer.
        """
        path = self._owner(place)
        while path and path not in self._index:
            path = path.rpartition(".")[0]
        return self._index.get(path, -1) if path or place in self._owners else -1

    def _owner(self, place: str) -> str:
        return self._owners.get(place, place.rpartition("/")[0] if "/" in place else place)

    def rows(self) -> list[dict[str, Any]]:
        """Return the layers as plain values, each module before those within it."""
        return [
            {
                "path": layer.path,
                "name": layer.path.rpartition(".")[2],
                "depth": layer.depth,
                "parent": layer.parent,
                "kind": layer.kind,
                "parameters": layer.parameters,
                "calls": layer.calls,
                "size": layer.size,
                "trainable": layer.trainable,
            }
            for layer in self.layers
        ]


def _owners(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the module of each parameter and each call site."""
    owners = {
        name: str(known.get("layer", name.rpartition(".")[0]))
        for name, known in (meta.get("parameters") or {}).items()
    }
    for place, site in (meta.get("sites") or {}).items():
        owners[place] = str(site.get("module", place.rpartition("/")[0]))
    return owners


def _known(meta: Mapping[str, Any], owners: Mapping[str, str]) -> dict[str, Layer]:
    """Return the layers by path, each module before those within it, in the model's order."""
    kinds = meta.get("modules") or {}
    layers = {path: Layer(path, str(kinds.get(path, ""))) for path in _ordered(meta, owners)}
    for name, known in (meta.get("parameters") or {}).items():
        layer = layers[owners[name]]
        layer.parameters.append(name)
        layer.size = (layer.size or 0) + math.prod(known.get("shape") or (0,))
        layer.trainable = bool(layer.trainable) or bool(known.get("trainable"))
    for place in meta.get("sites") or {}:
        layers[owners[place]].calls.append(place)
    return layers


def _ordered(meta: Mapping[str, Any], owners: Mapping[str, str]) -> Iterator[str]:
    """Yield the paths of all layers that have something, with the modules around them.

    In the order of the model's modules; without that parameters' layers as registered, and between
    them those that only call, each behind the one that called before it.
    """
    wanted = _with_parents(owners.values())
    order = [path for path in meta.get("modules") or {} if path in wanted]
    known = {"", *order}
    behind: dict[str, list[str]] = {}
    before = ""
    for path in owners.values():
        if path not in known:
            known.add(path)
            behind.setdefault(before, []).insert(0, path)
        before = path
    pending = ["", *(path for path in order if path)][::-1]
    met: list[str] = []
    while pending:
        met.append(pending.pop())
        pending += reversed(behind.get(met[-1], ()))
    yield from _nested(met)


def _nested(paths: Iterable[str]) -> Iterator[str]:
    """Yield paths with those around them, each before what is within it."""
    tree: dict[str, Any] = {}
    for path in paths:
        branch = tree
        for name in path.split(".") if path else ():
            branch = branch.setdefault(name, {})
    pending = [("", tree)]
    while pending:
        path, branch = pending.pop()
        yield path
        names = list(branch)
        if all(name.isdecimal() for name in names):
            names.sort(key=int)  # of a list of modules
        pending += [(f"{path}.{name}" if path else name, branch[name]) for name in reversed(names)]


def _with_parents(paths: Iterable[str]) -> set[str]:
    found = {""}
    for each in paths:
        path = each
        while path not in found:
            found.add(path)
            path = path.rpartition(".")[0]
    return found
