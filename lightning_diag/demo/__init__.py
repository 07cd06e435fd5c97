"""Three short trainings on real handwritten digits, and what `Doctor` says of them."""

from lightning_diag.demo.experiments import EXPERIMENTS, Classifier, Experiment, digits
from lightning_diag.demo.run import dead_share, run, train

__all__ = ["EXPERIMENTS", "Classifier", "Experiment", "dead_share", "digits", "run", "train"]
