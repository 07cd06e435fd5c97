"""`EarlyStoppingWindow` in trainings: when it stops, and what it leaves behind (L5, P45)."""

from __future__ import annotations

import importlib
import math
import pickle
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_diag import DiagWarning, EarlyStoppingWindow
from lightning_diag.stopping.weights import copied, put_back
from stopping.scripted import loaders, module, trainer

PLATEAU = [3.0, 2.0, 1.0] + [1.0] * 40


def run(lightning: ModuleType, stop: Any, losses: list[float], **options: Any) -> Any:
    """Train until the end; return the trainer."""
    fit = trainer(lightning, stop, **options)
    fit.fit(module(lightning, losses), *loaders())
    return fit


def test_it_is_lightnings_early_stopping_for_the_trainer_of_either_namespace(
    lightning: ModuleType,
) -> None:
    reasons = importlib.import_module(f"{lightning.__name__}.callbacks.early_stopping")
    stop = EarlyStoppingWindow("val_loss", window=2, patience=2, trend_window=None)
    assert isinstance(stop, lightning.callbacks.EarlyStopping)
    fit = run(lightning, stop, PLATEAU)
    # Averages 2.5, 1.5, 1, 1, 1: the third is the best, and two more make the patience.
    assert fit.current_epoch == 6
    assert stop.stopped_epoch == 5
    assert stop.stopping_reason == reasons.EarlyStoppingReason.PATIENCE_EXHAUSTED
    assert fit.early_stopping_callback is stop
    assert stop.best_level is not None
    assert stop.best_level.value == 1.0
    assert float(stop.best_score) == 1.0


def test_one_lucky_value_neither_prolongs_nor_ends_the_run(lightning: ModuleType) -> None:
    """P45: Lightning's own goes on for it, and measures all that follows by it."""
    draw = random.Random(1)
    usual = [1 + draw.gauss(0, 0.02) for _ in range(40)]
    lucky = [*usual[:8], 0.95, *usual[9:]]

    def epochs(stop: Any, losses: list[float]) -> int:
        return int(run(lightning, stop, losses).current_epoch)

    def window() -> EarlyStoppingWindow:
        return EarlyStoppingWindow("val_loss", patience=10)

    def own() -> Any:
        return lightning.callbacks.EarlyStopping("val_loss", patience=10)

    assert epochs(own(), lucky) == 19  # the lucky check is the ninth, and ten more
    assert epochs(own(), lucky) != epochs(own(), usual)
    assert epochs(window(), lucky) == epochs(window(), usual) < 19


def test_a_slow_fall_in_noise_is_followed_to_its_end(lightning: ModuleType) -> None:
    draw = random.Random(3)
    losses = [1 + math.exp(-i / 5) - 0.006 * i + draw.gauss(0, 0.03) for i in range(60)]
    own = lightning.callbacks.EarlyStopping("val_loss", patience=5)
    assert run(lightning, own, losses, max_epochs=60).current_epoch < 50
    stop = EarlyStoppingWindow("val_loss")
    assert run(lightning, stop, losses, max_epochs=60).current_epoch == 60
    assert stop.trend.verdict == "falling"
    hasty = EarlyStoppingWindow("val_loss", trend_window=None)
    assert run(lightning, hasty, losses, max_epochs=60).current_epoch < 60


def test_ten_checks_are_awaited_before_a_trend_is_missed(lightning: ModuleType) -> None:
    """P45: insufficient data stops nothing."""
    losses = [1.0, 1.1] * 20
    stop = EarlyStoppingWindow("val_loss", window=2, patience=2)
    assert run(lightning, stop, losses).current_epoch == 10
    stop = EarlyStoppingWindow("val_loss", window=2, patience=2, trend_window=None)
    assert run(lightning, stop, losses).current_epoch == 4


def test_a_rise_is_named_in_the_reason(lightning: ModuleType) -> None:
    losses = [abs(i - 8) / 10 for i in range(40)]
    stop = EarlyStoppingWindow("val_loss", window=3, patience=10, trend_window=12)
    fit = run(lightning, stop, losses)
    assert fit.current_epoch < 40
    assert "trend over the newest 12 checks: rising (score " in str(stop.stopping_reason_message)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_both_directions_decide_alike(lightning: ModuleType, mode: Any) -> None:
    sign = 1 if mode == "min" else -1
    stop = EarlyStoppingWindow("val_loss", window=2, patience=2, mode=mode, trend_window=None)
    assert run(lightning, stop, [sign * x for x in PLATEAU]).current_epoch == 6
    stop = EarlyStoppingWindow("val_loss", window=2, patience=2, mode=mode)
    falling = [sign * (1 - 0.02 * i) for i in range(40)]
    assert run(lightning, stop, falling).current_epoch == 40


def test_what_is_not_finite_ends_the_run_at_once_as_in_lightning(lightning: ModuleType) -> None:
    reasons = importlib.import_module(f"{lightning.__name__}.callbacks.early_stopping")
    stop = EarlyStoppingWindow("val_loss")
    assert run(lightning, stop, [1.0, math.nan, 1.0]).current_epoch == 2
    assert stop.stopping_reason == reasons.EarlyStoppingReason.NON_FINITE_METRIC


def test_without_check_finite_nan_is_left_out_and_counts_as_no_improvement(
    lightning: ModuleType,
) -> None:
    stop = EarlyStoppingWindow("val_loss", window=2, patience=3, trend_window=None,
                               check_finite=False)  # fmt: skip
    fit = run(lightning, stop, [3.0, 2.0, math.nan, 1.0, 0.5, math.nan, math.nan, math.nan, 0.1])
    assert stop.level is not None
    assert stop.level.value == 0.75
    assert fit.current_epoch == 8


def test_thresholds_are_compared_with_the_average(lightning: ModuleType) -> None:
    losses = [1.0, 0.1, 1.0, 0.2, 0.1, 0.1]
    stop = EarlyStoppingWindow("val_loss", window=2, stopping_threshold=0.3)
    assert run(lightning, stop, losses).current_epoch == 5
    stop = EarlyStoppingWindow("val_loss", window=2, divergence_threshold=4.0)
    assert run(lightning, stop, [1.0, 6.0, 1.0, 5.0, 5.0]).current_epoch == 5


def test_sanity_checking_and_fast_dev_run_are_no_checks(lightning: ModuleType) -> None:
    stop = EarlyStoppingWindow("val_loss", window=2)
    run(lightning, stop, PLATEAU, num_sanity_val_steps=2, max_epochs=2)
    assert len(stop.state_dict()["values"]) == 2
    stop = EarlyStoppingWindow("val_loss", window=2)
    run(lightning, stop, PLATEAU, fast_dev_run=True)
    assert stop.state_dict()["values"] == []


def test_each_of_several_validations_of_an_epoch_is_a_check(lightning: ModuleType) -> None:
    stop = EarlyStoppingWindow("val_loss", window=2, patience=2, trend_window=None)
    fit = run(lightning, stop, PLATEAU, val_check_interval=0.5)
    assert fit.global_step == 6
    assert stop.state_dict()["values"] == [*PLATEAU[:5], 1.0]


def test_the_end_of_the_training_epoch_can_be_chosen(lightning: ModuleType) -> None:
    stop = EarlyStoppingWindow("val_loss", window=2, patience=2, trend_window=None,
                               check_on_train_epoch_end=True)  # fmt: skip
    fit = run(lightning, stop, PLATEAU, val_check_interval=0.5)
    assert stop.state_dict()["values"] == [2.0, 1.0, 1.0, 1.0, 1.0]
    assert fit.current_epoch == 5


def test_a_metric_that_nobody_logs_is_an_error_or_not_as_asked(lightning: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="metric `gone` which is not available"):
        run(lightning, EarlyStoppingWindow("gone"), PLATEAU)
    fit = run(lightning, EarlyStoppingWindow("gone", strict=False), PLATEAU, max_epochs=3)
    assert fit.current_epoch == 3


def state(network: Any) -> dict[str, Tensor]:
    """Return all tensors of a module, those that checkpoints leave out as well."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def test_the_best_weights_and_buffers_are_restored_to_the_last_bit(lightning: ModuleType) -> None:
    """L5: also where the run ends for another reason; not what averages keep."""
    seen: list[dict[str, Tensor]] = []

    class Watch(lightning.Callback):  # type: ignore[name-defined, misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(state(pl_module))

    losses = [3.0, 2.0, 1.0, 1.5, 2.0, 2.5]
    network = module(lightning, losses)
    stop = EarlyStoppingWindow("val_loss", window=2, restore_best=True)
    trainer(lightning, stop, Watch(), max_epochs=6).fit(network, *loaders())
    best = 3  # averages 2.5, 1.5, 1.25, 1.75, 2.25 at the checks 1 to 5
    assert stop.best_step == 2 * (best + 1)
    assert float(network.steps_done.detach()) == 2 * (best + 1)
    for name, tensor in state(network).items():
        if name != "validations":  # counted after the copy was made
            assert torch.equal(tensor, seen[best][name]), name
    assert float(network.unsaved) == 2 * (best + 1)
    assert network.net[0].weight.requires_grad
    (network.net(torch.ones(4, 2)).sum() + network.steps_done).backward()


def test_without_restore_best_the_module_keeps_its_last_weights(lightning: ModuleType) -> None:
    network = module(lightning, [1.0, 2.0, 3.0, 4.0])
    stop = EarlyStoppingWindow("val_loss", window=2)
    trainer(lightning, stop, max_epochs=4).fit(network, *loaders())
    assert float(network.steps_done.detach()) == 8
    assert "best_weights" not in stop.state_dict()


def test_an_exception_leaves_the_last_weights(lightning: ModuleType) -> None:
    class Breaks(lightning.Callback):  # type: ignore[name-defined, misc]
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 4:
                message = "preempted"
                raise RuntimeError(message)

    network = module(lightning, [1.0, 2.0, 3.0, 4.0])
    stop = EarlyStoppingWindow("val_loss", window=2, restore_best=True)
    with pytest.raises(RuntimeError, match="preempted"):
        trainer(lightning, stop, Breaks()).fit(network, *loaders())
    assert float(network.steps_done.detach()) == 8


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("cut", [3, 6])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_resumed_is_never_interrupted_bit_for_bit(
    lightning: ModuleType, cut: int, restore: bool, tmp_path: Path
) -> None:
    draw = random.Random(2)
    losses = [1 + abs(i - 6) / 20 + draw.gauss(0, 0.02) for i in range(40)]

    def new() -> EarlyStoppingWindow:
        return EarlyStoppingWindow("val_loss", window=3, patience=8, restore_best=restore)

    torch.manual_seed(0)
    whole, stop = module(lightning, losses), new()
    whole_fit = trainer(lightning, stop)
    whole_fit.fit(whole, *loaders())
    assert 10 < whole_fit.current_epoch < 40

    torch.manual_seed(0)
    halves, keep = module(lightning, losses), lightning.callbacks.ModelCheckpoint(tmp_path)
    before = trainer(lightning, new(), keep, max_epochs=cut, enable_checkpointing=True)
    before.fit(halves, *loaders())
    (path,) = tmp_path.glob("*.ckpt")
    content = torch.load(path, weights_only=True)["callbacks"]
    assert ("best_weights" in content[stop.state_key]) == restore
    resumed, second = module(lightning, losses), new()
    after = trainer(lightning, second)
    after.fit(resumed, *loaders(), ckpt_path=str(path))
    assert after.current_epoch == whole_fit.current_epoch
    expected, found = stop.state_dict(), second.state_dict()
    for name in set(expected) - {"best_weights"}:
        assert expected[name] == found[name], name
    for name, tensor in state(whole).items():
        if name != "unsaved":  # no checkpoint holds it
            assert torch.equal(tensor, state(resumed)[name]), name


def test_two_of_them_in_one_trainer_keep_their_states_apart(lightning: ModuleType) -> None:
    one = EarlyStoppingWindow("val_loss", window=3)
    other = EarlyStoppingWindow("val_loss", window=3, average="ema")
    fit = trainer(lightning, one, other, max_epochs=4)
    fit.fit(module(lightning, PLATEAU), *loaders())
    assert one.state_key != other.state_key
    assert one.state_dict() != other.state_dict()


def test_it_pickles_with_its_state(lightning: ModuleType) -> None:
    stop = EarlyStoppingWindow("val_loss", window=2, restore_best=True)
    run(lightning, stop, PLATEAU, max_epochs=4)
    loaded = EarlyStoppingWindow("val_loss", window=2, restore_best=True)
    loaded.load_state_dict(stop.state_dict())
    copy = pickle.loads(pickle.dumps(loaded))
    assert copy.level == stop.level is not None
    assert copy.best_step == stop.best_step == 8


def test_averages_that_other_callbacks_end_with_are_not_overwritten(lightning: ModuleType) -> None:
    stop = EarlyStoppingWindow("val_loss", restore_best=True)
    average = lightning.callbacks.StochasticWeightAveraging(1e-3)
    with pytest.raises(Exception, match="overwrite the average that Stochastic") as error:
        trainer(lightning, stop, average).fit(module(lightning, PLATEAU), *loaders())
    assert type(error.value).__name__ == "MisconfigurationException"


def test_averages_within_the_module_stay_those_of_the_whole_run() -> None:
    network = nn.Module()
    network.net = nn.Linear(2, 2)
    network.average = torch.optim.swa_utils.AveragedModel(network.net)
    kept = copied(network)
    assert sorted(kept) == ["net.bias", "net.weight"]
    before = state(network)
    with torch.no_grad():
        for tensor in (*network.net.parameters(), *network.average.module.parameters()):
            tensor.add_(1)
    after = state(network)
    assert put_back(network, kept)
    found = state(network)
    for name in ("net.weight", "net.bias"):
        assert torch.equal(found[name], before[name])
        assert torch.equal(found[f"average.module.{name[4:]}"], after[f"average.module.{name[4:]}"])


def test_weights_that_no_longer_fit_are_left_as_they_are() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    kept = copied(network)
    network[1] = nn.Linear(2, 3)
    before = state(network)
    with pytest.warns(DiagWarning, match="not restored: '1.bias' has changed"):
        assert not put_back(network, kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(network).items())


def test_a_copy_made_in_inference_mode_can_be_trained_on() -> None:
    network = nn.Linear(2, 1)
    with torch.inference_mode():
        kept = copied(network)
    assert not any(tensor.is_inference() for tensor in kept.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "`window` must be at least 2 checks, got 1"),
        ({"average": "median"}, "`average` must be 'mean' or 'ema', got 'median'"),
        ({"confidence": 1.0}, "`confidence` must be at least 0.5 and below 1, got 1.0"),
        ({"trend_window": 9}, "`trend_window` must be at least 10 checks or None, got 9"),
        ({"patience": 0}, "`patience` must be at least 1 check, got 0"),
        ({"min_delta": -1.0}, "`min_delta` must be at least 0, got -1.0"),
        ({"min_delta": math.nan}, "`min_delta` must be at least 0, got nan"),
        ({"mode": "auto"}, "`mode` must be 'min' or 'max', got 'auto'"),
    ],
)
def test_wrong_arguments_are_refused_when_it_is_made(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStoppingWindow("val_loss", **options)
