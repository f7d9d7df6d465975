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
    """``ACCOUNT.dkr.ecr.REGION.SUFFIX/REPOSITORY:TAG``, as ``scripts/push_ecr.sh`` prints it last.

    Args:
        repository: name in ECR, also with slashes.
        tag: tag, or a digest ``sha256:…`` that no later push can change.
        account: twelve digits; None asks AWS whose credentials these are.
        region: such as ``us-east-1``; None takes the configured one.

    Raises:
        UserError: a part is not of the form that ECR takes, or there are no credentials or region to ask with.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(
            f"repository {repository!r} is no name for ECR; expected lower-case letters, digits and . _ - / between them"
        )
    digest = bool(_DIGEST.fullmatch(tag))
    if not digest and not _TAG.fullmatch(tag):
        raise UserError(f"tag {tag!r} is neither a tag (letters, digits, . _ -, at most 128) nor a digest sha256:…")
    if account is None or region is None:
        account, region = _ask_aws(account, region)
    if not re.fullmatch(r"\d{12}", account):
        raise UserError(f"account {account!r} is not an AWS account id; expected twelve digits")
    return f"{account}.dkr.ecr.{region}.{partition_suffix(region)}/{repository}{'@' if digest else ':'}{tag}"


def region_of_image(image: str) -> str:
    """Region of an image in ECR, which is the only one whose SageMaker can use it.

    Raises:
        UserError: the image is not in ECR, from which alone SageMaker pulls.
    """
    parts = _URI.fullmatch(image)
    if not parts:
        raise UserError(
            f"image {image!r} is not in Amazon ECR, from which alone SageMaker pulls; scripts/push_ecr.sh puts it there"
        )
    return parts[2]


def _ask_aws(account: str | None, region: str | None) -> tuple[str, str]:
    from frcnn.aws.account import call_aws, open_session

    session = open_session(region)
    return account or call_aws(session.client("sts").get_caller_identity)["Account"], session.region_name
