"""Write a table as CSV, Markdown and LaTeX (booktabs)."""

from pathlib import Path

import pandas as pd

from analysis.tables.table import Table

# What pdflatex cannot set from UTF-8 text, or reads as a command.
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$",
    "–": "--", "·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "<": r"$<$", ">": r"$>$",
    "“": "``", "”": "''", "→": r"$\rightarrow$", "…": r"\dots{}", "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write `NAME.csv` with the numbers, and `NAME.md` and `NAME.tex` with the text; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "csv": table.data.to_csv(index=False, lineterminator="\n"),
        "md": markdown(table),
        "tex": latex(table),
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{table.name}.{suffix}"
        path.write_text(text, encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


def markdown(table: Table) -> str:
    """Return a pipe table under its title, its note below."""
    rows = [list(table.display.columns), *table.display.to_numpy().tolist()]
    cells = [[str(value).replace("|", "\\|").replace("\n", " ") for value in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, f"|{' --- |' * len(cells[0])}")
    return f"## {table.title}\n\n" + "\n".join(lines) + f"\n\n{table.note}\n"


def latex(table: Table) -> str:
    """Return a `table` environment that needs the package booktabs."""
    body = [" & ".join(_escape(value) for value in row) + r" \\" for row in table.display.to_numpy().tolist()]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(table.title)}. {_escape(table.note)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{_alignment(table.display)}}}",
            r"\toprule",
            " & ".join(_escape(column) for column in table.display.columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def is_numeric(column: pd.Series) -> bool:
    """Say whether the texts of a column start like numbers, so that it is set flush right."""
    texts = [str(value).lstrip("+−≥≤> ") for value in column if str(value) not in ("–", "baseline")]
    return bool(texts) and all(text[:1].isdigit() for text in texts)


def _alignment(display: pd.DataFrame) -> str:
    return "".join("r" if is_numeric(display[column]) else "l" for column in display)


def _escape(value: object) -> str:
    return "".join(_LATEX.get(character, character) for character in str(value).replace("\n", " "))
