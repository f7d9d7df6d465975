"""A host of a training job as SageMaker sets it up: its /opt/ml on this machine, and its container."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine import DOCKER

SMALL = {
    "backbone.name": "resnet18",
    "backbone.norm": "gn",
    "fpn.channels": "64",
    "roi_head.fc_channels": "128",
    "roi_head.samples": "32",
    "rpn.post_nms_train": "200",
    "rpn.post_nms_test": "100",
    "image.min_size": "[96]",
    "image.max_size": "128",
    "image.canvas_aspects": "[1.34]",
    "optimizer.warmup_steps": "2",
    "training.batch_size": "2",
    "training.log_every": "1",
    "training.evaluate_every": "null",
    "training.epochs": '"0.5"',  # in JSON quotes, as some SDKs send it
}
ENDLESS = {**SMALL, "training.epochs": "10000"}


@dataclass
class Host:
    """``folder`` holds the parts of /opt/ml; ``container`` is empty until :meth:`start`."""

    name: str
    folder: Path
    docker: Callable[..., str]
    container: str = ""

    def prepare(self, hyperparameters: dict[str, str], names: list[str]) -> None:
        for part in ("input/config", "input/data/training", "model", "output", "checkpoints"):
            (self.folder / part).mkdir(parents=True)
        group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.c5.xlarge", "hosts": names}
        resources = {
            "current_host": self.name,
            "hosts": names,
            "network_interface_name": "eth0",
            "current_instance_type": "ml.c5.xlarge",
        }
        for file, content in {
            "hyperparameters": hyperparameters,
            "inputdataconfig": {"training": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"}},
            "resourceconfig": {**resources, "current_group_name": "homogeneousCluster", "instance_groups": [group]},
        }.items():
            (self.folder / f"input/config/{file}.json").write_text(json.dumps(content))

    def start(self, image: str, channel: Path, *arguments: str) -> None:
        mounts = []
        for part in ("model", "output", "checkpoints"):
            mounts += ["--volume", f"{self.folder / part}:/opt/ml/{part}"]
        mounts += [
            "--volume",
            f"{self.folder / 'input'}:/opt/ml/input:ro",
            "--volume",
            f"{channel}:/opt/ml/input/data/training:ro",
        ]
        self.container = self.docker("run", "--detach", "--hostname", self.name, *mounts, *arguments, image, "train")

    @property
    def log(self) -> str:
        done = subprocess.run(
            [DOCKER, "logs", self.container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        return done.stdout

    @property
    def running(self) -> bool:
        return self.docker("inspect", "--format", "{{.State.Running}}", self.container) == "true"

    def exit_code(self, timeout: float = 900) -> int:
        return int(self.docker("wait", self.container, timeout=timeout))

    def steps(self) -> list[int]:
        """The steps in the log's metric lines."""
        return [int(step) for step in re.findall(r"\bstep=(\d+)", self.log)]

    def wait_for_step(self, step: int, timeout: float = 900) -> None:
        deadline = time.monotonic() + timeout
        while max(self.steps(), default=0) < step:
            assert self.running, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.5)

    def failure(self) -> str:
        return (self.folder / "output/failure").read_text()

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir())
