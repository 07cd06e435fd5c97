"""What differs between runs: worked out, printed, and as a page."""

from lightning_diag.report.compare.console import show
from lightning_diag.report.compare.differences import Differences, Run, compare
from lightning_diag.report.compare.page import write_page

__all__ = ["Differences", "Run", "compare", "show", "write_page"]
