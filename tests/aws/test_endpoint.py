"""Requests for models, endpoints, batch transforms and invocations, and what is rejected before AWS is called."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel

from frcnn.aws.endpoint import Endpoint, Model, Serverless, Variant, weights_request
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
        ("main", "m", 0.9),
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
        name="e",
        variants=[Variant(model="m")],
        asynchronous={"output": "s3://bucket/answers", "max_concurrent": 2},
        disk_key="k",
    ).config_request()
    assert request["AsyncInferenceConfig"] == {
        "OutputConfig": {"S3OutputPath": "s3://bucket/answers"},
        "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2},
    }
    assert request["KmsKeyId"] == "k"


def test_models_given_by_their_address_are_created() -> None:
    endpoint = Endpoint(
        name="e",
        image=IMAGE,
        role=ROLE,
        environment={"A": "1"},
        variants=[Variant(model="s3://bucket/a.tar.gz"), Variant(name="next", model="existing", weight=0)],
    )
    [model] = endpoint.models()
    assert model == Model(
        name="e-main", image=IMAGE, role=ROLE, artifact="s3://bucket/a.tar.gz", environment={"A": "1"}
    )
    members = endpoint.config_request()["ProductionVariants"]
    assert [member["ModelName"] for member in members] == ["e-main", "existing"]


def test_a_serverless_variant() -> None:
    variant = Variant(model="m", serverless={"memory_mb": 3072, "max_concurrency": 2})
    assert Endpoint(name="e", variants=[variant]).config_request()["ProductionVariants"] == [
        {
            "VariantName": "main",
            "ModelName": "m",
            "InitialVariantWeight": 1.0,
            "ServerlessConfig": {"MemorySizeInMB": 3072, "MaxConcurrency": 2},
        }
    ]


def test_data_capture() -> None:
    request = Endpoint(
        name="e", variants=[Variant(model="m")], data_capture={"output": "s3://bucket/captured", "percent": 10}
    ).config_request()
    assert request["DataCaptureConfig"] == {
        "EnableCapture": True,
        "InitialSamplingPercentage": 10,
        "DestinationS3Uri": "s3://bucket/captured",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    }


def test_shifting_traffic() -> None:
    assert weights_request("e", {"main": 0.5, "next": 1}) == {
        "EndpointName": "e",
        "DesiredWeightsAndCapacities": [
            {"VariantName": "main", "DesiredWeight": 0.5},
            {"VariantName": "next", "DesiredWeight": 1},
        ],
    }


def test_a_transform_with_a_model_given_by_its_address() -> None:
    transform = Transform(**{**TRANSFORM, "model": "s3://bucket/m.tar.gz"}, image=IMAGE, role=ROLE)
    assert transform.create_model() == Model(name="t", image=IMAGE, role=ROLE, artifact="s3://bucket/m.tar.gz")
    assert transform.request()["ModelName"] == "t"
    assert Transform(**TRANSFORM).create_model() is None


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
        (lambda: Endpoint(name="e", variants=[Variant(model="m"), Variant(model="m")]), "two variants are named main"),
        (lambda: Endpoint(name="e", variants=[Variant(model="m", weight=0)]), "all variants have weight 0"),
        (lambda: Endpoint(name="e", variants=[]), "option 'variants' is"),
        (
            lambda: Endpoint(name="e", variants=[Variant(model="m", instance_type="g5")]).config_request(),
            "InstanceType is 'g5'",
        ),
        (
            lambda: Endpoint(
                name="e",
                variants=[Variant(model="m"), Variant(model="n", name="n")],
                asynchronous={"output": "s3://bucket/a"},
            ),
            "has one variant",
        ),
        (
            lambda: Endpoint(name="e", variants=[Variant(model="s3://bucket/m.tar.gz")]),
            "image and role are needed for models",
        ),
        (lambda: Transform(**{**TRANSFORM, "model": "s3://bucket/m.tar.gz"}), "image and role are needed for a model"),
        (lambda: Transform(**{**TRANSFORM, "model": "s3://bucket/m/"}), r"batch transform needs a model\.tar\.gz"),
        (
            lambda: Variant(model="m", serverless=Serverless(), instance_type="ml.g5.xlarge"),
            "instance_type cannot be combined with serverless",
        ),
        (lambda: Variant(model="s3://bucket/m/", serverless=Serverless()), r"needs a model\.tar\.gz"),
        (lambda: Serverless(memory_mb=1500), "option 'memory_mb' is 1500"),
        (
            lambda: Endpoint(
                name="e",
                variants=[Variant(model="m", serverless=Serverless())],
                data_capture={"output": "s3://bucket/c"},
            ),
            "serverless endpoints do not support data_capture",
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
        (lambda: invoke_request("e", b"1", options={"classes": "x" * 1024}), "CustomAttributes"),
    ],
)
def test_error_messages(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_the_largest_body_is_botocores_limit() -> None:
    assert len(invoke_request("e", bytes(MAX_BODY_BYTES))["Body"]) == 6291456


def test_class_names_outside_of_ascii_travel_percent_encoded() -> None:
    request = invoke_request("e", b"1", options={"classes": "gelände", "threshold": 0.5})
    assert request["CustomAttributes"] == "classes=gel%C3%A4nde,threshold=0.5"
