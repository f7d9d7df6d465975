"""Which kernels are active, on this machine and on machines with GPUs, whose TensorFlow devices are simulated."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from frcnn import ops
from frcnn.ops import build, compiled, gpu_code

pytestmark = pytest.mark.skipif(compiled.active_kernels().library is None, reason="no kernels on this machine")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a built library in an empty cache; ``gpus`` sets the compute capabilities of its GPUs."""
    library = tmp_path / build.file_name()
    shutil.copy(compiled.active_kernels().library, library)
    made = []
    devices = []

    def compile_kernels(capability):
        made.append(capability)
        return b"code"

    def details(device):
        return {"compute_capability": device.capability} if device.capability else {}

    monkeypatch.setattr(build, "PREBUILT", tmp_path / "none")
    monkeypatch.setattr(build, "default_cache", lambda: tmp_path)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: devices)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    monkeypatch.setattr(gpu_code, "compile_kernels", compile_kernels)
    loaded = compiled._load(compiled.active_kernels().library)
    monkeypatch.setattr(compiled, "_load", lambda file: loaded)
    monkeypatch.setattr(compiled, "_use_gpu_code", lambda library, folder: None)
    monkeypatch.setattr(compiled, "_try", lambda operations, device: None)

    def set_gpus(*capabilities):
        devices[:] = [SimpleNamespace(capability=capability) for capability in capabilities]

    compiled._find_kernels.cache_clear()
    yield SimpleNamespace(folder=tmp_path, library=library, made=made, gpus=set_gpus, patch=monkeypatch)
    compiled._find_kernels.cache_clear()


def test_machine_code_is_compiled_once_for_each_kind_of_gpu(machine):
    machine.gpus((8, 6), (9, 0), (8, 6))
    expected = tuple(machine.folder / f"{machine.library.stem}.sm_{capability}.cubin" for capability in (86, 90))
    assert compiled.active_kernels() == compiled.ActiveKernels(machine.library, expected)
    assert compiled.active_kernels().files == [machine.library, *expected]
    assert [file.read_bytes() for file in expected] == [b"code"] * 2
    compiled._find_kernels.cache_clear()
    assert compiled.active_kernels().gpu_code == expected
    assert machine.made == [86, 90]
    assert ops.describe_kernels("auto") == "custom operations: compiled kernels for the CPU and the GPUs"


def test_machine_code_beside_the_library_comes_first(machine):
    prebuilt = machine.folder / "prebuilt"
    prebuilt.mkdir()
    machine.patch.setattr(build, "PREBUILT", prebuilt)
    library = Path(shutil.copy(machine.library, prebuilt))
    code = gpu_code.file_of(library, 90)
    code.write_bytes(b"shipped")
    machine.gpus((9, 0), (7, 5))
    in_the_cache = machine.folder / f"{library.stem}.sm_75.cubin"  # the package may not be writable
    assert compiled.active_kernels() == compiled.ActiveKernels(library, (in_the_cache, code))
    assert machine.made == [75]


def fail(*_):
    raise gpu_code.BuildError("no compiler")


def test_a_gpu_without_kernels_is_warned_about(machine, capfd):
    machine.gpus((9, 0))
    machine.patch.setattr(gpu_code, "compile_kernels", fail)
    active = compiled.active_kernels()
    assert active.library is None
    assert active.reason == "the GPU kernels cannot be used: no compiler"
    assert ".[gpu]" in active.remedy
    first, warning = [line for line in capfd.readouterr().err.splitlines() if line.startswith("frcnn:")]
    assert first == f"frcnn: falling back to slower TensorFlow operations: {active.reason}"
    assert warning.startswith("frcnn: WARNING: training on the GPU will take several times as long")
    assert active.remedy in warning
    assert (
        ops.describe_kernels("auto") == f"custom operations: the slower TensorFlow reference, because {active.reason}"
    )


def test_kernels_that_the_gpu_does_not_run_are_not_used(machine):
    machine.gpus((9, 0))
    tried = []

    def refuse(operations, device):
        tried.append(device)
        raise tf.errors.InternalError(None, None, "the GPU kernel failed: no kernel image is available")

    machine.patch.setattr(compiled, "_try", refuse)
    assert "no kernel image is available" in compiled.active_kernels().reason
    assert tried == ["GPU:0"]


def test_gpus_of_other_makers_use_the_reference(machine):
    machine.gpus(None)
    assert "for NVIDIA GPUs only" in compiled.active_kernels().reason


def test_no_gpu_needs_no_machine_code(machine):
    assert compiled.active_kernels() == compiled.ActiveKernels(machine.library)
    assert machine.made == []
    assert ops.describe_kernels("compiled") == "custom operations: compiled kernels for the CPU"
    assert ops.describe_kernels("reference") == "custom operations: the TensorFlow reference, as ops.kernel says"
    machine.gpus((9, 0))
    assert "slow on a GPU, use ops.kernel=auto" in ops.describe_kernels("reference")


def test_the_trial_run_is_eager_also_within_a_function():
    operations = compiled.operations()
    compiled._try(operations, "CPU:0")

    @tf.function
    def traced():
        compiled._try(operations, "CPU:0")
        return tf.constant(1)

    assert traced().numpy() == 1


REGISTERED = """
import ctypes, sys
import tensorflow as tf
from tensorflow.python.framework import kernels
library, folder = sys.argv[1:]
def devices():
    return sorted(set.intersection(*({k.device_type for k in kernels.get_registered_kernels_for_op(op).kernel} for op in
                                     ("FrcnnRoiAlign", "FrcnnRoiAlignGrad", "FrcnnNms", "FrcnnBiasRelu",
                                      "FrcnnBiasReluGrad", "FrcnnGroupNorm", "FrcnnGroupNormGrad"))))
tf.load_op_library(library)
print(devices())
ctypes.CDLL(library).frcnn_use_gpu_code(folder.encode())
print(devices())
"""


@pytest.mark.parametrize("beside", [False, True])
def test_gpu_kernels_are_registered_only_with_machine_code(tmp_path, beside):
    # Without it TensorFlow must place the operations of a SavedModel on the CPU, also where there is a GPU.
    library, other = tmp_path / "kernels.so", tmp_path / "other"
    shutil.copy(compiled.active_kernels().library, library)
    other.mkdir()
    (tmp_path / "kernels.sm_80.cubin.lock").touch()
    ((tmp_path if beside else other) / "kernels.sm_80.cubin").touch()
    command = [sys.executable, "-c", REGISTERED, str(library), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert before == ("['CPU', 'GPU']" if beside else "['CPU']")
    assert after == "['CPU', 'GPU']"
