"""Everything that a study needs, in processes that may be killed: cluster, server, database, driver."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from tests.chaos.diary import Attempt, read_attempts
from tests.chaos.disks import SmallDisk
from tests.chaos.processes import PYTHON, REPOSITORY, Owned, session_of
from tests.chaos.proxy import ResettingProxy
from tests.chaos.ray_hosts import N_HOSTS, RayHosts
from tests.chaos.server import Database, MlflowServer
from tests.chaos.store_view import RunRow, StoreView

HOOKS = Path(__file__).parent / "hooks"
# A writer that was refused tries again after a pause, which grows up to this.
LONGEST_RETRY_S = 15.0


@dataclass(frozen=True)
class Victim:
    """A trial in flight that has committed something since it (again) began."""

    run_id: str
    pid: int
    host: int


class World:
    """The parts, running.

    Args:
        folder: of everything that is written.
        study_file: what the driver runs.

    Attributes:
        driver_may_leave_with: exit codes that the last faults explain.
        outages: from when to when nothing could be committed, in seconds of the monotonic clock.
    """

    def __init__(self, folder: Path, *, database: Database, study_file: Path) -> None:
        self.folder, self.database, self.study_file = folder, database, study_file
        self.artifacts = SmallDisk(folder / "artifacts", mib=256)
        self.spool = SmallDisk(folder / "spool", mib=128)
        self.diaries = folder / "diaries"
        for name in ("diaries", "driver-tmp", "logs"):
            (folder / name).mkdir()
        common = {
            "PYTHONPATH": f"{HOOKS}:{REPOSITORY}",
            "RAY_AUTH_MODE": "disabled",
            "TRANSFUSION_CACHE": str(folder / "cache"),
        }
        logs = folder / "logs"
        self.server = MlflowServer(logs, database=database, artifacts=self.artifacts.folder, env={})
        self.proxy = ResettingProxy(self.server.port)
        self.hosts = RayHosts(
            logs, env={**common, "CHAOS_DIARY": str(self.diaries), "TMPDIR": str(self.spool.folder)}
        )
        self._driver_env = {
            **common,
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.proxy.port}",
            "TMPDIR": str(folder / "driver-tmp"),
        }
        self.driver_may_leave_with: set[int] = set()
        self.outages: list[tuple[float, float]] = []
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._n_drivers = 0
        self._driver: Owned | None = None
        self._view: StoreView | None = None

    @property
    def driver(self) -> Owned:
        assert self._driver is not None, "begin() comes first"
        return self._driver

    @property
    def is_driven(self) -> bool:
        """Whether the driver runs, and has no reason to leave."""
        return self.driver.exit_code is None and not self.driver_may_leave_with

    @property
    def view(self) -> StoreView:
        assert self._view is not None, "begin() comes first"
        return self._view

    def start(self) -> None:
        """Start all but the driver."""
        self.database.start()
        self.server.start()
        self.hosts.start()
        self.server.wait_until_healthy()

    def begin(self, experiment: str) -> None:
        """Begin a study anew, in an experiment of its own."""
        for diary in self.diaries.glob("*.diary"):
            diary.unlink()
        self.outages = []
        self._driver_env["TRANSFUSION_EXPERIMENT"] = experiment
        self._view = StoreView(self.database.uri, artifacts=self.artifacts.folder, experiment=experiment)
        self.start_driver()

    def start_driver(self) -> None:
        """Run the study file, as a person would again."""
        self.driver_may_leave_with = set()
        self._driver = self.another_driver()

    def another_driver(self, *options: str) -> Owned:
        """Start a driver of the same study beside the one there is."""
        self._n_drivers += 1
        return Owned(
            [PYTHON, "-m", "study", "run", self.study_file, *options],
            log=self.folder / "logs" / f"driver-{self._n_drivers}.log",
            env={**self._driver_env, "RAY_ADDRESS": self.hosts.address},
        )

    def hand_over_to(self, driver: Owned) -> None:
        """Let another driver be the one that counts."""
        self._driver, self.driver_may_leave_with = driver, set()

    def observe(self) -> list[RunRow]:
        """Return the runs of the study as they are now; none while the database is away."""
        try:
            return self.view.runs()
        except DBAPIError:
            return []

    def attempts(self) -> list[Attempt]:
        """Return what every process has trained since the study began."""
        return read_attempts(self.diaries)

    def victims(self, runs: list[RunRow]) -> list[Victim]:
        """Return the trials whose worker may be killed without being killed over and over at one place."""
        open_runs = {run.run_id: run for run in runs if run.status == "RUNNING" and run.trial_id}
        newest = {attempt.run_id: attempt for attempt in self.attempts()}
        found = []
        for run_id, run in open_runs.items():
            attempt = newest.get(run_id)
            if attempt is None or run.state_step <= attempt.began_at_step:
                continue
            host = self.hosts.host_of(attempt.pid, session=session_of(attempt.pid))
            if host is not None:
                found.append(Victim(run_id, attempt.pid, host))
        return found

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done by `do_due`."""
        self._due.append((time.monotonic() + seconds, action))

    def do_due(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            entry[1]()

    @property
    def is_mending(self) -> bool:
        """Whether something that is broken has still to be mended."""
        return bool(self._due)

    def settle(self) -> None:
        """Wait until everything is mended, and set the clocks right."""
        while self.is_mending:
            self.do_due()
            time.sleep(0.1)
        for number in range(N_HOSTS):
            self.hosts.clock(number).unlink(missing_ok=True)

    def outage(self, seconds: float, end: Callable[[], None]) -> None:
        """Note that nothing can be committed from now on, and have that ended after some seconds."""
        began = time.monotonic()
        place = len(self.outages)
        self.outages.append((began, float("inf")))

        def end_and_note() -> None:
            end()
            self.outages[place] = (began, time.monotonic() + LONGEST_RETRY_S)

        self.later(seconds, end_and_note)

    def forget(self) -> None:
        """Delete the files of the study, which has been looked at."""
        for run in self.view.runs():
            shutil.rmtree(run.folder.parent)

    def stop(self) -> None:
        """SIGKILL everything and remove the disks."""
        if self._driver is not None:
            self._driver.kill()
        self.hosts.stop()
        self.server.stop()
        self.database.stop()
        self.proxy.close()
        for disk in (self.artifacts, self.spool):
            disk.remove()
