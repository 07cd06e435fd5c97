"""Names of parameters and modules are the same whatever wraps them (P42)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

from lightning_diag.probe.places import (
    clean_name,
    is_metric,
    named_modules,
    named_parameters,
    trained_modules,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        self.head = nn.Linear(3, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.scale * self.head(self.body(x)))


MODULES = ["", "body", "body.0", "body.1", "head"]
PARAMETERS = ["scale", "body.0.weight", "body.0.bias", "head.weight", "head.bias"]


class DistributedDataParallel(nn.Module):
    """Holds its module as the real one does, without processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class FullyShardedDataParallel(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


def compiled(module: nn.Module) -> nn.Module:
    wrapped = torch.compile(module, backend="eager")
    assert isinstance(wrapped, nn.Module)
    return wrapped


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": compiled,
    "checkpoint": checkpoint_wrapper,
    "DDP": DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "FSDP": FullyShardedDataParallel,
    "compiled DDP": lambda module: compiled(DistributedDataParallel(module)),
    "DDP of compiled": lambda module: DistributedDataParallel(compiled(module)),
    "checkpoint in FSDP": lambda module: FullyShardedDataParallel(checkpoint_wrapper(module)),
}


def names(root: nn.Module) -> tuple[list[str], list[str]]:
    modules = dict.fromkeys(path for path, _ in named_modules(root))
    return list(modules), [name for name, _, _ in named_parameters(root)]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("at", ["root", "body", "head", "each layer"])
def test_names_do_not_show_wrappers(wrapper: str, at: str) -> None:
    net: nn.Module = Net()
    wrap = WRAPPERS[wrapper]
    if at == "root":
        net = wrap(net)
    elif at == "each layer":
        body = net.get_submodule("body")
        assert isinstance(body, nn.Sequential)
        body[0], net.head = wrap(body[0]), wrap(net.get_submodule("head"))
    else:
        setattr(net, at, wrap(net.get_submodule(at)))
    assert names(net) == (MODULES, PARAMETERS)


def test_parts_of_names_that_look_like_wrappers_stay() -> None:
    assert clean_name("module.net.weight") == "module.net.weight"
    assert clean_name("my_orig_mod.weight") == "my_orig_mod.weight"
    assert clean_name("") == ""
    net = nn.Module()
    net.module = nn.Linear(1, 1)
    assert names(net) == (["", "module"], ["module.weight", "module.bias"])


def test_each_parameter_has_its_layer() -> None:
    layers = {name: layer for name, layer, _ in named_parameters(Net())}
    assert layers == {
        "scale": "",
        "body.0.weight": "body.0",
        "body.0.bias": "body.0",
        "head.weight": "head",
        "head.bias": "head",
    }


def test_tied_parameters_and_shared_modules_count_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU())
    assert isinstance(net[0], nn.Linear)
    assert isinstance(net[1], nn.Linear)
    net[1].weight = net[0].weight
    net.append(net[2])
    net.append(net[1])
    assert names(net) == (["", "0", "1", "2"], ["0.weight", "0.bias", "1.bias"])


def test_parameters_are_those_of_the_module() -> None:
    net = Net()
    own = dict(net.named_parameters())
    found = {name: parameter for name, _, parameter in named_parameters(net)}
    assert found.keys() == own.keys()
    assert all(found[name] is own[name] for name in own)


def test_names_of_parametrised_layers_are_torchs_own() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2)))
    assert names(net)[1] == [name for name, _ in net.named_parameters()]


def test_metrics_and_what_they_are_made_of_do_not_train() -> None:
    class Inside(torchmetrics.Metric):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

        def update(self) -> None:
            """Take nothing."""

        def compute(self) -> None:
            """Give nothing."""

    net = nn.Module()
    net.metric = Inside()
    net.metrics = torchmetrics.MetricCollection([torchmetrics.MeanMetric()])
    net.metric_head = nn.Linear(2, 2)
    assert is_metric(net.metric)
    assert is_metric(net.metrics)
    assert not is_metric(net.metric_head)
    trained = trained_modules(net)
    assert [path for path in trained.values() if "features" in path] == []
    assert trained[id(net)] == ""
    assert trained[id(net.metric_head)] == "metric_head"
