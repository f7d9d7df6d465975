"""local_test/serve_local.sh without a Docker engine; with one: tests/image."""

from __future__ import annotations

from pathlib import Path


def test_first_of_many_images_is_sent(tmp_path: Path, script) -> None:
    """More names than fit into a pipe, in a channel that is a symbolic link."""
    images, model = tmp_path / "images", tmp_path / "model"
    for folder in (images / "val", model):
        folder.mkdir(parents=True)
    (tmp_path / "data").symlink_to(images)
    for number in range(3000):
        (images / "val" / f"{number:08d}{'-' * 80}.{('jpg', 'png')[number % 2]}").touch()
    (images / "val" / "0.txt").touch()
    programs = {"docker": "echo container", "curl": 'echo "$@" >>$HOME/asked'}
    for name, does in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    done = script("local_test/serve_local.sh", DATA=str(tmp_path / "data"), MODEL=str(model), DOCKER="docker")
    assert done.returncode == 0, done.stderr
    first = tmp_path / "data" / "val" / f"{0:08d}{'-' * 80}.jpg"
    assert f"--header Content-Type: image/jpeg --data-binary @{first} " in (tmp_path / "asked").read_text()
