"""SageMaker's real training toolkit: with our training, with a user's program, and with mpirun."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_job import Container

from frcnn.container.processes import descendants

pytest.importorskip("sagemaker_training")
MakeContainer = Callable[..., Container]

needs_mpi = pytest.mark.skipif(
    shutil.which("mpirun") is None
    or subprocess.run([sys.executable, "-c", "import horovod.tensorflow"], check=False).returncode != 0,
    reason="no Open MPI with Horovod; scripts/install_system_packages.sh and scripts/build_horovod.sh install them",
)


def test_toolkit_command_trains_with_our_hook(make_container: MakeContainer) -> None:
    container = make_container(variables={"SAGEMAKER_TRAINING_MODULE": "frcnn.container.toolkit:main"})
    container.start("-m", "sagemaker_training.cli.train", command=(sys.executable,))
    assert container.wait() == 0, container.log
    assert "Reporting training SUCCESS" in container.log
    assert (container.base / "model" / "weights.safetensors").exists()
    assert (container.base / "output" / "success").exists()


def test_user_program_gets_toolkit_variables_and_forwarded_signals(make_container: MakeContainer) -> None:
    container = make_container({"sagemaker_program": "mine.py"})
    (container.base / "code").mkdir()
    (container.base / "code" / "mine.py").write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('stop requested', flush=True), sys.exit(0)))\n"
        "print('channel', os.environ['SM_CHANNEL_TRAINING'], flush=True)\n"
        "time.sleep(300)\n"
    )
    container.start()
    container.wait_for(f"channel {container.base / 'input' / 'data' / 'training'}")
    container.signal(signal.SIGTERM)
    assert container.wait() == 0, container.log
    assert "stop requested" in container.log


def test_exception_of_a_user_program_is_in_the_failure_file(make_container: MakeContainer) -> None:
    container = make_container(variables={"SAGEMAKER_PROGRAM": "mine.py"})
    (container.base / "code").mkdir()
    (container.base / "code" / "mine.py").write_text("raise ValueError('my own error')\n")
    container.start()
    assert container.wait() == 1
    assert "ValueError: my own error" in container.failure


@needs_mpi
def test_two_ranks_train_and_stop_together(make_container: MakeContainer) -> None:
    container = make_container({"sagemaker_mpi_num_of_processes_per_host": "2", "training.epochs": "200"})
    container.start()
    container.wait_for("train step=3 ")
    container.signal(signal.SIGTERM)
    assert container.wait() == 0, container.log
    assert re.search(r"\[1,0\]<stdout>:ranks: \S+: 0 1\n", container.log)
    assert re.search(r"\[1,0\]<stdout>:network: .* Open MPI: 4\.1\.\d\n", container.log)
    assert re.search(r"SIG\w+1?: saved a checkpoint at step \d+/1200", container.log)
    assert len(list((container.base / "checkpoints").glob("step-*"))) == 1
    assert "-mca btl self,vader,tcp" in container.log


@needs_mpi
def test_killed_rank_is_reported(make_container: MakeContainer) -> None:
    container = make_container({"sagemaker_mpi_num_of_processes_per_host": "2", "training.epochs": "200"})
    container.start()
    container.wait_for("train step=2 ")
    assert container.process is not None
    below = descendants(container.process.pid)
    ranks = [
        process.pid for process in below if process.name.startswith("python") and _runs(process.pid, "frcnn_train.py")
    ]
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert container.wait() != 0
    assert re.match(r"the process was terminated by SIGKILL \(rank [01], host \S+\)\n", container.failure)


def _runs(pid: int, program: str) -> bool:
    return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


@needs_mpi
def test_missing_network_interface_is_reported(make_container: MakeContainer) -> None:
    container = make_container({"sagemaker_mpi_num_of_processes_per_host": "2"}, {"NCCL_SOCKET_IFNAME": "eth9"})
    container.start()
    assert container.wait() != 0
    assert container.failure.startswith("NCCL_SOCKET_IFNAME is 'eth9', but network interface 'eth9' does not exist on")
    assert "Traceback" not in container.log
