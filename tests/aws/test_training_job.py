"""The request for a training job, and every combination that SageMaker or the container would reject later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from frcnn.aws import tracking
from frcnn.aws.training_channel import TrainingChannel
from frcnn.aws.training_job import TrainingJob
from frcnn.config import Config, load_config
from frcnn.container.environment import Environment
from frcnn.container.runner import choose_runner
from frcnn.errors import UserError
from frcnn.training import progress

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BASE: dict[str, Any] = {
    "name": "cells-1",
    "image": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/frcnn:0.1.0",
    "role": "arn:aws:iam::123456789012:role/frcnn",
    "channels": {"training": "s3://bucket/bccd"},
    "output": "s3://bucket/runs/",
}
WITH_WEIGHTS = {**BASE["channels"], "weights": "s3://bucket/resnet50"}


def job(**fields: Any) -> TrainingJob:
    return TrainingJob(**{**BASE, **fields})


def test_the_complete_request_for_one_gpu() -> None:
    request = job(
        hyperparameters={"training.epochs": 3, "optimizer.schedule": "cosine", "optimizer.clip_norm": None, "seed": "7"}
    ).request()
    metrics = request["AlgorithmSpecification"].pop("MetricDefinitions")
    assert {"Name", "Regex"} == set().union(*metrics)
    assert request == {
        "TrainingJobName": "cells-1",
        "RoleArn": BASE["role"],
        "AlgorithmSpecification": {"TrainingImage": BASE["image"], "TrainingInputMode": "File"},
        "HyperParameters": {
            "training.epochs": "3",
            "optimizer.schedule": "cosine",
            "optimizer.clip_norm": "null",
            "seed": "7",
        },
        "InputDataConfig": [
            {
                "ChannelName": "training",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": "s3://bucket/bccd/",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
                "InputMode": "File",
            }
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/runs/", "CompressionType": "GZIP"},
        "ResourceConfig": {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 100},
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400},
        "CheckpointConfig": {"S3Uri": "s3://bucket/runs/cells-1/checkpoints/"},
        "EnableManagedSpotTraining": False,
        "EnableNetworkIsolation": False,
        "EnableInterContainerTrafficEncryption": False,
    }


@pytest.mark.parametrize("recipe", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_is_sent_completely(recipe: Path) -> None:
    """The container builds the same configuration from the hyperparameters as the command line from the file."""
    texts = job(recipe=recipe, channels=WITH_WEIGHTS).request()["HyperParameters"]
    assert Config.from_texts(texts, "hyperparameters") == load_config(recipe)


def test_hyperparameters_override_the_recipe() -> None:
    config = job(recipe=CONFIGS / "bccd_r18_fpn.yaml", hyperparameters={"training.epochs": "2"}).config()
    assert (config.training.epochs, config.backbone.name) == (2, "resnet18")


def test_frozen_layers_need_weights() -> None:
    """Otherwise two hosts of eight GPUs would train for a day on random frozen layers."""
    recipe = CONFIGS / "coco_r50_fpn_1x.yaml"
    with pytest.raises(UserError, match=r"backbone.freeze is 2, but there is no channel 'weights'"):
        job(recipe=recipe)
    job(recipe=recipe, channels=WITH_WEIGHTS)
    job(recipe=recipe, hyperparameters={"backbone.freeze": 0, "backbone.norm": "gn"})


def test_several_gpus_use_mpi() -> None:
    many = job(instance_type="ml.p4d.24xlarge", instance_count=2, mpi_options="-x A=1")
    assert many.processes() == 16
    assert many.request()["HyperParameters"] == {
        "sagemaker_mpi_enabled": "true",
        "sagemaker_mpi_num_of_processes_per_host": "8",
        "sagemaker_mpi_custom_mpi_options": "-x A=1",
    }
    two_hosts = job(instance_type="ml.c5.xlarge", instance_count=2).request()["HyperParameters"]
    assert two_hosts == {"sagemaker_mpi_enabled": "true", "sagemaker_mpi_num_of_processes_per_host": "1"}


@pytest.mark.parametrize(
    ("fields", "gpus", "processes"),
    [
        ({"instance_type": "ml.g5.12xlarge"}, 4, 4),
        ({"instance_type": "ml.g5.12xlarge", "processes_per_host": 1}, 4, 1),
        ({"instance_type": "ml.g5.12xlarge", "processes_per_host": 2}, 4, 2),
        ({"instance_type": "ml.g5.12xlarge", "processes_per_host": 1, "instance_count": 2}, 4, 1),
        ({"instance_type": "ml.g5.2xlarge"}, 1, 1),
        ({"instance_type": "ml.c5.xlarge", "processes_per_host": 2}, 0, 2),
        ({"instance_type": "ml.c5.xlarge", "instance_count": 2}, 0, 1),
    ],
)
def test_the_container_starts_as_many_processes_as_the_batch_size_was_checked_for(
    tmp_path: Path, fields: dict[str, Any], gpus: int, processes: int
) -> None:
    requested = job(**fields)
    hosts = [f"algo-{number + 1}" for number in range(requested.instance_count)]
    (tmp_path / "input" / "config").mkdir(parents=True)
    files = {
        "hyperparameters": requested.request()["HyperParameters"],
        "resourceconfig": {"current_host": hosts[0], "hosts": hosts},
    }
    for name, content in files.items():
        (tmp_path / "input" / "config" / f"{name}.json").write_text(json.dumps(content))
    runner = choose_runner(Environment.read({"SAGEMAKER_BASE_DIR": str(tmp_path)}), gpus)
    assert runner.processes_per_host == processes
    assert runner.mpi is (processes * requested.instance_count > 1)
    assert requested.processes() == processes * requested.instance_count


def test_spot_waits_and_resumes_from_checkpoints() -> None:
    request = job(spot=True, max_hours=2, checkpoints="s3://bucket/ck").request()
    assert request["EnableManagedSpotTraining"] is True
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 7200, "MaxWaitTimeInSeconds": 14400}
    assert request["CheckpointConfig"] == {"S3Uri": "s3://bucket/ck/"}
    assert job(spot=True, max_hours=2, max_wait_hours=3).request()["StoppingCondition"]["MaxWaitTimeInSeconds"] == 10800


def test_closed_networks_keys_pools_and_tags() -> None:
    request = job(
        instance_type="ml.p3.2xlarge",
        network={"subnets": ["subnet-1", "subnet-2"], "security_groups": ["sg-1"], "isolated": True},
        encrypt_traffic=True,
        disk_key="alias/d",
        output_key="alias/o",
        keep_alive_minutes=30,
        volume_gb=7,
        compress_output=False,
        tags={"team": "vision"},
        environment={"A": "1"},
    ).request()
    assert request["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert request["EnableNetworkIsolation"] is True
    assert request["EnableInterContainerTrafficEncryption"] is True
    assert request["ResourceConfig"] == {
        "InstanceType": "ml.p3.2xlarge",
        "InstanceCount": 1,
        "VolumeSizeInGB": 7,
        "VolumeKmsKeyId": "alias/d",
        "KeepAlivePeriodInSeconds": 1800,
    }
    assert request["OutputDataConfig"] == {
        "S3OutputPath": "s3://bucket/runs/",
        "CompressionType": "NONE",
        "KmsKeyId": "alias/o",
    }
    assert request["Tags"] == [{"Key": "team", "Value": "vision"}]
    assert request["Environment"] == {"A": "1"}


def test_channels_of_every_kind() -> None:
    channels = {
        "train": TrainingChannel(s3="s3://bucket/train", mode="FastFile"),
        "annotations": "s3://bucket/annotations",
        "labelled": {"s3": "s3://bucket/output.manifest", "ground_truth": "bb"},
    }
    members = job(channels=channels).request()["InputDataConfig"]
    assert [(member["ChannelName"], member["InputMode"]) for member in members] == [
        ("train", "FastFile"),
        ("annotations", "File"),
        ("labelled", "Pipe"),
    ]
    assert {member["DataSource"]["S3DataSource"]["S3DataDistributionType"] for member in members} == {"FullyReplicated"}
    assert [member["DataSource"]["S3DataSource"]["S3Uri"] for member in members] == [
        "s3://bucket/train/",
        "s3://bucket/annotations/",
        "s3://bucket/output.manifest",
    ]
    assert members[2]["RecordWrapperType"] == "RecordIO"
    assert members[2]["DataSource"]["S3DataSource"]["S3DataType"] == "AugmentedManifestFile"
    assert members[2]["DataSource"]["S3DataSource"]["AttributeNames"] == ["source-ref", "bb", "bb-metadata"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"recpe": "x"}, "unknown option 'recpe'; did you mean 'recipe'"),
        ({"name": None}, "option 'name' is None"),
        ({"output": "bucket/runs"}, "option 'output' is 'bucket/runs'; expected an S3 URI such as s3://bucket/folder"),
        ({"hyperparameters": {"trainig.epochs": 2}}, "unknown option 'trainig.epochs'; did you mean 'training.epochs'"),
        ({"hyperparameters": {"training.epochs": "many"}}, "option 'training.epochs' is 'many'"),
        ({"hyperparameters": {"data.root": "/data"}}, "hyperparameter 'data.root' is set by the container"),
        ({"hyperparameters": {"sagemaker_mpi_enabled": "true"}}, "use processes_per_host and mpi_options"),
        ({"image": "johndoe/frcnn:1"}, "is not in Amazon ECR"),
        ({"mpi_options": "-mca pml ob1"}, "'-mca pml' is already set by the toolkit"),
        (
            {"instance_type": "ml.p4d.24xlarge", "hyperparameters": {"training.batch_size": 12}},
            "12 for 8 processes .*; use a multiple of 8, such as 16",
        ),
        ({"instance_count": 0}, "option 'instance_count' is 0; expected a number greater than or equal to 1"),
        ({"max_hours": 673}, r"max_hours is 673; SageMaker allows 672 \(28 days\)"),
        ({"max_wait_hours": 30}, "max_wait_hours applies only with spot: true"),
        ({"spot": True, "max_wait_hours": 3}, "max_wait_hours 3 is less than max_hours 24"),
        ({"spot": True, "keep_alive_minutes": 5}, "no warm pools of spot instances"),
        ({"keep_alive_minutes": 61}, "a warm pool is kept for at most 60"),
        ({"disk_key": "k"}, r"disk_key has no effect on ml\.g5\.2xlarge"),
        ({"network": {"subnets": ["subnet-1"]}}, "subnets and security_groups belong together"),
    ],
)
def test_error_messages(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        job(**fields)


def test_limits_of_the_service_model() -> None:
    with pytest.raises(UserError, match="CreateTrainingJob request: TrainingJobName is 'cells_1'"):
        job(name="cells_1").request()
    with pytest.raises(UserError, match="ChannelName is 'my train', which does not match"):
        job(channels={"my train": "s3://bucket/a"}).request()


def test_local_mode_is_validated_and_never_sent() -> None:
    """SDK 2 takes its arguments from the request; AWS would reject the instance type."""
    local = job(instance_type="local", hyperparameters={"training.epochs": 3})
    assert local.request()["ResourceConfig"]["InstanceType"] == "local"
    assert local.processes() == 1
    with pytest.raises(UserError, match=r"TrainingJobName is .*, which does not match"):
        job(instance_type="local", name="-").request()
    with pytest.raises(UserError, match="instance_type is 'local', which only SageMaker's SDK 2 supports"):
        local.request_for_aws()
    assert job().request_for_aws() == job().request()


def test_address_of_the_model() -> None:
    assert job().artifact() == "s3://bucket/runs/cells-1/output/model.tar.gz"
    assert job(compress_output=False).artifact() == "s3://bucket/runs/cells-1/output/model/"
    assert job().region() == "eu-west-1"


def test_tracking_retries_and_debugging() -> None:
    server = "arn:aws:sagemaker:eu-west-1:123456789012:mlflow-tracking-server/team"
    request = job(
        tensorboard="s3://bucket/curves",
        mlflow={"server": server, "experiment": "cells"},
        retries=3,
        remote_debug=True,
    ).request()
    assert request["TensorBoardOutputConfig"] == {
        "S3OutputPath": "s3://bucket/curves",
        "LocalPath": "/opt/ml/output/data/tensorboard",
    }
    assert request["MlflowConfig"] == {"MlflowResourceArn": server, "MlflowExperimentName": "cells"}
    assert request["RetryStrategy"] == {"MaximumRetryAttempts": 3}
    assert request["RemoteDebugConfig"] == {"EnableRemoteDebug": True}
    with pytest.raises(UserError, match="MlflowResourceArn is 'team', which does not match"):
        job(mlflow={"server": "team"}).request()


def test_the_tensorboard_folder_is_the_one_that_the_container_writes() -> None:
    environment = Environment.read({"SAGEMAKER_BASE_DIR": "/opt/ml"})
    assert str(environment.output / progress.TENSORBOARD_FOLDER) == tracking.TENSORBOARD_FOLDER


def test_weights_become_a_channel(tmp_path: Path) -> None:
    """A recipe's ``weights`` would otherwise be dropped: the container knows no folder of this machine."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("weights: torchvision_v2\nbackbone: {freeze: 2, norm: frozen_bn}\n")
    for fields in ({"weights": "torchvision_v2"}, {"recipe": recipe}):
        member = job(**fields).request()["InputDataConfig"][1]
        assert member["ChannelName"] == "weights"
        assert member["DataSource"]["S3DataSource"]["S3Uri"] == "s3://bucket/runs/cells-1/weights/"
    # A channel wins over the recipe, and contradicts the field.
    assert job(recipe=recipe, channels=WITH_WEIGHTS).weights_source() is None
    with pytest.raises(UserError, match="weights and a channel with weights are both given"):
        job(weights="torchvision_v2", channels=WITH_WEIGHTS)
