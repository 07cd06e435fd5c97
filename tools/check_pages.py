"""Write `docs/checks/reference.md` and the table in `docs/checks/README.md`, from the checks.

python tools/check_pages.py
"""

from __future__ import annotations

from pathlib import Path

from lightning_diag.before_training import page_of
from lightning_diag.checks import DEFAULT_CHECKS
from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.manual import manual

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "checks"
BEGIN, END = "<!-- checks -->", "<!-- end of checks -->"


def reference() -> str:
    """Return the page with all there is to know of each check."""
    rules = {rule.code for rule in DEFAULT_RULES}
    parts = [
        "# What each check looks for",
        "Made from the checks; `lightning-diag explain CODE` prints it of those that are no rules.",
    ]
    for check in sorted(DEFAULT_CHECKS, key=lambda each: each.code):
        text = page_of(check).replace("\n## ", "\n### ").replace("# ", "## ", 1)
        also = f"The same problem in a run: [{check.code}](../findings/{check.code}.md)."
        parts += [text.strip(), *([also] if check.code in rules else [])]
    return "\n\n".join(parts) + "\n"


def table() -> str:
    """Return a row for each check, in the order in which they are asked."""
    rows = [
        f"| [{check.code}](reference.md#{check.code}) | {check.level} | "
        f"{f'`{check.family}`' if check.family else ''} | {manual(check).summary} |"
        for check in DEFAULT_CHECKS
    ]
    return "\n".join(["| check | level | family | finds |", "|---|---|---|---|", *rows])


def index(text: str) -> str:
    """Return the folder's first page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Write both pages."""
    readme = FOLDER / "README.md"
    readme.write_text(index(readme.read_text(encoding="utf-8")), encoding="utf-8")
    (FOLDER / "reference.md").write_text(reference(), encoding="utf-8")
    print(f"{len(DEFAULT_CHECKS)} checks in {FOLDER}")


if __name__ == "__main__":
    main()
