"""Waiting for MLflow: it may be away for minutes while trials run, and nothing of them is lost."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import TypeVar

from study.refusal import is_refused
from trainables.errors import TrackingError

ASK_AGAIN_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a question to MLflow may wait for an answer.

    Attributes:
        minutes: at most.
        note: told when the waiting begins, and ends.
        is_over: whether to stop waiting.
    """

    minutes: float
    note: Callable[[list[str]], None]
    is_over: Callable[[], bool]

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Return what a call returns, as soon as MLflow lets it.

        Raises:
            TrackingError: MLflow stayed away, or has refused the call, which no waiting mends.
        """
        began, has_waited = time.monotonic(), False
        while True:
            try:
                answer = call()
            except TrackingError as error:
                if self._is_exhausted(began) or is_refused(error):
                    raise
                if not has_waited:
                    self.note([f"{error}; waiting up to {self.minutes:g} min for {what}, trials go on"])
                has_waited = True
                self._sleep()
            else:
                if has_waited:
                    self.note([f"MLflow is back after {time.monotonic() - began:.0f} s"])
                return answer

    def _is_exhausted(self, began: float) -> bool:
        return self.is_over() or time.monotonic() - began > 60 * self.minutes

    def _sleep(self) -> None:
        until = time.monotonic() + ASK_AGAIN_S
        while time.monotonic() < until and not self.is_over():
            time.sleep(0.1)


def within(seconds: float, call: Callable[[], object]) -> bool:
    """Make a call that MLflow may not answer; return whether it succeeded in time. What it raises is lost."""
    succeeded = []

    def attempt() -> None:
        try:
            call()
        except TrackingError:
            return
        succeeded.append(True)

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(succeeded)
