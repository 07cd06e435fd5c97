"""What is known of a tensor on its way through a network: which layers' output it still is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from lightning_diag.initialisation import words
from lightning_diag.initialisation.fans import Fans


@dataclass(eq=False)
class Use:
    """One call of a layer, and what becomes of its output."""

    weight: str
    """Name of its weight."""
    function: str
    """As in `torch.nn.functional`, such as ``conv2d``."""
    fans: Fans | None
    """None where they are not known."""
    depth: int
    """Layers on the longest way from the input to its output."""
    is_computed: bool = False
    """Whether the weight is made of parameters rather than one itself."""
    follower: str = ""
    """What its output goes into first, norms and residual additions aside; empty if unknown."""
    parameter: float | None = None
    """Slope or alpha of that, if it is an activation that has one."""
    is_normed: bool = False
    """Whether a norm of its output comes first."""
    is_residual: bool = False
    """Whether it ends a branch that is added to what goes past it."""
    is_sum_normed: bool = False
    """Whether a norm of that sum comes before anything else."""
    is_hidden: bool = False
    """Whether what comes out of the activation goes into another layer."""
    after: set[str] = field(default_factory=set)
    """What happens to what comes out of the activation: ``dropout``, ``norm``, ``sum``."""

    def meet(self, what: str, parameter: float | None = None) -> None:
        """Take note of something that the output goes into; the first counts."""
        if not self.follower:
            self.follower, self.parameter = what, parameter


class Flow(NamedTuple):
    """What is known of a tensor."""

    sources: int = 0
    """Bits of the inputs and layers that it depends on."""
    depth: int = 0
    pending: tuple[Use, ...] = ()
    """Layers whose output it is, in proportion."""
    active: tuple[tuple[Use, str], ...] = ()
    """Layers whose activation's output it is, with that."""
    statistics: tuple[Use, ...] = ()
    """Layers of whose output's squares and the like it is made."""
    adds: int = 0
    """Residual additions since the last norm."""
    origin: tuple[str, ...] = ()
    """Parameters and buffers that it is made of, if of nothing else."""
    is_plain: bool = True
    """Whether it is a parameter itself, or that turned."""

    def fresh(self) -> Flow:
        """Return what is known of something new that is made of this."""
        return self._replace(pending=(), active=(), statistics=())


def merged(flows: list[Flow]) -> Flow:
    """Return what is known of a tensor that was made of others, in proportion."""
    if len(flows) == 1:
        return flows[0]
    sources = 0
    for flow in flows:
        sources |= flow.sources
    return Flow(
        sources,
        max((flow.depth for flow in flows), default=0),
        tuple(dict.fromkeys(use for flow in flows for use in flow.pending)),
        tuple(dict.fromkeys(pair for flow in flows for pair in flow.active)),
        tuple(dict.fromkeys(use for flow in flows for use in flow.statistics)),
        max((flow.adds for flow in flows), default=0),
    )


def meet(uses: Iterable[Use], what: str, parameter: float | None = None) -> None:
    """Have layers take note of what their output goes into."""
    for use in uses:
        use.meet(what, parameter)


def consumed(flows: Iterable[Flow], what: str) -> None:
    """Take note of what is neither linear nor an activation."""
    for flow in flows:
        meet(flow.pending, what)
        if what == "layer":
            for use, _ in flow.active:
                use.is_hidden = True


def happened(flow: Flow, what: str) -> None:
    """Take note of something that activations' outputs go through."""
    for use, _ in flow.active:
        use.after.add(what)


def normed(flow: Flow) -> Flow:
    """Take note of a norm."""
    for use in flow.pending:
        if not use.follower:
            use.is_sum_normed |= use.is_residual
            use.is_normed |= not use.is_residual
    happened(flow, "norm")
    return flow._replace(adds=0)


def added(one: Flow, other: Flow) -> Flow:
    """Take note of a sum, which ends a residual branch if both come from the same."""
    both = merged([one, other])
    branch, past = (one, other) if one.depth >= other.depth else (other, one)
    if branch.depth == past.depth or not branch.sources & past.sources:
        return both
    for use in branch.pending:
        use.is_residual |= not use.is_normed
    happened(branch, "sum")
    return both._replace(adds=max(one.adds, other.adds) + 1)


def multiplied(one: Flow, other: Flow) -> Flow:
    """Take note of a product: a square, a norm or an activation that is written out, or a gate."""
    both = merged([one, other])
    if one.pending and one.pending == other.pending and not (one.active or other.active):
        return both._replace(pending=(), statistics=both.pending)
    for signal, gate in ((one, other), (other, one)):
        own = set(signal.pending)
        if own & set(gate.statistics):
            return normed(both._replace(pending=signal.pending, statistics=()))
        inner = {function for use, function in gate.active if use in own}
        if inner:
            name = words.GATED.get(min(inner), f"x * {min(inner)}(x)")
            for use in own:
                use.follower, use.parameter = name, None
            return both.fresh()._replace(active=tuple((use, name) for use in signal.pending))
    meet(both.pending, "product")
    return both.fresh()


def of_parameters(name: str, operands: list[Tensor], flows: list[Flow]) -> Flow:
    """Return what is known of a tensor that is made of parameters alone."""
    origin = tuple(dict.fromkeys(each for flow in flows for each in flow.origin))
    is_turned = name in words.TURNS and operands[0].ndim == 2
    is_same = len(flows) == 1 and (is_turned or name in words.CASTS)
    is_plain = all(flow.is_plain for flow in flows) and is_same
    return Flow(origin=origin, is_plain=is_plain)
