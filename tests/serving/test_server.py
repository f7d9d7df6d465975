"""The server as a process: start-up errors, shutdown under load, and the death of each process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from raw_http import assert_malformed_requests_get_json_errors
from serving_client import NGINX, Endpoint, children, encode, make_image

from frcnn.cli import main
from frcnn.errors import UserError
from frcnn.serving.nginx import find_nginx, nginx_config
from frcnn.serving.options import ServeOptions

Start = Callable[..., Endpoint]
needs_nginx = pytest.mark.skipif(not NGINX, reason="nginx is not installed; scripts/install_system_packages.sh serve")
IMAGE = encode(make_image())


@needs_nginx
def test_sigterm_under_load_loses_no_accepted_request(served_model: Path, start: Start) -> None:
    """Sixteen clients send requests until the port is closed: every accepted request is answered.

    A connection in the listen backlog, from which nginx has not read yet when it stops listening, is reset. A request
    that nginx has read gets its 200, and one that reached a worker is in the log.
    """
    endpoint = start(served_model, "--max-batch", "2", "--no-page").wait_until_healthy()
    answered = threading.Semaphore(0)

    def send_until_refused() -> tuple[list[int], str]:
        statuses = []
        while True:
            try:
                statuses.append(endpoint.post(IMAGE, headers={"Connection": "close"}).status_code)
            except requests.ConnectionError as error:
                return statuses, repr(error)
            answered.release()

    with ThreadPoolExecutor(16) as pool:
        clients = [pool.submit(send_until_refused) for _ in range(16)]
        for _ in range(32):
            assert answered.acquire(timeout=60)
        exit_code = endpoint.stop()
    statuses = [status for client in clients for status in client.result()[0]]
    assert exit_code == 0
    for client in clients:
        assert re.search(
            "Connection refused|Connection reset by peer|closed connection without response", client.result()[1]
        )
    assert len(statuses) > 32
    assert set(statuses) == {200}
    assert len(endpoint.log()) == len(statuses)
    assert "Traceback" not in endpoint.errors()
    assert "requests in flight are lost" not in endpoint.errors()
    assert list(endpoint.temporary.iterdir()) == []


def test_two_busy_workers_from_an_archive_without_nginx_and_the_death_of_one(
    served_model: Path, start: Start, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(served_model, ".")
    tmp_path.chmod(0o555)
    flags = ["--workers", "2", "--queue-size", "1", "--max-images", "1", "--model-version", "7", "--max-body-mb", "30"]
    endpoint = start(tmp_path, "--no-nginx", "--no-page", *flags).wait_until_healthy()
    assert endpoint.post(IMAGE).json()["model_version"] == "7"
    assert "variant" not in endpoint.post(IMAGE).json()
    assert endpoint.get("/").status_code == 404  # the page is disabled
    assert endpoint.get("/metrics").status_code == 200  # requested from this machine
    assert endpoint.post(bytes(1 << 10), "text/plain").status_code == 415
    with ThreadPoolExecutor(24) as pool:  # where each of the two workers takes one request at a time
        answers = list(pool.map(lambda _: endpoint.post(encode(make_image(900, 900)), accept="image/png"), range(48)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert (refused.json()["error"], refused.headers["Retry-After"]) == ("the endpoint is busy; try again", "1")
    assert_malformed_requests_get_json_errors(endpoint)
    worker, _ = endpoint.workers()
    os.kill(worker, signal.SIGKILL)
    assert endpoint.process.wait(60) == 1
    assert "gunicorn exited unexpectedly" in endpoint.errors()
    assert f"worker {worker} died" in endpoint.errors()
    assert_nobody_listens(endpoint)


@needs_nginx
def test_the_server_exits_when_nginx_dies(served_model: Path, start: Start) -> None:
    endpoint = start(served_model)
    wait_for(lambda: children(endpoint.process.pid, "nginx"))
    answer = endpoint.get("/ping")  # nginx answers before any worker is ready
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "starting" in answer.json()["error"]
    os.kill(children(endpoint.process.pid, "nginx")[0], signal.SIGKILL)
    assert endpoint.process.wait(60) == 1
    assert "nginx exited unexpectedly by signal 9" in endpoint.errors()
    assert_nobody_listens(endpoint)


@needs_nginx
def test_a_hanging_worker_is_unhealthy(endpoint: Endpoint) -> None:
    (worker,) = endpoint.workers()
    os.kill(worker, signal.SIGSTOP)
    try:
        answer = endpoint.get("/ping")
        assert answer.status_code == 503
        assert "service unavailable" in answer.json()["error"]
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_for(lambda: endpoint.get("/ping").status_code == 200)


def test_damaged_weights_stop_the_server_with_the_reason(served_model: Path, start: Start, tmp_path: Path) -> None:
    for file in served_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 1000 if file.suffix == ".safetensors" else None])
    endpoint = start(tmp_path, *([] if NGINX else ["--no-nginx"]))
    assert endpoint.process.wait(120) == 1
    assert f"frcnn: weights file {tmp_path / 'weights.safetensors'} cannot be read" in endpoint.errors()
    assert "Traceback" not in endpoint.errors()


def test_errors_before_any_process_starts(served_model: Path, start: Start, tmp_path: Path) -> None:
    endpoint = start(tmp_path / "missing")
    assert endpoint.process.wait(60) == 2
    assert endpoint.errors() == f"frcnn: model {tmp_path / 'missing'} does not exist; " + (
        "give the folder 'model' that frcnn train wrote, or a model.tar.gz of it\n"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        endpoint = start(served_model, "--no-nginx", "--port", str(port))
        assert endpoint.process.wait(60) == 2
    assert f"port {port} of 127.0.0.1 cannot be used (Address already in use)" in endpoint.errors()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"port": 0}, "'port' is 0; expected a number greater than or equal to 1"),
        ({"max_batch": 0}, "'max_batch' is 0; expected a number greater than or equal to 1"),
        ({"request_timeout": float("nan")}, "'request_timeout' is nan"),
        ({"max_images": 65, "queue_size": 64}, "'max_images' is 65; expected at most queue_size, 64"),
    ],
)
def test_options_have_ranges(values: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ServeOptions(model=Path("model"), **values)  # type: ignore[arg-type]


def test_options_reach_the_workers() -> None:
    options = ServeOptions(model=Path("a/model"), port=9000, variant="blue", batch_wait_ms=2.5)
    assert ServeOptions.model_validate_json(options.model_dump_json()) == options


@needs_nginx
@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0", "::1"])
def test_nginx_accepts_its_configuration(tmp_path: Path, bind: str) -> None:
    folder = tmp_path / 'a "b" {c};'
    folder.mkdir()
    file = folder / "nginx.conf"
    file.write_text(nginx_config(ServeOptions(model=tmp_path, bind=bind, max_body_mb=7, request_timeout=20), folder))
    assert re.findall(r"@\w+@", file.read_text()) == []
    assert "client_max_body_size 7m;" in file.read_text()
    assert "proxy_read_timeout 30s;" in file.read_text()
    tested = subprocess.run(
        [str(NGINX), "-t", "-p", folder, "-e", "stderr", "-c", file], capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stderr


@needs_nginx
def test_temporary_folders_are_private(endpoint: Endpoint) -> None:
    """The socket is not below TMPDIR, whose path is too long for one."""
    folders = list(endpoint.temporary.iterdir())
    command = Path(f"/proc/{children(endpoint.process.pid, 'nginx')[0]}/cmdline").read_text()
    found = re.search(r"nginx -p (\S+) -e", command)
    assert found, command
    shared = Path(found[1])
    assert len(folders) == 1
    for folder in (*folders, shared):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert (shared / "gunicorn.sock").is_socket()
    assert len(str(shared / "gunicorn.sock")) <= 107


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_first_moments_leaves_nothing_behind(
    served_model: Path, start: Start, number: signal.Signals
) -> None:
    endpoint = start(served_model, "--no-nginx")
    while not list(endpoint.temporary.iterdir()):
        time.sleep(0.001)
    assert endpoint.stop(number) == 0
    assert list(endpoint.temporary.iterdir()) == []
    assert "Traceback" not in endpoint.errors()


def test_without_nginx_only_a_container_refuses_to_serve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_nginx(False) is None
    monkeypatch.setattr("frcnn.serving.nginx.shutil.which", lambda name, path=None: None)
    assert find_nginx(None) is None
    assert "nginx is not installed: serving without it" in capsys.readouterr().err
    with pytest.raises(UserError, match="nginx is not installed; run "):
        find_nginx(True)


@pytest.mark.parametrize("option", ["variant", "model_version"])
@pytest.mark.parametrize("value", ["modèle", "a\nb", "a b", "", "a,b", "x" * 129])
def test_names_that_headers_cannot_carry_are_refused(option: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"option '{option}' is .*because it is sent in HTTP headers"):
        ServeOptions(model=Path("model"), **{option: value})  # type: ignore[arg-type]


def assert_nobody_listens(endpoint: Endpoint) -> None:
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", endpoint.port)) != 0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_missing_packages_are_reported_with_the_command_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for modules, named in ((["flask"], "flask"), (["gunicorn", "prometheus_client"], "gunicorn, prometheus_client")):
        with monkeypatch.context() as patch:
            for module in modules:
                patch.setitem(sys.modules, module, None)
            result = CliRunner().invoke(main, ["serve", "--model", str(tmp_path)])
        assert result.exit_code == 2
        assert result.stderr.strip().endswith(f"serving needs {named}; run pip install -e '.[serve]' in frcnn's folder")
