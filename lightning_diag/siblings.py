"""Which parameters are those of a copy of a trained network, such as a moving average."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

_DEPTH = 2
"""Our choice: networks stand in a LightningModule, or in a model that it holds."""


def untrained_copies(
    missing: Collection[str], shapes: Mapping[str, Sequence[int]]
) -> frozenset[str]:
    """Return the parameters without a gradient that a sibling network has too, trained.

    A copy is all of a branch of the model: none of its parameters gets a gradient, they belong to
    two layers or more, and another branch has the same ones, of the same shapes, each with a
    gradient. So do the target networks of BYOL, momentum encoders and mean teachers look. Members
    of a list and what lies deep in the model are no branches: equal layers follow each other.

    Args:
        missing: Names of parameters that no gradient reaches.
        shapes: Of all trained parameters, by name.

    Example:
        >>> shapes = {"net.0.weight": (2, 3), "net.1.weight": (2, 2), "head.weight": (1, 2)}
        >>> shapes |= {"target.0.weight": (2, 3), "target.1.weight": (2, 2)}
        >>> missing = {"target.0.weight", "target.1.weight", "head.weight"}
        >>> sorted(untrained_copies(missing, shapes))
        ['target.0.weight', 'target.1.weight']
    """
    lost = set(missing) & shapes.keys()
    found: set[str] = set()
    for prefix in sorted(_branches(lost)):
        inside = {n for n in shapes if n.startswith(f"{prefix}.")}
        layers = {name.rpartition(".")[0] for name in inside}
        if len(layers) > 1 and inside <= lost and _has_sibling(prefix, inside, lost, shapes):
            found |= inside
    return frozenset(found)


def _branches(names: Collection[str]) -> set[str]:
    """Return the paths above some parameters that are one or two names, and no members of lists."""
    parts = [name.split(".")[:-1] for name in names]
    paths = [each[:i] for each in parts for i in range(1, min(_DEPTH, len(each)) + 1)]
    return {".".join(path) for path in paths if not any(name.isdigit() for name in path)}


def _has_sibling(
    prefix: str, inside: Collection[str], lost: Collection[str], shapes: Mapping[str, Sequence[int]]
) -> bool:
    ends = {name[len(prefix) :]: list(shapes[name]) for name in inside}
    first, shape = next(iter(ends.items()))
    others = [
        name[: -len(first)]
        for name, size in shapes.items()
        if name.endswith(first) and list(size) == shape and name not in lost
    ]
    return any(
        all(
            list(shapes.get(other + end, ())) == size and other + end not in lost
            for end, size in ends.items()
        )
        for other in others
    )
