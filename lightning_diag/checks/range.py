"""A learning rate range test before training, and where its curve says that training diverges."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch.utils.data import DataLoader

from lightning_diag.checks.data import Unavailable, copies, leaves
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.twin import said
from lightning_diag.lr.range_test import RangeTest, lr_range_test
from lightning_diag.wording import shown

RANGE_STEPS = 101
"""Steps of a range test, as `lr_range_test` has them by default: one more than learning rates."""


@dataclass(frozen=True)
class RangeResult:
    """A range test, and the learning rate that the module begins with."""

    test: RangeTest
    lr: float
    """Of the first group of the first optimizer, as the first step takes it."""

    @property
    def line(self) -> str:
        """One sentence for people."""
        own = f"The module's learning rate is {shown(self.lr)}."
        if self.test.reason:
            return f"Range test: no suggestion, since {self.test.reason}. {own}"
        found = ", ".join(f"{each.name} {shown(each.lr)}" for each in self.test.suggestions)
        return f"Range test: {found}. {own}"


def range_of(subject: Subject) -> RangeResult:
    """Run a range test on copies of a subject's module and loaders, once.

    Raises:
        Unavailable: If it cannot be run without a trace, or fails.
    """
    result: RangeResult = subject._once("range", lambda: _measured(subject))
    subject.results["lr-range"] = result
    return result


def _measured(subject: Subject) -> RangeResult:
    if getattr(subject.trainer, "world_size", 1) > 1:
        raise Unavailable("a range test takes one device, and training takes several")
    rate = float(subject.optimizers[0].param_groups[0]["lr"])
    loaders, datamodule = copies(subject.loaders), copy.copy(subject._own_datamodule)
    _hold_apart(loaders, subject.loaders)
    twin = subject._twin()
    for owner in (twin.module, datamodule):
        # All of it has been done, and may not bear to be done again.
        for name in ("prepare_data", "setup", "configure_model"):
            if hasattr(owner, name):
                vars(owner)[name] = _nothing
    if datamodule is not None:
        vars(datamodule)["train_dataloader"] = lambda: loaders
    data = {"train_dataloaders": loaders} if datamodule is None else {"datamodule": datamodule}
    if twin.device.type != "cpu" and twin.device.index not in (0, None):
        raise Unavailable(f"a range test takes the first device, and training {twin.device}")
    with said("the range test failed"), _interruptible():
        accelerator = "cpu" if twin.device.type == "cpu" else "auto"
        test = lr_range_test(twin.module, trainer=subject.trainer, accelerator=accelerator, **data)
    return RangeResult(test, rate)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl+C through: Lightning's trainer ends the process, and ignores a second one."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


def _hold_apart(own: Any, theirs: Any) -> None:
    """Make sure that no loader of the user's would be iterated."""
    for mine, other in zip(leaves(own), leaves(theirs), strict=True):
        if mine is other and (isinstance(other, DataLoader) or iter(other) is other):
            kind = type(other).__name__
            raise Unavailable(f"the data ({kind}) can be iterated only once")


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Do what has been done before."""


def diverging_rate(test: RangeTest) -> float | None:
    """Return the lowest learning rate from which on the smoothed loss stays above its first level.

    None where the loss never falls and rises again, so that nothing is known.

    Example:
        >>> curve = [2.0] * 40 + [2.0 - i / 20 for i in range(20)]
        >>> curve += [1.0 + i / 5 for i in range(20)]
        >>> from lightning_diag.lr.range_test import read_curve
        >>> rates = [1e-6 * 1.2 ** i for i in range(80)]
        >>> rate = diverging_rate(read_curve(rates, curve))
        >>> rates[63] < rate < rates[68]  # the loss is back at 2.0 at rates[65]
        True
    """
    if test.reason:
        return None
    smoothed: Sequence[float] = test.smoothed
    start = median(smoothed[: max(5, len(smoothed) // 10)])
    low = smoothed.index(min(smoothed))
    above = next((i for i in range(low, len(smoothed)) if smoothed[i] >= start), None)
    return None if above is None else test.lrs[above]
