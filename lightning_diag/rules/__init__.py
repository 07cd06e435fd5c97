"""What to look for in a run: one file a problem, registered here in one line each."""

from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.dead_relu import DeadRelu
from lightning_diag.rules.exploding_gradient import ExplodingGradient
from lightning_diag.rules.learning_rate_too_high import LearningRateTooHigh
from lightning_diag.rules.learning_rate_too_low import LearningRateTooLow
from lightning_diag.rules.missing_gradient import MissingGradient
from lightning_diag.rules.non_finite import NonFinite
from lightning_diag.rules.parameter_not_in_optimizer import ParameterNotInOptimizer
from lightning_diag.rules.saturated_activation import SaturatedActivation
from lightning_diag.rules.vanishing_gradient import VanishingGradient

DEFAULT_RULES: tuple[type[Rule], ...] = (
    NonFinite,
    ExplodingGradient,
    VanishingGradient,
    MissingGradient,
    ParameterNotInOptimizer,
    DeadRelu,
    SaturatedActivation,
    LearningRateTooHigh,
    LearningRateTooLow,
)
"""Every rule that `Doctor` judges by if it is told nothing else."""

__all__ = ["DEFAULT_RULES", "NotObserved", "Rule", "default_rules"]


def default_rules() -> tuple[Rule, ...]:
    """Return one of each rule, at its default thresholds.

    Example:
        >>> [rule.code for rule in default_rules()][:2]
        ['non-finite', 'exploding-gradient']
    """
    return tuple(rule() for rule in DEFAULT_RULES)
