"""`cluster.yaml` launched against a mocked EC2, as far as a head that nobody can log in to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("moto", reason="moto is not installed (pip install 'moto[ec2,iam]' boto3)")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

from moto import mock_aws  # noqa: E402
from ray.autoscaler._private import commands, updater  # noqa: E402
from ray.autoscaler._private.aws import config as aws  # noqa: E402
from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: E402

ROOT = Path(__file__).parent.parent
REGION = "us-east-1"
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:botocore", "ignore::DeprecationWarning:moto"
)


class Ssh:
    """Stands in for `subprocess` in Ray's updater: answers every command, and keeps it."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(command: list[str], *_: Any, **__: Any) -> bytes:
            self.commands.append(" ".join(command))
            return b""

        return call


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An account from which Ray was launched before, so that its role exists; nothing waits for the cloud."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.chdir(ROOT)
        patch.setattr(updater, "READY_CHECK_INTERVAL", 0)
        iam = boto3.client("iam")
        iam.create_role(RoleName="ray-autoscaler-v1", AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName="ray-autoscaler-v1")
        iam.add_role_to_instance_profile(
            InstanceProfileName="ray-autoscaler-v1", RoleName="ray-autoscaler-v1"
        )
        yield boto3.client("ec2", REGION)


@pytest.fixture(scope="module")
def launched(account: Any) -> tuple[dict[str, Any], Ssh]:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for node_type in config["available_node_types"].values():
        assert node_type["node_config"]["ImageId"] == "ami-CHANGE"
        node_type["node_config"]["ImageId"] = "ami-12345678"
    config = prepare_config(config)
    validate_config(config)
    config = aws.bootstrap_aws(config)
    ssh = Ssh()
    commands.get_or_create_head_node(
        config, "cluster.yaml", no_restart=False, restart_only=False, yes=True,
        override_cluster_name=None, _runner=ssh,
    )  # fmt: skip
    return config, ssh


def test_the_head_is_one_machine_on_demand_and_is_told_all_commands(
    account: Any, launched: tuple[dict[str, Any], Ssh]
) -> None:
    config, ssh = launched
    [head] = instances(account)
    assert head["InstanceType"] == "m6i.large"
    assert "InstanceLifecycle" not in head
    tags = {tag["Key"]: tag["Value"] for tag in head["Tags"]}
    assert tags["ray-cluster-name"] == "transfusion"
    assert tags["ray-node-type"] == "head"
    assert tags["ray-node-status"] == "up-to-date"
    disk = account.describe_volumes()["Volumes"][0]
    assert (disk["Size"], disk["VolumeType"]) == (100, "gp3")
    told = "\n".join(ssh.commands)
    places = [told.find(words) for words in ("node.sh install", "node.sh login", "node.sh mlflow", "--head")]
    assert places == sorted(places)
    assert places[0] > 0
    assert {"~/transfusion/study", "~/transfusion/configs"} <= set(config["file_mounts"])


def test_a_gpu_worker_is_asked_for_on_the_spot_market(
    account: Any, launched: tuple[dict[str, Any], Ssh]
) -> None:
    config, _ = launched
    worker = config["available_node_types"]["gpu_worker"]
    # The mock calls spot whatever has market options.
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    provider = commands._get_node_provider(config["provider"], config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-cluster-name": "transfusion"}
    for _ in range(2):
        provider.create_node(worker["node_config"], tags, 1)
    spot = [machine for machine in instances(account) if machine.get("InstanceLifecycle") == "spot"]
    assert [machine["InstanceType"] for machine in spot] == ["g5.xlarge"] * 2
    assert len(instances(account)) == 3


def test_only_ssh_is_open_to_the_world(account: Any, launched: tuple[dict[str, Any], Ssh]) -> None:
    groups = {group["GroupId"] for machine in instances(account) for group in machine["SecurityGroups"]}
    [group] = account.describe_security_groups(GroupIds=list(groups))["SecurityGroups"]
    assert group["GroupName"] == "transfusion"
    open_to_world = [rule for rule in group["IpPermissions"] if rule["IpRanges"] or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in open_to_world] == [(22, 22)]
    among_nodes = [rule for rule in group["IpPermissions"] if rule not in open_to_world]
    for rule in among_nodes:
        assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


def instances(account: Any) -> list[dict[str, Any]]:
    return [machine for r in account.describe_instances()["Reservations"] for machine in r["Instances"]]
