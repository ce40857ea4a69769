"""Whether the store can be used, asked before a GPU is: from here, by a round trip, and from every node."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

# First, because it sets what Ray reads when it is imported.
from study.cluster import last_line, on_node  # isort: split

import ray
from ray.exceptions import RayError

from study.refusal import way_out
from study.tracking import StudyRun
from trainables.errors import CheckpointError, TrackingError, UserError
from trainables.record import Store, names, open_store

CONNECT_WITHIN_S = 5.0
NODES_ANSWER_WITHIN_S = 90.0
# A node that cannot be answered is to be named, not waited for.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


def store_study_file(run: StudyRun, text: str) -> None:
    """Store the study file and read it back: what trials will do with their states.

    Raises:
        TrackingError: artifacts cannot be written, cannot be read, or lie where other machines do not look.
    """
    _check_place(run)
    try:
        run.log_study_file(text)
        returned = run.read_study_file()
    except (TrackingError, CheckpointError) as error:
        raise TrackingError(
            f"the artifact store of {run.store.display_uri} cannot be used: {error}\n"
            f"  checkpoints would go to {run.artifact_uri}; see that its disk has room and that MLflow may "
            "write there, or for a bucket that this machine has its credentials"
        ) from error
    if returned.splitlines() != text.splitlines():
        raise TrackingError(
            f"the artifact store of {run.store.display_uri} returned another study file than was written; "
            f"look at {run.artifact_uri}"
        )


def _check_place(run: StudyRun) -> None:
    """Refuse a folder of the server's disk, which every machine would take for one of its own."""
    place = urlsplit(run.artifact_uri)
    is_folder = place.scheme in ("", "file")
    if is_folder and run.store.uri.startswith("http") and not _is_here(run.store.uri):
        raise TrackingError(
            f"MLflow at {run.store.display_uri} keeps artifacts in the folder {place.path}, which is another "
            "one on every machine; start the server with --serve-artifacts and --artifacts-destination, and "
            "use a new experiment (TRANSFUSION_EXPERIMENT): an experiment keeps its place"
        )


def _is_here(uri: str) -> bool:
    """Whether a server is on this machine, and trials run nowhere else."""
    host = urlsplit(uri).hostname or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    return is_loopback and not os.environ.get("RAY_ADDRESS")


def check_nodes_reach(store: Store) -> None:
    """Ask every node of the cluster that Ray has joined.

    Raises:
        UserError: some do not reach the store; a line for each. A node that is lost meanwhile is none.
    """
    nodes = _nodes()
    reasons = _ask_nodes(list(nodes), store)
    still_there = _nodes() if reasons else {}
    reasons = {node: why for node, why in reasons.items() if node in still_there}
    if reasons:
        lines = "".join(f"\n  {nodes[node]} (node {node[:8]}): {why}" for node, why in reasons.items())
        raise UserError(
            f"{len(reasons)} of {len(nodes)} nodes cannot use MLflow at {store.display_uri}:{lines}\n"
            "  set MLFLOW_TRACKING_URI to an address that every node reaches"
        )


def _nodes() -> dict[str, str]:
    """Return the addresses of the living nodes by their ids."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def _ask_nodes(nodes: list[str], store: Store) -> dict[str, str]:
    """Return the reasons of the nodes that do not reach the store."""
    asked = {on_node(node, reaches_store, store.display_uri, store.experiment): node for node in nodes}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=NODES_ANSWER_WITHIN_S)
    reasons = {asked[one]: f"no answer within {NODES_ANSWER_WITHIN_S:.0f} s" for one in silent}
    for one in answered:
        try:
            reason = ray.get(one)
        except RayError as error:
            reason = last_line(error)
        if reason is not None:
            reasons[asked[one]] = reason
    return reasons


def reaches_store(uri: str, experiment: str) -> str | None:
    """Return why this process cannot use a store, artifacts included; None if it can. Writes nothing."""
    address = urlsplit(uri)
    if address.scheme in ("http", "https"):
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), timeout=CONNECT_WITHIN_S).close()
        except OSError as error:
            return f"cannot connect to {address.hostname}:{port}: {error}"
    try:
        with _environment(_IMPATIENT):
            store = open_store(uri, experiment=experiment)
            # A bucket wants credentials of its own.
            for run in store.search(names.KIND, names.STUDY_KIND)[:1]:
                store.artifacts(run).paths()
    except TrackingError as error:
        return f"{error}{way_out(error)}".replace("\n", ";")
    return None


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
