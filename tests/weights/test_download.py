"""Downloads against a local server that breaks, redirects and lies."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_names
import pytest
import safetensors.numpy
from click.testing import CliRunner
from moto import mock_aws

from frcnn.atomic import PREFIX
from frcnn.aws.account import AwsAccount
from frcnn.cli import main
from frcnn.errors import UserError
from frcnn.weights import download as module
from frcnn.weights.download import fetch_file
from frcnn.weights.model_folder import read_model_folder
from frcnn.weights.published import PUBLISHED, PublishedWeights, resolve_weights

CONTENT = bytes(range(256)) * 4000  # about 1 MB
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT.

    Attributes:
        cut: bytes after which each connection is closed; None: never.
        ranges: whether Range headers are honored.
        status: of every response instead of content.
        requests: (path, Range header) of every request.
    """

    cut: int | None = None
    ranges = True
    status: int | None = None
    content = CONTENT

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.path, asked))
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if server.status or start > len(server.content):
            self.send_error(server.status or 416)
            return
        rest = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest if server.cut is None else rest[: server.cut])
        self.close_connection = True

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server as the mirror, an empty cache, and weights named "net" whose hash is that of CONTENT."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("FRCNN_WEIGHTS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("FRCNN_WEIGHTS_URL", server.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        net = PublishedWeights(f"{server.url}/own/net.pth", "torchvision", 1, "sha256", DIGEST, "", "", "")
        monkeypatch.setitem(PUBLISHED, "net", net)
        yield server
        server.shutdown()


def partial(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "downloads" / f"{PREFIX}net.pth"


def test_a_download_is_checked_and_cached(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    file = fetch_file("net", progress=lambda done, total: seen.append((done, total)))
    assert file == tmp_path / "cache" / "downloads" / "net.pth"
    assert file.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert not partial(tmp_path).exists()
    assert fetch_file("net") == file
    assert server.requests == [("/net.pth", None)]  # once, and from the mirror


def test_without_a_mirror_the_publisher_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRCNN_WEIGHTS_URL")
    fetch_file("net")
    assert server.requests == [("/own/net.pth", None)]


def test_broken_connections_are_resumed(server: Server) -> None:
    server.cut = 300_000
    assert fetch_file("net").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(CONTENT[:1000])
    assert fetch_file("net").read_bytes() == CONTENT
    assert server.requests == [("/net.pth", "bytes=1000-")]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(b"something else")
    server.ranges = False
    assert fetch_file("net").read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_starts_again(server: Server, tmp_path: Path) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(CONTENT + b"more")
    assert fetch_file("net").read_bytes() == CONTENT


def test_redirects_are_followed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRCNN_WEIGHTS_URL", f"{server.url}/moved")
    assert fetch_file("net").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/moved/net.pth", "/net.pth"]


def test_a_connection_without_progress_is_given_up_and_what_arrived_is_kept(server: Server, tmp_path: Path) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(CONTENT[:1000])
    server.cut = 0
    with pytest.raises(UserError, match=r"net\.pth cannot be downloaded .*; run the command again to resume"):
        fetch_file("net")
    assert len(server.requests) == module.ATTEMPTS
    assert partial(tmp_path).read_bytes() == CONTENT[:1000]


def test_a_different_file_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(UserError, match=f"is not the published file: its sha256 is .*, expected {DIGEST}; it was"):
        fetch_file("net")
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []


def test_a_damaged_cached_file_is_downloaded_again(server: Server) -> None:
    file = fetch_file("net")
    file.write_bytes(CONTENT[:-1])
    assert fetch_file("net").read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, module.ATTEMPTS)])
def test_http_errors(server: Server, status: int, requests: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=f"cannot be downloaded.*HTTP {status}"):
        fetch_file("net")
    assert len(server.requests) == requests


def test_a_file_downloaded_by_other_means(server: Server, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert fetch_file("net", tmp_path / "net.pth") == tmp_path / "net.pth"
    (tmp_path / "net.pth").write_bytes(b"other")
    with pytest.raises(UserError, match=r"net\.pth is not net\.pth: its sha256 is"):
        fetch_file("net", tmp_path / "net.pth")
    with pytest.raises(UserError, match="does not exist; expected a copy of http"):
        fetch_file("net", tmp_path / "none.pth")
    assert server.requests == []


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:9", "nonsense"])
def test_unreachable_mirrors(server: Server, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRCNN_WEIGHTS_URL", mirror)
    with pytest.raises(UserError, match="FRCNN_WEIGHTS_URL"):
        fetch_file("net")


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="weights 'torchvision' are unknown; expected one of torchvision_v1, "):
        fetch_file("torchvision")


def test_digests_begin_as_the_file_names_say() -> None:
    """torchvision's names end with the SHA-256's first digits, Detectron2's detectors with the MD5's."""
    for weights in PUBLISHED.values():
        in_name = re.search(r"[-_]([0-9a-f]{6,8})\.(?:pth|pkl)$", weights.file_name)
        assert (in_name is None) == (weights.digest is None), weights
        if in_name:
            assert weights.digest.startswith(in_name[1]), weights
            assert len(in_name[1]) == {"sha256": 8, "md5": 6}[weights.algorithm]


def test_recipes_of_the_list_exist() -> None:
    for weights in PUBLISHED.values():
        if weights.recipe.startswith("configs/"):
            assert (Path(__file__).resolve().parents[2] / weights.recipe).is_file(), weights.recipe


def test_names_stand_for_fetched_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRCNN_WEIGHTS_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"weights 'resnet50' are not in .*; run: frcnn fetch-weights resnet50"):
        resolve_weights(Path("resnet50"))
    (tmp_path / "resnet50").mkdir()
    assert resolve_weights(Path("resnet50")) == Path("resnet50")  # a folder of this name in the working directory
    monkeypatch.chdir("/")
    assert resolve_weights(Path("resnet50")) == tmp_path / "resnet50"
    assert resolve_weights(Path("other/model")) == Path("other/model")


def test_the_command_downloads_imports_and_uploads(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = foreign_names.torchvision_detector(18, 4, channels=16, width=32)
    safetensors.numpy.save_file(foreign_names.random_tensors(shapes), tmp_path / "net.safetensors")
    server.content = (tmp_path / "net.safetensors").read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()
    net = PublishedWeights(f"{server.url}/net.safetensors", "torchvision", 1, "sha256", digest, "", "", "")
    monkeypatch.setitem(PUBLISHED, "net", net)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.chdir(tmp_path)
    with mock_aws():
        account = AwsAccount()
        account.client("s3").create_bucket(Bucket="bucket")
        result = CliRunner().invoke(main, ["fetch-weights", "net", "--s3", "s3://bucket/weights/net"])
        assert result.exit_code == 0, result.output
        uploaded = {key.rpartition("/")[2] for key in account.objects("s3://bucket/weights/net")}
    folder = resolve_weights(Path("net"))
    assert folder == tmp_path / "cache" / "net"
    assert read_model_folder(folder).config.backbone.name == "resnet18"
    assert uploaded == {file.name for file in folder.iterdir()}


def test_the_list_is_printed_without_the_network(server: Server) -> None:
    lines = CliRunner().invoke(main, ["fetch-weights", "--list"]).stdout.splitlines()
    assert len(lines) == 2 * len(PUBLISHED)
    assert server.requests == []
    result = CliRunner().invoke(main, ["fetch-weights"])
    assert result.exit_code == 2
    assert "the name of the weights is missing" in result.stderr
