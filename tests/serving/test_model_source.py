"""Finding a model, and the error if there is none."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from frcnn.errors import UserError
from frcnn.serving.model_source import find_model
from frcnn.weights.model_files import REQUIRED


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in REQUIRED:
        (folder / name).write_text(name)
    return folder


def archive_of(folder: Path, file: Path, top: str) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        tar.add(folder, top)
    return file


def test_model_folder_and_folder_that_contains_one(model: Path, tmp_path: Path) -> None:
    assert find_model(model, tmp_path / "scratch") == model
    outer = tmp_path / "outer"
    outer.mkdir()
    model.rename(outer / "model")
    assert find_model(outer, tmp_path / "scratch") == outer / "model"
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("top", [".", "model"])
def test_archive_by_path_or_in_a_folder(model: Path, tmp_path: Path, top: str) -> None:
    (tmp_path / "opt").mkdir()
    archive = archive_of(model, tmp_path / "opt" / "model.tar.gz", top)
    for number, source in enumerate((archive, archive.parent)):
        found = find_model(source, tmp_path / f"scratch{number}")
        assert sorted(path.name for path in found.iterdir()) == sorted(REQUIRED)
        assert found.is_relative_to(tmp_path / f"scratch{number}")


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing does not exist; give the folder 'model'"):
        find_model(tmp_path / "missing", tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        UserError,
        match=r"does not contain a model; expected weights.safetensors, config.yaml, labels.json.*found notes.txt",
    ):
        find_model(tmp_path, tmp_path / "scratch")
    with pytest.raises(UserError, match=r"notes.txt cannot be unpacked"):
        find_model(tmp_path / "notes.txt", tmp_path / "scratch")
    with pytest.raises(UserError, match=r"does not contain a model; .*at its top level"):
        find_model(archive_of(tmp_path / "notes.txt", tmp_path / "x.tar.gz", "notes.txt"), tmp_path / "scratch")


def test_an_archive_cannot_write_outside_its_target(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("../escaped")
        entry.size = 4
        tar.addfile(entry, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match="cannot be unpacked"):
        find_model(tmp_path / "evil.tar.gz", tmp_path / "a" / "scratch")
    assert not (tmp_path / "a" / "escaped").exists()


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", ""])
def test_compressions(model: Path, tmp_path: Path, compression: str) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", f"w:{compression}") as tar:
        tar.add(model, ".")
    assert (find_model(tmp_path / "model.tar.gz", tmp_path / "scratch") / "labels.json").read_text() == "labels.json"


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_a_damaged_archive_never_gives_other_weights(model: Path, tmp_path: Path, compression: str) -> None:
    """Stored blocks: without the checksum at the end, changed weights would unpack without an error."""
    weights = bytes(range(256)) * 400
    (model / "weights.safetensors").write_bytes(weights)
    archive = tmp_path / "model.tar.gz"
    level = {"compresslevel": 0} if compression == "gz" else {}
    with tarfile.open(archive, f"w:{compression}", **level) as tar:  # type: ignore[call-overload]
        tar.add(model, ".")
    whole = archive.read_bytes()
    find_model(archive, tmp_path / "whole")
    rejected = 0
    for number, offset in enumerate(range(len(whole) // 20, len(whole), len(whole) // 20)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        archive.write_bytes(damaged)
        try:
            found = find_model(archive, tmp_path / f"damaged{number}")
        except UserError as error:
            assert "cannot be unpacked" in str(error)  # noqa: PT017
            rejected += 1
        else:  # some bits of a bzip2 stream have no meaning
            assert (found / "weights.safetensors").read_bytes() == weights
    assert rejected >= 18
    archive.write_bytes(whole[:-4])
    with pytest.raises(UserError, match="cannot be unpacked"):
        find_model(archive, tmp_path / "truncated")
