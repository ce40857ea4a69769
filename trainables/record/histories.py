"""Metrics of many runs over training: one call for many runs where the store has such a call.

MLflow's client asks for one metric of one run at a time: 14,000 calls for 7 metrics of 2,000 trials. Its
databases and its servers answer for many runs at once, the servers on the address that MLflow's own pages
use; a store without either is asked run by run.
"""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
from mlflow.utils.rest_utils import http_request

from trainables.record.store import Store, persistently

BULK_ENDPOINT = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
# The server refuses more than 100; some web servers refuse a request line of more than 4094 characters.
RUNS_A_REQUEST = 80
RUNS_A_QUERY = 500
# A server returns at most so many points, without saying that there were more.
POINTS_A_REQUEST = 25_000
ALL_POINTS = 2**62


class Point(NamedTuple):
    """One value of a metric."""

    run_id: str
    step: int
    value: float


def read_points(store: Store, run_ids: Sequence[str], metric: str) -> pd.DataFrame:
    """Return run_id, metric, step and value of one metric, by run and step; of a step only the last value.

    Raises:
        TrackingError: the store cannot be used.
    """
    read = partial(_read, store, run_ids, metric)
    points = persistently(f"reading {metric} of {len(run_ids)} runs", read)
    table = pd.DataFrame(points, columns=list(Point._fields)).astype({"step": "int64", "value": "float64"})
    table = table.drop_duplicates(["run_id", "step"], keep="last").sort_values(["run_id", "step"])
    table.insert(1, "metric", metric)
    return table.reset_index(drop=True)


def _read(store: Store, run_ids: Sequence[str], metric: str) -> list[Point]:
    """Return the points of each run by their time."""
    backend = store.client._tracking_client.store
    if hasattr(backend, "get_metric_history_bulk"):
        return [
            Point(point.run_id, point.step, point.value)
            for some in _parts(run_ids, RUNS_A_QUERY)
            for point in backend.get_metric_history_bulk(some, metric, ALL_POINTS)
        ]
    points: list[Point] = []
    asked_at_once = hasattr(backend, "get_host_creds")
    for some in _parts(run_ids, RUNS_A_REQUEST):
        answer = _ask_server(backend.get_host_creds(), some, metric) if asked_at_once else None
        asked_at_once = answer is not None
        points += _one_by_one(store, some, metric) if answer is None else answer
    return points


def _ask_server(credentials: object, run_ids: Sequence[str], metric: str) -> list[Point] | None:
    """Return all points, or None if the server does not answer for many runs at once."""
    parameters = [*(("run_id", run_id) for run_id in run_ids), ("metric_key", metric)]
    response = http_request(credentials, BULK_ENDPOINT, "GET", params=parameters)
    if response.status_code != 200:
        return None
    try:
        found = json.loads(response.content)["metrics"]
        points = [Point(point["run_id"], point["step"], point["value"]) for point in found]
    except (ValueError, KeyError, TypeError):
        return None  # a page for people, from a proxy or a server of another kind
    if len(points) < POINTS_A_REQUEST:
        return points
    if len(run_ids) == 1:
        return None  # MLflow's own client reads it page by page
    halves = [_ask_server(credentials, some, metric) for some in _parts(run_ids, -(-len(run_ids) // 2))]
    return [point for half in halves for point in half] if None not in halves else None  # type: ignore[union-attr]


def _one_by_one(store: Store, run_ids: Iterable[str], metric: str) -> list[Point]:
    return [
        Point(run_id, point.step, point.value)
        for run_id in run_ids
        for point in store.client.get_metric_history(run_id, metric)
    ]


def _parts(run_ids: Sequence[str], size: int) -> list[Sequence[str]]:
    return [run_ids[start : start + size] for start in range(0, len(run_ids), size)]
