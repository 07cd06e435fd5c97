"""What to look for before training: one file a problem, registered here in one line each."""

from lightning_diag.checks.base import Check
from lightning_diag.checks.batch_mixing import BatchMixing
from lightning_diag.checks.batch_norm_gap import BatchNormGap
from lightning_diag.checks.bias_before_norm import BiasBeforeNorm
from lightning_diag.checks.broken_self_normalisation import BrokenSelfNormalisation
from lightning_diag.checks.cannot_overfit import CannotOverfit
from lightning_diag.checks.channels_last_input import ChannelsLastInput
from lightning_diag.checks.class_imbalance import ClassImbalance
from lightning_diag.checks.collapsed_activation import CollapsedActivation
from lightning_diag.checks.constant_feature import ConstantFeature
from lightning_diag.checks.decayed_norm_or_bias import DecayedNormOrBias
from lightning_diag.checks.double_precision_input import DoublePrecisionInput
from lightning_diag.checks.duplicate_feature import DuplicateFeature
from lightning_diag.checks.eval_mode_with_trainable_parameters import (
    EvalModeWithTrainableParameters,
)
from lightning_diag.checks.exploding_gradient import ExplodingGradient
from lightning_diag.checks.init_scale import InitScale
from lightning_diag.checks.initial_loss import InitialLoss
from lightning_diag.checks.label_out_of_range import LabelOutOfRange
from lightning_diag.checks.last_batch_of_one import LastBatchOfOne
from lightning_diag.checks.leaked_sample import LeakedSample
from lightning_diag.checks.learning_rate_too_high import LearningRateTooHigh
from lightning_diag.checks.long_epoch import LongEpoch
from lightning_diag.checks.loss_mismatch import LossMismatch
from lightning_diag.checks.lost_sample import LostSample
from lightning_diag.checks.missing_gradient import MissingGradient
from lightning_diag.checks.nondeterministic_loader import NondeterministicLoader
from lightning_diag.checks.nothing_to_train import NothingToTrain
from lightning_diag.checks.output_activation_mismatch import OutputActivationMismatch
from lightning_diag.checks.parameter_held_twice import ParameterHeldTwice
from lightning_diag.checks.parameter_not_in_optimizer import ParameterNotInOptimizer
from lightning_diag.checks.regularisation_lowers_loss import RegularisationLowersLoss
from lightning_diag.checks.repeated_augmentation import RepeatedAugmentation
from lightning_diag.checks.repeated_sample import RepeatedSample
from lightning_diag.checks.run import Outcome, chosen, run
from lightning_diag.checks.shared_layer import SharedLayer
from lightning_diag.checks.short_memory import ShortMemory
from lightning_diag.checks.slow_dataloader import SlowDataloader
from lightning_diag.checks.subject import Subject
from lightning_diag.checks.symmetric_init import SymmetricInit
from lightning_diag.checks.train_validation_shift import TrainValidationShift
from lightning_diag.checks.uncalled_module import UncalledModule
from lightning_diag.checks.uncleared_gradient import UnclearedGradient
from lightning_diag.checks.unnormalised_input import UnnormalisedInput
from lightning_diag.checks.unseen_class import UnseenClass
from lightning_diag.checks.unshuffled_training import UnshuffledTraining
from lightning_diag.checks.unstratified_split import UnstratifiedSplit
from lightning_diag.checks.untouched import untouched
from lightning_diag.checks.wrong_gradient import WrongGradient

DEFAULT_CHECKS: tuple[type[Check], ...] = (
    NothingToTrain,
    ParameterNotInOptimizer,
    ParameterHeldTwice,
    MissingGradient,
    EvalModeWithTrainableParameters,
    UncalledModule,
    SharedLayer,
    InitialLoss,
    SymmetricInit,
    InitScale,
    CollapsedActivation,
    ExplodingGradient,
    BrokenSelfNormalisation,
    ShortMemory,
    LongEpoch,
    SlowDataloader,
    LearningRateTooHigh,
    DecayedNormOrBias,
    BiasBeforeNorm,
    UnnormalisedInput,
    ChannelsLastInput,
    TrainValidationShift,
    LeakedSample,
    DoublePrecisionInput,
    LabelOutOfRange,
    UnseenClass,
    UnstratifiedSplit,
    ClassImbalance,
    UnshuffledTraining,
    LostSample,
    RepeatedSample,
    RepeatedAugmentation,
    NondeterministicLoader,
    ConstantFeature,
    DuplicateFeature,
    BatchMixing,
    BatchNormGap,
    LastBatchOfOne,
    LossMismatch,
    OutputActivationMismatch,
    UnclearedGradient,
    RegularisationLowersLoss,
    WrongGradient,
    CannotOverfit,
)
"""Every check there is, in the order in which they are asked."""

__all__ = ["DEFAULT_CHECKS", "Check", "Outcome", "Subject", "chosen", "run", "untouched"]
