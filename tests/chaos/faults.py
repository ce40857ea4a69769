"""The kinds of faults. Each function makes one, and returns None if there is nothing to hit now."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable

from tests.chaos.disks import SmallDisk
from tests.chaos.ledger import Strike
from tests.chaos.processes import send
from tests.chaos.proxy import LOG_BATCH, UPLOAD
from tests.chaos.store_view import RunRow
from tests.chaos.world import World

INTERRUPTED = 130
REFUSED = 2
LEAVES_WITHIN_S = 120
Fault = Callable[[World, random.Random, list[RunRow]], Strike | None]


def _now(detail: str, *, run_id: str | None = None, waits_for_driver: bool = False) -> Strike:
    return Strike("", time.monotonic(), run_id, detail, waits_for_driver=waits_for_driver)


def kill_worker(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    if not (victims := world.victims(runs)):
        return None
    victim = rng.choice(victims)
    send(victim.pid, signal.SIGKILL)
    return _now(f"pid {victim.pid} of run {victim.run_id}", run_id=victim.run_id)


def kill_raylet(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    if not (victims := world.victims(runs)) or world.is_mending:
        return None
    victim = rng.choice(victims)
    world.hosts.kill_raylet(victim.host)
    world.later(rng.uniform(0.5, 3), lambda: world.hosts.add_again(victim.host))
    return _now(f"host {victim.host}, which had run {victim.run_id}", run_id=victim.run_id)


def kill_driver(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    world.driver_may_leave_with.add(-signal.SIGKILL)
    strike = _now(f"pid {world.driver.pid}", waits_for_driver=True)
    world.driver.kill()
    return strike


def kill_head(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    if world.is_mending:
        return None
    world.driver_may_leave_with.add(-signal.SIGKILL)
    with_hosts = rng.random() < 0.5
    strike = _now("with all hosts" if with_hosts else "the hosts train on for a while", waits_for_driver=True)
    world.hosts.kill_head(with_hosts=with_hosts)
    world.driver.kill()
    world.hosts.start()
    world.later(rng.uniform(0, 8), world.hosts.kill_orphans)
    return strike


def kill_server(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    if world.is_mending:
        return None
    away_s = rng.uniform(1, 6)
    strike = _now(f"started again after {away_s:.1f} s")
    world.server.kill()

    def start() -> None:
        world.server.start()
        world.server.wait_until_healthy()

    world.outage(away_s, start)
    return strike


def kill_database(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    if world.is_mending:
        return None
    away_s = rng.uniform(0.5, 4)
    strike = _now(f"started again after {away_s:.1f} s")
    world.database.kill()
    world.outage(away_s, world.database.start)
    return strike


def freeze_server(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _freeze(world, rng.uniform(2, 8))


def freeze_server_for_a_minute(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _freeze(world, 60)


def _freeze(world: World, seconds: float) -> Strike | None:
    if world.is_mending:
        return None
    world.server.freeze()
    world.outage(seconds, world.server.thaw)
    return _now(f"for {seconds:.1f} s")


def terminate_driver(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _signal_driver(world, signal.SIGTERM)


def interrupt_driver(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _signal_driver(world, signal.SIGINT)


def interrupt_driver_twice(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    strike = _signal_driver(world, signal.SIGINT)
    driver, pause_s = world.driver, rng.uniform(0.1, 2)
    if strike is not None:
        world.later(pause_s, lambda: driver.signal(signal.SIGINT))
        strike.detail += f", again after {pause_s:.1f} s"
    return strike


def _signal_driver(world: World, number: signal.Signals) -> Strike | None:
    if world.is_mending or not world.is_driven:
        return None
    world.driver_may_leave_with.add(INTERRUPTED)
    strike = _now(f"pid {world.driver.pid}", waits_for_driver=True)
    world.driver.signal(number)
    return strike


def reset_upload(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _cut(world, UPLOAD, after_bytes=rng.randrange(300, 60_000))


def lose_answer(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _cut(world, LOG_BATCH, after_bytes=None)


def _cut(world: World, request: bytes, *, after_bytes: int | None) -> Strike | None:
    if world.is_mending:
        return None
    cut = world.proxy.cut_next(request, after_bytes=after_bytes)
    if not cut.is_made.wait(10) and world.proxy.take_back(cut):
        return None
    world.outage(0, lambda: None)
    return _now("before the answer" if after_bytes is None else f"after {after_bytes} bytes")


def fill_artifact_disk(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _fill(world, rng, world.artifacts)


def fill_worker_disk(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    return _fill(world, rng, world.spool)


def _fill(world: World, rng: random.Random, disk: SmallDisk) -> Strike | None:
    if world.is_mending or not disk.is_mounted:
        return None
    full_s = rng.uniform(2, 6)
    disk.fill()
    world.outage(full_s, disk.free)
    return _now(f"for {full_s:.1f} s")


def step_clock(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    if not (victims := world.victims(runs)):
        return None
    victim, seconds = rng.choice(victims), rng.choice((-86_400, -3_600, -40, 40, 3_600, 86_400))
    world.hosts.clock(victim.host).write_text(str(seconds))
    return _now(f"of host {victim.host} by {seconds} s", run_id=victim.run_id)


def truncate_state(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    """Stop the study, and cut off the end of a file that a trial would go on from."""
    if world.is_mending or not world.is_driven:
        return None
    world.driver_may_leave_with.add(INTERRUPTED)
    world.driver.signal(signal.SIGTERM)
    try:
        world.driver.wait(within_s=LEAVES_WITHIN_S)
    except subprocess.TimeoutExpired:
        return None  # it is stuck, which the episode tells
    held = [run for run in world.observe() if run.trial_id and run.status == "KILLED" and run.state]
    if not held:
        return None
    run = rng.choice(held)
    assert run.state is not None, "only runs with a state are held"
    file = run.folder / run.state.path
    os.truncate(file, rng.randrange(file.stat().st_size))
    return _now(f"{run.state.path} of run {run.run_id}", run_id=run.run_id, waits_for_driver=True)


def start_second_driver(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    """Start another driver, which must say who drives the study, and leave."""
    if world.is_mending or not world.is_driven:
        return None
    strike, second = _now(""), world.another_driver()
    try:
        code = second.wait(within_s=LEAVES_WITHIN_S)
        is_right = (code == REFUSED and "is being run by" in second.output) or (
            code == 0 and world.driver.exit_code is not None
        )
        strike.wrong = "" if is_right else f"a second driver left with {code}: {second.output[-400:]}"
    except subprocess.TimeoutExpired:
        strike.wrong = f"a second driver did not leave in {LEAVES_WITHIN_S} s"
    finally:
        second.kill()
    return strike


def take_over(world: World, rng: random.Random, runs: list[RunRow]) -> Strike | None:
    """Start another driver, which takes the study from the first."""
    if world.is_mending or not world.is_driven:
        return None
    first, strike = world.driver, _now("")
    second = world.another_driver("--take-over")
    try:
        code = first.wait(within_s=LEAVES_WITHIN_S)
        strike.wrong = "" if code in (0, INTERRUPTED) else f"the driver taken over from left with {code}"
    except subprocess.TimeoutExpired:
        strike.wrong = f"the driver taken over from did not leave in {LEAVES_WITHIN_S} s"
        first.kill()
    world.hand_over_to(second)
    return strike


KINDS: dict[str, Fault] = {
    "trial worker killed": kill_worker,
    "raylet of a host killed": kill_raylet,
    "driver killed": kill_driver,
    "head killed": kill_head,
    "MLflow server killed": kill_server,
    "PostgreSQL killed": kill_database,
    "MLflow server frozen": freeze_server,
    "MLflow server frozen for 60 s": freeze_server_for_a_minute,
    "SIGTERM to the driver": terminate_driver,
    "SIGINT to the driver": interrupt_driver,
    "SIGINT twice": interrupt_driver_twice,
    "connection reset in mid-upload": reset_upload,
    "connection reset before the answer": lose_answer,
    "disk of the artifacts full": fill_artifact_disk,
    "disk of the workers full": fill_worker_disk,
    "clock of a host stepped": step_clock,
    "state truncated between two runs": truncate_state,
    "second driver": start_second_driver,
    "second driver takes over": take_over,
}
TRUNCATED = "state truncated between two runs"
ON_POSTGRES_ONLY = ("PostgreSQL killed",)
OF_ROOT_ONLY = ("disk of the artifacts full", "disk of the workers full")
