"""The images networks are sure of and wrong about, and those on which they disagree."""

from collections.abc import Sequence

import pandas as pd

from analysis.mistakes import DISAGREEMENT_COLUMNS, ERROR_COLUMNS, Mistakes
from analysis.tables.table import Table, number


def errors_table(mistakes: Sequence[Mistakes]) -> Table:
    """List the most confident errors of every setting."""
    data = pd.concat(
        [one.errors for one in mistakes] or [pd.DataFrame(columns=list(ERROR_COLUMNS))], ignore_index=True
    )
    display = pd.DataFrame(
        [
            {
                "sample": row["sample_id"],
                "setting": row["setting"],
                "label": ": ".join(part for part in (row["class"], row["label"]) if part),
                "predicted": row["predicted"],
                "score": number(row["score"], digits=3),
                "score of the label": number(row["label_score"], digits=3),
                "wrong": f"{row['n_wrong']} of {row['n_trials']} trials",
            }
            for row in data.to_dict("records")
        ]
    )
    note = (
        "Test images, by the mean probability over all trials of a setting. Where all trials are wrong, look "
        "at the label first."
    )
    return Table("confident_errors", "Most confident errors", note, data, display)


def disagreement_table(mistakes: Sequence[Mistakes]) -> Table:
    """List the images on which seeds, or initializations, differ most."""
    data = pd.concat(
        [one.disagreements for one in mistakes] or [pd.DataFrame(columns=list(DISAGREEMENT_COLUMNS))],
        ignore_index=True,
    )
    display = pd.DataFrame(
        [
            {
                "sample": row["sample_id"],
                "setting": row["setting"],
                "label": row["label"],
                "between seeds": number(row["within"], digits=3),
                "between initializations": number(row["between"], digits=3),
                "beyond seeds": number(row["excess"], digits=3),
            }
            for row in data.to_dict("records")
        ]
    )
    note = (
        "Variances of probabilities, summed over classes: between the seeds of a cell, between the means of "
        "initializations, and the latter less what the seeds alone would give."
    )
    return Table("disagreements", "Disagreements between trials", note, data, display)
