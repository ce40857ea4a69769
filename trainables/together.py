"""Drives trials that are trained together: takes their steps as one, and lets each do the rest by itself.

Every trial is a generator (`trainables.trial.member_of_stack`) that asks for steps, and evaluates, commits
and concludes when it is resumed. So a member that diverges, stops early or cannot write its record leaves,
and the others go on.
"""

import math
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import replace

import torch

from trainables.errors import NotFiniteError, StaleAttemptError
from trainables.progress import Progress, ReportClock, StepsWanted
from trainables.stack import CannotStackError, Stack
from trainables.training import Training

# A member that reports more often before it wants steps waits for something; the others go on without it.
MOST_REPORTS = 3
Member = Generator[Progress | StepsWanted, None, None]


def run_together(members: Mapping[str, Member]) -> Generator[dict[str, Progress], None, None]:
    """Train to the end of the last member, yielding what members have to report.

    Closing the iterator closes every member, which commits its state and marks its run killed; a SIGTERM to
    the process, which may strike in the middle of a step, only marks them.

    Args:
        members: by the ids under which their reports are yielded.
    """
    driven = _Driven(members)
    try:
        yield from driven.run()
    except GeneratorExit:
        for member in driven.members.values():
            with suppress(StaleAttemptError):  # another process may have begun to train that one
                member.close()
        raise
    except SystemExit as error:
        for member in driven.members.values():
            with suppress(SystemExit, StopIteration):
                member.throw(error)
        raise


class _Driven:
    """Members under way, and the steps they wait for."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self.members = dict(members)
        self._wanted: dict[str, StepsWanted] = {}
        self._reports: dict[str, Progress] = {}
        self._clock = ReportClock()
        self._stacks: tuple[Stack, ...] = ()
        self._most_at_once = len(members)
        self._why_alone: str | None = None

    def run(self) -> Generator[dict[str, Progress], None, None]:
        """Yield reports, of several members at once where they come close together."""
        while self.members:
            for name in [name for name in self.members if name not in self._wanted]:
                for _ in range(MOST_REPORTS):
                    if name in self.members and name not in self._wanted:
                        self._resume(name)
                    if self._must_report():
                        yield self._take_reports()
            if self._wanted:
                self._train()
        if self._reports:
            yield self._take_reports()

    def _resume(self, name: str, error: Exception | None = None) -> None:
        """Let a member go on until it wants steps, or has something to report."""
        self._wanted.pop(name, None)
        member = self.members[name]
        try:
            event = next(member) if error is None else member.throw(error)
        except StopIteration:
            del self.members[name]
            return
        if isinstance(event, StepsWanted):
            self._wanted[name] = event
        else:
            self._reports[name] = event

    def _train(self) -> None:
        if len(self._wanted) > 1 and self._most_at_once > 1 and self._why_alone is None:
            self._train_stacked()
        else:
            self._dissolve()
            for name, wanted in list(self._wanted.items()):
                self._train_alone(name, wanted)

    def _train_alone(self, name: str, wanted: StepsWanted) -> None:
        try:
            wanted.training.train_until(wanted.until, pause=wanted.is_report_due)
        except Exception as error:  # it is the member's, which knows what to do about it
            self._resume(name, error)
        else:
            self._resume(name)

    def _train_stacked(self) -> None:
        """Take steps until a member has reached where it wanted to be, or wants to be asked."""
        try:
            self._arrange()
            while not any(map(self._is_due, self._wanted)):
                for stack in self._stacks:
                    stack.take_step()
        except CannotStackError as error:
            self._why_alone = f"its stack is trained one by one: {error}"
        except torch.OutOfMemoryError:
            self._most_at_once = math.ceil(self._most_at_once / 2)
            self._dissolve()
            torch.cuda.empty_cache()
        except Exception as error:  # of the batch or the network, which all have in common
            for name in list(self._wanted):
                self._resume(name, error)
        for name in [name for name in self._wanted if self._is_due(name)]:
            self._resume(name, _bad_loss(self._wanted[name].training))

    def _arrange(self) -> None:
        """Stack those that wait, unless they are stacked already."""
        trainings = [wanted.training for wanted in self._wanted.values()]
        if {id(one) for stack in self._stacks for one in stack.members} == {id(one) for one in trainings}:
            return
        self._dissolve()
        size = math.ceil(len(trainings) / math.ceil(len(trainings) / self._most_at_once))
        # One by one, so that all that were made are dissolved if another cannot be.
        for start in range(0, len(trainings), size):
            self._stacks += (Stack(trainings[start : start + size]),)

    def _dissolve(self) -> None:
        for stack in self._stacks:
            stack.dissolve()
        self._stacks = ()

    def _is_due(self, name: str) -> bool:
        wanted = self._wanted[name]
        is_there = wanted.training.step >= wanted.until
        return is_there or wanted.training.are_losses_due or wanted.is_report_due()

    def _must_report(self) -> bool:
        """Say whether to report now: of one alone everything, of several what comes close together."""
        has_ended = any(report.status != "running" for report in self._reports.values())
        is_pressing = has_ended or len(self.members) == 1
        return bool(self._reports) and (is_pressing or self._clock.is_allowed())

    def _take_reports(self) -> dict[str, Progress]:
        notices = () if self._why_alone is None else (self._why_alone,)
        reports = {
            name: replace(one, notices=(*one.notices, *notices)) for name, one in self._reports.items()
        }
        self._reports = {}
        self._clock.restart()
        return reports


def _bad_loss(training: Training) -> NotFiniteError | None:
    """Look at the losses of a member; what is wrong with them is said in its own generator."""
    try:
        training.read_losses()
    except NotFiniteError as error:
        return error
    return None
