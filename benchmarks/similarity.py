"""Mean CCA from streamed moments: time and peak memory against two routes that hold all activations.

    python benchmarks/similarity.py              # under 8 minutes on two cores
    python benchmarks/similarity.py --quick      # a fifth of the rows, up to 512 units

- moments: `analysis.numerics`, in batches of 4,096 rows; its time includes the noise floor.
- QR: numpy, an orthonormal basis of each side and the SVD of their product (Björck & Golub 1973).
- covariance: the algorithm of google/svcca's cca_core in plain numpy: covariance of all units together,
  scaled by its largest entries, pseudo-inverses, their square roots by eigenvectors, SVD.

Every measurement is a process of its own, which repeats what is short; the routes take turns. All begin with
the same float32 activations and compute in float64. Printed are the least seconds, since other work on the
machine only adds to them, their ratio to the first route, the peak resident memory of the process (beside
one that only makes the activations), and how far the results are apart. The last two tables are a stage of a
convolutional network, where the moments never see more than a batch, and a heat map of 4 x 4 stages. Rows for
a GPU are measured where there is one.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.numerics.moments import JointMoments, Moments
from analysis.numerics.noise_floors import noise_floor
from analysis.numerics.similarity import mean_cca

BATCH_ROWS = 4096
STAGES = 4
EPSILON = 1e-10
REPEATED_S = 2.0
MOST_REPEATS = 10


@dataclass(frozen=True)
class Case:
    """What is compared. `is_streamed`: moments get batches as they are made, as in a pass over images."""

    rows: int
    units: int
    is_streamed: bool = False


@dataclass(frozen=True)
class Measurement:
    """One process."""

    seconds: float
    peak_mb: float
    value: float


def batches(case: Case, n_sides: int = 2) -> Iterator[list[torch.Tensor]]:
    """Yield float32 rows of related sides; the same ones for everybody."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(n_sides, 16, case.units, generator=generator)
    for start in range(0, case.rows, BATCH_ROWS):
        n = min(BATCH_ROWS, case.rows - start)
        shared = torch.randn(n, 16, generator=generator)
        yield [shared @ mix + torch.randn(n, case.units, generator=generator) for mix in mixing]


def activations(case: Case) -> list[torch.Tensor]:
    """Make all rows of both sides."""
    sides = [torch.empty(case.rows, case.units) for _ in range(2)]
    for index, batch in enumerate(batches(case)):
        start = index * BATCH_ROWS
        for side, rows in zip(sides, batch, strict=True):
            side[start : start + len(rows)] = rows
    return sides


def by_nothing(case: Case) -> tuple[float, float]:
    """Only make the activations."""
    for _ in batches(case) if case.is_streamed else activations(case):
        pass
    return 0.0, float("nan")


def by_moments(case: Case, device: str = "cpu") -> tuple[float, float]:
    """Stream moments; only what happens to the batches is timed, not their making."""
    moments, seconds = Moments(), 0.0
    if not case.is_streamed:
        sides = [side.to(device) for side in activations(case)]
    for batch in (
        batches(case) if case.is_streamed else zip(*(s.split(BATCH_ROWS) for s in sides), strict=True)
    ):
        x, y = (rows.to(device) for rows in batch)
        began = now(device)
        moments.update(x, y)
        seconds += now(device) - began
    began = now(device)
    value = mean_cca(moments).value
    return seconds + now(device) - began, value


def by_moments_on_gpu(case: Case) -> tuple[float, float]:
    """Stream moments on the GPU, after it has been woken up."""
    warm = Moments()
    warm.update(*(torch.randn(256, 32, device="cuda") for _ in range(2)))
    mean_cca(warm)
    return by_moments(case, "cuda")


def by_qr(case: Case) -> tuple[float, float]:
    """Björck & Golub: no covariance, all rows at once."""
    x, y = (side.numpy() for side in activations(case))
    began = time.perf_counter()
    bases = []
    for side in (x, y):
        centred = side.astype(np.float64)
        centred -= centred.mean(axis=0)
        bases.append(np.linalg.qr(centred)[0])
    value = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean()
    return time.perf_counter() - began, float(value)


def by_covariance(case: Case) -> tuple[float, float]:
    """What google/svcca does, with the epsilon of its tutorials."""
    x, y = (side.numpy() for side in activations(case))
    began = time.perf_counter()
    covariance = np.cov(x, y, rowvar=False)
    cxx, cxy = covariance[: case.units, : case.units], covariance[: case.units, case.units :]
    cyy = covariance[case.units :, case.units :]
    scale_x, scale_y = np.abs(cxx).max(), np.abs(cyy).max()
    roots = []
    for block in (cxx / scale_x, cyy / scale_y):
        variances, vectors = np.linalg.eigh(np.linalg.pinv(block + EPSILON * np.eye(case.units)))
        roots.append(vectors @ np.diag(np.sqrt(variances)) @ vectors.T)
    correlations = np.linalg.svd(roots[0] @ (cxy / np.sqrt(scale_x * scale_y)) @ roots[1])[1]
    return time.perf_counter() - began, float(np.abs(correlations).mean())


def heat_map(case: Case, *, is_joint: bool) -> tuple[float, float]:
    """Compare every stage of a network with every one of another."""
    keys = [(network, stage) for network in "xy" for stage in range(STAGES)]
    pairs = list(product(keys[:STAGES], keys[STAGES:]))
    joint, alone = JointMoments(pairs), {pair: Moments() for pair in pairs}
    seconds = 0.0
    for batch in batches(case, 2 * STAGES):
        rows = dict(zip(keys, batch, strict=True))
        began = time.perf_counter()
        if is_joint:
            joint.update(rows)
        else:
            for (x, y), moments in alone.items():
                moments.update(rows[x], rows[y])
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    values = [mean_cca(joint.of(*pair) if is_joint else alone[pair]).value for pair in pairs]
    return seconds + time.perf_counter() - began, statistics.fmean(values)


def by_joint_moments(case: Case) -> tuple[float, float]:
    """Gather each side once."""
    return heat_map(case, is_joint=True)


def by_pairs(case: Case) -> tuple[float, float]:
    """Gather both sides of every pair."""
    return heat_map(case, is_joint=False)


ROUTES: dict[str, Callable[[Case], tuple[float, float]]] = {
    "activations alone": by_nothing,
    "moments": by_moments,
    "moments on GPU": by_moments_on_gpu,
    "QR": by_qr,
    "covariance": by_covariance,
    "joint moments": by_joint_moments,
    "moments of each pair": by_pairs,
}


def now(device: str) -> float:
    """Return the time when the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(case: Case, route: str) -> Measurement:
    """Run a route in a process of its own."""
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--route",
        route,
        "--case",
        json.dumps(asdict(case)),
    ]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Measurement(**json.loads(output))


def run_route(route: str, case: Case) -> None:
    """Print the measurement of this process."""
    runs = []
    while not runs or (sum(seconds for seconds, _ in runs) < REPEATED_S and len(runs) < MOST_REPEATS):
        noise_floor.cache_clear()
        runs.append(ROUTES[route](case))
    seconds, value = min(runs)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(asdict(Measurement(seconds, peak_mb, value))))


def compare(case: Case, routes: list[str], repeats: int) -> None:
    """Print the rows of one case; the first route is what the others are divided by."""
    if not torch.cuda.is_available():
        routes = [route for route in routes if route != "moments on GPU"]
    found: dict[str, list[Measurement]] = {route: [] for route in routes}
    for repeat in range(repeats):
        for route in routes if repeat % 2 else reversed(routes):
            found[route].append(measure(case, route))
    ours = min(one.seconds for one in found[routes[0]])
    for route, measured in found.items():
        seconds = min(one.seconds for one in measured)
        peak_mb = max(one.peak_mb for one in measured)
        apart = abs(measured[0].value - found[routes[0]][0].value)
        times = f"{seconds:.2f} | {seconds / ours:.1f}" if seconds else " | "
        print(
            f"| {case.rows:,} x {case.units} | {route} | {times} | {peak_mb:.0f} | "
            f"{'' if np.isnan(apart) else f'{apart:.0e}'} |",
            flush=True,
        )
    if not torch.cuda.is_available() and "QR" in routes:
        print(f"| {case.rows:,} x {case.units} | moments on GPU | not measured: no GPU | | | |", flush=True)


def run(*, is_quick: bool) -> None:
    """Measure and print the tables."""
    share = 5 if is_quick else 1
    print(f"mean CCA, {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    header = (
        "\n| rows x units | route | s | / first | peak MB | apart |\n| --- | --- | --- | --- | --- | --- |"
    )
    print(header)
    routes = ["moments", "QR", "covariance", "moments on GPU", "activations alone"]
    for units in (128, 256, 512) if is_quick else (128, 256, 512, 1024, 2048):
        compare(Case(10_000 // share, units), routes, repeats=1 if is_quick or units > 512 else 2)
    print(header)
    compare(Case(2_000_000 // share, 64, is_streamed=True), routes, repeats=1)
    print(header)
    compare(Case(10_000 // share, 256), ["joint moments", "moments of each pair"], repeats=1)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the rows, up to 512 units")
    parser.add_argument("--route", choices=list(ROUTES), help=argparse.SUPPRESS)
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.route:
        run_route(arguments.route, Case(**arguments.case))
    else:
        run(is_quick=arguments.quick)


if __name__ == "__main__":
    main()
