"""Experiment tracking: MLflow's and Weights & Biases' own clients write, and a server that fails costs one warning."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from frcnn.config import Config, load_config, save_config
from frcnn.errors import UserError
from frcnn.training.progress import Progress
from frcnn.training.tracking.mlflow import MlflowSink
from frcnn.training.tracking.open import check_tracking, parameters_of
from frcnn.training.tracking.sink import CAPACITY, BackgroundSink, Sink, without_secrets
from frcnn.training.tracking.wandb import WandbSink

RED = np.full((6, 8, 3), (200, 0, 0), np.uint8)


class Recorder:
    """A sink in memory, whose calls take as long as ``gate`` is closed."""

    name = "a recorder"

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._error = error

    def start(self, parameters: Mapping[str, str | float]) -> None:
        self._record("start", dict(parameters))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._record("scalars", step, dict(values))

    def images(self, step: int, name: str, images: Sequence[np.ndarray]) -> None:
        self._record("images", step, name, len(images))

    def finish(self, files: Sequence[Path], succeeded: bool) -> None:
        self._record("finish", list(files), succeeded)

    def _record(self, *call: object) -> None:
        self.gate.wait()
        self.calls.append(call)
        if self._error:
            raise self._error


def run(folder: Path, *sinks: Sink, results: Sequence[Path] = ()) -> str:
    """Two steps and an evaluation; returns what was printed."""
    printed = io.StringIO()
    with Progress(
        folder,
        2,
        batch_size=4,
        log_every=1,
        stream=printed,
        parameters={"seed": 3},
        open_sinks=lambda warn: [BackgroundSink(sink, warn, finish_seconds=300) for sink in sinks],
        results=results,
    ) as progress:
        progress.step(1, {"loss": 2.0}, 0.1)
        progress.step(2, {"loss": 1.0}, 0.1)
        progress.evaluation(2, {"AP": 0.25, "APs": None})
        progress.images(2, "validation", lambda folder: [RED])
    return printed.getvalue()


def warnings_in(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("warning: ")]


def test_a_sink_gets_everything_in_order(tmp_path: Path) -> None:
    recorder = Recorder()
    assert warnings_in(run(tmp_path, recorder, results=[tmp_path / "a"])) == []
    kinds = [call[0] for call in recorder.calls]
    assert kinds == ["start", "scalars", "scalars", "scalars", "images", "finish"]
    assert recorder.calls[0] == ("start", {"seed": 3})
    assert recorder.calls[3] == ("scalars", 2, {"evaluation/AP": 0.25})
    assert recorder.calls[-1] == ("finish", [tmp_path / "a"], True)


@pytest.mark.parametrize("error", [None, KeyError("x")])
def test_a_run_that_is_stopped_or_fails_uploads_nothing(tmp_path: Path, error: Exception | None) -> None:
    recorder = Recorder()
    with (
        contextlib.suppress(KeyError),
        Progress(
            tmp_path,
            3,
            1,
            stream=io.StringIO(),
            open_sinks=lambda _: [recorder],
            results=[tmp_path],
            finished=lambda: False,
        ) as progress,
    ):
        progress.step(1, {"loss": 2.0}, 0.1)
        if error:
            raise error
    assert recorder.calls[-1] == ("finish", [], False)


@pytest.mark.parametrize("error", [ConnectionRefusedError("no route"), SystemExit(1)])
def test_a_sink_that_fails_is_one_warning_and_is_left_alone(tmp_path: Path, error: BaseException) -> None:
    recorder = Recorder(error)
    (warning,) = warnings_in(run(tmp_path, recorder))
    assert warning.startswith("warning: tracking with a recorder: ")
    assert len(recorder.calls) == 1


def test_a_sink_that_hangs_delays_no_step_and_loses_records(tmp_path: Path) -> None:
    recorder, messages = Recorder(), list[str]()
    recorder.gate.clear()
    sink = BackgroundSink(recorder, messages.append, finish_seconds=0.1)
    sink.start({})
    for step in range(CAPACITY + 10):
        sink.scalars(step, {"train/loss": 1.0})
    sink.finish([], True)
    assert messages == [
        f"warning: tracking with a recorder: {CAPACITY} records are waiting; further ones are left out; "
        "training continues without it"
    ]
    recorder.gate.set()


def test_secrets_are_not_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    assert without_secrets(ValueError("refused:\nBearer t0ken")) == "refused: Bearer ***"


@pytest.mark.parametrize(
    "uri", ["https://me:pass@host/x", "https://t0ken@host", "http://host?token=t0ken", "http://host#t0ken"]
)
def test_addresses_with_credentials_are_refused_without_repeating_them(uri: str) -> None:
    with pytest.raises(UserError, match=r"credentials in MLFLOW_TRACKING_USERNAME") as caught:
        load_config(overrides=[f"tracking.mlflow={uri}"])
    assert "pass" not in str(caught.value).replace("password", "").replace("PASSWORD", "")
    assert "t0ken" not in str(caught.value)


def test_the_options_are_parameters_and_old_configurations_load(tmp_path: Path) -> None:
    config = load_config(overrides=["tracking.wandb=offline", "training.epochs=2"])
    parameters = parameters_of(config)
    assert parameters["training.epochs"] == 2
    assert parameters["image.min_size"] == "[800]"
    assert parameters["optimizer.nesterov"] is False
    save_config(config, tmp_path / "config.yaml")
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text[: text.index("tracking:")])  # as written before the option existed
    assert load_config(tmp_path / "config.yaml").tracking == Config().tracking


def test_a_missing_client_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"'tracking.wandb' needs the package wandb; run pip install 'frcnn\[wandb\]'"):
        check_tracking(load_config(overrides=["tracking.wandb=offline"]))
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:mlflow-tracking-server/team"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sagemaker_mlflow" else name)
    with pytest.raises(UserError, match="needs the package sagemaker-mlflow"):
        check_tracking(load_config(overrides=[f"tracking.mlflow={arn}"]))
    check_tracking(load_config(overrides=["tracking.mlflow=http://localhost:5000"]))
    check_tracking(Config())


@pytest.fixture
def results(tmp_path: Path) -> list[Path]:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "labels.json").write_text("[]")
    (tmp_path / "run" / "config.yaml").write_text("seed: 3\n")
    return [tmp_path / "run" / "config.yaml", tmp_path / "run" / "nothing.json", tmp_path / "run" / "model"]


def test_mlflow_has_parameters_metrics_images_and_the_model(
    tmp_path: Path, results: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    uri, folder = (tmp_path / "store").as_uri(), tmp_path / "run"
    assert warnings_in(run(folder, MlflowSink(uri, "cells", "first", folder), results=results)) == []
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("cells")
    (stored,) = client.search_runs([experiment.experiment_id])
    assert (stored.info.run_name, stored.info.status) == ("first", "FINISHED")
    assert stored.data.params == {"seed": "3"}
    assert stored.data.metrics["evaluation/AP"] == 0.25
    history = client.get_metric_history(stored.info.run_id, "train/loss")
    assert [(entry.step, entry.value) for entry in history] == [(1, 2.0), (2, 1.0)]
    assert {entry.path for entry in client.list_artifacts(stored.info.run_id)} == {"config.yaml", "model", "validation"}
    assert [entry.path for entry in client.list_artifacts(stored.info.run_id, "model")] == ["model/labels.json"]

    # A resumed training goes on in the same run.
    sink = MlflowSink(uri, "cells", "first", folder)
    sink.start({"seed": 4})
    sink.scalars(3, {"train/loss": 0.5, "train/bad": float("nan")})
    sink.finish([], succeeded=False)
    (stored,) = client.search_runs([experiment.experiment_id])
    assert (stored.info.status, stored.data.params, stored.data.metrics["train/loss"]) == ("FAILED", {"seed": "3"}, 0.5)


@pytest.mark.parametrize("listens", [False, True])
def test_an_mlflow_server_that_is_down_or_hangs_is_one_warning(
    tmp_path: Path, listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that nobody listens at, and one that accepts connections and never answers."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not listens:
            server.close()
        printed = run(tmp_path, MlflowSink(f"http://127.0.0.1:{port}", "cells", None, tmp_path))
    (warning,) = warnings_in(printed)
    assert warning.startswith("warning: tracking with MLflow: ")
    assert printed.count("train step=") == 2


def test_weights_and_biases_offline_leaves_a_run_to_sync(
    tmp_path: Path, results: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    folder = tmp_path / "run"
    assert warnings_in(run(folder, WandbSink("offline", "cells", "first", folder), results=results)) == []
    (stored,) = (folder / "wandb").glob("offline-run-*")
    (log,) = stored.glob("*.wandb")
    content = log.read_bytes()
    for expected in (b"train/loss", b"evaluation/AP", b"cells", b"seed"):
        assert expected in content
    run_id = (folder / "wandb_run").read_text().strip()
    assert log.name == f"run-{run_id}.wandb"
    assert (stored / "files" / "config.yaml").exists()
    assert list((stored / "files" / "media").rglob("*.png"))
