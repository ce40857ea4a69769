"""Parameter efficiency, and truncated or slim networks beside the whole ones."""

import math

import pandas as pd
import pytest

from analysis.tables.efficiency import LOSS, NO_LOSS, NOT_JUDGED, average_efficiency, efficiency_table
from tests.test_relation_tables import study, trial


def parts(values: dict[str, tuple[float, list[float]]], *, whole: str = "res50") -> pd.DataFrame:
    """Rows from architecture -> (million parameters, values by seed); all but `whole` are its parts."""
    return pd.DataFrame(
        [
            trial(net, "pretrained", seed, value, n_params=1e6 * size, whole="" if net == whole else whole)
            for net, (size, of) in values.items()
            for seed, value in enumerate(of)
        ]
    )


WHOLE = (24.0, [0.80, 0.82, 0.84])
AS_GOOD = (8.0, [0.799, 0.821, 0.838])  # lower on average, but not by seed
WORSE = (2.0, [0.70, 0.721, 0.739])


def test_parts_are_compared_with_their_whole_network():
    table = efficiency_table(parts({"res50": WHOLE, "minus1": AS_GOOD, "minus2": WORSE}), metric="test_auroc")
    assert table.data["verdict"].tolist() == ["", NO_LOSS, LOSS]
    assert table.data["ratio"].tolist()[1:] == [3, 12]
    line = table.display.iloc[2]
    assert (line["of"], line["fewer parameters"], line["AUROC per million"]) == ("res50", "12.00×", "0.36")
    assert line["AUROC − whole [95 % interval]"].startswith("−0.1000 [−0.10")
    assert "Parameter efficiency 3.00×: " in table.note
    assert "the mean, of n = 1: one per whole network" in table.note


def test_efficiency_is_averaged_over_whole_networks_of_the_best_part_of_each():
    first = parts({"res50": WHOLE, "minus1": AS_GOOD, "minus2": WORSE})
    second = parts({"dense121": WHOLE, "dense-1": WORSE}, whole="dense121")
    table = efficiency_table(pd.concat([first, second]), metric="test_auroc")
    average = average_efficiency(table.data)
    # Of res50 a third is as good; of dense121 every part loses, which counts as 1.
    assert (average.n, average.mean) == (2, 2)


def test_for_a_loss_a_part_that_is_higher_is_worse():
    rows = parts({"res50": WHOLE, "minus1": AS_GOOD, "minus2": WORSE})
    table = efficiency_table(rows.assign(test_loss=1 - rows["test_auroc"]), metric="test_loss")
    assert table.data["verdict"].tolist() == ["", NO_LOSS, LOSS]


def test_one_seed_judges_nothing():
    table = efficiency_table(parts({"res50": (24.0, [0.8]), "minus1": (8.0, [0.6])}), metric="test_auroc")
    assert table.data["verdict"].tolist() == ["", NOT_JUDGED]
    assert average_efficiency(table.data).n == 0
    assert "there is no average" in table.note


def test_a_part_without_its_whole_network_is_named():
    rows = parts({"minus1": AS_GOOD})
    table = efficiency_table(rows, metric="test_auroc")
    assert "res50)" in table.note
    assert table.display["fewer parameters"].tolist() == ["–"]


def test_of_several_whole_networks_the_one_called_alike_is_taken():
    rows = parts({"res50": WHOLE, "minus1": AS_GOOD})
    long = rows.assign(setting=rows["setting"] + " · 100 epochs")
    worse = rows[rows["architecture"] == "res50"].assign(
        setting="res50 · chest · 1 epoch", test_auroc=lambda f: f["test_auroc"] - 0.3
    )
    table = efficiency_table(pd.concat([worse, long]), metric="test_auroc")
    part = table.data[table.data["architecture"] == "minus1"].iloc[0]
    assert part["difference"] == pytest.approx(0, abs=0.01)
    unlike = long.assign(setting=long["setting"].str.replace("minus1 · chest · 100", "minus1 · chest · 50"))
    assert efficiency_table(pd.concat([worse, unlike]), metric="test_auroc").data["ratio"].isna().all()


def test_whole_networks_alone_need_no_comparison():
    table = efficiency_table(study(), metric="test_auroc")
    assert list(table.display) == [
        "setting", "initialization", "parameters (million)", "AUROC", "AUROC per million",
    ]  # fmt: skip
    assert "Parameter efficiency" not in table.note
    unknown = efficiency_table(study().assign(n_params=math.nan), metric="test_auroc")
    assert set(unknown.display["AUROC per million"]) == {"–"}
