"""The space that a run needs, against sizes computed by hand."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import tensorflow as tf

from frcnn.errors import UserError
from frcnn.training.disk_space import check_disk_space
from frcnn.training.folders import Folders

Usage = namedtuple("Usage", "total used free")
MODEL = [tf.Variable(tf.zeros([100, 10])), tf.Variable(tf.zeros([50]))]  # 4,200 bytes
OPTIMIZER = [tf.Variable(tf.zeros([1050])), tf.Variable(0, dtype=tf.int64)]  # 4,208 bytes
# Two checkpoints and a third while it is written; a model, its copy, and the previous one of each.
NEEDED = 3 * (4200 + 4208) + 4 * 4200


def test_too_little_space_is_an_error_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders.below(tmp_path / "not" / "yet")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, NEEDED))
    check_disk_space(folders, MODEL, OPTIMIZER, keep=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, NEEDED - 1))
    with pytest.raises(UserError, match=rf"too little space in {tmp_path}: .* need 42,024 more bytes, 42,023 are free"):
        check_disk_space(folders, MODEL, OPTIMIZER, keep=2)


def test_existing_checkpoints_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders.below(tmp_path)
    (folders.checkpoints / "step-00000001").mkdir(parents=True)
    (folders.checkpoints / "step-00000001" / "variables").write_bytes(bytes(8408))
    (folders.checkpoints / "dangling").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, NEEDED - 8408))
    check_disk_space(folders, MODEL, OPTIMIZER, keep=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, NEEDED - 8409))
    with pytest.raises(UserError, match="too little space"):
        check_disk_space(folders, MODEL, OPTIMIZER, keep=2)
    (folders.checkpoints / "model").mkdir()  # counts as a model, and not as checkpoints
    (folders.checkpoints / "model" / "weights.safetensors").write_bytes(bytes(2 * 4200 + 1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, NEEDED - 8408 - 2 * 4200))
    check_disk_space(folders, MODEL, OPTIMIZER, keep=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, NEEDED - 8408 - 2 * 4200 - 1))
    with pytest.raises(UserError, match="too little space"):
        check_disk_space(folders, MODEL, OPTIMIZER, keep=2)
