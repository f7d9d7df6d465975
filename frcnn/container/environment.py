"""SageMaker's container contract, the folder ``/opt/ml`` and the environment variables, as one immutable object.

Only this module reads those variables; ``input_files.py`` reads the files for it. Most fields are optional, because
local runs, SageMaker's local mode and the service itself differ in what they provide.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from frcnn.container.input_files import (
    InputChannel,
    ResourceConfig,
    existing_folder,
    read_channels,
    read_checkpoints,
    read_hyperparameters,
    read_resources,
)
from frcnn.errors import UserError

BASE = Path("/opt/ml")
SERVE = "FRCNN_SERVE_"
PAYLOAD = "SAGEMAKER_MAX_PAYLOAD_IN_MB"
TUNING_OBJECTIVE = "_tuning_objective_metric"  # hyperparameter that SageMaker adds to the trials of a tuning job
RESERVED = re.compile(r"sagemaker_|_tuning_objective_metric$|default_user_module_name$")
_OFF = ("", "false", "no", "off", "0", "none", "null")


@dataclass(frozen=True)
class Environment:
    """The contract of a training job.

    Attributes:
        options: hyperparameters that are options of the configuration, as strings by dotted name; JSON quotes added by
            SDKs are removed.
        reserved: hyperparameters of SageMaker itself (``sagemaker_…``), as strings.
        checkpoints: the folder that SageMaker synchronises with S3, or None if the job has none.
        warm_pool_cache: folder that survives into the next job of a warm pool; None outside a warm pool.
        job_arn: unique name of the job; None outside SageMaker.
        ssh_secret: mixed into the job's SSH key.
        launched: whether this process is a rank started by mpirun.
        program: a user's script that runs instead of our training.
        training_module, service_module: ``package.module:function`` that runs instead of our training or endpoint.
    """

    base: Path
    options: Mapping[str, str]
    reserved: Mapping[str, str]
    channels: tuple[InputChannel, ...]
    resources: ResourceConfig
    checkpoints: Path | None
    warm_pool_cache: Path | None
    job_name: str | None
    job_arn: str | None
    region: str | None
    ssh_secret: str | None
    launched: bool
    program: str | None
    training_module: str | None
    service_module: str | None

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """Read files and variables; the base folder is ``SAGEMAKER_BASE_DIR``, by default ``/opt/ml``.

        Raises:
            UserError: a file is not valid; names the file, what was found and what was expected.
        """
        variables = os.environ if variables is None else variables
        base = base_folder(variables)
        config = base / "input" / "config"
        texts = read_hyperparameters(config / "hyperparameters.json")
        return cls(
            base=base,
            options=_options(texts),
            reserved={name: text for name, text in texts.items() if RESERVED.match(name)},
            channels=read_channels(config / "inputdataconfig.json", base / "input" / "data"),
            resources=read_resources(config / "resourceconfig.json"),
            checkpoints=_own_checkpoints(read_checkpoints(config / "checkpointconfig.json", base), texts, variables),
            warm_pool_cache=existing_folder(variables.get("SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY")),
            job_name=variables.get("TRAINING_JOB_NAME") or None,
            job_arn=variables.get("TRAINING_JOB_ARN") or None,
            region=variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or None,
            ssh_secret=variables.get("FRCNN_SSH_SECRET") or None,
            launched="OMPI_COMM_WORLD_RANK" in variables,
            program=variables.get("SAGEMAKER_PROGRAM") or texts.get("sagemaker_program") or None,
            training_module=variables.get("SAGEMAKER_TRAINING_MODULE") or None,
            service_module=variables.get("SAGEMAKER_SERVICE_MODULE") or None,
        )

    @property
    def model(self) -> Path:
        """Folder that becomes ``model.tar.gz``, merged from all hosts."""
        return self.base / "model"

    @property
    def output(self) -> Path:
        """Folder that becomes ``output.tar.gz``, merged from all hosts."""
        return self.base / "output" / "data"

    @property
    def failure_file(self) -> Path:
        """File whose first 1024 characters become the job's ``FailureReason``."""
        return failure_file(self.base)

    @property
    def code(self) -> Path:
        """Folder in which the training toolkit runs programs."""
        return self.base / "code"

    def switch(self, name: str) -> bool | None:
        """A reserved hyperparameter as a boolean, None if it is not set; ``"False"`` of SDK v2 is off."""
        text = self.reserved.get(name)
        return None if text is None else text.strip().lower() not in _OFF

    def number(self, name: str) -> int | None:
        """A reserved hyperparameter as a positive integer, None if it is not set.

        Raises:
            UserError: it is not a positive integer.
        """
        text = self.reserved.get(name)
        if text is None or text.strip().lower() in _OFF[1:3] + _OFF[5:]:
            return None
        if not re.fullmatch(r"[1-9]\d{0,8}", text.strip()):
            raise UserError(f"hyperparameter {name!r} is {text!r}; expected an integer of 1 or more")
        return int(text)


@dataclass(frozen=True)
class ServingEnvironment:
    """The contract of an endpoint; fields are None if they are not set.

    Attributes:
        port: ``SAGEMAKER_BIND_TO_PORT``, set in a pipeline of containers.
        safe_ports: ``SAGEMAKER_SAFE_PORT_RANGE``, first and last port that a container may open in addition.
        workers, timeout: worker processes, and seconds per request, by the names of SageMaker's toolkit, of its
            TensorFlow Serving image and of its scikit-learn example, in this order.
        payload_mb: ``SAGEMAKER_MAX_PAYLOAD_IN_MB`` of a batch transform. Also None for 0, which stands for
            unlimited chunked bodies: bodies are decoded in memory, so the server's own limit applies.
        options: ``FRCNN_SERVE_<OPTION>`` by option, in lower case.
        program: ``SAGEMAKER_PROGRAM``, an inference program of SageMaker's toolkit.
    """

    base: Path
    port: int | None
    safe_ports: tuple[int, int] | None
    workers: int | None
    timeout: int | None
    payload_mb: int | None
    options: Mapping[str, str]
    program: str | None
    service_module: str | None

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> ServingEnvironment:
        """Read the variables.

        Raises:
            UserError: a variable has an invalid value; names both.
        """
        variables = os.environ if variables is None else variables
        prefixes = ("SAGEMAKER_MODEL_SERVER_", "SAGEMAKER_GUNICORN_", "MODEL_SERVER_")
        return cls(
            base=base_folder(variables),
            port=_integer(variables, "SAGEMAKER_BIND_TO_PORT"),
            safe_ports=_ports(variables, "SAGEMAKER_SAFE_PORT_RANGE"),
            workers=_integer(variables, *(f"{prefix}WORKERS" for prefix in prefixes)),
            timeout=_integer(variables, *(f"{prefix}TIMEOUT" for prefix in prefixes)),
            payload_mb=None if _is_zero(variables, PAYLOAD) else _integer(variables, PAYLOAD),
            options={
                name[len(SERVE) :].lower(): text for name, text in sorted(variables.items()) if name.startswith(SERVE)
            },
            program=variables.get("SAGEMAKER_PROGRAM") or None,
            service_module=variables.get("SAGEMAKER_SERVICE_MODULE") or None,
        )

    @property
    def model(self) -> Path:
        return self.base / "model"


def _own_checkpoints(folder: Path | None, texts: Mapping[str, str], variables: Mapping[str, str]) -> Path | None:
    """The checkpoint folder; for a trial of a tuning job, a subfolder of its name: all trials share one S3 address."""
    job_name = variables.get("TRAINING_JOB_NAME")
    if folder is None or not job_name or TUNING_OBJECTIVE not in texts:
        return folder
    return folder / job_name


def _options(texts: Mapping[str, str]) -> dict[str, str]:
    """The hyperparameters that are options, by dotted name.

    ``backbone__name`` stands for ``backbone.name``: SDK v3's ``SourceCode`` makes shell variables of the names.
    """
    options: dict[str, str] = {}
    for name, text in texts.items():
        if RESERVED.match(name):
            continue
        dotted = name.replace("__", ".")
        if options.setdefault(dotted, text) != text:
            raise UserError(
                f"hyperparameters {dotted!r} and {dotted.replace('.', '__')!r} are the same option and have different "
                "values; remove one of them"
            )
    return options


def _integer(variables: Mapping[str, str], *names: str) -> int | None:
    """The value of the first variable that is set."""
    name = next((name for name in names if variables.get(name)), None)
    if name is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}", variables[name].strip()):
        raise UserError(f"variable {name} is {variables[name]!r}; expected an integer of 1 or more")
    return int(variables[name])


def _is_zero(variables: Mapping[str, str], name: str) -> bool:
    return re.fullmatch("0+", variables.get(name, "").strip()) is not None


def _ports(variables: Mapping[str, str], name: str) -> tuple[int, int] | None:
    if not variables.get(name):
        return None
    match = re.fullmatch(r"(\d{1,5})-(\d{1,5})", variables[name].strip())
    if not match or int(match[1]) > int(match[2]):
        raise UserError(f"variable {name} is {variables[name]!r}; expected FIRST-LAST, such as 9000-9999")
    return int(match[1]), int(match[2])


def base_folder(variables: Mapping[str, str]) -> Path:
    return Path(variables.get("SAGEMAKER_BASE_DIR") or BASE)


def failure_file(base: Path) -> Path:
    return base / "output" / "failure"
