"""The checks of machines: is every node fit for trials, and all of them alike."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from study.doctor.finding import Finding
from study.doctor.node_report import DatasetAnswer, NodeReport

LITTLE_DISK_BYTES = 5e9
MAX_SKEW_S = 2.0


@dataclass(frozen=True)
class Node:
    """A machine and its answers.

    Attributes:
        name: for people; unique.
        report: None if it did not answer.
        problem: why it did not.
        told: what Ray believes it has, `CPU` and `GPU`; None where no Ray runs.
        skew_s: how far its clock is ahead of the driver's.
        datasets: by their labels.
    """

    name: str
    report: NodeReport | None
    problem: str | None = None
    told: Mapping[str, float] | None = None
    skew_s: float | None = None
    datasets: Mapping[str, DatasetAnswer] = field(default_factory=dict)


@dataclass(frozen=True)
class Fleet:
    """All machines.

    Attributes:
        driver: the report of the machine that `doctor` runs on.
    """

    driver: NodeReport
    nodes: tuple[Node, ...]

    def usual_digest(self, dataset: str) -> str | None:
        """Return the digest of a dataset that most nodes found."""
        found = Counter(node.datasets[dataset].digest for node in self.nodes if dataset in node.datasets)
        del found[None]
        return found.most_common(1)[0][0] if found else None


@dataclass(frozen=True)
class Wrong:
    """What is wrong with a node, and what to do."""

    what: str
    todo: str


NodeCheck = Callable[[Node, NodeReport, Fleet], Iterator[Wrong]]


def same_versions(node: Node, report: NodeReport, fleet: Fleet) -> Iterator[Wrong]:
    """Compare Python, the packages and the files of this program with the driver's."""
    for package, expected in fleet.driver.versions.items():
        found = report.versions.get(package, "absent")
        if found != expected:
            yield Wrong(f"{package} {found}, the driver has {expected}", "install the driver's version there")
    if report.code != fleet.driver.code:
        what = f"other files of this program ({report.code[:8]}…, the driver has {fleet.driver.code[:8]}…)"
        yield Wrong(what, "install the driver's files on every node: ray rsync-up, or the same wheel")


def gpus_are_there(node: Node, report: NodeReport, fleet: Fleet) -> Iterator[Wrong]:
    """Compare the GPUs that torch sees with those that Ray gives to trials."""
    if node.told is None:
        return
    told, seen = node.told.get("GPU", 0), len(report.gpus)
    if seen < told:
        what = f"Ray was told of {told:g} GPU(s), torch sees {seen}"
        yield Wrong(what, "mend the GPU's driver, install a CUDA build of torch, or lower --num-gpus")
    elif seen > told:
        what = f"torch sees {seen} GPU(s), Ray was told of {told:g}"
        yield Wrong(what, "give ray start the rest with --num-gpus; trials never get them otherwise")


def cpus_are_there(node: Node, report: NodeReport, fleet: Fleet) -> Iterator[Wrong]:
    """Look for more cores promised than there are."""
    told = (node.told or {}).get("CPU", 0)
    if told > report.n_cpus:
        what = f"Ray was told of {told:g} CPUs, there are {report.n_cpus}"
        yield Wrong(what, "lower --num-cpus of ray start: trials would share cores")


def disk_is_free(node: Node, report: NodeReport, fleet: Fleet) -> Iterator[Wrong]:
    """Look for folders without much room."""
    for name, place in report.places.items():
        if place.free_bytes < LITTLE_DISK_BYTES:
            what = f"{place.free_bytes / 1e9:.1f} GB free for {name} ({place.path}), less than 5"
            yield Wrong(what, "free some, or set TMPDIR, TRANSFUSION_CACHE, TRANSFUSION_DATA to other disks")


def clock_is_right(node: Node, report: NodeReport, fleet: Fleet) -> Iterator[Wrong]:
    """Compare the clock with the driver's and with that of MLflow's server."""
    for of, skew_s in (("the driver", node.skew_s), ("MLflow's server", report.server_skew_s)):
        if skew_s is not None and abs(skew_s) > MAX_SKEW_S:
            side = "ahead of" if skew_s > 0 else "behind"
            what = f"clock {abs(skew_s):.1f} s {side} that of {of}"
            yield Wrong(what, "start a time service there (chrony, systemd-timesyncd)")


def store_is_reached(node: Node, report: NodeReport, fleet: Fleet) -> Iterator[Wrong]:
    """Pass on why trials there could not write to MLflow."""
    if report.store_problem is not None:
        todo = "mend MLFLOW_TRACKING_URI and its credentials, the firewall, or --allowed-hosts of the server"
        yield Wrong(report.store_problem, todo)


def data_is_there(node: Node, report: NodeReport, fleet: Fleet) -> Iterator[Wrong]:
    """Look for TRANSFUSION_DATA, and for every dataset of the study with the digest of the other nodes."""
    if report.data_root is None and fleet.driver.data_root is not None:
        yield Wrong("TRANSFUSION_DATA is not set", "set it before ray start, as it is set for the driver")
    elif report.data_root is not None and not report.is_data_there:
        what = f"TRANSFUSION_DATA={report.data_root} is not a folder"
        yield Wrong(what, "copy or mount the data there, or mend the variable before ray start")
    for dataset, answer in node.datasets.items():
        usual = fleet.usual_digest(dataset)
        if answer.problem is not None:
            yield Wrong(f"{dataset}: {answer.problem}", "copy the data of a node that has it")
        elif answer.digest != usual and usual is not None:
            what = f"{dataset}: digest {str(answer.digest)[:8]}…, most nodes have {usual[:8]}…"
            yield Wrong(what, "copy the data of the other nodes: the images or labels differ")


CHECKS: dict[str, NodeCheck] = {
    "versions": same_versions,
    "gpus": gpus_are_there,
    "cpus": cpus_are_there,
    "disk": disk_is_free,
    "clock": clock_is_right,
    "mlflow": store_is_reached,
    "data": data_is_there,
}
ANSWERS = "answers"


def check_nodes(fleet: Fleet, *, n_expected: int | None = None) -> Iterator[Finding]:
    """Go through all checks of all nodes.

    Args:
        n_expected: how many nodes there should be, the head among them.
    """
    if n_expected is not None and len(fleet.nodes) < n_expected:
        yield Finding(
            ANSWERS,
            "the cluster",
            f"{len(fleet.nodes)} nodes joined, {n_expected} are expected",
            "wait if they are being set up; else look at the end of: ray exec CLUSTER.yaml "
            "'tail -n 100 /tmp/ray/session_latest/logs/monitor*'",
        )
    for node in fleet.nodes:
        if node.report is None:
            yield Finding(
                ANSWERS, node.name, f"no report: {node.problem}", "look at it by hand: ray attach, ssh"
            )
            continue
        for check, find in CHECKS.items():
            for wrong in find(node, node.report, fleet):
                yield Finding(check, node.name, wrong.what, wrong.todo)


def cells(node: Node, findings: Sequence[Finding]) -> dict[str, str]:
    """Return the row of a node in the table of checks: what is wrong, empty where nothing is."""
    own = [finding for finding in findings if finding.where == node.name]
    return {
        check: "; ".join(finding.what for finding in own if finding.check == check)
        for check in (ANSWERS, *CHECKS)
    }
