"""What doctor makes of the reports of machines, and a report of this one."""

import io
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from study.doctor.finding import Finding, treat
from study.doctor.node_report import (
    DatasetAnswer,
    NodeReport,
    Order,
    Place,
    code_digest,
    dataset_digest,
    report,
)
from study.doctor.nodes import Fleet, Node, cells, check_nodes
from study.doctor.roll_call import call_the_roll, labelled
from study.doctor.round_trip import writes_artifact
from study.doctor.screens import print_fleet
from study.doctor.server_clock import server_skew_s
from trainables.datasets.spec import DatasetSpec
from trainables.record import Store, names

GOOD = NodeReport(
    host="head",
    versions={"python": "3.11.2", "ray": "2.60.0", "torch": "2.14.0"},
    code="a" * 64,
    n_cpus=4,
    gpus=("T4",),
    places={"temp": Place("/tmp", 50 * 10**9)},
    data_root="/data",
    is_data_there=True,
    store_problem=None,
    server_skew_s=0.2,
)
TOLD = {"CPU": 4.0, "GPU": 1.0}


def found(
    *reports: NodeReport, told: Mapping[str, float] | None = TOLD, skew_s: float | None = 0.0, **of_node: Any
) -> list[str]:
    """Return what is found of nodes beside a driver in order."""
    nodes = [
        Node(f"n{number}", each, told=told, skew_s=skew_s, **of_node) for number, each in enumerate(reports)
    ]
    return [f"{each.check}: {each.where}: {each.what}" for each in check_nodes(Fleet(GOOD, tuple(nodes)))]


def test_nodes_that_are_alike_and_fit_have_no_findings() -> None:
    assert found(GOOD, replace(GOOD, host="worker")) == []


WRONG = {
    "versions: n0: torch 2.13.0, the driver has 2.14.0": {"versions": {**GOOD.versions, "torch": "2.13.0"}},
    "versions: n0: ray absent, the driver has 2.60.0": {"versions": {"python": "3.11.2", "torch": "2.14.0"}},
    "versions: n0: other files of this program (bbbbbbbb…, the driver has aaaaaaaa…)": {"code": "b" * 64},
    "gpus: n0: Ray was told of 1 GPU(s), torch sees 0": {"gpus": ()},
    "gpus: n0: torch sees 2 GPU(s), Ray was told of 1": {"gpus": ("T4", "T4")},
    "cpus: n0: Ray was told of 4 CPUs, there are 2": {"n_cpus": 2},
    "disk: n0: 4.9 GB free for temp (/tmp), less than 5": {"places": {"temp": Place("/tmp", 49 * 10**8)}},
    "clock: n0: clock 3.0 s behind that of MLflow's server": {"server_skew_s": -3.0},
    "mlflow: n0: cannot connect": {"store_problem": "cannot connect"},
    "data: n0: TRANSFUSION_DATA is not set": {"data_root": None, "is_data_there": False},
    "data: n0: TRANSFUSION_DATA=/gone is not a folder": {"data_root": "/gone", "is_data_there": False},
}


@pytest.mark.parametrize("expected", WRONG)
def test_what_is_wrong_with_a_node_is_told_with_both_sides(expected: str) -> None:
    assert found(replace(GOOD, **WRONG[expected]), GOOD) == [expected]


def test_a_clock_that_differs_from_the_drivers_is_told() -> None:
    assert found(GOOD, skew_s=2.5) == ["clock: n0: clock 2.5 s ahead of that of the driver"]
    assert found(GOOD, skew_s=-1.9) == []


def test_without_ray_nothing_is_said_of_what_ray_was_told() -> None:
    assert found(replace(GOOD, gpus=(), n_cpus=1), told=None) == []


def test_a_dataset_that_differs_or_is_missing_is_told_against_most_nodes() -> None:
    digests = {"n0": "a" * 64, "n1": "a" * 64, "n2": "b" * 64}
    nodes = [
        Node(name, GOOD, told=TOLD, datasets={"chest": DatasetAnswer(digest, None)})
        for name, digest in digests.items()
    ]
    missing = Node("n3", GOOD, told=TOLD, datasets={"chest": DatasetAnswer(None, "chest.npz: not found")})
    findings = [(each.where, each.what) for each in check_nodes(Fleet(GOOD, (*nodes, missing)))]
    assert findings == [
        ("n2", "chest: digest bbbbbbbb…, most nodes have aaaaaaaa…"),
        ("n3", "chest: chest.npz: not found"),
    ]


def test_nodes_that_never_joined_or_never_answered_are_told() -> None:
    fleet = Fleet(GOOD, (Node("n0", GOOD, told=TOLD), Node("n1", None, "no answer within 120 s", told=TOLD)))
    assert [(each.where, each.what) for each in check_nodes(fleet, n_expected=4)] == [
        ("the cluster", "2 nodes joined, 4 are expected"),
        ("n1", "no report: no answer within 120 s"),
    ]
    assert len(list(check_nodes(fleet, n_expected=2))) == 1


def test_the_table_shows_what_is_wrong_in_its_cell() -> None:
    fleet = Fleet(
        GOOD, (Node("n0", GOOD), Node("n1", replace(GOOD, code="b" * 64)), Node("n2", None, "gone"))
    )
    findings = list(check_nodes(fleet))
    assert cells(fleet.nodes[1], findings)["versions"].startswith("other files of this program")
    assert not any(cells(fleet.nodes[0], findings).values())
    console = Console(width=250, record=True, file=io.StringIO())
    print_fleet(fleet, list(treat(findings, is_repairing=False)), console)
    lines = console.export_text().splitlines()
    assert lines[1].split() == ["n0", *["ok"] * 7]
    assert "other files of this program (bbbbbbbb…" in lines[2]
    assert lines[3].split() == ["n2", "no", "report:", "gone"]
    assert "n0: 4 cores, T4; free: 50 GB for temp; TRANSFUSION_DATA: /data" in lines


def test_findings_of_nodes_are_for_people_to_mend() -> None:
    fleet = Fleet(GOOD, (Node("n0", replace(GOOD, gpus=()), told=TOLD),))
    (treated,) = treat(check_nodes(fleet), is_repairing=True)
    assert isinstance(treated.finding, Finding)
    assert treated.finding.todo
    assert treated.finding.repair is None
    assert treated.fate == "found"


# This machine


def order_for(store: Store) -> Order:
    return Order(store.uri, store.experiment, socket.gethostname())


def test_this_machine_reports_and_is_like_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TRANSFUSION_DATA", str(tmp_path))
    digits, absent = DatasetSpec(reader="digits", size_px=16), DatasetSpec(reader="medmnist", path="no.npz")
    specs = labelled([digits, absent])
    told: list[tuple[str, int, int]] = []
    fleet = call_the_roll(order_for(store), specs, progress=lambda *of: told.append(of))
    (node,) = fleet.nodes
    assert node.report == fleet.driver
    assert fleet.driver.versions["ray"].startswith("2.")
    assert fleet.driver.places.keys() == {"temp", "cache", "data"}
    assert fleet.driver.places["temp"].free_bytes > 0
    good, bad = node.datasets.values()
    assert good == dataset_digest(digits)
    assert len(str(good.digest)) == 64
    assert "no.npz" in str(bad.problem)
    assert told == [("datasets", 0, 2), ("datasets", 1, 2)]
    assert {each.check for each in check_nodes(fleet)} <= {"data", "disk"}


def test_datasets_of_one_label_are_told_apart() -> None:
    one, other = (DatasetSpec(reader="digits", size_px=size) for size in (16, 28))
    assert list(labelled([one, other, one]).values()) == [one, other]


def test_the_round_trip_leaves_nothing_behind(store: Store) -> None:
    assert writes_artifact(store.uri, store.experiment) is None
    assert store.search(names.KIND, "doctor") == []
    assert list(Path("mlruns").rglob("preflight.txt")) == []


def test_an_artifact_folder_that_cannot_be_written_is_told(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.record.store.RETRY_AFTER_S", (0.0,))
    Path("mlruns").write_text("a file in the place of the folder")
    assert "cannot write artifacts: " in str(writes_artifact(store.uri, store.experiment))


def test_a_store_that_is_a_file_elsewhere_is_not_opened_here(tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    told = report(Order(f"sqlite:///{file}", "test", "elsewhere")).store_problem
    assert told == "the store is a file on elsewhere, which is not seen from here"
    assert not file.exists()


def test_the_digest_of_the_code_follows_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_code"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("study.doctor.node_report.FIRST_PARTY", ("some_code", "absent_code"))
    before = code_digest()
    (package / "more.py").write_text("x = 1\n")
    assert code_digest() != before


class _Dated(BaseHTTPRequestHandler):
    """A server whose clock is ten seconds slow, and that lets nobody in."""

    def do_HEAD(self) -> None:
        self.send_error(401)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() - 10)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def slow_clock() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Dated) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_clock_of_the_server_is_read_though_it_refuses_us(slow_clock: str) -> None:
    skew_s = server_skew_s(f"http://me:secret@{slow_clock}")
    assert skew_s is not None
    assert skew_s == pytest.approx(10, abs=1)


def test_no_server_or_a_dead_one_has_no_clock() -> None:
    assert server_skew_s("sqlite:///x.db") is None
    assert server_skew_s("http://127.0.0.1:9") is None


# A cluster


@pytest.mark.chaos
def test_every_node_of_a_cluster_is_asked(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1, num_gpus=1)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        specs = labelled([DatasetSpec(reader="digits", size_px=16)])
        fleet = call_the_roll(order_for(store), specs, progress=lambda *of: None)
    finally:
        cluster.shutdown()
    assert len(fleet.nodes) == 2
    assert all(node.report for node in fleet.nodes), [node.problem for node in fleet.nodes]
    assert all(abs(node.skew_s or 9) < 1 for node in fleet.nodes)
    assert len({answer.digest for node in fleet.nodes for answer in node.datasets.values()}) == 1
    wrong = [each for each in check_nodes(fleet, n_expected=3) if each.check != "disk"]
    assert sorted(each.what for each in wrong) == [
        "2 nodes joined, 3 are expected",
        "Ray was told of 1 GPU(s), torch sees 0",
    ]
