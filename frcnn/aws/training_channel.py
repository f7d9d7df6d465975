"""Input channels of training jobs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from frcnn.aws.request_fields import S3Uri
from frcnn.aws.s3_uri import folder_uri
from frcnn.config import Options


class TrainingChannel(Options):
    """The S3 address of a channel, and how the container reads it."""

    s3: S3Uri = Field(description="folder, or an augmented manifest with ground_truth")
    mode: Literal["File", "FastFile"] = Field(
        "File", description="File: copied before the start; FastFile: streamed from S3 when read"
    )
    ground_truth: str | None = Field(
        None, description="attribute of a Ground Truth manifest that holds the boxes; the channel then uses Pipe mode"
    )

    @property
    def address(self) -> str:
        """``s3`` as the request names it."""
        return self.s3 if self.ground_truth else folder_uri(self.s3)

    def member(self, name: str) -> dict[str, Any]:
        """Entry of the request's ``InputDataConfig``."""
        source = {
            "S3DataType": "AugmentedManifestFile" if self.ground_truth else "S3Prefix",
            "S3Uri": self.address,
            "S3DataDistributionType": "FullyReplicated",  # each rank reads its share of every batch
        }
        member: dict[str, Any] = {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": self.mode}
        if self.ground_truth:
            # The class names are in the metadata, which is streamed only if it is listed.
            source["AttributeNames"] = ["source-ref", self.ground_truth, f"{self.ground_truth}-metadata"]  # type: ignore[assignment]
            member |= {"InputMode": "Pipe", "RecordWrapperType": "RecordIO"}
        return member
