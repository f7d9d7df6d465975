"""Model packages: the request, and ``frcnn register`` against moto."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from moto import mock_aws

from frcnn.aws.account import AwsAccount
from frcnn.aws.model_package import ModelPackage
from frcnn.cli import main
from frcnn.errors import UserError
from frcnn.weights.score_thresholds import ScoreThresholds

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE: dict[str, Any] = {
    "group": "cells",
    "artifact": "s3://bucket/j/output/model.tar.gz",
    "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1",
    "score_threshold": 0.5,
}
METRICS = {"AP": 0.4567891, "AP50": 0.9, "APs": None, "split": "test", "step": 12}
CLASSES = ["rbc", "wbc"]


def model_files() -> dict[str, bytes]:
    labels = [{"label": i + 1, "name": name, "category_id": i + 1} for i, name in enumerate(CLASSES)]
    return {
        "metrics.json": json.dumps(METRICS).encode(),
        "labels.json": json.dumps(labels).encode(),
        "config.yaml": b"{}",
        "weights.safetensors": b"",
    }


def test_metrics_threshold_and_card() -> None:
    request = ModelPackage(**PACKAGE, intended_use="Counting").request(METRICS, CLASSES)
    assert request["CustomerMetadataProperties"] == {
        "AP": "0.4568",
        "AP50": "0.9000",
        "score_threshold": "0.5",
        "classes": "2",
    }
    assert (
        request["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"] == "s3://bucket/j/output/model_statistics.json"
    )
    assert request["ModelApprovalStatus"] == "PendingManualApproval"
    card = json.loads(request["ModelCard"]["ModelCardContent"])
    assert card["intended_uses"]["purpose_of_model"] == "Object detection of 2 classes: rbc, wbc"
    [evaluation] = card["evaluation_details"]
    assert evaluation["name"] == "test split"
    assert [entry["value"] for entry in evaluation["metric_groups"][0]["metric_data"]] == [0.4567891, 0.9]


def test_thresholds_of_the_model_are_recommended() -> None:
    thresholds = ScoreThresholds({"rbc": 0.61, "wbc": 0.4}, "best F1")
    for package, expected in (
        (PACKAGE | {"score_threshold": None}, "rbc 0.61, wbc 0.4 (thresholds.json: best F1)"),
        (PACKAGE, "0.5"),
    ):
        request = ModelPackage(**package).request(METRICS, CLASSES, thresholds)
        assert request["CustomerMetadataProperties"]["score_threshold"] == expected
        card = json.loads(request["ModelCard"]["ModelCardContent"])
        assert card["additional_information"]["custom_details"]["score_threshold"] == expected
    many = ScoreThresholds({f"class {number}": 0.5 for number in range(200)}, "best F1")
    request = ModelPackage(**PACKAGE | {"score_threshold": None}).request(METRICS, CLASSES, many)
    assert len(request["CustomerMetadataProperties"]["score_threshold"]) == 256


def test_a_model_without_metrics() -> None:
    request = ModelPackage(**PACKAGE).request({"step": 1}, CLASSES)
    assert "ModelMetrics" not in request
    assert "evaluation_details" not in json.loads(request["ModelCard"]["ModelCardContent"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"artifact": "s3://bucket/model/"}, "expected a model.tar.gz"),
        ({"score_threshold": 2}, "option 'score_threshold' is 2"),
        ({"status": "approved"}, "option 'status' is 'approved'"),
        ({"instance_types": ["g5"]}, "InstanceTypes.* is 'g5'"),
    ],
)
def test_error_messages(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelPackage(**{**PACKAGE, **fields}).request(METRICS, CLASSES)


def test_register_reads_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in model_files().items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    Path("package.yaml").write_text(yaml.safe_dump(PACKAGE))
    with mock_aws():
        account = AwsAccount("us-east-1", tmp_path / "ledger.json")
        account.client("s3").create_bucket(Bucket="bucket")
        account.client("s3").put_object(Bucket="bucket", Key="j/output/model.tar.gz", Body=buffer.getvalue())
        for version in (1, 2):
            result = CliRunner().invoke(main, ["register", "--config", "package.yaml"])
            assert result.exit_code == 0, result.output
            assert result.stdout.endswith(f":model-package/cells/{version}\n")
        package = account.client("sagemaker").describe_model_package(ModelPackageName="cells/1".replace("/1", ""))
        assert package["ModelPackageGroupName"] == "cells"
        statistics = account.client("s3").get_object(Bucket="bucket", Key="j/output/model_statistics.json")
        assert json.loads(statistics["Body"].read()) == METRICS


def test_the_example_is_dry_run_without_an_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for name, content in model_files().items():
        (Path("model") / name).write_bytes(content)
    arguments = ["register", "--config", str(REPOSITORY / "configs" / "packages" / "bccd.yaml"), "--dry-run"]
    result = CliRunner().invoke(main, [*arguments, "--model", "model"])
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)) == ["create_model_package_group", "create_model_package"]
    missing = CliRunner().invoke(main, arguments)
    assert missing.exit_code == 2
    assert "--dry-run does not read S3; give the model folder with --model" in missing.stderr
