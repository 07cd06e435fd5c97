"""Who holds, reaches and calls parameters: what is found, and what just is not (P2, P4, P22)."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from checks.subjects import HEALTHY, Adversaries, Plain, made, mlp, numbers, table
from lightning_diag.before_training import preflight_outcome, subject
from lightning_diag.finding import Finding


def found(code: str, module: Any, data: Any = None) -> Finding | None:
    outcome = preflight_outcome(module, table() if data is None else data, level=[code])
    assert outcome.not_observed == []
    return outcome.findings[0] if outcome.findings else None


def change(do: Callable[[Any], object], *, net: Callable[[], nn.Module] = mlp) -> Plain:
    torch.manual_seed(0)
    module = Plain(net())
    do(module)
    return module


class Chosen(Plain):
    """Gives its optimizers what a function chooses."""

    def __init__(self, choose: Callable[[Any], Any], net: nn.Module | None = None) -> None:
        super().__init__(net or mlp())
        self.choose = choose

    def configure_optimizers(self) -> Any:
        """Return what was chosen."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.choose(self)


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, 0.1)


# --- parameter-not-in-optimizer ---


def test_a_parameter_that_equals_another_is_not_held_because_that_one_is() -> None:
    """P22: a filter that compares values drops zeros of the same shape."""

    def choose(module: Any) -> Any:
        module.net[0].bias.data.zero_()
        module.net[2].bias.data.zero_()
        kept = [p for p in module.parameters() if p is not module.net[2].bias]
        return sgd(kept)

    finding = found("parameter-not-in-optimizer", Chosen(choose))
    assert finding is not None
    assert finding.places == ("net.2.bias",)
    assert finding.severity == "bad"


def test_a_whole_layer_that_is_left_out_is_suspect_and_a_frozen_one_is_not() -> None:
    code = "parameter-not-in-optimizer"
    finding = found(code, Chosen(lambda m: sgd(m.net[2:].parameters())))
    assert finding is not None
    assert (finding.severity, finding.evidence.value) == ("suspect", 2.0)
    module = Chosen(lambda m: sgd(m.net[2:].parameters()))
    module.net[0].requires_grad_(False)
    assert found(code, module) is None


def test_a_training_without_optimizer_is_not_observed() -> None:
    outcome = preflight_outcome(Chosen(lambda m: None), table(), level=["parameters"])
    assert outcome.findings == []
    reasons = {each.code: each.reason for each in outcome.not_observed}
    assert reasons["parameter-not-in-optimizer"] == "`configure_optimizers` returned no optimizer"


# --- parameter-held-twice ---


def test_players_that_share_layers_are_a_note() -> None:
    class Sharing(Adversaries):
        def configure_optimizers(self) -> Any:
            return [sgd(self.parameters()), sgd(self.judge.parameters())]

    data = made(HEALTHY["gan"])[1]
    finding = found("parameter-held-twice", Sharing(), data)
    assert finding is not None
    assert finding.severity == "note"


def test_tied_weights_are_one_parameter() -> None:
    assert found("parameter-held-twice", *made(HEALTHY["tied weights"])) is None


# --- nothing-to-train ---


def test_a_frozen_backbone_beside_a_head_is_no_finding_and_alone_it_is() -> None:
    def two(module: Any) -> Any:
        return [sgd(module.net[:2].parameters()), sgd(module.net[2:].parameters())]

    module = Chosen(two)
    module.automatic_optimization = False
    module.net[:2].requires_grad_(False)
    finding = found("nothing-to-train", module)
    assert finding is not None
    assert finding.severity == "suspect"
    assert finding.places == ("net.0.weight", "net.0.bias")
    other = change(lambda m: m.net[:2].requires_grad_(False))
    assert found("nothing-to-train", other) is None


# --- missing-gradient ---


class Dropping(nn.Module):
    """Leaves each of two layers out half of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        for layer in (self.first, self.second):
            if torch.rand(()) < 0.5:
                x = x + layer(x)
        out: Tensor = self.head(x)
        return out


def test_a_layer_that_is_dropped_at_random_is_reached_in_the_end() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        assert found("missing-gradient", Plain(Dropping())) is None


def test_a_player_that_trains_every_fifth_time_is_reached_in_the_end() -> None:
    assert found("missing-gradient", *made(HEALTHY["gan of unlike pace"])) is None
    finding = found("missing-gradient", Adversaries(every=100), made(HEALTHY["gan"])[1])
    assert finding is not None
    assert finding.places[0] == "generator.0.weight"


def test_a_layer_that_starts_at_zero_is_no_finding() -> None:
    module = change(lambda m: nn.init.zeros_(m.net[4].weight))
    assert found("missing-gradient", module) is None


def test_layers_that_never_ran_are_named() -> None:
    module = change(lambda m: setattr(m, "extra", nn.Linear(2, 2)))
    finding = found("missing-gradient", module)
    assert finding is not None
    assert finding.places == ("extra.weight", "extra.bias")
    assert finding.message.endswith("`extra` never ran.")


def test_a_loss_without_gradient_is_bad() -> None:
    module = Plain(mlp(), lambda x, y: functional.cross_entropy(x.detach(), y))
    finding = found("missing-gradient", module)
    assert finding is not None
    assert finding.severity == "bad"
    assert finding.message.startswith("The loss that `training_step` returns has no gradient")


# --- eval-mode-with-trainable-parameters ---


def _evaluated(module: Any) -> None:
    module.net.insert(2, nn.Dropout(0.5))
    module.net.eval()


def test_a_module_that_puts_its_mode_back_when_training_starts_is_no_finding() -> None:
    class Repaired(Plain):
        def on_train_epoch_start(self) -> None:
            self.train()

    module = Repaired(mlp())
    _evaluated(module)
    assert found("eval-mode-with-trainable-parameters", module) is None


def test_layers_without_a_mode_are_a_note_from_half_of_the_parameters_on() -> None:
    code = "eval-mode-with-trainable-parameters"
    finding = found(code, change(lambda m: m.net.eval()))
    assert finding is not None
    assert finding.severity == "note"
    assert found(code, change(lambda m: m.net[4].eval())) is None


# --- shared-layer, uncalled-module ---


def test_a_layer_that_is_called_twice_and_an_activation_that_is_listed_twice_are_no_findings() -> (
    None
):
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(8, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 3))
    assert found("shared-layer", Plain(net)) is None
    assert found("uncalled-module", Plain(net)) is None


def test_dropout_of_probability_zero_and_a_softmax_for_prediction_are_no_findings() -> None:
    def add(module: Any) -> None:
        module.dropout, module.softmax = nn.Dropout(0.0), nn.Softmax(1)

    assert found("uncalled-module", change(add)) is None


# --- decayed-norm-or-bias, bias-before-norm ---


def test_two_groups_of_parameters_are_no_finding_nor_is_the_default_of_adamw() -> None:
    def groups(module: Any) -> Any:
        thick = [p for p in module.parameters() if p.dim() > 1]
        thin = [p for p in module.parameters() if p.dim() == 1]
        return torch.optim.AdamW([{"params": thick, "weight_decay": 0.5},
                                  {"params": thin, "weight_decay": 0.0}])  # fmt: skip

    assert found("decayed-norm-or-bias", Chosen(groups)) is None
    assert (
        found("decayed-norm-or-bias", Chosen(lambda m: torch.optim.AdamW(m.parameters()))) is None
    )


def test_a_bias_before_a_norm_that_does_not_take_statistics_is_of_use() -> None:
    def net(norm: nn.Module, between: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), between, norm, nn.ReLU(), nn.Linear(16, 3))

    frozen: _BatchNorm = nn.BatchNorm1d(16)
    frozen.eval()
    silent = [
        (nn.LayerNorm(16), nn.Identity()),
        (frozen, nn.Identity()),
        (nn.BatchNorm1d(16), nn.Tanh()),
    ]
    for norm, between in silent:
        assert found("bias-before-norm", Plain(net(norm, between))) is None
    finding = found("bias-before-norm", Plain(net(nn.BatchNorm1d(16), nn.Identity())))
    assert finding is not None
    assert finding.places == ("net.0",)


def test_scripted_and_lazy_layers_are_looked_at_without_fail() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripts are deprecated, and there are many of them
        scripted = torch.jit.script(nn.Linear(8, 16))
    for net in (nn.Sequential(scripted, nn.Linear(16, 3)), nn.Sequential(nn.LazyLinear(3))):
        batches = [(numbers(4, 8), torch.zeros(4).long())] * 2
        outcome = preflight_outcome(Plain(net), batches, level="full")
        assert not [each for each in outcome.not_observed if "failed" in each.reason]


class Averaged(Plain):
    """A network, and a moving average of it that nobody froze."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.average = copy.deepcopy(self.net)

    def configure_optimizers(self) -> Any:
        """Train the network alone."""
        return torch.optim.SGD(self.net.parameters(), 0.1)


def test_a_moving_average_that_is_left_trainable_is_a_note() -> None:
    outcome = preflight_outcome(Averaged(), table(), level=["parameters"])
    assert {finding.severity for finding in outcome.findings} <= {"note"}


def test_a_function_that_a_module_holds_runs_the_copys_layers() -> None:
    """As minGPT's blocks hold their feed-forward part; P26."""

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 3)
            self.run: Callable[[Tensor], Tensor] = lambda x: self.outer(self.inner(x).relu())
            self.again = functools.partial(torch.nn.functional.linear, bias=self.outer.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.run(x)

    module = Plain(Held())
    ran: list[Any] = []
    module.net.inner.register_forward_pre_hook(lambda *_: ran.append(1))
    twin = subject(module, table()).copy()
    own = twin.module.net
    assert own.again.keywords["bias"] is own.outer.bias
    twin.loss(twin.moved(next(iter(table()))), 0).backward()
    assert own.inner.weight.grad is not None
    assert module.net.inner.weight.grad is None
    assert preflight_outcome(module, table(), level=["parameters"]).findings == []
