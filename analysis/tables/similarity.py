"""How alike representations are, beside their noise floors."""

import pandas as pd

from analysis.numerics.statistics import summarize
from analysis.tables.table import ABSENT, MEASURE_NAMES, Table, mean_and_sd


def similarity_table(similarity: pd.DataFrame) -> Table:
    """Average the similarities over seeds or pairs; the noise floor stands beside each."""
    computed = similarity[similarity["value"].notna()]
    keys = ["kind", "setting", "init_x", "init_y", "stage"]
    data, display = [], []
    for key, rows in computed.groupby(keys, sort=False):
        kind, setting, init_x, init_y, stage = map(str, key)
        n_samples = rows["n_samples"].max()
        line = {
            "compared": kind,
            "setting": setting,
            "initialization": init_x if init_x == init_y else f"{init_x}, {init_y}",
            "stage": stage,
            "samples": ABSENT if pd.isna(n_samples) else f"{int(n_samples):,}",
        }
        for measure, values in rows.groupby("measure", sort=False):
            summary = summarize(values["value"])
            floor = float(values["noise_floor"].mean())
            line[MEASURE_NAMES[str(measure)]] = f"{mean_and_sd(summary, digits=2)} (floor {floor:.2f})"
            line["pairs"] = str(summary.n)
            data.append(
                dict(zip(keys, key, strict=True))
                | {"measure": measure, "n_pairs": summary.n, "mean": summary.mean, "sd": summary.sd}
                | {"noise_floor": floor, "n_samples": n_samples}
                | {side: values[side].mean() for side in ("directions_x", "directions_y")}
            )
        display.append(line)
    columns = ["compared", "setting", "initialization", "stage", "pairs", "samples", *MEASURE_NAMES.values()]
    note = (
        "1 is identical. The floor is what unrelated activations of the same size give: only what stands "
        "above it is similarity. “top two” is the mean over the last two backbone stages."
    )
    text = pd.DataFrame(display, columns=columns).astype(object)
    text = text.where(text.notna(), ABSENT)
    return Table("similarity", "Similarity of representations", note, pd.DataFrame(data), text)
