"""What of a module is its backbone and what its head, and how it is frozen or begun anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from lightning_diag._compat import MisconfigurationException
from lightning_diag.transfer.frozen import FrozenParts
from lightning_diag.transfer.select import Finder, Selection


@dataclass(frozen=True)
class Parts:
    """Which parts of a module are frozen while only its head is trained, by name."""

    head: tuple[str, ...]
    """Modules that hold parameters of the head themselves, in order."""
    backbone: tuple[str, ...]
    """The outermost modules that are frozen as a whole."""
    parameters: tuple[str, ...]
    """All parameters that are frozen."""
    norms: tuple[str, ...]
    """Norms without parameters that are frozen, too."""


def split(
    module: nn.Module,
    head: Selection | Sequence[Selection],
    backbone: Selection | Sequence[Selection] | None = None,
) -> Parts:
    """Tell backbone and head apart.

    Args:
        module: Of which it is asked.
        head: Names, patterns or functions, as `LayerFreezing` takes them.
        backbone: The same. None: all that is not the head.

    Raises:
        MisconfigurationException: If a selection fits nothing, or there is nothing to train in the
            head or in the backbone.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> split(net, "2").parameters
        ('0.weight', '0.bias')
    """
    finder = Finder(module, "head")
    tops = {name for each in _listed(head) for name in finder.take(each).parameters}
    if backbone is None:
        units = [finder.rest("backbone")]
    else:
        finder = Finder(module, "backbone")
        units = [finder.take(each) for each in _listed(backbone)]
    below = {name for unit in units for name in unit.parameters} - tops
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    if not tops & trained:
        raise MisconfigurationException(
            f"`head` has no parameter that is trained, got {', '.join(sorted(tops)) or 'none'}."
        )
    if not below & trained:
        raise MisconfigurationException(
            "The backbone has no parameter that is trained: return it from `pretrained` as it is "
            "fine-tuned, since freezing is done here."
        )
    still = [norm for unit in units for norm in unit.norms]
    return Parts(
        tuple(name for name, own in _own(module) if own & tops),
        tuple(_outermost(module, below)),
        tuple(name for name, _ in module.named_parameters() if name in below),
        tuple(name for name, each in module.named_modules() if each in still),
    )


def frozen(module: nn.Module, parts: Parts) -> FrozenParts:
    """Freeze parts of a module; what is returned keeps them so."""
    found = FrozenParts(module)
    found.hold(
        [module.get_parameter(name) for name in parts.parameters],
        [],
        [module.get_submodule(name) for name in parts.norms],
    )
    return found


def begin_anew(module: nn.Module) -> None:
    """Draw all parameters anew, as torch's own modules do when they are made.

    Raises:
        MisconfigurationException: If a module holds parameters and cannot draw them.
    """
    for name, each in module.named_modules():
        if next(each.parameters(recurse=False), None) is None:
            continue
        draw = getattr(each, "reset_parameters", None) or getattr(each, "_reset_parameters", None)
        if not callable(draw):
            raise MisconfigurationException(
                f"{name or 'The module itself'} ({type(each).__name__}) has parameters and no "
                "`reset_parameters` to draw them with: give `scratch`, a function that returns an "
                "untrained module."
            )
        draw()


def _listed(selections: Selection | Sequence[Selection]) -> Sequence[Selection]:
    return [selections] if isinstance(selections, str) or callable(selections) else selections


def _own(module: nn.Module) -> Iterator[tuple[str, set[str]]]:
    """Yield each module's name, and the names of the parameters that it holds itself."""
    for name, each in module.named_modules():
        prefix = f"{name}." if name else ""
        yield name, {f"{prefix}{own}" for own, _ in each.named_parameters(recurse=False)}


def _outermost(module: nn.Module, below: set[str]) -> list[str]:
    found: list[str] = []
    for name, each in module.named_modules():
        inside = {f"{name}.{own}" for own, _ in each.named_parameters()}
        is_within = any(name.startswith(f"{top}.") for top in found)
        if name and inside and inside <= below and not is_within:
            found.append(name)
    return found
