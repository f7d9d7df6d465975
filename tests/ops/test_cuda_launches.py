"""The launches of the GPU kernels through a fake CUDA driver: names, grids, blocks, shared memory, errors."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import shim_runs

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
THREADS, WORD, TILE = 256, 64, 4096  # as on a GPU
CUDA_HEADER = next(
    (Path(p) for p in ("/usr/local/cuda/include/cuda.h", "/usr/include/cuda.h") if Path(p).is_file()), None
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """With the blocks and tiles of a GPU."""
    return shim_runs.build("fibers", tmp_path_factory.mktemp("launches") / "program", extra=())


def launches(program, operation, *arrays, monkeypatch, tmp_path):
    """(kernel, grid, threads, shared bytes) of each launch; nothing is executed."""
    log = tmp_path / "launches.txt"
    monkeypatch.setenv("FRCNN_SHIM_LAUNCHES", str(log))
    monkeypatch.setenv("FRCNN_SHIM_DRY", "1")
    shim_runs.run(program, operation, "forward", *arrays)
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(name, tuple(map(int, values[:3])), *map(int, values[3:])) for name, *values in lines]


def pooling(dtype, channels, count, sizes=((200, 336), (100, 168)), batch=2, bins=7):
    head = np.int32([len(sizes), batch, channels, bins, 2, 1, dtype, count])
    heights, widths = np.int32(sizes).T
    values = np.float32([0.25, 0.125][: len(sizes)]), np.float32([0, 112][: len(sizes)])
    return head, heights, widths, *values, np.zeros([count, 4], np.float32), np.zeros(count, np.int32)


@pytest.mark.parametrize(
    ("dtype", "name", "channels", "width"),
    [
        (0, "float32", 256, 4),
        (0, "float32", 6, 1),
        (1, "bfloat16", 256, 8),
        (1, "bfloat16", 20, 1),
        (2, "float16", 64, 8),
    ],
)
def test_roi_align(program, dtype, name, channels, width, monkeypatch, tmp_path):
    call, count, sizes = pooling(dtype, channels, 9), 9, ((200, 336), (100, 168))
    size = (4, 2, 2)[dtype]
    levels = [np.zeros([2, *shape, channels * size], np.uint8) for shape in sizes]
    upstream = np.zeros([count, 7, 7, channels * size], np.uint8)
    # 7 x 7 bins of all channels, four of a thread; taps of 8 bytes: ranges of 2 x 7 bins, and the taps of both axes
    grid = (count, math.ceil(7 * 7 * channels / width / (4 * THREADS)), 1)
    shared = 8 * (2 * 7 + 200 + 4 * 7 + 336 + 4 * 7)
    recorded = {"monkeypatch": monkeypatch, "tmp_path": tmp_path}
    forward = launches(program, "roi_align", *call, *levels, **recorded)
    assert forward == [(f"frcnn_roi_align_{name}_x{width}", grid, THREADS, shared)]

    (tmp_path / "launches.txt").unlink()
    lists, gather = launches(program, "roi_align_gradient", *call, upstream, **recorded)
    assert lists == ("frcnn_list_rois", (len(sizes) * 2, 1, 1), THREADS, THREADS // 8)
    tiles = sum(2 * math.ceil(height / 4) * math.ceil(wide / 8) for height, wide in sizes)
    grid = (tiles, math.ceil(channels / width / (THREADS // 8)), 1)
    # for 16 RoIs the weights of 7 bins in 4 rows and 8 columns, and 9 ranges; an index and a flag of each thread
    shared = 16 * (4 * 7 * (4 + 8) + 4 * 9) + 4 * THREADS + THREADS // 8
    assert gather == (f"frcnn_gather_{name}_x{width}", grid, THREADS, shared)


def test_too_many_bins_for_the_gradient(program):
    call = pooling(0, 4, 1, bins=63)
    upstream = np.zeros([1, 63, 63, 4], np.float32)
    with pytest.raises(shim_runs.Failure, match="output_size is too large for the GPU kernels"):
        shim_runs.run(program, "roi_align_gradient", "forward", *call, upstream)


def nms_inputs(batch, count, max_outputs):
    shape = batch, count
    arrays = np.zeros([*shape, 4], np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int32)
    return np.int32([batch, count, max_outputs]), np.float32([0.5]), *arrays


def test_nms(program, monkeypatch, tmp_path):
    found = launches(program, "nms", *nms_inputs(3, 5000, 100), monkeypatch=monkeypatch, tmp_path=tmp_path)
    blocks = (math.ceil(5000 / THREADS), 3, 1)
    expected = [("frcnn_nms_collect", blocks, THREADS, 0), ("frcnn_nms_rank", blocks, THREADS, 8 * THREADS)]
    for size in (TILE, 5000 - TILE):
        words = math.ceil(size / WORD)
        expected += [
            ("frcnn_nms_compare", (words, words + 1, 3), WORD, (6 * 4 + 4) * WORD),
            ("frcnn_nms_reduce", (3, 1, 1), WORD, 8 * (TILE // WORD) + 8 * WORD + 8),
        ]
    assert found == expected


def test_nms_of_80000_candidates_takes_42_launches(program, monkeypatch, tmp_path):
    inputs = nms_inputs(1, 80000, 100)
    assert len(launches(program, "nms", *inputs, monkeypatch=monkeypatch, tmp_path=tmp_path)) == 2 + 2 * 20


@pytest.mark.parametrize(
    ("head", "suffix", "blocks"),
    [
        # dtype, rows, channels, relu, residual, offset. A thread has two accesses of 16 bytes in flight.
        ((1, 1000, 256, 1, 1, 0), "bfloat16_x8", math.ceil(1000 * 32 / (2 * THREADS))),
        ((0, 1000, 64, 1, 0, 0), "float32_x4", math.ceil(1000 * 16 / (2 * THREADS))),
        ((2, 1001, 12, 0, 0, 0), "float16_x1", math.ceil(1001 * 12 / (2 * THREADS))),
        ((1, 1000, 64, 1, 0, 1), "bfloat16_x1", math.ceil(1000 * 64 / (2 * THREADS))),
        ((1, 40000, 256, 1, 0, 0), "bfloat16_x8", 2048),
    ],
    ids=["bfloat16", "float32", "12 channels", "not aligned", "more than the largest grid"],
)
def test_bias_relu(program, head, suffix, blocks, monkeypatch, tmp_path):
    dtype, rows, channels, _, residual, offset = head
    size = (4, 2, 2)[dtype]
    values = np.zeros(rows * channels * size, np.uint8)
    inputs, bias = np.zeros(offset * size + values.nbytes, np.uint8), np.zeros(channels, np.float32)
    recorded = {"monkeypatch": monkeypatch, "tmp_path": tmp_path}
    found = launches(program, "bias_relu", np.int32(head), inputs, bias, *[values] * residual, **recorded)
    found += launches(program, "bias_relu_gradient", np.int32(head), inputs, values, **recorded)[1:]
    grid = (blocks, 1, 1), THREADS, 0
    assert found == [(f"frcnn_bias_relu_{suffix}", *grid), (f"frcnn_bias_relu_gradient_{suffix}", *grid)]


def test_bias_relu_has_threads_for_a_whole_row(program, monkeypatch, tmp_path):
    arrays = np.int32([0, 1, 2049, 1, 0, 0]), np.zeros(2049, np.float32), np.zeros(2049, np.float32)
    found = launches(program, "bias_relu", *arrays, monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert found == [("frcnn_bias_relu_float32_x1", (math.ceil(2049 / THREADS), 1, 1), THREADS, 0)]


def test_empty_inputs_launch_nothing(program, monkeypatch, tmp_path):
    recorded = {"monkeypatch": monkeypatch, "tmp_path": tmp_path}
    assert launches(program, "nms", *nms_inputs(2, 0, 5), **recorded) == []
    assert launches(program, "bias_relu", np.int32([0, 0, 8, 1, 0, 0]), np.zeros(8, np.float32), **recorded) == []
    assert launches(program, "bias_relu_gradient", np.int32([0, 0, 8, 1, 0, 0]), **recorded) == []
    levels = [np.zeros([2, *shape, 16], np.uint8) for shape in ((200, 336), (100, 168))]
    assert launches(program, "roi_align", *pooling(0, 4, 0), *levels, **recorded) == []
    head, affine = np.int32([0, 6, 8, 2, 0, 1]), np.ones([2, 8], np.float32)
    assert launches(program, "group_norm", head, np.float32([1e-5]), affine, **recorded) == []
    assert launches(program, "group_norm_gradient", head, affine, **recorded) == []


def test_group_norm_of_no_images_has_zero_gradients(program):
    head, affine = np.int32([0, 6, 8, 2, 0, 1]), np.ones([2, 8], np.float32)
    assert shim_runs.run(program, "group_norm_gradient", "forward", head, affine)[0] == bytes(2 * 8 * 4)


@pytest.mark.parametrize(
    # Threads per pixel, chunks of an image, pixels that a block processes at a time, groups of a block that adds up.
    ("shape", "groups", "dtype", "suffix", "width", "chunks", "tiles", "of_groups"),
    [
        # 32 threads a pixel, 8 pixels at a time, at least 4 of a thread; 67200 / 512 pixels rounded up to 132: 510
        # chunks, of which 31 threads of 8 channels each add up 16 or 17: one group per block.
        ((2, 200, 336, 256), 32, 1, "bfloat16", 8, 510, 1, 32),
        # 64 threads a pixel, 4 pixels at a time: 49 / 16 = 3 chunks; 256 / (512 / 32) = 16 groups per block.
        ((2, 7, 7, 512), 32, 2, "float16", 8, 3, 1, 2),
        # 3 threads a pixel for the chunks, 85 at a time: 1020 / 340 = 3 chunks; all groups in a block.
        ((3, 30, 34, 10), 5, 0, "float32", 1, 3, 1, 1),
        # 500 threads a pixel are two blocks, a pixel at a time: 6 / 4 = 1 chunk; 256 / 20 = 12 groups per block.
        ((1, 2, 3, 2000), 100, 0, "float32", 4, 1, 2, 9),
    ],
)
def test_group_norm(program, shape, groups, dtype, suffix, width, chunks, tiles, of_groups, monkeypatch, tmp_path):
    batch, *sides, channels = shape
    head = np.int32([batch, math.prod(sides), channels, groups, dtype, 1])
    values, affine = np.zeros(shape, (np.float32, np.uint16, np.uint16)[dtype]), np.zeros([2, channels], np.float32)
    statistics = np.zeros([2, batch, groups], np.float32)
    recorded = {"monkeypatch": monkeypatch, "tmp_path": tmp_path}
    grid, sums, doubles = (batch * chunks, tiles, 1), 2 * 4 * width * THREADS, 2 * 8 * THREADS
    forward = launches(program, "group_norm", head, np.float32([1e-5]), values, affine, **recorded)
    assert forward == [
        (f"frcnn_norm_moments_{suffix}_x{width}", grid, THREADS, sums),
        (f"frcnn_norm_statistics_{suffix}", (batch * of_groups, 1, 1), THREADS, doubles),
        (f"frcnn_norm_apply_{suffix}_x{width}", grid, THREADS, 0),
    ]
    (tmp_path / "launches.txt").unlink()
    backward = launches(program, "group_norm_gradient", head, values, values, affine, statistics, **recorded)
    assert backward == [
        (f"frcnn_norm_gradient_sums_{suffix}_x{width}", grid, THREADS, sums),
        ("frcnn_norm_totals", (batch * of_groups + math.ceil(channels / 8), 1, 1), THREADS, doubles),
        (f"frcnn_norm_gradient_{suffix}_x{width}", grid, THREADS, 0),
    ]


def failure(program, *arrays):
    with pytest.raises(shim_runs.Failure) as raised:
        shim_runs.run(program, "nms", "forward", *arrays)
    return str(raised.value)


def test_inputs_that_exceed_the_grid(program, monkeypatch):
    monkeypatch.setenv("FRCNN_SHIM_DRY", "1")  # the buffers are too large to be filled
    assert "too large for the grid of the GPU kernel frcnn_nms_collect" in failure(program, *nms_inputs(70000, 1, 1))


def test_errors_of_the_driver(program, tmp_path):
    inputs = nms_inputs(1, 10, 5)
    copy = tmp_path / program.name
    shutil.copy(program, copy)
    assert f"no GPU kernels for compute capability 8.6 in {tmp_path}" in failure(copy, *inputs)
    (tmp_path / f"{program.name}.sm_90.cubin").write_bytes(b"shim")  # another major version
    assert "python -m frcnn.ops" in failure(copy, *inputs)
    (tmp_path / f"{program.name}.sm_80.cubin").write_bytes(b"shim")  # a lower minor version runs
    shim_runs.run(copy, "nms", "forward", *inputs)
    (tmp_path / f"{program.name}.sm_86.cubin").write_bytes(b"not made for this GPU")
    assert "cannot load the GPU kernels: no kernel image is available" in failure(copy, *inputs)


@pytest.fixture(scope="module")
def without_driver(tmp_path_factory):
    """The launch functions in a library of their own; NVIDIA's driver is looked for when it is used."""
    folder = tmp_path_factory.mktemp("driver")
    sources = [*shim_runs.launch_sources(), folder / "caller.cc"]
    sources[-1].write_text(
        '#include <cstdio>\n#include "cuda_launch.h"\nint main() {\n'
        "  int32_t indices[3], counts[1];\n"
        "  float boxes[4] = {0, 0, 1, 1}, scores[1] = {1};\n  int32_t groups[1] = {0};\n"
        "  frcnn::NmsCall call = {1, 1, 3, 0.5f, boxes, scores, groups, indices, counts};\n"
        "  static char workspace[64 << 20];\n"
        "  const char* error = frcnn::launch_nms(call, workspace, nullptr);\n"
        '  printf("%s %d %d", error ? error : "ok", counts[0], indices[0]);\n}\n'
    )
    objects = shim_runs.compile_objects(folder, "g++", (f"-I{shim_runs.KERNELS}",), sources)
    shim_runs.link("g++", (), objects, folder / "program")
    shim_runs.write_code(folder / "program")
    shimmed = [shim_runs.KERNELS / "gpu_kernels.cu", shim_runs.SHIM / "fake_driver.cc"]
    flags = ("-O1", f"-I{shim_runs.KERNELS}", "-include", str(shim_runs.SHIM / "cuda_shim.h"))
    objects = shim_runs.compile_objects(folder / "fake", "g++", flags, shimmed)
    shim_runs.link("g++", ("-shared", "-Wl,-soname,libcuda.so.1"), objects, folder / "fake" / "libcuda.so.1")
    return folder / "program"


def test_the_driver_is_loaded_at_run_time(without_driver):
    environment = {**os.environ, "LD_LIBRARY_PATH": str(without_driver.parent / "fake")}
    assert subprocess.check_output([without_driver], env=environment, text=True) == "ok 1 0"


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has the driver")
def test_without_the_driver(without_driver):
    assert "cannot load NVIDIA's driver: libcuda.so.1" in subprocess.check_output([without_driver], text=True)


@pytest.mark.skipif(CUDA_HEADER is None, reason="no cuda.h")
def test_declarations_of_the_driver_are_those_of_cuda(tmp_path):
    (tmp_path / "check.cc").write_text(
        '#include "driver_memory.h"\n#include <type_traits>\n'
        "#define CHECK(name, parameters) static_assert(std::is_same_v<decltype(&::name), CUresult(*) parameters>);\n"
        "FRCNN_DRIVER_FUNCTIONS(CHECK)\nFRCNN_TEST_DRIVER_FUNCTIONS(CHECK)\n"
        "static_assert(sizeof(CUresult) == sizeof(int) && sizeof(CUdevice) == sizeof(int));\n"
        "static_assert(sizeof(CUdeviceptr) == sizeof(unsigned long long));\n"
        "static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75);\n"
        "static_assert(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76);\n"
    )
    flags = ["-DFRCNN_CUDA_H", f"-I{shim_runs.KERNELS}", f"-I{shim_runs.SHIM}", f"-I{CUDA_HEADER.parent}"]
    subprocess.run(["g++", "-std=c++17", "-fsyntax-only", *flags, str(tmp_path / "check.cc")], check=True)
