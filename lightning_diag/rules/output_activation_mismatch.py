"""`OutputActivationMismatch`: an output that is not what the loss function takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
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
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.calls import REGRESSION, Call, looks, loss_calls


@dataclass(frozen=True)
class OutputActivationMismatch(Rule):
    """A prediction that is not what the loss function takes.

    What it sees:
        What each loss function was given, and which function that came out of. *Twice*: softmax
        before a cross-entropy, or sigmoid before `binary_cross_entropy_with_logits`, which apply
        it themselves; softmax is also known by its numbers (rows from 0 that add up to 1). A
        log-softmax before a cross-entropy changes nothing, so it is not mentioned. *Not at all*:
        scores or probabilities where `nll_loss` or `kl_div` want logarithms of probabilities.
        *Cut off*: a cross-entropy of what a ReLU, tanh or sigmoid has bounded, or targets of a
        regression that the output's activation function cannot reach, `unreachable` of them. A
        cross-entropy over one class is always 0. It must be so in each of `records` looks.

    Why it matters:
        The loss cannot come near 0 or its gradients are weak where the network is wrong, so
        training is slow or stops far from what is possible; nothing else shows it.

    What to do:
        Give each loss what its documentation asks for, and apply softmax or sigmoid only where
        predictions are used.

    References:
        PyTorch documentation of `CrossEntropyLoss`, `NLLLoss`, `BCEWithLogitsLoss`, `KLDivLoss`.
        Cao et al., DeepFD: Automated Fault Diagnosis and Localization for Deep Learning Programs,
        ICSE 2022, arXiv:2205.01938 (wrong activations and losses among the commonest faults).
    """

    code: ClassVar[str] = "output-activation-mismatch"
    needs: ClassVar[tuple[str, ...]] = ("output/probability_fraction",)
    uses: ClassVar[tuple[str, ...]] = (
        "output/log_probability_fraction",
        "target/unreachable_fraction",
    )

    rows: float = 0.99
    """Share of rows that must be probabilities, 0 to 1, to count as all of them; one less this
    share counts as none. Our choice: it is all or nothing but for rounding."""
    unreachable: float = 0.05
    """Share of regression targets out of reach that counts, 0 to 1. Our choice: fewer may be
    outliers that somebody cuts off on purpose."""
    bad_unreachable: float = 0.25
    """The same for `bad`, at least `unreachable` and at most 1. Our choice: a quarter of the
    targets is no tail."""
    records: int = 3
    """Looks in a row that must agree, at least 1. Our choice: three span the first steps, so that
    an odd batch says nothing."""

    def __post_init__(self) -> None:
        self._require("rows", "unreachable", "bad_unreachable", least=0.0, most=1.0)
        self._require_order("unreachable", "bad_unreachable")
        self._require("records", least=1, unit="look")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        calls = loss_calls(history)
        found = {
            place: problem
            for place, call in calls.items()
            if (problem := self._problem(history, place, call)) is not None
        }
        if not found:
            return []
        worst = min(found, key=lambda place: found[place].severity != "bad")
        problem, window = found[worst], history.window("output/mean", self.records)
        same = [worst, *(p for p in found if p != worst)]
        return [
            Finding(
                code=self.code,
                severity=problem.severity,
                message=(
                    f"`{worst}` {problem.text} (in each of {self.records} looks, the last at step "
                    f"{window[-1][0]:,})."
                ),
                remedy=problem.remedy,
                places=tuple(same),
                steps=(history.steps[0], window[-1][0]),
                evidence=Evidence(
                    problem.value, problem.threshold, window[-1][0] + 1, self.records
                ),
            )
        ]

    def _problem(self, history: History, place: str, call: Call) -> Problem | None:
        function = call["function"]
        if function == "cross_entropy":
            return self._before_cross_entropy(history, place, call)
        if function in ("nll_loss", "kl_div"):
            return self._instead_of_logs(history, place, call)
        if function == "binary_cross_entropy_with_logits":
            return self._before_sigmoid(history, place, call)
        return self._out_of_reach(history, place, call) if function in REGRESSION else None

    def _all(self, history: History, metric: str, place: str, least: float) -> float | None:
        """Return the smallest number of the newest looks if it is above `least`."""
        seen = [value for _, value in looks(history, metric, place, self.records)]
        if len(seen) < self.records or not min(seen) > least:
            return None
        return min(seen)

    def _none(self, history: History, metric: str, place: str) -> bool:
        seen = [value for _, value in looks(history, metric, place, self.records)]
        return len(seen) >= self.records and max(seen) < 1 - self.rows

    def _is_seen(self, history: History, place: str) -> bool:
        return len(looks(history, "output/mean", place, self.records)) >= self.records

    def _before_cross_entropy(self, history: History, place: str, call: Call) -> Problem | None:
        activation = call["activation"]
        if call["classes"] == 1 and self._is_seen(history, place):
            return one_class()
        share = self._all(history, "output/probability_fraction", place, self.rows)
        if share is not None and activation != "log_softmax":
            return softmax_twice(share, self.rows)
        if activation in CUT and self._is_seen(history, place):
            return bounded_scores(activation)
        return None

    def _before_sigmoid(self, history: History, place: str, call: Call) -> Problem | None:
        activation = call["activation"]
        if activation not in SQUASHED | CUT or not self._is_seen(history, place):
            return None
        return sigmoid_after(activation)

    def _instead_of_logs(self, history: History, place: str, call: Call) -> Problem | None:
        if not self._none(history, "output/log_probability_fraction", place):
            return None
        share = self._all(history, "output/probability_fraction", place, self.rows)
        if share is not None:
            what = "probabilities where it wants their logarithms"
        elif call["activation"] == "log_softmax":
            what = "a log-softmax over another dimension than that of the classes"
        else:
            what = "scores where it wants logarithms of probabilities"
        return Problem(
            "bad",
            f"is given {what}: the exponentials of fewer than {1 - self.rows:.0%} of the rows add "
            "up to 1",
            "Put `torch.nn.functional.log_softmax` before it, over the classes"
            + (", or use `torch.nn.CrossEntropyLoss`." if call["function"] == "nll_loss" else "."),
            share or 0.0,
            self.rows,
        )

    def _out_of_reach(self, history: History, place: str, call: Call) -> Problem | None:
        share = self._all(history, "target/unreachable_fraction", place, self.unreachable)
        if share is None:
            return None
        return out_of_reach(call["activation"], share, self.unreachable, self.bad_unreachable)
