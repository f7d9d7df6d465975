"""Requests for models, endpoints, batch transforms and invocations, and what is rejected before AWS is called."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel

from frcnn.aws.endpoint import Endpoint, Model, Variant
from frcnn.aws.instances import endpoint_ami, transform_ami
from frcnn.aws.invocation import MAX_BODY_BYTES, invoke_request
from frcnn.aws.transform import Transform
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


def test_an_uncompressed_model() -> None:
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
        ("ml.g4dn.xlarge", "al2023-ami-sagemaker-inference-gpu-4-1", "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.g5.xlarge", "al2023-ami-sagemaker-inference-gpu-4-1", "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.p3.2xlarge", "al2-ami-sagemaker-inference-gpu-2", "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.g6.xlarge", None, "al2-ami-sagemaker-batch-gpu-535"),
        ("ml.m5.large", None, None),
        ("ml.c5.xlarge", None, None),
    ],
)
def test_requests_name_a_host_image_whose_driver_runs_cuda_12(
    instance_type: str, endpoint: str | None, transform: str | None
) -> None:
    """AWS's default for g4dn, g5 and p3 is driver 470, on which containers with CUDA 12.9 do not start."""

    def requested(**ami: str) -> tuple[str | None, str | None]:
        variant = Variant(model="m", instance_type=instance_type, **ami)
        [member] = Endpoint(name="e", variants=[variant]).config_request()["ProductionVariants"]
        resources = Transform(**TRANSFORM, instance_type=instance_type, **ami).request()["TransformResources"]
        return member.get("InferenceAmiVersion"), resources.get("TransformAmiVersion")

    assert requested() == (endpoint, transform)
    assert (
        requested(ami="al2-ami-sagemaker-inference-gpu-2-1") == ("al2-ami-sagemaker-inference-gpu-2-1",) * 2
    )  # a given one wins


def test_driver_versions_of_the_host_images() -> None:
    """AWS's documentation of the two members gives the driver version of each host image."""
    model = ServiceModel(create_loader().load_service_model("sagemaker", "service-2"))
    for shape, member, default in (
        ("ProductionVariant", "InferenceAmiVersion", endpoint_ami),
        ("TransformResources", "TransformAmiVersion", transform_ami),
    ):
        text = re.sub("<[^>]+>", " ", model.shape_for(shape).members[member].documentation)
        drivers = {
            name: int(driver) for name, driver in re.findall(r"(al2\S+gpu\S+).*?driver version: (\d+)", text, re.DOTALL)
        }
        requested = {
            default(name) for name in model.shape_for(f"{shape.removesuffix('Resources')}InstanceType").enum
        } - {None}
        assert requested
        assert {drivers[name] for name in requested} <= {535, 580}  # driver branches in the image's NVIDIA_REQUIRE_CUDA


def test_an_asynchronous_endpoint() -> None:
    request = Endpoint(
        name="e", variants=[Variant(model="m")], async_output="s3://bucket/answers", disk_key="k"
    ).config_request()
    assert request["AsyncInferenceConfig"] == {"OutputConfig": {"S3OutputPath": "s3://bucket/answers"}}
    assert request["KmsKeyId"] == "k"


def test_transforms_of_images_and_of_json_lines() -> None:
    images = Transform(**TRANSFORM).request()
    assert (images["BatchStrategy"], images["TransformInput"]["SplitType"]) == ("SingleRecord", "None")
    assert images["TransformOutput"] == {
        "S3OutputPath": "s3://bucket/out",
        "Accept": "application/json",
        "AssembleWith": "None",
    }
    assert (
        images["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/in/"
    )  # which does not select s3://bucket/inventory
    # One request per line: MultiRecord would fill requests up to MaxPayloadInMB, more images than the server accepts.
    lines = Transform(**TRANSFORM, content_type="application/jsonlines").request()
    assert (lines["BatchStrategy"], lines["TransformInput"]["SplitType"]) == ("SingleRecord", "Line")
    assert lines["TransformOutput"] == {
        "S3OutputPath": "s3://bucket/out",
        "Accept": "application/jsonlines",
        "AssembleWith": "Line",
    }


@pytest.mark.parametrize("content_type", ["application/x-image", "application/jsonlines"])
def test_the_response_format_can_be_set(content_type: str) -> None:
    request = Transform(**TRANSFORM, content_type=content_type, accept="application/json;prediction=1").request()
    assert request["TransformOutput"]["Accept"] == "application/json;prediction=1"


def test_an_invocation() -> None:
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
    ("make", "message"),
    [
        (
            lambda: Model(**{**MODEL, "artifact": "s3://bucket/m"}),
            r"expected a model\.tar\.gz, or a folder, which ends in /",
        ),
        (lambda: Model(**{**MODEL, "image": "frcnn:1"}), "is not in Amazon ECR"),
        (lambda: Model(**{**MODEL, "name": "m_1"}).request(), "CreateModel request: ModelName is 'm_1'"),
        (lambda: Endpoint(name="e", variants=[Variant(model="m"), Variant(model="m")]), "two variants are named m"),
        (lambda: Endpoint(name="e", variants=[Variant(model="m", weight=0)]), "all variants have weight 0"),
        (lambda: Endpoint(name="e", variants=[]), "option 'variants' is"),
        (
            lambda: Endpoint(name="e", variants=[Variant(model="m", instance_type="g5")]).config_request(),
            "InstanceType is 'g5'",
        ),
        (
            lambda: Endpoint(name="e", variants=[Variant(model="m"), Variant(model="n")], async_output="s3://bucket/a"),
            "has one variant",
        ),
        (lambda: Variant(model="m", health_seconds=59), "option 'health_seconds' is 59"),
        (
            lambda: Transform(**TRANSFORM, max_payload_mb=30),
            "max_payload_mb 30 times max_concurrent 4 exceeds the 100 MB allowed",
        ),
        (
            lambda: invoke_request("e", bytes(MAX_BODY_BYTES + 1)),
            "the image has 6.0 MiB and an endpoint accepts 6",
        ),
        (lambda: invoke_request("e", b"1", options={"classes": "gelände"}), "CustomAttributes is"),
    ],
)
def test_error_messages(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_the_largest_body_is_botocores_limit() -> None:
    assert len(invoke_request("e", bytes(MAX_BODY_BYTES))["Body"]) == 6291456
