"""Runs first in every Python process of a chaos run: a clock that can be stepped, and a diary of the trial.

CHAOS_CLOCK names a file with the seconds by which this host's clock is off; it is read again and again.
CHAOS_DIARY names a folder. Every trial writes there, by the monotonic clock that all processes of a machine
share, when it begins and every optimizer step that it takes: `<seconds> <run> <attempt> <what> <step>`.
"""

import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

READ_CLOCK_EVERY_S = 0.2
WATCHED = "trainables.gradient_trial"


def step_clock(file: str) -> None:
    """Put the clock of this process off by what a file says."""
    true_time, monotonic = time.time, time.monotonic
    offset_s, read_at = 0.0, float("-inf")

    def stepped() -> float:
        nonlocal offset_s, read_at
        if monotonic() - read_at > READ_CLOCK_EVERY_S:
            read_at = monotonic()
            try:
                with open(file) as stream:
                    offset_s = float(stream.read() or 0)
            except FileNotFoundError:
                offset_s = 0.0
        return true_time() + offset_s

    time.time = stepped
    time.time_ns = lambda: int(stepped() * 1e9)


def watch(trial: Any, folder: str) -> None:
    """Make every trial of this class keep the diary."""
    prepare = trial.prepare

    def prepare_watched(self: Any, *arguments: Any, **options: Any) -> None:
        prepare(self, *arguments, **options)
        training, record = self.training, self.record
        file = os.open(
            os.path.join(folder, f"{os.getpid()}.diary"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
        )

        def note(what: str) -> None:
            line = f"{time.monotonic():.3f} {record.run_id} {record.attempt} {what} {training.step}\n"
            os.write(file, line.encode())

        train_until = training.train_until

        def train_watched(step: int, *, pause: Any = lambda: False) -> bool:
            def noted() -> bool:
                note("step")
                return bool(pause())

            return bool(train_until(step, pause=noted))

        note("begins")
        training.train_until = train_watched

    trial.prepare = prepare_watched


class Watcher(MetaPathFinder):
    """Has the trial's class watched as soon as its module is imported."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != WATCHED:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_watch(module: ModuleType) -> None:
            execute(module)
            watch(module.GradientTrial, os.environ["CHAOS_DIARY"])

        spec.loader.exec_module = execute_and_watch  # type: ignore[method-assign]
        return spec


if os.environ.get("CHAOS_CLOCK"):
    step_clock(os.environ["CHAOS_CLOCK"])
if os.environ.get("CHAOS_DIARY"):
    sys.meta_path.insert(0, Watcher())
