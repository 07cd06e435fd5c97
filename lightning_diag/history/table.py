"""A history as a table of pandas or Arrow, for those who have them."""

from __future__ import annotations

import importlib
from itertools import chain
from typing import TYPE_CHECKING, Any

from lightning_diag.history.memory import Memory

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def to_pandas(memory: Memory, metric: str) -> pd.DataFrame:
    """See `History.to_pandas`."""
    pd = _package("pandas", "pandas", "History.to_pandas")
    columns = {}
    for place in memory.layout.places(metric):
        steps, values = memory.series(metric, place)
        kind = "float64"
        if not steps and (lists := memory.lists(metric, place)):
            steps, values = (list(column) for column in zip(*lists, strict=True))
            kind = "object"
        index = pd.Index(steps, dtype="int64")
        columns[place] = pd.Series(values, index=index, dtype=kind)
    frame = pd.DataFrame(columns, columns=list(columns)).sort_index()
    frame.index = frame.index.astype("int64").rename("step")
    return frame


def to_arrow(memory: Memory) -> pa.Table:
    """See `History.to_arrow`."""
    pa = _package("pyarrow", "arrow", "History.to_arrow")
    metrics = memory.layout.metrics()
    names = chain.from_iterable(map(memory.layout.places, metrics))
    places = {place: i for i, place in enumerate(dict.fromkeys(names))}
    metric_names, place_names = pa.array(metrics, pa.string()), pa.array(places, pa.string())
    known = {row.step: (row.epoch, row.seconds) for row in memory.rows}
    word = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        {
            "step": pa.int64(),
            "epoch": pa.int64(),
            "seconds": pa.float64(),
            "metric": word,
            "place": word,
            "value": pa.float64(),
        }
    )
    batches = []
    for i, metric in enumerate(metrics):
        for place in memory.layout.places(metric):
            steps, values = memory.series(metric, place)
            times = [known.get(step, (None, None)) for step in steps]
            columns = [
                pa.array(steps, pa.int64()),
                pa.array([epoch for epoch, _ in times], pa.int64()),
                pa.array([seconds for _, seconds in times], pa.float64()),
                _words(pa, i, len(steps), metric_names),
                _words(pa, places[place], len(steps), place_names),
                pa.array(values, pa.float64()),
            ]
            batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(batches, schema=schema).combine_chunks()


def _words(pa: Any, index: int, count: int, names: Any) -> Any:
    """Return one name many times, at 4 bytes each."""
    indices = pa.repeat(pa.scalar(index, pa.int32()), count)
    return pa.DictionaryArray.from_arrays(indices, names)


def _package(name: str, extra: str, user: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"`{user}` needs {name}, which cannot be imported ({error}): run "
            f"`pip install 'lightning-diag[{extra}]'`."
        ) from None
