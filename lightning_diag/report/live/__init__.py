"""A run while it goes on: read from its history file, shown as it grows."""

from lightning_diag.report.live.follow import Follower
from lightning_diag.report.live.state import Now, Trace
from lightning_diag.report.live.views import Plainly, Screen

__all__ = ["Follower", "Now", "Plainly", "Screen", "Trace"]
