"""Endpoints against moto, by the client and by the commands deploy, invoke and delete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result
from moto import mock_aws

from frcnn.aws.endpoint import Endpoint, Variant
from frcnn.aws.endpoint_client import EndpointClient
from frcnn.cli import main
from frcnn.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((REPOSITORY / "configs" / "endpoints").glob("*.yaml"))
ENDPOINT: dict[str, Any] = {
    "name": "e",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1",
    "role": "arn:aws:iam::123456789012:role/frcnn",
    "variants": [{"model": "s3://bucket/a.tar.gz", "instance_type": "ml.m5.large"}],
}
SCALED = {
    **ENDPOINT,
    "variants": [
        {
            **ENDPOINT["variants"][0],
            "autoscaling": {"min_instances": 0, "max_instances": 2, "backlog_per_instance": 5},
        }
    ],
    "asynchronous": {"output": "s3://bucket/responses"},
}


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointClient]:
    """In a new working directory, where the commands keep their ledger."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        client = EndpointClient("us-east-1", tmp_path / "ledger.json")
        client.client("s3").create_bucket(Bucket="bucket")
        yield client


def run(*arguments: str, **config: Any) -> Result:
    if config:
        Path("endpoint.yaml").write_text(yaml.safe_dump(config))
        arguments = (arguments[0], "--config", "endpoint.yaml", *arguments[1:])
    return CliRunner().invoke(main, list(arguments))


def names(client: EndpointClient) -> dict[str, list[str]]:
    sagemaker = client.client("sagemaker")
    return {
        "endpoints": [entry["EndpointName"] for entry in sagemaker.list_endpoints()["Endpoints"]],
        "configs": [entry["EndpointConfigName"] for entry in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
        "models": [entry["ModelName"] for entry in sagemaker.list_models()["Models"]],
    }


def test_deploy_invoke_and_clean_up_two_variants(client: EndpointClient) -> None:
    variants = [
        Variant(name=name, model=f"s3://bucket/{name}.tar.gz", instance_type="ml.m5.large", weight=weight)
        for name, weight in (("old", 9), ("new", 1))
    ]
    assert client.deploy(Endpoint(**{**ENDPOINT, "variants": variants})) == "e"
    assert client.client("sagemaker").describe_endpoint(EndpointName="e")["EndpointStatus"] == "InService"
    assert client.invoke("e", b"jpeg").body == b"body"  # moto's fixed response
    assert list(client.clean_up()) == [
        "deleted: endpoint e",
        "deleted: endpoint configuration e",
        "deleted: model e-old",
        "deleted: model e-new",
    ]
    assert names(client) == {"endpoints": [], "configs": [], "models": []}


def test_a_rejected_endpoint_leaves_nothing_behind(client: EndpointClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing quota is the most common rejection, and the same command must work once it is raised."""
    sagemaker = client.client("sagemaker")
    error = {"Error": {"Code": "ResourceLimitExceeded", "Message": "limit of 0 Instances"}}

    def reject(**_: Any) -> None:
        raise ClientError(error, "CreateEndpoint")

    with monkeypatch.context() as patch:
        patch.setattr(sagemaker, "create_endpoint", reject)
        patch.setattr(client, "client", lambda _: sagemaker)
        with pytest.raises(UserError, match="limit of 0 Instances; request an increase in the Service Quotas console"):
            client.deploy(Endpoint(**ENDPOINT))
    assert names(client) == {"endpoints": [], "configs": [], "models": []}
    assert client.deploy(Endpoint(**ENDPOINT)) == "e"


def test_existing_resources_survive_a_rejected_deployment(
    client: EndpointClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto accepts a name twice; SageMaker does not."""
    client.deploy(Endpoint(**ENDPOINT))
    sagemaker = client.client("sagemaker")
    error = {"Error": {"Code": "ValidationException", "Message": "Cannot create already existing model"}}

    def reject(**_: Any) -> None:
        raise ClientError(error, "CreateModel")

    with monkeypatch.context() as patch:
        patch.setattr(sagemaker, "create_model", reject)
        patch.setattr(client, "client", lambda _: sagemaker)
        with pytest.raises(UserError, match="AWS rejected CreateModel: Cannot create already existing model"):
            client.deploy(Endpoint(**ENDPOINT))
    assert names(client) == {"endpoints": ["e"], "configs": ["e"], "models": ["e-main"]}


def test_scaling_is_set_up_and_deleted_with_the_endpoint(client: EndpointClient) -> None:
    client.deploy(Endpoint(**SCALED))
    scaling, alarms = client.client("application-autoscaling"), client.client("cloudwatch")
    [target] = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    assert (target["ResourceId"], target["MinCapacity"]) == ("endpoint/e/variant/main", 0)
    policies = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
    assert {policy["PolicyName"]: policy["PolicyType"] for policy in policies} == {
        "e-main-load": "TargetTrackingScaling",
        "e-main-start": "StepScaling",
    }
    [alarm] = alarms.describe_alarms(AlarmNames=["e-start"])["MetricAlarms"]
    assert alarm["AlarmActions"] == [
        policy["PolicyARN"] for policy in policies if policy["PolicyType"] == "StepScaling"
    ]
    assert list(client.delete_endpoint("e"))[:3] == [
        "deleted: alarm e-start",
        "deleted: scaling target endpoint/e/variant/main",
        "deleted: endpoint e",
    ]
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []
    assert alarms.describe_alarms(AlarmNames=["e-start"])["MetricAlarms"] == []
    assert names(client) == {"endpoints": [], "configs": [], "models": []}
    assert client.created() == []


def test_an_asynchronous_invocation_waits_for_its_response(client: EndpointClient) -> None:
    """moto writes the response at once; a missing one is a timeout."""
    client.deploy(Endpoint(**{**SCALED, "variants": ENDPOINT["variants"]}))
    client.client("s3").put_object(Bucket="bucket", Key="in/1.jpg", Body=b"jpeg")
    assert client.invoke_async("e", "s3://bucket/in/1.jpg", timeout=10).body


def test_a_missing_asynchronous_response_is_reported(client: EndpointClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.deploy(Endpoint(**{**SCALED, "variants": ENDPOINT["variants"]}))
    monkeypatch.setattr("frcnn.aws.endpoint_client.POLL_SECONDS", 0.01)
    monkeypatch.setattr(client, "_read_object", lambda *_: None)
    with pytest.raises(UserError, match=r"no response to s3://bucket/in/1.jpg after 0.05 s; it will be at s3://"):
        client.invoke_async("e", "s3://bucket/in/1.jpg", timeout=0.05)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_dry_runs_of_the_examples_need_no_account(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("deploy", "--config", str(file), "--dry-run", "--price", "1.4", "--json", "plan.json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert list(plan)[:3] == ["create_model", "create_endpoint_config", "create_endpoint"]
    assert json.loads(Path("plan.json").read_text()) == plan
    assert "cost of every hour until the endpoint is deleted" in result.stderr


def test_the_commands_deploy_shift_and_delete(client: EndpointClient) -> None:
    done = run("deploy", "--variant", "next=s3://bucket/b.tar.gz:0.25", **ENDPOINT)
    assert done.exit_code == 0, done.output
    assert "to delete it: frcnn delete e" in done.stdout
    sagemaker = client.client("sagemaker")
    variants = sagemaker.describe_endpoint_config(EndpointConfigName="e")["ProductionVariants"]
    assert [(v["VariantName"], v["InitialVariantWeight"], v["InstanceType"]) for v in variants] == [
        ("main", 1.0, "ml.m5.large"),
        ("next", 0.25, "ml.m5.large"),
    ]
    shifted = run("deploy", "--shift", "main=0", "--shift", "next=1", **ENDPOINT)
    assert shifted.stdout == "weights: main 0, next 1\n"
    current = sagemaker.describe_endpoint(EndpointName="e")["ProductionVariants"]
    assert {v["VariantName"]: v["DesiredWeight"] for v in current} == {"main": 0, "next": 1}
    listed = run("delete", "e", "--dry-run")
    assert listed.stdout.startswith("would delete: endpoint e\n")
    assert names(client)["endpoints"] == ["e"]
    deleted = run("delete", "e", "--keep-models")
    assert deleted.stdout == "deleted: endpoint e\ndeleted: endpoint configuration e\n"
    assert names(client) == {"endpoints": [], "configs": [], "models": ["e-main", "e-next"]}


def test_invoke_prints_or_writes_responses(client: EndpointClient) -> None:
    client.deploy(Endpoint(**ENDPOINT))
    Path("a.jpg").write_bytes(b"jpeg")
    assert run("invoke", "e", "a.jpg", "--option", "score_threshold=0.5").stdout == "body\n"
    assert run("invoke", "e", "a.jpg", "--accept", "image/png", "--out", "found", "--json", "r.json").exit_code == 0
    assert Path("found/a.png").read_bytes() == b"body"
    assert json.loads(Path("r.json").read_text())["responses"][0]["file"] == "found/a.png"
    plan = json.loads(run("invoke", "e", "a.jpg", "--dry-run", "--option", "max_detections=3").stdout)
    [request] = plan["invoke_endpoint"]
    assert request["Body"] == "4 bytes"
    assert request["CustomAttributes"] == "max_detections=3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["invoke", "e", "missing.jpg"], "missing.jpg cannot be used"),
        (["invoke", "e", "a.jpg", "--accept", "image/png"], "cannot be printed; give a folder with --out"),
        (["invoke", "e", "a.jpg", "--option", "a"], "--option is 'a'; expected NAME=VALUE"),
        (["invoke", "e", "a.jpg", "b/a.jpg", "--s3", "s3://bucket/in"], "two images have the same name"),
        (
            ["invoke", "e", "a.jpg", "--s3", "s3://bucket/in", "--variant", "v"],
            "--variant cannot be combined with --s3",
        ),
        (["delete", "nothing"], "AWS rejected DescribeEndpoint: Could not find endpoint"),
        (["deploy", "--variant", "next"], "--variant is 'next'; expected NAME=VALUE"),
        (["deploy", "--variant", "next=m:-1"], "--variant has the weight '-1'; expected a number of at least 0"),
        (["deploy", "--shift", "main=much"], "--shift has the weight 'much'"),
        (["deploy", "--dry-run", "nam=e"], "unknown option 'nam'; did you mean 'name'"),
        (["deploy", "--dry-run", "image=frcnn:1"], "is not in Amazon ECR"),
    ],
)
def test_error_messages(client: EndpointClient, arguments: list[str], message: str) -> None:
    for file in (Path("a.jpg"), Path("b/a.jpg")):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"1")
    result = run(*arguments, **(ENDPOINT if arguments[0] == "deploy" else {}))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
