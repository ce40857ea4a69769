"""What is looked at before a worker starts: images, resources, and whether every node sees the store."""

import os
from pathlib import Path

import ray

from study.plan import Plan, State
from study.reach import check_nodes_reach
from trainables.datasets.loading import check_dataset_is_there
from trainables.errors import UserError
from trainables.record import Store


def unused_gpus(plan: Plan) -> list[str]:
    """Say so when GPUs will stay idle."""
    n_gpus = ray.cluster_resources().get("GPU", 0)
    if not n_gpus or any(entry.trial.resources.gpu for entry in plan.entries):
        return []
    return [f"{n_gpus:g} GPU(s) stay idle, since no trial asks for one; set resources.gpu in the study file"]


def check_data(plan: Plan) -> None:
    """Look for the images; on a cluster they are where the workers are.

    Raises:
        DataError: they are not there.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    root = os.environ.get("TRANSFUSION_DATA")
    for dataset in {entry.trial.spec.dataset for entry in plan.entries if entry.state != State.DONE}:
        check_dataset_is_there(dataset, data_root=Path(root) if root else None)


def check_store_is_shared(store: Store) -> None:
    """Make sure that every node of a cluster can use the store.

    Raises:
        UserError: some cannot.
    """
    n_nodes = sum(node["Alive"] for node in ray.nodes())
    if n_nodes > 1 and store.is_local_file:
        raise UserError(
            f"the cluster has {n_nodes} nodes, which do not share {store.display_uri}; "
            "start `mlflow server` on the head and set MLFLOW_TRACKING_URI to it"
        )
    if os.environ.get("RAY_ADDRESS"):
        check_nodes_reach(store)


def check_resources(plan: Plan) -> None:
    """Make sure that this machine can hold every trial.

    Raises:
        UserError: a trial would wait for ever.
    """
    if os.environ.get("RAY_ADDRESS"):
        return  # an autoscaling cluster may grow the node that is missing
    here = ray.cluster_resources()
    for entry in (entry for entry in plan.entries if entry.state != State.DONE):
        wanted = entry.trial.resources
        for name, amount in (("CPU", wanted.cpu), ("GPU", wanted.gpu)):
            if amount > here.get(name, 0):
                raise UserError(
                    f"resources.{name.lower()}: {entry.label} asks for {amount:g}, this machine has "
                    f"{here.get(name, 0):g}; lower it, or join a cluster (RAY_ADDRESS)"
                )
