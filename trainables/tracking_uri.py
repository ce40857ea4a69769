"""Where records are kept, asked without MLflow, whose import takes a second."""

import os
from pathlib import Path

SQLITE = "sqlite:///"


def default_tracking_uri() -> str:
    """Return `MLFLOW_TRACKING_URI`, or the local store `mlflow.db` in the working folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{Path.cwd() / 'mlflow.db'}"
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        # Trials run in other working folders, so a relative file would be another file there.
        uri = f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}"
    return uri


def store_is_absent() -> bool:
    """Say whether the store is a local file that nobody has made yet: then it holds no records."""
    uri = default_tracking_uri()
    return uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists()
