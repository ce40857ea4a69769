"""`ray up`, a study, a host cut off in the middle of it, `ray down`, `ray up`, the study to its end."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.cluster import FILE, ROOT, Cluster, make_cluster, wait_for
from tests.hosts.network import network, why_not
from tests.hosts.records import Record, said

pytestmark = [pytest.mark.hosts, pytest.mark.skipif(bool(reason := why_not()), reason=str(reason))]

RUN = "cd ~/transfusion && transfusion run configs/study.yaml"
N_TRIALS = 7  # a pretraining, and two seeds of three initializations


class Journal:
    """What happened and when, for a person to read (`make hosts` prints it)."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def note(self, text: str) -> None:
        """Print a line, or a command's output, below the time since the beginning."""
        print(f"[{time.monotonic() - self._began:5.0f} s] {text.strip()}", flush=True)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with network(tmp_path, hidden=ROOT) as hosts:
        yield make_cluster(hosts)


def test_a_study_survives_a_lost_host_and_a_new_cluster(cluster: Cluster, tmp_path: Path) -> None:
    journal = Journal()
    bring_up(cluster, journal)
    journal.note("doctor:\n" + cluster.execute("transfusion doctor --expect-nodes 3"))

    log = tmp_path / "run.log"
    with log.open("w") as output:
        first = cluster.laptop.start(f"cd ~/transfusion && ray exec {FILE} '{RUN}'", output)
    wait_for(
        "a trial is done, and both workers train", lambda: is_under_way(cluster.records()), timeout_s=400
    )
    cluster.workers[1].cut_off()
    journal.note(f"worker2 is cut off; {said(cluster.records())}")
    [lost] = [run.trial_id for run in cluster.records() if run.is_on("worker2")]
    wait_for("its trial goes on elsewhere", lambda: goes_on(cluster.records(), lost), timeout_s=400)
    journal.note(f"its trial goes on on worker1; {said(cluster.records())}")

    cluster.down()
    first.wait(timeout=120)
    journal.note(f"ray down; the run ended with {first.returncode} and said:\n{log.read_text()}")
    assert first.returncode != 0
    cluster.workers[1].reconnect()
    bring_up(cluster, journal)
    before = cluster.records()
    journal.note(f"the records after ray down and ray up: {said(before)}")
    journal.note("run again:\n" + cluster.execute(RUN))

    after = cluster.records()
    journal.note(f"at the end: {said(after)}")
    assert len(after) == len({run.trial_id for run in after}) == N_TRIALS
    assert {run.status for run in after} == {"FINISHED"}
    finished = {run.run_id: run for run in before if run.status == "FINISHED"}
    assert 0 < len(finished) < N_TRIALS
    for run in after:
        assert run.steps == tuple(sorted(set(run.steps))), run
        assert finished.get(run.run_id, run) == run, "a finished trial was touched"
    journal.note("doctor:\n" + cluster.execute("transfusion doctor --expect-nodes 3"))
    cluster.down()


def bring_up(cluster: Cluster, journal: Journal) -> None:
    journal.note("ray up")
    cluster.up()
    journal.note("the head is ready")
    wait_for("three nodes", lambda: cluster.n_nodes() == 3, timeout_s=120)
    journal.note("three nodes")


def is_under_way(records: list[Record]) -> bool:
    is_done = any(run.status == "FINISHED" for run in records)
    return is_done and all(any(run.is_on(host) for run in records) for host in ("worker1", "worker2"))


def goes_on(records: list[Record], trial_id: str) -> bool:
    [run] = [run for run in records if run.trial_id == trial_id]
    return run.is_on("worker1")
