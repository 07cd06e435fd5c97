"""What was saved comes back bit for bit, whatever its names became (T1)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lightning_diag import load_pretrained
from lightning_diag.transfer.slots import without_wrappers

words = st.sampled_from(["model", "module", "net", "backbone", "_orig_mod", "encoder", "m2"])
prefixes = st.lists(words, max_size=3).map(lambda parts: "".join(f"{part}." for part in parts))
seeds = st.integers(0, 2**16)


@st.composite
def nets(draw: st.DrawFn) -> nn.Sequential:
    """Draw a net with nesting, batch norm, equal layers, tied weights and odd dtypes."""
    torch.manual_seed(draw(seeds))
    layers: list[nn.Module] = [nn.Linear(3, 3) for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        layers.append(nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)))
    if draw(st.booleans()):
        layers.append(nn.Embedding(4, 3))
        if draw(st.booleans()):
            layers.append(nn.Linear(3, 4, bias=False))
            layers[-1].weight = layers[-2].weight
    if draw(st.booleans()):
        layers.append(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)).to(torch.bfloat16))
    if draw(st.booleans()):
        layers.append(nn.LSTM(3, 2))
    return nn.Sequential(*draw(st.permutations(layers)))


def scrambled(net: nn.Module, seed: int) -> nn.Module:
    """Return a copy with other numbers in all places."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            draw = torch.randint(1, 99, tensor.shape, generator=generator)
            tensor.copy_(draw)
    return other


def inside(net: nn.Module, prefix: str) -> nn.Module:
    """Put a net where its names get a prefix."""
    for word in reversed(prefix.split(".")[:-1]):
        outer = nn.Module()
        outer.add_module(word, net)
        net = outer
    return net


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Compare states as bytes."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name]
        .contiguous()
        .flatten()
        .view(torch.uint8)
        .equal(other[name].contiguous().flatten().view(torch.uint8))
        for name in one
    )


def slow_load(net: nn.Module, source: dict[str, Tensor], removed: str, added: str) -> set[str]:
    """Load by the names that are known to fit, one by one; return those that were loaded."""
    loaded = set()
    parameters = list(net.named_parameters(remove_duplicate=False))
    tensors: list[tuple[str, Tensor]] = [*parameters, *net.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        for origin, value in source.items():
            if without_wrappers(name) == without_wrappers(added + origin[len(removed) :]):
                tensor.data = value.clone()
                loaded.add(name)
    return loaded


@settings(deadline=None, max_examples=150)
@given(nets(), prefixes, prefixes, seeds)
def test_what_was_saved_comes_back_under_any_prefixes(
    net: nn.Sequential, removed: str, added: str, seed: int
) -> None:
    source = {removed + name: tensor for name, tensor in net.state_dict().items()}
    mine, reference = scrambled(net, seed), scrambled(net, seed)
    report = load_pretrained(inside(mine, added), source, strict="error")
    assert same_bits(dict(mine.state_dict()), dict(net.state_dict()))
    loaded = slow_load(inside(reference, added), source, removed, added)
    assert same_bits(dict(mine.state_dict()), dict(reference.state_dict()))
    assert {each.name for each in report.matched} == {without_wrappers(name) for name in loaded}
    assert report.share == 1


@settings(deadline=None, max_examples=100)
@given(nets(), st.data(), prefixes, seeds)
def test_what_was_saved_comes_back_under_any_renaming(
    net: nn.Sequential, data: Any, prefix: str, seed: int
) -> None:
    state = dict(net.state_dict())
    new = data.draw(st.permutations([f"t{i}.x" for i in range(len(state))]))
    back = dict(zip(new, state, strict=True))
    source = {prefix + name: state[back[name]] for name in new}
    mine = scrambled(net, seed)
    clean = without_wrappers(prefix)
    report = load_pretrained(
        mine, source, lambda name: clean + back[name.removeprefix(clean)], "error"
    )
    assert same_bits(dict(mine.state_dict()), state)
    assert {each.origin for each in report.matched} == set(source)


@settings(deadline=None, max_examples=100)
@given(nets(), st.data(), prefixes, seeds)
def test_patterns_undo_what_was_done_to_each_layer(
    net: nn.Sequential, data: Any, prefix: str, seed: int
) -> None:
    order = data.draw(st.permutations(range(len(net))))
    places = dict(enumerate(order))
    source = {}
    for name, tensor in net.state_dict().items():
        first, _, rest = name.partition(".")
        source[f"{prefix}layer_{places[int(first)]}.{rest}"] = tensor
    mapping = {rf"\blayer_{new}\.": f"{old}." for old, new in places.items()}
    used = {
        pattern: text for pattern, text in mapping.items() if pattern[2:-2] + "." in str(source)
    }
    mine = scrambled(net, seed)
    load_pretrained(mine, source, used, "error")
    assert same_bits(dict(mine.state_dict()), dict(net.state_dict()))


@settings(deadline=None, max_examples=100)
@given(nets(), st.data(), seeds)
def test_a_part_is_loaded_and_the_rest_is_left_bit_for_bit(
    net: nn.Sequential, data: Any, seed: int
) -> None:
    state = dict(net.state_dict())
    kept = data.draw(st.sets(st.sampled_from(sorted(state)), min_size=1))
    mine = scrambled(net, seed)
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    report = load_pretrained(mine, {name: state[name] for name in kept}, strict=0.0)
    loaded = {each.name for each in report.matched}
    assert loaded >= kept
    assert {each.name for each in report.missing} == set(state) - loaded
    for name, tensor in mine.state_dict().items():
        expected = state[name] if name in loaded else before[name]
        assert same_bits({"": tensor}, {"": expected})
    tied = {n for n in state if any(state[n].data_ptr() == state[k].data_ptr() for k in kept)}
    assert loaded == tied
