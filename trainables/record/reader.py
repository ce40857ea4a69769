"""The reading side: what MLflow holds of a study's trials, as plain data."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trainables.errors import CheckpointError, SpecError, TrackingError, suggestion
from trainables.identity import trial_id
from trainables.record import names
from trainables.record.circumstances import Circumstances, circumstances_of
from trainables.record.fetch import fetch_checkpoint
from trainables.record.kept_weights import kept_artifact
from trainables.record.library import RunLibrary
from trainables.record.pointers import CheckpointRef, read_pointers
from trainables.record.runs import StoredRun, canonical, tag_query
from trainables.record.store import Store, open_store
from trainables.spec import SPEC_VERSION, DatasetSpec, TrialSpec, parse_trial

if TYPE_CHECKING:
    from torch import Tensor

_SEED_LAST = re.compile(r'(.*), "seed": (0|[1-9][0-9]*)\}', re.DOTALL)
SEED_LIMIT = 2**31
MAX_SEED_DIGITS = 10
MAX_MISTAKES = 1000


@dataclass(frozen=True)
class TrialRecord:
    """What MLflow holds of one trial.

    Attributes:
        status: finished, failed, killed or running (a run whose process died stays running until it is
            run again).
        cause: why it failed.
        metrics: the latest value of each.
        state: the resumable state, if any.
        dataset_digest: of the images and labels it was trained on.
        studies: the names of the studies it is part of.
        seconds: from the first start to the last end; NaN while it runs.
        settings: by study, what its search has tried with this trial, as it was written.
        pruned: why its search has stopped it early; None if it has not.
        is_diverged: it failed because its loss became NaN or infinite, and would again.
        added_to: the studies to which it was added while they ran: their files do not name it.
        circumstances: where it ran, and what its parts took there.
    """

    run_id: str
    trial_id: str
    cell_id: str
    spec: TrialSpec
    status: str
    cause: str | None
    metrics: Mapping[str, float]
    checkpoints: Mapping[str, CheckpointRef]
    state: CheckpointRef | None
    dataset_digest: str | None
    studies: frozenset[str]
    seconds: float
    settings: Mapping[str, str] = field(default_factory=dict)
    pruned: str | None = None
    is_diverged: bool = False
    added_to: frozenset[str] = frozenset()
    circumstances: Circumstances = field(default_factory=Circumstances)

    @property
    def resumes_at_step(self) -> int:
        """The optimizer step at which the trial would go on."""
        return self.state.step if self.state else 0


class _OtherVersionError(TrackingError):
    """A run whose spec is of another version: nothing is wrong with it, but it is not ours to read."""


class RecordReader:
    """Reads trials from a store.

    Many finished trials are read from an archive, which is checked first (`trainables.record.library`).

    Attributes:
        notices: what could not be read, for people.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or open_store()
        self.notices: list[str] = []
        self._library = RunLibrary(self.store)
        self._specs: dict[str, TrialSpec] = {}

    def trials(self, study: str | None = None) -> list[TrialRecord]:
        """Return the trials of a study, or of all studies, oldest first.

        A run whose spec cannot be read is left out and noted in `notices`, so that one damaged run does
        not hide the others; running its trial mends it.
        """
        by_trial: dict[str, list[StoredRun]] = {}
        for run in self._library.runs(study):
            by_trial.setdefault(run.tags.get(names.TRIAL_ID, run.run_id), []).append(run)
        records, n_other_versions = [], 0
        for runs in by_trial.values():
            counting = canonical(runs)
            try:
                records.append(self._record(counting))
            except _OtherVersionError:
                n_other_versions += 1
            except (TrackingError, CheckpointError) as error:
                # Whoever mends it by hand wants to see that it is mended.
                self._library.forget(counting.run_id)
                self._note(str(error))
        if n_other_versions:
            self.notices.append(
                f"{n_other_versions} runs were written by another version of this program, which described "
                f"trials differently (this is version {SPEC_VERSION} of the description); they are left out"
            )
        self._save()
        return records

    def trial(self, trial_id: str) -> TrialRecord | None:
        """Return one trial by its id, or None."""
        found = [StoredRun.of(run) for run in self.store.search(names.TRIAL_ID, trial_id)]
        return self._record(canonical(found)) if found else None

    def find(self, name: str) -> TrialRecord:
        """Return the trial that people name by a run id, a trial id or the name of a run.

        Raises:
            TrackingError: no trial is called that, or several are.
        """
        of_kind = (names.KIND, names.TRIAL_KIND)
        found = self.store.search(*of_kind, (names.TRIAL_ID, name))
        found = found or self.store.search(*of_kind, (names.RUN_NAME, name))
        if not found and name.isalnum():
            query = f"{tag_query(of_kind)} and attributes.run_id = '{name}'"
            found = self.store.runs(query)
        by_trial: dict[str, list[StoredRun]] = {}
        for run in map(StoredRun.of, found):
            by_trial.setdefault(run.tags.get(names.TRIAL_ID, run.run_id), []).append(run)
        if len(by_trial) == 1:
            return self._record(canonical(*by_trial.values()))
        if by_trial:
            ids = ", ".join(sorted(canonical(runs).run_id for runs in by_trial.values()))
            raise TrackingError(
                f"{name!r} is the name of {len(by_trial)} trials; give one of their run ids: {ids}"
            )
        known = [record.spec.label for record in self.trials()]
        raise TrackingError(
            f"no trial {name!r} in {self.store.display_uri}, which holds {len(known)}; "
            f"give a run id, a trial id or the name of a run{suggestion(name, known)}"
        )

    def history(self, record: TrialRecord, metric: str) -> pd.DataFrame:
        """Return a metric over training: columns `step` and `value`, one row a step, ascending."""
        return self.histories([record], [metric])[["step", "value"]]

    def histories(self, records: Iterable[TrialRecord], metrics: Sequence[str]) -> pd.DataFrame:
        """Return metrics over training: columns trial_id, metric, step and value.

        Rows come in the order of the records, then of the metrics, then by step, one row a step. A metric
        that a trial did not log has no rows.
        """
        by_run = {record.run_id: record for record in records}
        live = {run_id for run_id, record in by_run.items() if record.status != "finished"}
        points = self._library.points(list(by_run), metrics, live=live)
        self._save()
        runs, kinds = _positions(points["run_id"], list(by_run)), _positions(points["metric"], metrics)
        order = np.lexsort((points["step"], kinds, runs))
        trial_ids = np.array([record.trial_id for record in by_run.values()], dtype=object)
        columns = {
            "trial_id": trial_ids[runs[order]],
            "metric": np.array(metrics, dtype=object)[kinds[order]],
            "step": points["step"].to_numpy()[order],
            "value": points["value"].to_numpy()[order],
        }
        return pd.DataFrame(columns)

    def share(self, study: str, metrics: Sequence[str] | None = None) -> None:
        """Store what is read of the finished trials with the run of their study, for other machines.

        Args:
            metrics: whose points over training are stored; None takes all of the training and validation
                splits.

        Raises:
            TrackingError: the store cannot be used.
        """
        records = [record for record in self.trials(study) if record.status == "finished"]
        if metrics is None:
            logged = {metric for record in records for metric in record.metrics}
            metrics = sorted(metric for metric in logged if metric.startswith(("train_", "val_")))
        self.histories(records, metrics)
        self._library.share(study)

    def weights(self, record: TrialRecord, checkpoint: str, *, is_kept: bool = False) -> "dict[str, Tensor]":
        """Return the weights of a checkpoint, its digest checked.

        Args:
            is_kept: for other processes of this machine, which will want them, too.

        Raises:
            CheckpointError: the trial has no such checkpoint, or it is missing, truncated or altered.
        """
        ref = record.checkpoints.get(checkpoint)
        if ref is None:
            known = ", ".join(record.checkpoints) or "none"
            raise CheckpointError(f"{record.spec.label}: no checkpoint {checkpoint!r}; it has {known}")
        try:
            download = (
                partial(kept_artifact, self.store, record.run_id, ref)
                if is_kept
                else partial(self.store.artifact, record.run_id, ref.path)
            )
            return fetch_checkpoint(ref, download).tensors
        except CheckpointError as error:
            raise CheckpointError(
                f"{record.spec.label}: checkpoint {checkpoint!r} cannot be used: {error}; "
                f"delete run {record.run_id} in MLflow and run the study again to train it anew"
            ) from None

    def predictions(self, record: TrialRecord, split: str = "test") -> pd.DataFrame:
        """Return one row per sample: sample_id, group, label(s) and scores.

        Raises:
            CheckpointError: the trial has no predictions of that split.
        """
        with self.store.artifact(record.run_id, f"{names.PREDICTIONS}/{split}.parquet") as file:
            return pd.read_parquet(file)

    def _save(self) -> None:
        self._library.save()
        self.notices += self._library.notices
        self._library.notices.clear()

    def _record(self, run: StoredRun) -> TrialRecord:
        tags, spec = run.tags, self._spec(run)
        _check_identity(run, spec)
        pointers = read_pointers(tags)
        for problem in pointers.problems:
            self._note(f"run {run.run_id}: {problem}; it counts as absent")
        return TrialRecord(
            run_id=run.run_id,
            trial_id=tags[names.TRIAL_ID],
            cell_id=tags.get(names.CELL_ID, ""),
            spec=spec,
            status=names.STATUS_WORDS[run.status],
            cause=tags.get(names.CAUSE) or None,
            metrics=run.metrics,
            checkpoints=pointers.checkpoints,
            state=pointers.state if run.status != "FINISHED" else None,
            dataset_digest=tags.get(names.DATASET_DIGEST),
            studies=frozenset(_below(names.STUDY_PREFIX, tags)),
            seconds=(run.end_time - run.start_time) / 1000 if run.end_time else float("nan"),
            settings=_below(names.SETTING_PREFIX, tags),
            pruned=tags.get(names.PRUNED) or None,
            is_diverged=bool(tags.get(names.DIVERGED)),
            added_to=frozenset(
                study for study, how in _below(names.STUDY_PREFIX, tags).items() if how == names.ADDED
            ),
            circumstances=circumstances_of(tags),
        )

    def _note(self, notice: str) -> None:
        if notice not in self.notices:
            self.notices.append(notice)

    def _spec(self, run: StoredRun) -> TrialSpec:
        text = run.tags.get(names.SPEC)
        if text is None:
            with self.store.artifact(run.run_id, names.SPEC_FILE) as file:
                # What is not text is no spec either, and is refused as such.
                text = file.read_text(errors="replace")
            self._library.complete(run.run_id, names.SPEC, text)
        # Of trials that differ in their seed alone, which is written last, the first is parsed.
        found = _SEED_LAST.fullmatch(text)
        head, seed = found.groups() if found else ("", "")
        if head in self._specs and len(seed) <= MAX_SEED_DIGITS and int(seed) < SEED_LIMIT:
            return self._specs[head].model_copy(update={"seed": int(seed)})
        spec = _parsed(text, run.run_id)
        if head:
            self._specs[head] = spec
        return spec


def _below(prefix: str, tags: Mapping[str, str]) -> dict[str, str]:
    return {tag.removeprefix(prefix): text for tag, text in tags.items() if tag.startswith(prefix)}


def _parsed(text: str, run_id: str) -> TrialSpec:
    try:
        content = json.loads(text)
        if isinstance(content, dict) and content.get("spec_version", SPEC_VERSION) != SPEC_VERSION:
            version = str(content["spec_version"])[:20]
            raise _OtherVersionError(
                f"run {run_id}: its spec has version {version}, this program "
                f"has {SPEC_VERSION}; use the program that wrote it, or delete the run"
            )
        if not isinstance(content, dict):
            raise SpecError(f"expected an object, got {type(content).__name__}")
        return parse_trial(content)
    except (SpecError, ValueError, TypeError, RecursionError) as error:
        mistakes = "; ".join(str(error).splitlines())[:MAX_MISTAKES]
        raise TrackingError(
            f"run {run_id}: its tag {names.SPEC!r} is not the spec of a trial ({mistakes}): "
            "it was edited by hand or written by another version; restore the tag, or delete the run"
        ) from None


def _check_identity(run: StoredRun, spec: TrialSpec) -> None:
    identity = run.tags.get(names.TRIAL_ID)
    if identity is None or trial_id(spec) != identity:
        raise TrackingError(
            f"run {run.run_id}: its tags {names.SPEC!r} and {names.TRIAL_ID!r} ({identity}) are not of one "
            "trial: one was edited by hand; restore it, or delete the run"
        )


def _positions(column: pd.Series, wanted: Sequence[str]) -> np.ndarray:
    """Return the place among `wanted` of each value of a categorical column, all of which are wanted."""
    places = {name: place for place, name in enumerate(wanted)}
    of_category = np.array([places.get(name, -1) for name in column.cat.categories], dtype=int)
    return of_category[column.cat.codes.to_numpy()]


def changed_datasets(records: Iterable[TrialRecord]) -> list[str]:
    """Name the datasets whose images or labels differ between trials that should have seen the same."""
    digests: dict[DatasetSpec, dict[str, list[str]]] = {}
    for record in records:
        if record.dataset_digest is not None:
            of_dataset = digests.setdefault(record.spec.dataset, {})
            of_dataset.setdefault(record.dataset_digest, []).append(record.spec.label)
    return [
        f"{dataset.label}: the images or labels changed between trials, so they are not comparable: "
        + "; ".join(
            f"{len(labels)} trial(s) such as {labels[0]} saw digest {digest[:12]}…"
            for digest, labels in found.items()
        )
        for dataset, found in digests.items()
        if len(found) > 1
    ]
