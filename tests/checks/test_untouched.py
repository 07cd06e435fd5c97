"""`untouched` puts everything back, whatever happened within it (P26)."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from checks.subjects import HEALTHY, made
from checks.traces import differences, everything, same
from lightning_diag.checks.untouched import untouched


class Held(nn.Module):
    """Holds all kinds of attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
        self.losses: list[float] = [1.0]
        self.counts = {"a": 1}
        self.names = {"x"}
        self.last = deque([1, 2], maxlen=2)
        self.shown = torch.ones(2)
        self.step = 3
        self._trainer = None


def spoil(module: Any) -> None:
    """Change everything that a module has."""
    module.losses.append(2.0)
    module.counts["b"] = 2
    module.names.add("y")
    module.last.append(3)
    module.shown.zero_()
    module.step = 4
    module.added = 1
    del module.net[2]
    module.net[0].weight.data.fill_(7.0)
    module.net[0].bias.data = torch.zeros(5)
    module.net[0].weight.requires_grad_(False)
    module.net[0].bias.grad = torch.ones(5)
    module.net[1].running_mean.add_(1)
    module.net[1].num_batches_tracked += 1
    module.net[1].weight.grad.zero_()
    module.net[1] = nn.Identity()
    module.eval()
    module.register_forward_hook(lambda *_: None)
    random.random()
    np.random.rand()  # noqa: NPY002
    torch.rand(2)
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("error", [None, KeyError(), KeyboardInterrupt()], ids=repr)
def test_all_that_a_module_has_is_as_before(error: BaseException | None) -> None:
    module = Held()
    module.net[1].weight.grad = torch.full((2,), 0.5)
    weight, gradient, net = module.net[0].weight, module.net[1].weight.grad, module.net
    before = everything(module)
    with pytest.raises(type(error)) if error else torch.no_grad(), untouched(module):
        spoil(module)
        if error:
            raise error
    assert differences(before, everything(module)) == []
    assert (module.net[0].weight, module.net[1].weight.grad, module.net) == (weight, gradient, net)
    assert module.net[0].bias.grad is None


def test_what_was_spoilt_would_be_seen() -> None:
    module = Held()
    module.net[1].weight.grad = torch.full((2,), 0.5)
    before = everything(module)
    spoil(module)
    changed = {"weights", "gradients", "trained", "modes", "attributes", "python", "numpy position"}
    assert changed | {"torch", "benchmark"} <= set(differences(before, everything(module)))
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark


def test_optimizers_and_schedulers_are_as_before() -> None:
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def train() -> None:
        optimizer.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()

    def state() -> Any:
        states = [dict(each) for each in optimizer.state.values()]
        kept = [{k: v.clone() for k, v in each.items()} for each in states]
        rates = [group["lr"] for group in optimizer.param_groups]
        return [kept, rates, schedule.state_dict()["last_epoch"], schedule.get_last_lr()]

    train()
    before, moments = state(), [id(each["exp_avg"]) for each in optimizer.state.values()]
    with untouched(net, [optimizer], [schedule]):
        train()
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
        optimizer.state[net.weight]["exp_avg"] = torch.ones(1, 2)
    assert same(before, state())
    assert [id(each["exp_avg"]) for each in optimizer.state.values()] == moments
    train()


def test_players_and_tied_weights_are_as_before() -> None:
    for kind in ("gan", "tied weights"):
        module, _ = made(HEALTHY[kind])
        before = everything(module)
        with untouched(module):
            for parameter in module.parameters():
                parameter.data.add_(1.0)
        assert differences(before, everything(module)) == []


def test_where_memory_is_short_all_but_values_is_kept() -> None:
    module = nn.Linear(2, 2)
    with untouched(module, values=False):
        module.eval()
        module.weight.requires_grad = False
        module.weight.grad = torch.ones(2, 2)
    assert module.training
    assert module.weight.requires_grad
    assert module.weight.grad is None


def test_a_layer_that_waits_for_its_first_input_goes_on_waiting() -> None:
    module = nn.LazyLinear(2)
    with untouched(module):
        module.eval()
    assert module.training
    assert module.has_uninitialized_params()
