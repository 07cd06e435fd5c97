"""`LearningRateTooHigh`: updates so large that training suffers from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.overshoot import Case, Harm
from lightning_diag.rules.reading import loss_of_weights, shown, weights


@dataclass(frozen=True)
class LearningRateTooHigh(Rule):
    """Updates so large, against the weights, that training suffers from them.

    What it sees:
        Two witnesses, and both must agree. *Updates*: in some watched steps the typical weight
        tensor changed by `ratio` of its size or more, one of the ten before a run was lost; unless
        it was, or units died with it, weights moved `travel` times their own size in such steps, or
        `jump` in one. *Harm*: the loss is not finite; after `patience` steps it is three times what
        it was at first, or has lost `lost` of a gain of at least 30 %, or is `rebound` times its
        best level while updates are still a third of `ratio`; after `standstill` steps it has not
        fallen by a tenth, or not halved while hidden sigmoids or tanhs are saturated; after twice
        as many it has not halved while the newest ten watched steps all stayed above `sustained`;
        after such updates most weights get a gradient of exactly zero; or `dead` of the units of a
        ReLU fell silent with such an update, and the loss has not halved, or weights moved as far
        as above. A loss that rose or stands counts only if some update could have changed it by
        `throw`: to first order that is at most the norm of the update times that of the gradient.
        A note where the loss has halved and not fallen to a tenth, weights moved `travel` times,
        and the newest ten steps still stay above a quarter of `sustained`. Large updates without
        harm are normal: Adam's first steps, small networks, weights behind a norm layer, a bump at
        the top of a warm-up. So are updates half of which are weight decay: that is told by
        `over-regularisation`; and what batch norm over two samples does to a loss, by
        `batch-norm-gap`. Weights that start at zero are left out.

    Why it matters:
        Steps that overshoot throw the weights to where the loss is worse; units die or saturate,
        and that outlasts the learning rate (W5, W6, W10).

    What to do:
        Divide the learning rate by 3 to 10, until updates are about a thousandth of the weights,
        or take what a range test suggests; warm it up, or clip gradients if only a few steps are
        too large. A rate that was chosen for larger batches is scaled down by `LinearScalingLR`.

    References:
        CS231n course notes, Neural Networks Part 3: ratio of updates to weights about 1e-3.
        Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677 (warm-up).
    """

    code: ClassVar[str] = "learning-rate-too-high"
    needs: ClassVar[tuple[str, ...]] = ("update/ratio", "loss/train")
    uses: ClassVar[tuple[str, ...]] = (
        "activation/saturated_fraction",
        "batch_norm/batch_size",
        "batch_norm/mean_gap",
        "dead_relu/fraction",
        "dead_relu/since_step",
        "dead_relu/window_samples",
        "gradient/norm",
        "gradient/total_norm",
        "lr/value",
        "update/norm",
    )

    ratio: float = 0.03
    """Update ratio that counts as large, 0 or more. Our choice, thirty times the usual 1e-3 of
    the CS231n notes: most healthy runs never get there, and every run that its learning rate had
    harmed did."""
    travel: float = 1.5
    """Times their own size that the weights must have moved in such steps, 0 or more. Our choice:
    after that little is left of the initial weights."""
    jump: float = 0.5
    """Update ratio that counts by itself, at least `ratio`. Our choice: half of every weight
    replaced in one step."""
    sustained: float = 0.02
    """Update ratio that ten watched steps stay above while the loss does not halve, 0 or more. Our
    choice: twenty times the usual; healthy runs that had halved their loss kept below 0.018, those
    on noisy targets, which cannot, below 0.013."""
    lost: float = 0.5
    """Share of what the loss had won, and has lost again, that counts as harm, 0 to 1. Our
    choice: a healthy loss, also a noisy one, gives back less than a third."""
    rebound: float = 3.0
    """Times its best level that a loss of a tenth of the first one or more counts as having risen,
    above 1. Three times is the usual sign of divergence (W12); healthy levels stayed below 2."""
    dead: float = 0.4
    """Share of the units of a ReLU call, dead since a large update, that counts as harm, 0 to 1
    (W5, CS231n: a learning rate set too high can kill 40 %)."""
    saturated: float = 0.5
    """Share of saturated inputs that counts as harm, 0 to 1, as in `saturated-activation`."""
    throw: float = 0.2
    """Share of its loss that some update must have been able to change, to first order, where a
    loss that is finite does not fall, 0 or more. Our choice: a loss that shorter steps did not
    lower either stayed below 0.08, and one that its steps kept up reached 2.9 and more."""
    patience: int = 48
    """Steps before a loss that rose is judged, at least 16. Our choice: healthy runs that start
    with a bump are over it after two or three dozen steps, and 16 losses make its level."""
    standstill: int = 100
    """Steps before a loss that stands where it began is judged, at least 16. Our choice: some
    runs with large updates that learn well in the end wander for several dozen steps."""

    def __post_init__(self) -> None:
        self._require("ratio", "travel", "jump", "sustained", "throw", least=0.0)
        self._require_order("ratio", "jump")
        self._require("rebound", least=1.0)
        self._require("lost", "dead", "saturated", least=0.0, most=1.0)
        self._require("patience", "standstill", least=16, unit="steps")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        loss = loss_of_weights(history)
        if isinstance(loss, str):
            return self.not_observed(loss)
        if not loss.from_start:
            return self.not_observed("the first steps of the run are not known")
        case = Case(history, loss, self)
        harm = case.harm()
        return [self._found(case, harm)] if harm and not case.is_decay() else []

    def _found(self, case: Case, harm: Harm) -> Finding:
        history, ratio = case.history, case.ratio
        large = [(v, s) for s, v in zip(*ratio, strict=True) if harm.large <= v < math.inf]
        peak, step = max(large)
        middle = median(value for value, _ in large)
        newest = history.last("update/ratio")
        known = [name for name in weights(history) if name in newest]
        first, last = large[0][1], large[-1][1]
        return Finding(
            code=self.code,
            severity=harm.severity,
            message=(
                f"Updates are too large: in {len(large)} of {len(ratio.steps)} watched steps the "
                f"typical weight changed by {shown(harm.large)} of its size or more (usual: 0.001; "
                f"median of those {shown(middle)}, at step {step:,} {shown(peak)}), and "
                f"{harm.text}."
            ),
            remedy=(
                "Divide the learning rate by 3 to 10, until `update/ratio` is about 1e-3, or take "
                "what `lightning_diag.lr_range_test` suggests. If only the first steps are too "
                "large, warm it up with `lightning_diag.WarmupLR`; if it was chosen for larger "
                "batches, scale it with `lightning_diag.LinearScalingLR`."
            ),
            places=tuple(sorted(known, key=lambda name: -newest[name])[:8]),
            steps=(first, history.steps[-1]),
            evidence=Evidence(peak, harm.large, last - first + 1, len(large)),
        )
