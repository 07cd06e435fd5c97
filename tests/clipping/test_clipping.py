"""AutoClip and adaptive gradient clipping: the papers' numbers, and no harm done (R6, P4, P34)."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import MixedPrecision
from runs import Classifier, data, seeded, trainer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_diag import (
    AdaptiveGradientClipping,
    AutoClip,
    DiagWarning,
    Doctor,
    GradientMonitor,
)
from lightning_diag._compat import MisconfigurationException
from lightning_diag.clipping.agc import adaptive_clip_, last_layer, unitwise_norm
from lightning_diag.clipping.autoclip import NormMemory, auto_clip_, clip_coefficient
from lightning_diag.clipping.callback import GradientClipper
from lightning_diag.clipping.gradients import scale_, total_norm

CLIPPERS: list[Callable[[], GradientClipper]] = [
    AutoClip,
    lambda: AdaptiveGradientClipping(0.001),
]
clippers = pytest.mark.parametrize("make", CLIPPERS, ids=["AutoClip", "AGC"])


# -- pure functions --------------------------------------------------------------------------


@pytest.mark.parametrize("percentile", [10.0, 50.0, 97.5, 100.0])
def test_autoclip_is_the_papers_algorithm(percentile: float) -> None:
    """Norms in a list, numpy's percentile of them, the current one included."""
    generator = torch.Generator().manual_seed(0)
    memory, known = NormMemory(1000, torch.tensor(0.0)), []
    for _ in range(60):
        gradients = [torch.randn(4, 3, generator=generator), torch.randn(5, generator=generator)]
        gradients = [g * torch.rand(1, generator=generator) for g in gradients]
        before = [g.clone() for g in gradients]
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in before))
        known.append(norm)
        expected = float(np.percentile(known, percentile))
        threshold = auto_clip_(gradients, memory, percentile)
        assert float(threshold) == pytest.approx(expected, rel=1e-5)
        factor = min(1.0, expected / norm)
        for found, old in zip(gradients, before, strict=True):
            assert torch.allclose(found, old * factor, rtol=1e-5)


def test_the_memory_holds_the_newest_norms() -> None:
    memory = NormMemory(4, torch.tensor(0.0))
    for n in range(1, 11):
        memory.add(torch.tensor(float(n)))
        newest = list(range(max(1, n - 3), n + 1))
        assert memory.newest().tolist() == newest
        assert float(memory.percentile(30)) == pytest.approx(np.percentile(newest, 30))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_left_alone_and_not_remembered(bad: float) -> None:
    memory = NormMemory(4, torch.tensor(0.0))
    auto_clip_([torch.tensor([2.0])], memory, 10)
    gradient = torch.tensor([bad, 1.0])
    auto_clip_([gradient], memory, 10)
    assert memory.newest().tolist() == [2.0]
    assert gradient[1] == 1.0


def test_the_first_step_and_gradients_of_zero_are_left_alone() -> None:
    memory = NormMemory(4, torch.tensor(0.0))
    first = torch.tensor([math.nan])
    auto_clip_([first], memory, 10)
    assert math.isnan(float(memory.percentile(10)))
    zero = torch.zeros(3)
    auto_clip_([zero], memory, 10)
    assert zero.tolist() == [0.0, 0.0, 0.0]
    assert float(clip_coefficient(torch.tensor(3.0), torch.tensor(math.nan))) == 1.0


def test_a_gpu_is_not_waited_for() -> None:
    """P19: a tensor without values lets nobody read them."""
    with FakeTensorMode():
        gradients = [torch.ones(3, 4, device="cuda:0"), torch.ones(4, device="cuda:0")]
        memory = NormMemory(8, torch.zeros((), device="cuda:0"))
        threshold = auto_clip_(gradients, memory, 10.0, torch.ones((), device="cuda:0"))
        assert threshold.device.type == "cuda"
        weight = torch.ones(3, 4, device="cuda:0")
        adaptive_clip_(gradients[0], weight, 0.01, scale=torch.ones((), device="cuda:0"))
        with pytest.raises(RuntimeError):
            memory.newest()


def sparse_gradient() -> Tensor:
    """Return a gradient in which one row comes twice."""
    rows, values = torch.tensor([[1, 1]]), torch.tensor([3.0, 1.0])
    return torch.sparse_coo_tensor(rows, values, (4,), check_invariants=False)


def test_norms_of_mixed_types_are_right() -> None:
    """Halves are added up in float32: their squares leave their range."""
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)) * 300
    sparse = sparse_gradient()
    gradients = [values.half(), values, values.bfloat16(), values.to(torch.complex64), sparse]
    one = float(values.double().square().sum())
    assert float(total_norm(gradients)) == pytest.approx(math.sqrt(4 * one + 16), rel=2e-3)


def test_gradients_of_mixed_types_are_scaled_in_place() -> None:
    sparse = sparse_gradient()
    gradients = [torch.ones(2).half(), torch.ones(2, 2), sparse, torch.ones(1).to(torch.complex64)]
    scale_(gradients, torch.tensor(0.5))
    assert [float(g.to_dense().abs().sum()) for g in gradients] == [1.0, 2.0, 2.0, 0.5]
    assert gradients[0].dtype is torch.float16


def test_a_factor_of_one_leaves_every_bit() -> None:
    gradient = torch.tensor([1e-45, -0.0, math.inf, 0.1])
    before = gradient.clone().view(torch.int32)
    scale_([gradient], torch.tensor(1.0))
    assert torch.equal(gradient.view(torch.int32), before)


@pytest.mark.parametrize(
    ("shape", "unit_dim", "dims"),
    [
        ((6, 4), 0, (1,)),
        ((6, 4, 3), 0, (1, 2)),
        ((6, 4, 3, 3), 0, (1, 2, 3)),
        ((6, 4, 3, 3), 1, (0, 2, 3)),
        ((6,), 0, None),
        ((), 0, None),
    ],
)
def test_units_are_clipped_as_in_the_paper(
    shape: tuple[int, ...], unit_dim: int, dims: tuple[int, ...] | None
) -> None:
    """Brock et al., equation 3, unit by unit; biases and scales as a whole."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
    gradient = gradient * (0.05 if dims is None else torch.rand_like(weight) * 0.2)
    axes = tuple(range(len(shape))) if dims is None else dims
    of_weight = np.sqrt((weight.numpy() ** 2).sum(axis=axes, keepdims=True))
    of_gradient = np.sqrt((gradient.numpy() ** 2).sum(axis=axes, keepdims=True))
    most = 0.1 * np.maximum(of_weight, 1e-3)
    expected = np.where(of_gradient > most, gradient.numpy() * most / of_gradient, gradient.numpy())
    adaptive_clip_(gradient, weight, 0.1, unit_dim=unit_dim)
    assert np.allclose(gradient.numpy(), expected)


def test_weights_of_zero_can_grow() -> None:
    gradient = torch.tensor([[3.0, 4.0]])
    adaptive_clip_(gradient, torch.zeros(1, 2), 0.1, eps=1e-3)
    assert float(unitwise_norm(gradient)) == pytest.approx(1e-4)


def test_units_that_are_not_finite_are_left_alone() -> None:
    gradient = torch.tensor([[math.inf, 1.0], [3.0, 4.0], [math.nan, 1.0]])
    adaptive_clip_(gradient, torch.ones(3, 2), 0.1)
    assert gradient[0].tolist() == [math.inf, 1.0]
    assert gradient[2, 1] == 1.0
    assert float(gradient[1].norm()) == pytest.approx(0.1 * math.sqrt(2))


def test_the_last_layer_is_the_last_one_with_a_matrix() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.LayerNorm(2))
    assert last_layer(net)[0] is net[1].weight
    assert last_layer(nn.LayerNorm(2)) == []


# -- callbacks -------------------------------------------------------------------------------


class Gradients(pl.Callback):
    """Takes copies of the gradients that the optimizer steps with."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad.clone() for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.seen.append(grads)

    def norms(self) -> list[float]:
        return [float(total_norm(gradients)) for gradients in self.seen]


def sgd(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, **options)


def run(*callbacks: Any, module: Any = None, **options: Any) -> tuple[Any, Any]:
    """Train from fixed seeds; return the module and the trainer."""

    def train() -> tuple[Any, Any]:
        chosen = Classifier(optimizer=sgd) if module is None else module()
        fit = trainer(*callbacks, **options)
        fit.fit(chosen, data())
        return chosen, fit

    result: tuple[Any, Any] = seeded(train)
    return result


@pytest.mark.parametrize("factor", [1, 3])
def test_autoclip_clips_accumulated_gradients_at_the_percentile(factor: int) -> None:
    """Once for each optimizer step, whatever the accumulation (P34)."""
    clip, after = AutoClip(25.0), Gradients()
    run(clip, after, accumulate_grad_batches=factor, max_epochs=3)
    before = clip.state_dict()["norms"][0][0].tolist()
    assert len(before) == 18 // factor
    expected = [min(n, np.percentile(before[: i + 1], 25)) for i, n in enumerate(before)]
    assert after.norms() == pytest.approx(expected[: len(after.seen)], rel=1e-4)
    assert clip.thresholds[0] == pytest.approx(np.percentile(before, 25), rel=1e-5)


def test_the_last_layer_and_excluded_parameters_are_left_alone() -> None:
    bare, clipped = Gradients(), Gradients()
    run(bare, max_epochs=1)
    agc = AdaptiveGradientClipping(1e-4, exclude=["net.first.*"])
    module, _ = run(agc, clipped, max_epochs=1)
    names = [name for name, _ in module.named_parameters()]
    first = zip(names, bare.seen[0], clipped.seen[0], strict=True)
    same = {name for name, one, other in first if torch.equal(one, other)}
    assert {"net.first.weight", "net.first.bias", "net.head.weight", "net.head.bias"} <= same
    assert "net.second.weight" not in same


def test_every_layer_is_clipped_if_the_user_says_so() -> None:
    after = Gradients()
    module, _ = run(AdaptiveGradientClipping(1e-4, exclude_last=False), after, max_epochs=1)
    names = [name for name, _ in module.named_parameters()]
    head = after.seen[-1][names.index("net.head.weight")]
    # the weights have moved by one step since, and clipped steps are short
    ratio = unitwise_norm(head) / unitwise_norm(module.net.head.weight.detach())
    assert float(ratio.max()) == pytest.approx(1e-4, rel=1e-2)


class Transposed(nn.Module):
    """Has a transposed convolution, whose units stand in the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(8, 4, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.up(x[..., None]).flatten(1))
        return out


def test_transposed_convolutions_are_clipped_by_output_channel() -> None:
    after = Gradients()
    agc = AdaptiveGradientClipping(1e-4)
    module, _ = run(
        agc,
        after,
        max_epochs=1,
        module=lambda: Classifier(Transposed(), sgd),
        limit_train_batches=1,
    )
    assert agc._unit_dims == {}
    gradient = module.net.up.weight.grad
    ratio = unitwise_norm(gradient, 1) / unitwise_norm(module.net.up.weight.detach(), 1)
    assert ratio.flatten().tolist() == pytest.approx([1e-4] * 4, rel=1e-2)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["AutoClip", "AGC"])
def test_the_loss_scale_does_not_count(name: str, fused: bool) -> None:
    """P4: with a fused optimizer gradients are still scaled when they are clipped."""

    def moved(scale: float) -> tuple[Tensor, list[float]]:
        clip: Any = AutoClip(30.0)
        if name == "AGC":
            clip = AdaptiveGradientClipping(0.001, exclude_last=False)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        module, _ = run(
            clip,
            module=lambda: Classifier(optimizer=lambda p: sgd(p, fused=fused)),
            plugins=[plugin],
            max_epochs=2,
        )
        first = seeded(Classifier)
        pairs = zip(module.parameters(), first.parameters(), strict=True)
        way = torch.cat([(now - then).detach().flatten() for now, then in pairs])
        norms = clip.state_dict()["norms"][0][0].tolist() if name == "AutoClip" else []
        return way, norms

    (one, norms), (large, same) = moved(1.0), moved(256.0)
    assert float((one - large).norm()) < 0.05 * float(one.norm())
    assert same == pytest.approx(norms, rel=0.02)


@clippers
def test_a_step_that_overflows_is_left_to_the_scaler(make: Callable[[], GradientClipper]) -> None:
    clip = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    module, fit = run(clip, plugins=[plugin], max_epochs=4)
    assert all(bool(p.isfinite().all()) for p in module.parameters())
    if isinstance(clip, AutoClip):
        norms, seen = clip.state_dict()["norms"][0]
        assert seen == len(norms) < fit.global_step
        assert bool(norms.isfinite().all())


class Two(pl.LightningModule):
    """Two optimizers by hand, of which one has gradients a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.nets = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for optimizer, net, size in zip(optimizers, self.nets, (1.0, 100.0), strict=True):
            optimizer.zero_grad()
            self.manual_backward(net(batch[0]).square().mean() * size)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=1e-4) for net in self.nets]


def test_each_optimizer_has_norms_of_its_own() -> None:
    clip = AutoClip(50.0)
    run(clip, module=Two)
    one, other = (clip.thresholds[i] for i in (0, 1))
    assert other > 20 * one
    assert [seen for _, seen in clip.state_dict()["norms"].values()] == [12, 12]


class Halts(Classifier):
    """Stops before the chosen step."""

    def __init__(self, at: int | None) -> None:
        super().__init__(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), sgd)
        self.at = at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == self.at:
            raise RuntimeError("preempted")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("window", [4, 1000])
def test_interrupted_and_resumed_is_bit_for_bit_as_never_interrupted(window: int) -> None:
    """P25: the norms are part of the checkpoint."""

    def weights(module: Any) -> list[Tensor]:
        return [p.detach().clone() for p in module.parameters()]

    whole = AutoClip(30.0, window=window)
    expected = weights(run(whole, module=lambda: Halts(None), max_epochs=4)[0])
    keep = ModelCheckpoint("kept", every_n_train_steps=6, save_top_k=-1, filename="{step}")
    with pytest.raises(RuntimeError, match="preempted"):
        run(
            AutoClip(30.0, window=window),
            keep,
            module=lambda: Halts(14),
            max_epochs=4,
            enable_checkpointing=True,
        )
    resumed = AutoClip(30.0, window=window)
    module = Halts(None)
    fit = trainer(resumed, max_epochs=4)
    fit.fit(module, data(), ckpt_path=str(Path("kept/step=12.ckpt")), weights_only=True)
    for found, wanted in zip(weights(module), expected, strict=True):
        assert torch.equal(found, wanted)
    norms, seen = resumed.state_dict()["norms"][0]
    wanted_norms, wanted_seen = whole.state_dict()["norms"][0]
    assert torch.equal(norms, wanted_norms)
    assert seen == wanted_seen == 24


def test_norms_of_another_window_are_taken_over() -> None:
    for old, new, expected in ((10, 3, [8.0, 9.0, 10.0]), (3, 10, [8.0, 9.0, 10.0])):
        clip = AutoClip(window=old)
        memory = clip._memory(0, torch.device("cpu"))
        for n in range(1, 11):
            memory.add(torch.tensor(float(n)))
        other = AutoClip(window=new)
        other.load_state_dict(clip.state_dict())
        assert torch.equal(other.state_dict()["norms"][0][0], clip.state_dict()["norms"][0][0])
        taken = other._memory(0, torch.device("cpu"))
        assert taken.newest().tolist() == expected
        taken.add(torch.tensor(11.0))
        assert taken.newest().tolist() == [*expected, 11.0][-new:]


def test_a_new_run_begins_without_norms_and_a_longer_one_goes_on() -> None:
    clip = AutoClip()
    run(clip, max_epochs=1)
    module, fit = run(clip, max_epochs=1)
    assert clip.state_dict()["norms"][0][1] == 6
    fit.fit_loop.max_epochs = 2
    fit.fit(module, data())
    assert clip.state_dict()["norms"][0][1] == 12


def test_a_percentile_of_100_changes_nothing() -> None:
    """Do no harm: not a bit."""
    one, _ = run(AutoClip(100.0))
    other, _ = run()
    for found, wanted in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(found, wanted)


@clippers
def test_copies_and_pickles_train_alike(make: Callable[[], GradientClipper]) -> None:
    clip = make()
    run(clip, max_epochs=1)
    for other in (copy.deepcopy(clip), pickle.loads(pickle.dumps(clip))):
        assert other.state_key == clip.state_key
        run(other, max_epochs=1)


@clippers
def test_clipping_twice_is_warned_of(make: Callable[[], GradientClipper]) -> None:
    """It composes with Lightning's own: the shorter of both counts."""
    after = Gradients()
    with pytest.warns(DiagWarning, match="clipped twice: by .*, and then by gradient_clip_val=0.0"):
        run(make(), after, gradient_clip_val=0.01)
    assert max(after.norms()) <= 0.0101


@clippers
def test_doctor_behind_it_is_warned_of_and_before_it_sees_gradients_before_clipping(
    make: Callable[[], GradientClipper],
) -> None:
    """P34."""
    doctor = Doctor(1, max_overhead=1e9, monitors=[GradientMonitor()], rules=[])
    with pytest.warns(DiagWarning, match="Doctor stands behind .*, and takes clipped gradients"):
        run(make(), doctor)
    bare = Gradients()
    run(bare)
    doctor = Doctor(1, max_overhead=1e9, monitors=[GradientMonitor()], rules=[])
    run(doctor, make(), max_epochs=1)
    first = doctor.history.series("gradient/total_norm").values[0]
    assert first == pytest.approx(bare.norms()[0], rel=1e-5)


def test_doctor_before_it_tells_what_clipping_leaves_of_the_gradient() -> None:
    """P34: clipping by a callback counts as Lightning's own does."""
    after = Gradients()
    doctor = Doctor(1, max_overhead=1e9, monitors=[GradientMonitor()], rules=[])
    run(doctor, AutoClip(25.0), after)
    clipped = doctor.history.series("gradient/clipped_norm").values
    assert clipped[: len(after.seen)] == pytest.approx(after.norms()[: len(clipped)], rel=1e-4)
    assert len(after.seen) > 10
    assert 0 < doctor.history.last("gradient/clipped_fraction")[""] < 1


@clippers
@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_gradients_that_are_spread_over_ranks_are_refused(
    make: Callable[[], GradientClipper], strategy: str
) -> None:
    fit: Any = trainer()
    fit.strategy.__class__ = type(strategy, (type(fit.strategy),), {})
    with pytest.raises(MisconfigurationException, match=f"{strategy} spreads them"):
        make().setup(fit, Classifier(), "fit")


def test_patterns_that_fit_nothing_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"'head\.\*' fits none of them"):
        run(AdaptiveGradientClipping(exclude=["head.*"]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AutoClip(0.0), "`percentile` must be above 0 and at most 100, got 0.0"),
        (lambda: AutoClip(101.0), "`percentile` must be above 0 and at most 100, got 101.0"),
        (lambda: AutoClip(window=0), "`window` must be at least 1 step, got 0"),
        (lambda: AdaptiveGradientClipping(0.0), "`clipping` must be above 0, got 0.0"),
        (lambda: AdaptiveGradientClipping(eps=-1.0), "`eps` must be at least 0, got -1.0"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_two_in_one_trainer_keep_norms_of_their_own() -> None:
    """P25."""
    one, other = AutoClip(90.0), AutoClip(50.0)
    assert one.state_key != other.state_key
    run(one, other)
    first, second = (clip.state_dict()["norms"][0][0] for clip in (one, other))
    assert not torch.equal(first, second)


def test_sparse_and_missing_gradients_are_taken_as_they_are() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 8, sparse=True), nn.Linear(8, 3)
            self.never = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(x.abs().long() % 10).mean(1))
            return out

    for make in CLIPPERS:
        module, _ = run(make(), module=lambda: Classifier(Sparse(), sgd))
        assert all(bool(p.isfinite().all()) for p in module.parameters())
