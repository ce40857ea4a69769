"""What stored predictions tell: intervals over patients, and mistakes."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.jobs.bench import Bench
from analysis.jobs.job import Job, Outcome, Weights
from analysis.load import StudyTrials
from analysis.mistakes import DISAGREEMENT_COLUMNS, ERROR_COLUMNS, Confusion, Mistakes, find_mistakes
from analysis.predictions import load_predictions
from analysis.tables.resampled import Resampled, resample_setting
from trainables.errors import DataError

UNCERTAINTY, MISTAKES, PICTURES = "uncertainty", "mistakes", "pictures"
CELL_COLUMNS = ("trial_id", "setting", "init", "init_kind", "seed")
BEST = "best"
SORT = "sort of row"


def setting_jobs(
    kind: str, finished: pd.DataFrame, trials: StudyTrials, **settings: Any
) -> list[tuple[str, Job]]:
    """Return, for each setting, the job that looks at the predictions of all its finished trials."""
    return [
        (str(setting), Job(kind, _inputs(rows, trials), {"cells": _cells(rows), **settings}))
        for setting, rows in finished.groupby("setting", sort=False)
    ]


def _inputs(rows: pd.DataFrame, trials: StudyTrials) -> tuple[Weights, ...]:
    # Predictions are those of the best weights, which therefore stand for them.
    return tuple(Weights(trials.records[key], BEST) for key in rows["trial_id"])


def _cells(rows: pd.DataFrame) -> list[list[Any]]:
    return [[*map(str, row[:-1]), int(row[-1])] for row in rows[list(CELL_COLUMNS)].itertuples(index=False)]


def resample(job: Job, bench: Bench) -> Outcome:
    """Return the rows of the table of uncertainty of one setting."""
    rows, loaded = _loaded(job, bench)
    found = resample_setting(
        rows,
        loaded.by_trial,
        baseline=job.settings["baseline"],
        missing=loaded.missing,
        n_replicates=job.settings["n_replicates"],
    )
    return Outcome(
        [
            *({SORT: "data", **row} for row in found.data),
            *({SORT: "display", **row} for row in found.display),
            *({SORT: "lacking", "text": text} for text in found.lacking),
        ]
    )


def resampled(outcome: Outcome) -> Resampled:
    """Return what `resample` found."""
    return Resampled(
        list(_of(outcome, "data")),
        list(_of(outcome, "display")),
        [row["text"] for row in _of(outcome, "lacking")],
    )


def look_for_mistakes(job: Job, bench: Bench) -> Outcome:
    """Return the mistakes of one setting; a DataError says that its trials saw different samples."""
    rows, loaded = _loaded(job, bench)
    try:
        found = find_mistakes(rows, loaded.by_trial, n_samples=job.settings["n_samples"])
    except ValueError as error:
        raise DataError(str(error)) from None
    marked, arrays = [], {}
    for mistakes in found:
        marked += [{SORT: "errors", **row} for row in _plain(mistakes.errors)]
        marked += [{SORT: "disagreements", **row} for row in _plain(mistakes.disagreements)]
        for number, one in enumerate(mistakes.confusions):
            arrays[f"confusion-{number}"] = one.counts
            facts = {"init": one.init, "rows": one.rows, "columns": one.columns, "n_trials": one.n_trials}
            marked.append({SORT: "confusion", "number": number, **facts})
    return Outcome(marked, arrays)


def mistakes_of(outcome: Outcome, setting: str) -> Mistakes:
    """Return what `look_for_mistakes` found."""
    confusions = tuple(
        Confusion(
            setting,
            row["init"],
            tuple(row["rows"]),
            tuple(row["columns"]),
            outcome.arrays[f"confusion-{row['number']}"],
            row["n_trials"],
        )
        for row in _of(outcome, "confusion")
    )
    errors = pd.DataFrame(_of(outcome, "errors"), columns=list(ERROR_COLUMNS))
    disagreements = pd.DataFrame(_of(outcome, "disagreements"), columns=list(DISAGREEMENT_COLUMNS))
    return Mistakes(setting, errors, disagreements, confusions)


def picture_job(mistakes: Mistakes, trials: StudyTrials, trial_id: str) -> Job | None:
    """Return the job that fetches the images of a setting's mistakes; None if it has none."""
    ids = dict.fromkeys([*mistakes.errors["sample_id"], *mistakes.disagreements["sample_id"]])
    if not ids:
        return None
    return Job(PICTURES, (Weights(trials.records[trial_id], BEST),), {"sample_ids": list(ids)})


def fetch_pictures(job: Job, bench: Bench) -> Outcome:
    """Return test images by sample id; ids that the dataset does not have are left out."""
    test = bench.dataset(job.inputs[0]).test
    wanted = job.settings["sample_ids"]
    places = np.flatnonzero(np.isin(test.sample_ids, wanted))
    rows = [{"sample_id": str(test.sample_ids[place]), "number": int(place)} for place in places]
    return Outcome(rows, {str(place): np.array(test.images[place]) for place in places})


def pictures_of(outcome: Outcome) -> dict[str, np.ndarray]:
    """Return (channels, height, width) uint8 images by sample id."""
    return {row["sample_id"]: outcome.arrays[str(row["number"])] for row in outcome.rows}


def _loaded(job: Job, bench: Bench):  # type: ignore[no-untyped-def]
    rows = pd.DataFrame(job.settings["cells"], columns=list(CELL_COLUMNS))
    return rows, load_predictions(bench.reader, [weights.record for weights in job.inputs])


def _of(outcome: Outcome, of: str) -> Iterator[dict[str, Any]]:
    return ({k: v for k, v in row.items() if k != SORT} for row in outcome.rows if row[SORT] == of)


def _plain(frame: pd.DataFrame) -> Sequence[dict[str, Any]]:
    """Return rows of Python's own numbers, which JSON can hold."""
    return [
        {str(k): v.item() if isinstance(v, np.generic) else v for k, v in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]
