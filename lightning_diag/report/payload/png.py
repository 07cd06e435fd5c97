"""Small pictures as PNG in a data URI, with Python's own library alone."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels to PNG's colour type: grey, grey with alpha, RGB, RGB with alpha."""


def data_uri(pixels: bytes, height: int, width: int, channels: int) -> str:
    """Return a picture as a data URI.

    Args:
        pixels: One byte for each row, column and channel, in that order.
        height: Rows.
        width: Columns.
        channels: 1 for grey, 3 for red, green and blue; one more with alpha.

    Raises:
        ValueError: If the sizes do not fit together.

    Example:
        >>> data_uri(bytes([0, 255]), 1, 2, 1)[:22]
        'data:image/png;base64,'
    """
    row = width * channels
    if channels not in _COLOURS or height < 1 or width < 1 or len(pixels) != height * row:
        raise ValueError(
            f"A picture of {height} x {width} x {channels} takes {height * row} bytes, "
            f"got {len(pixels)}."
        )
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    # each row begins with the number of its filter, here none
    rows = b"".join(b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row))
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def sheet(pixels: bytes, shape: Sequence[int], columns: int) -> str:
    """Return several pictures of one size side by side, one transparent pixel between them.

    Args:
        pixels: One byte for each picture, row, column and channel, in that order.
        shape: Number of pictures, rows, columns, and channels: 1 or 3.
        columns: Pictures side by side.

    Raises:
        ValueError: If the sizes do not fit together.
    """
    n, height, width, channels = shape
    if channels not in (1, 3) or min(n, height, width) < 1:
        raise ValueError(f"`shape` must be n, rows, columns and 1 or 3 channels, got {shape}.")
    if len(pixels) != n * height * width * channels:
        raise ValueError(f"Pictures of {shape} do not take {len(pixels)} bytes.")
    across, deep = columns * (width + 1) - 1, -(-n // columns) * (height + 1) - 1
    canvas = bytearray(deep * across * (channels + 1))
    row = width * channels
    for i in range(n):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        for y in range(height):
            start = (i * height + y) * row
            part = pixels[start : start + row]
            solid = bytearray(b"\xff" * (width * (channels + 1)))
            for channel in range(channels):
                solid[channel :: channels + 1] = part[channel::channels]
            at = ((top + y) * across + left) * (channels + 1)
            canvas[at : at + len(solid)] = solid
    return data_uri(bytes(canvas), deep, across, channels + 1)
