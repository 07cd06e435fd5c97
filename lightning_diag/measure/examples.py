"""The samples with the highest loss: found on the device, told on the host (W13)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_diag.measure.base import Columns, HostColumns, LossCall, Numbers, placed
from lightning_diag.measure.batch_samples import Samples, content_of
from lightning_diag.measure.filters import looks_pictured
from lightning_diag.measure.losses import LossCallMeasure
from lightning_diag.measure.moments import wide
from lightning_diag.measure.pictures import as_texts
from lightning_diag.measure.ranking import LOSS, MISTAKES, severity
from lightning_diag.measure.sample_loss import SampleLosses, sample_losses, told
from lightning_diag.measure.top_share import octaves, top_share

_KEYS = (
    *("loss", "target", "prediction", "probability", "correct"),
    *("index", "pixels", "numbers"),
)
"""What is told of each sample, None where it is not known."""
OF_A_CALL = 8
"""Our choice: samples of one call that are looked at closely."""
Example = dict[str, Any]
"""One sample, in plain values."""


class ExampleMeasure(LossCallMeasure):
    """Highest and mean loss of the samples of a call, and how much of it few of them carry.

    Args:
        due: Whether to look at the forward pass that begins.
        keep: Takes each call with the losses of its samples.

    Example:
        >>> x, y = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0])
        >>> call = LossCall("mse_loss#0", "mse_loss", "loss", 1, x, torch.tensor(2.5), target=y)
        >>> measure = ExampleMeasure()
        >>> columns = measure.after(call)
        >>> numbers = measure.summarise(["mse_loss#0"], columns.sums, columns.maxima)
        >>> numbers["worst_loss"], numbers["mean_loss"]
        ({'mse_loss#0': 4.0}, {'mse_loss#0': 2.5})
    """

    name: ClassVar[str] = "example"
    outputs: ClassVar[dict[str, str]] = {
        "worst_loss": "highest loss of a sample in the step, without weights; infinite where one "
        "is NaN",
        "mean_loss": "mean of the losses of its samples, without weights",
        "top_share": "share of the step's loss that the tenth of its samples with the highest loss "
        "carries, 0.1 to 1",
    }

    def __init__(
        self,
        due: Callable[[], bool] = lambda: True,
        keep: Callable[[LossCall, SampleLosses], None] = lambda *_: None,
    ) -> None:
        super().__init__(due)
        self._keep = keep

    def observe(self, call: LossCall) -> Columns | None:
        """See `LossCallMeasure.observe`.

        Shape:
            ``(samples, *)`` -> sums ``(1, 194)``, maxima ``(1, 1)``.
        """
        found = sample_losses(call)
        if found is None:
            return None
        self._keep(call, found)
        counts = found.losses != -math.inf
        exact = wide(found.losses.device)
        total = found.losses.where(counts, torch.zeros_like(found.losses)).sum()
        both = torch.stack([total.to(exact), counts.sum().to(exact)])
        sums = torch.cat([both, octaves(found.losses).to(exact)])[None]
        highest = severity(found.losses).max()[None, None].to(exact)
        if sums.device.type == "cpu":
            return HostColumns(sums.tolist(), highest.tolist())
        return Columns(sums, highest)

    def summarise(self, places: Sequence[str], sums: Tensor, maxima: Tensor) -> Numbers:
        """See `Measure.summarise`."""
        total, count = sums[:, 0], sums[:, 1]
        share = top_share(sums[:, 2:])
        return {
            "worst_loss": placed(places, maxima[:, 0], count > 0),
            "mean_loss": placed(places, total / count, count > 0),
            "top_share": placed(places, share, share.isfinite()),
        }


@dataclass
class Look:
    """The worst samples of one call, on their way to the host."""

    place: str
    batch: int
    """Number of the batch in its epoch."""
    each: int
    """Rows of one sample: more than 1 where each position of a sequence is a row."""
    seen: int
    """Rows whose loss was computed."""
    columns: dict[str, Tensor]
    """Numbers of the samples, worst first, ``(n, *)`` each; ``score`` is what ranks them."""
    kind: str = LOSS
    """The list that they may be on."""


def look(
    call: LossCall,
    found: SampleLosses,
    samples: Samples,
    batch: int,
    *,
    with_content: bool,
    most: int = OF_A_CALL,
    scores: Tensor | None = None,
    kind: str = LOSS,
) -> Look:
    """Take what is to be told of the worst samples of a call, without waiting for the device.

    Args:
        call: The call.
        found: The losses of its samples.
        samples: The batch.
        batch: Its number in the epoch.
        with_content: Whether to take the samples themselves as well.
        most: How many samples to take.
        scores: What to rank them by, -inf for those that do not belong; None ranks by the loss.
        kind: The list that they may be on.
    """
    ranks = severity(found.losses) if scores is None else scores
    top = ranks.topk(min(most, len(ranks))).indices
    rows = top * found.every
    columns = {"loss": found.losses[top], "row": rows, "score": ranks[top]}
    columns.update({k: v for k, v in told(call, found, top)._asdict().items() if v is not None})
    held = samples.content(len(call.input), call.target)
    each = 1
    if held is not None:
        x, each = held
        chosen = (rows // each).to(x.device)
        index = samples.index(len(x))
        if index is not None:
            columns["index"] = index[chosen.to(index.device)]
        if with_content:
            columns.update(content_of(x, chosen))
    on_host = {name: _to_host(values) for name, values in columns.items()}
    return Look(call.place, batch, each, len(ranks), on_host, kind)


def _to_host(x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return x
    host = torch.empty(x.shape, dtype=x.dtype, device="cpu", pin_memory=x.device.type == "cuda")
    return host.copy_(x, non_blocking=True)


def examples(
    looks: Sequence[Look], facts: Mapping[str, Any], most: int = OF_A_CALL
) -> list[Example]:
    """Return the worst samples of some looks at the calls of one place, worst first.

    A loss that is NaN is above all.

    Args:
        looks: Their numbers must have reached the host.
        facts: What else is known of all of them, such as the step.
        most: How many to return.
    """
    rows = [row for seen in looks for row in _rows(seen)]
    rows.sort(key=_order_of(looks[0].kind if looks else LOSS))
    return [{**one, **facts} for one in rows[:most]]


def _rows(seen: Look) -> list[Example]:
    """Return all samples of a look whose targets count."""
    columns = dict(seen.columns)
    shape = None
    if {"pixels", "numbers"} <= columns.keys():
        columns.pop("numbers" if looks_pictured(columns["pixels"]) else "pixels")
    pixels, scores = columns.pop("pixels", None), columns.pop("score").tolist()
    values = {name: _plain(x) for name, x in columns.items()}
    if pixels is not None:
        shape = [*pixels.shape[2:], pixels.shape[1]]
        values["pixels"] = as_texts(pixels)
    for name in ("target", "prediction"):
        if values.get(name) and len(values[name][0]) == 1:
            values[name] = [value for (value,) in values[name]]
    found = []
    for i, score in enumerate(scores):
        if score == -math.inf:
            break
        sample, position = divmod(values["row"][i], seen.each)
        one = {name: values[name][i] if name in values else None for name in _KEYS}
        place = {"batch": seen.batch, "sample": sample, "shape": shape}
        found.append({**one, **place, "position": position if seen.each > 1 else None})
    return found


def _plain(x: Tensor) -> list[Any]:
    """Return the rows of a tensor, without the noise of their last digits."""
    if x.dtype is torch.bool:
        x = x.to(torch.uint8)
    rows = x.tolist()
    if not x.is_floating_point():
        return rows
    if x.dim() == 1:
        return [float(f"{value:.6g}") for value in rows]
    return [[float(f"{value:.6g}") for value in row] for row in rows]


def worst(found: Sequence[Example], most: int, kind: str = LOSS) -> list[Example]:
    """Return the examples with the highest loss, each sample once: as it was seen last.

    Args:
        found: Examples, those seen last at the end.
        most: How many to return.
        kind: The list they are for: of confident mistakes the surest come first.

    Example:
        >>> kept = worst([{"loss": 1.0, "pixels": "a"}, {"loss": 3.0}, {"loss": 2.0}], 2)
        >>> [one["loss"] for one in kept]
        [3.0, 2.0]
    """
    newest: dict[Any, Example] = {}
    for i, one in enumerate(found):
        newest[_identity(one) or i] = one
    return sorted(newest.values(), key=_order_of(kind))[:most]


def _order_of(kind: str) -> Callable[[Example], float]:
    """Return what examples of a list are sorted by, ascending."""
    if kind == MISTAKES:
        return lambda one: -float(one["probability"])
    return lambda one: -_severity(one["loss"])


def _severity(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


def _identity(one: Example) -> Any:
    """Return what tells a sample from others, None if that is not known."""
    if one.get("index") is not None:
        return ("index", one["index"], one.get("position"), one.get("loader"))
    content = one.get("pixels") or str(one.get("numbers") or "")
    return (content, str(one.get("target")), one.get("position")) if content else None
