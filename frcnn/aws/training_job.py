"""Training jobs, and the exact ``create_training_job`` request for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from frcnn.aws.image_uri import region_of_image
from frcnn.aws.instances import LOCAL, has_nvme_disks, processes_per_host
from frcnn.aws.request_fields import Hours, ImageName, Network, RoleArn, S3Uri, tag_list
from frcnn.aws.service_model import check_request
from frcnn.aws.tracking import Mlflow, tensorboard_member
from frcnn.aws.training_channel import TrainingChannel
from frcnn.config import Config, Options, load_config, option_names
from frcnn.container.channels import role_of
from frcnn.container.mpi_options import check_mpi_options
from frcnn.errors import UserError
from frcnn.training.metric_lines import METRIC_DEFINITIONS

# Options that the container sets from its channels and SageMaker's folders.
SET_BY_CONTAINER = ("output", "data.root", "data.train.", "data.validation.", "weights")
MAX_RUN_HOURS = 28 * 24
MAX_WARM_POOL_MINUTES = 60


class TrainingJob(Options):
    """One training job of the frcnn image.

    Raises:
        UserError: a field, an option of the recipe, a hyperparameter or an mpirun option is invalid.
    """

    name: str = Field(description="of the job, unique in account and region: letters, digits and hyphens, at most 63")
    image: ImageName = Field(
        description="full ECR name, as push_ecr.sh prints it, or {repository, tag, account, region}"
    )
    role: RoleArn = Field(description="ARN of the containers' execution role")
    channels: dict[str, S3Uri | TrainingChannel] = Field(
        min_length=1, description="channel name: S3 folder, or a TrainingChannel"
    )
    output: S3Uri = Field(description="S3 folder; SageMaker writes below NAME/output/")
    instance_type: str = Field(
        "ml.g5.2xlarge", description="type of every host; local: this machine's Docker, with SDK 2 only"
    )
    instance_count: Annotated[int, Field(ge=1)] = Field(1, description="hosts")
    recipe: Path | None = Field(None, description="YAML file under configs/; its options are sent as hyperparameters")
    hyperparameters: dict[str, Any] = Field(
        {}, description="options that override the recipe, such as training.epochs: 12"
    )
    processes_per_host: Annotated[int, Field(ge=1)] | None = Field(
        None, description="null: one per GPU of the instance type"
    )
    mpi_options: str = Field("", description="additional mpirun options, such as -x HOROVOD_FUSION_THRESHOLD=33554432")
    volume_gb: Annotated[int, Field(ge=1)] = Field(
        100, description="disk of each host; ignored for types with NVMe disks"
    )
    max_hours: Hours = Field(24, description="SageMaker stops the job after this time")
    spot: bool = Field(
        False, description="cheaper capacity that AWS may reclaim; the job then resumes from its checkpoint"
    )
    max_wait_hours: Hours | None = Field(
        None, description="with spot: maximum time including waiting; null: twice max_hours"
    )
    checkpoints: S3Uri | None = Field(
        None, description="S3 folder; a later job with the same one resumes; null: OUTPUT/NAME/checkpoints"
    )
    keep_alive_minutes: Annotated[int, Field(ge=0)] = Field(
        0, description="warm pool: hosts are kept, and billed, for this long for the next job"
    )
    network: Network = Field(Network(), description="VPC, isolation")
    encrypt_traffic: bool = Field(
        False, description="between hosts; slows multi-host jobs, and needs UDP 500 and protocol 50 in a VPC"
    )
    disk_key: str | None = Field(None, description="KMS key of the hosts' disks; not for types with NVMe disks")
    output_key: str | None = Field(None, description="KMS key of what is written to S3")
    compress_output: bool = Field(True, description="false: the model is stored as files in S3, not as model.tar.gz")
    weights: str | None = Field(
        None, description="published weights (frcnn fetch-weights --list) or local model folder, uploaded as a channel"
    )
    tensorboard: S3Uri | None = Field(None, description="S3 folder of TensorBoard files, written while the job runs")
    mlflow: Mlflow | None = Field(None, description="MLflow server of the account")
    retries: Annotated[int, Field(ge=1, le=30)] | None = Field(
        None, description="restarts after internal errors of AWS"
    )
    remote_debug: bool = Field(False, description="allow shells in the containers, through AWS Systems Manager")
    tags: dict[str, str] = Field({}, description="AWS tags of the job")
    environment: dict[str, str] = Field({}, description="environment variables of the containers")

    @model_validator(mode="after")
    def _check_consistency(self) -> TrainingJob:
        check_mpi_options(self.mpi_options)
        self.network.vpc()
        if self.max_hours > MAX_RUN_HOURS:
            raise ValueError(f"max_hours is {self.max_hours:g}; SageMaker allows {MAX_RUN_HOURS} (28 days)")
        if self.max_wait_hours is not None and not self.spot:
            raise ValueError("max_wait_hours applies only with spot: true; remove it")
        if self.max_wait_hours is not None and self.max_wait_hours < self.max_hours:
            raise ValueError(
                f"max_wait_hours {self.max_wait_hours:g} is less than max_hours {self.max_hours:g}; it includes the run"
            )
        if self.keep_alive_minutes and self.spot:
            raise ValueError(
                "keep_alive_minutes cannot be combined with spot: SageMaker has no warm pools of spot instances"
            )
        if self.keep_alive_minutes > MAX_WARM_POOL_MINUTES:
            raise ValueError(
                f"keep_alive_minutes is {self.keep_alive_minutes}; a warm pool is kept for at most "
                f"{MAX_WARM_POOL_MINUTES}"
            )
        if self.disk_key and has_nvme_disks(self.instance_type):
            raise ValueError(
                f"disk_key has no effect on {self.instance_type}, whose NVMe disks the hardware encrypts; remove it"
            )
        if self.weights_source() and any(role_of(name) == "weights" for name in self.channels):
            raise ValueError("weights and a channel with weights are both given; remove one of them")
        if not {"train", None} & {role_of(name) for name in self.channels}:
            raise ValueError(f"channels {', '.join(self.channels)} have no training data; add a channel 'training'")
        self.config()
        return self

    def region(self) -> str:
        """Region of the job, which is the image's."""
        return region_of_image(self.image)

    def processes(self) -> int:
        """Training processes over all hosts."""
        return self.instance_count * (self.processes_per_host or processes_per_host(self.instance_type))

    def config(self) -> Config:
        """The configuration that the container will build from the hyperparameters.

        Raises:
            UserError: an option is unknown or invalid, or is set by the container.
        """
        for name in self.hyperparameters:
            if name.startswith("sagemaker_"):
                raise UserError(
                    f"hyperparameter {name!r} is set by this request; use processes_per_host and mpi_options"
                )
            if name.startswith(SET_BY_CONTAINER):
                raise UserError(f"hyperparameter {name!r} is set by the container, from its channels; remove it")
        config = Config.from_texts({name: _text(value) for name, value in self._options().items()}, "hyperparameters")
        if config.backbone.freeze and "weights" not in map(role_of, self.training_channels()):
            raise UserError(
                f"backbone.freeze is {config.backbone.freeze}, but there is no channel 'weights': the frozen layers "
                "would stay random. Set weights, add the channel, or set backbone.freeze to 0 and backbone.norm to gn"
            )
        processes = self.processes()
        if config.training.batch_size % processes:
            multiple = processes * max(1, round(config.training.batch_size / processes))
            raise UserError(
                f"training.batch_size is {config.training.batch_size} for {processes} processes "
                f"({self.instance_count} x {self.instance_type}); use a multiple of {processes}, such as {multiple}"
            )
        return config

    def native_hyperparameters(self) -> dict[str, Any]:
        """Hyperparameters as Python values, for the SDK's ``ModelTrainer``, which encodes them itself."""
        values = self._options()
        distributed = self.processes() > 1
        if distributed:
            values["sagemaker_mpi_enabled"] = True
        if distributed or self.processes_per_host:  # also for one process: the container would count its GPUs
            values["sagemaker_mpi_num_of_processes_per_host"] = self.processes() // self.instance_count
        if distributed and self.mpi_options:
            values["sagemaker_mpi_custom_mpi_options"] = self.mpi_options
        return values

    def request(self) -> dict[str, Any]:
        """Keyword arguments of ``boto3.client("sagemaker").create_training_job``.

        Raises:
            UserError: AWS's service model does not allow a value.
        """
        resources: dict[str, Any] = {
            "InstanceType": self.instance_type,
            "InstanceCount": self.instance_count,
            "VolumeSizeInGB": self.volume_gb,
        }
        if self.disk_key:
            resources["VolumeKmsKeyId"] = self.disk_key
        if self.keep_alive_minutes:
            resources["KeepAlivePeriodInSeconds"] = 60 * self.keep_alive_minutes
        output = {"S3OutputPath": self.output, "CompressionType": "GZIP" if self.compress_output else "NONE"}
        if self.output_key:
            output["KmsKeyId"] = self.output_key
        stopping = {"MaxRuntimeInSeconds": round(3600 * self.max_hours)}
        if self.spot:
            stopping["MaxWaitTimeInSeconds"] = round(3600 * (self.max_wait_hours or 2 * self.max_hours))
        request = {
            "TrainingJobName": self.name,
            "RoleArn": self.role,
            "AlgorithmSpecification": {
                "TrainingImage": self.image,
                "TrainingInputMode": "File",
                "MetricDefinitions": [dict(definition) for definition in METRIC_DEFINITIONS],
            },
            "HyperParameters": {name: _text(value) for name, value in self.native_hyperparameters().items()},
            "InputDataConfig": [channel.member(name) for name, channel in self.training_channels().items()],
            "OutputDataConfig": output,
            "ResourceConfig": resources,
            "StoppingCondition": stopping,
            "CheckpointConfig": {"S3Uri": self.checkpoint_folder()},
            "EnableManagedSpotTraining": self.spot,
            "EnableNetworkIsolation": self.network.isolated,
            "EnableInterContainerTrafficEncryption": self.encrypt_traffic,
            **self.network.vpc(),
            **tag_list(self.tags),
        }
        if self.environment:
            request["Environment"] = self.environment
        if self.tensorboard:
            request["TensorBoardOutputConfig"] = tensorboard_member(self.tensorboard)
        if self.mlflow:
            request["MlflowConfig"] = self.mlflow.member()
        if self.retries:
            request["RetryStrategy"] = {"MaximumRetryAttempts": self.retries}
        if self.remote_debug:
            request["RemoteDebugConfig"] = {"EnableRemoteDebug": True}
        known = {**resources, "InstanceType": "ml.m5.large"} if self.instance_type in LOCAL else resources
        check_request("CreateTrainingJob", {**request, "ResourceConfig": known})
        return request

    def request_for_aws(self) -> dict[str, Any]:
        """The request, if it can be sent to AWS.

        Raises:
            UserError: the job is for local mode.
        """
        if self.instance_type in LOCAL:
            raise UserError(
                f"instance_type is {self.instance_type!r}, which only SageMaker's SDK 2 supports; "
                "expected an AWS instance type, such as ml.g5.2xlarge"
            )
        return self.request()

    def training_channels(self) -> dict[str, TrainingChannel]:
        """The channels, with plain addresses converted to ``TrainingChannel``, and that of ``weights``."""
        channels = dict(self.channels)
        if self.weights_source():
            channels["weights"] = self.weights_uri()
        return {
            name: TrainingChannel(s3=channel) if isinstance(channel, str) else channel
            for name, channel in channels.items()
        }

    def weights_source(self) -> str | None:
        """Published weights or local folder to upload: the field ``weights``, else the recipe's option of that name."""
        if self.weights or not self.recipe:
            return self.weights
        if any(role_of(name) == "weights" for name in self.channels):
            return None
        weights = load_config(self.recipe).weights
        return str(weights) if weights else None

    def weights_uri(self) -> str:
        """S3 folder that ``weights`` are uploaded to."""
        return f"{self.output.rstrip('/')}/{self.name}/weights/"

    def checkpoint_folder(self) -> str:
        """S3 folder that the containers' checkpoints are synchronized with."""
        folder = self.checkpoints or f"{self.output.rstrip('/')}/{self.name}/checkpoints"
        return f"{folder.rstrip('/')}/"  # without the slash, exp-1 would also receive the checkpoints of exp-10

    def artifact(self) -> str:
        """S3 address of the job's model."""
        return f"{self.output.rstrip('/')}/{self.name}/output/model" + (".tar.gz" if self.compress_output else "/")

    def _options(self) -> dict[str, Any]:
        """The recipe's options that differ from the defaults, overridden by the hyperparameters."""
        values: dict[str, Any] = {}
        if self.recipe:
            recipe, default = load_config(self.recipe).model_dump(mode="json"), Config().model_dump(mode="json")
            for name in option_names(Config):
                if not name.startswith(SET_BY_CONTAINER) and (value := _at(recipe, name)) != _at(default, name):
                    values[name] = value
        return values | self.hyperparameters


def _at(tree: dict[str, Any], name: str) -> Any:
    for part in name.split("."):
        tree = tree[part]
    return tree


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
