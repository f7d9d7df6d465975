"""Fixtures of the tests with several ranks, which skip with the reason where ranks cannot be started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from frcnn.data.shapes import make_shapes

sys.path.insert(0, str(Path(__file__).parent))  # for rank_hosts: tests are not a package

from rank_hosts import TwoHosts


@pytest.fixture(scope="session")
def horovod() -> None:
    """Skips the test if ranks cannot be started."""
    missing = [name for name in ("mpirun", "orted") if not shutil.which(name)]
    missing += [name for name in ("horovod", "mpi4py") if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not found: run scripts/install_system_packages.sh distributed (root), then "
            f"PYTHON={sys.executable} scripts/build_horovod.sh --install"
        )


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=30, seed=0)


@pytest.fixture(scope="session")
def recipe(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file: 64 pixels, one canvas, a narrow detector, 24 images, 2 per step, 20 steps."""
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(
        f"""
data: {{root: {shapes}, workers: 1}}
image: {{min_size: [64], max_size: 64, canvas_aspects: [1.0]}}
backbone: {{name: resnet18, norm: gn}}
fpn: {{channels: 32}}
anchors: {{sizes: [8, 16, 32, 64, 128]}}
rpn: {{pre_nms_train: 60, post_nms_train: 30, pre_nms_test: 60, post_nms_test: 20, samples: 64}}
roi_head: {{samples: 8, fc_channels: 32}}
optimizer: {{warmup_steps: 4, base_batch_size: 2, learning_rate: 0.0005}}
training: {{batch_size: 2, epochs: 1.6667, log_every: 1, evaluate_every: null}}
"""
    )
    return file


def _why_two_hosts_are_impossible() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "two hosts on one machine need network namespaces: Linux, as root"
    missing = [
        tool for tool in ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "/usr/sbin/sshd") if not shutil.which(tool)
    ]
    if missing:
        return f"two hosts need {', '.join(missing)}: scripts/install_system_packages.sh distributed"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"], capture_output=True, check=False
    )
    return f"this machine forbids namespaces: {tried.stderr.decode().strip()}" if tried.returncode else ""


@pytest.fixture(scope="session")
def two_hosts(horovod: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    if reason := _why_two_hosts_are_impossible():
        pytest.skip(reason)
    hosts = TwoHosts(tmp_path_factory.mktemp("hosts"))
    yield hosts
    hosts.close()
