"""Where a training job's metrics and curves are tracked, beside CloudWatch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from frcnn.config import Options

# Where the container writes its TensorBoard files (frcnn.container.environment, frcnn.training.progress).
TENSORBOARD_FOLDER = "/opt/ml/output/data/tensorboard"


class Mlflow(Options):
    """A tracking server or app of SageMaker's managed MLflow."""

    server: str = Field(description="ARN")
    experiment: str | None = Field(None, description="null: the server's default")
    run: str | None = Field(None, description="null: named by the server")

    def member(self) -> dict[str, Any]:
        """The request's member ``MlflowConfig``."""
        member = {"MlflowResourceArn": self.server, "MlflowExperimentName": self.experiment, "MlflowRunName": self.run}
        return {name: value for name, value in member.items() if value is not None}


def tensorboard_member(uri: str) -> dict[str, Any]:
    """The request's member ``TensorBoardOutputConfig``: the files are copied to S3 while the job runs."""
    return {"S3OutputPath": uri, "LocalPath": TENSORBOARD_FOLDER}
