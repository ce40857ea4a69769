"""One trial from its first step to its record. Runs without Ray."""

import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from trainables.determinism import is_refused, set_determinism
from trainables.errors import (
    NotFiniteError,
    StaleAttemptError,
    TrackingError,
    TransfusionError,
    UserError,
)
from trainables.gradient_trial import GradientTrial
from trainables.parallel import LostHelperError
from trainables.placement import set_gpu_share
from trainables.progress import REPORT_AT_MOST_EVERY_S, Progress, Status, StepsWanted
from trainables.record import Store, TrialWriter, names
from trainables.record.environment import describe_environment
from trainables.record.trouble import without_secrets
from trainables.spec import RunOptions, TrialSpec
from trainables.together import run_together


class _Trial(Protocol):
    """What every kind of trial can do, in this order."""

    def prepare(self, device: torch.device, data_root: Path | None) -> None: ...

    def train(self) -> Iterator[Progress | StepsWanted]: ...

    def conclude(self) -> None: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...

    def progress(self, status: Status, *, cause: str | None = None) -> Progress: ...


def _trial(spec: TrialSpec, record: TrialWriter, options: RunOptions) -> _Trial:
    if spec.training.method == "gradient":
        return GradientTrial(spec, record, options)
    from trainables.fitted_trial import BaselineTrial, ProbeTrial  # these import scipy, which takes a while

    return (ProbeTrial if spec.training.method == "linear_probe" else BaselineTrial)(spec, record, options)


def run_trial(
    spec: TrialSpec,
    *,
    store: Store,
    options: RunOptions,
    data_root: Path | None,
    study: str | None = None,
    marks: Mapping[str, str] | None = None,
) -> Generator[Progress, None, None]:
    """Train a resolved spec and keep its record, yielding every few seconds and at evaluations.

    A finished trial is left as it is; an interrupted one goes on from its newest committed state.
    Closing the iterator commits a state and marks the run killed, so that it can go on later. A SIGTERM or a
    Ctrl-C, which may strike in the middle of a step, only marks it.

    Args:
        marks: tags that say what the trial is to its study.

    Raises:
        TrackingError: MLflow cannot be used; the trial is as good as its last state.
        RuntimeError: the GPU reported an error, after which only a fresh process can use it.
    """
    member = trial_to_drive(spec, store=store, options=options, data_root=data_root, study=study, marks=marks)
    with closing(run_together({"": member})) as running:
        for reports in running:
            yield reports[""]


def trial_to_drive(
    spec: TrialSpec,
    *,
    store: Store,
    options: RunOptions,
    data_root: Path | None,
    study: str | None = None,
    marks: Mapping[str, str] | None = None,
) -> Generator[Progress | StepsWanted, None, None]:
    """Do what `run_trial` does, but ask whoever iterates to take the steps (`trainables.together`)."""
    torch.set_num_threads(options.threads)
    set_determinism(options.is_deterministic)
    set_gpu_share(options.gpu_share)
    device = _device(options)
    environment = describe_environment(device)
    record = TrialWriter.open(
        store, spec, study=study, environment=environment, failures=options.failures, marks=marks
    )
    if record.is_finished:
        yield Progress(0, 0, "reused", metrics=record.end_metrics)
        return
    if record.is_concluded:
        record.finish()  # its process died between its last write and this mark
        yield Progress(0, 0, "finished")
        return
    trial = _trial(spec, record, options)
    try:
        trial.prepare(device, data_root)
        yield from trial.train()
        trial.conclude()
        # Not for long at once: others may be trained together with this one.
        while not record.drain(within_s=REPORT_AT_MOST_EVERY_S):
            yield trial.progress("running")
        record.finish()
    except GeneratorExit:
        trial.interrupt()
        raise
    except (SystemExit, KeyboardInterrupt):
        with suppress(TransfusionError):
            record.interrupt()
        raise
    except StaleAttemptError as error:
        yield trial.progress("taken over", cause=str(error))
    except TrackingError:
        raise  # not the trial's fault, and there is nowhere to write it
    except Exception as error:
        if _has_spoiled_the_process(error):
            raise
        is_diverged = isinstance(error, NotFiniteError)
        is_expected = is_diverged or isinstance(error, UserError)
        cause = without_secrets(str(error) if is_expected else f"{type(error).__name__}: {error}")
        if options.is_deterministic and is_refused(error):
            cause = (
                f"{spec.architecture.name} cannot be trained deterministically here ({cause}); set "
                f"resources.by_architecture.{spec.architecture.name}.deterministic: false"
            )
        if is_diverged:
            record.log_tag(names.DIVERGED, "yes")
        record.fail(cause, details=None if is_expected else traceback.format_exc())
        yield replace(trial.progress("failed", cause=cause), is_diverged=is_diverged)
    else:
        yield trial.progress("finished")
    finally:
        try:
            trial.close()
        finally:
            record.close()


def _has_spoiled_the_process(error: Exception) -> bool:
    """Whether only a fresh process can go on: CUDA's context is lost, or a process that takes part."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if isinstance(error, LostHelperError):
        return True
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and ("CUDA error" in str(error) or "NCCL error" in str(error))
    )


def _device(options: RunOptions) -> torch.device:
    if options.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(options.device)
