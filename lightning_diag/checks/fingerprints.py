"""Fingerprints of samples, and of data sets that name their samples: who is in both splits."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

_DEPTH = 4
"""Levels of containers in a sample that are looked into (our choice), as in batches."""


def fingerprint(sample: Any) -> bytes:
    """Return a fingerprint of the largest array of a sample: labels and names do not count.

    Example:
        >>> fingerprint((torch.ones(3), 0)) == fingerprint((torch.ones(3), 1))
        True
        >>> fingerprint((torch.ones(3), 0)) == fingerprint((torch.zeros(3), 0))
        False
    """
    arrays = list(_arrays(sample, _DEPTH))
    if not arrays:
        return _short(repr(sample).encode())
    return max(arrays, key=len) if len(arrays) == 1 else _short(max(arrays, key=len))


def _short(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _arrays(node: Any, depth: int) -> Iterator[bytes]:
    """Yield kind, shape and bytes of each array in a sample; pictures of PIL are arrays as well."""
    if isinstance(node, Tensor):
        held = node.detach().cpu().contiguous().reshape(-1)
        yield f"{tuple(node.shape)}".encode() + held.view(torch.uint8).numpy().tobytes()
    elif isinstance(node, (str, bytes, int, float, complex)) or depth <= 0:
        return
    elif hasattr(node, "__array_interface__"):
        array: Any = sys.modules["numpy"].asarray(node)
        yield f"{array.shape}".encode() + array.tobytes()
    else:
        members = node.values() if isinstance(node, Mapping) else node
        for member in members if isinstance(members, (list, tuple)) else list(_listed(members)):
            yield from _arrays(member, depth - 1)


def _listed(members: Any) -> list[Any]:
    if isinstance(members, type({}.values())):
        return list(members)
    return list(getattr(members, "__dict__", {}).values())


def root(dataset: Any, position: int) -> tuple[Any, int]:
    """Return the data set that a subset takes a sample from, and where it stands there.

    Example:
        >>> root(Subset([5, 6, 7], [2, 0]), 0)
        ([5, 6, 7], 2)
    """
    while type(dataset) is Subset:
        position, dataset = int(dataset.indices[position]), dataset.dataset
    return dataset, position


def names_of(dataset: Any) -> list[str] | None:
    """Return what a data set calls its samples, in their order: mostly the paths of files.

    None where it holds no list of as many different texts, or of tuples that begin with one.

    Example:
        >>> class Folder:
        ...     samples = [("a.png", 0), ("b.png", 1)]
        ...     def __len__(self):
        ...         return 2
        >>> names_of(Folder())
        ['a.png', 'b.png']
    """
    for name in ("samples", "imgs", "images", "files", "paths", "image_paths", "filenames"):
        held = getattr(dataset, name, None)
        if not isinstance(held, (list, tuple)) or len(held) != len(dataset) or not held:
            continue
        texts = [each[0] if isinstance(each, (tuple, list)) and each else each for each in held]
        if all(isinstance(text, str) or hasattr(text, "__fspath__") for text in texts):
            found = [str(text) for text in texts]
            if len(set(found)) == len(found):
                return found
    return None
