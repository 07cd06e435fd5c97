"""``python -m lightning_diag``: the command line, also where its script is not on the path."""

import sys

from lightning_diag.cli import main

if __name__ == "__main__":
    sys.exit(main())
