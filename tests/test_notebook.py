"""Execute the notebook at small sizes: moto in its kernel, training and endpoints as local processes."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from frcnn.aws.cost import endpoint_cost
from frcnn.aws.endpoint import Endpoint, Variant

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = REPOSITORY / "launch_sagemaker.ipynb"
SMALL = {
    "training.epochs": 1,
    "training.batch_size": 4,
    "training.log_every": 1,
    "image.min_size": [64],
    "image.max_size": 64,
    "fpn.channels": 32,
    "roi_head.fc_channels": 32,
    "roi_head.score_threshold": 0.0,
}


def test_no_outputs_are_stored() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_the_default_parameters_are_a_dry_run() -> None:
    [cell] = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if "parameters" in cell.metadata.get("tags", [])]
    values: dict[str, Any] = {}
    exec(cell.source, values)
    assert values["DRY_RUN"] is True
    assert values["ACCOUNT"] == "123456789012"
    assert all(name.isupper() for name in values if name != "__builtins__")


def test_a_real_run_stays_within_the_documented_quotas() -> None:
    """One instance of each kind, unless two variants are requested."""
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, 4).cells}
    values: dict[str, Any] = {}
    exec(cells["parameters"].replace("DRY_RUN = True", "DRY_RUN = False"), values)
    deployed: list[Endpoint] = []
    names = {
        "NAME": "n-1",
        "IMAGE": "123456789012.dkr.ecr.us-east-1.amazonaws.com/frcnn:1",
        "artifact": "s3://bucket/m.tar.gz",
    }
    account = SimpleNamespace(deploy=deployed.append)
    classes = {"Endpoint": Endpoint, "Variant": Variant, "endpoint_cost": endpoint_cost}
    exec(cells["deploy-cost"] + "\n" + cells["deploy"], {**values, **names, "account": account, **classes})
    [variant] = deployed[0].variants
    page = (REPOSITORY / "docs" / "sagemaker.md").read_text()
    assert f"*{variant.instance_type} for endpoint usage* | {variant.instance_count} |" in page
    assert f"*{values['INSTANCE_TYPE']} for training job usage* | {values['INSTANCE_COUNT']} |" in page
    assert f"*{values['ENDPOINT_TYPE']} for transform job usage* | 1 |" in page


@pytest.mark.timeout(900)
def test_the_complete_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From synthetic shapes to responses of two variants."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(
        "SAGEMAKER_VALIDATE_ROLE", "false"
    )  # SDK 3 would ask IAM's policy simulator, which moto does not have
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    notebook = nbformat.read(NOTEBOOK, 4)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = re.sub(r"(?m)^HYPERPARAMETERS = .*$", f"HYPERPARAMETERS = {SMALL!r}", parameters.source)
    notebook.metadata.kernelspec.name = "python3"

    NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}, kernel_name="python3"
    ).execute()

    printed = {cell.id: "".join(_texts(cell)) for cell in notebook.cells if cell.cell_type == "code"}
    assert "Maximum cost: 1 x ml.g5.2xlarge for 1 h: 1 instance hours" in printed["job"]
    assert re.search(r"== Completed.*train step=4 steps=4 .*evaluation step=4 AP=", printed["follow"], re.DOTALL)
    assert "'AP50':" in printed["report"]
    [page] = [
        "".join(out["data"]["text/html"])
        for cell in notebook.cells
        if cell.id == "report"
        for out in cell.outputs
        if "text/html" in out.get("data", {})
    ]
    assert "Detection report" in page
    assert "== Completed" in printed["tuning"]
    assert ":model-package/frcnn/1" in printed["register"]
    variant, answer = printed["invoke"].split("\n")[:2]
    assert variant in ("current", "candidate")
    found = json.loads(answer)
    assert len(found["labels"]) == len(found["scores"]) == len(found["boxes"]) <= 5
    by_weight = ast.literal_eval(re.search(r"by weight: (\{.*\})", printed["variants"])[1])
    assert sum(by_weight.values()) == 20
    assert by_weight["current"] > by_weight.get("candidate", 0)
    assert "by name: candidate" in printed["variants"]
    assert "4 responses, such as" in printed["batch"]
    deleted = re.findall(r"deleted: (endpoint configuration|endpoint|model|folder) ", printed["clean"])
    assert deleted[:4] == ["endpoint", "endpoint configuration", "model", "model"]
    assert "left: []" in printed["clean"]
    with_images = [
        cell.id
        for cell in notebook.cells
        if cell.cell_type == "code"
        for out in cell.outputs
        if "image/" in str(out.get("data", {}).keys())
    ]
    assert {"data", "follow", "report", "invoke"} <= set(with_images)


def _texts(cell: Any) -> list[str]:
    return [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
