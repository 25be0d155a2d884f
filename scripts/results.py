"""Write the table of docs/results into README.md, between its two `results` marks. `make docs` runs it."""

from __future__ import annotations

from pathlib import Path

from postgrad.report import results_table

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


def main() -> None:
    readme = ROOT / "README.md"
    table = results_table(ROOT / "docs" / "results")
    if not table:
        print("docs/results holds no result yet: README.md stays as it is")
        return
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), table), encoding="utf-8")
    print("README.md: the table is that of docs/results")


def with_table(text: str, table: str) -> str:
    """Raises ValueError where the text has not exactly one pair of marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md needs one {BEGIN.strip()} and one {END}")
    head, _, rest = text.partition(BEGIN)
    return "".join([head, BEGIN, table, END, rest.partition(END)[2]])


if __name__ == "__main__":
    main()
