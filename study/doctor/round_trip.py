"""Whether this machine can write to MLflow what a trial writes."""

import socket
import uuid
from functools import partial

from trainables.errors import CheckpointError, TrackingError
from trainables.record import Store, names, open_store, persistently

KIND = "doctor"
FILE = "preflight.txt"


def writes_artifact(uri: str, experiment: str) -> str | None:
    """Write an artifact to a run of its own, read it back and delete the run; return what went wrong."""
    try:
        _write_and_read(open_store(uri, experiment=experiment))
    except (TrackingError, CheckpointError) as error:
        return f"cannot write artifacts: {error}"
    return None


def _write_and_read(store: Store) -> None:
    tags = {names.KIND: KIND, names.RUN_NAME: f"preflight of {socket.gethostname()}"}
    create = partial(store.client.create_run, store.experiment_id, tags=tags, run_name=tags[names.RUN_NAME])
    run = persistently("creating a run", create)
    run_id, text = run.info.run_id, uuid.uuid4().hex
    try:
        artifacts = store.artifacts(run)
        artifacts.write_text(FILE, text)
        with store.artifact(run_id, FILE) as file:
            returned = file.read_text()
        if returned != text:
            raise TrackingError(f"run {run_id}: {FILE} came back with another content")
        persistently("deleting a file", partial(artifacts.delete, FILE))
    finally:
        end = partial(store.client.set_terminated, run_id, "FINISHED")
        persistently("ending a run", end)
        persistently("deleting a run", partial(store.client.delete_run, run_id))
