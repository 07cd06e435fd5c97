"""Figures of matplotlib, for papers, and for loggers that take images.

Each function takes a history and returns a `matplotlib.figure.Figure` that belongs to no window and
no `pyplot`; what matplotlib's settings say of fonts and sizes holds.
"""

from lightning_diag.figures.heat import heat_figure
from lightning_diag.figures.loss import loss_figure
from lightning_diag.figures.profile import profile_figure
from lightning_diag.figures.save import save_figures

__all__ = ["heat_figure", "loss_figure", "profile_figure", "save_figures"]
