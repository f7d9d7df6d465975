"""Counting and reading GPUs, with the functions of pynvml replaced by those of a fake machine."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pynvml
import pytest

from frcnn import gpus

UUIDS = ("GPU-11aa0000", "GPU-11bb0000", "GPU-22cc0000")
MIG_DEVICES = ("MIG-77dd", "MIG-88ee")


@pytest.fixture
def nvml(monkeypatch):
    """Three GPUs; a handle is the index of a GPU or the UUID of a MIG device."""

    def find(uuid):
        if uuid.decode() not in MIG_DEVICES:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid.decode()

    def no_utilization(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(UUIDS),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetHandleByUUID": find,
        "nvmlDeviceGetUUID": lambda handle: UUIDS[handle],
        "nvmlDeviceGetName": lambda handle: f"GPU {handle}",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=16 * 2**30, used=4 * 2**30),
        "nvmlDeviceGetUtilizationRates": no_utilization,
    }
    for name, function in functions.items():
        monkeypatch.setattr(pynvml, name, function)  # raises for a name that pynvml does not have
    return monkeypatch


@pytest.fixture
def device_files(monkeypatch, tmp_path):
    """A machine with three GPUs but without pynvml."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(gpus, "DEVICE_FOLDER", tmp_path)
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"):
        (tmp_path / name).touch()
    return monkeypatch


# CUDA_VISIBLE_DEVICES and the indices that CUDA uses
BY_INDEX = [
    (None, [0, 1, 2]),
    ("", []),
    ("-1", []),
    ("0", [0]),
    ("2,0", [2, 0]),
    (" 1 , 2 ", [1, 2]),
    ("0,1,2", [0, 1, 2]),
    ("1,3,0", [1]),
    ("0,-1,1", [0]),
    ("3", []),
    ("1,1", []),
    ("0,x,1", [0]),
    ("1gpu,2", [1, 2]),
    ("none", []),
    ("NoDevFiles", []),
    ("0,GPU-11aa", [0]),
]
BY_UUID = [
    ("GPU-11bb0000", [1]),
    ("GPU-22,GPU-11aa", [2, 0]),
    ("GPU-11", []),  # ambiguous
    ("GPU-22,GPU-99,GPU-11aa", [2]),
    ("GPU-22,GPU-22cc", []),  # repeated
    ("GPU-22,0", [2]),
]
BY_MIG_DEVICE = [("MIG-77dd", ["MIG-77dd"]), ("MIG-88ee,MIG-77dd", ["MIG-88ee"]), ("MIG-99,MIG-77dd", [])]


def set_visible(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)


@pytest.mark.parametrize(("value", "expected"), [*BY_INDEX, *BY_UUID, *BY_MIG_DEVICE])
def test_visible_gpus(nvml, value, expected):
    set_visible(nvml, value)
    assert gpus.count_gpus() == len(expected)
    assert [gpu.name for gpu in gpus.read_gpus(pynvml)] == [f"GPU {handle}" for handle in expected]


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *((value, len(expected)) for value, expected in BY_INDEX),
        ("GPU-11bb0000", 1),
        ("GPU-1,GPU-2,GPU-3,GPU-4", 3),  # UUIDs cannot be checked, but there are three device files
        ("GPU-1,GPU-1", 0),
        ("MIG-1,MIG-2", 1),
    ],
)
def test_count_without_pynvml(device_files, value, count):
    set_visible(device_files, value)
    assert gpus.count_gpus() == count
    assert gpus.driver_version() is None


def test_values_that_a_gpu_does_not_report_are_zero(nvml):
    set_visible(nvml, "1")
    assert gpus.read_gpus(pynvml) == [gpus.Gpu("GPU 1", memory_gib=16.0, use=0.0, memory_use=25.0)]


def test_a_driver_that_fails_counts_as_none(nvml, tmp_path):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    nvml.setattr(pynvml, "nvmlInit", fail)
    nvml.setattr(gpus, "DEVICE_FOLDER", tmp_path)
    set_visible(nvml, None)
    assert gpus.count_gpus() == 0
    with gpus.management_library() as library:
        assert gpus.read_gpus(library) == []
