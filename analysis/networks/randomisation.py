"""Do explanations depend on what the network learned? The sanity check of Adebayo et al. 2018, as a number.

The stages of a trained network are made random from the head down, one more at a time, and its maps are
compared with the ones it gave before. A method whose maps stay as they were explains the image, not the
network: an edge detector would do the same.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from analysis.networks.explanations import METHODS, Method
from trainables.architectures.spec import ArchitectureSpec
from trainables.architectures.stages import Network, build_network
from trainables.seeding import seeded

UNTOUCHED = "none"
MOST_RETAINED = 0.5

RANDOMISATION_COLUMNS = (
    "method", "stage", "n_random_stages", "correlation", "sd", "noise_floor", "n_images", "n_blank",
)  # fmt: skip


class Verdict(NamedTuple):
    """Whether a method's maps survive that every weight is random.

    Attributes:
        retained: (correlation - noise floor) / (1 - noise floor) with all stages random: 1 if the maps are
            as before, 0 if they are as unlike as those of two images. NaN if it cannot be computed.
        is_insensitive: more than half is retained; None if unknown.
    """

    method: str
    retained: float
    is_insensitive: bool | None


def random_network(spec: ArchitectureSpec | str, *, n_outputs: int, channels: int, seed: int = 0) -> Network:
    """Build a network of the catalog with the framework's random weights of a seed."""
    with seeded(seed, "randomisation"):
        return build_network(spec, n_outputs=n_outputs, channels=channels)


def cascade(network: Network, random: Network) -> Iterator[tuple[str, Network]]:
    """Yield the network with its head random, then also the stage before it, down to the first.

    The weights and running statistics of a stage are those of `random`, on the network's device.

    Yields:
        The stage that became random, and a network that the next step changes: use it before going on. The
        given one is never changed.
    """
    changed = Network(copy.deepcopy(network.module), network.stages, network.auxiliary_weight)
    for stage in reversed(network.stages):
        with torch.no_grad():
            for key, value in changed.stage_state(stage.name).items():
                value.copy_(random.stage_state(stage.name)[key])
        yield stage.name, changed


def randomisation_check(
    network: Network,
    random: Network,
    images: Tensor,
    targets: Tensor,
    *,
    methods: Mapping[str, Method] = METHODS,
) -> pd.DataFrame:
    """Return one row per method and step of the cascade, with RANDOMISATION_COLUMNS.

    The first step, stage "none", repeats the method on the unchanged network: below 1, it is not repeatable.
    `correlation` is Spearman's, over the pixels of an image, averaged over images, `sd` over them;
    `noise_floor` that between the maps of one image and those of the next, in a circle: what unrelated
    images share. Images with a map of one value (a Grad-CAM of zeros) have no ranks: they are left out and
    counted in `n_blank`. NaN where no image is left, and as the floor of a single image.

    Args:
        random: of the same architecture; see `random_network`.
        images, targets: as for the methods; the targets stay when the prediction changes.
    """
    before = {name: method.explain(network, images, targets) for name, method in methods.items()}
    floors = {name: _mean(rank_correlations(maps, np.roll(maps, 1, axis=0))) for name, maps in before.items()}
    if len(images) < 2:
        floors = dict.fromkeys(floors, float("nan"))
    rows = []
    for step, (stage, changed) in enumerate(_steps(network, random)):
        for name, method in methods.items():
            maps = method.explain(changed, images, targets)
            correlations = rank_correlations(before[name], maps)
            rows.append(
                {
                    "method": name,
                    "stage": stage,
                    "n_random_stages": step,
                    "correlation": _mean(correlations),
                    "sd": _sd(correlations),
                    "noise_floor": floors[name],
                    "n_images": int(np.isfinite(correlations).sum()),
                    "n_blank": int(np.isnan(correlations).sum()),
                }
            )
    return pd.DataFrame(rows, columns=list(RANDOMISATION_COLUMNS))


def judge(check: pd.DataFrame) -> list[Verdict]:
    """Judge every method of a randomisation check by its last step."""
    verdicts = []
    for method, rows in check.groupby("method", sort=False):
        last = rows.sort_values("n_random_stages").iloc[-1]
        room = 1 - float(last["noise_floor"])
        # Maps that are alike for all images leave no room to tell.
        retained = (float(last["correlation"]) - 1 + room) / room if room > 1e-9 else float("nan")
        verdicts.append(
            Verdict(str(method), retained, None if np.isnan(retained) else retained > MOST_RETAINED)
        )
    return verdicts


def rank_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation over the pixels of each pair of maps, (n,); NaN if one is constant.

    Args:
        x, y: (n, h, w); not finite values make the image's correlation NaN.
    """
    ranks = [stats.rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (x, y)]
    a, b = (of_maps - of_maps.mean(axis=1, keepdims=True) for of_maps in ranks)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    is_known = (norms > 0) & np.isfinite(x).all(axis=(1, 2)) & np.isfinite(y).all(axis=(1, 2))
    return np.divide((a * b).sum(axis=1), norms, out=np.full(len(x), np.nan), where=is_known)


def _steps(network: Network, random: Network) -> Iterator[tuple[str, Network]]:
    yield UNTOUCHED, network
    yield from cascade(network, random)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _sd(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1)) if known.size > 1 else float("nan")
