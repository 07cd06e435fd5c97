"""What is kept is what a slow reference keeps, for whatever losses, classes and rules (P28)."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hard.ohem_reference import kept
from lightning_diag import ohem_loss
from lightning_diag.hard import mining
from lightning_diag.hard.mining import Candidates, Mining, Stage, select

# few numbers, so that there are ties
LOSSES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.0, 3.5]), max_size=12)
SHARES = st.sampled_from([0.01, 0.07, 0.25, 1 / 3, 0.5, 2 / 3, 0.9, 1.0])
RULES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"keep": st.one_of(SHARES, st.integers(1, 14))}),
    st.fixed_dictionaries({"threshold": st.sampled_from([-1.0, 0.5, 2.0, 9.0])}),
    st.fixed_dictionaries({"ratio": st.sampled_from([0.3, 1, 1.5, 3])}),
    st.fixed_dictionaries(
        {"ratio": st.dictionaries(st.integers(0, 2), st.sampled_from([0.5, 1, 3.0]), min_size=1)}
    ),
    st.just({}),
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Candidates, dict[str, Any]]:
    """Draw losses, some of which do not count, and what shall be kept of them."""
    losses = draw(LOSSES)
    n = len(losses)
    valid = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    is_binary = draw(st.booleans())
    top = 1 if is_binary else 2
    classes = draw(st.lists(st.integers(0, top), min_size=n, max_size=n))
    rule = dict(draw(RULES))
    rule["skip_top"] = draw(st.sampled_from([0.0, 0.1, 0.34, 0.5]))
    rule["min_kept"] = draw(st.sampled_from([None, 0, 1, 4]))
    given_ = Candidates(
        torch.tensor(losses), torch.tensor(valid).bool(), torch.tensor(classes).long(), is_binary
    )
    return given_, rule


def reference(given_: Candidates, rule: dict[str, Any]) -> list[bool]:
    assert given_.classes is not None
    return kept(
        given_.losses.tolist(),
        given_.valid.tolist(),
        given_.classes.tolist(),
        is_binary=given_.is_binary,
        **rule,
    )


@settings(max_examples=150, deadline=None)
@given(batches())
def test_what_is_kept_is_what_the_reference_keeps(drawn: tuple[Candidates, Any]) -> None:
    given_, rule = drawn
    assert select(given_, Mining(**rule)).tolist() == reference(given_, rule)


@settings(max_examples=60, deadline=None)
@given(batches())
def test_devices_that_nobody_waits_for_keep_the_same(drawn: tuple[Candidates, Any]) -> None:
    given_, rule = drawn
    on_host, mining.on_host = mining.on_host, lambda x: False
    try:
        found = select(given_, Mining(**rule))
    finally:
        mining.on_host = on_host
    assert found.tolist() == reference(given_, rule)


@settings(max_examples=60, deadline=None)
@given(batches(), st.integers(1, 4))
def test_mining_is_phased_in_from_all_to_what_the_rule_says(
    drawn: tuple[Candidates, Any], total: int
) -> None:
    given_, rule = drawn

    def at(done: int) -> Tensor:
        return select(given_, Mining(**rule), Stage(torch.tensor(done), total))

    assert at(0).equal(given_.valid)
    assert at(total).tolist() == reference(given_, rule)
    sizes = [int(at(done).sum()) for done in range(total + 1)]
    assert sizes == sorted(sizes, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_loss_and_gradient_of_pixels_are_those_of_the_reference(data: st.DataObject) -> None:
    n, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(n, 3, size, dtype=torch.float64).round(decimals=1).requires_grad_()
    target = torch.randint(-1, 3, (n, size))
    weight = torch.tensor(data.draw(st.lists(st.sampled_from([0.5, 1, 2]), min_size=3, max_size=3)))
    rule = data.draw(RULES)
    reduction: Any = data.draw(st.sampled_from(["mean", "sum", "none"]))
    each = functional.cross_entropy(x, target, ignore_index=-1, reduction="none").flatten()
    flat = target.flatten()
    chosen = kept(each.tolist(), (flat >= 0).tolist(), flat.tolist(), **rule)
    factors = weight.double()[flat.clamp(min=0)] * torch.tensor(chosen)
    wanted = each * factors
    if reduction == "none":
        wanted = wanted.view(n, size)
    else:
        wanted = wanted.sum() / (factors.sum() or 1) if reduction == "mean" else wanted.sum()
    found = ohem_loss(x, target, weight=weight, ignore_index=-1, reduction=reduction, **rule)
    torch.testing.assert_close(found, wanted)
    mine, theirs = (torch.autograd.grad(loss.sum(), x)[0] for loss in (found, wanted))
    torch.testing.assert_close(mine, theirs)
    assert mine.ne(0).any(1).flatten().tolist() == chosen
