"""`OutputActivationMismatch`: an output that is not what the loss function takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_diag.checks.base import Check
from lightning_diag.checks.looks import agreed
from lightning_diag.checks.losses import SeenLoss
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.trial import Trial
from lightning_diag.finding import Finding, NotObserved
from lightning_diag.measure.losses import REGRESSION_LOSSES, rows_of
from lightning_diag.measure.output import distributions
from lightning_diag.measure.target import TargetMeasure
from lightning_diag.misfits import (
    CUT,
    SQUASHED,
    Problem,
    bounded_scores,
    one_class,
    out_of_reach,
    sigmoid_after,
    softmax_twice,
)
from lightning_diag.wording import listing

_LOGITS = "Give it the output of the last layer as it is; "
_EXACT, _ROUNDED = 1e-3, 2e-2
"""How far a sum of probabilities may be from 1, in float32 and in 16 bits."""


@dataclass(frozen=True)
class OutputActivationMismatch(Check):
    """A prediction that is not what the loss function takes.

    What it sees:
        What each loss function was given in the first steps of a copy, and which function that came
        out of. *Twice*: softmax before a cross-entropy, or sigmoid before
        `binary_cross_entropy_with_logits`, which apply it themselves. *Not at all*: scores or
        probabilities where `nll_loss` or `kl_div` want logarithms of probabilities. *Elsewhere*: a
        softmax or log-softmax that adds up to 1 over another dimension than the classes, such as
        the batch or time. *Cut off*: a cross-entropy of what a ReLU, tanh or sigmoid has bounded,
        or targets of a regression that the output's activation function cannot reach,
        `unreachable` of them. A cross-entropy over one class is always 0. The logarithm of a
        softmax, in two functions, is a note: it is -inf where a probability underflows. A
        log-softmax before a cross-entropy changes nothing, and is not mentioned.

    Why it matters:
        The loss cannot come near 0, or its gradients are weak where the network is wrong, so
        training is slow or stops far from what is possible; nothing else shows it.

    What to do:
        Give each loss what its documentation asks for, and apply softmax or sigmoid only where
        predictions are used.

    References:
        PyTorch documentation of `CrossEntropyLoss`, `NLLLoss`, `BCEWithLogitsLoss`, `KLDivLoss`.
        Cao et al., DeepFD: Automated Fault Diagnosis and Localization for Deep Learning Programs,
        ICSE 2022, arXiv:2205.01938 (wrong activations and losses among the commonest faults).
        Schoop et al., UMLAUT, CHI 2021.
    """

    code: ClassVar[str] = "output-activation-mismatch"
    family: ClassVar[str] = "losses"
    needs: ClassVar[tuple[str, ...]] = ("losses",)

    rows: float = 0.99
    """Share of rows that must be probabilities, 0 to 1, to count as all of them; one less this
    share counts as none, as in `lightning_diag.rules`: it is all or nothing but for rounding."""
    unreachable: float = 0.05
    """Share of regression targets out of reach that counts, 0 to 1, as in `lightning_diag.rules`:
    fewer may be outliers that somebody cuts off on purpose."""
    bad_unreachable: float = 0.25
    """The same for `bad`, at least `unreachable` and at most 1, as in
    `lightning_diag.rules`."""
    records: int = 3
    """Steps in a row that must agree, at least 1, as in `lightning_diag.rules`; one is taken
    where nothing shows."""

    def __post_init__(self) -> None:
        self._require("rows", "unreachable", "bad_unreachable", least=0.0, most=1.0)
        self._require_order("unreachable", "bad_unreachable")
        self._require("records", least=1, unit="step")

    def judge(self, subject: Subject) -> list[Finding] | NotObserved:
        """See `Check.judge`."""
        found = agreed(subject, self._problem, self.records)
        if not found:
            return []
        place, problem, looks = found[0]
        others = [each.place for each in found[1:]]
        also = f" So {'is' if len(others) == 1 else 'are'} {listing(others)}." if others else ""
        steps = f"in each of {looks} steps" if looks > 1 else "one step"
        return self.found(
            problem.severity,
            f"`{place}` {problem.text} ({steps}).{also}",
            problem.remedy,
            value=problem.value,
            threshold=problem.threshold,
            places=[place, *others],
            window=looks,
        )

    def _problem(self, seen: SeenLoss, _: Trial) -> Problem | None:
        """Say what is wrong with a call."""
        match seen.function if seen.call.input.numel() else "":
            case "cross_entropy":
                return self._before_cross_entropy(seen)
            case "nll_loss" | "kl_div":
                return self._instead_of_logs(seen)
            case "binary_cross_entropy_with_logits":
                return self._before_sigmoid(seen)
            case name if name in REGRESSION_LOSSES | {"binary_cross_entropy"}:
                return self._over_samples(seen) or self._out_of_reach(seen)
        return None

    def _before_cross_entropy(self, seen: SeenLoss) -> Problem | None:
        x, activation = seen.call.input, seen.call.activation
        if x.shape[min(1, x.dim() - 1)] == 1:
            return one_class()
        share, logs = distribution_shares(x, 1 if x.dim() > 1 else 0)
        if share > self.rows and activation != "log_softmax":
            return softmax_twice(share, self.rows)
        if activation in ("softmax", "log_softmax") and max(share, logs) < 1 - self.rows:
            return self._elsewhere(seen, _LOGITS + "`torch.nn.CrossEntropyLoss` has the softmax "
                                   "over the classes in it.")  # fmt: skip
        if activation == "log" and logs > self.rows:
            return self._log_of_softmax(
                logs, _LOGITS + "`torch.nn.CrossEntropyLoss` has a log-softmax in it."
            )
        if activation in CUT:
            return bounded_scores(activation)
        return None

    def _before_sigmoid(self, seen: SeenLoss) -> Problem | None:
        activation = seen.call.activation
        if activation not in SQUASHED | CUT:
            return None
        return sigmoid_after(activation)

    def _instead_of_logs(self, seen: SeenLoss) -> Problem | None:
        x, activation = seen.call.input, seen.call.activation
        is_nll = seen.function == "nll_loss"
        remedy = "Put `torch.nn.functional.log_softmax` before it, over the classes" + (
            ", or use `torch.nn.CrossEntropyLoss`." if is_nll else "."
        )
        dims = [min(1, x.dim() - 1)] if is_nll else range(min(1, x.dim() - 1), x.dim())
        shares = [distribution_shares(x, dim) for dim in dims]
        share, logs = max(s for s, _ in shares), max(found for _, found in shares)
        if logs > self.rows and activation == "log":
            return self._log_of_softmax(logs, remedy)
        if not logs < 1 - self.rows:
            return None
        if activation == "log_softmax":
            return self._elsewhere(seen, remedy)
        if not is_nll and not float(x.max()) > _ROUNDED and share <= self.rows:
            return None  # below 0 throughout: of other distributions than one over classes
        what = "probabilities" if share > self.rows else "scores"
        whose = "their logarithms" if share > self.rows else "logarithms of probabilities"
        return Problem(
            "bad",
            f"is given {what} where it wants {whose}: the exponentials of fewer than "
            f"{1 - self.rows:.0%} of the rows add up to 1",
            remedy,
            share,
            self.rows,
        )

    def _elsewhere(self, seen: SeenLoss, remedy: str) -> Problem:
        """Return that a softmax went over another dimension than the classes."""
        x, name = seen.call.input, seen.call.activation
        values = x.float().exp() if name == "log_softmax" else x
        others = [dim for dim in range(x.dim()) if dim != min(1, x.dim() - 1)]
        over = [dim for dim in others if distribution_shares(values, dim)[0] > self.rows]
        where = "another dimension" if not over else f"dimension {over[0]}"
        whose = " (the samples)" if over[:1] == [0] else ""
        return Problem(
            "bad",
            f"is given a {name.replace('_', '-')} over {where}{whose}, and not over the classes: "
            f"fewer than {1 - self.rows:.0%} of the rows add up to 1",
            remedy,
            0.0,
            1 - self.rows,
        )

    def _over_samples(self, seen: SeenLoss) -> Problem | None:
        """Return whether a softmax went over the batch, where targets add up over classes."""
        x, target = seen.call.input, seen.call.target
        if seen.call.activation != "softmax" or x.dim() < 2 or x.shape != target.shape:
            return None
        if distribution_shares(target.to(x.dtype), 1)[0] <= self.rows:
            return None
        over = distribution_shares(x, 0)[0], distribution_shares(x, 1)[0]
        if over[0] <= self.rows or over[1] >= 1 - self.rows:
            return None
        return self._elsewhere(seen, "Apply `torch.nn.functional.softmax` over the classes.")

    def _log_of_softmax(self, share: float, remedy: str) -> Problem:
        return Problem(
            "note",
            f"is given the logarithm of probabilities in 2 functions, a softmax and a log "
            f"({share:.0%} of the rows): it is -inf where a probability underflows",
            remedy,
            share,
            self.rows,
        )

    def _out_of_reach(self, seen: SeenLoss) -> Problem | None:
        columns = TargetMeasure().observe(seen.call)
        if columns is None:
            return None
        known = TargetMeasure().summarise([seen.place], columns.sums, columns.maxima)
        share = known["unreachable_fraction"][seen.place]
        if not share > self.unreachable:
            return None
        return out_of_reach(seen.call.activation, share, self.unreachable, self.bad_unreachable)


def distribution_shares(x: Tensor, dim: int) -> tuple[float, float]:
    """Return the share of rows that are probabilities, and of those whose logarithms they are.

    Args:
        x: ``(*)``.
        dim: The classes.

    Example:
        >>> distribution_shares(torch.tensor([[0.5, 0.5], [2.0, 2.0]]), 1)
        (0.5, 0.0)
        >>> distribution_shares(torch.tensor([[0.2], [0.8]]), 0)
        (1.0, 0.0)
    """
    is_short = x.dtype in (torch.float16, torch.bfloat16)
    rows = rows_of(x.detach().float().movedim(dim, -1), -1) if x.dim() > 1 else x.float()[None]
    found = distributions(rows, _ROUNDED if is_short else _EXACT)
    number, probabilities, logs = (float(each) for each in found)
    return (probabilities / number, logs / number) if number else (0.0, 0.0)
