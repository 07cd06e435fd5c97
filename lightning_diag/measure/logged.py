"""What the names of logged metrics say: which is the loss, and whether more is better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Better = Literal["max", "min", ""]
"""Which end of a metric is the good one; empty if its name does not tell."""

_MIN = frozenset(
    {
        "loss", "losses", "error", "err", "errors", "mse", "rmse", "mae", "mape", "smape", "msle",
        "rmsle", "nll", "ce", "bce", "xent", "perplexity", "ppl", "wer", "cer", "ter",
        "fid", "kid", "lpips", "brier", "ece", "mce", "logloss", "bpd", "bpc", "bits",
        "divergence", "distance", "dist", "kl", "regret", "eer", "hinge", "deviance", "cost",
        "epe", "fpr", "fnr"
    }
)  # fmt: skip
_MAX = frozenset(
    {
        "acc", "accuracy", "accuracies", "top", "f", "f1", "fbeta", "auc", "auroc", "auprc",
        "prauc", "rocauc", "ap", "map", "precision", "recall", "sensitivity", "specificity",
        "iou", "miou", "jaccard", "dice", "psnr", "ssim", "bleu", "rouge", "meteor", "r2", "mcc",
        "kappa", "pearson", "spearman", "kendall", "correlation", "corr", "reward", "rewards",
        "score", "ndcg", "mrr", "hit", "hits", "tpr", "tnr", "elbo", "similarity",
        "r2score"
    }
)  # fmt: skip
_LOSS = ("loss", "losses", "nll", "xent", "logloss", "bce", "ce")


def words(name: str) -> list[str]:
    """Return the words of a metric's name, in lower case and without the numbers behind them.

    Example:
        >>> words("val/BinaryF1Score_epoch"), words("valid_top5")
        (['val', 'binary', 'f1', 'score'], ['valid', 'top'])
    """
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z0-9])", "_", name)
    found = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", apart) if word]
    kept = [w if w in _MIN | _MAX else w.rstrip("0123456789") or w for w in found]
    return [word for word in kept if word not in ("epoch", "step")]


def better(name: str, higher_is_better: bool | None = None) -> Better:  # noqa: FBT001  # of a Metric
    """Return which end of a metric is the good one.

    Args:
        name: As it was logged; its last telling word counts.
        higher_is_better: What the metric itself says.

    Example:
        >>> better("val_acc"), better("val/loss"), better("val_x")
        ('max', 'min', '')
    """
    if higher_is_better is not None:
        return "max" if higher_is_better else "min"
    for word in reversed(words(name)):
        if word in _MIN:
            return "min"
        if word in _MAX:
            return "max"
    return ""


def loss_among(names: Sequence[str]) -> str | None:
    """Return the metric that is the loss as a whole, None if none is called so.

    Example:
        >>> loss_among(["val_acc", "val_kl_loss", "val_loss"])
        'val_loss'
    """
    for word in _LOSS:
        found = [name for name in names if word in words(name)]
        if found:
            return min(found, key=lambda name: len(words(name)))
    return None
