"""Which explanations depend on what a network learned."""

import pandas as pd

from analysis.networks.explanations import METHODS
from analysis.networks.randomisation import judge
from analysis.tables.table import ABSENT, Table, number


def randomisation_table(checks: pd.DataFrame) -> Table:
    """Say, per network and method, how much of its maps is left when every weight is random.

    Args:
        checks: setting, init and the columns of `analysis.networks.randomisation`.
    """
    data, display = [], []
    for (setting, init), rows in checks.groupby(["setting", "init"], sort=False):
        for verdict in judge(rows):
            of_method = rows[rows["method"] == verdict.method].sort_values("n_random_stages")
            last = of_method.iloc[-1]
            facts = {"setting": setting, "init": init, "method": verdict.method}
            data.append(
                facts
                | {
                    "retained": verdict.retained,
                    "is_insensitive": verdict.is_insensitive,
                    "correlation": last["correlation"],
                    "noise_floor": last["noise_floor"],
                }
            )
            display.append(
                {
                    "setting": setting,
                    "initialization": init,
                    "method": METHODS[verdict.method].title,
                    "rank correlation, all stages random": number(last["correlation"], digits=2),
                    "of another image": number(last["noise_floor"], digits=2),
                    "kept beyond another image": number(verdict.retained, digits=2),
                    "depends on what was learned": _words(verdict.retained),
                }
            )
    note = (
        "Weight randomisation (Adebayo et al. 2018): stages get random weights from the head down, and maps "
        "are compared with those of the trained network by Spearman's correlation over pixels, mean over "
        "images. Kept: where that lies between the map of another image (0) and the trained network's own "
        "(1). A method that keeps more than half mostly shows the image, one that keeps less than a tenth "
        "what the network learned."
    )
    return Table(
        "explanations_randomised", "Do the explanations depend on the weights?", note, pd.DataFrame(data),
        pd.DataFrame(display),
    )  # fmt: skip


def _words(retained: float) -> str:
    if pd.isna(retained):
        return ABSENT
    return "hardly" if retained > 0.5 else "partly" if retained > 0.1 else "mostly"
