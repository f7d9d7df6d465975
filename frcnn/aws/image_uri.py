"""The full name of an image in Amazon ECR."""

from __future__ import annotations

import re

from frcnn.aws.service_model import partition_suffix
from frcnn.errors import UserError

_REPOSITORY = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?:/[a-z0-9]+(?:[._-][a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_URI = re.compile(r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.([a-z0-9.-]+)/(.+)")


def get_image_uri(repository: str, tag: str, *, account: str | None = None, region: str | None = None) -> str:
    """``ACCOUNT.dkr.ecr.REGION.SUFFIX/REPOSITORY:TAG``, the last line that ``scripts/push_ecr.sh`` prints.

    Args:
        repository: name in ECR, possibly with slashes.
        tag: tag, or a digest ``sha256:…``, which later pushes cannot change.
        account: twelve digits; None: the account of the current credentials.
        region: such as ``us-east-1``; None: the configured one.

    Raises:
        UserError: a part does not have the form that ECR accepts, or credentials or a region are missing.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(
            f"repository {repository!r} is not a valid ECR name; expected lower-case letters and digits, "
            "separated by . _ - /"
        )
    digest = bool(_DIGEST.fullmatch(tag))
    if not digest and not _TAG.fullmatch(tag):
        raise UserError(
            f"tag {tag!r} is neither a tag (letters, digits, . _ -, at most 128) nor a digest (sha256: and 64 digits)"
        )
    if account is None or region is None:
        account, region = _current_account(account, region)
    if not re.fullmatch(r"\d{12}", account):
        raise UserError(f"account {account!r} is not an AWS account id; expected twelve digits")
    return f"{account}.dkr.ecr.{region}.{partition_suffix(region)}/{repository}{'@' if digest else ':'}{tag}"


def region_of_image(image: str) -> str:
    """Region of an image in ECR. SageMaker pulls images only from its own region.

    Raises:
        UserError: the image is not in ECR, the only registry that SageMaker pulls from.
    """
    parts = _URI.fullmatch(image)
    if not parts:
        raise UserError(
            f"image {image!r} is not in Amazon ECR, the only registry SageMaker pulls from; push it with "
            "scripts/push_ecr.sh"
        )
    return parts[2]


def _current_account(account: str | None, region: str | None) -> tuple[str, str]:
    from frcnn.aws.account import call_aws, open_session

    session = open_session(region)
    return account or call_aws(session.client("sts").get_caller_identity)["Account"], session.region_name
