"""The MLflow run of one trial: the only code that knows its tag, param, metric and artifact names.

One run per trial, for ever, found by its `trial_id` tag; all trials of all studies lie flat in one
experiment, so that a trial two studies share is one run, and the UI can group by the tag `cell`.
"""

from trainables.record import mlflow_settings, names
from trainables.record.pointers import CheckpointRef
from trainables.record.reader import RecordReader, TrialRecord, changed_datasets
from trainables.record.store import Store, open_store, persistently
from trainables.record.writer import TrialWriter
from trainables.tracking_uri import default_tracking_uri

__all__ = [
    "CheckpointRef",
    "RecordReader",
    "Store",
    "TrialRecord",
    "TrialWriter",
    "changed_datasets",
    "default_tracking_uri",
    "mlflow_settings",
    "names",
    "open_store",
    "persistently",
]
