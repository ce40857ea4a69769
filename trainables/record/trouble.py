"""What an error of MLflow or of a disk means, and how it is worded without passwords."""

import errno
import os
import re

from mlflow.exceptions import MlflowException
from requests import HTTPError
from safetensors import SafetensorError

REFUSED = (400, 401, 403, 404, 405, 413)
REFUSED_CREDENTIALS = (401, 403)
# MLflow answers 400 when its database is at its limit or its connection broke, which passes.
_PASSES = ("QueuePool limit", "InterfaceError", "PendingRollbackError")
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Safetensors and SQLite tell in words alone.
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
_SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status that an error stands for, if any."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    if isinstance(error, HTTPError) and error.response is not None:
        return int(error.response.status_code)
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether a store has understood and said no, which no pause mends."""
    return http_status(error) in REFUSED and not any(text in str(error) for text in _PASSES)


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk of this machine is full, as told by its files or by a store that is a file."""
    if isinstance(error, OSError) and not isinstance(error, HTTPError):
        return error.errno in _FULL or _tells_of_full_disk(error)
    is_local = isinstance(error, SafetensorError) or "sqlite3." in str(error)
    return is_local and _tells_of_full_disk(error)


def _tells_of_full_disk(error: BaseException) -> bool:
    return any(text in str(error) for text in _FULL_TEXTS)


def worded(error: BaseException) -> str:
    """Return the first line of an error's text, without passwords."""
    return without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])


def without_secrets(text: str) -> str:
    """Take passwords out of a text: those of addresses, and those of the environment."""
    text = re.sub(r"://[^/\s]*@", "://", text)
    text = re.sub(r"(?i)\b(password|passwd|pwd|token|secret)=[^&;\s'\"]+", r"\1=…", text)
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "…")
    return text
