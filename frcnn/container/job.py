"""A training job's hyperparameters and channels -> the configuration, and where what it makes goes."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from frcnn.config import Config, config_from_texts, load_config, save_config
from frcnn.container.channels import find_inputs, refuse_parts
from frcnn.container.environment import Environment
from frcnn.errors import UserError
from frcnn.training.folders import Folders

# Of the toolkit (sagemaker-training 5.1.4, params.py), of SageMaker's tuner, and of its SDKs.
RESERVED_NAMES = (
    "sagemaker_program", "sagemaker_submit_directory", "sagemaker_enable_cloudwatch_metrics", "sagemaker_region",
    "sagemaker_container_log_level", "sagemaker_job_name", "default_user_module_name", "_tuning_objective_metric", "sagemaker_s3_output",
    "sagemaker_mpi_enabled", "sagemaker_mpi_num_of_processes_per_host", "sagemaker_mpi_num_processes", "sagemaker_mpi_custom_mpi_options",
    "sagemaker_network_interface_name", "sagemaker_distribution_instance_groups", "sagemaker_estimator_class_name",
    "sagemaker_estimator_module",
)  # fmt: skip


@dataclass(frozen=True)
class PreparedJob:
    """What this host trains.

    Attributes:
        notes: for the log.
    """

    config: Config
    folders: Folders
    notes: tuple[str, ...]


def prepare(environment: Environment) -> PreparedJob:
    """Find the inputs and decide every option: the recipe of the channel ``config``, the channels' places, the hyperparameters on top.

    Converts manifests and reads pipes; to be called once on each host, before its ranks start.

    Raises:
        UserError: a channel or a hyperparameter cannot be used.
    """
    if "output" in environment.options:
        raise UserError(
            f"hyperparameter 'output' cannot be set in a training job, whose results go to {environment.base}; leave it out"
        )
    scratch = scratch_folder(environment.base)
    said = any(name == "data.root" or name.startswith("data.train.") for name in environment.options)
    hosts = len(environment.resources.hosts)
    refuse_parts(
        environment.channels, hosts, sharded=True
    )  # no option allows these, and what a host lacks would be told in their place
    inputs = find_inputs(environment.channels, scratch, want_data=not said)
    base = load_config(inputs.config).model_dump(exclude_unset=True) if inputs.config else {}
    base["data"] = {**base.get("data", {}), "root": None, "train": {}, "validation": {}, **inputs.data}
    base["output"] = environment.output
    if inputs.weights:
        base["weights"] = inputs.weights
    config = config_from_texts(environment.options, base)
    refuse_parts(environment.channels, hosts, config.data.sharded)
    unknown = [name for name in environment.reserved if name not in RESERVED_NAMES]
    notes = (
        *inputs.notes,
        *(f"hyperparameter {name!r} is none that SageMaker's toolkit knows; it has no effect" for name in unknown),
    )
    return PreparedJob(config, folders(environment), notes)


def folders(environment: Environment) -> Folders:
    """Checkpoints where SageMaker keeps them, else in the scratch folder: what is in the model folder is packed and uploaded."""
    if environment.checkpoints is None:
        return Folders(environment.output, scratch_folder(environment.base) / "checkpoints", (environment.model,))
    return Folders(environment.output, environment.checkpoints, (environment.model, environment.checkpoints / "model"))


def save_job(environment: Environment, config: Config) -> None:
    """Leave the configuration for this host's ranks."""
    file = saved_config(environment)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_config(config, file)


def saved_job(environment: Environment) -> PreparedJob:
    """The job as :func:`save_job` left it on this host."""
    return PreparedJob(load_config(saved_config(environment)), folders(environment), ())


def saved_config(environment: Environment) -> Path:
    """Where :func:`save_job` leaves the configuration, with which this host is prepared."""
    return scratch_folder(environment.base) / "config.yaml"


def scratch_folder(base: Path) -> Path:
    """A folder of this host and job that no one uploads."""
    name = hashlib.sha256(str(base.absolute()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"frcnn-{name}"
