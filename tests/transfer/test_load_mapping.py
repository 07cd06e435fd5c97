"""Names find their partners: renaming, and prefixes that are found (T1)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_diag.transfer.mapping import Prefix, Shapes, find_prefix, renamed

parts = st.sampled_from(["a", "b", "0", "weight"])
names = st.lists(parts, min_size=1, max_size=4).map(".".join)
shapes = st.dictionaries(names, st.sampled_from([(1,), (2,)]), max_size=7)


def prefixes(name: str) -> Iterator[str]:
    bits = name.split(".")
    for i in range(len(bits)):
        yield "".join(f"{bit}." for bit in bits[:i])


def count(source: Shapes, target: Shapes, removed: str, added: str) -> tuple[int, int, int, int]:
    """Return how many names fit, with and without their shapes, and how many there are to fit."""
    pairs = [
        (source[s], target[t])
        for s in source
        for t in target
        if s.startswith(removed) and added + s[len(removed) :] == t
    ]
    under = sum(name.startswith(removed) for name in source)
    place = sum(name.startswith(added) for name in target)
    return sum(a == b for a, b in pairs), len(pairs), under, place


def best(source: Shapes, target: Shapes) -> tuple[int, int]:
    """Try every prefix of every name on both sides."""
    found = [count(source, target, "", "")[:2]]
    for removed in {p for name in source for p in prefixes(name)}:
        for added in {p for name in target for p in prefixes(name)}:
            same, fit, under, place = count(source, target, removed, added)
            if 2 * fit >= min(under, place) and 4 * fit >= min(len(source), len(target)):
                found.append((same, fit))
    return max(found)


@settings(deadline=None, max_examples=300)
@given(shapes, shapes)
def test_the_found_prefix_fits_as_many_names_as_the_best_of_all(
    source: Shapes, target: Shapes
) -> None:
    prefix, rivals = find_prefix(source, target)
    expected = best(source, target)
    for each in (prefix, *rivals):
        assert count(source, target, each.removed, each.added)[:2] == expected


@pytest.mark.parametrize("removed", ["", "model.", "module.", "module.model.", "net.0."])
@pytest.mark.parametrize("added", ["", "backbone.", "model.encoder."])
def test_prefixes_of_both_sides_are_found(removed: str, added: str) -> None:
    body = {"conv.weight": (8, 3, 3, 3), "bn.weight": (8,), "bn.bias": (8,), "fc.weight": (10, 8)}
    source = {removed + name: shape for name, shape in body.items()} | {"queue": (4, 4)}
    target = {added + name: shape for name, shape in body.items()} | {"head.weight": (2, 8)}
    assert find_prefix(source, target) == (Prefix(removed, added), ())


def test_a_prefix_that_only_a_few_names_share_by_chance_is_not_taken() -> None:
    body = {f"a{i}.weight": (i,) for i in range(9)}
    source = {**body, "net.0.weight": (3, 3)}
    target = {**{f"b{i}.bias": (i,) for i in range(9)}, "0.weight": (3, 3), "0.b": (1,)}
    assert find_prefix(source, target) == (Prefix(), ())


def test_equal_towers_are_both_named() -> None:
    """MoCo keeps two encoders of one shape: which one is meant cannot be known."""
    body = {"0.weight": (2, 2), "0.bias": (2,)}
    source = {f"module.encoder_{x}.{name}": shape for x in "qk" for name, shape in body.items()}
    found = find_prefix(source, body)
    assert found == (Prefix("module.encoder_q."), (Prefix("module.encoder_k."),))


def test_of_equals_the_one_that_changes_least_is_taken() -> None:
    source = {"ema.net.weight": (2,), "net.weight": (2,)}
    found = find_prefix(source, {"weight": (2,)})
    assert found == (Prefix("net."), (Prefix("ema.net."),))


def test_names_that_fit_as_they_are_leave_no_doubt() -> None:
    source = {"ema.weight": (2,), "weight": (2,)}
    assert find_prefix(source, {"weight": (2,)}) == (Prefix(), ())


def test_patterns_apply_one_after_the_other_and_none_drops() -> None:
    found = renamed(
        ["enc.layer1.gamma", "enc.layer2.beta", "dec.x"],
        {
            r"^enc\.layer(\d)": r"blocks.\1",
            r"\.gamma$": ".weight",
            r"\.beta$": ".bias",
            "dec": None,
        },
    )
    assert found == {
        "enc.layer1.gamma": "blocks.1.weight",
        "enc.layer2.beta": "blocks.2.bias",
        "dec.x": None,
    }


def test_a_function_renames_and_swaps() -> None:
    swap = {"a": "b", "b": "a", "c": None}
    assert renamed(["a", "b", "c"], swap.__getitem__) == swap


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"^layer": "x"}, "`mapping` has '^layer', which is found in no name of the source: they"),
        ({"(": "x"}, "`mapping` has '(' to 'x', which `re.sub` cannot take: "),
        ({"a": r"\3"}, r"`mapping` has 'a' to '\\3', which `re.sub` cannot take: "),
        ({"^[ab]": "c"}, "`mapping` makes 'c.w' of both 'a.w' and 'b.w'"),
    ],
)
def test_a_wrong_mapping_is_an_error(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        renamed(["a.w", "b.w"], mapping)
