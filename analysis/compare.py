"""Any two trials side by side: `transfusion compare`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.table import Table as PrintedTable

from analysis.figures.representations import draw_stage_maps
from analysis.jobs.bench import Bench
from analysis.jobs.job import Weights
from analysis.jobs.similarity import similarity_job, similarity_rows
from analysis.jobs.work import any_device, do
from analysis.networks.comparisons import STAGE_BY_STAGE, Comparison, Side
from analysis.results import Options
from analysis.tables.formats import write_table
from analysis.tables.similarity import similarity_table, stage_map_table
from analysis.tables.table import MEASURE_NAMES
from trainables.architectures.reshaping import architecture_of
from trainables.errors import UserError

if TYPE_CHECKING:
    from trainables.record import RecordReader, TrialRecord

SAME_STAGES = "same stages"


@dataclass(frozen=True)
class Compared:
    """Two networks compared.

    Attributes:
        names: of both, for people.
        rows: one per pair of stages and measure, with SIMILARITY_COLUMNS.
    """

    names: tuple[str, str]
    rows: pd.DataFrame


def compare_runs(
    reader: "RecordReader",
    records: Sequence["TrialRecord"],
    *,
    checkpoints: tuple[str, str],
    options: Options,
    data_root: Path | None,
    output: Path,
) -> Compared:
    """Compare two trials, write tables and heat maps into a folder, and return the rows.

    Raises:
        UserError: a checkpoint is missing or damaged, the data are not here, or the two have no images in
            common; says why.
    """
    weights = [Weights(record, name) for record, name in zip(records, checkpoints, strict=True)]
    stages = [architecture_of(record.spec.architecture).stages for record in records]
    names = [[stage.name for stage in of_one] for of_one in stages]
    kinds = [STAGE_BY_STAGE, *([SAME_STAGES] if names[0] == names[1] else [])]
    bench = Bench(reader, data_root, any_device())
    comparisons, outcomes = [], []
    for kind in kinds:
        every = kind == STAGE_BY_STAGE
        job = similarity_job(weights[0], weights[1], options.similarity, every_with_every=every)
        outcome = do(job, bench)
        if outcome.reason:
            raise UserError(f"the two cannot be compared: {outcome.reason}")
        comparisons.append(_comparison(kind, weights))
        outcomes.append(outcome)
    rows = similarity_rows(comparisons, outcomes, options.similarity)
    for table in (similarity_table(rows), stage_map_table(rows)):
        if not table.data.empty:
            write_table(table, output)
    for measure in ("svcca", "linear_cka"):
        draw_stage_maps(rows, measure=measure, folder=output)
    labels = [f"{w.record.spec.label} ({w.checkpoint})" for w in weights]
    return Compared((labels[0], labels[1]), rows)


def _comparison(kind: str, weights: Sequence[Weights]) -> Comparison:
    x, y = (
        Side(w.record.trial_id, w.record.spec.init_label, w.record.spec.seed, w.checkpoint) for w in weights
    )
    specs = [w.record.spec for w in weights]
    architectures = " – ".join(dict.fromkeys(spec.architecture.label for spec in specs))
    datasets = " – ".join(dict.fromkeys(spec.dataset.label for spec in specs))
    return Comparison(kind, f"{architectures} · {datasets}", architectures, datasets, x, y)


def print_comparison(compared: Compared, console: Console | None = None) -> None:
    """Print the stages of both, and how alike they are by every measure, with the noise floors."""
    console = console or Console()
    console.print(f"x: {compared.names[0]}\ny: {compared.names[1]}", markup=False, soft_wrap=True)
    for kind, rows in compared.rows.groupby("kind", sort=False):
        table = PrintedTable(title=str(kind), box=None, padding=(0, 2, 0, 0), header_style="dim")
        measures = list(dict.fromkeys(rows["measure"]))
        for column in ("x", "y", *(MEASURE_NAMES[measure] for measure in measures)):
            table.add_column(column)
        for (stage_x, stage_y), of_pair in rows.groupby(["stage", "stage_y"], sort=False):
            by_measure = of_pair.set_index("measure")
            table.add_row(
                str(stage_x), str(stage_y), *(_cell(by_measure.loc[measure]) for measure in measures)
            )
        console.print(table)
    console.print("in brackets: what unrelated activations of the same size give", style="dim")


def _cell(row: pd.Series) -> str:
    return "–" if pd.isna(row["value"]) else f"{row['value']:.2f} ({row['noise_floor']:.2f})"
