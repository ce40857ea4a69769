"""One HTML file that shows a whole study: no network, no other file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from bokeh.resources import Resources
from markupsafe import Markup

from analysis.figures.style import DrawnFigure
from analysis.report.findings import Finding
from analysis.tables.formats import is_numeric
from analysis.tables.table import Table

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """Tables and figures that belong together.

    Attributes:
        title: "" for the only one of its page.
        empty: what to say when there is neither table nor figure.
        folded: tables and figures that few readers open.
    """

    title: str = ""
    empty: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[DrawnFigure] = ()
    folded: Sequence[tuple[str, Sequence[Table], Sequence[DrawnFigure]]] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.tables or self.figures or self.folded)


@dataclass(frozen=True)
class Page:
    """The answer to one question.

    Attributes:
        anchor: of its address, `report.html#anchor`.
        title: of one or two words, in the list of pages.
        question: what it answers.
        answers: what the numbers say, by setting.
    """

    anchor: str
    title: str
    question: str
    sections: Sequence[Section]
    answers: Sequence[Finding] = ()


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
    pages: Sequence[Page]
    settings: Mapping[str, str]
    study_file: str = ""
    warnings: Sequence[str] = ()

    @property
    def findings_by_setting(self) -> dict[str, list[Finding]]:
        """The findings, grouped."""
        grouped: dict[str, list[Finding]] = {}
        for finding in self.findings:
            grouped.setdefault(finding.setting, []).append(finding)
        return grouped

    @property
    def has_plots(self) -> bool:
        """Whether any figure can be asked, so that the page needs the library that draws them."""
        sections = [section for page in self.pages for section in page.sections]
        folded = [figure for s in sections for _, _, figures in s.folded for figure in figures]
        return any(figure.plot for figure in [*(f for s in sections for f in s.figures), *folded])


def write_report(report: Report, path: Path) -> Path:
    """Write the page and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_uri": _data_uri,
        "numeric_columns": _numeric_columns,
        "safe_json": _safe_json,
    }
    library = Resources(mode="inline", components=["bokeh"]).render_js() if report.has_plots else ""
    html = environment.get_template("report.html.j2").render(report=report, plot_library=library)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8", newline="\n")
    return path


def _data_uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode("ascii")


def _numeric_columns(table: Table) -> list[bool]:
    return [is_numeric(table.display[column]) for column in table.display]


def _safe_json(text: str) -> Markup:
    # Inside a script element only "</script" and "<!--" could end it early.
    return Markup(text.replace("<", "\\u003c"))
