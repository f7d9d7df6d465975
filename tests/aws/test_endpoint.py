"""Requests for models, endpoints and batch transforms, and what is refused before AWS is asked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel

from frcnn.aws.endpoint import LARGEST_BODY, Endpoint, Model, Transform, Variant, invoke_request
from frcnn.aws.instances import endpoint_ami, transform_ami
from frcnn.errors import UserError

IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/frcnn:0.1.0"
ROLE = "arn:aws:iam::123456789012:role/frcnn"
MODEL: dict[str, Any] = {"name": "m", "image": IMAGE, "role": ROLE, "artifact": "s3://bucket/m/model.tar.gz"}
TRANSFORM: dict[str, Any] = {"name": "t", "model": "m", "input": "s3://bucket/in", "output": "s3://bucket/out"}


def test_a_model() -> None:
    assert Model(**MODEL, environment={"A": "1"}, tags={"k": "v"}).request() == {
        "ModelName": "m",
        "PrimaryContainer": {"Image": IMAGE, "ModelDataUrl": "s3://bucket/m/model.tar.gz", "Environment": {"A": "1"}},
        "ExecutionRoleArn": ROLE,
        "EnableNetworkIsolation": False,
        "Tags": [{"Key": "k", "Value": "v"}],
    }


def test_a_model_that_lies_as_files() -> None:
    container = Model(**{**MODEL, "artifact": "s3://bucket/m/"}).request()["PrimaryContainer"]
    source = {"S3Uri": "s3://bucket/m/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    assert container == {"Image": IMAGE, "ModelDataSource": {"S3DataSource": source}}


def test_two_variants_share_an_endpoint() -> None:
    endpoint = Endpoint(
        name="e",
        variants=[Variant(model="m", weight=0.9), Variant(model="m", name="new", weight=0.1, health_seconds=60)],
    )
    variants = endpoint.config_request()["ProductionVariants"]
    assert [
        (variant["VariantName"], variant["ModelName"], variant["InitialVariantWeight"]) for variant in variants
    ] == [
        ("m", "m", 0.9),
        ("new", "m", 0.1),
    ]
    assert [variant["ContainerStartupHealthCheckTimeoutInSeconds"] for variant in variants] == [600, 60]
    assert endpoint.request() == {"EndpointName": "e", "EndpointConfigName": "e"}


@pytest.mark.parametrize(
    ("instance_type", "endpoint", "transform"),
    [
        ("ml.g4dn.xlarge", "al2-ami-sagemaker-inference-gpu-3-1", "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.g5.xlarge", "al2-ami-sagemaker-inference-gpu-3-1", "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.p3.2xlarge", "al2-ami-sagemaker-inference-gpu-2", "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.g6.xlarge", None, "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.m5.large", None, None),
        ("ml.c5.xlarge", None, None),
    ],
)
def test_no_gpu_is_served_on_a_driver_that_is_too_old(
    instance_type: str, endpoint: str | None, transform: str | None
) -> None:
    """AWS's default for g4dn, g5, p3 is driver 470, on which a container with CUDA 12.9 is refused before its first line."""

    def sent(**ami: str) -> tuple[str | None, str | None]:
        variant = Variant(model="m", instance_type=instance_type, **ami)
        [member] = Endpoint(name="e", variants=[variant]).config_request()["ProductionVariants"]
        resources = Transform(**TRANSFORM, instance_type=instance_type, **ami).request()["TransformResources"]
        return member.get("InferenceAmiVersion"), resources.get("TransformAmiVersion")

    assert sent() == (endpoint, transform)
    assert (
        sent(ami="al2-ami-sagemaker-inference-gpu-2-1") == ("al2-ami-sagemaker-inference-gpu-2-1",) * 2
    )  # what is said wins


def test_the_drivers_that_are_asked_for_are_what_aws_says_they_are() -> None:
    """AWS's own description of the two fields tells the driver of each name."""
    model = ServiceModel(create_loader().load_service_model("sagemaker", "service-2"))
    for shape, member, default in (
        ("ProductionVariant", "InferenceAmiVersion", endpoint_ami),
        ("TransformResources", "TransformAmiVersion", transform_ami),
    ):
        text = re.sub("<[^>]+>", " ", model.shape_for(shape).members[member].documentation)
        drivers = {
            name: int(driver) for name, driver in re.findall(r"(al2\S+gpu\S+).*?driver version: (\d+)", text, re.DOTALL)
        }
        asked = {default(name) for name in model.shape_for(f"{shape.removesuffix('Resources')}InstanceType").enum} - {
            None
        }
        assert asked
        assert {drivers[name] for name in asked} <= {
            535,
            550,
        }  # of the branches that the image's NVIDIA_REQUIRE_CUDA lists


def test_an_asynchronous_endpoint() -> None:
    request = Endpoint(
        name="e", variants=[Variant(model="m")], async_output="s3://bucket/answers", disk_key="k"
    ).config_request()
    assert request["AsyncInferenceConfig"] == {"OutputConfig": {"S3OutputPath": "s3://bucket/answers"}}
    assert request["KmsKeyId"] == "k"


def test_a_transform_of_pictures_and_one_of_lines() -> None:
    pictures = Transform(**TRANSFORM).request()
    assert (pictures["BatchStrategy"], pictures["TransformInput"]["SplitType"]) == ("SingleRecord", "None")
    assert pictures["TransformOutput"] == {
        "S3OutputPath": "s3://bucket/out",
        "Accept": "application/json",
        "AssembleWith": "None",
    }
    assert (
        pictures["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/in/"
    )  # and not s3://bucket/inventory
    # A request a line: MultiRecord would fill requests up to MaxPayloadInMB, with more pictures than the server takes.
    lines = Transform(**TRANSFORM, content_type="application/jsonlines").request()
    assert (lines["BatchStrategy"], lines["TransformInput"]["SplitType"]) == ("SingleRecord", "Line")
    assert lines["TransformOutput"] == {
        "S3OutputPath": "s3://bucket/out",
        "Accept": "application/jsonlines",
        "AssembleWith": "Line",
    }


@pytest.mark.parametrize("content_type", ["application/x-image", "application/jsonlines"])
def test_the_answers_form_can_be_chosen(content_type: str) -> None:
    request = Transform(**TRANSFORM, content_type=content_type, accept="application/json;prediction=1").request()
    assert request["TransformOutput"]["Accept"] == "application/json;prediction=1"


def test_a_call_of_an_endpoint() -> None:
    request = invoke_request(
        "e", b"jpeg", accept="image/png", variant="new", options={"score_threshold": 0.5, "max_detections": 3}
    )
    assert request == {
        "EndpointName": "e",
        "Body": b"jpeg",
        "ContentType": "application/x-image",
        "Accept": "image/png",
        "TargetVariant": "new",
        "CustomAttributes": "score_threshold=0.5,max_detections=3",
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Model(**{**MODEL, "artifact": "s3://bucket/m"}),
            r"expected a model\.tar\.gz, or a folder, which ends in /",
        ),
        (lambda: Model(**{**MODEL, "image": "frcnn:1"}), "is not in Amazon ECR"),
        (lambda: Model(**{**MODEL, "name": "m_1"}).request(), "CreateModel request: ModelName is 'm_1'"),
        (lambda: Endpoint(name="e", variants=[Variant(model="m"), Variant(model="m")]), "two variants are named m"),
        (lambda: Endpoint(name="e", variants=[Variant(model="m", weight=0)]), "all variants have weight 0"),
        (lambda: Endpoint(name="e", variants=[]), "field 'variants' is"),
        (
            lambda: Endpoint(name="e", variants=[Variant(model="m", instance_type="g5")]).config_request(),
            "InstanceType is 'g5'",
        ),
        (
            lambda: Endpoint(name="e", variants=[Variant(model="m"), Variant(model="n")], async_output="s3://bucket/a"),
            "has one variant",
        ),
        (lambda: Variant(model="m", health_seconds=59), "field 'health_seconds' is 59"),
        (lambda: Transform(**TRANSFORM, payload_mb=30), "payload_mb 30 times at_once 4 exceeds the 100 MB allowed"),
        (
            lambda: invoke_request("e", bytes(LARGEST_BODY + 1)),
            "the picture has 6.0 MiB and a call of an endpoint may have 6",
        ),
        (lambda: invoke_request("e", b"1", options={"classes": "gelände"}), "CustomAttributes is"),
    ],
)
def test_mistakes(make: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_the_largest_body_is_botocores() -> None:
    assert len(invoke_request("e", bytes(LARGEST_BODY))["Body"]) == 6291456
