"""What goes with good transfer: sources, families, sizes; tables and their figure."""

import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from analysis.figures.relations import draw_source_target
from analysis.tables.efficiency import efficiency_table
from analysis.tables.families import (
    adjusted_share,
    architecture_points,
    explained_shares,
    explained_table,
    family_table,
)
from analysis.tables.formats import latex
from analysis.tables.relations import (
    ALL_DATASETS,
    WITH,
    WITHOUT,
    boost_points,
    boost_size_table,
    source_points,
    source_target_table,
)

NETS = ("res18", "res50", "dense121", "mobile2", "mobile3", "incep3")


def trial(architecture: str, init: str, seed: int, value: float, *, dataset: str = "chest", **more):
    facts = {
        "trial_id": f"{architecture}/{dataset}/{init}/{seed}", "setting": f"{architecture} · {dataset}",
        "architecture": architecture, "dataset": dataset, "init": init, "init_kind": init,
        "protocol": "trains all", "source": "photos" if init == "pretrained" else "", "seed": seed,
        "test_auroc": value,
        "n_params": 1e6 * (1 + NETS.index(architecture)) if architecture in NETS else 1e6,
    }  # fmt: skip
    return facts | more


def study(*, datasets: tuple[str, ...] = ("chest",), boost=lambda k: 0.0) -> pd.DataFrame:
    """Random networks that are the worse the later in NETS, pretrained ones in the order of NETS."""
    rows = []
    for shift, dataset in enumerate(datasets):
        for k, net in enumerate(NETS):
            for seed in (0, 1, 2):
                noise = 0.001 * ((seed * 7 + k * 3) % 5 - 2)
                random = 0.8 - 0.01 * k + 0.05 * shift
                rows.append(trial(net, "random", seed, random, dataset=dataset))
                rows.append(
                    trial(net, "pretrained", seed, random + 0.02 * k + boost(k) + noise, dataset=dataset)
                )
    return pd.DataFrame(rows)


SOURCE = {net: 0.5 + 0.05 * k for k, net in enumerate(NETS)}


def test_points_are_means_of_cells_beside_the_source_of_their_architecture():
    points = source_points(study(), SOURCE, metric="test_auroc", by="architecture")
    assert len(points) == 2 * len(NETS)
    row = points[(points["architecture"] == "dense121") & (points["pretraining"] == WITHOUT)].iloc[0]
    assert (row["source_value"], row["n_seeds"]) == (SOURCE["dense121"], 3)
    assert row["target_value"] == pytest.approx(0.78)


def test_a_random_network_is_set_beside_what_its_architecture_does_on_the_source():
    rows = study()
    of_trial = {
        key: SOURCE[net] + 0.01 * seed
        for key, net, seed, kind in rows[["trial_id", "architecture", "seed", "init_kind"]].to_numpy()
        if kind == "pretrained"
    }
    points = source_points(rows, of_trial, metric="test_auroc", by="trial_id")
    for net, group in points.groupby("architecture"):
        assert group["source_value"].tolist() == pytest.approx([SOURCE[str(net)] + 0.01] * 2)


def test_source_and_target_are_correlated_with_and_without_pretraining():
    points = source_points(study(), SOURCE, metric="test_auroc", by="architecture")
    table = source_target_table(points, metric="test_auroc", source_name="ImageNet accuracy")
    ranks = table.data[table.data["kind"] == "spearman"].set_index("pretraining")
    assert ranks.loc[WITHOUT, "estimate"] == pytest.approx(-1)
    assert ranks.loc[WITH, "estimate"] == pytest.approx(1)
    # 2 of the 6! orders are as extreme.
    assert ranks.loc[WITH, "p"] == pytest.approx(2 / math.factorial(6))
    assert table.display["points"].tolist() == ["6", "6"]
    assert table.display["Spearman"].iloc[0].startswith("−1.00 [")
    assert "ImageNet accuracy against AUROC" in table.note


def test_logits_are_correlated_and_clipped_by_the_number_of_test_samples():
    rows = study()
    rows.loc[rows["architecture"] == "incep3", "test_auroc"] = 1.0
    points = source_points(rows, SOURCE, metric="test_auroc", by="architecture")
    without = source_target_table(points, metric="test_auroc", source_name="source")
    logits = without.data[without.data["kind"] == "logit"]
    assert logits["n"].tolist() == [5, 5]
    table = source_target_table(points, metric="test_auroc", source_name="source", n_target={"chest": 500})
    found = table.data[(table.data["kind"] == "logit") & (table.data["pretraining"] == WITH)].iloc[0]
    group = points[points["pretraining"] == WITH]
    share = group["target_value"].clip(upper=0.999)
    expected = np.corrcoef(
        np.log(group["source_value"] / (1 - group["source_value"])), np.log(share / (1 - share))
    )
    assert (found["n"], found["estimate"]) == (6, pytest.approx(expected[0, 1]))
    assert "(chest: 500)" in table.note


def test_over_datasets_the_effect_of_the_dataset_is_removed():
    rows = study(datasets=("chest", "skin"))
    points = source_points(rows, SOURCE, metric="test_auroc", by="architecture")
    table = source_target_table(points, metric="test_auroc", source_name="source")
    over = table.data[table.data["dataset"] == ALL_DATASETS].set_index("pretraining")
    logit = points.assign(logit=np.log(points["target_value"] / (1 - points["target_value"])))
    mean = logit[logit["pretraining"] == WITH].groupby("architecture")["logit"].mean().reindex(NETS)
    x = np.array([SOURCE[net] for net in NETS])
    expected = np.corrcoef(np.log(x / (1 - x)), mean)[0, 1]
    assert over.loc[WITH, "estimate"] == pytest.approx(expected)
    assert over["n"].tolist() == [6, 6]
    assert table.display["Spearman"].iloc[-1] == "–"


def test_unknown_sources_losses_and_few_points_are_named():
    rows = study().assign(test_loss=lambda f: 3 - f["test_auroc"])
    few = {net: SOURCE[net] for net in NETS[:2]}
    points = source_points(rows, few, metric="test_loss", by="architecture")
    table = source_target_table(points, metric="test_loss", source_name="source")
    assert table.data["estimate"].isna().all()
    assert "2 points; a correlation needs at least 3" in table.note
    assert "left out: dense121 · chest · random" in table.note
    assert "Smaller is better on the target." in table.note
    assert table.display["Spearman"].tolist() == ["–", "–"]


def test_pretraining_boost_is_correlated_with_size():
    points = boost_points(study(boost=lambda k: -0.05 * k), baseline="random", metric="test_auroc")
    assert points["n_pairs"].tolist() == [3] * 6
    assert points["boost"].iloc[2] == pytest.approx(0.02 * 2 - 0.05 * 2, abs=0.002)
    table = boost_size_table(points, metric="test_auroc", baseline="random")
    assert table.data["estimate"].tolist() == pytest.approx([-1])
    assert table.display["points"].tolist() == ["6"]


def test_the_boost_in_a_loss_is_what_it_falls():
    rows = study().assign(test_loss=lambda f: 1 - f["test_auroc"])
    of_loss = boost_points(rows, baseline="random", metric="test_loss")
    of_auroc = boost_points(rows, baseline="random", metric="test_auroc")
    for column in ("boost", "low", "high"):
        assert of_loss[column].tolist() == pytest.approx(of_auroc[column].tolist())
    assert "smaller is better" in boost_size_table(of_loss, metric="test_loss", baseline="random").note


def test_networks_without_baseline_are_named():
    rows = study()
    rows = rows[~((rows["architecture"] == "res18") & (rows["init"] == "random"))]
    points = boost_points(rows, baseline="random", metric="test_auroc")
    table = boost_size_table(points, metric="test_auroc", baseline="random")
    assert table.data["n"].tolist() == [5]
    assert "without pair or size: res18 · chest · pretrained." in table.note


def family_of(name: str) -> str:
    return re.sub(r"\d+$", "", name)


def families(values: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """Points from architecture -> (million parameters, mean)."""
    rows = [
        trial(net, "random", seed, mean + e, n_params=1e6 * size)
        for net, (size, mean) in values.items()
        for seed, e in ((0, -0.01), (1, 0.01))
    ]
    return architecture_points(pd.DataFrame(rows), metric="test_auroc", family=family_of)


BY_FAMILY = {
    "res18": (2, 0.80), "res50": (8, 0.80), "res101": (32, 0.81),
    "mobile2": (2, 0.70), "mobile3": (8, 0.71), "mobile4": (32, 0.70),
}  # fmt: skip


def test_what_depends_on_the_family_is_explained_by_it_and_not_by_size():
    shares = explained_shares(families(BY_FAMILY))
    assert (shares["n"], shares["n_families"]) == (6, 2)
    assert shares["family"] > 0.98
    assert shares["size"] < 0
    assert shares["family_given_size"] > 0.98


def test_what_depends_on_size_is_explained_by_it():
    shares = explained_shares(
        families({net: (s, 0.5 + 0.1 * math.log(s)) for net, (s, _) in BY_FAMILY.items()})
    )
    assert shares["size"] == pytest.approx(1)
    assert shares["size_given_family"] > 0.9
    assert shares["family"] < 0


def test_adjusted_share_agrees_with_sums_of_squares():
    y, groups = np.array([1.0, 2.0, 3.0, 6.0, 7.0]), np.array([0, 0, 0, 1, 1])
    # Within: 2 + 0.5 with 3 degrees of freedom; total 26.8 with 4.
    assert adjusted_share(np.eye(2)[groups], y) == pytest.approx(1 - (2.5 / 3) / (26.8 / 4))


def test_a_family_per_architecture_explains_nothing_that_can_be_known():
    shares = explained_shares(families({"a1": (1, 0.7), "b1": (2, 0.8), "c1": (4, 0.9)}))
    assert math.isnan(shares["family"])
    assert shares["size"] == pytest.approx(1)
    flat = explained_shares(families({"a1": (1, 0.7), "a2": (1, 0.8), "b2": (1, 0.9), "b3": (1, 0.9)}))
    assert math.isnan(flat["size"])
    assert math.isnan(flat["family_given_size"])
    assert math.isnan(adjusted_share(np.ones((3, 1)), np.full(3, 0.1)))


def test_families_are_listed_by_size_with_their_mean():
    table = family_table(families(BY_FAMILY), metric="test_auroc")
    line = table.display.iloc[0]
    assert (line["family"], line["architecture"], line["seeds"]) == ("res", "res18", "2")
    assert (line["parameters (million)"], line["AUROC"]) == ("2.00", "0.8000 ± 0.0141")
    assert line["AUROC of the family"].startswith("0.8033 ± ")
    assert explained_table(families(BY_FAMILY), metric="test_auroc").display["families"].tolist() == ["2"]


def test_only_networks_without_pretraining_count_into_families():
    points = architecture_points(study(), metric="test_auroc", family=family_of)
    assert set(points["init"]) == {"random"}
    pretrained = architecture_points(study(), metric="test_auroc", family=family_of, init_kind="pretrained")
    assert len(pretrained) == len(NETS)


def test_every_table_can_be_written_even_when_empty():
    for rows in (study(), study().iloc[:0]):
        points = source_points(rows, SOURCE, metric="test_auroc", by="architecture")
        sizes = boost_points(rows, baseline="random", metric="test_auroc")
        architectures = architecture_points(rows, metric="test_auroc", family=family_of)
        for table in (
            source_target_table(points, metric="test_auroc", source_name="source"),
            boost_size_table(sizes, metric="test_auroc", baseline="random"),
            family_table(architectures, metric="test_auroc"),
            explained_table(architectures, metric="test_auroc"),
            efficiency_table(rows, metric="test_auroc"),
        ):
            assert latex(table).isascii(), table.name
            assert len(table.display.columns) > 4


def test_source_and_target_are_drawn_with_their_correlation(tmp_path):
    points = source_points(study(datasets=("chest", "skin")), SOURCE, metric="test_auroc", by="architecture")
    drawn = draw_source_target(points, metric="test_auroc", source_name="ImageNet accuracy", folder=tmp_path)
    assert drawn is not None
    assert drawn.svg.exists()
    assert (tmp_path / "source_and_target.png").exists()
    assert "skin, with pretraining: +1.00 [+1.00, +1.00], n = 6" in drawn.caption
    assert plt.get_fignums() == []
    none = points.assign(source_value=math.nan)
    assert draw_source_target(none, metric="test_auroc", source_name="x", folder=tmp_path) is None
