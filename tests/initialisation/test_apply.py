"""What `suggest_init` says of each parameter, and that `init_` does it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from initialisation.nets import Gate, Own, Residual, Written, encoder, lenet, plain
from lightning_diag import init_, suggest_init
from lightning_diag.initialisation.plan import Scheme


def two(activation: nn.Module | None = None, width: int = 400) -> Any:
    """Return a hidden layer and a last one."""
    return nn.Sequential(nn.Linear(100, width), activation or nn.ReLU(), nn.Linear(width, 10))


@pytest.mark.parametrize(
    ("activation", "draw", "gain"),
    [
        (nn.ReLU(), "he", math.sqrt(2)),
        (nn.LeakyReLU(0.2), "he", math.sqrt(2 / 1.04)),
        (nn.GELU(), "he", 1.468),
        (nn.SiLU(), "he", 1.5588),
        (nn.SELU(), "lecun", 1.0),
        (nn.Tanh(), "xavier", 1.0),
        (nn.Sigmoid(), "xavier", 3.5777),
    ],
)
def test_the_activation_behind_a_layer_decides(
    activation: nn.Module, draw: str, gain: float
) -> None:
    net = two(activation)
    row = suggest_init(net)["0.weight"]
    fan = 250 if draw == "xavier" else 100
    assert row.draw == draw
    assert row.gain == pytest.approx(gain, abs=1e-3)
    assert row.std == pytest.approx(gain / math.sqrt(fan), rel=1e-3)
    init_(net)
    assert float(net[0].weight.detach().std()) == pytest.approx(row.std, rel=0.03)


REFERENCES: dict[str, Callable[[torch.Tensor], object]] = {
    "he": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "lecun": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "orthogonal": lambda w: nn.init.orthogonal_(w, gain=math.sqrt(2)),
}


@pytest.mark.parametrize("scheme", REFERENCES)
@pytest.mark.parametrize("layer", [nn.Linear(30, 20), nn.Conv2d(4, 20, 3)], ids=["linear", "conv"])
def test_the_same_seed_draws_what_torch_draws(layer: nn.Module, scheme: Scheme) -> None:
    net: Any = nn.Sequential(layer, nn.ReLU())
    torch.manual_seed(5)
    init_(net, scheme=scheme)
    expected = torch.empty_like(net[0].weight)
    torch.manual_seed(5)
    REFERENCES[scheme](expected)
    assert torch.allclose(net[0].weight, expected, atol=1e-6)


def test_uniform_weights_have_the_same_standard_deviation() -> None:
    net = two()
    row = init_(net, distribution="uniform")["0.weight"]
    weight = net[0].weight.detach()
    assert float(weight.std()) == pytest.approx(row.std, rel=0.02)
    assert float(weight.abs().max()) <= math.sqrt(3) * (row.std or 0)


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 100), ("fan_out", 400), ("fan_avg", 250)])
def test_the_fan_can_be_chosen(mode: Any, fan: int) -> None:
    assert suggest_init(two(), mode=mode)["0.weight"].std == pytest.approx(math.sqrt(2 / fan))


def test_sparse_weights_have_few_inputs_and_the_same_variance() -> None:
    net = two()
    init_(net, scheme="sparse", connections=15)
    assert net[0].weight.count_nonzero(1).unique().tolist() == [15]
    with torch.no_grad():
        out = net[0](torch.randn(500, 100, generator=torch.Generator().manual_seed(0)))
    assert float(out.square().mean()) == pytest.approx(2, rel=0.1)


def test_biases_are_zero_and_norms_neutral() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(net[1].weight, 3.0)
    net(torch.full((8, 4), 9.0))
    init_(net)
    assert not net[0].bias.any()
    assert net[1].weight.unique().tolist() == [1.0]
    assert net[1].running_mean.unique().tolist() == [0.0]
    assert net[1].num_batches_tracked.item() == 0


def test_recurrent_weights_are_orthogonal_gate_by_gate() -> None:
    net: Any = nn.LSTM(3, 4, num_layers=2, proj_size=0)
    table = init_(net)
    for name in ("weight_hh_l0", "weight_hh_l1"):
        for gate in getattr(net, name).detach().chunk(4):
            assert torch.allclose(gate @ gate.T, torch.eye(4), atol=1e-5)
    assert table["weight_ih_l0"].std == pytest.approx(math.sqrt(2 / 7))
    assert net.bias_ih_l0.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    assert not net.bias_hh_l0.any()


@pytest.mark.parametrize("net", [nn.GRU(3, 4), nn.RNN(3, 4), nn.GRUCell(3, 4), nn.RNNCell(3, 4)])
def test_other_recurrent_networks_have_zero_biases(net: nn.Module) -> None:
    init_(net)
    assert all(not p.any() for name, p in net.named_parameters() if name.startswith("bias"))


def test_each_matrix_of_attention_counts_by_itself() -> None:
    """Torch's own takes the three for one of three times as many units."""
    net: Any = nn.MultiheadAttention(64, 4)
    row = init_(net)["in_proj_weight"]
    assert row.std == pytest.approx(1 / 8)
    assert float(net.in_proj_weight.detach().std()) == pytest.approx(1 / 8, rel=0.05)


def test_branches_that_are_added_up_are_scaled_down() -> None:
    net: Any = Residual(4)
    table = suggest_init(net, torch.randn(2, 8))
    assert table["b.3.weight"].gain == pytest.approx(0.5)
    assert table["b.3.weight"].branches == 4
    assert table["a.3.weight"].gain == pytest.approx(math.sqrt(2))
    after = suggest_init(encoder(norm_first=False), torch.randn(2, 3, 8))
    assert after["layers.0.linear2.weight"].gain == 1.0


def test_a_stream_of_branches_keeps_its_size() -> None:
    """W7, of a residual network without norms: at most e times the mean square."""
    net: Any = Residual(32, width=128)
    init_(net, x := torch.randn(64, 128, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for a, b in zip(net.a, net.b, strict=True):
            x = x + b(functional.relu(a(x)))
    assert 1.5 < float(x.square().mean()) < 4


def test_a_gate_and_the_last_layer_are_not_made_steep() -> None:
    table = suggest_init(Gate(), torch.randn(2, 4))
    assert table["gate.weight"].gain == 1.0
    last = suggest_init(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()))
    assert last["0.weight"].gain == 1.0


def test_a_tied_weight_is_drawn_once_and_fits_the_layer() -> None:
    net: Any = Own()
    table = init_(net, torch.randint(7, (2, 3)))
    assert [row.name for row in table].count("table.weight") == 1
    assert table["table.weight"].std == table["order.weight"].std == 0.5
    assert table["place"].draw == "keep"
    assert not net.place.any()
    assert table["into"].std == pytest.approx(math.sqrt(2 / 4))


def test_padding_of_an_embedding_stays_zero() -> None:
    net: Any = nn.Embedding(5, 3, padding_idx=2)
    assert init_(net)["weight"].std == 1.0
    assert not net.weight[2].any()
    assert net.weight[1].any()


def test_what_is_frozen_or_not_meant_is_left_alone() -> None:
    net = two()
    net[0].requires_grad_(False)
    before = [p.detach().clone() for p in net.parameters()]
    table = init_(net)
    assert table["0.weight"].reason == "frozen"
    assert torch.equal(net[0].weight, before[0])
    assert not torch.equal(net[2].weight, before[2])
    net = two()
    before = [p.detach().clone() for p in net.parameters()]
    assert [row.name for row in init_(net, only="2")] == ["2.weight", "2.bias"]
    assert torch.equal(net[0].weight, before[0])
    assert [row.name for row in suggest_init(net, only=["*.bias"])] == ["0.bias", "2.bias"]
    assert len(suggest_init(net, only=lambda name: name == "0.weight")) == 1


def test_zeros_that_end_a_branch_are_left_alone() -> None:
    """Zero-initialised ends of branches, adapters and heads are deliberate."""
    net: Any = Residual(2)
    for layer in (*net.b, net.head):
        nn.init.zeros_(layer.weight)
    table = init_(net, torch.randn(2, 8))
    assert [row.name for row in table if row.draw == "keep"] == [
        "b.0.weight", "b.1.weight", "head.weight",
    ]  # fmt: skip
    assert not net.head.weight.any()
    assert net.a[0].weight.any()


def test_zero_norms_begin_branches_on_purpose_unless_all_are() -> None:
    net: Any = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4))
    nn.init.zeros_(net[3].weight)
    assert init_(net)["3.weight"].draw == "keep"
    nn.init.zeros_(net[1].weight)
    assert init_(net)["3.weight"].draw == "ones"


def test_a_last_bias_that_was_set_by_hand_stays() -> None:
    """As for rare classes; PyTorch draws it within 1 / sqrt(fan_in)."""
    net = two()
    nn.init.constant_(net[2].bias, -4.6)
    init_(net)
    assert net[2].bias.tolist() == pytest.approx([-4.6] * 10)
    assert not net[0].bias.any()


def loss_after(net: nn.Module, steps: int = 30) -> tuple[float, float]:
    """Return the loss of LeNet before and after a few steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 12, 12, generator=generator)
    y = (x[:, 0, :, :6].mean((1, 2)) > 0).long() + 2 * (x[:, 0, :6].mean((1, 2)) > 0).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0], losses[-1]


def test_lenet_with_zeros_does_not_learn_and_does_after_init() -> None:
    """C5."""
    torch.manual_seed(0)
    net = lenet()
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    loss_after(net)
    assert not net[0].weight.any()  # no gradient ever reached it
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    init_(net)
    first, last = loss_after(net)
    assert last < 0.3 * first


def test_a_layer_of_mean_100_is_told_and_repaired() -> None:
    """C6."""
    net = plain(nn.ReLU, 3, width=32)
    nn.init.normal_(net[2].weight, mean=100.0, std=10.0)
    row = suggest_init(net)["2.weight"]
    assert row.ratio == pytest.approx(100.5 / 0.25, rel=0.05)
    assert "100" in str(suggest_init(net))
    assert init_(net)["2.weight"].size == pytest.approx(0.25, rel=0.2)


def test_a_parametrized_weight_is_set_through_its_parametrization() -> None:
    net: Any = nn.Sequential(parametrizations.weight_norm(nn.Linear(50, 40)), nn.ReLU())
    row = init_(net, torch.randn(2, 50))["0.weight"]
    assert row.draw == "he"
    assert row.size == pytest.approx(0.2, rel=0.1)
    assert float(net[0].weight.detach().std()) == pytest.approx(0.2, rel=0.1)


def test_a_weight_that_is_computed_is_left_alone() -> None:
    class Standardised(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight - self.weight.mean(1, keepdim=True)
            return functional.linear(x, weight, self.bias)

    net: Any = nn.Sequential(Standardised(4, 4), nn.ReLU())
    assert init_(net, torch.randn(2, 4))["0.weight"].draw == "keep"


def test_what_old_weight_norm_computes_from_is_left_alone() -> None:
    net: Any = Written(torch.tanh)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.first = nn.utils.weight_norm(net.first)
    before = net.first.weight_v.detach().clone()
    table = init_(net, torch.randn(2, 4))
    assert (table["first.weight_v"].draw, table["first.weight_g"].draw) == ("keep", "keep")
    assert torch.equal(net.first.weight_v, before)
    assert table["first.bias"].draw == "zeros"


def test_a_module_under_vmap_and_complex_weights_do_no_harm() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.turn = nn.Parameter(torch.randn(4, 4, dtype=torch.cfloat))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = (torch.fft.fft(x) @ self.turn).real
            out: torch.Tensor = torch.vmap(self.layer)(x)
            return out

    net = Mapped()
    before = net.turn.detach().clone()
    table = init_(net, torch.randn(2, 4), scheme="lsuv")
    assert table["turn"].reason == "not of real numbers"
    assert torch.equal(net.turn, before)
    assert "its output was not seen" in table["layer.weight"].reason


def test_a_generator_leaves_the_global_state_alone() -> None:
    nets = [two(), two()]
    state = torch.get_rng_state()
    for net in nets:
        init_(net, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(nets[0][0].weight, nets[1][0].weight)


@pytest.mark.parametrize("scheme", ["auto", "orthogonal", "sparse"])
def test_half_precision_is_drawn(scheme: Scheme) -> None:
    net = two().to(torch.bfloat16)
    row = init_(net, scheme=scheme)["0.weight"]
    assert row.size == pytest.approx(row.std, rel=0.1) or scheme == "orthogonal"


def test_names_objects_and_optimizer_stay() -> None:
    net = two()
    parameters = list(net.parameters())
    net(torch.randn(2, 100)).sum().backward()
    gradients = [p.grad for p in parameters]
    init_(net)
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert [p.grad for p in parameters] == gradients


def test_the_table_prints_what_fits() -> None:
    text = str(suggest_init(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), Written(torch.exp))))
    assert text.splitlines()[0].split() == [
        "parameter", "followed", "by", "draw", "gain", "std", "is", "→", "fits",
    ]  # fmt: skip
    assert "what follows was not seen" in text
    assert "3 × bias: zeros" in text
    frozen = plain(nn.ReLU, 3, width=4).requires_grad_(False)
    assert str(suggest_init(frozen)) == (
        "0.weight, 0.bias, 2.weight, 2.bias and 4 more: left alone, frozen"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "glorot"}, "`scheme` must be one of auto, he, .*, got 'glorot'"),
        ({"mode": "fan"}, "`mode` must be one of fan_in, .*, got 'fan'"),
        ({"distribution": "cauchy"}, "`distribution` must be one of normal, uniform"),
        ({"connections": 0}, "`connections` must be at least 1 input, got 0"),
        ({"scheme": "lsuv"}, "give the inputs of a batch"),
        ({"only": "0.weigth"}, "fits no parameter of this module: did you mean '0.weight'"),
        ({"run": lambda: 1 / 0}, "cannot be run on the example inputs: ZeroDivisionError"),
    ],
)
def test_bad_arguments_are_one_sentence_and_change_nothing(
    options: dict[str, Any], message: str
) -> None:
    net = two()
    before = net[0].weight.detach().clone()
    with pytest.raises(ValueError, match=message) as error:
        init_(net, **options)
    assert "\n" not in str(error.value)
    assert torch.equal(net[0].weight, before)


def test_what_has_no_values_is_refused() -> None:
    with pytest.raises(ValueError, match="lazy layer"):
        init_(nn.LazyLinear(3))
    with pytest.raises(ValueError, match="meta device"):
        init_(nn.Linear(3, 3, device="meta"))
    wrong: Any = "net"
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got str"):
        suggest_init(wrong)
    with pytest.raises(TypeError, match="`only` must hold names or patterns, got 3"):
        suggest_init(nn.Linear(2, 2), only=[3])  # type: ignore[list-item]
