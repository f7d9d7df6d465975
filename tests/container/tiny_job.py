"""A training job small enough for tests, in a folder in place of ``/opt/ml``, with a real process 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TINY = {
    "image.min_size": "[64]", "image.max_size": "64", "image.canvas_aspects": "[1.0]", "backbone.name": "resnet18",
    "backbone.norm": "frozen_bn", "fpn.channels": "32", "anchors.sizes": "[8,16,32,64,128]", "rpn.pre_nms_train": "60",
    "rpn.post_nms_train": "30", "rpn.pre_nms_test": "60", "rpn.post_nms_test": "20", "roi_head.samples": "16",
    "roi_head.fc_channels": "32", "optimizer.warmup_steps": "4", "optimizer.base_batch_size": "4",
    "training.batch_size": "4", "training.epochs": "1", "training.log_every": "1", "training.evaluate_every": "null",
    "optimizer.learning_rate": "0.002", "optimizer.clip_norm": "1.0",
}  # fmt: skip


@dataclass
class Container:
    """The ``/opt/ml`` of a job and its process, whose output goes to the file ``log``."""

    base: Path
    variables: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.base / "log").read_text()

    @property
    def failure(self) -> str:
        return (self.base / "output" / "failure").read_text()

    def start(self, *arguments: str, command: tuple[str, ...] = (sys.executable, "-m", "frcnn.entrypoint")) -> None:
        out: IO[bytes] = (self.base / "log").open("wb")
        variables = {**os.environ, "SAGEMAKER_BASE_DIR": str(self.base), "TRAINING_JOB_NAME": "test", **self.variables}
        variables.pop("PYTEST_CURRENT_TEST", None)
        self.process = subprocess.Popen(
            [*command, *(arguments or ("train",))],
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=400)

    def wait_for(self, text: str) -> None:
        assert self.process is not None
        while text not in self.log:
            assert self.process.poll() is None, self.log
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
