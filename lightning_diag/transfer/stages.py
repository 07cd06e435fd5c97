"""The layers of a network, from its input to its output, found by how its modules are nested.

No model is known by name. What is looked for is what torchvision, timm and transformers have in
common: a list of blocks (`blocks`, `features`, `encoder.layer`, `h`), or several lists beside each
other (`layer1` to `layer4`), with a stem before and a head behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_COMPILED = "_orig_mod."
"""What compiling a module puts into the names below it."""


@dataclass(frozen=True)
class Stage:
    """Layers that are frozen and thawed together."""

    name: str
    """Of its first module, less what all stages' names begin with."""
    members: list[str] = field(default_factory=list)
    """Full names of its modules and of parameters that stand alone."""


@dataclass(frozen=True)
class _Piece:
    name: str
    is_loose: bool
    """Whether it is a parameter that stands alone, such as a position embedding."""
    is_norm: bool


def plain(name: str) -> str:
    """Return a name as the module has it when it is not compiled.

    Example:
        >>> plain("net._orig_mod.head.weight")
        'net.head.weight'
    """
    return f"{name}.".replace(_COMPILED, "").removesuffix(".")


def find_stages(module: nn.Module) -> list[Stage]:
    """Return the stages of a network, from its input to its output.

    They are in the order in which modules were registered, which is that of the forward pass in
    nearly every network. A norm belongs to what it follows, a parameter that stands alone to what
    follows it.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
        >>> [(stage.name, stage.members) for stage in find_stages(net)]
        [('0', ['0', '1']), ('3', ['3'])]
    """
    groups: list[list[str]] = []
    waiting: list[str] = []
    for piece in _pieces("", module):
        if piece.is_loose:
            waiting.append(piece.name)
        elif piece.is_norm and groups:
            groups[-1] += [*waiting, piece.name]
            waiting = []
        else:
            groups.append([*waiting, piece.name])
            waiting = []
    if waiting:
        groups = [*groups[:-1], [*groups[-1], *waiting]] if groups else [waiting]
    # Named after its module, not after the loose parameters before it.
    names = [_titled(module, group) for group in groups]
    return [Stage(name, group) for name, group in zip(_shortened(names), groups, strict=True)]


def _titled(module: nn.Module, group: list[str]) -> str:
    modules = {plain(name) for name, _ in module.named_modules()}
    return next((name for name in group if name in modules), group[0])


def _shortened(names: list[str]) -> list[str]:
    """Leave out what all names begin with."""
    parts = [name.split(".") for name in names]
    common = 0
    while parts and all(
        len(each) > common + 1 and each[common] == parts[0][common] for each in parts
    ):
        common += 1
    return [".".join(each[common:]) for each in parts]


def _pieces(prefix: str, module: nn.Module) -> Iterator[_Piece]:
    """Cut a module into what its stages are made of."""
    for name, _ in module.named_parameters(recurse=False):
        yield _Piece(plain(prefix + name), is_loose=True, is_norm=False)
    children = [(name, each) for name, each in module.named_children() if _has_parameters(each)]
    chosen = _to_open([each for _, each in children])
    for name, each in children:
        full = prefix + name
        if each not in chosen:
            yield _Piece(plain(full), is_loose=False, is_norm=_is_norm(each))
        elif _is_blocks(each) or (_is_list(each) and not _is_deep(each)):
            for inner, block in each.named_children():
                if _has_parameters(block):
                    place = plain(f"{full}.{inner}")
                    yield _Piece(place, is_loose=False, is_norm=_is_norm(block))
        else:
            yield from _pieces(f"{full}.", each)


def _to_open(children: list[nn.Module]) -> list[nn.Module]:
    """Say which of some modules are cut further: those that hold the network's depth."""
    deep = [each for each in children if _is_deep(each)]
    if deep:
        lists = [each for each in deep if _is_blocks(each)]
        # Lists beside each other are the stages of a ResNet; a single one is what has them.
        return [each for each in deep if each not in lists] if len(lists) > 1 else deep
    flat = [each for each in children if _is_list(each) and len(_grown(each)) > 1]
    if flat or not children:
        return flat
    # No list beside each other: the layers may be in what holds most of the network.
    biggest = max(children, key=_size)
    inner = _grown(biggest)
    is_body = 2 * _size(biggest) > sum(map(_size, children))
    has_layers = any(_is_list(each) and len(_grown(each)) > 1 for each in inner)
    has_blocks = sum(bool(_grown(each)) for each in inner) > 1 or (inner and len(children) == 1)
    return [biggest] if is_body and (has_layers or has_blocks) else []


def _is_deep(module: nn.Module) -> bool:
    """Whether there is a list of blocks in it, or it is one."""
    return _is_blocks(module) or any(_is_deep(each) for each in _grown(module))


def _is_blocks(module: nn.Module) -> bool:
    """Whether it is a list, most of whose modules are of several layers."""
    grown = _grown(module)
    several = sum(bool(_grown(each)) for each in grown)
    return _is_list(module) and len(grown) > 1 and 2 * several > len(grown)


def _grown(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.children() if _has_parameters(each)]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, _LISTS)


def _has_parameters(module: nn.Module) -> bool:
    """Whether a module has parameters, or running statistics."""
    has_statistics = any(isinstance(each, _NormBase) for each in module.modules())
    return has_statistics or any(True for _ in module.parameters())


def _is_norm(module: nn.Module) -> bool:
    return not _grown(module) and "norm" in type(module).__name__.lower()
