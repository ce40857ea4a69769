"""A Ray cluster of raylets as processes: a head that runs no trial, and hosts with a core and a GPU each.

Every host has its own loopback address, clock and log. The GPUs are logical: Ray counts them, torch sees
none.
"""

import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.processes import PYTHON, Owned, free_port, is_alive, named, send, session_members

N_HOSTS = 2
HEAD_ADDRESS = "127.0.0.11"  # 127.0.0.1 would be replaced by the machine's own address
STARTED = "Ray runtime started."
START_WITHIN_S = 120.0
# On a busy machine Ray gives up on itself.
PATIENT = {"RAY_raylet_start_wait_time_s": "100"}


class RayHosts:
    """The processes of a cluster.

    Args:
        folder: of logs and clocks.
        env: of every Ray process and so of the trials.

    Attributes:
        address: what RAY_ADDRESS is set to; another one after every start of the head.
    """

    def __init__(self, folder: Path, *, env: Mapping[str, str]) -> None:
        self._folder, self._env = folder, dict(env)
        self._temporary = tempfile.TemporaryDirectory(prefix="tfc-", ignore_cleanup_errors=True)
        self._head: Owned | None = None
        self._hosts: dict[int, Owned] = {}
        self._orphans: list[Owned] = []
        self._n_started = 0
        self.address = ""

    def start(self) -> None:
        """Start the head and every host, and wait until they have joined."""
        port = free_port()
        self.address = f"{HEAD_ADDRESS}:{port}"
        self._head = self._launch(
            "head",
            *("--head", f"--port={port}", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"),
            *(f"--node-ip-address={HEAD_ADDRESS}", f"--temp-dir={self._temporary.name}"),
        )
        self._head.wait_for(STARTED, within_s=START_WITHIN_S)
        for number in range(N_HOSTS):
            # One after the other: two that start at once on one machine may take the same socket.
            self._hosts[number] = self._join(number)
            self._hosts[number].wait_for(STARTED, within_s=START_WITHIN_S)

    def kill_raylet(self, number: int) -> None:
        """SIGKILL the raylet of a host, and nothing else."""
        for pid in named(session_members(self._hosts[number].pid), "raylet"):
            send(pid, signal.SIGKILL)

    def add_again(self, number: int) -> None:
        """Clear what is left of a host, and let it join anew; returns before it has."""
        self._hosts[number].kill()
        self._hosts[number] = self._join(number)

    def kill_head(self, *, with_hosts: bool) -> None:
        """SIGKILL the head; hosts that are left are orphans, whose trials may train on for a while."""
        assert self._head is not None, "start() comes first"
        self._head.kill()
        self._orphans += self._hosts.values()
        self._hosts = {}
        if with_hosts:
            self.kill_orphans()

    def kill_orphans(self) -> None:
        """SIGKILL the hosts of a head that is gone."""
        while self._orphans:
            self._orphans.pop().kill()

    def host_of(self, pid: int, *, session: int) -> int | None:
        """Return the number of the host on which a process runs, None if it is on none of this cluster."""
        sessions = {host.pid: number for number, host in self._hosts.items()}
        return sessions.get(session) if is_alive(pid) else None

    def clock(self, number: int) -> Path:
        """Return the file that holds by how many seconds the clock of a host is off."""
        return self._folder / f"clock-{number}"

    def stop(self) -> None:
        """SIGKILL everything."""
        if self._head is not None:
            self.kill_head(with_hosts=True)
        self._temporary.cleanup()

    def _join(self, number: int) -> Owned:
        return self._launch(
            f"host-{number}",
            *(f"--address={self.address}", f"--node-ip-address=127.0.0.{12 + number}"),
            *("--num-cpus=1", "--num-gpus=1"),
            clock=self.clock(number),
        )

    def _launch(self, name: str, *options: str, clock: Path | None = None) -> Owned:
        self._n_started += 1
        return Owned(
            [
                *(PYTHON, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
                *("--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0"),
                *options,
            ],
            log=self._folder / f"ray-{self._n_started}-{name}.log",
            env={**self._env, **PATIENT, **({"CHAOS_CLOCK": str(clock)} if clock else {})},
        )
