"""The tools with which things are broken do break them, and mend them again."""

import errno
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.chaos.disks import SmallDisk, may_mount
from tests.chaos.ledger import Ledger, Strike
from tests.chaos.postgres import Postgres, postgres_programs
from tests.chaos.processes import PYTHON, Owned, is_alive, process_state, session_members, wait_until
from tests.chaos.proxy import LOG_BATCH, UPLOAD, ResettingProxy
from tests.chaos.store_view import RunRow
from tests.chaos.table import write_table
from tests.chaos.world import HOOKS

LOG_BATCH_PATH = LOG_BATCH.decode().split()[1]


class Counting(BaseHTTPRequestHandler):
    """Answers every request that came whole, and counts it."""

    protocol_version = "HTTP/1.1"
    whole: list[str]

    def do_PUT(self) -> None:
        n_bytes = int(self.headers["Content-Length"])
        try:
            body = self.rfile.read(n_bytes)
        except ConnectionResetError:
            body = b""
        if len(body) < n_bytes:
            self.close_connection = True
            return
        self.whole.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_PUT()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[ResettingProxy]:
    Counting.whole = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = ResettingProxy(server.server_port)
    yield proxy
    proxy.close()
    server.shutdown()
    server.server_close()


def test_a_reset_in_mid_upload_leaves_the_request_torn(proxy: ResettingProxy) -> None:
    address = f"http://127.0.0.1:{proxy.port}"
    with requests.Session() as session:
        session.put(f"{address}/before", data=bytes(100_000))
        cut = proxy.cut_next(UPLOAD, after_bytes=5_000)
        with pytest.raises(requests.ConnectionError):
            session.put(f"{address}/torn", data=bytes(100_000))
        assert cut.is_made.wait(5)
        session.put(f"{address}/after", data=bytes(100_000))
    assert Counting.whole == ["/before", "/after"]


def test_a_reset_before_the_answer_leaves_the_request_whole(proxy: ResettingProxy) -> None:
    address = f"http://127.0.0.1:{proxy.port}"
    cut = proxy.cut_next(LOG_BATCH, after_bytes=None)
    with requests.Session() as session:
        session.put(f"{address}/other")
        with pytest.raises(requests.ConnectionError):
            session.post(address + LOG_BATCH_PATH, data=b"{}")
    assert cut.is_made.wait(5)
    assert Counting.whole == ["/other", LOG_BATCH_PATH]


def test_everything_that_a_process_started_is_killed_with_it(tmp_path: Path) -> None:
    parent = Owned(["sh", "-c", "sleep 600 & sleep 600 & echo up; wait"], log=tmp_path / "log", env={})
    parent.wait_for("up", within_s=10)
    wait_until(lambda: len(session_members(parent.pid)) == 3, "both children run", within_s=10)
    members = session_members(parent.pid)
    parent.freeze()
    wait_until(lambda: set(map(process_state, members)) == {"T"}, "both are frozen", within_s=5)
    parent.thaw()
    parent.kill()
    assert not any(map(is_alive, members))
    assert parent.exit_code == -9


@pytest.mark.skipif(not may_mount(), reason="only root mounts a small disk")
def test_a_small_disk_is_full_until_it_is_freed(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", mib=4)
    if not disk.is_mounted:
        pytest.skip("mounting is not allowed here")
    try:
        disk.fill()
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (disk.folder / "file").write_bytes(bytes(10_000))
        disk.free()
        (disk.folder / "file").write_bytes(bytes(10_000))
    finally:
        disk.remove()


def test_the_clock_of_a_process_is_stepped_while_it_runs(tmp_path: Path) -> None:
    clock, program = tmp_path / "clock", "import time; print(time.time()); input(); print(time.time())"
    process = subprocess.Popen(
        [PYTHON, "-u", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(HOOKS), "CHAOS_CLOCK": str(clock)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    before = float(process.stdout.readline())
    clock.write_text("-3600")
    time.sleep(0.3)
    after = float(process.communicate("\n")[0])
    assert before == pytest.approx(time.time(), abs=30)
    assert after == pytest.approx(before - 3600, abs=30)


def test_postgresql_comes_back_after_each_kill() -> None:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    psycopg2 = pytest.importorskip("psycopg2", reason="pip install psycopg2-binary")
    database = Postgres(programs)
    try:
        database.start()
        for _ in range(2):
            database.kill()
            with pytest.raises(psycopg2.OperationalError):
                psycopg2.connect(database.uri.replace("+psycopg2", ""))
            database.start()
    finally:
        database.stop()


def test_a_fault_has_recovered_when_what_it_hit_has_committed_more(tmp_path: Path) -> None:
    def run(name: str, step: int) -> RunRow:
        state = json.dumps({"path": "state/a", "sha256": "0", "step": step})
        return RunRow(name, "RUNNING", None, tmp_path, {"state": state})

    ledger = Ledger()
    ledger.note([run("a", 10), run("b", 10)], 1.0)
    ledger.strikes += [Strike("worker", 2.0, run_id="a"), Strike("server", 2.5)]
    assert not ledger.has_moved_on_since_last_strike()
    ledger.note([run("a", 10), run("b", 20)], 4.0)
    assert ledger.has_moved_on_since_last_strike()
    ledger.note([run("a", 20), run("b", 20)], 7.0)
    assert ledger.seconds_to_recover("worker") == [5.0]
    assert ledger.seconds_to_recover("server") == [1.5]

    ledger.strikes.append(Strike("driver", 8.0, waits_for_driver=True))
    ledger.note([run("a", 30)], 9.0)  # it commits while it leaves
    ledger.note_driver()
    ledger.note([run("a", 40)], 12.0)
    assert ledger.seconds_to_recover("driver") == [4.0]

    ledger.strikes[0].kind = "trial worker killed"
    ledger.violations.append("two runs\nof one trial")
    write_table(tmp_path / "chaos.md", {"SQLite": ledger}, seed=1, interval=20, minutes=3)
    page = (tmp_path / "chaos.md").read_text()
    assert "| trial worker killed | 1 | 5.0 / 5.0 | – |" in page
    assert "- two runs of one trial" in page
