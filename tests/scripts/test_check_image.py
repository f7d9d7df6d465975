"""scripts/check_image.py on layers made here."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_image.py"
BODY = b"MC4CAQAwBQYDK2VwBCIEIHJhbmRvbWJ5dGVzcmFuZG9tYnl0ZXNyYW5kb21ieXQ=\n" * 4
OURS = b"A" * 64 + b"\n" + BODY  # a certificate's text


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
    ("name", "content", "wrong"),
    [
        ("root/.ssh/id_rsa", b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + BODY, "a private key"),
        ("etc/old.pem", b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\n" + BODY, "a private key"),
        ("opt/reads_keys.py", b'HEADER = "-----BEGIN PRIVATE KEY-----"\nif line == HEADER:\n    pass\n', None),
        ("usr/lib/libssl.so", b"\x7fELF..-----BEGIN PRIVATE KEY-----\n" + BODY, None),
        ("etc/id.pub", b"ssh-ed25519 " + BODY, None),
        ("etc/ca.crt", certificate(OURS), "a forbidden certificate"),
        ("etc/ca.pem", b"text\n" + certificate(b"B" * 64 + b"\n") + certificate(OURS.replace(b"\n", b"\r\n")), "a forbidden certificate"),
        ("etc/other.crt", certificate(b"C" * 400 + b"\n"), None),
        ("usr/bin/x86_64-linux-gnu-gcc-12", b"", "a compiler"),
        ("usr/bin/g++", b"", "a compiler"),
        ("usr/bin/gccgo-notes.txt", b"", None),
        ("usr/bin/install", b"", None),
    ],
)
def test_a_file(check: ModuleType, name: str, content: bytes, wrong: str | None) -> None:
    forbidden = check.bodies(certificate(OURS))
    assert len(forbidden) == 1
    with tarfile.open(fileobj=io.BytesIO(tar({name: content}))) as layer:
        assert list(check.findings(layer, forbidden)) == [(name, wrong)]


@pytest.mark.parametrize("form", ["{}/layer.tar", "blobs/sha256/{}"])
def test_every_layer_is_read(check: ModuleType, form: str) -> None:
    filler = {"filler": b"x" * 100_000}
    image = tar({form.format(n): tar({f"file{n}": b"", **filler}) for n in range(3)} | {"manifest.json": b"[]"})
    seen = [[entry.name for entry in layer] for _, layer in check.layers(io.BytesIO(image))]
    assert seen == [["file0", "filler"], ["file1", "filler"], ["file2", "filler"]]
