"""Model packages of SageMaker's model registry, with metrics, thresholds and a model card."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, model_validator

from frcnn.aws.request_fields import ImageName, S3Uri, tag_list
from frcnn.aws.service_model import check_request
from frcnn.config import Options
from frcnn.weights.score_thresholds import ScoreThresholds

CONTENT_TYPES = ("application/x-image", "image/jpeg", "image/png", "application/json", "application/jsonlines")
RESPONSE_TYPES = ("application/json", "application/jsonlines", "image/jpeg", "image/png")
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # of metrics.json of a model folder
CARD_STATUS = "Draft"
MAX_PROPERTY, MAX_DETAIL = 256, 1024  # characters of a metadata property, and of a custom detail of a model card


class ModelPackage(Options):
    """A version of a model in the registry."""

    group: str = Field(description="model package group, created if it does not exist")
    artifact: S3Uri = Field(description="model.tar.gz of a training job")
    image: ImageName = Field(description="full ECR name, or {repository, tag, account, region}")
    description: str = Field("Faster R-CNN detector", description="of this version")
    status: Literal["PendingManualApproval", "Approved", "Rejected"] = Field(
        "PendingManualApproval", description="approval status"
    )
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="recommended; null: those of the model, if it has any"
    )
    intended_use: str | None = Field(None, description="for the model card")
    limitations: str | None = Field(None, description="for the model card")
    instance_types: tuple[str, ...] = Field(
        ("ml.g5.xlarge", "ml.g6.xlarge"), description="types on which the model may be deployed"
    )
    tags: dict[str, str] = Field({}, description="AWS tags of the group")

    @model_validator(mode="after")
    def _check_consistency(self) -> ModelPackage:
        if not self.artifact.endswith(".tar.gz"):
            raise ValueError(f"artifact is {self.artifact!r}; expected a model.tar.gz")
        return self

    def group_request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_model_package_group``."""
        request = {"ModelPackageGroupName": self.group, **tag_list(self.tags)}
        check_request("CreateModelPackageGroup", request)
        return request

    def statistics_uri(self) -> str:
        """S3 address of the metrics, next to the artifact."""
        return f"{self.artifact.removesuffix('model.tar.gz').rstrip('/')}/model_statistics.json"

    def request(
        self, metrics: dict[str, Any], class_names: list[str], thresholds: ScoreThresholds | None = None
    ) -> dict[str, Any]:
        """Keyword arguments of ``create_model_package``.

        Args:
            metrics: content of the model folder's ``metrics.json``.
            class_names: of its ``labels.json``.
            thresholds: of its ``thresholds.json``; ``score_threshold`` takes precedence.
        """
        properties = {name: f"{metrics[name]:.4f}" for name in METRICS if isinstance(metrics.get(name), float)}
        recommended = str(thresholds) if self.score_threshold is None else f"{self.score_threshold:g}"
        if self.score_threshold is not None or thresholds:
            properties["score_threshold"] = _shorten(recommended, MAX_PROPERTY)
        properties["classes"] = str(len(class_names))
        request = {
            "ModelPackageGroupName": self.group,
            "ModelPackageDescription": self.description,
            "ModelApprovalStatus": self.status,
            "Domain": "COMPUTER_VISION",
            "Task": "OBJECT_DETECTION",
            "InferenceSpecification": {
                "Containers": [{"Image": self.image, "ModelDataUrl": self.artifact, "Framework": "TENSORFLOW"}],
                "SupportedContentTypes": list(CONTENT_TYPES),
                "SupportedResponseMIMETypes": list(RESPONSE_TYPES),
                "SupportedRealtimeInferenceInstanceTypes": list(self.instance_types),
                "SupportedTransformInstanceTypes": list(self.instance_types),
            },
            "CustomerMetadataProperties": properties,
            "ModelCard": {
                "ModelCardContent": json.dumps(self._card(metrics, class_names, recommended)),
                "ModelCardStatus": CARD_STATUS,
            },
        }
        if properties.keys() & set(METRICS):
            statistics = {"ContentType": "application/json", "S3Uri": self.statistics_uri()}
            request["ModelMetrics"] = {"ModelQuality": {"Statistics": statistics}}
        check_request("CreateModelPackage", request)
        return request

    def _card(self, metrics: dict[str, Any], class_names: list[str], recommended: str) -> dict[str, Any]:
        """A model card in SageMaker's JSON schema of model packages."""
        shown = ", ".join(class_names[:50]) + (", …" if len(class_names) > 50 else "")
        values = [
            {"name": name, "type": "number", "value": metrics[name]}
            for name in METRICS
            if isinstance(metrics.get(name), float)
        ]
        card: dict[str, Any] = {
            "model_overview": {"model_creator": "frcnn", "model_artifact": [self.artifact]},
            "intended_uses": {
                "purpose_of_model": f"Object detection of {len(class_names)} classes: {shown}",
                **({"intended_uses": self.intended_use} if self.intended_use else {}),
                **({"factors_affecting_model_efficiency": self.limitations} if self.limitations else {}),
            },
            "additional_information": {"custom_details": {"score_threshold": _shorten(recommended, MAX_DETAIL)}},
        }
        if values:
            split = str(metrics.get("split", "validation"))
            group = {"name": f"COCO metrics, {split} split", "metric_data": values}
            card["evaluation_details"] = [{"name": f"{split} split", "metric_groups": [group]}]
        return card


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
