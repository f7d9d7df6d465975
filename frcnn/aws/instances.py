"""Facts about instance types that requests need: GPU count, local NVMe disks, and host images with a recent GPU driver.

Only requests use this table; containers count their devices.
"""

from __future__ import annotations

import difflib
import re
from types import MappingProxyType

from frcnn.errors import UserError

# p2 to p5, g4dn and g5: the table of the SageMaker SDK (2.257.7); newer families: EC2's list of instance types, g7 and
# g7e as in dstackai/dstack#4063 and aws/sagemaker-hyperpod-cli#390.
_EIGHT = ("p3.16", "p3dn.24", "p4d.24", "p4de.24", "p5.48", "p5e.48", "p5en.48", "p6-b200.48", "p6-b300.48", "p2.8")
_ONE_OF_G = (
    *(f"{family}.{size}" for family in ("g4dn", "g5", "g6", "g6e") for size in ("", "2", "4", "8", "16")),
    *(f"{family}.{size}" for family in ("g7", "g7e") for size in ("2", "4", "8")),
)
_FOUR_OF_G = (
    "g4dn.12",
    "g7.24",
    "g7e.24",
    *(f"{family}.{size}" for family in ("g5", "g6", "g6e") for size in ("12", "24")),
)
GPUS = MappingProxyType(
    {f"ml.{name}xlarge": 8 for name in (*_EIGHT, "g5.48", "g6.48", "g6e.48", "g7.48", "g7e.48")}
    | {f"ml.{name}xlarge": 1 for name in ("p2.", "p3.2", "p5.4")}
    | {f"ml.{name}xlarge": 1 for name in _ONE_OF_G}
    | {f"ml.{name}xlarge": 4 for name in (*_FOUR_OF_G, "p3.8", "p6e-gb200.36")}
    | {"ml.g7.12xlarge": 2, "ml.g7e.12xlarge": 2, "ml.p2.16xlarge": 16}
)
LOCAL = ("local", "local_gpu")  # the SDK's local mode, on this machine's Docker
_ACCELERATED = re.compile(r"ml\.(p|g|trn|inf|dl)\d")
_NVME_DISKS = re.compile(r"ml\.(p3dn|p4de?|p5\w*|p6\S*?|g4dn|g5|g6e?|g7e?|[cmr]\d\w*d\w*)\.")

# The image has CUDA 12.9, which requires driver branch 535, 550 or 570, or a driver that has CUDA 12.9 itself. With any
# other the container runtime refuses to start the container, before anything is logged. These families serve on driver
# 470 unless the request names another host image (SageMaker developer guide, "GPU driver upgrades"); newer families
# have 535 or later. Amazon Linux 2, whose support ended in June 2026, is used only where there is nothing newer.
_ENDPOINT_AMIS = MappingProxyType(
    dict.fromkeys(("g4dn", "g5", "p4d", "p4de"), "al2023-ami-sagemaker-inference-gpu-4-1")  # driver 580
    | {"p3": "al2-ami-sagemaker-inference-gpu-2"}  # driver 535
)
_TRANSFORM_AMIS = MappingProxyType(dict.fromkeys(("g4dn", "g5", "g6", "g6e", "p3"), "al2-ami-sagemaker-batch-gpu-535"))


def processes_per_host(instance_type: str) -> int:
    """Training processes of one instance: one per GPU, or one without GPUs.

    Raises:
        UserError: the type has accelerators and their number is not in the table.
    """
    if instance_type in GPUS:
        return GPUS[instance_type]
    if _ACCELERATED.match(instance_type):
        near = difflib.get_close_matches(instance_type, GPUS, n=3, cutoff=0.85)
        raise UserError(
            f"instance_type is {instance_type!r}, which is not known; "
            + (f"did you mean {' or '.join(near)}? For a new type, " if near else "")
            + "set processes_per_host to its number of GPUs"
        )
    return 1


def has_nvme_disks(instance_type: str) -> bool:
    """Whether the type has local NVMe disks, for which SageMaker ignores a request's volume size."""
    return bool(_NVME_DISKS.match(instance_type))


def endpoint_ami(instance_type: str) -> str | None:
    """``InferenceAmiVersion`` whose driver can run the image; None if AWS's default can or the type has no GPU."""
    return _ENDPOINT_AMIS.get(_family(instance_type))


def transform_ami(instance_type: str) -> str | None:
    """``TransformAmiVersion``, like :func:`endpoint_ami`."""
    return _TRANSFORM_AMIS.get(_family(instance_type))


def _family(instance_type: str) -> str:
    """``g5`` of ``ml.g5.xlarge``."""
    return instance_type.removeprefix("ml.").partition(".")[0]
