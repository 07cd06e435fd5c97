"""Whatever features depend on is in their key: any change misses (P44)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_diag.transfer.features import cache_features
from lightning_diag.transfer.keys import Digest
from lightning_diag.transfer.store import CacheRefusedError
from transfer.caches import Altered, Residual, Scaled, loader, noisy, pictures


def flipped(tensor: Tensor, element: int, bit: int) -> Tensor:
    """Return a copy in which one bit of one element is another one."""
    copy = tensor.detach().clone().contiguous()
    integers = copy.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[copy.element_size()])
    flat = integers.view(-1)
    flat[element % flat.numel()] ^= 1 << bit
    return copy


def backbone() -> Residual:
    torch.manual_seed(1)
    return Residual().requires_grad_(requires_grad=False).eval()


def cached(folder: Path, net: nn.Module | None = None, data: Any = None, **options: Any) -> Any:
    features = cache_features(
        backbone() if net is None else net,
        options.pop("frontier", ""),
        pictures(12) if data is None else data,
        folder,
        **{"batch_size": 4, **options},
    )
    features.close()
    return features


def test_the_same_is_found_again_and_is_the_same(tmp_path: Path) -> None:
    first, second = cached(tmp_path), cached(tmp_path)
    assert (first.was_there, second.was_there) == (False, True)
    assert first.key == second.key
    live = backbone()(pictures(12).tensors[0][:4])
    for i in range(4):
        assert torch.equal(second[i][0], live[i])
        assert second[i][1] == i


@given(number=st.integers(0, 10**6), element=st.integers(0, 10**6), bit=st.integers(0, 22))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_bit_of_any_weight_or_buffer_misses(
    tmp_path: Path, number: int, element: int, bit: int
) -> None:
    net = backbone()
    state = dict(net.state_dict())
    name = sorted(state)[number % len(state)]
    state[name] = flipped(state[name], element, bit)
    net.load_state_dict(state)
    assert cached(tmp_path).key != cached(tmp_path, net).key


@given(element=st.integers(0, 10**6), bit=st.integers(0, 22), part=st.integers(0, 1))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_one_bit_of_any_sample_misses(tmp_path: Path, element: int, bit: int, part: int) -> None:
    """Also of a target, which is stored beside the features."""
    known = cached(tmp_path).key
    tensors = list(pictures(12).tensors)
    tensors[part] = flipped(tensors[part], element, bit)
    assert cached(tmp_path, data=TensorDataset(*tensors)).key != known


@pytest.mark.parametrize("check", ["all", "sampled"])
def test_an_argument_of_a_transform_misses(tmp_path: Path, check: str) -> None:
    keys = {
        cached(tmp_path, data=Altered(Scaled(scale), 12), check=check, samples=1).key
        for scale in (1.0, 1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item())
    }
    assert len(keys) == 2


class Doubled(Residual):
    """The same weights, other code."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Renamed(Residual):
    """The same weights and code, another class."""


class Behind(nn.Module):
    """A backbone with a number that decides what it does."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.net, self.power = backbone(), power

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x) ** self.power
        return out


def _pretrained(kind: Callable[[], nn.Module]) -> nn.Module:
    net = kind()
    net.load_state_dict(backbone().state_dict())
    return net.requires_grad_(requires_grad=False).eval()


def test_code_class_settings_dtype_hooks_and_the_user_s_own_key_miss(tmp_path: Path) -> None:
    hooked = backbone()
    hooked.layer2.register_forward_hook(lambda *args: args[-1] * 1.0)
    slope = backbone()
    slope.layer1.norm.eps = 1e-4
    half = backbone().double()
    double = TensorDataset(pictures(12).tensors[0].double(), pictures(12).tensors[1])
    variants: list[Any] = [
        cached(tmp_path),
        cached(tmp_path, _pretrained(Doubled)),
        cached(tmp_path, _pretrained(Renamed)),
        cached(tmp_path, Behind(1).eval()),
        cached(tmp_path, Behind(2).eval()),
        cached(tmp_path, hooked),
        cached(tmp_path, slope),
        cached(tmp_path, half, double),
        cached(tmp_path, key="v2"),
        cached(tmp_path, dtype="bfloat16"),
        cached(tmp_path, frontier="layer3", within=""),
        cached(tmp_path, frontier="layer2", within=""),
        cached(tmp_path, data=pictures(11)),
        cached(tmp_path, batch_size=3),
    ]
    assert len({features.key for features in variants}) == len(variants)
    assert not any(features.was_there for features in variants)


def test_what_decides_bits_besides_the_values_misses(tmp_path: Path) -> None:
    known = cached(tmp_path).key
    with torch.autocast("cpu", torch.bfloat16):
        assert cached(tmp_path).key != known
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert cached(tmp_path).key != known
    finally:
        torch.set_float32_matmul_precision(before)


def test_another_release_of_torch_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = cached(tmp_path).key
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert cached(tmp_path).key != known


def test_sampled_data_trusts_the_user_s_key_for_the_rest(tmp_path: Path) -> None:
    """The price of not reading all samples, which the docs say."""
    tensors = list(pictures(12).tensors)
    tensors[0] = flipped(tensors[0], 64 * 7 + 5, 3)
    other = TensorDataset(*tensors)
    assert (
        cached(tmp_path, check="sampled", samples=2).key
        == cached(tmp_path, data=other, check="sampled", samples=2).key
    )
    assert cached(tmp_path, check="sampled", samples=2, key="new").key != (
        cached(tmp_path, data=other, check="sampled", samples=2).key
    )


def test_equal_data_of_another_run_is_found_whatever_its_order(tmp_path: Path) -> None:
    first = cached(tmp_path, data=loader(pictures(12)))
    assert cached(tmp_path, data=loader(pictures(12), shuffle=False)).key == first.key
    assert cached(tmp_path, data=pictures(12), batch_size=8).key == first.key


def _adder(number: int) -> Callable[[int], int]:
    return lambda x: x + number


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, [2]], [[1], 2]),
        ("1", 1),
        (1, 1.0),
        (True, 1),
        ({"a": 1}, {"a": 2}),
        ({"a": None}, {"a": "None"}),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2, 1), torch.zeros(1, 2)),
        (torch.zeros(2), torch.zeros(2).numpy()),
        (_adder(1), _adder(2)),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (Scaled(1.0), Scaled(2.0)),
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())),
        ({1, 2}, {1, 3}),
        (b"1", "1"),
    ],
)
def test_unlike_values_have_unlike_hashes(first: Any, second: Any) -> None:
    assert Digest().add(first).hex() == Digest().add(first).hex()
    assert Digest().add(first).hex() != Digest().add(second).hex()


def test_a_value_that_holds_itself_has_a_hash() -> None:
    knot: list[Any] = [1]
    knot.append(knot)
    assert Digest().add(knot).hex() != Digest().add([1, [1]]).hex()


def test_the_function_refuses_as_the_callback_does(tmp_path: Path) -> None:
    net = backbone()
    net.layer3.norm.train()
    with pytest.raises(CacheRefusedError, match=r"'layer3.norm' \(BatchNorm2d\) is in train mode"):
        cached(tmp_path, net)
    with pytest.raises(CacheRefusedError, match="transforms are random"):
        cached(tmp_path, data=Altered(noisy, 12))
    with pytest.raises(CacheRefusedError, match=r"'stem\.weight' is trainable"):
        cached(tmp_path, Residual().eval())


def test_none_takes_the_deepest_module_of_which_all_before_is_frozen(tmp_path: Path) -> None:
    net = backbone()
    net.layer3.requires_grad_(requires_grad=True)
    with torch.no_grad():
        x = nn.functional.max_pool2d(nn.functional.relu(net.stem(pictures(12)[3][0][None])), 2)
        expected = net.layer2(net.layer1(x))[0]
    features = cached(tmp_path, net, frontier=None)
    assert torch.allclose(features[3][0], expected, atol=1e-6)


def test_views_are_drawn_anew_for_each_epoch(tmp_path: Path) -> None:
    features = cached(tmp_path, data=Altered(noisy, 12), views=3)
    again = cached(tmp_path, data=Altered(noisy, 12), views=3)
    assert again.was_there
    seen: list[Any] = []
    for epoch in range(8):
        features.epoch = again.epoch = epoch
        assert torch.equal(features[5][0], again[5][0])
        seen.append(features[5][0])
    assert len({tuple(value.tolist()) for value in seen}) == 3


def test_rows_can_be_asked_for_one_by_one_together_and_from_the_end(tmp_path: Path) -> None:
    features = cached(tmp_path, shard_bytes=1)
    assert len(features) == 12
    many = features.__getitems__([7, 0, 11])
    for (x, y), i in zip(many, (7, 0, 11), strict=True):
        assert y == i
        assert torch.equal(x, features[i][0])
    assert features[-1][1] == 11
    with pytest.raises(IndexError):
        features[12]


def test_random_states_are_left_alone(tmp_path: Path) -> None:
    net = backbone()
    before = torch.get_rng_state()
    cached(tmp_path, net, Altered(noisy, 12), views=2)
    assert torch.equal(before, torch.get_rng_state())


def test_what_a_module_does_behind_the_frontier_leaves_no_trace(tmp_path: Path) -> None:
    """Where it is cut is tried out with the head in train mode, batch norm included."""
    head = nn.BatchNorm1d(12)
    net = nn.Sequential(backbone(), head)
    cached(tmp_path, net, frontier="0", within="")
    assert head.num_batches_tracked == 0
    assert torch.equal(head.state_dict()["running_mean"], torch.zeros(12))
