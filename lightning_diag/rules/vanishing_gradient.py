"""`VanishingGradient`: gradients that shrink on their way to the input, so early layers starve."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.constant_prediction import ConstantPrediction
from lightning_diag.rules.depth import (
    RECORDS,
    Profile,
    gradient_by_depth,
    moved,
    stands_still,
)
from lightning_diag.rules.memory import Loop, loops
from lightning_diag.rules.reading import depth_profile, is_stuck, parameters, shown


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """Gradients that shrink on their way to the input, so that the early layers do not train.

    What it sees:
        The layers of an optimizer from input to output, over the newest 8 of at least 16 watched
        steps. A layer is starved if its RMS gradient is below `gradient_share` of the largest of
        the layers behind it, and so is every layer before it. If its weights also move less than
        `update_share` of theirs, it does not train: `bad` while the loss stands still, else
        `suspect`. `stuck_share` is enough for `suspect` once the loss has stood still for
        `patience` steps. Adam divides the gradient's size away, so its early layers may move
        although they see little but rounding errors: that is `suspect`, if gradients are below
        `rounding_share` and the loss has stood still for `patience` steps. It is as well, if they
        are below `gradient_share` and shrink at each layer, and the loss has stood still for
        `standstill` steps, though some weight moved by `moved` of its size: such a plateau may
        end. No absolute gradient counts, since norms scale with the loss.

        *Over time*: a layer that a loop calls again and again, beginning with zeros, and that
        leaves less than `gradient_share` of a state from the first step to the last, while the loss
        stands still for `patience` steps. Of a `torch.nn.RNNCell` only the weights say what it
        leaves: there they must have moved by `moved`, and `constant-prediction` must hold too.
        Loops with gates, and fused ones (`torch.nn.RNN`), are not judged.

    Why it matters:
        Layers near the input stay as they were initialised, and all others learn from what random
        layers let through (W1).

    What to do:
        Use ReLU or GELU instead of sigmoid or tanh, normalisation or skip connections between
        layers, and initial weights that fit the activation (He for ReLU, Xavier for tanh).

    References:
        Hochreiter, Untersuchungen zu dynamischen neuronalen Netzen, 1991.
        Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
        networks, AISTATS 2010.
    """

    code: ClassVar[str] = "vanishing-gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradient/norm", "update/ratio")
    uses: ClassVar[tuple[str, ...]] = (
        "activation/variance_gain",
        "gradient/zero_fraction",
        "loss/train",
        "output/sample_spread",
        "output/std",
        "update/weight_norm",
    )

    gradient_share: float = 1e-3
    """Share of the RMS gradient of later layers below which a layer may be starved, 0 to 1.
    AutoTrainer's ratio of the first gradient to the last; the lowest that a healthy run had over
    8 watched steps was 1.8e-3."""
    stuck_share: float = 5e-3
    """The same where the loss has stood still for `patience` steps, at least `gradient_share`. Our
    choice: the healthy runs that were looked at had 8e-3 and more in eight watched steps, whatever
    their loss did, but for the few that `gradient_share` tells of."""
    update_share: float = 1e-2
    """Share of the update ratio of later layers below which a layer does not train, 0 to 1. Our
    choice: a hundredth of their speed; healthy runs with as small a gradient had more."""
    rounding_share: float = 1e-4
    """Share of the RMS gradient of later layers below which an adaptive optimizer follows noise,
    0 to 1. Our choice: ten times stricter, since the weights do move."""
    patience: int = 100
    """Steps without progress before an adaptive optimizer's starved layers count, at least 1.
    Our choice: deep sigmoid networks under Adam often stand still for some dozens of steps."""
    standstill: int = 48
    """Steps without progress that are enough where gradients shrink at each layer and weights move
    all the same, at least 32. Our choice: of 147 networks that learn, none was like that.
    """
    moved: float = 0.25
    """Share of its size that some weight must have moved by then, at least 0. Our choice: less may
    be a low learning rate, or its warm-up."""

    def __post_init__(self) -> None:
        self._require("gradient_share", "update_share", "rounding_share", least=0.0, most=1.0)
        self._require("stuck_share", least=0.0, most=1.0)
        self._require_order("gradient_share", "stuck_share")
        self._require("patience", least=1, unit="step")
        self._require("standstill", least=32, unit="steps")
        self._require("moved", least=0.0)

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        is_deep = any(len(chain) >= 3 for chain in depth_profile(history))
        recurrent = loops(history)
        if not is_deep and not recurrent:
            return self.not_observed("no optimizer has three linear or convolution layers")
        if len(history) < 2 * RECORDS:
            # A last layer that starts at zero lets no gradient through in the first steps.
            return self.not_observed(f"fewer than {2 * RECORDS} steps were watched")
        profiles = gradient_by_depth(history) if is_deep else []
        found = next((f for profile in profiles if (f := self._in_depth(history, profile))), None)
        found = found or self._over_time(history, recurrent)
        return [found] if found else []

    def _in_depth(self, history: History, profile: Profile) -> Finding | None:
        for share, is_slow, patience in (
            (self.gradient_share, True, 0),
            (self.stuck_share, True, self.patience),
            (self.rounding_share, False, self.patience),
        ):
            starved = self._starved(profile, share, is_slow=is_slow)
            if starved and (not patience or is_stuck(history, 0.1, patience)):
                is_bad = not patience and is_stuck(history, 0.1, 16)
                severity: Severity = "bad" if is_bad else "suspect"
                return self._found(profile, starved, share, severity, is_slow=is_slow)
        starved = self._starved(profile, self.gradient_share, is_slow=False)
        if not starved or not profile.is_steady or not stands_still(history, self.standstill):
            return None
        if moved(history) < self.moved:
            return None
        return self._found(profile, starved, self.gradient_share, "suspect", is_slow=False)

    def _over_time(self, history: History, recurrent: list[Loop]) -> Finding | None:
        lost = [loop for loop in recurrent if loop.kept < self.gradient_share]
        if not lost or not is_stuck(history, 0.1, self.patience):
            return None
        if not any(loop.is_measured for loop in lost) and not self._is_blind(history):
            return None
        worst, last = min(lost, key=lambda loop: loop.kept), history.steps[-1]
        first = history.steps[-RECORDS]
        return Finding(
            code=self.code,
            severity="suspect",
            message=(
                f"Gradients vanish over time: `{worst.module}` is called {worst.calls} times in a "
                f"row, which leaves {shown(worst.kept)} of a state at the first step (threshold "
                f"{self.gradient_share:g}), and as little of the gradient on its way back. The "
                "loss stands still."
            ),
            remedy=(
                "Use `torch.nn.LSTM` or `torch.nn.GRU`, or begin with recurrent weights from "
                "`torch.nn.init.orthogonal_`, which keep a state's size."
            ),
            places=tuple(
                name
                for name, known in parameters(history).items()
                if known["layer"] in {loop.module for loop in lost} and len(known["shape"]) >= 2
            ),
            steps=(first, last),
            evidence=Evidence(worst.kept, self.gradient_share, last - first + 1, RECORDS),
        )

    def _is_blind(self, history: History) -> bool:
        """Return whether all samples get the same answer, although weights move."""
        if moved(history) < self.moved:
            return False
        same = ConstantPrediction().check(history)
        return not isinstance(same, NotObserved) and bool(same)

    def _starved(self, profile: Profile, share: float, *, is_slow: bool) -> int:
        """Return how many layers, from the input on, are starved."""
        starved = 0
        behind = list(accumulate(reversed(profile.gradient), max))[::-1]
        for i in range(len(profile.names) - 1):
            # An exact zero is a cut or dead path, which `missing-gradient` tells.
            if not 0 < profile.gradient[i] < share * behind[i + 1]:
                break
            if is_slow and not profile.ratio[i] < self.update_share * max(profile.ratio[i + 1 :]):
                break
            starved = i + 1
        return starved

    def _found(
        self, profile: Profile, starved: int, share: float, severity: Severity, *, is_slow: bool
    ) -> Finding:
        names, first, last = profile.names, profile.names[0], profile.names[starved - 1]
        behind = max(range(starved, len(names)), key=profile.gradient.__getitem__)
        value = profile.gradient[0] / profile.gradient[behind]
        which = f"`{last}` and every layer before it are" if starved > 1 else f"`{first}` is"
        moves = f"moves by {shown(profile.ratio[0])} of its size a step"
        if is_slow:
            moves += f", `{names[behind]}` by {shown(profile.ratio[behind])}"
        elif value < self.rounding_share:
            moves = "follows little but rounding errors, and the loss stands still"
        else:
            moves += ", and the loss stands still"
        return Finding(
            code=self.code,
            severity=severity,
            message=(
                f"Gradients vanish toward the input: {which} starved. The RMS gradient of "
                f"`{first}` is {shown(value)} of that of `{names[behind]}` (threshold {share:g}); "
                f"`{first}` {moves} (medians of {profile.records} watched steps)."
            ),
            remedy=(
                "Use `torch.nn.ReLU` or `torch.nn.GELU` with `torch.nn.init.kaiming_normal_`, or "
                "put `torch.nn.BatchNorm1d` or skip connections between the layers."
            ),
            places=tuple(names[:starved]),
            steps=profile.steps,
            evidence=Evidence(
                value, share, profile.steps[1] - profile.steps[0] + 1, profile.records
            ),
        )
