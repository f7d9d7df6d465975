"""The table against values copied by hand from AWS's documentation, and against botocore's list of types."""

from __future__ import annotations

import pytest
from botocore.loaders import create_loader
from botocore.model import ServiceModel

from frcnn.aws.instances import GPUS, has_nvme_disks, processes_per_host
from frcnn.errors import UserError

TYPES = (
    ServiceModel(create_loader().load_service_model("sagemaker", "service-2")).shape_for("TrainingInstanceType").enum
)


@pytest.mark.parametrize(
    ("instance_type", "processes"),
    [
        ("ml.p3.2xlarge", 1),
        ("ml.p3.8xlarge", 4),
        ("ml.p3.16xlarge", 8),
        ("ml.p4d.24xlarge", 8),
        ("ml.p5.48xlarge", 8),
        ("ml.p5.4xlarge", 1),
        ("ml.p6-b200.48xlarge", 8),
        ("ml.g4dn.xlarge", 1),
        ("ml.g4dn.12xlarge", 4),
        ("ml.g5.16xlarge", 1),
        ("ml.g5.12xlarge", 4),
        ("ml.g5.24xlarge", 4),
        ("ml.g5.48xlarge", 8),
        ("ml.g7.8xlarge", 1),
        ("ml.g7.12xlarge", 2),
        ("ml.g7.24xlarge", 4),
        ("ml.g7.48xlarge", 8),
        ("ml.g7e.2xlarge", 1),
        ("ml.g7e.12xlarge", 2),
        ("ml.g7e.24xlarge", 4),
        ("ml.g7e.48xlarge", 8),
        ("ml.c5.18xlarge", 1),
        ("ml.m5.large", 1),
    ],
)
def test_one_process_per_gpu_and_one_without_gpus(instance_type: str, processes: int) -> None:
    assert processes_per_host(instance_type) == processes


def test_every_type_in_the_table_is_a_training_instance_type() -> None:
    assert {name for name in GPUS if name not in TYPES} == set()


def test_every_gpu_type_that_sagemaker_trains_on_is_in_the_table() -> None:
    """Inferentia and Trainium are not GPUs, and the image cannot use them."""
    assert {name for name in TYPES if name.startswith(("ml.p", "ml.g"))} - GPUS.keys() == set()


@pytest.mark.parametrize("instance_type", ["ml.trn1.32xlarge", "ml.g9.xlarge"])
def test_unknown_accelerators_are_an_error(instance_type: str) -> None:
    with pytest.raises(UserError, match=f"instance_type is '{instance_type}', which is not known; .*set proc"):
        processes_per_host(instance_type)


def test_a_mistyped_type_gets_suggestions() -> None:
    with pytest.raises(UserError, match=r"did you mean ml\.g5\.xlarge or .*\? For a new type, set processes_per_host"):
        processes_per_host("ml.g5.xlagre")


@pytest.mark.parametrize(
    ("instance_type", "nvme"),
    [
        ("ml.p3.8xlarge", False),
        ("ml.p3dn.24xlarge", True),
        ("ml.g5.xlarge", True),
        ("ml.m5.large", False),
        ("ml.m5d.large", True),
        ("ml.p4d.24xlarge", True),
    ],
)
def test_types_with_nvme_disks(instance_type: str, nvme: bool) -> None:
    assert has_nvme_disks(instance_type) is nvme
