"""What is predicted for a sample must not depend on other samples, unless it is meant to (P20)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from checks.sick_outputs import Does, last_state, normed, series
from checks.subjects import Pair, Plain, labels, loader, made, mlp, numbers, pictures, table
from lightning_diag.before_training import subject
from lightning_diag.checks.batch_mixing import BatchMixing
from lightning_diag.checks.cut import exchanged, growing, half, samples_of
from lightning_diag.checks.dependence import reached
from lightning_diag.finding import Finding, NotObserved


def judged(pair: Callable[[], Pair]) -> list[Finding] | NotObserved:
    """Return what the check says of a module and its data."""
    return BatchMixing()(subject(*made(pair)))


def the(pair: Callable[[], Pair]) -> Finding:
    """Return its only finding."""
    found = judged(pair)
    assert isinstance(found, list)
    (finding,) = found
    return finding


def does(what: Callable[..., Tensor], *layers: nn.Module, data: Any = None) -> Pair:
    """Return a module that does something, and tables."""
    return Plain(Does(what, *layers)), table() if data is None else data


def words(time: int = 6) -> DataLoader[Any]:
    """Return sequences of words that are all different, and classes."""
    drawn = torch.arange(64 * time).view(64, time)
    return loader(drawn, labels())


def transposed(samples: list[Any]) -> tuple[Tensor, Tensor]:
    """Collate sequences with time first."""
    x, y = zip(*samples, strict=True)
    return torch.stack(x, 1), torch.stack(y)


# --- what is found ---

MIXED: dict[str, tuple[Callable[[], Pair], str, int]] = {
    "time first": (
        lambda: does(last_state, nn.GRU(8, 16), nn.Linear(16, 3), data=series()),
        "in `net.layers.0`, which takes time first", 16,
    ),
    "as much time as samples": (
        lambda: does(last_state, nn.GRU(8, 16), nn.Linear(16, 3), data=series(16)),
        "in `net.layers.0`, which takes time first", 16,
    ),
    "attention": (
        lambda: does(lambda m, x: m[1](m[0](x, x, x)[0].mean(1)), nn.MultiheadAttention(8, 2),
                     nn.Linear(8, 3), data=series()),
        "in `net.layers.0`, which takes time first", 16,
    ),
    "view": (
        lambda: does(lambda m, x: m[1](m[0](x.view(6, len(x), 8))[0][-1]), nn.GRU(8, 16),
                     nn.Linear(16, 3), data=series()),
        "in `net`", 6,
    ),
    "view of words": (
        lambda: does(lambda m, x: m[1](m[0](x.view(6, len(x))).mean(0)), nn.Embedding(384, 8),
                     nn.Linear(8, 3), data=words()),
        "before `net.layers.0`", 6,
    ),
    "softmax over the samples": (
        lambda: does(lambda m, x: m[1](m[0](x).softmax(0)), nn.Linear(8, 9), nn.Linear(9, 3)),
        "behind `net.layers.0`", 16,
    ),
    "mean over the samples": (
        lambda: does(lambda m, x: m[1](m[0](x) - m[0](x).mean(0)), nn.Linear(8, 9),
                     nn.Linear(9, 3)),
        "behind `net.layers.0`", 16,
    ),
    "transpose": (
        lambda: does(lambda m, x: m[1](m[0](x).transpose(0, 1).reshape(len(x), -1)),
                     nn.Conv2d(3, 8, 3, padding=1), nn.Linear(512, 3), data=pictures()),
        "behind `net.layers.0`", 8,
    ),
    "behind batch norm": (
        lambda: does(lambda m, x: m[1](m[0](x).softmax(0)), normed()[:2], nn.Linear(16, 3)),
        "behind `net.layers.0`", 16,
    ),
    "in the step": (
        lambda: (Plain(mlp(6), lambda x, y: functional.cross_entropy(
            x.t().reshape(-1, 3), y.repeat(2))), table()),
        "behind `Plain`", 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", MIXED)
def test_mixing_is_found_where_it_is(fault: str) -> None:
    pair, where, samples = MIXED[fault]
    finding = the(pair)
    assert finding.severity == "suspect"
    assert f"depends on {samples} of 16 samples of its batch: they are mixed {where} (" in (
        finding.message
    )
    assert finding.evidence.value == samples


def test_a_head_of_zeros_hides_nothing() -> None:
    head = nn.Linear(16, 3)
    nn.init.zeros_(head.weight)
    finding = the(lambda: does(last_state, nn.GRU(8, 16), head, data=series()))
    assert finding.places == ("net.layers.0",)


class Trains(nn.Module):
    """Has no answer but in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a softmax over the samples."""
        if not self.training:
            raise NotImplementedError
        return x.softmax(0)


def test_what_runs_in_training_alone_is_looked_at_there() -> None:
    net = nn.Sequential(normed()[:2], nn.Dropout(0.5), Trains(), nn.Linear(16, 3))
    assert the(lambda: (Plain(net), table())).places == ("net.2",)


# --- what is no mixing ---


def contrast(width: Callable[[Tensor], Tensor]) -> Callable[[], Pair]:
    """Return embeddings that are compared with each other."""
    return lambda: (Plain(mlp(6), lambda x, _: width(functional.normalize(x, dim=1))), table())


def _noisy(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def _clip(x: Tensor) -> Tensor:
    return functional.cross_entropy(5 * x @ _noisy(x).t(), torch.arange(len(x)))


def _simclr(x: Tensor) -> Tensor:
    both = torch.cat([x, _noisy(x)])
    count = len(both)
    others = ~torch.eye(count, dtype=torch.bool)
    alike = (both @ both.t())[others].view(count, count - 1)
    place = torch.arange(len(x))
    return functional.cross_entropy(alike, torch.cat([place + len(x) - 1, place]))


def _siglip(x: Tensor) -> Tensor:
    scores, truth = x @ _noisy(x).t(), torch.eye(len(x))
    return functional.binary_cross_entropy_with_logits(scores.flatten(), truth.flatten())


def _barlow(x: Tensor) -> Tensor:
    scaled = (x - x.mean(0)) / x.std(0)
    return functional.mse_loss(scaled.t() @ scaled / len(x), torch.eye(x.shape[1]))


def _hardest(x: Tensor) -> Tensor:
    far = torch.cdist(x, x) + 1e9 * torch.eye(len(x))
    return functional.triplet_margin_loss(x, _noisy(x), x[far.argmin(1)])


class Mixup(Plain):
    """Mixes inputs before the network gets them."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss against the targets of both."""
        x, y = batch
        order = torch.randperm(len(x))
        out = self(0.7 * x + 0.3 * x[order])
        return 0.7 * self.loss(out, y) + 0.3 * self.loss(out, y[order])


def _mixed_within(layers: Any, x: Tensor) -> Tensor:
    hidden = layers[0](x)
    out: Tensor = layers[1](0.7 * hidden + 0.3 * hidden[torch.randperm(len(x))])
    return out


def _experts(layers: Any, x: Tensor) -> Tensor:
    """Send samples to experts, each of which takes the first three of its own."""
    weight, chosen = layers[0](x).softmax(1).max(1)
    out = x.new_zeros(len(x), 3)
    for number, expert in enumerate(layers[1:]):
        own = (chosen == number).nonzero()[:, 0][:3]
        out = out.index_copy(0, own, weight[own, None] * expert(x[own]))
    return out


class OwnNorm(nn.Module):
    """A batch norm that somebody wrote."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what it makes of the batch."""
        return (x - x.mean(0)) / (x.std(0) + 1e-5)


class Centred(nn.Module):
    """Subtracts the mean of the batch in training, and nothing else later."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what it makes of the batch."""
        return x - x.mean(0) if self.training else x


class Lengths(Plain):
    """Takes sequences with their lengths."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss."""
        x, lengths, y = batch
        return self.loss(self.net(x, lengths), y)


def _packed(layers: Any, x: Tensor, lengths: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out: Tensor = layers[1](layers[0](packed)[1][-1])
    return out


APART: dict[str, Callable[[], Pair]] = {
    "in-batch negatives": contrast(_clip),
    "two views": contrast(_simclr),
    "all pairs": contrast(_siglip),
    "hardest negatives": contrast(_hardest),
    "mixup": lambda: (Mixup(mlp()), table()),
    "manifold mixup": lambda: does(_mixed_within, nn.Linear(8, 9), nn.Linear(9, 3)),
    "experts": lambda: does(
        _experts, nn.Linear(8, 4), *[nn.Linear(8, 3) for _ in range(4)]
    ),
    "batch norm": lambda: (Plain(normed()), table()),
    "batch norm without running statistics": lambda: (
        Plain(nn.Sequential(nn.Linear(8, 9), nn.BatchNorm1d(9, track_running_stats=False),
                            nn.Linear(9, 3))), table(),
    ),
    "a norm of one's own": lambda: (
        Plain(nn.Sequential(nn.Linear(8, 9), OwnNorm(), nn.Linear(9, 3))), table()
    ),
    "statistics of training alone": lambda: (
        Plain(nn.Sequential(nn.Linear(8, 9), Centred(), nn.Linear(9, 3))),
        table(),
    ),
    "packed": lambda: (
        Lengths(Does(_packed, nn.GRU(8, 16, batch_first=True), nn.Linear(16, 3))),
        loader(numbers(64, 6, 8), torch.arange(64) % 4 + 3, labels()),
    ),
    "time first": lambda: does(
        lambda m, x: m[1](m[0](x)[0][-1]), nn.GRU(8, 16), nn.Linear(16, 3),
        data=series(16, collate_fn=transposed),
    ),
    "as much time as samples": lambda: does(
        last_state, nn.GRU(8, 16, batch_first=True), nn.Linear(16, 3), data=series(16)
    ),
    "places of words": lambda: does(
        lambda m, x: m[2]((m[0](x) + m[1](torch.arange(16))).mean(1)),
        nn.Linear(8, 16), nn.Embedding(16, 16), nn.Linear(16, 3), data=series(16),
    ),
    "a list of samples": lambda: (
        Plain(mlp(1), lambda x, _: functional.cross_entropy(x.t(), torch.tensor([2]))), table()
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", APART)
def test_what_is_meant_to_compare_samples_or_does_not_is_not_spoken_of(kind: str) -> None:
    assert judged(APART[kind]) == []


class MinibatchSpread(nn.Module):
    """Tells a judge how much the samples of a batch differ."""

    def forward(self, x: Tensor) -> Tensor:
        """Return one feature more."""
        return torch.cat([x, x.std(0).mean().expand(len(x), 1)], 1)


def _as_one_sequence(layers: Any, x: Tensor) -> Tensor:
    long = layers[0](x)[:, None]
    out: Tensor = layers[2](layers[1](long, long, long)[0][:, 0])
    return out


@pytest.mark.parametrize(
    "pair",
    [
        lambda: (Plain(nn.Sequential(MinibatchSpread(), nn.Linear(9, 3))), table()),
        lambda: does(_as_one_sequence, nn.Linear(8, 8), nn.MultiheadAttention(8, 2),
                     nn.Linear(8, 3)),
    ],
    ids=["by name", "as one sequence"],
)  # fmt: skip
def test_modules_that_say_that_they_compare_samples_are_a_note(
    pair: Callable[[], Pair],
) -> None:
    assert the(pair).severity == "note"


# --- what cannot be known ---


class Graph(Plain):
    """Takes one graph, whose nodes see their neighbours."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss over its nodes."""
        x, edges, y = batch
        hidden = self.net[0](x)
        hidden = hidden.index_add(0, edges[1], hidden[edges[0]])
        return self.loss(self.net[1:](hidden), y)


def _one_graph() -> Pair:
    edges = torch.randint(0, 64, (2, 200), generator=torch.Generator().manual_seed(0))
    data: Any = [(numbers(64, 8), edges, labels())]
    return Graph(mlp()), DataLoader(data, batch_size=None)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (_one_graph, "how many samples a batch has is not known"),
        (lambda: (Plain(mlp()), loader(numbers(64, 8), labels(), batch_size=3)),
         "it takes 4 samples to tell, and a batch has 3"),
        (contrast(_barlow), "no gradient leads from a prediction back to single samples"),
    ],
    ids=["graph", "small batch", "no dimension of samples"],
)  # fmt: skip
def test_what_says_nothing_of_samples_is_not_observed(
    pair: Callable[[], Pair], reason: str
) -> None:
    verdict = judged(pair)
    assert isinstance(verdict, NotObserved)
    assert verdict.reason == reason


# --- numbers ---


def test_gradients_reach_what_is_above_rounding() -> None:
    gradient = torch.tensor([[0.0, 1e-9], [2.0, 0.0], [float("nan"), 0.0], [0.0, -1e-4]])
    assert reached(gradient, 0) == [1, 3]
    assert reached(gradient, 1) == [0, 1]
    assert reached(torch.zeros(3, 2), 0) == []
    assert reached(torch.zeros(0, 2), 0) == []


def test_half_of_a_batch_is_cut_where_it_counts_samples() -> None:
    batch = {"x": torch.zeros(6, 4, 2), "y": [torch.zeros(4), "name"]}
    cut = half(batch, 4, (0, 1))
    assert (cut["x"].shape, cut["y"][0].shape, cut["y"][1]) == ((6, 2, 2), (2,), "name")
    assert growing((8, 8), (4, 4), 8) is None
    assert growing((15, 3), (8, 3), 8) is None
    assert growing((10, 3), (4, 3), 5) == 0


def test_words_are_exchanged_and_numbers_are_not() -> None:
    words_of, numbers_of = torch.arange(8).view(4, 2), torch.rand(4, 2)
    found: Any = exchanged((words_of, numbers_of, torch.arange(4)), 4)
    one, other, last = found
    assert one.tolist() == [[0, 1], [2, 3], [2, 3], [6, 7]]
    assert other is numbers_of
    assert last.tolist() == [0, 1, 2, 3]
    assert exchanged((numbers_of,), 4) is None


@pytest.mark.parametrize(
    ("shapes", "size", "samples"),
    [
        ([(6, 4), (4,)], 4, 4),
        ([(5, 2), (5,)], 8, 5),
        ([(6, 4), (4,)], None, 4),
        ([(6, 3), (4,)], 2, None),
        ([], 2, None),
    ],
)
def test_samples_are_counted_by_loader_or_shapes(
    shapes: list[tuple[int, ...]], size: int | None, samples: int | None
) -> None:
    tensors = [torch.zeros(shape) for shape in shapes]
    data: Any = [1, 2, 3]
    assert samples_of(tensors, DataLoader(data, batch_size=size)) == samples
