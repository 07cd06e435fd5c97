"""What a check is given: kept batches, seen losses, a copy that may be broken, reasons (P26)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from checks.subjects import HEALTHY, Plain, made, mlp, numbers, table
from checks.traces import differences, everything, same
from lightning_diag.before_training import subject
from lightning_diag.checks import Subject
from lightning_diag.checks.data import Unavailable
from lightning_diag.checks.memory import shortage, size_of
from lightning_diag.checks.places import held_parameters
from lightning_diag.measure.tally import ranks_apart


def of(kind: str) -> Subject:
    return subject(*made(HEALTHY[kind]))


# --- batches ---


def test_batches_are_the_same_tensors_each_time_and_may_be_changed() -> None:
    """P26: an augmentation that draws would make other ones."""
    known = of("stream")
    first = known.batch(0)
    expected = [each.clone() for each in first]
    first[0].zero_()
    assert same(list(known.batch(0)), expected)
    assert same(list(known.batches[0]), expected)
    assert not same(list(known.batch(1)), expected)


def test_validation_is_taken_from_the_pair() -> None:
    data = DataLoader(TensorDataset(torch.arange(4.0)), 2)
    known = subject(Plain(mlp()), (table(), data))
    assert known.lacks("validation") == ""
    assert known.take(known.validation)[0][0].tolist() == [0.0, 1.0]
    assert of("mlp").lacks("validation") == "there are no validation data"


# --- the first step ---


def test_a_trial_has_loss_calls_modules_and_gradients() -> None:
    torch.manual_seed(0)
    known = of("smoothed")
    trial = known.trial
    (seen,) = trial.losses
    assert trial.loss == pytest.approx(
        seen.call.output.item() if seen.call.output is not None else 0
    )
    assert (seen.function, seen.place, seen.trained) == (
        "cross_entropy",
        "loss/cross_entropy#0",
        True,
    )
    assert seen.given["label_smoothing"] == 0.1
    assert seen.given["weight"].tolist() == [1.0, 2.0, 0.5]
    assert not seen.call.input.requires_grad
    assert {"", "net", "net.0", "net.4", "loss"} <= trial.called
    assert trial.gradients.keys() == known.parameters.keys()
    assert all(norm > 0 for norm in trial.gradients.values())


def test_gradients_are_those_of_backward_worked_out_by_hand() -> None:
    torch.manual_seed(0)
    module, x, y = Plain(nn.Linear(8, 3)), numbers(4, 8), torch.tensor([0, 1, 2, 0])
    trial = subject(module, [(x, y)]).trial
    functional.cross_entropy(module.net(x), y).backward()
    assert trial.gradients["net.weight"] == pytest.approx(module.net.weight.grad.norm().item())


def test_players_show_the_largest_gradient_of_their_own_steps() -> None:
    trial = of("gan").trial
    assert trial.loss is None
    assert len(trial.losses) == 3
    assert {"generator.0.weight", "judge.0.weight"} <= trial.gradients.keys()


def test_later_trials_have_other_batches_and_indices() -> None:
    class Telling(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) * 0.0 + batch_idx

    known = subject(Telling(mlp()), table())
    losses = [known.trial.loss, *(trial.loss for trial in known.more_trials(3))]
    assert losses == [0.0, 1.0, 2.0, 3.0]


def test_what_failed_once_is_not_tried_again() -> None:
    calls: list[int] = []

    class Broken(Plain):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            calls.append(batch_idx)
            raise ValueError("two\nlines")

    known = subject(Broken(mlp()), table())
    for need in ("trial", "losses", "gradients"):
        reason = "`training_step` failed on a copy of the module: ValueError: two"
        assert known.lacks(need) == reason
    assert len(calls) == 1


# --- the twin ---


def test_a_twin_may_be_trained_and_broken() -> None:
    module, data = made(HEALTHY["scheduled"])
    known = subject(module, data)
    before = everything(module, data)
    twin = known.copy()
    losses = []
    for _ in range(5):
        loss = twin.loss(twin.moved(known.batch()))
        losses.append(loss.item())
        loss.backward()
        for optimizer in twin.optimizers:
            optimizer.step()
            optimizer.zero_grad()
    twin.module.net[0] = None
    assert losses[-1] < losses[0]
    left = differences(before, everything(module, data))
    assert set(left) <= {"torch", "python"}  # what it drew is put back by whoever runs the check


def test_optimizers_of_a_twin_hold_its_own_parameters() -> None:
    twin = of("tied weights").copy()
    own = {id(p) for p in twin.module.parameters()}
    held = [id(p) for group in twin.optimizers[0].param_groups for p in group["params"]]
    assert set(held) == own
    assert len(held) == len(own)


def test_data_sets_and_loggers_within_a_module_are_not_copied() -> None:
    module: Any = Plain(mlp())
    module.samples = TensorDataset(numbers(2))
    assert subject(module, table()).copy().module.samples is module.samples


def test_tensors_that_were_computed_are_copied_as_they_are() -> None:
    module: Any = Plain(mlp())
    module.doubled = 2 * module.net[0].weight
    twin = subject(module, table()).copy()
    assert torch.equal(twin.module.doubled, module.doubled)
    assert twin.module.doubled is not module.doubled


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lock": (_ for _ in ())}, "the module cannot be copied: TypeError: cannot pickle"),
        (
            {"training_step": lambda dataloader_iter: None},
            "takes its batches from `dataloader_iter`",
        ),
    ],
)
def test_what_cannot_be_run_says_why(change: dict[str, Any], why: str) -> None:
    module = Plain(mlp())
    vars(module).update(change)
    known = subject(module, table())
    assert why in known.lacks("trial")


def test_a_module_with_a_step_that_takes_the_batch_alone_is_run() -> None:
    class Short(Plain):
        def training_step(self, batch: Any) -> Tensor:  # type: ignore[override]
            return super().training_step(batch, 0)

    assert subject(Short(mlp()), table()).lacks("trial") == ""


def test_compiled_modules_are_run_eagerly() -> None:
    module, data = made(HEALTHY["mlp"])
    compiled: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph

    module.net = torch.compile(module.net, backend=backend)
    trial = subject(module, data).trial
    assert {"net.0", "net.4"} <= trial.called
    assert not compiled


# --- parameters, memory, ranks ---


def test_groups_are_those_of_identity() -> None:
    net: Any = mlp()
    one = torch.optim.AdamW([{"params": net[0].parameters(), "weight_decay": 0.3},
                             {"params": [net[2].bias], "weight_decay": 0.0}])  # fmt: skip
    held = held_parameters(net, [one, torch.optim.SGD([net[0].weight], 0.1)])
    assert held["0.weight"].groups == ((0, 0), (1, 0))
    assert held["2.bias"].groups == ((0, 1),)
    assert held["2.weight"].groups == ()
    assert (held["0.bias"].weight_decay, held["2.bias"].weight_decay) == (0.3, 0.0)
    assert held["4.weight"].elements == 48
    assert held["0.weight"].kind is net[0]


def test_memory_is_counted_with_gradients_and_buffers() -> None:
    net = nn.BatchNorm1d(4)
    assert size_of(net) == 4 * 4 * 4 + 8
    net.weight.grad = torch.zeros(4)
    assert size_of(net) == 5 * 4 * 4 + 8
    vars(net)["kept"] = torch.zeros(100)
    assert size_of(net) == 5 * 4 * 4 + 8 + 400
    assert shortage(net, allowed=7 * size_of(net)) == ""
    assert shortage(net, allowed=7 * size_of(net) - 1).startswith("copies of the module take")
    assert shortage(nn.LazyLinear(3), allowed=0) == ""


def test_copies_give_their_memory_back_at_once() -> None:
    """P26: they would stay until garbage is collected, and training needs the memory."""
    known = of("gan")
    _ = known.trial
    twin = known.copy()
    known.release()
    assert size_of(twin.module) == 0
    assert size_of(known.original) > 0
    assert not [each for optimizer in twin.optimizers for each in optimizer.state]


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="`batches` must be at least 1, got 0"):
        Subject(Plain(mlp()), batches=0)
    with pytest.raises(ValueError, match="`seconds` must be above 0, got 0"):
        Subject(Plain(mlp()), seconds=0)


def test_the_time_that_checks_may_take_ends() -> None:
    known = Subject(Plain(mlp()), table(), seconds=1e-9)
    assert known.time_left < 0
    assert list(known.more_trials(3)) == []
    with pytest.raises(Unavailable):
        _ = Subject(Plain(mlp())).batches


def test_without_ranks_nothing_is_hidden() -> None:
    with ranks_apart():
        assert not torch.distributed.is_initialized()
