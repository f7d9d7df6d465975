"""Two hosts in namespaces of this machine, each with its own network, SSH daemon, /opt/ml and process 1; the toolkit,
mpirun and Horovod between them are real."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_job import TINY

HOST = Path(__file__).with_name("host.sh")
NAMES = ("algo-1", "algo-2")


OVERLAY = (
    "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b && "
    "mount -t overlay -o lowerdir=/etc,upperdir=/mnt/a,workdir=/mnt/b overlay /etc"
)


def allowed() -> bool:
    programs = all(map(shutil.which, ("ip", "unshare", "mpirun", "sshd")))
    tried = ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", OVERLAY]
    return programs and subprocess.run(tried, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.skipif(
        not allowed(), reason="needs root's right to make namespaces and overlays, iproute2, Open MPI and sshd"
    ),
    pytest.mark.skipif(
        any(Path(path).resolve().is_relative_to("/tmp") for path in (sys.prefix, HOST)),
        reason="each host has its own /tmp, which hides a checkout there",
    ),
    pytest.mark.skipif(
        subprocess.run(
            [sys.executable, "-c", "import horovod.tensorflow, sagemaker_training"], capture_output=True, check=False
        ).returncode
        != 0,
        reason="needs Horovod (scripts/build_horovod.sh) and sagemaker-training",
    ),
]


@dataclass
class PreparedJob:
    """Both hosts' folders, which are mounted as /opt/ml, and their processes once started."""

    folder: Path
    spaces: tuple[str, str]
    processes: dict[str, subprocess.Popen[bytes]]

    def start(self, hyperparameters: dict[str, str], channels: dict[str, dict[str, str]]) -> None:
        """Start process 1 of both on the data in their folders."""
        group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.c5.xlarge", "hosts": list(NAMES)}
        for name, space in zip(NAMES, self.spaces, strict=True):
            contents = {
                "hyperparameters": {**TINY, **hyperparameters},
                "inputdataconfig": channels,
                "resourceconfig": {
                    "current_host": name, "hosts": list(NAMES), "network_interface_name": "ethwe",
                    "current_instance_type": "ml.c5.xlarge", "current_group_name": "homogeneousCluster",
                    "instance_groups": [group],
                },
            }  # fmt: skip
            for file, content in contents.items():
                (self.folder / name / "input" / "config" / f"{file}.json").write_text(json.dumps(content))
            variables = {name: value for name, value in os.environ.items() if not name.startswith("SAGEMAKER_")}
            command = [
                "ip",
                "netns",
                "exec",
                space,
                "unshare",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ]
            with (self.folder / f"{name}.log").open("wb") as log:
                self.processes[name] = subprocess.Popen(
                    [*command, str(HOST), name, str(self.folder / name), str(self.folder / "hosts"), sys.executable],
                    env={**variables, "TRAINING_JOB_ARN": "arn:aws:sagemaker:::training-job/two-hosts"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def failure(self, name: str) -> str:
        return (self.folder / name / "output" / "failure").read_text()

    def wait_for(self, name: str, text: str) -> None:
        while text not in self.log(name):
            for host, process in self.processes.items():
                assert process.poll() is None, self.log(host)
            time.sleep(0.1)

    def process_one(self, name: str) -> int:
        """Id of the host's process 1, seen from here."""
        unshare = self.processes[name].pid
        return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])

    def ended(self, name: str) -> int:
        return self.processes[name].wait(timeout=400)


@pytest.fixture
def network() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a veth pair, with the interface eth0 in each."""
    spaces = (f"frcnn-a{os.getpid()}", f"frcnn-b{os.getpid()}")

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    try:
        for space in spaces:
            ip("netns", "add", space)
        ip("link", "add", "eth0", "netns", spaces[0], "type", "veth", "peer", "name", "eth0", "netns", spaces[1])
        for number, space in enumerate(spaces, start=1):
            ip("-n", space, "addr", "add", f"198.18.200.{number}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                ip("-n", space, "link", "set", interface, "up")
        yield spaces
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)


@pytest.fixture
def job(tmp_path: Path, network: tuple[str, str]) -> Iterator[PreparedJob]:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n198.18.200.1 algo-1\n198.18.200.2 algo-2\n")
    for name, folder in itertools.product(NAMES, ("input/config", "input/data", "model", "output/data", "checkpoints")):
        (tmp_path / name / folder).mkdir(parents=True)
    job = PreparedJob(tmp_path, network, {})
    yield job
    for process in job.processes.values():
        process.kill()
        process.wait()


@pytest.fixture
def long_job(job: PreparedJob, shapes_channel: Path) -> PreparedJob:
    """All data on each host, and so many epochs that only the test ends the job."""
    for name in NAMES:
        shutil.copytree(shapes_channel, job.folder / name / "input" / "data" / "training")
    job.start({"training.epochs": "500"}, {"training": {"TrainingInputMode": "File"}})
    return job


def test_sigterm_stops_both_hosts_with_a_checkpoint(long_job: PreparedJob) -> None:
    long_job.wait_for("algo-1", "train step=3 ")
    assert "ranks: algo-1: 0; algo-2: 1" in long_job.log("algo-1")
    assert "network: eth0 (ethwe of resourceconfig.json does not exist)" in long_job.log("algo-1")
    for name in NAMES:
        os.kill(long_job.process_one(name), signal.SIGTERM)
    began = time.monotonic()
    assert [long_job.ended(name) for name in NAMES] == [0, 0], long_job.log("algo-1") + long_job.log("algo-2")
    assert time.monotonic() - began < 90
    assert len(list((long_job.folder / "algo-1" / "checkpoints").glob("step-*"))) == 1
    assert not list((long_job.folder / "algo-2" / "checkpoints").iterdir())
    assert not any((long_job.folder / name / "output" / "failure").exists() for name in NAMES)


@pytest.mark.parametrize("killed", NAMES)
def test_killed_host_ends_the_other_and_is_named(long_job: PreparedJob, killed: str) -> None:
    long_job.wait_for("algo-1", "train step=3 ")
    os.kill(long_job.process_one(killed), signal.SIGKILL)
    began = time.monotonic()
    (other,) = set(NAMES) - {killed}
    assert long_job.ended(other) not in (0, 143), long_job.log(other)
    assert time.monotonic() - began < 60
    assert killed in long_job.failure(other).splitlines()[0]


def test_hosts_with_sharded_images_train_together(
    job: PreparedJob, shapes_channel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ShardedByS3Key: every third image on the first host, the others on the second, all annotations on both.

    The toolkit prints its environment, in which the SSH secret must not be.
    """
    monkeypatch.setenv("FRCNN_SSH_SECRET", "the-secret")
    for number, name in enumerate(NAMES):
        channels = job.folder / name / "input" / "data"
        shutil.copytree(shapes_channel / "annotations", channels / "annotations")
        (channels / "train" / "images").mkdir(parents=True)
        for position, image in enumerate(sorted((shapes_channel / "train").iterdir())):
            if (position % 3 > 0) == number:
                shutil.copy(image, channels / "train" / "images")
    sharded = {"TrainingInputMode": "File", "S3DistributionType": "ShardedByS3Key"}
    job.start({"data.sharded": "true"}, {"train": sharded, "annotations": {"TrainingInputMode": "File"}})
    assert [job.ended(name) for name in NAMES] == [0, 0], job.log("algo-1") + job.log("algo-2")
    # Four images a step, two on each host: the second has 16 of the 24, so that an epoch takes 8 steps.
    steps = [int(step) for step in re.findall(r"train step=(\d+) ", job.log("algo-1"))]
    assert steps == list(range(1, 9))
    assert (job.folder / "algo-1" / "model" / "weights.safetensors").is_file()
    assert not any("the-secret" in job.log(name) for name in NAMES)


def test_failure_of_one_host_before_training_ends_both_with_its_reason(job: PreparedJob, shapes_channel: Path) -> None:
    """The toolkit alone would let the leader wait an hour for the SSH daemon of a worker with a bad channel."""
    shutil.copytree(shapes_channel, job.folder / "algo-1" / "input" / "data" / "training")
    (job.folder / "algo-2" / "input" / "data" / "training").mkdir()
    job.start({}, {"training": {"TrainingInputMode": "File"}})
    assert [job.ended(name) for name in NAMES] == [1, 1], job.log("algo-1") + job.log("algo-2")
    reasons = [job.failure(name) for name in NAMES]
    assert reasons[0] == reasons[1]
    assert re.match(r"no annotation file of the train split .*training \(nothing\).* \(host algo-2\)\n", reasons[0])
    assert "mpirun --host" not in job.log("algo-1")
