"""The tensors of a module that are initialised, each with what it is there for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from lightning_diag.initialisation.fans import Fans, convolution_fans, linear_fans

Kind = Literal["weight", "gates", "recurrent", "attention", "embedding", "norm", "bias", "other"]
Only: TypeAlias = str | Iterable[str] | Callable[[str], bool] | None
"""Which parameters are meant: names or patterns of them or of modules, or a function of a name."""

NORMS: tuple[type[nn.Module], ...] = (
    _NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
_GATES = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True, eq=False)
class Slot:
    """A tensor that can be initialised."""

    name: str
    """Of the parameter; of a parametrized one that of the tensor it gives."""
    tensor: Tensor
    owner: nn.Module
    attribute: str
    kind: Kind
    parts: int = 1
    """Matrices that are stacked in it, such as the gates of an LSTM."""
    is_frozen: bool = False
    is_parametrized: bool = False

    @property
    def fans(self) -> Fans | None:
        """Fan-in and fan-out, as far as the module itself tells them."""
        shape = self.tensor.shape
        if isinstance(self.owner, _ConvNd) and self.attribute == "weight":
            return convolution_fans(
                shape,
                groups=self.owner.groups,
                stride=self.owner.stride,
                transposed=isinstance(self.owner, _ConvTransposeNd),
            )
        if isinstance(self.owner, nn.Bilinear) and len(shape) == 3:
            return Fans(float(shape[1] * shape[2]), float(shape[0]))
        if len(shape) != 2 or self.kind in ("norm", "bias", "other"):
            return None
        return linear_fans((shape[0] // self.parts, shape[1]))


def find_slots(module: nn.Module) -> list[Slot]:
    """Return what can be initialised, each tensor once, in the module's order.

    Raises:
        ValueError: If shapes or values are not there yet: lazy layers, the meta device.
    """
    found: list[Slot] = []
    seen: set[int] = set()
    for path, owner in module.named_modules():
        if isinstance(owner, parametrize.ParametrizationList):
            continue
        for attribute, tensor, originals in _tensors(owner):
            ids = {id(each) for each in originals}
            if ids & seen:
                continue
            seen |= ids
            name = f"{path}.{attribute}" if path else attribute
            _check_there(name, tensor)
            kind, parts = _kind(owner, attribute, tensor)
            found.append(
                Slot(
                    name,
                    tensor,
                    owner,
                    attribute,
                    kind,
                    parts,
                    is_frozen=not any(each.requires_grad for each in originals),
                    is_parametrized=originals[0] is not tensor,
                )
            )
    return found


def _tensors(owner: nn.Module) -> Iterator[tuple[str, Tensor, list[Tensor]]]:
    """Yield the tensors of a module by attribute, and the parameters that they are made of."""
    for name, parameter in owner.named_parameters(recurse=False):
        yield name, parameter, [parameter]
    if parametrize.is_parametrized(owner):
        lists = owner.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        for name, parametrization in lists.items():
            originals: list[Tensor] = list(parametrization.parameters(recurse=False))
            if originals:
                yield name, getattr(owner, name).detach(), originals


def _check_there(name: str, tensor: Tensor) -> None:
    problems = {
        f"has a lazy layer, whose `{name}` has no shape yet: run it once before": (
            isinstance(tensor, UninitializedParameter)
        ),
        f"has `{name}` on the meta device, without values: move it with `to_empty` before": (
            tensor.device.type == "meta"
        ),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise ValueError(f"`module` {problem}.")


def _kind(owner: nn.Module, attribute: str, tensor: Tensor) -> tuple[Kind, int]:
    """Return what a tensor is there for, and how many matrices are stacked in it."""
    if not tensor.is_floating_point():
        return "other", 1
    for types, kind_of in _KINDS:
        if isinstance(owner, types):
            return kind_of(owner, attribute)
    is_bias = attribute == "bias" and tensor.ndim == 1 and _weight_of(owner) is not None
    return ("bias" if is_bias else "other"), 1


def _in_norm(_: nn.Module, attribute: str) -> tuple[Kind, int]:
    return ("norm" if attribute in ("weight", "bias") else "other"), 1


def _in_recurrent(owner: nn.Module, attribute: str) -> tuple[Kind, int]:
    parts = next((n for cls, n in _GATES.items() if isinstance(owner, cls)), 1)
    if attribute.startswith("weight_hr"):  # the projection of an LSTM's state
        return "gates", 1
    name, _, rest = attribute.partition("_")
    return ("bias" if name == "bias" else "recurrent" if rest[:2] == "hh" else "gates"), parts


def _in_attention(_: nn.Module, attribute: str) -> tuple[Kind, int]:
    if attribute in ("in_proj_weight", *_PROJECTIONS):
        return "attention", 3 if attribute == "in_proj_weight" else 1
    return ("bias" if attribute == "in_proj_bias" else "other"), 1


def _in_embedding(*_: object) -> tuple[Kind, int]:
    return "embedding", 1


def _in_layer(_: nn.Module, attribute: str) -> tuple[Kind, int]:
    # `weight_g` and the like, of what is computed before each call, are neither.
    return ("weight" if attribute == "weight" else "bias" if attribute == "bias" else "other"), 1


_KindOf: TypeAlias = Callable[[nn.Module, str], tuple[Kind, int]]
_KINDS: tuple[tuple[tuple[type[nn.Module], ...], _KindOf], ...] = (
    (NORMS, _in_norm),
    ((nn.RNNBase, nn.RNNCellBase), _in_recurrent),
    ((nn.MultiheadAttention,), _in_attention),
    ((nn.Embedding, nn.EmbeddingBag), _in_embedding),
    ((nn.Linear, _ConvNd, nn.Bilinear), _in_layer),
)


def _weight_of(owner: nn.Module) -> Tensor | None:
    """Return the weight beside a bias of a layer that is not torch's own."""
    weight = getattr(owner, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim >= 2 else None


def size_of(tensor: Tensor) -> float:
    """Return the root mean square of a tensor's elements; 0 if there are none."""
    if not tensor.numel():
        return 0.0
    x = tensor.detach().abs()
    x = x.double() if tensor.device.type != "mps" else x.float()
    return math.sqrt(float((x * x).mean()))


def selector(only: Only, names: list[str]) -> Callable[[str], bool]:
    """Return what says of a parameter's name whether it is meant.

    Raises:
        TypeError: If `only` is neither names nor a function.
        ValueError: If a name fits nothing.
    """
    if only is None:
        return lambda _: True
    if callable(only):
        return only
    patterns = [only] if isinstance(only, str) else list(only)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"`only` must hold names or patterns, got {pattern!r}.")
        if not any(_fits(pattern, name) for name in names):
            raise ValueError(_miss(pattern, names))
    return lambda name: any(_fits(pattern, name) for pattern in patterns)


def _fits(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:i]), pattern) for i in range(len(parts), 0, -1))


def _miss(pattern: str, names: list[str]) -> str:
    parents = (".".join(name.split(".")[:i]) for name in names for i in range(1, 9))
    near = get_close_matches(pattern, sorted({*names, *parents}), 3, 0.5)
    guess = f"did you mean {' or '.join(map(repr, near))}?" if near else "see named_parameters()."
    return f"`only` has {pattern!r}, which fits no parameter of this module: {guess}"
