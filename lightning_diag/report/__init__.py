"""History and findings, as text on the terminal and as a page."""

from lightning_diag.report.console import say, summary
from lightning_diag.report.html import write_html

__all__ = ["say", "summary", "write_html"]
