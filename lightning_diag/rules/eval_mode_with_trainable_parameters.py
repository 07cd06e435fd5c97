"""`EvalModeWithTrainableParameters`: layers that train in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.reading import listing


@dataclass(frozen=True)
class EvalModeWithTrainableParameters(Rule):
    """Trained layers in evaluation mode: without dropout, and with statistics that stand still.

    What it sees:
        Norms with running statistics, dropout, and layers with dropout of their own that are in
        evaluation mode at a training step, with most of the parameters around them trained; a
        module that was put so alone, on purpose, does not count, nor do frozen backbones and those
        with adapters. If only layers without a mode of their own are concerned, it is a `note`.

    Why it matters:
        Dropout does nothing, and batch norm divides by statistics that no longer fit, or that were
        never taken. Lightning leaves the mode as it is when the fit begins, and pretrained models
        often come in evaluation mode (P48).

    What to do:
        Call `.train()` on the module before the fit, or in `on_train_epoch_start`.

    References:
        PyTorch documentation, nn.Module.train.
        Lightning 2.2 changelog: the Trainer keeps the mode of each module.
    """

    code: ClassVar[str] = "eval-mode-with-trainable-parameters"
    needs: ClassVar[tuple[str, ...]] = ("setup/eval_mode",)
    uses: ClassVar[tuple[str, ...]] = ("setup/eval_share",)

    records: int = 2
    """Newest watched steps that must agree, at least 1. Our choice: one may be a hook's that puts
    the mode back."""
    share: float = 0.5
    """Share of the trained parameters in evaluation mode from which on it is noted, 0 to 1, though
    nothing that depends on the mode was seen. Our choice: then it is no detail."""

    def __post_init__(self) -> None:
        self._require("records", least=1, unit="watched step")
        self._require("share", least=0.0, most=1.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        whole = history.last("setup/eval_share").get("", 0.0)
        if not history.last("setup/eval_mode").get("") and whole < self.share:
            return []
        window = history.window("setup/eval_mode", self.records)
        if len(window) < self.records:
            return self.not_observed(f"fewer than {self.records} steps were watched")
        places = [
            place
            for place in window[-1][1]
            if place and all(seen.get(place, 0.0) > 0 for _, seen in window)
        ]
        shares = [s.get("", 0.0) for _, s in history.window("setup/eval_share", self.records)]
        if not places and min(shares, default=0.0) < self.share:
            return []
        begun, last = self._since(history, bool(places)), history.steps[-1]
        what = (
            f"{listing(places)} and what is trained around {'it' if len(places) == 1 else 'them'}"
            if places
            else f"{whole:.0%} of the trained parameters"
        )
        effect = (
            "so dropout is off and running statistics stand still"
            if places
            else "which changes nothing as long as no dropout or batch norm is among them"
        )
        return [
            Finding(
                code=self.code,
                severity="suspect" if places else "note",
                message=(
                    f"In evaluation mode while training, since step {begun:,}: {what}, {effect}."
                ),
                remedy="Call `.train()` on it before the fit, or in `on_train_epoch_start`.",
                places=tuple(places),
                steps=(begun, last),
                evidence=Evidence(
                    float(len(places)) if places else whole,
                    0.0 if places else self.share,
                    last - begun + 1,
                    len(window),
                ),
            )
        ]

    def _since(self, history: History, is_felt: bool) -> int:  # noqa: FBT001  # yes or no
        series = history.series("setup/eval_mode" if is_felt else "setup/eval_share")
        begun = history.steps[-1]
        for step, value in zip(reversed(series.steps), reversed(series.values), strict=True):
            if value <= 0:
                break
            begun = step
        return begun
