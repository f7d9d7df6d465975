"""A training job for SageMaker's Python SDK 3. A test compares its request with ``TrainingJob.request``."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from frcnn.aws.tracking import TENSORBOARD_FOLDER
from frcnn.aws.training_channel import TrainingChannel
from frcnn.aws.training_job import TrainingJob
from frcnn.errors import UserError
from frcnn.training.metric_lines import METRIC_DEFINITIONS


def installed_sdk() -> int | None:
    """Major version of the installed SageMaker Python SDK; None if it is not installed."""
    try:
        return int(importlib.metadata.version("sagemaker").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return None


def model_trainer(job: TrainingJob, session: Any) -> Any:
    """A ``sagemaker.train.ModelTrainer`` (3.27) for a job; start it with ``.train(wait=False)``.

    Without source code and ``distributed=`` the image's own ``train`` runs and starts the ranks as the hyperparameters
    ``sagemaker_mpi_*`` say; the SDK's ``MPI()`` would replace it with a script that counts one host's processes only.

    Weights are not uploaded: call ``Launcher.upload_weights`` first if the job has any.

    Args:
        job: what to train.
        session: boto3 session.

    Raises:
        UserError: the SDK is not installed, or does not support a field of the job.
    """
    try:
        from sagemaker.core.helper.session_helper import Session
        from sagemaker.core.training import configs as sdk
        from sagemaker.train import ModelTrainer
    except ImportError as error:
        raise UserError(
            f"SageMaker's Python SDK 3 cannot be imported ({error}); see docs/local_mode.md, or use Launcher.start"
        ) from error
    job.request_for_aws()  # validates the job
    if any(channel.ground_truth for channel in job.training_channels().values()):
        raise UserError("ModelTrainer does not support channels with ground_truth; use Launcher.start")
    if unsupported := [name for name in ("mlflow", "retries") if getattr(job, name)]:
        raise UserError(f"ModelTrainer does not support {', '.join(unsupported)} of the job; use Launcher.start")
    trainer = ModelTrainer(
        sagemaker_session=Session(boto_session=session),
        training_image=job.image,
        role=job.role,
        base_job_name=job.name,
        training_input_mode="File",
        hyperparameters=job.native_hyperparameters(),
        input_data_config=[_input_data(sdk, name, channel) for name, channel in job.training_channels().items()],
        compute=sdk.Compute(
            instance_type=job.instance_type,
            instance_count=job.instance_count,
            volume_size_in_gb=job.volume_gb,
            volume_kms_key_id=job.disk_key,
            keep_alive_period_in_seconds=60 * job.keep_alive_minutes or None,
            enable_managed_spot_training=job.spot,
        ),
        stopping_condition=sdk.StoppingCondition(
            max_runtime_in_seconds=round(3600 * job.max_hours),
            max_wait_time_in_seconds=round(3600 * (job.max_wait_hours or 2 * job.max_hours)) if job.spot else None,
        ),
        output_data_config=sdk.OutputDataConfig(
            s3_output_path=job.output,
            kms_key_id=job.output_key,
            compression_type="GZIP" if job.compress_output else "NONE",
        ),
        checkpoint_config=sdk.CheckpointConfig(s3_uri=job.checkpoint_folder()),
        networking=sdk.Networking(
            subnets=list(job.network.subnets) or None,
            security_group_ids=list(job.network.security_groups) or None,
            enable_network_isolation=job.network.isolated,
            enable_inter_container_traffic_encryption=job.encrypt_traffic,
        ),
        environment=job.environment or None,
        tags=[{"key": key, "value": value} for key, value in job.tags.items()] or None,
    )
    if job.tensorboard:
        tensorboard = sdk.TensorBoardOutputConfig(s3_output_path=job.tensorboard, local_path=TENSORBOARD_FOLDER)
        trainer = trainer.with_tensorboard_output_config(tensorboard)
    if job.remote_debug:
        trainer = trainer.with_remote_debug_config(sdk.RemoteDebugConfig(enable_remote_debug=True))
    return trainer.with_metric_definitions(
        [sdk.MetricDefinition(name=d["Name"], regex=d["Regex"]) for d in METRIC_DEFINITIONS]
    )


def _input_data(sdk: Any, name: str, channel: TrainingChannel) -> Any:
    """``InputData`` for a channel that is copied, the SDK's default; a ``Channel`` for any other input mode."""
    if channel.mode == "File":
        return sdk.InputData(channel_name=name, data_source=channel.address)
    source = sdk.S3DataSource(
        s3_data_type="S3Prefix", s3_uri=channel.address, s3_data_distribution_type="FullyReplicated"
    )
    return sdk.Channel(channel_name=name, data_source=sdk.DataSource(s3_data_source=source), input_mode=channel.mode)
