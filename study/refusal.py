"""When MLflow answers no to a study: what a person can do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from trainables.errors import TrackingError
from trainables.record.trouble import http_status, is_refusal


@contextmanager
def explained() -> Iterator[None]:
    """Say what to do about it when the store refuses what the block does.

    Raises:
        TrackingError: with the way out.
    """
    try:
        yield
    except TrackingError as error:
        raise TrackingError(f"{error}{way_out(error)}") from error


def way_out(error: TrackingError) -> str:
    """Return what to do about a refusal, on a line of its own; empty for any other error."""
    statuses = [http_status(cause) for cause in _causes(error)]
    if 401 in statuses:
        return (
            "\n  MLflow does not know this user: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
            "(or MLFLOW_TRACKING_TOKEN), here and on every node"
        )
    if 403 in statuses:
        return (
            "\n  MLflow lets this user read, not write: give it the permission EDIT on the experiment, or "
            "set MLFLOW_TRACKING_USERNAME to a user that has it"
        )
    return ""


def is_refused(error: TrackingError) -> bool:
    """Whether MLflow has answered no, which no waiting mends."""
    return any(is_refusal(cause) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
