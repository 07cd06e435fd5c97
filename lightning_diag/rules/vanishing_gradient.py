"""`VanishingGradient`: gradients that shrink on their way to the input, so early layers starve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lightning_diag.finding import Evidence, Finding, Severity
from lightning_diag.history import History
from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.depth import RECORDS, Profile, gradient_by_depth
from lightning_diag.rules.reading import depth_profile, is_stuck, shown


@dataclass(frozen=True)
class VanishingGradient(Rule):
    """Gradients that shrink on their way to the input, so that the early layers do not train.

    What it sees:
        The layers of an optimizer from input to output, over the newest 8 of at least 16 watched
        steps. A layer is starved
        if its RMS gradient is below `gradient_share` of the largest of the layers behind it, and
        so is every layer before it. If its weights also move less than `update_share` of theirs,
        it does not train: `bad` while the loss stands still, else `suspect`. Adam divides the
        gradient's size away, so its early layers may move although they see little but rounding
        errors: that is `suspect`, if gradients are below `rounding_share` and the loss has stood
        still for `patience` steps. No absolute gradient counts, since norms scale with the loss.
        Vanishing over time inside a recurrent layer does not show in its parameters.

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
    uses: ClassVar[tuple[str, ...]] = ("gradient/zero_fraction", "loss/train")

    gradient_share: float = 1e-3
    """Share of the RMS gradient of later layers below which a layer may be starved, 0 to 1.
    AutoTrainer's ratio of the first gradient to the last; the lowest that a healthy run had over
    8 watched steps was 1.8e-3."""
    update_share: float = 1e-2
    """Share of the update ratio of later layers below which a layer does not train, 0 to 1. Our
    choice: a hundredth of their speed; healthy runs with as small a gradient had more."""
    rounding_share: float = 1e-4
    """Share of the RMS gradient of later layers below which an adaptive optimizer follows noise,
    0 to 1. Our choice: ten times stricter, since the weights do move."""
    patience: int = 100
    """Steps without progress before an adaptive optimizer's starved layers count, at least 1.
    Our choice: deep sigmoid networks under Adam often stand still for some dozens of steps."""

    def __post_init__(self) -> None:
        self._require("gradient_share", "update_share", "rounding_share", least=0.0, most=1.0)
        self._require("patience", least=1, unit="step")

    def judge(self, history: History) -> list[Finding] | NotObserved:
        """See `Rule.judge`."""
        if not any(len(chain) >= 3 for chain in depth_profile(history)):
            return self.not_observed("no optimizer has three linear or convolution layers")
        if len(history) < 2 * RECORDS:
            # A last layer that starts at zero lets no gradient through in the first steps.
            return self.not_observed(f"fewer than {2 * RECORDS} steps were watched")
        for profile in gradient_by_depth(history):
            for share, is_slow in ((self.gradient_share, True), (self.rounding_share, False)):
                starved = self._starved(profile, share, is_slow=is_slow)
                severity = self._severity(history, is_slow=is_slow) if starved else None
                if severity:
                    return [self._found(profile, starved, share, severity, is_slow=is_slow)]
        return []

    def _starved(self, profile: Profile, share: float, *, is_slow: bool) -> int:
        """Return how many layers, from the input on, are starved."""
        starved = 0
        for i in range(len(profile.names) - 1):
            # An exact zero is a cut or dead path, which `missing-gradient` tells.
            if not 0 < profile.gradient[i] < share * max(profile.gradient[i + 1 :]):
                break
            if is_slow and not profile.ratio[i] < self.update_share * max(profile.ratio[i + 1 :]):
                break
            starved = i + 1
        return starved

    def _severity(self, history: History, *, is_slow: bool) -> Severity | None:
        if is_slow:
            return "bad" if is_stuck(history, 0.1, 16) else "suspect"
        return "suspect" if is_stuck(history, 0.1, self.patience) else None

    def _found(
        self, profile: Profile, starved: int, share: float, severity: Severity, *, is_slow: bool
    ) -> Finding:
        names, first, last = profile.names, profile.names[0], profile.names[starved - 1]
        behind = max(range(starved, len(names)), key=profile.gradient.__getitem__)
        value = profile.gradient[0] / profile.gradient[behind]
        which = f"`{last}` and every layer before it are" if starved > 1 else f"`{first}` is"
        moves = (
            f"moves by {shown(profile.ratio[0])} of its size a step, `{names[behind]}` by "
            f"{shown(profile.ratio[behind])}"
            if is_slow
            else "follows little but rounding errors, and the loss stands still"
        )
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
