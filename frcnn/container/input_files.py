"""The files in ``/opt/ml/input/config``: hyperparameters, channels, hosts, checkpoints. Each may be missing.

Every reader raises a UserError that names the file, what was found and what was expected.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from frcnn.errors import UserError

MODES = ("File", "FastFile", "Pipe")
DISTRIBUTIONS = ("FullyReplicated", "ShardedByS3Key")
INTERFACES = Path("/sys/class/net")
ROUTES = Path("/proc/net/route")


@dataclass(frozen=True)
class InputChannel:
    """One input channel.

    Attributes:
        folder: its files in the modes File and FastFile.
        record_wrapper: ``"RecordIO"`` if the stream of a Pipe channel is framed, else the string ``"None"``.
    """

    name: str
    folder: Path
    mode: Literal["File", "FastFile", "Pipe"] = "File"
    distribution: Literal["FullyReplicated", "ShardedByS3Key"] = "FullyReplicated"
    record_wrapper: str = "None"
    content_type: str | None = None

    def pipe(self, epoch: int) -> Path:
        """The FIFO of an epoch, counted from 0; SageMaker creates it when the previous one has been read."""
        return self.folder.with_name(f"{self.name}_{epoch}")


@dataclass(frozen=True)
class ResourceConfig:
    """The job's hosts and this container's place among them.

    Attributes:
        hosts: all host names in the launcher's order; the first is the leader.
        interface: name of an existing network interface.
        wanted_interface: the name in the file, which may not exist.
        instance_types: types of the job's instance groups; more than one means a heterogeneous cluster.
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


def existing_interface(wanted: str, interfaces: Path = INTERFACES, routes: Path = ROUTES) -> str:
    """``wanted`` if this network interface exists, else the default route's, else any but the loopback.

    The local mode of SageMaker's SDK v3 writes ``ethwe``, which no container has; Open MPI would abort the job.
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


def read_hyperparameters(file: Path) -> dict[str, str]:
    """Strings by name. SDK v2's Estimator writes ``str(value)``, its frameworks and SDK v3 JSON, boto3 any string."""
    texts = {}
    for name, value in _read_object(file).items():
        text = value if isinstance(value, str) else json.dumps(value)
        texts[name] = _unquoted(text.strip())
    return texts


def _unquoted(text: str) -> str:
    """The string without JSON quotes (``'"0.5"'``, ``'"[1, 2]"'``), and a Python tuple as a JSON list."""
    if text.startswith('"') and text.endswith('"'):
        try:
            text = json.loads(text)
        except json.JSONDecodeError:
            return text
    return f"[{text[1:-1].rstrip().rstrip(',')}]" if text.startswith("(") and text.endswith(")") else text


def read_channels(file: Path, data: Path) -> tuple[InputChannel, ...]:
    """The channels, by name. The folder is not listed, as SageMaker adds files to it such as ``train-manifest``."""
    channels = []
    for name, entry in sorted(_read_object(file).items()):
        if not isinstance(entry, dict):
            raise UserError(
                f"{file}: channel {name!r} is {json.dumps(entry)}; expected an object with 'TrainingInputMode'"
            )
        mode = _one_of(MODES, entry, "TrainingInputMode", name, file)
        distribution = _one_of(DISTRIBUTIONS, entry, "S3DistributionType", name, file)
        wrapper = entry.get("RecordWrapperType") or "None"
        channels.append(InputChannel(name, data / name, mode, distribution, wrapper, entry.get("ContentType")))
    return tuple(channels)


def _one_of(known: tuple[str, ...], entry: Mapping[str, Any], key: str, channel: str, file: Path) -> Any:
    """A channel's setting; defaults to the first known value."""
    value = entry.get(key) or known[0]
    if value not in known:
        raise UserError(f"{file}: {key} of channel {channel!r} is {value!r}; expected one of {', '.join(known)}")
    return value


def read_resources(file: Path) -> ResourceConfig:
    """The hosts in the toolkit's order (its leader is the instance group's first); without a file, this host alone."""
    content = _read_object(file)
    current = content.get("current_host") or socket.gethostname()
    hosts = content.get("hosts") or [current]
    groups = content.get("instance_groups") or []
    if not (isinstance(hosts, list) and all(isinstance(host, str) for host in hosts) and current in hosts):
        raise UserError(
            f"{file}: 'hosts' is {json.dumps(hosts)}; expected a list of names with the current host {current!r}"
        )
    if not (isinstance(groups, list) and all(isinstance(group, dict) for group in groups)):
        raise UserError(f"{file}: 'instance_groups' is {json.dumps(groups)}; expected a list of objects")
    listed = [host for group in groups for host in group.get("hosts") or [] if host in hosts]
    wanted = content.get("network_interface_name") or "eth0"
    return ResourceConfig(
        current_host=current,
        hosts=tuple(listed) if len(listed) == len(hosts) else tuple(hosts),
        interface=existing_interface(wanted),
        wanted_interface=wanted,
        instance_type=content.get("current_instance_type"),
        instance_types=tuple(sorted({str(group["instance_type"]) for group in groups if group.get("instance_type")})),
    )


def read_checkpoints(file: Path, base: Path) -> Path | None:
    """The folder that SageMaker synchronises with S3: ``LocalPath`` or ``checkpoints``; None if it does not exist."""
    local = _read_object(file).get("LocalPath")
    return existing_folder(local if isinstance(local, str) else None) or existing_folder(str(base / "checkpoints"))


def existing_folder(path: str | None) -> Path | None:
    """The folder at ``path``, or None if it does not exist."""
    return Path(path) if path and Path(path).is_dir() else None


def _read_object(file: Path) -> dict[str, Any]:
    """The file's JSON object; empty if the file does not exist."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}); run the container as root, who alone may read SageMaker's files"
        ) from error
    except (ValueError, RecursionError) as error:  # RecursionError: nested a thousand times
        raise UserError(f"{file} is not valid JSON ({error}); expected a JSON object") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} contains a {type(content).__name__}; expected a JSON object")
    return content
