"""Weights and states: those that are not as their pointers say, and those that no pointer names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from study.doctor import repair
from study.doctor.examination import Examination, label
from study.doctor.finding import Finding
from trainables.checkpoints import digest
from trainables.errors import CheckpointError
from trainables.record import CheckpointRef, names
from trainables.record.pointers import parse_pointer
from trainables.record.runs import StoredRun

USERS_NAMED = 3


@dataclass(frozen=True)
class Pointer:
    """A tag that points to weights or to a state.

    Attributes:
        ref: None if the tag cannot be read.
        problem: why it cannot be read.
    """

    tag: str
    ref: CheckpointRef | None
    problem: str = ""

    @classmethod
    def of(cls, tag: str, text: str) -> "Pointer":
        """Read a tag."""
        try:
            return cls(tag, parse_pointer(tag, text))
        except CheckpointError as error:
            return cls(tag, None, f"{error}: it was edited by hand")

    @property
    def name(self) -> str:
        return self.tag.removeprefix(names.CHECKPOINT_PREFIX)


def damaged_checkpoints(seen: Examination) -> Iterator[Finding]:
    """Find pointers that cannot be read, and files that are missing or not what was written."""
    for trial in seen.trials:
        run = trial.counting
        if seen.is_live(run):
            continue
        files = seen.files(run) if seen.is_looked_into(run) else None
        pointers = pointers_of(run)
        problems = {pointer: _problem(seen, run, pointer, files) for pointer in pointers}
        damage = {pointer: problem for pointer, problem in problems.items() if problem}
        if damage:
            as_finding = _of_finished if run.status == "FINISHED" else _of_unfinished
            yield as_finding(seen, run, trial.trial_id, pointers, damage)


def orphaned_artifacts(seen: Examination) -> Iterator[Finding]:
    """Find weights and states that no pointer names: their process died between upload and commit."""
    for trial in seen.trials:
        run = trial.counting
        if not seen.is_looked_into(run):
            continue
        pointed = {pointer.ref.path for pointer in pointers_of(run) if pointer.ref}
        orphans = {path: size or 0 for path, size in seen.files(run).items() if path not in pointed}
        if orphans:
            listed = ", ".join(sorted(orphans))
            yield Finding(
                "orphans",
                label(run),
                f"{len(orphans)} files ({sum(orphans.values()):,} bytes) that nothing points to: {listed}",
                "delete them",
                partial(repair.delete_files, seen.store, run, sorted(orphans)),
            )


def pointers_of(run: StoredRun) -> list[Pointer]:
    """Return the pointers of a run; a finished trial needs its state no more."""
    tags = [tag for tag in run.tags if tag.startswith(names.CHECKPOINT_PREFIX)]
    if run.status != "FINISHED" and run.tags.get(names.STATE):
        tags.append(names.STATE)
    return [Pointer.of(tag, run.tags[tag]) for tag in sorted(tags)]


def _problem(
    seen: Examination, run: StoredRun, pointer: Pointer, files: Mapping[str, int | None] | None
) -> str | None:
    ref = pointer.ref
    if ref is None:
        return pointer.problem
    if files is None:
        return None
    where = f"{pointer.name} points to {ref.path}, which"
    if ref.path not in files:
        return f"{where} is missing"
    size = files[ref.path]
    if size is not None and size != ref.n_bytes:
        return f"{where} has {size:,} bytes instead of {ref.n_bytes:,}"
    if seen.is_deep:
        # Twice, if it seems damaged: a download may be cut short.
        found = _digest(seen, run, ref)
        if found != ref.sha256 and (found := _digest(seen, run, ref)) != ref.sha256:
            return f"{where} has SHA-256 {found[:12]}… instead of {ref.sha256[:12]}…"
    return None


def _digest(seen: Examination, run: StoredRun, ref: CheckpointRef) -> str:
    with seen.artifacts(run).downloaded(ref.path) as file:
        return digest(file)


def _of_unfinished(
    seen: Examination,
    run: StoredRun,
    trial_id: str,
    pointers: list[Pointer],
    damage: Mapping[Pointer, str],
) -> Finding:
    dropped = set(damage)
    state = next((pointer for pointer in pointers if pointer.tag == names.STATE), None)
    # What the state has passed would not be written again.
    if state is not None and any(_is_passed(pointer.ref, state.ref) for pointer in damage):
        dropped.add(state)
    begins_anew = state is None or state in dropped
    return Finding(
        "checkpoints",
        label(run),
        "; ".join(damage.values()),
        "drop the pointers; the trial "
        + ("begins anew" if begins_anew else "goes on from its state, and writes them again"),
        partial(
            repair.drop_pointers,
            seen.store,
            run,
            tags=sorted(pointer.tag for pointer in dropped),
            files=_files_without(seen, run, dropped, pointers),
        ),
    )


def _of_finished(
    seen: Examination,
    run: StoredRun,
    trial_id: str,
    pointers: list[Pointer],
    damage: Mapping[Pointer, str],
) -> Finding:
    what = "; ".join(damage.values())
    users = seen.users.get(trial_id, [])
    if users:
        more = f" and {len(users) - USERS_NAMED} more" if len(users) > USERS_NAMED else ""
        what += f"; {len(users)} trials started from it: {', '.join(users[:USERS_NAMED])}{more}"
    return Finding(
        "checkpoints",
        label(run),
        what,
        "mark it failed; running its study again trains it anew",
        partial(
            repair.mark_to_redo,
            seen.store,
            run,
            cause=f"found damaged by transfusion doctor: {what}",
            tags=sorted({*(pointer.tag for pointer in damage), names.STATE}),
            files=_files_without(seen, run, set(damage), pointers),
        ),
    )


def _is_passed(ref: CheckpointRef | None, state: CheckpointRef | None) -> bool:
    return ref is None or state is None or ref.step <= state.step


def _files_without(
    seen: Examination, run: StoredRun, dropped: set[Pointer], pointers: list[Pointer]
) -> list[str]:
    """Return the files that nothing points to once some pointers are dropped."""
    kept = {pointer.ref.path for pointer in pointers if pointer not in dropped and pointer.ref}
    return sorted(seen.files(run).keys() - kept)
