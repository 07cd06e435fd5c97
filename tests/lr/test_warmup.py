"""Warm-up multiplies what the user's schedule says, in optimizer steps (L2, P14, P41)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_diag import WarmupLR
from lr.fits import BASE, SCHEDULES, STEPS, Ruler, closed_form, data, run, trainer

W = 4
START = 0.2
RESUMING = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint that ended before the epoch ended",
    "ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint",
)


def warmup() -> WarmupLR:
    return WarmupLR(W, start_factor=START)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_each_step_is_taken_with_the_schedule_times_the_closed_form(
    kind: str, accumulation: int, before: bool
) -> None:
    """P14: at steps 0, 1, W - 1, W, W + 1 and all others, whatever the schedule."""
    bare = run(kind, [], accumulation=accumulation)
    warm = run(kind, [warmup()], accumulation=accumulation, before=before)
    assert len(bare.used) == len(warm.used) == STEPS
    expected = [lr * closed_form(t, W, START) for t, lr in enumerate(bare.used)]
    assert warm.used == pytest.approx(expected, rel=1e-9)
    assert warm.logged == pytest.approx(expected, rel=1e-9)
    assert warm.resting == bare.resting


@pytest.mark.parametrize(
    ("t", "factor"), [(0, 0.2), (1, 0.4), (W - 1, 0.8), (W, 1.0), (W + 1, 1.0)]
)
def test_the_rates_of_a_known_schedule_are_those_worked_out_by_hand(t: int, factor: float) -> None:
    """P14: 0.5 * 0.95 ** t, and a factor that goes from 0.2 to 1 in four steps."""
    warm = run("lambda", [warmup()])
    assert warm.used[t] == pytest.approx(BASE * 0.95**t * factor, rel=1e-12)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_code_in_the_training_step_sees_the_rate_that_is_used(accumulation: int) -> None:
    warm = run("step", [warmup()], accumulation=accumulation)
    expected = [lr for lr in warm.used for _ in range(accumulation)]
    assert warm.in_training == pytest.approx(expected, rel=1e-9)


def save(kind: str, folder: Path, callbacks: list[Any], accumulation: int = 1) -> tuple[Path, Any]:
    """Train to the end; return the checkpoint of step W / 2 and what training has shown."""
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=W // 2, save_top_k=-1)
    options: dict[str, Any] = {"accumulation": accumulation, "enable_checkpointing": True}
    return folder / f"step={W // 2}.ckpt", run(kind, [*callbacks, saving], **options)


@RESUMING
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_run_resumed_half_way_up_goes_on_with_the_closed_form(
    tmp_path: Path, kind: str, accumulation: int
) -> None:
    """P14: resume at W / 2; bit for bit what an uninterrupted run does, if the schedule is."""
    path, whole = save(kind, tmp_path / "warm", [warmup()], accumulation)
    resumed = run(kind, [warmup()], accumulation=accumulation, resume=path)
    bare_path, _ = save(kind, tmp_path / "bare", [], accumulation)
    bare = run(kind, [], accumulation=accumulation, resume=bare_path)
    expected = [lr * closed_form(t, W, START) for t, lr in enumerate(bare.used, W // 2)]
    assert len(resumed.used) == STEPS - W // 2
    assert resumed.used == pytest.approx(expected, rel=1e-9)
    assert resumed.logged == pytest.approx(expected, rel=1e-9)
    if kind != "plateau":  # Lightning averages only the batches after the resume
        assert resumed.used == whole.used[W // 2 :]
        assert resumed.logged == whole.logged[W // 2 :]
        assert resumed.weight == whole.weight


@RESUMING
@pytest.mark.parametrize("kind", SCHEDULES)
def test_checkpoints_hold_the_users_own_rates(tmp_path: Path, kind: str) -> None:
    """P14: a run that goes on without the warm-up goes on with the user's rates alone."""
    warm_path, _ = save(kind, tmp_path / "warm", [warmup()])
    bare_path, _ = save(kind, tmp_path / "bare", [])
    without, bare = run(kind, [], resume=warm_path), run(kind, [], resume=bare_path)
    assert without.used == pytest.approx(bare.used, rel=1e-9)
    assert without.logged == bare.logged


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_warmup_that_is_over_at_once_changes_no_bit(kind: str) -> None:
    momentum = {"momentum": 0.9, "weight_decay": 0.01}
    bare = run(kind, [], module=Ruler(kind, **momentum))
    none = run(kind, [WarmupLR(0)], module=Ruler(kind, **momentum))
    one = run(kind, [WarmupLR(5, start_factor=1.0)], module=Ruler(kind, **momentum))
    assert bare.weight == none.weight == one.weight
    assert bare.logged == none.logged == one.logged


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"epochs": 2}, 6),
        ({"epochs": 1.5}, 5),
        ({"fraction": 0.5}, 6),
        ({"steps": 6}, 6),
    ],
)
def test_epochs_and_fractions_are_optimizer_steps(options: dict[str, Any], steps: int) -> None:
    """P14: 10 batches by 4 are 3 steps an epoch; one of two batches makes a shorter one."""
    callback = WarmupLR(**options, start_factor=0.0)
    seen: list[float] = []

    class Reader(Ruler):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            seen.append(callback._adjustments[0][1].factor(callback.steps[0], 0))

    trainer([callback], max_epochs=4, accumulate_grad_batches=4).fit(Reader(), data(10))
    expected = [closed_form(t, steps, 0.0) for t in range(12)]
    assert sorted(set(seen)) == pytest.approx(sorted(set(expected)))


def test_shapes_and_hold_are_what_the_step_is_taken_with() -> None:
    for shape, middle in (("cosine", 0.505), ("exponential", 0.1), ("constant", 0.01)):
        warm = run("none", [WarmupLR(4, shape=shape, hold=2)])  # type: ignore[arg-type]
        factors = [lr / BASE for lr in warm.used]
        assert factors[:3] == pytest.approx([0.01] * 3)
        assert factors[4] == pytest.approx(middle)
        assert factors[6:] == pytest.approx([1.0] * 6)


def test_momentum_grows_with_the_rate_and_the_group_keeps_its_own() -> None:
    seen: list[tuple[float, float]] = []

    class Watched(Ruler):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            group = self.trainer.optimizers[0].param_groups[0]
            handle = self.trainer.optimizers[0].register_step_pre_hook(
                lambda *_: seen.append((group["momentum"], group["lr"]))
            )
            super().optimizer_step(*args, **kwargs)
            handle.remove()
            assert group["momentum"] == 0.9

    run("none", [WarmupLR(4, start_momentum=0.5)], module=Watched(momentum=0.9))
    assert [momentum for momentum, _ in seen] == pytest.approx([0.5, 0.6, 0.7, 0.8, *[0.9] * 8])


def test_first_betas_grow_and_second_ones_stay() -> None:
    seen: list[Any] = []

    class Adam(Ruler):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=BASE, betas=(0.9, 0.75))
            optimizer.register_step_pre_hook(lambda *_: None)
            return optimizer

        def on_before_zero_grad(self, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["betas"])

    coach = trainer([WarmupLR("auto", start_momentum=0.5)], max_epochs=3)
    module = Adam()
    coach.fit(module, data(4))
    assert coach.optimizers[0].param_groups[0]["betas"] == (0.9, 0.75)
    assert seen[0] == (0.5, 0.75)
    assert seen[4] == pytest.approx((0.7, 0.75))
    assert seen[8] == (0.9, 0.75)


def test_auto_is_two_over_one_minus_beta2_steps_from_the_rule_s_first_factor() -> None:
    """Ma and Yarats 2019: beta2 = 0.75 gives 8 steps, the first with 1/8."""

    class Adam(Ruler):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=BASE, betas=(0.9, 0.75))

    module = Adam()
    trainer([WarmupLR("auto")], max_epochs=3).fit(module, data(4))
    expected = [BASE * closed_form(t, 8, 1 / 8) for t in range(12)]
    assert module.logged_in_training == pytest.approx(expected)


def test_batch_norm_is_given_the_time_that_its_statistics_need() -> None:
    class Normed(Ruler):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(1, momentum=0.5)

    module = Normed()
    callback = WarmupLR(2, hold="batch-norm", start_factor=0.0)
    trainer([callback], max_epochs=3, accumulate_grad_batches=2).fit(module, data(8))
    used = module.logged_in_training[::2]
    # 0.5 ** 7 is below 1 %: seven passes, which are four steps of two
    assert used[:7] == pytest.approx([0, 0, 0, 0, 0, BASE / 2, BASE])
