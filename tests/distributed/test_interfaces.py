"""Network interfaces set in the environment: which are refused, and how ranks end on a wrong one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from rank_hosts import mpirun

from frcnn.distributed.interfaces import check_interfaces
from frcnn.errors import UserError


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("NCCL_SOCKET_IFNAME", "lo", False),
        ("NCCL_SOCKET_IFNAME", "l", False),  # NCCL matches prefixes
        ("NCCL_SOCKET_IFNAME", "=l", True),
        ("NCCL_SOCKET_IFNAME", "^docker", False),
        ("NCCL_SOCKET_IFNAME", "eth77", True),
        ("OMPI_MCA_btl_tcp_if_include", "l", True),
        ("OMPI_MCA_btl_tcp_if_include", "10.0.0.0/8", False),
        ("OMPI_MCA_oob_tcp_if_include", "lo,eth77", True),
    ],
)
def test_interfaces_must_exist(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: bool) -> None:
    monkeypatch.setenv(variable, value)
    raised = pytest.raises(
        UserError, match=rf"^{variable} is .*, but network interface '\w+' does not exist on .*; expected one of lo"
    )
    with raised if problem else contextlib.nullcontext():
        check_interfaces()


@pytest.mark.usefixtures("horovod")
def test_ranks_end_together_with_one_sentence(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth77")
    done = mpirun(2, "-m", "frcnn", "train", "--config", str(recipe), f"output={tmp_path}", timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("frcnn: NCCL_SOCKET_IFNAME is 'eth77', but network interface 'eth77' does not exist") == 1
    assert "Traceback" not in done.stderr
    assert "MPI_ABORT" not in done.stderr
