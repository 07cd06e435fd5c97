"""`suggest_init`: which initial weights fit a network, layer by layer (C6, W7, W8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from torch import nn

from lightning_diag.initialisation.follow import followers_by_order, followers_seen, passed
from lightning_diag.initialisation.plan import Mode, Plan, Planner, Scheme
from lightning_diag.initialisation.slots import Only, find_slots, selector
from lightning_diag.initialisation.table import InitTable
from lightning_diag.initialisation.trace import Trace


def suggest_init(
    module: nn.Module,
    *inputs: Any,
    scheme: Scheme = "auto",
    only: Only = None,
    mode: Mode | None = None,
    run: Callable[[], Any] | None = None,
) -> InitTable:
    """Say how each parameter of a module should begin, by what follows its layer.

    With example inputs the module is run once, without gradients and in the mode it is in, so that
    functions, norms and residual branches are seen, too. Without, only what follows within an
    `nn.Sequential` is certain; elsewhere it says ``not known`` and takes the gain 1. Nothing is
    changed: weights, buffers and torch's random states are as before.

    Args:
        module: Any; a LightningModule, too.
        inputs: What the module is called with, such as one batch of inputs; any number of samples.
        scheme: ``auto`` is He's for ReLU and its like, LeCun's for SELU and for layers without an
            activation, Xavier's for tanh, sigmoid and the last layer. The last layers of n residual
            branches get 1 / sqrt(n) of it, unless a norm ends the branch or follows each sum.
            ``he``, ``xavier`` and ``lecun`` are those for every layer, with torch's gains;
            ``orthogonal`` and ``sparse`` have the gains of ``auto``, as ``lsuv`` has, which
            scales orthogonal weights until outputs have variance 1.
        only: Names or patterns of parameters or modules (``"head"``, ``"encoder.*.weight"``), or a
            function of a parameter's name. None is all. Frozen ones are left alone in any case.
        mode: Fan that weights are divided by, instead of the scheme's own.
        run: Runs the module instead of ``module(*inputs)``.

    Returns:
        A table that prints, with a row for each parameter that is meant.

    Raises:
        TypeError: If `module` is none, or `only` is neither names nor a function.
        ValueError: If an argument is out of range, the module cannot be run, has lazy layers, or is
            on the meta device.

    Example:
        >>> net = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
        >>> table = suggest_init(net)
        >>> [(row.followed_by, row.draw, round(row.std, 3)) for row in table if row.std]
        [('relu', 'he', 0.141), ('output', 'xavier', 0.183)]

    References:
        Glorot and Bengio, 2010. He et al., 2015, arXiv:1502.01852. Radford et al., Language models
        are unsupervised multitask learners, 2019 (residual branches). Saxe et al., 2014,
        arXiv:1312.6120 (orthogonal weights).
    """
    plan = make_plan(module, inputs, scheme=scheme, only=only, mode=mode, run=run)
    return InitTable(plan.rows)


def suggest_seen(module: nn.Module, trace: Trace) -> InitTable:
    """Say what `suggest_init` says, of a pass that was traced already."""
    slots = find_slots(module)
    planner = Planner(slots, followers_seen(trace), trace.residual_adds, "auto", None)
    return InitTable(tuple(planner.suggestion(slot) for slot in slots))


def make_plan(
    module: nn.Module,
    inputs: tuple[Any, ...],
    *,
    scheme: Scheme,
    only: Only,
    mode: Mode | None,
    run: Callable[[], Any] | None,
) -> Plan:
    """Return what fits each parameter that is meant; arguments as of `suggest_init`."""
    _check(module, scheme, mode, is_run=bool(inputs) or run is not None)
    slots = find_slots(module)
    is_meant = selector(only, [slot.name for slot in slots])
    if inputs or run is not None:
        trace = Trace(module)
        passed(module, inputs, run, trace)
        followed, adds = followers_seen(trace), trace.residual_adds
    else:
        followed, adds = followers_by_order(module), 0
    planner = Planner(slots, followed, adds, scheme, mode)
    chosen = [slot for slot in slots if is_meant(slot.name)]
    return Plan(tuple(chosen), tuple(planner.suggestion(slot) for slot in chosen), scheme)


def _check(module: Any, scheme: str, mode: str | None, *, is_run: bool) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, got {type(module).__name__}.")
    if scheme not in get_args(Scheme):
        raise ValueError(f"`scheme` must be one of {', '.join(get_args(Scheme))}, got {scheme!r}.")
    if mode is not None and mode not in get_args(Mode):
        raise ValueError(f"`mode` must be one of {', '.join(get_args(Mode))}, got {mode!r}.")
    if scheme == "lsuv" and not is_run:
        raise ValueError(
            "`scheme='lsuv'` scales weights by what comes out of them: give the inputs of a batch."
        )
