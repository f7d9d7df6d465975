"""Options that the toolkit's parser or Open MPI fails on are rejected; all others pass."""

from __future__ import annotations

import pytest

from frcnn.container.mpi_options import TOOLKIT_PARAMETERS, check_mpi_options
from frcnn.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-x HOROVOD_FUSION_THRESHOLD=33554432 -x TF_CUDNN_USE_AUTOTUNE=0",
        "--NCCL_DEBUG WARN -x PYTHONUNBUFFERED=1",
        "--NCCL_DEBUG=WARN",
        "-x OMPI_MCA_btl_vader_single_copy_mechanism=none",
        "-mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 2",
        "-bind-to socket -H",
        "-x pml",
    ],
)
def test_valid_options(text: str) -> None:
    check_mpi_options(text)


@pytest.mark.parametrize("flag", ["-mca", "--mca", "-gmca"])
@pytest.mark.parametrize("parameter", TOOLKIT_PARAMETERS)
def test_parameters_set_by_the_toolkit(flag: str, parameter: str) -> None:
    with pytest.raises(
        UserError, match=f"'{flag} {parameter}' is already set by the toolkit.*-x OMPI_MCA_{parameter}=VALUE"
    ):
        check_mpi_options(f"-x A=1 {flag} {parameter} none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--help", "as if it had succeeded"),
        ("--he", "as if it had succeeded"),
        ("-hostfile hosts", "parses '-hostfile' as -h"),
        ("-hetero-nodes", "parses '-hetero-nodes' as -h"),
        ("-h", "parses '-h' as -h"),
        ("--NCCL INFO", "parses '--NCCL' as --NCCL_DEBUG"),
        ("--N=INFO", "parses '--N=INFO' as --NCCL_DEBUG"),
        ("--NCCL_DEBUG", "has no value"),
        ("-x 'A=1 2'", "contains a quote"),
    ],
)
def test_options_that_the_toolkit_would_misread(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_mpi_options(text)


@pytest.mark.parametrize(
    "text",
    [
        "--help",
        "--he",
        "-hostfile hosts",
        "-h",
        "--NCCL INFO",
        "--N=INFO",
        "--NCCL_DEBUG",
        "-x A=1",
        "--NCCL_DEBUG WARN",
        "-H",
        "--host a",
        "-bind-to none",
    ],
)
def test_toolkit_agrees(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An option is rejected exactly if the toolkit's parser exits, or abbreviates it to NCCL_DEBUG."""
    mpi = pytest.importorskip(
        "sagemaker_training.mpi", reason="SageMaker's toolkit is not installed: pip install 'frcnn[container]'"
    )
    try:
        known, _ = mpi._parse_custom_mpi_options(text)
        harmless = known.NCCL_DEBUG == "INFO" or "--NCCL_DEBUG" in text
        harmless &= "--NCCL " not in text and "--N=" not in text
    except SystemExit:
        harmless = False
    try:
        check_mpi_options(text)
        passed = True
    except UserError:
        passed = False
    assert passed is harmless
