"""`History`: every watched number of a run, bounded, in memory and in a file that survives a crash.

Needs the standard library only: neither torch nor Lightning.
"""

from lightning_diag.history.core import History
from lightning_diag.history.curve import Series

__all__ = ["History", "Series"]
