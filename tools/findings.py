"""Write `docs/findings/`: one page for each rule, made from the rule itself.

python tools/findings.py
"""

from __future__ import annotations

from pathlib import Path

from lightning_diag.rules import DEFAULT_RULES
from lightning_diag.rules.manual import index, manual, markdown


def pages() -> dict[str, str]:
    """Return the text of each file of the folder, by its name."""
    manuals = [manual(rule) for rule in DEFAULT_RULES]
    codes = [page.code for page in manuals]
    texts = {f"{page.code}.md": markdown(page, codes) for page in manuals}
    return {"README.md": index(sorted(manuals, key=lambda page: page.code)), **texts}


def main() -> None:
    """Write the files that changed, and remove those of rules that are gone."""
    folder = Path(__file__).resolve().parent.parent / "docs" / "findings"
    folder.mkdir(exist_ok=True)
    texts = pages()
    for path in folder.glob("*.md"):
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(texts)} files in {folder}")


if __name__ == "__main__":
    main()
