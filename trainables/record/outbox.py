"""The queue between a trial that trains and an MLflow that may be slow or away.

One daemon thread per open writer sends the steps of its record in their order, each until it has arrived.
So what MLflow holds after a crash at any moment is a beginning of what the trial wrote. A resumable state
that still waits when the next one comes is replaced by it, so that an outage costs the disk of one state.
"""

import threading
from collections import deque

from trainables.errors import TrackingError
from trainables.record.outage import Outage
from trainables.record.sends import Send, Sender
from trainables.record.spool import Spool
from trainables.spec import FailureOptions


class Outbox:
    """Sends what it is given, in order.

    Attributes:
        spool: where the files lie that wait.
    """

    def __init__(self, sender: Sender, *, failures: FailureOptions) -> None:
        self.spool: Spool = sender.spool
        self._sender = sender
        place = f"MLflow at {sender.store.display_uri}"
        self._outage = Outage(place, failures, sender.notices, self._describe)
        self._queue: deque[Send] = deque()
        self._is_sending = False
        self._is_closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=f"outbox {sender.run_id}", daemon=True).start()

    def put(self, send: Send) -> None:
        """Queue a step; it may join one that waits, and its state replaces one that waits.

        Raises:
            Exception: what ended the sending, see `check`.
        """
        with self._changed:
            self.check()
            if self._is_closed:
                raise TrackingError(
                    f"run {self._sender.run_id}: its writer is closed, nothing can be written"
                )
            if send.state is not None:
                self._drop_waiting_state(send)
            if send.is_plain and self._joinable(self._queue[-1] if self._queue else None):
                self._queue[-1].metrics += send.metrics
                self._queue[-1].tags |= send.tags
            else:
                self._queue.append(send)
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what has ended the sending.

        Raises:
            StaleAttemptError: another process has taken the trial over.
            TrackingError: MLflow refused a write, or has been away for too long.
            DiskFullError: a disk has been full for too long.
        """
        if self._error is not None:
            raise self._error

    def drain(self, *, within_s: float | None = None) -> bool:
        """Wait until all has arrived, or so many seconds; say whether it has.

        Raises:
            Exception: what ended the sending before, see `check`.
        """
        with self._changed:
            ended = self._changed.wait_for(
                lambda: self._error or self._is_closed or not self._queue, timeout=within_s
            )
            self.check()
            return bool(ended)

    def hurry(self, at_most_s: float) -> None:
        """Wait no longer than so for MLflow or a disk from now on."""
        self._outage.at_most_s = self.spool.wait_s = at_most_s

    def close(self) -> None:
        """Send nothing more, and delete what waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self.spool.close()

    def _run(self) -> None:
        while (send := self._next()) is not None or not self._is_closed:
            is_end = send is not None and send.status is not None
            try:
                if send is None:
                    self._sender.tell_alive()
                else:
                    self._sender.send(send)
            except Exception as error:
                self._has_failed(error)
            else:
                self._has_arrived(send, is_end=is_end)
            if self._error is not None:
                return

    def _next(self) -> Send | None:
        """Wait for the next step; None if it is time for a sign of life, or to leave."""
        with self._changed:
            until_heartbeat_s = self._sender.until_heartbeat_s()
            self._changed.wait_for(lambda: self._queue or self._is_closed, timeout=until_heartbeat_s)
            if self._is_closed or not self._queue:
                return None
            self._is_sending = True
            return self._queue[0]

    def _has_arrived(self, send: Send | None, *, is_end: bool) -> None:
        with self._changed:
            self._outage.over()
            self._is_sending = False
            if send is not None:
                self._queue.popleft()
            # No sign of life from the dead.
            self._is_closed |= is_end
            self._changed.notify_all()

    def _has_failed(self, error: Exception) -> None:
        with self._changed:
            self._is_sending = False
            try:
                pause_s = self._outage.pause_after(error)
            except Exception as end:
                self._error = end
                self._changed.notify_all()
                return
            self._changed.wait_for(lambda: self._is_closed, timeout=pause_s)

    def _drop_waiting_state(self, successor: Send) -> None:
        for waiting in self._queue:
            is_under_way = self._is_sending and waiting is self._queue[0]
            if waiting.state is not None and not is_under_way:
                self.spool.remove(waiting.state.file)
                successor.obsolete = [*waiting.drop_state(), *successor.obsolete]
        self._join_plain()

    def _join_plain(self) -> None:
        joined: deque[Send] = deque()
        for send in self._queue:
            if send.is_plain and self._joinable(joined[-1] if joined else None):
                joined[-1].metrics += send.metrics
                joined[-1].tags |= send.tags
            else:
                joined.append(send)
        self._queue = joined

    def _joinable(self, last: Send | None) -> bool:
        is_under_way = self._is_sending and self._queue and last is self._queue[0]
        return last is not None and last.is_plain and not is_under_way

    def _describe(self) -> str:
        where = f" in {self.spool.folder}" if self.spool.folder else ""
        return f"{len(self._queue)} writes wait{where}"
