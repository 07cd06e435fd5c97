"""`SameDraws`: random numbers that are the same each time."""

from __future__ import annotations

import random
import sys

import torch

from lightning_diag.lr.apart import seed_all


class SameDraws:
    """Sets the random states of Python, NumPy and torch to the same ones again and again.

    That is what seeding does, in a hundredth of the time.

    Example:
        >>> draws = SameDraws()
        >>> one = torch.rand(2)
        >>> draws.again()
        >>> torch.equal(torch.rand(2), one)
        True
    """

    def __init__(self) -> None:
        seed_all(0)
        numpy = sys.modules.get("numpy")
        self._python, self._torch = random.getstate(), torch.get_rng_state()
        self._numpy = numpy.random.get_state() if numpy else None

    def again(self) -> None:
        """Begin anew."""
        random.setstate(self._python)
        numpy = sys.modules.get("numpy")
        if numpy and self._numpy is not None:
            numpy.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(0)
