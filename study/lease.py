"""One driver per study: it signs the study's run in MLflow and renews that; another finds it and leaves.

MLflow has no compare-and-swap. Whoever wants a study writes its name, waits a moment and reads: of two that
write at the same moment, the name that stands wins. Should both read their own (a write that took longer
than the wait), the older sees the other at its next renewal and leaves. Until then, and for a driver that
was cut off from MLflow, the attempts of the trials fence (`trainables.record`): two drivers cost work, never
a true record. The same holds for two that begin a study's very first run at the same moment: the signature
is always read from the run that counts (`StudyRun.tag`), so the one that wrote another finds itself beaten.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Lock, Thread

from study.driver import Driver
from study.patience import within
from study.tracking import StudyRun
from trainables.errors import TrackingError, UserError

DRIVER = "driver"
DRIVER_LEFT = "driver_left"

RENEW_EVERY_S = 10.0
RENEW_AGAIN_S = 3.0
FRESH_S = 60.0
SETTLE_S = 1.0
# Longer than a driver needs to renew once MLflow is back: clocks of two hosts may differ by any amount.
WATCH_S = 30.0
# As long as a driver needs to notice, and its trials to commit and leave.
HAND_OVER_S = 45.0
RELEASE_WITHIN_S = 5.0
WRITES = 5

Note = Callable[[list[str]], None]


class Lease:
    """The right to drive a study. Made by `holding`.

    Attributes:
        taken_over_by: who has taken it away; from then on nothing may be written to the study's run.
    """

    def __init__(self, run: StudyRun, me: Driver, on_loss: Callable[[], None]) -> None:
        self.taken_over_by: Driver | None = None
        self._run, self._me, self._on_loss = run, me, on_loss
        self._is_over = Event()
        # A renewal under way must not arrive after the end.
        self._writing = Lock()

    def renew(self) -> None:
        """Give a sign of life, unless somebody else has signed.

        Raises:
            TrackingError: MLflow cannot be used now.
        """
        with self._writing:
            standing = Driver.read(self._run.tag(DRIVER))
            if standing is not None and standing.token != self._me.token:
                self.taken_over_by = standing
                self._is_over.set()
                self._on_loss()
            elif not self._is_over.is_set():
                self._run.set_tag(DRIVER, replace(self._me, alive=time.time()).text())

    def keep(self) -> None:
        """Renew until it is over. While MLflow is away nobody else can sign either, so the holder goes on."""
        pause = RENEW_EVERY_S
        while not self._is_over.wait(pause):
            try:
                self.renew()
                pause = RENEW_EVERY_S
            except TrackingError:
                pause = RENEW_AGAIN_S

    def give_back(self) -> None:
        """End it: empty the signature, or tell who has taken over that this driver has left."""
        self._is_over.set()
        with self._writing:
            standing = Driver.read(self._run.tag(DRIVER))
            if standing is not None and standing.token != self._me.token:
                self._run.set_tag(DRIVER_LEFT, self._me.token)
                self._run.leave_to_the_one_that_counts()
            else:
                self._run.set_tag(DRIVER, "")


@contextmanager
def holding(
    run: StudyRun, *, take_over: bool, note: Note, on_loss: Callable[[], None] = lambda: None
) -> Iterator[Lease]:
    """Hold a study until the block ends.

    Args:
        take_over: take it from a driver that is alive, which then leaves.
        note: told what a person may want to know.
        on_loss: called, from another thread, when somebody else has taken over.

    Raises:
        UserError: another driver holds it.
        TrackingError: MLflow cannot be used.
    """
    me = Driver.here()
    _sign(run, me, take_over=take_over, note=note)
    lease = Lease(run, me, on_loss)
    Thread(target=lease.keep, name="lease", daemon=True).start()
    try:
        yield lease
    finally:
        lease._is_over.set()
        if not within(RELEASE_WITHIN_S, lease.give_back):
            note(["MLflow could not be told that this driver has left; others will notice within a minute"])


def _sign(run: StudyRun, me: Driver, *, take_over: bool, note: Note) -> None:
    before = Driver.read(run.tag(DRIVER))
    is_alive = before is not None and _is_alive(before, run, note)
    if is_alive and not take_over:
        raise UserError(_held(run, before))
    if before is not None:
        note([f"taking over from {before}" if is_alive else f"the driver before this one is gone: {before}"])
    _write(run, me, before)
    if before is not None and is_alive:
        _wait_until_left(before, run, note)


def _write(run: StudyRun, me: Driver, before: Driver | None) -> None:
    """Sign until the signature stands: the driver before may be renewing its own at the same moment."""
    for _ in range(WRITES):
        run.set_tag(DRIVER, replace(me, alive=time.time()).text())
        time.sleep(SETTLE_S)
        standing = Driver.read(run.tag(DRIVER))
        if standing is not None and standing.token == me.token:
            return
        if standing is not None and (before is None or standing.token != before.token):
            break
    run.leave_to_the_one_that_counts()
    raise UserError(_held(run, standing))


def _held(run: StudyRun, holder: Driver | None) -> str:
    return (
        f"study {run.name} is being run by {holder or 'another process'}; wait for its end, or stop it "
        "(Ctrl-C there), or take the study from it with --take-over"
    )


def _is_alive(holder: Driver, run: StudyRun, note: Note) -> bool:
    """Whether a driver is still there: by its process on this machine, else by its signs of life."""
    if (is_alive := holder.is_alive_here) is not None:
        return is_alive
    if abs(time.time() - holder.alive) <= FRESH_S:
        return True
    note([f"looking {WATCH_S:.0f} s for a sign of life of {holder}"])
    return _comes_true(lambda: run.tag(DRIVER) not in ("", holder.text()), within_s=WATCH_S)


def _wait_until_left(holder: Driver, run: StudyRun, note: Note) -> None:
    """Let the trials of the driver before commit their states, and free what they hold."""

    def has_left() -> bool:
        return holder.is_alive_here is False or run.tag(DRIVER_LEFT) == holder.token

    if not _comes_true(has_left, within_s=HAND_OVER_S):
        note(
            [f"{holder.user}@{holder.host} does not answer; its trials are taken over from their last states"]
        )


def _comes_true(condition: Callable[[], bool], *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
