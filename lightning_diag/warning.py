"""The one category of every warning that lightning_diag gives."""

from __future__ import annotations

import logging
import warnings


class DiagWarning(UserWarning):
    """Something that the user should know, and that training goes on without.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", DiagWarning)  # silence all of them, and nothing else
    """


def warn(message: str) -> None:
    """Warn without ever ending a run, not even where warnings are turned into errors.

    While training, a warning that raises would cost the user the run; there it is logged instead.
    """
    try:
        warnings.warn(message, DiagWarning, stacklevel=3)
    except DiagWarning:
        logging.getLogger("lightning_diag").warning(message)
