from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frcnn.config import Config, load_config
from frcnn.data import pipeline
from frcnn.data.batch import Batch
from frcnn.data.coco import Index, Problem, find_split, load_index
from frcnn.data.decode import decode_image
from frcnn.data.shapes import make_shapes
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", images=20, seed=0)


@pytest.fixture
def options(root: Path) -> Config:
    return small(root)


def small(root: Path, *overrides: str) -> Config:
    defaults = ["image.min_size=[96]", "image.max_size=160", "training.batch_size=4", "data.workers=2"]
    return load_config(overrides=[f"data.root={root}", *defaults, *overrides])


@pytest.fixture
def index(options: Config) -> Index:
    return load_index(*find_split(options.data, "train"))


def take(batches: Iterator[Batch], count: int) -> list[Any]:
    return [Batch(*(tensor.numpy() for tensor in batch)) for batch in itertools.islice(batches, count)]


def assert_equal_batches(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for name, value in one._asdict().items():
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def test_no_iterator_is_autotuned(index: Index, options: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleting an iterator waits for the autotuning thread, which sleeps up to ten seconds and more."""
    datasets: list[Any] = []
    iterate = pipeline._iterate
    monkeypatch.setattr(pipeline, "_iterate", lambda dataset: datasets.append(dataset) or iterate(dataset))
    take(pipeline.training_batches(index, options), 1)
    take(pipeline.inference_batches(index, options, 2), 1)
    assert [dataset.options().autotune.enabled for dataset in datasets] == [False, False]


@pytest.mark.parametrize("resize", ["bilinear", "pillow"])
def test_resumed_batches_are_bit_identical(root: Path, index: Index, resize: str) -> None:
    options = small(
        root,
        f"image.resize={resize}",
        "image.min_size=[64, 80, 96]",
        "augment.color_jitter=0.4",
        "augment.vertical_flip=0.5",
        "augment.scale_range=[0.5, 2.0]",
    )
    steps = pipeline.steps_per_epoch(index, options)
    unbroken = take(pipeline.training_batches(index, options), 2 * steps + 1)
    for start in (1, steps - 1, steps, steps + 2):
        resumed = take(pipeline.training_batches(index, options, start_step=start), 2 * steps + 1 - start)
        assert_equal_batches(unbroken[start:], resumed)


@pytest.mark.parametrize("resize", ["bilinear", "pillow"])
def test_kernels_give_the_same_batches(root: Path, index: Index, resize: str) -> None:
    def batches(kernel: str) -> list[Any]:
        options = small(
            root,
            f"ops.kernel={kernel}",
            f"image.resize={resize}",
            "image.channel_order=bgr",
            "augment.vertical_flip=0.5",
            "augment.color_jitter=0.2",
            "augment.scale_range=[0.5, 2.0]",
        )
        inference = pipeline.inference_batches(index, options, 4)
        return [*take(pipeline.training_batches(index, options), 4), *take(inference, 2)]

    assert_equal_batches(batches("compiled"), batches("reference"))


def test_workers_do_not_change_the_batches(root: Path, index: Index) -> None:
    one, many = (take(pipeline.training_batches(index, small(root, f"data.workers={n}")), 5) for n in (1, 7))
    assert_equal_batches(one, many)


def test_ranks_share_each_global_batch_in_order(options: Config, index: Index) -> None:
    whole = take(pipeline.training_batches(index, options), 6)
    ranks = [take(pipeline.training_batches(index, options, rank=rank, size=2), 6) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        for name, value in batch._asdict().items():
            np.testing.assert_array_equal(value, np.concatenate([getattr(ranks[rank][step], name) for rank in (0, 1)]))


def test_an_epoch_contains_every_image_and_epochs_differ(options: Config, index: Index) -> None:
    steps = pipeline.steps_per_epoch(index, options)
    batches = take(pipeline.training_batches(index, options), 2 * steps)
    epochs = [np.concatenate([batch.image_ids for batch in part]) for part in (batches[:steps], batches[steps:])]
    for epoch in epochs:
        assert set(epoch.tolist()) == {record.image_id for record in index.images}
    assert epochs[0].tolist() != epochs[1].tolist()
    flips = [
        {i: batch.boxes[k].tolist() for batch in part for k, i in enumerate(batch.image_ids)}
        for part in (batches[:steps], batches[steps:])
    ]
    assert any(flips[0][i] != flips[1][i] for i in flips[0])


def test_seed_changes_the_order(root: Path, index: Index) -> None:
    first, second = (take(pipeline.training_batches(index, small(root, f"seed={seed}")), 4) for seed in (0, 1))
    assert [b.image_ids.tolist() for b in first] != [b.image_ids.tolist() for b in second]


def test_batch_matches_its_definition(root: Path, index: Index) -> None:
    options = small(root, "augment.horizontal_flip=0")
    records = {record.image_id: record for record in index.images}
    batch = take(pipeline.training_batches(index, options), 1)[0]
    slots = pipeline.ground_truth_slots(index)
    assert slots == 8
    assert batch.boxes.shape == (4, slots, 4)
    assert [value.dtype for value in batch] == [
        np.uint8,
        np.int32,
        np.int32,
        np.float32,
        np.int32,
        np.bool_,
        np.int64,
    ]
    assert batch.images.shape[1:3] in pipeline.canvases(options.image)
    for row, image_id in enumerate(batch.image_ids.tolist()):
        record = records[image_id]
        height, width = batch.image_sizes[row]
        assert tuple(batch.original_sizes[row]) == (record.height, record.width)
        assert (batch.images[row, height:] == 0).all()
        assert (batch.images[row, :, width:] == 0).all()
        assert batch.images[row, :height, :width].std() > 0.1
        count = len(record.labels)
        assert batch.labels[row].tolist() == record.labels.tolist() + [0] * (slots - count)
        ratio = np.array([width / record.width, height / record.height] * 2)
        np.testing.assert_allclose(batch.boxes[row, :count], record.boxes * ratio, rtol=1e-5)
        assert (batch.boxes[row, count:] == 0).all()


def test_inference_reads_every_image_once_over_the_ranks(options: Config, index: Index) -> None:
    found: Counter[int] = Counter()
    for rank in range(3):
        for batch in take(pipeline.inference_batches(index, options, 3, rank=rank, size=3), 100):
            assert batch.images.shape[0] == 3
            found.update(batch.image_ids.tolist())
    del found[-1]
    assert found == Counter(record.image_id for record in index.images)


@pytest.mark.parametrize("overrides", [(), ("image.resize=pillow", "image.channel_order=bgr")])
def test_prepare_image_equals_the_inference_batches(root: Path, index: Index, overrides: tuple[str, ...]) -> None:
    options = small(root, *overrides)
    records = {record.image_id: record for record in index.images}
    rows = [(batch, row) for batch in pipeline.inference_batches(index, options, 2) for row in range(2)]
    real = [(batch, row) for batch, row in rows if batch.image_ids[row] != -1]
    assert len(real) == len(records)
    for batch, row in real:
        canvas, size = pipeline.prepare_image(decode_image(records[int(batch.image_ids[row])].path), options.image)
        np.testing.assert_array_equal(canvas, batch.images[row])
        assert size.tolist() == batch.image_sizes[row].numpy().tolist()


def test_unreadable_images_become_blank_are_counted_and_end_the_run_above_the_share(
    options: Config, index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, missing, other = index.images[0], index.images[1], index.images[2]
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(broken.path.read_bytes()[:900])
    records = list(index.images)
    records[0] = dataclasses.replace(broken, path=cut)
    records[1] = dataclasses.replace(missing, path=tmp_path / "missing.jpg")
    records[2] = dataclasses.replace(other, width=other.width + 5)
    damaged = dataclasses.replace(index, images=tuple(records))
    bad = UnreadableImages(damaged, max_share=0.1)
    for batch in take(pipeline.inference_batches(damaged, options, 4, unreadable_images=bad), 100):
        for row, image_id in enumerate(batch.image_ids.tolist()):
            height, width = batch.image_sizes[row]
            visible = batch.images[row, :height, :width]
            if image_id in (broken.image_id, missing.image_id, other.image_id):
                assert np.abs(visible).max() < 0.02  # the mean color
                assert (batch.labels[row] == 0).all()
            elif image_id >= 0:
                assert visible.std() > 0.1
    assert set(bad.reasons) == {cut, tmp_path / "missing.jpg", other.path}
    assert "missing.jpg does not exist" in caplog.text
    with pytest.raises(
        UserError,
        match=r"3 of 16 images could not be read, more than data.max_bad_image_share=0.1 allows: .*cut.jpg cannot be ",
    ):
        bad.check(bad.known())
    lenient = UnreadableImages(damaged, max_share=0.2)
    for path, reason in bad.reasons.items():
        lenient.add(path, reason)
        lenient.add(path, reason)
    lenient.check(lenient.known())
    assert len(lenient) == 3


def test_images_without_objects_are_background_or_left_out(real_data: Path) -> None:
    overrides = [
        f"data.root={real_data / 'coco128'}",
        "image.min_size=[64]",
        "image.max_size=107",
        "training.batch_size=8",
    ]
    options = load_config(overrides=overrides)
    index = load_index(*find_split(options.data, "train"))
    empty = {record.image_id for record in index.images if not len(record.labels)}
    seen = take(pipeline.training_batches(index, options), pipeline.steps_per_epoch(index, options))
    assert empty <= {i for batch in seen for i in batch.image_ids.tolist()}
    assert sum(batch.crowd.sum() for batch in seen) >= 6
    options = load_config(overrides=[*overrides, "data.keep_images_without_objects=false"])
    seen = take(pipeline.training_batches(index, options), pipeline.steps_per_epoch(index, options))
    assert not empty & {i for batch in seen for i in batch.image_ids.tolist()}


def test_batch_size_must_be_shared_evenly(options: Config, index: Index) -> None:
    with pytest.raises(
        UserError, match=r"'training.batch_size' is 4, which 3 processes cannot share evenly; give a multiple of 3"
    ):
        pipeline.training_batches(index, options, rank=0, size=3)


def test_an_index_without_objects_is_refused_with_reasons(options: Config, index: Index) -> None:
    crowds = tuple(dataclasses.replace(record, crowd=np.ones(len(record.labels), bool)) for record in index.images)
    problems = (Problem("no_area", 3, 1, "annotation 3 has no area"),)
    with pytest.raises(
        UserError, match=r"no image in .*instances_train.json has an object to train on: annotation 3 has no area"
    ):
        pipeline.training_batches(dataclasses.replace(index, images=crowds, problems=problems), options)


@pytest.mark.slow
def test_process_exits_while_batches_are_being_loaded(root: Path) -> None:
    script = f"""
from frcnn.config import load_config
from frcnn.data.coco import find_split, load_index
from frcnn.data.pipeline import training_batches
options = load_config(overrides=["data.root={root}", "image.min_size=[96]", "image.max_size=160", "data.workers=4"])
index = load_index(*find_split(options.data, "train"))
running = [training_batches(index, options) for _ in range(4)]
for batches in running:
    next(batches)
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=100, check=False).returncode == 0


@pytest.mark.slow
def test_unexpected_exception_in_a_thread_ends_the_process(root: Path) -> None:
    """The process must not wait for threads that are in the middle of an image."""
    script = """
import itertools, sys, time
from frcnn.config import load_config
from frcnn.data import example, pipeline
from frcnn.data.coco import find_split, load_index

options = ["image.min_size=[64]", "image.max_size=64", "training.batch_size=4", "data.workers=4"]
config = load_config(overrides=[f"data.root={sys.argv[1]}", *options])
decode, calls = example._decode, itertools.count()

def fails(*arguments):
    call = next(calls)
    time.sleep(0.3)
    if call >= 8 and call % 4 == 0:
        raise RuntimeError("unexpected")
    return decode(*arguments)

example._decode = fails
for batch in pipeline.training_batches(load_index(*find_split(config.data, "train")), config):
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "RuntimeError: unexpected" in done.stderr
