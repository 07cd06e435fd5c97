"""`load_pretrained`: the weights of one model into another, with a report of what fitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_diag.transfer.fitting import Fitting
from lightning_diag.transfer.load_plan import Plan, make_plan, match_names, skipped_names
from lightning_diag.transfer.load_report import LoadReport
from lightning_diag.transfer.mapping import Renaming
from lightning_diag.transfer.reshape import CHANNELS, POSITIONS, Channels, Positions
from lightning_diag.transfer.slots import Slot, restored_on_failure, slots_of
from lightning_diag.transfer.sources import Source, read_source
from lightning_diag.warning import warn

__all__ = ["LoadReport", "load_pretrained"]

Strict = Literal["report", "error"] | float
Init = Callable[[nn.Module, tuple[str, ...]], object]

_FEW = 0.5
"""Share of the module's values below which a load warns: less than half; our choice."""


def load_pretrained(
    module: nn.Module,
    source: Source,
    mapping: Renaming | None = None,
    strict: Strict = "report",
    *,
    prefix: str | None = None,
    key: str | None = None,
    skip: str | Sequence[str] = (),
    channels: Channels | None = "auto",
    positions: Positions | None = None,
    init: Init | None = None,
) -> LoadReport:
    r"""Copy the weights and buffers that fit into a module, and say what did not.

    Values are copied in place: device, dtype, `requires_grad` and ties of the module stay as they
    are, and optimizers keep their hold. If anything is raised, nothing was changed.

    Args:
        module: What to load into, before it is sharded; wrapped by DDP or compiled or not.
        source: A module, a state dict, or the path of a file: a state dict or checkpoint that
            `torch.save` wrote (Lightning's, too), or safetensors. Files are read without running
            code: `weights_only=True`, always.
        mapping: Regular expressions with what replaces them (as in `re.sub`), each applied to
            the names that the ones before it made, or with None to drop names; or a function from
            a name to a name or None. Applied to the source's names, before prefixes are found.
        strict: What to do with names that do not fit. ``report`` says them in what is returned,
            ``error`` raises, and a number (0 to 1) raises if a smaller share of the module's
            values was loaded. Loading nothing at all always raises.
        prefix: Take only the names that begin so, without it (``encoder_q``). Prefixes that are
            added or removed otherwise (``model.``, ``module.``, ``backbone.``) are found.
        key: Which entry of a checkpoint holds the weights (``model_ema``), by default
            ``state_dict``, ``model_state_dict``, ``model`` or ``module``.
        skip: Names of the module to leave alone, with ``*`` and ``?``; a layer's name stands for
            all that is in it (``head``).
        channels: How the first convolution is adapted to another number of input channels:
            `adapt_channels`. None leaves it out.
        positions: Have tables of positional embeddings interpolated to another number of patches,
            ``bicubic`` or ``bilinear``: `interpolate_positions`. None leaves them out.
        init: Called with the module and the names that are not loaded, to initialise these, in
            place, before the others are written. Without it, they stay as constructed.

    Returns:
        The report; `print` shows it.

    Raises:
        ValueError: If nothing fits, or too little for `strict`; if the file is unsafe or torn; if
            an option is none of those above, or fits no name.
        TypeError: If an argument is of another type.
        FileNotFoundError: If there is no such file.
        ImportError: If safetensors is needed and not installed.

    Cost:
        A copy of what is overwritten, in the host's memory, until the end. Files of torch are
        mapped to memory: of a large one, only what is loaded is read.

    Example:
        >>> pretrained = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1000))
        >>> mine = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10))
        >>> print(load_pretrained(mine, pretrained, skip="2"))
        Loaded 2 of 4 tensors from a Sequential: 27.3 % of 55 values.
          left out (2), left as constructed
            2.weight: skipped, as asked
            2.bias: skipped, as asked

    See Also:
        `docs/transfer/loading.md`
    """
    _check(module, strict, channels, positions, init)
    slots = slots_of(module)
    if not slots:
        raise ValueError(f"{type(module).__name__} has no weights to load into.")
    what, state = read_source(source, key)
    names = match_names(state, slots, mapping, prefix)
    plan = make_plan(state, slots, names, skipped_names(slots, skip), Fitting(channels, positions))
    report = replace(plan.report, source=what)
    _must_suffice(report, strict)
    initialised = _write(module, slots, plan, init)
    report = replace(report, initialised=initialised)
    if strict == "report" and report.share < _FEW and not any(e.asked for e in report.left_out):
        warn(
            f"Only {100 * report.share:.1f} % of the module's values were loaded from {what}: "
            "print what `load_pretrained` returns, and see what is missing."
        )
    return report


def _check(module: Any, strict: Any, channels: Any, positions: Any, init: Any) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch module, got {type(module).__name__}.")
    is_share = isinstance(strict, int | float) and not isinstance(strict, bool)
    if not (0 <= strict <= 1 if is_share else strict in ("report", "error")):
        raise ValueError(
            f"`strict` must be 'report', 'error' or a share from 0 to 1, got {strict!r}."
        )
    _check_choice("channels", channels, CHANNELS)
    _check_choice("positions", positions, POSITIONS)
    if init is not None and not callable(init):
        raise TypeError(
            "`init` must be a function of the module and names, or None, got "
            f"{type(init).__name__}."
        )


def _check_choice(name: str, value: Any, known: Iterable[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)} or None, got {value!r}.")


def _must_suffice(report: LoadReport, strict: Strict) -> None:
    """Raise if what fits is not enough, with the report below the sentence."""
    if not report.matched and not report.reshaped:
        said = f"No name of {report.source} fits the module: rename by `mapping`."
    elif strict == "error" and not report.is_complete:
        said = (
            f"{report.source} does not fit the module, and `strict` is 'error': rename by "
            "`mapping`, or name in `skip` what shall stay as it is."
        )
    elif not isinstance(strict, str) and report.share < strict:
        said = (
            f"Only {100 * report.share:.1f} % of the module's values fit, and `strict` asks for "
            f"{100 * strict:.1f} %: rename by `mapping`, or ask for less."
        )
    else:
        return
    would = str(report).replace("Loaded", "Would load", 1)
    raise ValueError(f"{said} Nothing was changed.\n{would}")


def _write(module: nn.Module, slots: list[Slot], plan: Plan, init: Init | None) -> bool:
    """Initialise and copy, all or nothing; return whether something was initialised."""
    names = plan.report.not_loaded
    is_initialised = init is not None and bool(names)
    values = _apart(plan.writes, slots)
    touched = slots if is_initialised else [slot for slot, _ in plan.writes]
    with restored_on_failure(module, touched):
        if init is not None and is_initialised:
            init(module, names)
            _must_be_in_place(slots, slots_of(module))
        with torch.no_grad():
            for slot, value in values:
                slot.tensor.copy_(value)
    return is_initialised


def _apart(writes: list[tuple[Slot, Tensor]], slots: list[Slot]) -> list[tuple[Slot, Tensor]]:
    """Copy values that live in the module itself, where an earlier write would change them."""
    own = {slot.tensor.untyped_storage().data_ptr() for slot in slots if slot.tensor.numel()}
    return [
        (slot, value.clone() if value.untyped_storage().data_ptr() in own else value)
        for slot, value in writes
    ]


def _must_be_in_place(before: list[Slot], after: list[Slot]) -> None:
    old: Mapping[str, Tensor] = {slot.name: slot.tensor for slot in before}
    new = {slot.name: slot.tensor for slot in after}
    if old.keys() != new.keys() or any(new[name] is not old[name] for name in old):
        raise ValueError("`init` must change tensors in place (`nn.init`), not put in others.")
