"""A PostgreSQL of our own, from Debian's package: private folder, private port, killed at will."""

import os
import shutil
import tempfile
from pathlib import Path

from tests.chaos.processes import Owned, free_port, session_members, wait_until

UNPRIVILEGED = "postgres"  # PostgreSQL refuses to run as root; the package makes this user


def postgres_programs() -> Path | None:
    """Return the folder of the newest `postgres` and `initdb`, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda file: int(file.parts[-3]))
    on_path = shutil.which("postgres")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


class Postgres:
    """One database server.

    Attributes:
        uri: for SQLAlchemy.
    """

    name = "PostgreSQL"

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="tfc-postgres-"))
        self._data = self._folder / "data"
        self._server: Owned | None = None
        self._n_started = 0
        self._port = free_port()
        self.uri = f"postgresql+psycopg2://chaos@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it, after a crash too, and wait until it answers."""
        if not self._data.exists():
            if os.geteuid() == 0:
                shutil.chown(self._folder, UNPRIVILEGED)
            made = self._run("initdb", "-D", self._data, "-A", "trust", "-U", "chaos", "-N")
            if made.wait(within_s=60) != 0:
                raise RuntimeError(f"initdb failed: {made.output}")
        self._server = self._run(
            "postgres",
            *("-D", self._data, "-p", str(self._port), "-h", "127.0.0.1"),
            # A killed process loses nothing that the kernel was given, so syncing to disk tests nothing here.
            *("-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=60"),
        )
        wait_until(self._answers, "PostgreSQL answers", within_s=60)

    def kill(self) -> None:
        """SIGKILL the postmaster alone, and wait until its children have noticed: it cannot start before."""
        assert self._server is not None, "start() comes first"
        self._server.kill_alone()
        pid = self._server.pid
        wait_until(lambda: not session_members(pid), "PostgreSQL's children ended", within_s=60)

    def stop(self) -> None:
        """SIGKILL all of it, and remove its folder."""
        if self._server is not None:
            self._server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str | Path) -> Owned:
        self._n_started += 1
        as_user = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
        return Owned(
            [*(as_user if os.geteuid() == 0 else []), self._programs / program, *arguments],
            log=self._folder / f"{self._n_started}-{program}.log",
            env={"LC_ALL": "C.UTF-8"},
        )

    def _answers(self) -> bool:
        import psycopg2

        try:
            psycopg2.connect(self.uri.replace("+psycopg2", ""), connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True
