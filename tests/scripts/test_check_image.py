"""scripts/check_image.py on generated layers."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_image.py"
BODY = b"MC4CAQAwBQYDK2VwBCIEIHJhbmRvbWJ5dGVzcmFuZG9tYnl0ZXNyYW5kb21ieXQ=\n" * 4
OURS = b"A" * 64 + b"\n" + BODY  # the body of a certificate


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_image", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def certificate(text: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("root/.ssh/id_rsa", b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + BODY, "a private key"),
        (
            "etc/old.pem",
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\n" + BODY,
            "a private key",
        ),
        ("opt/reads_keys.py", b'HEADER = "-----BEGIN PRIVATE KEY-----"\nif line == HEADER:\n    pass\n', None),
        ("usr/lib/libssl.so", b"\x7fELF..-----BEGIN PRIVATE KEY-----\n" + BODY, None),
        ("etc/id.pub", b"ssh-ed25519 " + BODY, None),
        ("etc/ca.crt", certificate(OURS), "a forbidden certificate"),
        (
            "etc/ca.pem",
            b"text\n" + certificate(b"B" * 64 + b"\n") + certificate(OURS.replace(b"\n", b"\r\n")),
            "a forbidden certificate",
        ),
        ("etc/other.crt", certificate(b"C" * 400 + b"\n"), None),
        ("usr/bin/x86_64-linux-gnu-gcc-12", b"", "a compiler"),
        ("usr/bin/g++", b"", "a compiler"),
        ("usr/bin/gccgo-notes.txt", b"", None),
        ("usr/bin/install", b"", None),
    ],
)
def test_a_file(check: ModuleType, name: str, content: bytes, problem: str | None) -> None:
    forbidden = check.bodies(certificate(OURS))
    assert len(forbidden) == 1
    with tarfile.open(fileobj=io.BytesIO(tar({name: content}))) as layer:
        assert list(check.findings(layer, forbidden)) == [(name, problem)]


KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + BODY
# docker save up to 24, docker save from 25, and podman save
FORMS = ["{}/layer.tar", "blobs/sha256/{}", "{}.tar"]


def image_of(layers: dict[str, bytes], named: list[str] | None = None) -> bytes:
    """The output of docker save: layers, the image's configuration and the manifest."""
    manifest = json.dumps([{"Config": "blobs/sha256/c", "Layers": list(layers) if named is None else named}]).encode()
    return tar(
        {
            "blobs/sha256/c": b'{"config": {}}',
            **layers,
            "oci-layout": b"{}",
            "manifest.json": manifest,
            "repositories": b"{}",
        }
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_layer_is_read(check: ModuleType, form: str, pack: Callable[[bytes], bytes]) -> None:
    image = image_of({form.format(n): pack(tar({f"file{n}": b"", "root/.ssh/id_rsa": KEY})) for n in range(3)})
    seen = [list(check.findings(layer, set())) for _, layer in check.layers(io.BytesIO(image))]
    assert seen == [[(f"file{n}", None), ("root/.ssh/id_rsa", "a private key")] for n in range(3)]


def test_linked_layer_is_read_once(check: ModuleType) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        archive.addfile(link)
        for name, content in (
            ("a/layer.tar", tar({"file": b""})),
            ("manifest.json", b'[{"Layers": ["a/layer.tar", "b/layer.tar"]}]'),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    assert [name for name, _ in check.layers(io.BytesIO(out.getvalue()))] == ["a/layer.tar"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            image_of({"blobs/sha256/1": tar({"file": b""}), "blobs/sha256/2": b"\x28\xb5\x2f\xfd" + b"zstd" * 500}),
            "not read: blobs/sha256/2",
        ),
        (image_of({"1/layer.tar": tar({"file": b""})}, ["1/layer.tar", "2/layer.tar"]), "not read: 2/layer.tar"),
        (image_of({}, []), "lists no layers"),
        (b"", "did not write a complete image"),
        (image_of({"1.tar": tar({"file": b"x" * 5000})})[:5000], "did not write a complete image"),
    ],
)
def test_unreadable_image_is_an_error(check: ModuleType, image: bytes, message: str) -> None:
    with pytest.raises(check.Unreadable, match=message):
        all(list(check.findings(layer, set())) for _, layer in check.layers(io.BytesIO(image)))


def test_key_in_a_later_layer_is_found(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(
        image_of({"blobs/sha256/1": tar({"file": b""}), "blobs/sha256/2": tar({"root/.ssh/id_rsa": KEY})})
    )
    docker = tmp_path / "docker"
    docker.write_text(
        f"#!/bin/sh\ncase $1 in save) cat {tmp_path}/image.tar ;; *) echo '[{{\"Config\": {{}}}}]' ;; esac\n"
    )
    docker.chmod(0o755)
    done = subprocess.run(
        [sys.executable, SCRIPT, "frcnn"],
        env={**os.environ, "DOCKER": str(docker)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "root/.ssh/id_rsa: a private key (layer 2)\n")
