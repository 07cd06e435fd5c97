"""What the names of metrics say."""

from __future__ import annotations

import pytest

from lightning_diag.measure.logged import better, loss_among, words


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("val_loss", "min"),
        ("val/loss_epoch", "min"),
        ("valid_acc", "max"),
        ("val_top5", "max"),
        ("val_acc1", "max"),
        ("BinaryF1Score", "max"),
        ("MulticlassAccuracy", "max"),
        ("val_MeanSquaredError", "min"),
        ("val/mAP", "max"),
        ("val_wer", "min"),
        ("word_error_rate", "min"),
        ("val_perplexity/dataloader_idx_1", "min"),
        ("r2", "max"),
        ("val_loss/accuracy", "max"),
        ("learning_rate", ""),
        ("hidden", ""),
        ("val_x", ""),
        ("", ""),
    ],
)
def test_names_tell_which_end_is_the_good_one(name: str, end: str) -> None:
    assert better(name) == end


def test_what_the_metric_says_of_itself_counts_more() -> None:
    assert better("val_loss", higher_is_better=True) == "max"
    assert better("val_acc", higher_is_better=False) == "min"


@pytest.mark.parametrize(
    ("names", "loss"),
    [
        (["val_acc", "val_loss"], "val_loss"),
        (["val_recon_loss", "val_kl_loss", "val_loss"], "val_loss"),
        (["val/loss", "val_loss/dataloader_idx_1"], "val/loss"),
        (["val_nll", "val_acc"], "val_nll"),
        (["valid_bce"], "valid_bce"),
        (["val_acc", "closest"], None),
        ([], None),
    ],
)
def test_the_loss_is_the_one_called_so(names: list[str], loss: str | None) -> None:
    assert loss_among(names) == loss


def test_words_are_apart_at_signs_and_capitals() -> None:
    assert words("val/MeanIoU_Acc-5") == ["val", "mean", "iou", "acc", "5"]
    assert words("BinaryF1Score") == ["binary", "f1", "score"]
    assert words("valR2") == ["val", "r2"]
