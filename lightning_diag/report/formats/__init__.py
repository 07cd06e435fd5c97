"""What was found in a run, as other programs read it."""

from collections.abc import Callable, Mapping

from lightning_diag.report.formats.brief import brief
from lightning_diag.report.formats.junit import junit
from lightning_diag.report.formats.plain_json import plain_json
from lightning_diag.report.formats.sarif import sarif
from lightning_diag.report.formats.subject import Judged

WRITERS: Mapping[str, Callable[[Judged], str]] = {
    "json": plain_json,
    "sarif": sarif,
    "junit": junit,
    "markdown": brief,
}
"""By the name of the format."""

__all__ = ["WRITERS", "Judged", "brief", "junit", "plain_json", "sarif"]
