"""What SageMaker gives a container and wants back, as one immutable object: the folder ``/opt/ml`` and the variables.

Nothing else reads those files or variables. Whatever may be absent is optional here, since local runs, SageMaker's local
mode and the service itself differ in what they write.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from frcnn.errors import UserError

BASE = Path("/opt/ml")
MODES = ("File", "FastFile", "Pipe")
DISTRIBUTIONS = ("FullyReplicated", "ShardedByS3Key")
SERVE = "FRCNN_SERVE_"
INTERFACES = Path("/sys/class/net")
ROUTES = Path("/proc/net/route")
RESERVED = re.compile(r"sagemaker_|_tuning_objective_metric$|default_user_module_name$")
_OFF = ("", "false", "no", "off", "0", "none", "null")


@dataclass(frozen=True)
class Channel:
    """One input channel.

    Attributes:
        folder: where its files are in the modes File and FastFile.
        record_wrapper: ``RecordIO`` where the stream of a Pipe channel is framed, else ``None`` as a text.
    """

    name: str
    folder: Path
    mode: Literal["File", "FastFile", "Pipe"] = "File"
    distribution: Literal["FullyReplicated", "ShardedByS3Key"] = "FullyReplicated"
    record_wrapper: str = "None"
    content_type: str | None = None

    def pipe(self, epoch: int) -> Path:
        """The FIFO of an epoch, counted from 0; SageMaker makes it when the one before was read."""
        return self.folder.with_name(f"{self.name}_{epoch}")


@dataclass(frozen=True)
class Resources:
    """Where this container stands among the job's hosts.

    Attributes:
        hosts: all, in the order of the launcher: the first is the leader.
        interface: name of a network interface that exists here.
        wanted_interface: the name that SageMaker gave, which may not exist.
        instance_types: of the job's instance groups; more than one means a heterogeneous cluster.
    """

    current_host: str
    hosts: tuple[str, ...]
    interface: str
    wanted_interface: str
    instance_type: str | None = None
    instance_types: tuple[str, ...] = ()

    @property
    def is_leader(self) -> bool:
        return self.current_host == self.hosts[0]


@dataclass(frozen=True)
class Environment:
    """The contract, read once.

    Attributes:
        options: hyperparameters that are options of the configuration, as texts; a value that SDKs wrapped in JSON quotes is unwrapped.
        reserved: hyperparameters that are SageMaker's own (``sagemaker_…``), as texts.
        checkpoints: the folder that SageMaker keeps in S3, or None where the job has none.
        warm_pool_cache: survives into the next job of a warm pool; None outside one.
        job_arn: names the job uniquely; None outside SageMaker.
        ssh_secret: mixed into the job's SSH key.
        launched: this process is one of the ranks that mpirun started.
        program: a user's own script that is to run in place of ours.
        training_module, service_module: ``package.module:function`` to run in place of ours.
    """

    base: Path
    options: Mapping[str, str]
    reserved: Mapping[str, str]
    channels: tuple[Channel, ...]
    resources: Resources
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
            UserError: a file is not what SageMaker writes; it names the file, what was found and what was expected.
        """
        variables = os.environ if variables is None else variables
        base = base_folder(variables)
        config = base / "input" / "config"
        texts = _hyperparameters(config / "hyperparameters.json")
        return cls(
            base=base,
            options={name: text for name, text in texts.items() if not RESERVED.match(name)},
            reserved={name: text for name, text in texts.items() if RESERVED.match(name)},
            channels=_channels(config / "inputdataconfig.json", base / "input" / "data"),
            resources=_resources(config / "resourceconfig.json"),
            checkpoints=_checkpoints(config / "checkpointconfig.json", base),
            warm_pool_cache=_folder(variables.get("SAGEMAKER_MANAGED_WARMPOOL_CACHE_DIRECTORY")),
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
        """What is left here becomes ``model.tar.gz``, merged from all hosts."""
        return self.base / "model"

    @property
    def output(self) -> Path:
        """What is left here becomes ``output.tar.gz``, merged from all hosts."""
        return self.base / "output" / "data"

    @property
    def failure_file(self) -> Path:
        """Its first 1024 characters become the job's ``FailureReason``."""
        return failure_file(self.base)

    @property
    def code(self) -> Path:
        """Where the training toolkit runs programs."""
        return self.base / "code"

    def switch(self, name: str) -> bool | None:
        """A reserved hyperparameter as on or off, None where it is not given; ``"False"`` is off, whoever wrote it."""
        text = self.reserved.get(name)
        return None if text is None else text.strip().lower() not in _OFF

    def number(self, name: str) -> int | None:
        """A reserved hyperparameter as a positive integer, None where it is not given.

        Raises:
            UserError: it is something else.
        """
        text = self.reserved.get(name)
        if text is None or text.strip().lower() in _OFF[1:3] + _OFF[5:]:
            return None
        if not re.fullmatch(r"[1-9]\d{0,8}", text.strip()):
            raise UserError(f"hyperparameter {name!r} is {text!r}; expected an integer of 1 or more")
        return int(text)


@dataclass(frozen=True)
class Hosting:
    """What an endpoint's container is told; None where it is not.

    Attributes:
        port: ``SAGEMAKER_BIND_TO_PORT``, in a pipeline of containers.
        safe_ports: ``SAGEMAKER_SAFE_PORT_RANGE``, first and last port that a container may open beside it.
        workers, timeout: processes, and seconds of a request, by the names of SageMaker's toolkit, of its TensorFlow Serving
            image and of its scikit example, in this order.
        payload_mb: ``SAGEMAKER_MAX_PAYLOAD_IN_MB`` of a batch transform.
        options: ``FRCNN_SERVE_<OPTION>`` by option, lower case.
    """

    base: Path
    port: int | None
    safe_ports: tuple[int, int] | None
    workers: int | None
    timeout: int | None
    payload_mb: int | None
    options: Mapping[str, str]
    service_module: str | None

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Hosting:
        """Read the variables.

        Raises:
            UserError: one is not what was expected; names it and its value.
        """
        variables = os.environ if variables is None else variables
        prefixes = ("SAGEMAKER_MODEL_SERVER_", "SAGEMAKER_GUNICORN_", "MODEL_SERVER_")
        return cls(
            base=base_folder(variables),
            port=_integer(variables, "SAGEMAKER_BIND_TO_PORT"),
            safe_ports=_ports(variables, "SAGEMAKER_SAFE_PORT_RANGE"),
            workers=_integer(variables, *(f"{prefix}WORKERS" for prefix in prefixes)),
            timeout=_integer(variables, *(f"{prefix}TIMEOUT" for prefix in prefixes)),
            payload_mb=_integer(variables, "SAGEMAKER_MAX_PAYLOAD_IN_MB"),
            options={name[len(SERVE) :].lower(): text for name, text in sorted(variables.items()) if name.startswith(SERVE)},
            service_module=variables.get("SAGEMAKER_SERVICE_MODULE") or None,
        )

    @property
    def model(self) -> Path:
        return self.base / "model"


def _integer(variables: Mapping[str, str], *names: str) -> int | None:
    """Of the first variable that is set."""
    name = next((name for name in names if variables.get(name)), None)
    if name is None:
        return None
    if not re.fullmatch(r"[1-9]\d{0,8}", variables[name].strip()):
        raise UserError(f"variable {name} is {variables[name]!r}; expected an integer of 1 or more")
    return int(variables[name])


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


def existing_interface(wanted: str, interfaces: Path = INTERFACES, routes: Path = ROUTES) -> str:
    """``wanted`` if this machine has such a network interface, else the one of the default route, else any but the loopback.

    SageMaker's local mode writes ``ethwe``, which no container has; Open MPI ends the job for it.
    """
    present = sorted(os.listdir(interfaces)) if interfaces.is_dir() else []
    if wanted in present or not present:
        return wanted
    if routes.exists():
        rows = [line.split() for line in routes.read_text().splitlines()[1:]]
        default = [row[0] for row in rows if len(row) > 1 and row[1] == "00000000" and row[0] in present]
        if default:
            return default[0]
    others = [name for name in present if name != "lo"]
    return (others or present)[0]


def _hyperparameters(file: Path) -> dict[str, str]:
    """Flat texts. Estimators of SDK v2 write ``str(value)``, frameworks and SDK v3 JSON, the console and boto3 plain texts."""
    texts = {}
    for name, value in _read_object(file).items():
        text = value if isinstance(value, str) else json.dumps(value)
        texts[name] = _unquoted(text.strip())
    return texts


def _unquoted(text: str) -> str:
    """``'"0.5"'`` and ``'"[1, 2]"'`` without the quotes of JSON, and a Python tuple as the list it stands for."""
    if text.startswith('"') and text.endswith('"'):
        try:
            text = json.loads(text)
        except json.JSONDecodeError:
            return text
    return f"[{text[1:-1].rstrip().rstrip(',')}]" if text.startswith("(") and text.endswith(")") else text


def _channels(file: Path, data: Path) -> tuple[Channel, ...]:
    """By name. The folder is not listed: SageMaker puts other things there, such as ``train-manifest``."""
    channels = []
    for name, entry in sorted(_read_object(file).items()):
        if not isinstance(entry, dict):
            raise UserError(f"{file}: channel {name!r} is {json.dumps(entry)}; expected an object with 'TrainingInputMode'")
        mode = _one_of(MODES, entry, "TrainingInputMode", name, file)
        distribution = _one_of(DISTRIBUTIONS, entry, "S3DistributionType", name, file)
        wrapper = entry.get("RecordWrapperType") or "None"
        channels.append(Channel(name, data / name, mode, distribution, wrapper, entry.get("ContentType")))
    return tuple(channels)


def _one_of(known: tuple[str, ...], entry: Mapping[str, Any], key: str, channel: str, file: Path) -> Any:
    """A channel's setting, the first known one where it is not given."""
    value = entry.get(key) or known[0]
    if value not in known:
        raise UserError(f"{file}: {key} of channel {channel!r} is {value!r}; expected one of {', '.join(known)}")
    return value


def _resources(file: Path) -> Resources:
    """One host, this one, where there is no file. Hosts are in the order of the toolkit, whose leader is the first of the group."""
    content = _read_object(file)
    current = content.get("current_host") or socket.gethostname()
    hosts = content.get("hosts") or [current]
    groups = content.get("instance_groups") or []
    if not (isinstance(hosts, list) and all(isinstance(host, str) for host in hosts) and current in hosts):
        raise UserError(f"{file}: 'hosts' is {json.dumps(hosts)}; expected a list of names with the current host {current!r} in it")
    if not (isinstance(groups, list) and all(isinstance(group, dict) for group in groups)):
        raise UserError(f"{file}: 'instance_groups' is {json.dumps(groups)}; expected a list of objects")
    listed = [host for group in groups for host in group.get("hosts") or [] if host in hosts]
    wanted = content.get("network_interface_name") or "eth0"
    return Resources(
        current_host=current,
        hosts=tuple(listed) if len(listed) == len(hosts) else tuple(hosts),
        interface=existing_interface(wanted),
        wanted_interface=wanted,
        instance_type=content.get("current_instance_type"),
        instance_types=tuple(sorted({str(group["instance_type"]) for group in groups if group.get("instance_type")})),
    )


def _checkpoints(file: Path, base: Path) -> Path | None:
    local = _read_object(file).get("LocalPath")
    return _folder(local if isinstance(local, str) else None) or _folder(str(base / "checkpoints"))


def _folder(path: str | None) -> Path | None:
    return Path(path) if path and Path(path).is_dir() else None


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); SageMaker mounts it for root, so run the container as root") from error
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); SageMaker writes an object there") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}; expected a JSON object")
    return content
