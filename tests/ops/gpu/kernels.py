"""The GPU kernels as Python functions: builds the library with its C interface and calls it through ctypes.

Device memory is PyTorch's on a GPU, and NumPy's with the host shim. Needs no TensorFlow.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import shim_runs  # noqa: E402

LAUNCHES = shim_runs.launch_sources()
POISON = 0xFF  # outputs are filled with these bytes before a call: NaN in all dtypes


def load_gpu_code() -> ModuleType:
    """``frcnn.ops.gpu_code`` without the package, which imports TensorFlow."""
    file = shim_runs.KERNELS.parent / "gpu_code.py"
    spec = importlib.util.spec_from_file_location("gpu_code", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_library(folder: Path, flags: tuple[str, ...] = ()) -> Path:
    """The launch functions with their C interface; NVIDIA's driver is loaded when it is used."""
    sources = [*LAUNCHES, HERE / "c_interface.cc"]
    objects = shim_runs.compile_objects(folder, "g++", ("-O2", *flags, f"-I{shim_runs.KERNELS}"), sources)
    shim_runs.link("g++", ("-shared",), objects, folder / "kernels.so")
    return folder / "kernels.so"


def build_program(folder: Path) -> Path:
    """``tests/ops/shim/main.cc`` on NVIDIA's driver, with small blocks, for compute-sanitizer."""
    flags = ("-O2", *shim_runs.SMALL, f"-I{shim_runs.KERNELS}")
    objects = shim_runs.compile_objects(folder / "small", "g++", flags, [*LAUNCHES, shim_runs.SHIM / "main.cc"])
    shim_runs.link("g++", (), [*objects, "-l:libcuda.so.1"], folder / "small" / "program")
    return folder / "small" / "program"


def build_shim(folder: Path) -> Path:
    """The library on the fake driver, whose kernels run on the host. Loads the driver into this process."""
    flags = ("-O1", *shim_runs.SMALL, f"-I{shim_runs.KERNELS}", "-include", str(shim_runs.SHIM / "cuda_shim.h"))
    sources = [shim_runs.KERNELS / "gpu_kernels.cu", shim_runs.SHIM / "fake_driver.cc"]
    objects = shim_runs.compile_objects(folder / "driver", "g++", flags, sources)
    shim_runs.link("g++", ("-shared", "-Wl,-soname,libcuda.so.1"), objects, folder / "driver" / "libcuda.so.1")
    ctypes.CDLL(str(folder / "driver" / "libcuda.so.1"))  # from now on this process's libcuda.so.1
    library = build_library(folder, shim_runs.SMALL)
    shim_runs.write_code(library)
    return library


class HostMemory:
    """Arrays of NumPy, for the host shim."""

    stream = 0

    def put(self, array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array)

    def allocate(self, size: int) -> np.ndarray:
        return np.full(size, POISON, np.uint8)

    def scratch(self, size: int) -> np.ndarray:
        return self.allocate(size)

    def pointer(self, array: np.ndarray) -> int:
        return int(array.ctypes.data)

    def get(self, array: np.ndarray) -> bytes:
        return array.tobytes()


class GpuMemory:
    """Tensors of PyTorch on the current GPU."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.zeros(1, device="cuda")  # makes the device's context current in this thread

    @property
    def stream(self) -> int:
        return int(self.torch.cuda.current_stream().cuda_stream)

    def put(self, array: np.ndarray) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy()).cuda()

    def allocate(self, size: int) -> Any:
        return self.torch.full([size], POISON, dtype=self.torch.uint8, device="cuda")

    def scratch(self, size: int) -> Any:
        return self.torch.empty([size], dtype=self.torch.uint8, device="cuda")  # not filled, which would be timed

    def pointer(self, tensor: Any) -> int:
        return int(tensor.data_ptr())

    def get(self, tensor: Any) -> bytes:
        return bytes(tensor.cpu().numpy().tobytes())


class Kernels:
    """The launch functions of a library. Pointers are device memory, ``geometry`` is on the host."""

    def __init__(self, library: Path, memory: HostMemory | GpuMemory) -> None:
        self.memory = memory
        self.c = ctypes.CDLL(str(library))
        names = "roi_align gradient nms bias_relu bias_relu_gradient group_norm group_norm_gradient"
        names += " update global_norm channel_scale"
        for name in names.split():
            getattr(self.c, f"frcnn_test_{name}").restype = ctypes.c_char_p
        for name in ("gradient", "nms", "group_norm", "global_norm"):
            getattr(self.c, f"frcnn_test_{name}_workspace").restype = ctypes.c_int64

    def roi_align(self, geometry: list[np.ndarray], boxes: int, images: int, maps: list[int], pooled: int) -> None:
        arguments = _geometry(geometry, boxes, images)
        self._check(self.c.frcnn_test_roi_align(*arguments, _pointers(maps), _void(pooled), self._stream()))

    def gradient(
        self,
        geometry: list[np.ndarray],
        boxes: int,
        images: int,
        upstream: int,
        gradients: list[int],
    ) -> None:
        arguments = _geometry(geometry, boxes, images)
        size = self.c.frcnn_test_gradient_workspace(*arguments)
        workspace = self.memory.scratch(size)
        self._check(
            self.c.frcnn_test_gradient(
                *arguments,
                _void(upstream),
                _pointers(gradients),
                _void(self.memory.pointer(workspace)),
                self._stream(),
            )
        )

    def nms(self, head: np.ndarray, threshold: float, inputs: list[int], indices: int, counts: int) -> None:
        workspace = self.memory.scratch(self.c.frcnn_test_nms_workspace(_void(head.ctypes.data)))
        self._check(
            self.c.frcnn_test_nms(
                _void(head.ctypes.data),
                ctypes.c_float(threshold),
                *map(_void, (*inputs, indices, counts, self.memory.pointer(workspace))),
                self._stream(),
            )
        )

    def bias_relu(self, operation: str, head: np.ndarray, *pointers: int) -> None:
        """``bias_relu`` of inputs, bias, residual and outputs, or ``bias_relu_gradient`` of upstream, outputs and
        gradient."""
        function = getattr(self.c, f"frcnn_test_{operation}")
        self._check(function(_void(head.ctypes.data), *map(_void, pointers), self._stream()))

    def group_norm(self, head: np.ndarray, epsilon: float, inputs: list[int], outputs: list[int]) -> None:
        """Inputs, gamma, beta; outputs, mean, rstd."""
        call = self.c.frcnn_test_group_norm
        workspace = self.memory.scratch(self.c.frcnn_test_group_norm_workspace(_void(head.ctypes.data)))
        pointers = map(_void, (*inputs, *outputs, self.memory.pointer(workspace)))
        self._check(call(_void(head.ctypes.data), ctypes.c_float(epsilon), *pointers, self._stream()))

    def group_norm_gradient(self, head: np.ndarray, inputs: list[int], gradients: list[int]) -> None:
        """Upstream, inputs, gamma, beta, mean, rstd; gradients of inputs, gamma and beta."""
        call = self.c.frcnn_test_group_norm_gradient
        workspace = self.memory.scratch(self.c.frcnn_test_group_norm_workspace(_void(head.ctypes.data)))
        pointers = map(_void, (*inputs, *gradients, self.memory.pointer(workspace)))
        self._check(call(_void(head.ctypes.data), *pointers, self._stream()))

    def __call__(self, operation: str, order: str, *arrays: np.ndarray) -> tuple[bytes, int]:
        """One call as ``shim_runs.run`` makes it of a program."""
        memory = self.memory
        if operation == "nms":
            head, threshold, *inputs = arrays
            places = [memory.put(array) for array in inputs]
            outputs = [memory.allocate(4 * int(head[0]) * int(head[2])), memory.allocate(4 * int(head[0]))]
            pointers = [memory.pointer(place) for place in (*places, *outputs)]
            self.nms(head, float(threshold[0]), pointers[:3], pointers[3], pointers[4])
            return b"".join(map(memory.get, outputs)), 0
        if operation.startswith("bias_relu"):
            head, padding, *inputs = arrays
            shift, first = padding.nbytes, inputs[0].ravel()
            places = [memory.put(array) for array in (np.concatenate([padding, first]), *inputs[1:])]
            target, *others = map(memory.pointer, places)
            if operation == "bias_relu" and not head[4]:
                others.append(0)
            self.bias_relu(operation, head[:4].copy(), target + shift, *others, target + shift)
            return memory.get(places[0]), 0
        if operation.startswith("group_norm"):
            return self._call_group_norm(operation, *arrays), 0
        if operation == "update":
            return self._call_update(*arrays), 0
        if operation == "channel_scale":
            return self._call_channel_scale(*arrays), 0
        if operation == "global_norm":
            return self._call_global_norm(*arrays), 0
        geometry, (boxes, images), values = list(arrays[:5]), map(memory.put, arrays[5:7]), arrays[7:]
        inputs = [memory.put(array) for array in values]
        head, heights, widths = geometry[:3]
        size = 4 if head[6] == 0 else 2
        if operation == "roi_align":
            outputs = [memory.allocate(int(head[7]) * int(head[3]) ** 2 * int(head[2]) * size)]
            maps = [memory.pointer(place) for place in inputs]
            self.roi_align(geometry, memory.pointer(boxes), memory.pointer(images), maps, memory.pointer(outputs[0]))
        else:
            areas = heights.astype(int) * widths * int(head[1]) * int(head[2]) * size
            outputs = [memory.allocate(int(area)) for area in areas]
            gradients = [memory.pointer(place) for place in outputs]
            place = memory.pointer(inputs[0])
            self.gradient(geometry, memory.pointer(boxes), memory.pointer(images), place, gradients)
        return b"".join(map(memory.get, outputs)), 0

    def _call_group_norm(self, operation: str, head: np.ndarray, *arrays: np.ndarray) -> bytes:
        memory = self.memory
        values = arrays[1:] if operation == "group_norm" else arrays
        places = [memory.put(array.copy()) for array in values]
        batch, pixels, channels, groups, dtype, _ = map(int, head)
        small = 4 * (batch * groups if operation == "group_norm" else channels)
        elements = batch * pixels * channels * (4 if dtype == 0 else 2)
        outputs = [memory.allocate(size) for size in (elements, small, small)]
        sources, targets = ([memory.pointer(place) for place in group] for group in (places, outputs))
        if operation == "group_norm":
            self.group_norm(head, float(arrays[0][0]), sources, targets)
        else:
            outputs[0] = places[0]  # the gradient replaces upstream
            self.group_norm_gradient(head, sources, [sources[0], *targets[1:]])
        return b"".join(map(memory.get, outputs))

    def _call_update(self, head: np.ndarray, *arrays: np.ndarray) -> bytes:
        memory = self.memory
        constants, scalars, sizes, rate_factors, decays, *values = arrays
        shared, places = memory.put(scalars), [memory.put(array.copy()) for array in values]
        on_host = [_void(array.ctypes.data) for array in (sizes, rate_factors, decays)]
        self._check(
            self.c.frcnn_test_update(
                _void(head.ctypes.data),
                _void(constants.ctypes.data),
                _void(memory.pointer(shared)),
                *on_host,
                _pointers([memory.pointer(place) for place in places]),
                self._stream(),
            )
        )
        return b"".join(memory.get(place) for i, place in enumerate(places) if i % 4 != 1)  # not the gradients

    def _call_global_norm(self, head: np.ndarray, sizes: np.ndarray, *arrays: np.ndarray) -> bytes:
        memory, places = self.memory, [self.memory.put(array) for array in arrays]
        tensors = ctypes.c_int32(int(head[0])), _void(sizes.ctypes.data), _pointers(list(map(memory.pointer, places)))
        norm = memory.allocate(4)
        workspace = memory.scratch(self.c.frcnn_test_global_norm_workspace(*tensors))
        pointers = _void(memory.pointer(norm)), _void(memory.pointer(workspace))
        self._check(self.c.frcnn_test_global_norm(*tensors, *pointers, self._stream()))
        return memory.get(norm)

    def _call_channel_scale(
        self, head: np.ndarray, sizes: np.ndarray, channels: np.ndarray, *arrays: np.ndarray
    ) -> bytes:
        memory, places = self.memory, [self.memory.put(array) for array in arrays]
        outputs = [memory.allocate(int(size) * (4 if head[1] == 0 else 2)) for size in sizes]
        pointers = [
            memory.pointer(place)
            for i, output in enumerate(outputs)
            for place in (places[2 * i], places[2 * i + 1], output)
        ]
        on_host = [_void(array.ctypes.data) for array in (head, sizes, channels)]
        self._check(self.c.frcnn_test_channel_scale(*on_host, _pointers(pointers), self._stream()))
        return b"".join(map(memory.get, outputs))

    def _stream(self) -> ctypes.c_void_p:
        return _void(self.memory.stream)

    def _check(self, error: bytes | None) -> None:
        if error is not None:
            raise AssertionError(error.decode())


def _void(address: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(address)


def _pointers(addresses: list[int]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(addresses))(*addresses)


def _geometry(arrays: list[np.ndarray], boxes: int, images: int) -> list[ctypes.c_void_p]:
    return [_void(array.ctypes.data) for array in arrays] + [_void(boxes), _void(images)]
