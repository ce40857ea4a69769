"""How an attempt at a trial finds its run or creates it, and makes it its own."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities import Run

from trainables.identity import cell_id, flatten, trial_id
from trainables.record import names
from trainables.record.environment import Environment
from trainables.record.process import Process
from trainables.record.runs import canonical
from trainables.record.sends import log_batch, now_tag
from trainables.record.store import Store, persistently
from trainables.spec import TrialSpec

MAX_ATTEMPT_DIGITS = 9


@dataclass(frozen=True)
class Claim:
    """A run, as it was after it was claimed.

    Attributes:
        attempt: number and token of this attempt; of the last one if the trial is finished.
        is_finished: it is done, and was not claimed.
        is_first: nobody can have written to it before.
    """

    run: Run
    attempt: str
    is_finished: bool = False
    is_first: bool = False


def claim(
    store: Store,
    spec: TrialSpec,
    *,
    study: str | None,
    environment: Environment,
    marks: Mapping[str, str] | None = None,
) -> Claim:
    """Find the run of a resolved spec or create it, and take it over, unless it is finished.

    Args:
        marks: further tags that say what the trial is to its study.

    Raises:
        TrackingError: the store cannot be used.
    """
    identity = trial_id(spec)
    study_tags = {**({names.STUDY_PREFIX + study: "yes"} if study else {}), **(marks or {})}
    tags = _identity_tags(spec)
    run = store.find_or_create(names.TRIAL_ID, identity, tags={**tags, **study_tags})
    # A seed that was added to a study stays one, whoever trains it on.
    study_tags = {k: v for k, v in study_tags.items() if (v, run.data.tags.get(k)) != ("yes", names.ADDED)}
    if run.info.status == "FINISHED":
        return _finished(store, run, study_tags)
    artifacts = store.artifacts(run)
    if names.SPEC not in tags and names.SPEC_FILE not in artifacts.paths():
        artifacts.write_text(names.SPEC_FILE, spec.model_dump_json(indent=2))
    attempt = f"{_attempt_number(run) + 1}-{uuid.uuid4().hex[:8]}"
    mine = {
        **environment.tags,
        names.ATTEMPT: attempt,
        names.CAUSE: "",
        **{name: "" for name in (names.PRUNED, names.DIVERGED) if run.data.tags.get(name)},
        # Marked failed after its end (`transfusion doctor`): it is trained anew, and has not concluded.
        **({names.CHECKPOINT_PREFIX + names.FINAL: ""} if run.info.status == "FAILED" else {}),
        names.PROCESS: Process.here().text(),
        **now_tag(),
    }
    params = _params(spec) if not run.data.params else {}
    _log(store, run, params=params, tags={**tags, **study_tags, **mine})
    # Read again after the claim: what an older attempt has written until now, and whether another process
    # has created a run of this trial at the same moment.
    found = canonical(store.search(names.TRIAL_ID, identity))
    if found.info.run_id != run.info.run_id:
        store.client.delete_run(run.info.run_id)
        return claim(store, spec, study=study, environment=environment, marks=marks)
    if found.info.status == "FINISHED":
        return _finished(store, found, study_tags)
    run_id = found.info.run_id
    if found.info.status != "RUNNING":
        persistently(f"marking run {run_id} running", lambda: store.client.update_run(run_id, "RUNNING"))
    artifacts.write_text(names.ENVIRONMENT_FILE, json.dumps(environment.details, indent=2))
    return Claim(found, attempt, is_first=names.ATTEMPT not in run.data.tags)


def _finished(store: Store, run: Run, study_tags: dict[str, str]) -> Claim:
    if changed := {key: value for key, value in study_tags.items() if run.data.tags.get(key) != value}:
        _log(store, run, tags=changed)
    return Claim(run, run.data.tags.get(names.ATTEMPT, ""), is_finished=True)


def _log(store: Store, run: Run, *, tags: dict[str, str], params: dict[str, object] | None = None) -> None:
    run_id = run.info.run_id
    persistently(f"writing to run {run_id}", lambda: log_batch(store, run_id, params=params, tags=tags))


def _attempt_number(run: Run) -> int:
    number = run.data.tags.get(names.ATTEMPT, "").split("-")[0]
    # Somebody may have edited the tag.
    is_number = number.isascii() and number.isdigit() and len(number) <= MAX_ATTEMPT_DIGITS
    return int(number) if is_number else 0


def _identity_tags(spec: TrialSpec) -> dict[str, str]:
    text = json.dumps(spec.model_dump(mode="json"))
    identity = cell_id(spec)
    return {
        names.KIND: names.TRIAL_KIND,
        names.CELL: f"{spec.cell_label} · {identity[:6]}",
        names.CELL_ID: identity,
        names.RUN_NAME: spec.label,
        # A chain of many pretrainings may not fit a tag; then an artifact holds it.
        **({names.SPEC: text} if len(text) <= names.MAX_TAG_CHARACTERS else {}),
    }


def _params(spec: TrialSpec) -> dict[str, object]:
    """Every axis a person filters by, then every field of the spec."""
    axes = {
        "architecture": spec.architecture.label,
        "init": spec.init.kind,
        "transfusion_depth": spec.transfused_stages,
        "dataset": spec.dataset.label,
        "source": spec.init.source.label if spec.init.source else "none",
    }
    return {**axes, **flatten(spec)}
