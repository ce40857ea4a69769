"""Drives trials that are trained together: takes their steps as one, and lets each do the rest by itself.

Every trial is a generator (`trainables.trial.trial_to_drive`) that asks for steps, and evaluates, commits
and concludes when it is resumed. So a member that diverges, stops early or cannot write its record leaves,
and the others go on.
"""

import math
import time
from collections.abc import Generator, Mapping
from contextlib import suppress

import torch

from trainables.errors import NotFiniteError, StaleAttemptError, TransfusionError
from trainables.progress import REPORT_EVERY_S, Progress, ReportClock, StepsWanted
from trainables.stack import CannotStackError, Stack
from trainables.training import Training

# A member that reports more often before it wants steps waits for something; the others go on without it.
MOST_REPORTS = 3
Member = Generator[Progress | StepsWanted, None, None]


def run_together(members: Mapping[str, Member]) -> Generator[dict[str, Progress], None, None]:
    """Train to the end of the last member, yielding what members have to report.

    Closing the iterator closes every member, which commits its state and marks its run killed. A SIGTERM to
    the process, or a Ctrl-C, which may strike in the middle of a step, only marks them.

    Args:
        members: by the ids under which their reports are yielded.
    """
    driven = _Driven(members)
    try:
        yield from driven.run()
    except GeneratorExit:
        driven.close()
        raise
    except (SystemExit, KeyboardInterrupt) as error:
        for member in driven.members.values():
            with suppress(SystemExit, KeyboardInterrupt, StopIteration):
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
        self._cannot_stack = False

    def run(self) -> Generator[dict[str, Progress], None, None]:
        """Yield reports, of several members at once where they come close together."""
        while self.members:
            if self._must_report():  # of who was resumed with its steps done, before it goes on
                yield self._take_reports()
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

    def close(self) -> None:
        """Close every member, whatever becomes of the others.

        Raises:
            TransfusionError: the first that one of them raised.
        """
        trouble: list[TransfusionError] = []
        for member in self.members.values():
            try:
                member.close()
            except StaleAttemptError:
                continue  # another process has begun to train that one
            except TransfusionError as error:
                trouble.append(error)
        if trouble:
            raise trouble[0]

    def _train(self) -> None:
        """Train those that wait, together as far as they can."""
        alone = [name for name in self._wanted if self._is_alone(name)]
        if len(alone) < len(self._wanted):
            self._train_stacked([name for name in self._wanted if name not in alone])
        else:
            self._dissolve()
        for name in alone:
            self._train_alone(name)

    def _is_alone(self, name: str) -> bool:
        """Say whether a member is trained by itself: all are, or its batch was cut for want of memory."""
        training = self._wanted[name].training
        are_all = len(self._wanted) == 1 or self._most_at_once == 1 or self._cannot_stack
        return are_all or training.micro_batch_size < training.batch_size

    def _train_alone(self, name: str) -> None:
        wanted = self._wanted[name]
        error: Exception | None = None
        try:
            wanted.training.train_until(wanted.until, pause=wanted.is_report_due)
        except torch.OutOfMemoryError as full:
            error = torch.OutOfMemoryError(str(full))  # without what holds on to the tensors of the step
        except Exception as other:  # it is the member's, which knows what to do about it
            error = other
        del wanted
        self._resume(name, error)

    def _train_stacked(self, names: list[str]) -> None:
        """Take steps until a member has reached where it wanted to be, or has not reported for a while."""
        trainings = [self._wanted[name].training for name in names]
        began, is_full = time.perf_counter(), False
        error: Exception | None = None
        try:
            self._arrange(trainings)
            while True:
                for stack in self._stacks:
                    stack.take_step()
                if any(map(self._has_arrived, names)) or time.perf_counter() - began > REPORT_EVERY_S:
                    break
        except CannotStackError as refused:
            self._cannot_stack = True
            for name in names:
                self._wanted[name].notices.append(f"its stack is trained one by one: {refused}")
        except torch.OutOfMemoryError:
            is_full = True
        except Exception as other:  # of the batch or the network, which all have in common
            error = other
        if is_full:  # out here, where nothing holds on to the tensors of the step any more
            self._most_at_once = math.ceil(self._most_at_once / 2)
            self._dissolve()
            torch.cuda.empty_cache()
        due = [name for name in names if self._has_arrived(name) or self._wanted[name].is_report_due()]
        errors = {name: error or _bad_loss(self._wanted[name].training) for name in (names if error else due)}
        for training in trainings:
            training.spend((time.perf_counter() - began) / len(trainings))
        for name, found in errors.items():
            self._resume(name, found)

    def _arrange(self, trainings: list[Training]) -> None:
        """Stack them, unless they are stacked already."""
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

    def _has_arrived(self, name: str) -> bool:
        """Say whether a member is where it wanted to be, or its losses must be looked at."""
        wanted = self._wanted[name]
        return wanted.training.step >= wanted.until or wanted.training.are_losses_due

    def _must_report(self) -> bool:
        """Say whether to report now: of one alone what it measured, of several what comes close together."""
        reports = self._reports.values()
        is_pressing = any(one.status != "running" for one in reports)
        has_metrics = any(one.metrics for one in reports)
        is_pressing |= len(self.members) == 1 and has_metrics
        is_time = self._clock.is_allowed() if has_metrics else self._clock.has_been_quiet()
        return bool(reports) and (is_pressing or is_time)

    def _take_reports(self) -> dict[str, Progress]:
        reports, self._reports = self._reports, {}
        self._clock.restart()
        return reports


def _bad_loss(training: Training) -> NotFiniteError | None:
    """Look at the losses of a member; what is wrong with them is said in its own generator."""
    try:
        training.read_losses()
    except NotFiniteError as error:
        return error
    return None
