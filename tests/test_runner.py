"""What is checked before a worker starts, and what a worker is told."""

import inspect
from pathlib import Path

import pytest
from click.testing import CliRunner
from ray.tune.execution.tune_controller import TuneController

from study import tuning
from study.cli import main
from study.cluster import ray_session
from study.config import parse_study
from study.plan import Plan, make_plan
from study.preflight import check_resources, check_store_is_shared, unused_gpus
from study.reach import check_nodes_reach
from study.tuning import worker_config
from trainables.errors import UserError
from trainables.record import RecordReader, Store
from trainables.spec import RunOptions

STUDY = """
name: tiny
trial:
  architecture: cbr_tiny
  dataset: {from: digits_5_9, size_px: 16}
  training: {steps: 1}
checkpoints: {keep: [initial], series_points: 2}
resources: {cpu: 2, gpu: GPU}
"""


def plan_of(gpu: float = 0) -> Plan:
    return make_plan(parse_study(STUDY.replace("GPU", str(gpu))), [])


def options_of(store: Store, gpu: float = 0) -> RunOptions:
    study = parse_study(STUDY.replace("GPU", str(gpu)))
    config = worker_config(make_plan(study, []).entries[:1], study, store)
    assert (config["cpu"], config["gpu"]) == (2.0, gpu)
    return RunOptions.model_validate_json(config["trials"][0]["options"])


def test_a_worker_is_told_its_threads_its_device_and_what_to_keep(store: Store) -> None:
    assert options_of(store) == RunOptions(
        device="cpu", threads=2, keep=("best", "final", "initial"), series_points=2
    )
    assert options_of(store, gpu=0.5).device == "auto"


def resources(monkeypatch: pytest.MonkeyPatch, **amounts: float) -> None:
    monkeypatch.setattr("study.preflight.ray.cluster_resources", lambda: amounts)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_what_no_machine_has_is_refused_before_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    resources(monkeypatch, CPU=2.0)
    check_resources(plan_of())
    with pytest.raises(UserError, match=r"resources.gpu: .* asks for 1, this machine has 0; lower it"):
        check_resources(plan_of(gpu=1))
    resources(monkeypatch, CPU=1.0)
    with pytest.raises(UserError, match=r"resources.cpu: .* asks for 2, this machine has 1"):
        check_resources(plan_of())


def test_gpus_that_nobody_asked_for_are_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    resources(monkeypatch, CPU=2.0, GPU=4.0)
    assert unused_gpus(plan_of()) == [
        "4 GPU(s) stay idle, since no trial asks for one; set resources.gpu in the study file"
    ]
    assert unused_gpus(plan_of(gpu=1)) == []
    resources(monkeypatch, CPU=2.0)
    assert unused_gpus(plan_of()) == []


def test_a_store_that_other_nodes_cannot_see_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.preflight.ray.nodes", lambda: [{"Alive": True}, {"Alive": False}])
    check_store_is_shared(store)
    monkeypatch.setattr("study.preflight.ray.nodes", lambda: [{"Alive": True}] * 3)
    with pytest.raises(
        UserError, match=r"the cluster has 3 nodes, which do not share sqlite:.*mlflow server"
    ):
        check_store_is_shared(store)


def test_a_node_that_is_lost_while_it_is_asked_stops_no_study(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"NodeID": name * 8, "NodeManagerAddress": f"10.0.0.{name}", "Alive": True} for name in "12"]
    monkeypatch.setattr("study.reach.ray.nodes", lambda: nodes)

    def ask(asked: list[str], _: Store) -> dict[str, str]:
        nodes[1] = {**nodes[1], "Alive": not is_lost}
        return {asked[1]: "the node does not exist any more"}

    monkeypatch.setattr("study.reach._ask_nodes", ask)
    is_lost = True
    check_nodes_reach(store)
    nodes[1]["Alive"], is_lost = True, False
    with pytest.raises(UserError, match=r"1 of 2 nodes cannot use MLflow .*\n  10.0.0.2 \(node 22222222\)"):
        check_nodes_reach(store)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        (None, "set TRANSFUSION_DATA to the folder that holds it"),
        (".", "scans.npz: not found in .; set TRANSFUSION_DATA"),
    ],
)
def test_missing_data_stops_the_study_before_anything_starts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None, words: str
) -> None:
    monkeypatch.delenv("TRANSFUSION_DATA", raising=False)
    if root is not None:
        monkeypatch.setenv("TRANSFUSION_DATA", root)
    file = tmp_path / "study.yaml"
    dataset = "{reader: medmnist, path: scans.npz}"
    file.write_text(STUDY.replace("GPU", "0").replace("{from: digits_5_9, size_px: 16}", dataset))
    result = CliRunner().invoke(main, ["run", str(file)])
    assert result.exit_code == 2
    assert words in result.stderr
    assert RecordReader(store).trials() == []
    (study,) = store.search("kind", "study")
    assert study.info.status == "FAILED"


def test_a_cluster_that_cannot_be_joined_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr("study.cluster.ray.init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    words = r"cannot join the Ray cluster at RAY_ADDRESS=10.0.0.1:6379: .*same RAY_AUTH_MODE; or unset"
    with pytest.raises(UserError, match=words), ray_session():
        pass


def test_the_ten_seconds_that_tune_gives_a_stopped_trial_can_still_be_replaced() -> None:
    source = inspect.getsource(TuneController)
    assert "self._actor_force_cleanup_timeout: int = 10" in source
    assert "times[0][0] < self._actor_force_cleanup_timeout" in source
    assert tuning.tune_module.TuneController is TuneController
