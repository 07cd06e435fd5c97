"""The loss of each sample against a slow reference, and what is told of the worst (W13)."""

from __future__ import annotations

import base64
import gc
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_diag.measure.base import LossCall
from lightning_diag.measure.batch_samples import Samples
from lightning_diag.measure.examples import ExampleMeasure, Look, examples, look, worst
from lightning_diag.measure.sample_loss import sample_losses

close = pytest.approx


def called(function: str, x: Tensor, target: Tensor, **more: Any) -> LossCall:
    return LossCall(f"{function}#0", function, "loss", 1, x, None, target=target, **more)


def randoms(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, of: int = 3) -> Tensor:
    return torch.randint(of, shape, generator=torch.Generator().manual_seed(1))


CASES: dict[str, tuple[str, Tensor, Tensor, dict[str, Any]]] = {
    "classes": ("cross_entropy", randoms(6, 3), classes(6), {}),
    "pixels": ("cross_entropy", randoms(4, 3, 5, 5), classes(4, 5, 5), {}),
    "tokens": ("cross_entropy", randoms(4, 3, 7), classes(4, 7), {}),
    "soft labels": ("cross_entropy", randoms(5, 3), randoms(5, 3, seed=2).softmax(1), {}),
    "soft pixels": ("cross_entropy", randoms(2, 3, 4), randoms(2, 3, 4, seed=2).softmax(1), {}),
    "log probabilities": ("nll_loss", randoms(6, 3).log_softmax(1), classes(6), {}),
    "logits of one": ("binary_cross_entropy_with_logits", randoms(6), classes(6, of=2).float(), {}),
    "logits": ("binary_cross_entropy_with_logits", randoms(6, 4), randoms(6, 4).sigmoid(), {}),
    "probabilities": ("binary_cross_entropy", randoms(6, 1).sigmoid(), torch.ones(6, 1), {}),
    "squares": ("mse_loss", randoms(6, 2, 3), randoms(6, 2, 3, seed=5), {}),
    "distances": ("l1_loss", randoms(6, 1), randoms(6, 1, seed=5), {}),
    "smooth": ("smooth_l1_loss", 3 * randoms(6, 2), randoms(6, 2, seed=5), {"beta": 0.5}),
    "huber": ("huber_loss", 3 * randoms(6, 2), randoms(6, 2, seed=5), {"delta": 0.5}),
}


def losses(case: str) -> tuple[list[float], list[float]]:
    """Return what is found, and the loss of one sample at a time as torch itself reduces it."""
    function, x, target, options = CASES[case]
    found = sample_losses(called(function, x, target, scale=next(iter(options.values()), 1.0)))
    assert found is not None
    compute = getattr(functional, function)
    one_by_one = [compute(x[i : i + 1], target[i : i + 1], **options) for i in range(len(x))]
    return found.losses.tolist(), [float(loss) for loss in one_by_one]


@pytest.mark.parametrize("case", CASES)
def test_each_sample_has_the_loss_that_torch_gives_it_alone(case: str) -> None:
    found, expected = losses(case)
    assert found == close(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_will_do(dtype: torch.dtype) -> None:
    x, y = randoms(6, 3).to(dtype), classes(6)
    found = sample_losses(called("cross_entropy", x, y))
    assert found is not None
    expected = [
        float(functional.cross_entropy(x[i : i + 1].double(), y[i : i + 1])) for i in range(6)
    ]
    assert found.losses.tolist() == close(expected, rel=1e-5)


def test_ignored_targets_do_not_count() -> None:
    """A sample with none left has no loss; one with some has the mean over these."""
    x, y = randoms(3, 4, 5), classes(3, 5, of=4)
    y[0] = 9
    y[1, :3] = 9
    call = called("cross_entropy", x, y, ignore_index=9)
    found = sample_losses(call)
    assert found is not None
    kept = [functional.cross_entropy(x[i].T, y[i], ignore_index=9) for i in (1, 2)]
    assert found.losses[0] == -math.inf
    assert found.losses[1:].tolist() == close([float(loss) for loss in kept])
    told = examples([taken(call)], {})
    assert sorted(one["sample"] for one in told) == [1, 2]
    right = (x[1].argmax(0) == y[1])[3:].float().mean()
    assert next(one["correct"] for one in told if one["sample"] == 1) == close(float(right))


@pytest.mark.parametrize(
    ("function", "x", "target"),
    [
        ("cross_entropy", randoms(3), torch.tensor(1)),  # one sample without a batch
        ("mse_loss", randoms(6, 1), randoms(6)),  # shapes that broadcast to all pairs
        ("mse_loss", randoms(), randoms()),
        ("kl_div", randoms(6, 3), randoms(6, 3)),
        ("triplet_margin_loss", randoms(6, 3), torch.empty(0)),
        ("l1_loss", torch.empty(0, 3), torch.empty(0, 3)),
    ],
)
def test_other_losses_are_left_out(function: str, x: Tensor, target: Tensor) -> None:
    assert sample_losses(called(function, x, target)) is None


def test_large_predictions_are_thinned_by_position_or_by_row() -> None:
    pixels = called("cross_entropy", randoms(2, 4, 1024, 1024), classes(2, 1024, 1024))
    found = sample_losses(pixels)
    assert found is not None
    assert found.every == 1
    assert found.prediction.numel() <= 1 << 21
    assert len(found.losses) == 2
    rows = called("cross_entropy", randoms(1 << 19, 8), classes(1 << 19, of=8))
    found = sample_losses(rows)
    assert found is not None
    assert (found.every, len(found.losses)) == (2, 1 << 18)
    told = examples([taken(rows)], {})
    expected = functional.cross_entropy(rows.input, rows.target, reduction="none")
    assert told[0]["loss"] == close(float(expected[::2].max()), rel=1e-5)
    assert told[0]["sample"] == 2 * int(expected[::2].argmax())


def taken(call: LossCall, batch: Any = (), *, with_content: bool = True) -> Look:
    found = sample_losses(call)
    assert found is not None
    return look(call, found, Samples(batch), 7, with_content=with_content)


def test_the_worst_are_told_with_target_prediction_and_probability() -> None:
    x = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 4.0]])
    y = torch.tensor([0, 1, 2])
    images = torch.linspace(0, 1, 3 * 16).reshape(3, 1, 4, 4)
    first, second, third = examples(
        [taken(called("cross_entropy", x, y), (images, y))], {"step": 5}
    )
    assert (first["sample"], second["sample"], third["sample"]) == (1, 0, 2)
    assert (first["target"], first["prediction"]) == (1, 0)
    assert first["probability"] == close(math.exp(9) / (math.exp(9) + 2), rel=1e-5)
    assert first["loss"] == close(math.log(math.exp(9) + 2), rel=1e-5)
    assert (first["step"], first["batch"], first["index"], first["position"]) == (5, 7, None, None)
    assert first["shape"] == [4, 4, 1]
    assert first["numbers"] is None
    expected = (images[1] * 255).round().to(torch.uint8)
    assert base64.b64decode(first["pixels"]) == expected.numpy().tobytes()


@pytest.mark.parametrize(
    ("function", "x", "target", "told"),
    [
        ("mse_loss", [[2.0], [0.5]], [[0.0], [0.0]], (0.0, 2.0, None)),
        ("mse_loss", [[2.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], ([0, 1], [2, 1], None)),
        ("binary_cross_entropy", [0.9, 0.6], [0.0, 1.0], (0, 1, 0.9)),
        ("binary_cross_entropy", [[0.9, 0.5]], [[0.0, 1.0]], ([0, 1], [0.9, 0.5], None)),
        ("nll_loss", [[-3.0, -0.1], [-1.0, -0.5]], [0, 1], (0, 1, math.exp(-0.1))),
    ],
)
def test_every_kind_of_target_is_told(
    function: str, x: list[Any], target: list[Any], told: tuple[Any, Any, float | None]
) -> None:
    first = examples([taken(called(function, torch.tensor(x), torch.tensor(target)))], {})[0]
    assert first["target"] == close(told[0])
    assert first["prediction"] == close(told[1])
    assert first["probability"] == (None if told[2] is None else close(told[2], rel=1e-5))


def test_targets_of_many_numbers_are_not_told() -> None:
    x = randoms(4, 9)
    one = examples([taken(called("mse_loss", x, -x))], {})[0]
    assert (one["target"], one["prediction"], one["correct"]) == (None, None, None)
    yes = (x > 0.3).float()
    one = examples([taken(called("binary_cross_entropy_with_logits", x, yes))], {})[0]
    expected = ((x > 0) == (yes > 0.5)).float().mean(1)
    assert one["correct"] == close(float(expected[one["sample"]]), rel=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_tokens_in_rows_are_found_in_their_sequences(shift: int) -> None:
    """Language models flatten batch and time, and often leave the first token out."""
    tokens = classes(3, 6, of=50)
    x = torch.zeros(3 * (6 - shift), 50)
    x[2 * (6 - shift) + 4, 11] = 20.0
    y = tokens[:, shift:].flatten().clone()
    y[2 * (6 - shift) + 4] = 12
    one = examples([taken(called("cross_entropy", x, y), {"tokens": tokens})], {})[0]
    assert (one["sample"], one["position"]) == (2, 4)
    assert (one["target"], one["prediction"]) == (12, 11)
    assert one["numbers"] == tokens[2].tolist()


def batch_of(content: Callable[[], Tensor], count: int = 4) -> dict[str, Any]:
    x = randoms(count, 3)
    y = classes(count)
    batch = {"x": content(), "y": y}
    return examples([taken(called("cross_entropy", x, y), batch)], {})[0]


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (lambda: torch.randn(4, 3, 64, 48), [32, 24, 3]),
        (lambda: torch.randn(4, 20, 16, 3), [20, 16, 3]),
        (lambda: torch.arange(64.0).repeat(4, 1), [8, 8, 1]),
        (lambda: torch.randint(256, (4, 1, 9, 9), dtype=torch.uint8), [9, 9, 1]),
    ],
    ids=["colour", "channels last", "flat", "bytes"],
)
def test_pictures_are_small_whatever_they_were(
    content: Callable[[], Tensor], shape: list[int]
) -> None:
    one = batch_of(content)
    assert one["shape"] == shape
    assert len(base64.b64decode(one["pixels"])) == math.prod(shape)


@pytest.mark.parametrize(
    "content",
    [
        lambda: randoms(4, 100),  # as many numbers as a square by chance
        lambda: randoms(4, 20, 7),
        lambda: classes(4, 16, of=9),
    ],
    ids=["table", "series", "tokens"],
)
def test_what_is_no_picture_is_told_by_its_first_numbers(content: Callable[[], Tensor]) -> None:
    one = batch_of(content)
    assert (one["shape"], one["pixels"]) == (None, None)
    expected = content()[one["sample"]].flatten()[:8]
    assert one["numbers"] == close(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        lambda: torch.randn(5, 1, 8, 8),  # of another number of samples
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.tensor(1.0),
        lambda: "no tensor at all",
    ],
    ids=["other batch", "sparse", "scalar", "text"],
)
def test_a_sample_that_cannot_be_found_is_told_without_content(content: Any) -> None:
    one = batch_of(content)
    assert (one["shape"], one["pixels"], one["numbers"]) == (None, None, None)
    assert one["loss"] > 0


def test_the_target_is_never_taken_for_the_sample() -> None:
    y = classes(4)
    one = examples([taken(called("cross_entropy", randoms(4, 3), y), (y,))], {})[0]
    assert one["numbers"] is None


def test_the_target_of_an_autoencoder_is_its_sample() -> None:
    """A picture beats the label that comes with it."""
    images = torch.rand(4, 1, 6, 6)
    batch = (images, classes(4))
    one = examples([taken(called("mse_loss", torch.zeros(4, 1, 6, 6), images), batch)], {})[0]
    assert one["shape"] == [6, 6, 1]


def test_a_batch_that_carries_indices_tells_where_its_samples_are() -> None:
    index = torch.tensor([40, 30, 20, 10])
    batch = {"x": randoms(4, 5), "idx": index}
    one = examples([taken(called("cross_entropy", randoms(4, 3), classes(4)), batch)], {})[0]
    assert one["index"] == int(index[one["sample"]])
    assert len(one["numbers"]) == 5


def test_without_content_nothing_of_the_samples_is_taken() -> None:
    call = called("cross_entropy", randoms(4, 3), classes(4))
    seen = taken(call, {"x": torch.randn(4, 1, 8, 8)}, with_content=False)
    assert not {"pixels", "numbers"} & seen.columns.keys()


def test_a_loss_that_is_nan_is_above_all_others() -> None:
    x, y = randoms(4, 3), classes(4)
    x[2] = math.nan
    first, second, *_ = examples([taken(called("cross_entropy", x, y))], {})
    assert first["sample"] == 2
    assert math.isnan(first["loss"])
    assert math.isfinite(second["loss"])


def test_eight_are_told_of_a_step_whatever_its_micro_batches() -> None:
    """P10: those of one batch are those of its parts."""
    x, y = randoms(32, 3), classes(32)
    whole = examples([taken(called("cross_entropy", x, y))], {})
    parts = [taken(called("cross_entropy", x[i : i + 8], y[i : i + 8])) for i in range(0, 32, 8)]
    told = examples(parts, {})
    assert len(whole) == len(told) == 8
    assert [one["loss"] for one in told] == [one["loss"] for one in whole]


def test_no_tensor_of_a_batch_is_held() -> None:
    """Not even between the forward pass and the step's end."""
    batch = [torch.randn(4, 1, 8, 8)]
    samples = Samples(batch)
    assert samples.content(4, torch.empty(0)) is not None
    batch.clear()
    gc.collect()
    assert samples.content(4, torch.empty(0)) is None


def test_a_sample_that_was_seen_twice_is_listed_once_as_seen_last() -> None:
    def one(loss: float, **more: Any) -> dict[str, Any]:
        return {"loss": loss, "target": 1, **more}

    found = worst([one(9.0, index=3), one(1.0, index=3), one(2.0, index=4)], 16)
    assert [(e["index"], e["loss"]) for e in found] == [(4, 2.0), (3, 1.0)]
    found = worst([one(9.0, pixels="a"), one(1.0, pixels="a"), one(2.0, pixels="b")], 16)
    assert [(e["pixels"], e["loss"]) for e in found] == [("b", 2.0), ("a", 1.0)]
    assert len(worst([one(9.0), one(9.0)], 16)) == 2


@pytest.mark.parametrize("parts", [1, 4])
def test_highest_and_mean_loss_join_over_micro_batches(parts: int) -> None:
    x, y = randoms(16, 3), classes(16)
    y[3] = 7
    measure, columns = ExampleMeasure(), None
    for i in range(parts):
        part = slice(16 // parts * i, 16 // parts * (i + 1))
        call = called("cross_entropy", x[part], y[part], ignore_index=7)
        call.output = torch.tensor(0.0)
        seen = measure.after(call)
        assert seen is not None
        columns = seen if columns is None else columns.joined(seen)
    assert columns is not None
    numbers = measure.summarise(["p"], columns.sums, columns.maxima)
    expected = functional.cross_entropy(x, y, ignore_index=7, reduction="none").double()
    assert numbers["worst_loss"]["p"] == close(float(expected.max()), rel=1e-6)
    assert numbers["mean_loss"]["p"] == close(float(expected.sum()) / 15, rel=1e-6)


def test_a_batch_of_nothing_but_labels_is_told_by_them() -> None:
    """As where texts stand beside labels, which the loss gets in another type."""
    labels = torch.tensor([1, 0, 1])
    call = called("binary_cross_entropy_with_logits", randoms(3), labels.float())
    found = sample_losses(call)
    assert found is not None
    batch = {"text": ["a", "b", "c"], "label": labels}
    seen = look(call, found, Samples(batch), 0, with_content=True)
    for one in examples([seen], {}):
        assert one["numbers"] == [one["target"]]


def test_a_spectrogram_is_kept_as_a_picture() -> None:
    rising = torch.arange(80.0)[:, None] + torch.arange(100.0)
    batch = rising.expand(3, 80, 100)
    call = called("mse_loss", randoms(3), randoms(3, seed=4))
    found = sample_losses(call)
    assert found is not None
    (first, *_) = examples([look(call, found, Samples(batch), 0, with_content=True)], {})
    assert first["shape"] == [20, 25, 1]
