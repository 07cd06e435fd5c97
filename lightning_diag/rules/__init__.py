"""What to look for in a run: one file a problem, registered here in one line each."""

from lightning_diag.rules.base import NotObserved, Rule
from lightning_diag.rules.batch_norm_gap import BatchNormGap
from lightning_diag.rules.class_imbalance import ClassImbalance
from lightning_diag.rules.collapsed_activation import CollapsedActivation
from lightning_diag.rules.constant_prediction import ConstantPrediction
from lightning_diag.rules.dead_embedding import DeadEmbedding
from lightning_diag.rules.dead_relu import DeadRelu
from lightning_diag.rules.diverging_loss import DivergingLoss
from lightning_diag.rules.embedding_collapse import EmbeddingCollapse
from lightning_diag.rules.eval_mode_with_trainable_parameters import EvalModeWithTrainableParameters
from lightning_diag.rules.exploding_gradient import ExplodingGradient
from lightning_diag.rules.frozen_but_changing import FrozenButChanging
from lightning_diag.rules.init_scale import InitScale
from lightning_diag.rules.initial_loss import InitialLoss
from lightning_diag.rules.learning_rate_too_high import LearningRateTooHigh
from lightning_diag.rules.learning_rate_too_low import LearningRateTooLow
from lightning_diag.rules.loss_mismatch import LossMismatch
from lightning_diag.rules.loss_oscillation import LossOscillation
from lightning_diag.rules.loss_plateau import LossPlateau
from lightning_diag.rules.loss_spike import LossSpike
from lightning_diag.rules.metric_loss_disagreement import MetricLossDisagreement
from lightning_diag.rules.missing_gradient import MissingGradient
from lightning_diag.rules.noisy_gradient import NoisyGradient
from lightning_diag.rules.non_finite import NonFinite
from lightning_diag.rules.not_zero_centred import NotZeroCentred
from lightning_diag.rules.output_activation_mismatch import OutputActivationMismatch
from lightning_diag.rules.over_regularisation import OverRegularisation
from lightning_diag.rules.overfitting import Overfitting
from lightning_diag.rules.parameter_not_in_optimizer import ParameterNotInOptimizer
from lightning_diag.rules.rank_divergence import RankDivergence
from lightning_diag.rules.saturated_activation import SaturatedActivation
from lightning_diag.rules.slow_dataloader import SlowDataloader
from lightning_diag.rules.suspicious_labels import SuspiciousLabels
from lightning_diag.rules.symmetric_init import SymmetricInit
from lightning_diag.rules.train_validation_shift import TrainValidationShift
from lightning_diag.rules.underfitting import Underfitting
from lightning_diag.rules.unnormalised_input import UnnormalisedInput
from lightning_diag.rules.unscaled_target import UnscaledTarget
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
    NotZeroCentred,
    NoisyGradient,
    CollapsedActivation,
    BatchNormGap,
    DeadEmbedding,
    EmbeddingCollapse,
    EvalModeWithTrainableParameters,
    FrozenButChanging,
    InitScale,
    RankDivergence,
    SlowDataloader,
    SymmetricInit,
    TrainValidationShift,
    UnnormalisedInput,
    DivergingLoss,
    LossOscillation,
    LossPlateau,
    LossSpike,
    MetricLossDisagreement,
    OverRegularisation,
    Overfitting,
    Underfitting,
    ClassImbalance,
    ConstantPrediction,
    InitialLoss,
    LossMismatch,
    OutputActivationMismatch,
    SuspiciousLabels,
    UnscaledTarget,
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
