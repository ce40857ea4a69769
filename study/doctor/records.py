"""The checks of the records: does MLflow say what is true of every trial and study."""

from collections.abc import Callable, Iterator
from functools import partial

from study.doctor import repair
from study.doctor.checkpoints import damaged_checkpoints, orphaned_artifacts
from study.doctor.examination import Examination, OtherVersionError, label, spec_of
from study.doctor.finding import Finding
from study.doctor.life import last_sign_s
from study.doctor.listening import LISTEN_S
from trainables.errors import SpecError
from trainables.identity import trial_id
from trainables.record import names
from trainables.record.runs import StoredRun

Check = Callable[[Examination], Iterator[Finding]]


def several_runs(seen: Examination) -> Iterator[Finding]:
    """Find trials that have more than one run: two processes began them at the same moment."""
    for trial in seen.trials:
        for run in trial.others:
            what = f"a second run of trial {trial.trial_id}; run {trial.counting.run_id} counts"
            if seen.is_live(run):
                yield Finding("duplicates", label(run), what, "a process writes it: wait, and look again")
                continue
            todo = "delete it (MLflow can restore it)"
            yield Finding("duplicates", label(run), what, todo, partial(repair.delete_run, seen.store, run))


def dead_trials(seen: Examination) -> Iterator[Finding]:
    """Find trials that are marked running though their process is gone."""
    for trial in seen.trials:
        todo = "mark it killed; it goes on when its study is run again"
        yield from _if_dead(seen, trial.counting, check="zombies", where=label(trial.counting), todo=todo)


def dead_studies(seen: Examination) -> Iterator[Finding]:
    """Find studies that are marked running though their driver is gone."""
    for run in seen.studies:
        name = run.tags.get(names.STUDY, "?")
        todo = f"mark it killed; go on with: transfusion resume {name}"
        where = f"study {name} (run {run.run_id})"
        yield from _if_dead(seen, run, check="studies", where=where, todo=todo)


def _if_dead(seen: Examination, run: StoredRun, *, check: str, where: str, todo: str) -> Iterator[Finding]:
    if not seen.is_marked_running(run) or (death := seen.death_of(run)) is None:
        return
    what = f"marked running, but {death.how}"
    if not death.is_certain and seen.heard is None:
        todo = f"listen to it for {LISTEN_S:.0f} s, and if it stays silent {todo}"
    kill = partial(repair.mark_killed, seen.store, run, end_s=last_sign_s(run))
    yield Finding(check, where, what, todo, kill)


def unreadable_specs(seen: Examination) -> Iterator[Finding]:
    """Find trials whose description was edited by hand: it cannot be read, or is that of another trial."""
    for trial in seen.trials:
        run = trial.counting
        try:
            spec = spec_of(run)
            is_other = spec is not None and trial_id(spec) != trial.trial_id
            problem = "is that of another trial" if is_other else None
        except OtherVersionError:
            continue
        except SpecError as error:
            problem = f"cannot be read ({'; '.join(str(error).splitlines())})"
        if problem is None or seen.is_live(run):
            continue
        what = f"its tag {names.SPEC!r} {problem}: it was edited by hand"
        if run.status != "FINISHED":
            todo = "run its study again, which writes the tag anew, or delete the run in MLflow"
            yield Finding("descriptions", label(run), what, todo)
            continue
        redo = partial(repair.mark_to_redo, seen.store, run, cause=what, tags=(), files=())
        todo = "mark it failed; running its study again trains it anew and writes the tag"
        yield Finding("descriptions", label(run), what, todo, redo)


CHECKS: dict[str, Check] = {
    "duplicates": several_runs,
    "zombies": dead_trials,
    "studies": dead_studies,
    "descriptions": unreadable_specs,
    "checkpoints": damaged_checkpoints,
    "orphans": orphaned_artifacts,
}


def check_records(seen: Examination) -> Iterator[Finding]:
    """Go through all checks of the records."""
    for check in CHECKS.values():
        yield from check(seen)
