"""One HTML file that shows a whole study: no network, no other file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from analysis.figures.style import DrawnFigure
from analysis.report.findings import Finding
from analysis.tables.formats import is_numeric
from analysis.tables.table import Table

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        anchor: of links within the page.
        empty: what to say when there is neither table nor figure.
        folded: tables and figures that few readers open.
    """

    anchor: str
    title: str
    empty: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[DrawnFigure] = ()
    folded: Sequence[tuple[str, Sequence[Table], Sequence[DrawnFigure]]] = ()


@dataclass(frozen=True)
class Report:
    """Everything that is printed.

    Attributes:
        generated: date and time, for people.
        counts: trials by state.
        settings: name and value of what a reader needs to repeat the analysis.
    """

    study: str
    question: str
    generated: str
    counts: Mapping[str, int]
    findings: Sequence[Finding]
    findings_note: str
    sections: Sequence[Section]
    settings: Mapping[str, str]
    study_file: str = ""
    warnings: Sequence[str] = field(default=())

    @property
    def findings_by_setting(self) -> dict[str, list[Finding]]:
        """The findings, grouped."""
        grouped: dict[str, list[Finding]] = {}
        for finding in self.findings:
            grouped.setdefault(finding.setting, []).append(finding)
        return grouped


def write_report(report: Report, path: Path) -> Path:
    """Write the page and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "numeric_columns": _numeric_columns}
    html = environment.get_template("report.html.j2").render(report=report)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8", newline="\n")
    return path


def _data_uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode("ascii")


def _numeric_columns(table: Table) -> list[bool]:
    return [is_numeric(table.display[column]) for column in table.display]
