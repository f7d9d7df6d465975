"""SageMaker's variables as options of the endpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn.container.environment import ServingEnvironment
from frcnn.container.serve import serve_options
from frcnn.errors import UserError
from frcnn.serving.options import ServeOptions

DEFAULTS = ServeOptions(model=Path())


def test_options(tmp_path: Path) -> None:
    plain = serve_options(ServingEnvironment.read({"SAGEMAKER_BASE_DIR": str(tmp_path)}))
    assert (plain.model, plain.port, plain.bind, plain.workers) == (tmp_path / "model", 8080, "0.0.0.0", None)
    assert plain.request_timeout == DEFAULTS.request_timeout
    options = serve_options(
        ServingEnvironment.read(
            {
                "SAGEMAKER_BIND_TO_PORT": "9000", "SAGEMAKER_MODEL_SERVER_WORKERS": "2",
                "SAGEMAKER_MODEL_SERVER_TIMEOUT": "120", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "20",
                "FRCNN_SERVE_MAX_BATCH": "8", "FRCNN_SERVE_BATCH_WAIT_MS": "2.5", "FRCNN_SERVE_NGINX": "false",
                "FRCNN_SERVE_VARIANT": "blue", "FRCNN_SERVE_WORKERS": "none",
            }
        )
    )  # fmt: skip
    assert (options.port, options.workers, options.request_timeout, options.max_body_mb) == (9000, None, 120, 20)
    assert (options.max_batch, options.batch_wait_ms, options.nginx, options.variant) == (8, 2.5, False, "blue")


def test_transform_without_a_limit_gets_the_servers_default(tmp_path: Path) -> None:
    """0 is legal: CreateTransformJob takes it for bodies of any size."""
    base = {"SAGEMAKER_BASE_DIR": str(tmp_path), "SAGEMAKER_MAX_PAYLOAD_IN_MB": "0"}
    assert serve_options(ServingEnvironment.read(base)).max_body_mb == DEFAULTS.max_body_mb == 100
    assert serve_options(ServingEnvironment.read({**base, "FRCNN_SERVE_MAX_BODY_MB": "500"})).max_body_mb == 500


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FRCNN_SERVE_MAX_BACH": "8"}, r"unknown variable FRCNN_SERVE_MAX_BACH; did you mean FRCNN_SERVE_MAX_BATCH\?"),
        ({"FRCNN_SERVE_MAX_BATCH": "lots"}, "option 'max_batch' is 'lots'; expected a valid integer"),
        ({"FRCNN_SERVE_MAX_BATCH": "2.5"}, "option 'max_batch' is 2.5; expected a valid integer"),
        ({"FRCNN_SERVE_NGINX": "perhaps"}, "option 'nginx' is 'perhaps'; expected a valid boolean"),
        ({"FRCNN_SERVE_PORT": "1"}, "unknown variable FRCNN_SERVE_PORT"),
        (
            {"SAGEMAKER_MAX_PAYLOAD_IN_MB": "-1"},
            "variable SAGEMAKER_MAX_PAYLOAD_IN_MB is '-1'; expected an integer of 1 or more",
        ),
        ({"SAGEMAKER_MODEL_SERVER_WORKERS": "900"}, "'workers' is 900; expected a number less than or equal to 64"),
    ],
)
def test_invalid_variables(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        serve_options(ServingEnvironment.read(variables))


def test_user_module_serves(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def start():\n    print('mine serves')\n    return 3\n")
    command = [sys.executable, "-m", "frcnn.entrypoint", "serve"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path), "SAGEMAKER_SERVICE_MODULE": "mine:start"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "mine serves\n")
    done = subprocess.run(
        command, env={**variables, "SAGEMAKER_SERVICE_MODULE": "mine:stop"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "SAGEMAKER_SERVICE_MODULE is 'mine:stop', which cannot be used" in done.stderr


def test_inference_program_is_rejected(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frcnn.entrypoint", "serve"]
    variables = {**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path), "SAGEMAKER_PROGRAM": "inference.py"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("frcnn: SAGEMAKER_PROGRAM is 'inference.py', but this endpoint does not run")


def test_missing_model_is_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frcnn.entrypoint", "serve"]
    done = subprocess.run(
        command, env={**os.environ, "SAGEMAKER_BASE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"frcnn: model {tmp_path / 'model'} does not exist")
