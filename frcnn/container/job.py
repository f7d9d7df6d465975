"""From a training job's hyperparameters and channels to its configuration and output folders."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from frcnn.config import Config, load_config, save_config
from frcnn.container.channels import check_distribution, find_inputs
from frcnn.container.environment import Environment
from frcnn.errors import UserError
from frcnn.training.folders import Folders

# Set by the toolkit (sagemaker-training 5.1.4, params.py), by SageMaker's tuner and by its SDKs.
RESERVED_NAMES = (
    "sagemaker_program", "sagemaker_submit_directory", "sagemaker_enable_cloudwatch_metrics", "sagemaker_region",
    "sagemaker_container_log_level", "sagemaker_job_name", "sagemaker_s3_output", "sagemaker_mpi_enabled",
    "sagemaker_mpi_num_of_processes_per_host", "sagemaker_mpi_num_processes", "sagemaker_mpi_custom_mpi_options",
    "sagemaker_network_interface_name", "sagemaker_distribution_instance_groups", "sagemaker_estimator_class_name",
    "sagemaker_estimator_module", "default_user_module_name", "_tuning_objective_metric",
)  # fmt: skip


@dataclass(frozen=True)
class PreparedJob:
    """What this host trains.

    Attributes:
        messages: lines for the log.
    """

    config: Config
    folders: Folders
    messages: tuple[str, ...]


def prepare(environment: Environment) -> PreparedJob:
    """Find the inputs and resolve every option: the recipe of channel ``config``, then the channels, then
    hyperparameters.

    Converts manifests and reads pipes. Call it once per host, before its ranks start.

    Raises:
        UserError: a channel or a hyperparameter cannot be used.
    """
    if "output" in environment.options:
        raise UserError(
            f"hyperparameter 'output' cannot be set in a training job, which writes to {environment.base}; remove it"
        )
    scratch = _new_scratch_folder(environment.base)
    configured = any(name == "data.root" or name.startswith("data.train.") for name in environment.options)
    hosts = len(environment.resources.hosts)
    # Before the search for inputs, which would report the files that a sharded channel lacks on this host.
    check_distribution(environment.channels, hosts, sharded=True)
    inputs = find_inputs(environment.channels, scratch, want_data=not configured)
    base = load_config(inputs.config).model_dump(exclude_unset=True) if inputs.config else {}
    base["data"] = {**base.get("data", {}), "root": None, "train": {}, "validation": {}, **inputs.data}
    base["output"] = environment.output
    if inputs.weights:
        base["weights"] = inputs.weights
    config = Config.from_texts(environment.options, "hyperparameters", base)
    check_distribution(environment.channels, hosts, config.data.sharded)
    unknown = [name for name in environment.reserved if name not in RESERVED_NAMES]
    messages = (
        *inputs.messages,
        *(f"hyperparameter {name!r} is unknown to SageMaker's toolkit and has no effect" for name in unknown),
    )
    return PreparedJob(config, folders(environment), messages)


def folders(environment: Environment) -> Folders:
    """Output folders; without a checkpoint location checkpoints go to the scratch folder, which is not uploaded."""
    if environment.checkpoints is None:
        return Folders(environment.output, scratch_folder(environment.base) / "checkpoints", (environment.model,))
    return Folders(environment.output, environment.checkpoints, (environment.model, environment.checkpoints / "model"))


def save_job(environment: Environment, config: Config) -> None:
    """Save the configuration for this host's ranks."""
    file = saved_config(environment)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_config(config, file)


def saved_job(environment: Environment) -> PreparedJob:
    """The job as saved by :func:`save_job` on this host."""
    return PreparedJob(load_config(saved_config(environment)), folders(environment), ())


def saved_config(environment: Environment) -> Path:
    """File written by :func:`save_job`; this host is prepared once it exists."""
    return scratch_folder(environment.base) / "config.yaml"


def _new_scratch_folder(base: Path) -> Path:
    """An empty scratch folder that only this user can open, without what an earlier job with this base has left.

    Raises:
        UserError: it cannot be created.
    """
    folder = scratch_folder(base)
    try:
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink(missing_ok=True)
        else:
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise UserError(
            f"temporary folder {folder} cannot be created ({error.strerror}); set TMPDIR to a folder that this user "
            "can write to"
        ) from error
    return folder


def scratch_folder(base: Path) -> Path:
    """A folder of this host and job that is not uploaded."""
    name = hashlib.sha256(str(base.absolute()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"frcnn-{name}"
