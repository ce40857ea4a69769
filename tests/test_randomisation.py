import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from analysis.networks.explanations import METHODS, Method
from analysis.networks.randomisation import (
    RANDOMISATION_COLUMNS,
    UNTOUCHED,
    cascade,
    judge,
    random_network,
    randomisation_check,
    rank_correlations,
)
from trainables.architectures.stages import Network


@pytest.fixture(scope="module")
def cbr() -> Network:
    return random_network("cbr_tiny", n_outputs=3, channels=3, seed=1)


def pictures(n: int) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def classes(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def test_the_cascade_makes_stages_random_from_the_head_down(cbr):
    random = random_network("cbr_tiny", n_outputs=3, channels=3, seed=9)
    original = {key: value.clone() for key, value in cbr.module.state_dict().items()}
    order = []
    for stage, changed in cascade(cbr, random):
        order.append(stage)
        for other in changed.stages:
            source = random if other.name in order else cbr
            for key, value in changed.stage_state(other.name).items():
                assert torch.equal(value, source.stage_state(other.name)[key])
    assert order == ["head", "conv4", "conv3", "conv2", "conv1"]
    assert all(torch.equal(original[key], value) for key, value in cbr.module.state_dict().items())


def test_random_weights_depend_on_their_seed_alone():
    first, again, other = (random_network("cbr_tiny", n_outputs=2, channels=1, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.module.head.weight, again.module.head.weight)
    assert not torch.equal(first.module.head.weight, other.module.head.weight)


def edges(_network: Network, images: Tensor, _targets: Tensor) -> np.ndarray:
    """Edge detector: knows nothing of the network."""
    return images.mean(dim=1).diff(dim=2, append=images.mean(dim=1)[:, :, -1:]).abs().numpy()


def test_the_check_tells_a_method_that_ignores_the_network_from_one_that_does_not(cbr):
    random = random_network("cbr_tiny", n_outputs=3, channels=3, seed=9)
    methods = {"gradient": METHODS["gradient"], "edges": Method("Edges", edges, "")}
    check = randomisation_check(cbr, random, pictures(6), torch.zeros(6, dtype=torch.long), methods=methods)
    assert list(check.columns) == list(RANDOMISATION_COLUMNS)
    untouched = check[check["stage"] == UNTOUCHED]
    np.testing.assert_allclose(untouched["correlation"], 1.0)
    by_method = dict(list(check.groupby("method")))
    np.testing.assert_allclose(by_method["edges"]["correlation"], 1.0)
    assert by_method["gradient"]["correlation"].iloc[-1] < 0.5
    assert list(by_method["gradient"]["n_random_stages"]) == [0, 1, 2, 3, 4, 5]
    verdicts = {verdict.method: verdict for verdict in judge(check)}
    assert verdicts["edges"].is_insensitive
    assert verdicts["edges"].retained == pytest.approx(1)
    assert verdicts["gradient"].is_insensitive is False


def test_blank_maps_have_no_correlation_and_are_counted(cbr):
    def half_blank(network: Network, images: Tensor, targets: Tensor) -> np.ndarray:
        maps = edges(network, images, targets)
        maps[0] = 0
        return maps

    random = random_network("cbr_tiny", n_outputs=3, channels=3, seed=9)
    methods = {"half": Method("Half", half_blank, "")}
    check = randomisation_check(cbr, random, pictures(3), classes(0, 0, 0), methods=methods)
    assert set(check["n_blank"]) == {1}
    assert set(check["n_images"]) == {2}
    np.testing.assert_allclose(check["correlation"], 1.0)
    alone = randomisation_check(cbr, random, pictures(1), classes(0), methods=methods)
    assert alone[["correlation", "sd", "noise_floor"]].isna().all(axis=None)
    assert judge(alone)[0].is_insensitive is None


def test_rank_correlations_are_scipys_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, (3, 5, 5)).astype(float), rng.integers(0, 4, (3, 5, 5)).astype(float)
    expected = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(rank_correlations(x, y), expected)
    np.testing.assert_allclose(rank_correlations(x, np.exp(x)), 1.0)
    y[0, 0, 0] = np.nan
    assert np.isnan(rank_correlations(x, y)).tolist() == [True, False, False]


def test_maps_that_are_alike_for_all_images_leave_nothing_to_judge(cbr):
    def ramp(_network: Network, images: Tensor, _targets: Tensor) -> np.ndarray:
        return np.tile(np.arange(32.0), (len(images), 32, 1))

    random = random_network("cbr_tiny", n_outputs=3, channels=3, seed=9)
    methods = {"ramp": Method("Ramp", ramp, "")}
    check = randomisation_check(cbr, random, pictures(3), classes(0, 0, 0), methods=methods)
    assert judge(check)[0].is_insensitive is None
