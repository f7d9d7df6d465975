"""The GPU kernels against torchvision: values and gradients at the size of training, and time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import elementwise
import norm_against_torch
import numpy as np
import torch
import torchvision
from elementwise import DEVICE, DTYPES

STRIDES = (4, 8, 16, 32)
STARTS = (0.0, 112.0, 224.0, 448.0)  # smallest box size of each level
BINS, CHANNELS = 7, 256
# Largest relative error (ratio of norms) against the float64 result of the same inputs. In float32 the rounding of
# sampling positions dominates (2^-16 of a pixel on a map of 336 pixels).
TOLERANCES = {torch.float32: 5e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}
INVALID = ((np.nan, 0, 50, 50), (0, 0, np.inf, 40), (0, -np.inf, 9, 9))  # boxes that give zeros


class Scale(NamedTuple):
    """Size of the checks."""

    height: int
    width: int
    rois: int  # per image
    channels: int
    candidates: tuple[tuple[int, int, float], ...]  # of NMS: boxes, groups, threshold
    largest: float  # square root of a box's area


TRAINING = Scale(800, 1344, 256, 72, ((100, 1, 0.5), (4096, 5, 0.7), (8819, 5, 0.7), (80000, 80, 0.5)), 900)
# No larger boxes: with more samples per bin than the level has pixels, which torchvision takes, ours are limited.
SHIM = Scale(96, 128, 12, 8, ((60, 1, 0.3), (300, 5, 0.7)), 470)


class Case:
    """A pyramid and boxes, for our kernels (NHWC) and torchvision's (NCHW)."""

    def __init__(
        self, scale: Scale, dtype: torch.dtype, batch: int, per_image: int, channels: int, invalid: bool = False
    ) -> None:
        rng = np.random.default_rng(channels + per_image)
        self.dtype, self.batch, self.channels = dtype, batch, channels
        boxes = random_boxes(rng, batch * per_image, scale)
        if invalid:
            boxes = np.concatenate([boxes, np.float32(INVALID)])
        self.count = len(boxes)
        images = np.arange(self.count) % batch
        self.maps = [
            torch.randn([batch, scale.height // stride, scale.width // stride, channels], device=DEVICE).to(dtype)
            for stride in STRIDES
        ]
        self.boxes = torch.from_numpy(boxes).to(DEVICE)
        self.images = torch.from_numpy(images.astype(np.int32)).to(DEVICE)
        self.upstream = torch.randn([self.count, BINS, BINS, channels], device=DEVICE).to(dtype)
        sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
        levels = (np.sqrt(sides.prod(axis=1))[:, None] >= np.float32(STARTS[1:])).sum(axis=1)
        levels[~np.isfinite(boxes).all(axis=1)] = -1
        self.chosen = [torch.from_numpy(np.flatnonzero(levels == level)).to(DEVICE) for level in range(len(STRIDES))]

    def geometry(self, sampling_ratio: int, aligned: bool) -> list[np.ndarray]:
        dtype = DTYPES[self.dtype]
        head = [len(STRIDES), self.batch, self.channels, BINS, sampling_ratio, aligned, dtype, self.count]
        sizes = np.int32([level.shape[1:3] for level in self.maps])
        return [np.int32(head), *np.ascontiguousarray(sizes.T), 1 / np.float32(STRIDES), np.float32(STARTS)]

    def ours(self, kernels: Any, geometry: list[np.ndarray], pooled: torch.Tensor | None = None) -> torch.Tensor:
        pooled = torch.full_like(self.upstream, torch.nan) if pooled is None else pooled
        maps = [level.data_ptr() for level in self.maps]
        kernels.roi_align(geometry, self.boxes.data_ptr(), self.images.data_ptr(), maps, pooled.data_ptr())
        return pooled

    def our_gradient(
        self,
        kernels: Any,
        geometry: list[np.ndarray],
        gradients: list[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        gradients = gradients or [torch.full_like(level, torch.nan) for level in self.maps]
        pointers = [level.data_ptr() for level in gradients]
        inputs = (self.boxes.data_ptr(), self.images.data_ptr(), self.upstream.data_ptr())
        kernels.gradient(geometry, *inputs, pointers)
        return gradients

    def theirs(self, maps: list[torch.Tensor], sampling_ratio: int, aligned: bool) -> list[torch.Tensor]:
        """torchvision's results, level by level."""
        dtype = maps[0].dtype
        rois = torch.cat([self.images[:, None].to(dtype), self.boxes.to(dtype)], dim=1)
        return [
            torchvision.ops.roi_align(level, rois[chosen], BINS, 1 / stride, sampling_ratio, aligned)
            for level, chosen, stride in zip(maps, self.chosen, STRIDES, strict=True)
        ]


def random_boxes(rng: np.random.Generator, count: int, scale: Scale = TRAINING) -> np.ndarray:
    """Sides of 16 pixels to ``scale.largest``, log-uniform, partly outside the canvas, not at the border of a level."""
    size, aspect = np.exp(rng.uniform(np.log(16), np.log(scale.largest), count)), np.exp(rng.uniform(-0.7, 0.7, count))
    for start in STARTS[1:]:
        size = np.where(np.abs(size / start - 1) < 1e-3, size * 1.01, size)
    center = rng.uniform(-0.1, 1.1, (count, 2)) * (scale.width, scale.height)
    half = np.stack([size * np.sqrt(aspect), size / np.sqrt(aspect)], axis=1) / 2
    return np.concatenate([center - half, center + half], axis=1).astype(np.float32)


def versions() -> dict[str, str]:
    return {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "cuda": str(torch.version.cuda),
    }


def check(kernels: Any, scale: Scale = TRAINING) -> dict[str, float]:
    """Relative errors of RoIAlign and its gradients by case; raises AssertionError above the tolerance."""
    errors = {}
    for dtype in DTYPES:
        for sampling_ratio in (0, 2):
            for aligned in (False, True):
                errors |= check_roi_align(kernels, scale, dtype, sampling_ratio, aligned)
    for count, groups, threshold in scale.candidates:
        check_nms(kernels, count, groups, threshold)
    return errors


def check_roi_align(
    kernels: Any, scale: Scale, dtype: torch.dtype, sampling_ratio: int, aligned: bool
) -> dict[str, float]:
    case = Case(scale, dtype, batch=2, per_image=scale.rois, channels=scale.channels, invalid=True)
    geometry = case.geometry(sampling_ratio, aligned)
    exact_maps = [level.double().permute(0, 3, 1, 2).contiguous().requires_grad_() for level in case.maps]
    exact = case.theirs(exact_maps, sampling_ratio, aligned)
    upstreams = [case.upstream[chosen].double().permute(0, 3, 1, 2) for chosen in case.chosen]
    exact_gradients = torch.autograd.grad(exact, exact_maps, upstreams)
    pooled = case.ours(kernels, geometry)
    assert not pooled[-len(INVALID) :].any(), "boxes with coordinates that are not finite must give zeros"
    found = {"forward": max_error([pooled[chosen] for chosen in case.chosen], exact)}
    gradients = case.our_gradient(kernels, geometry)
    found["gradient"] = max_error(gradients, exact_gradients)
    again = case.our_gradient(kernels, geometry)
    assert all(map(torch.equal, gradients, again)), "the gradient differs between two calls"
    errors = {f"{name}, {dtype}, sampling {sampling_ratio}, aligned {aligned}": e for name, e in found.items()}
    for name, error in errors.items():
        print(f"  {name}: relative error {error:.1e}")
        assert error < TOLERANCES[dtype], f"{name}: {error} is above {TOLERANCES[dtype]}"
    return errors


def max_error(ours: list[torch.Tensor], exact: Any) -> float:
    """Largest relative error of the levels; NaN counts as infinite."""
    worst = 0.0
    for values, expected in zip(ours, exact, strict=True):
        difference = values.double().permute(0, 3, 1, 2) - expected
        error = float(difference.norm() / expected.norm().clamp(min=1e-30))
        worst = max(worst, error if error == error else float("inf"))
    return worst


def round_down(value: float) -> np.float32:
    """Largest float32 not above ``value``, as ``frcnn.ops`` passes a threshold: torchvision compares with a double."""
    rounded = np.float32(value)
    return rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(-np.inf))


def check_nms(kernels: Any, count: int, groups: int, threshold: float) -> None:
    """Compares indices and their order with torchvision's CPU kernel."""
    rng = np.random.default_rng(count)
    boxes = np.stack([random_boxes(rng, count) for _ in range(2)])
    scores = np.stack([rng.permutation(count) for _ in range(2)]).astype(np.float32)  # no ties
    classes = rng.integers(0, groups, (2, count)).astype(np.int32)
    for most in (count, 100):
        head = np.int32([2, count, most])
        raw, _ = kernels("nms", "forward", head, np.float32([round_down(threshold)]), boxes, scores, classes)
        values = np.frombuffer(raw, np.int32)
        indices, counts = values[:-2].reshape(2, most), values[-2:]
        for b in range(2):
            tensors = [torch.from_numpy(array[b]) for array in (boxes, scores)]
            kept = torchvision.ops.boxes._batched_nms_vanilla(*tensors, torch.from_numpy(classes[b]), threshold)
            np.testing.assert_array_equal(indices[b, : counts[b]], kept.numpy()[:most])
            assert (indices[b, counts[b] :] == -1).all()
    print(f"  nms of {count} boxes in {groups} groups: {counts.tolist()} of the first 100, as torchvision")


def seconds_of(work: Callable[[], object], rounds: int = 30) -> float:
    """Median time of a call on the GPU."""
    for _ in range(3):
        work()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes per second that a copy reads and writes together."""
    source = torch.zeros(1 << 28, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source))


def touched_bytes(case: Case) -> int:
    """Feature bytes under the boxes, each pixel counted once."""
    pixels = 0
    boxes, images = case.boxes.cpu().numpy(), case.images.cpu().numpy()
    for level, stride in enumerate(STRIDES):
        touched = np.zeros(case.maps[level].shape[:3], bool)
        for n in case.chosen[level].tolist():
            x1, y1, x2, y2 = np.maximum(boxes[n] / stride, 0)
            touched[images[n], int(y1) : int(np.ceil(y2)) + 1, int(x1) : int(np.ceil(x2)) + 1] = True
        pixels += int(touched.sum())
    return pixels * case.channels * case.maps[0].element_size()


def measure(kernels: Any) -> list[dict[str, Any]]:
    """Times in microseconds."""
    bandwidth = copy_bandwidth()
    print(f"  copy: {bandwidth / 1e12:.2f} TB/s\n")
    rows = [row for batch in (2, 8) for dtype in DTYPES for row in roi_align_times(kernels, dtype, batch, bandwidth)]
    rows += [nms_times(kernels, *case) for case in ((8819, 5, 0.7, 2000), (80000, 80, 0.5, 100))]
    rows += elementwise.times(kernels, bandwidth, seconds_of)
    rows += norm_against_torch.times(kernels, bandwidth, seconds_of)
    columns = ("case", "ours_us", "torchvision_us", "bound_us")
    print("| case | ours, µs | PyTorch, µs | memory bound, µs | ours / PyTorch | ours / bound |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        ours, theirs, bound = (row[column] for column in columns[1:])
        ratios = [f"{ours / other:.2f}" if other else "" for other in (theirs, bound)]
        cells = [row["case"], *(f"{value:.0f}" if value else "" for value in (ours, theirs, bound)), *ratios]
        print(f"| {' | '.join(cells)} |")
    return rows


def roi_align_times(kernels: Any, dtype: torch.dtype, batch: int, bandwidth: float) -> list[dict[str, Any]]:
    case = Case(TRAINING, dtype, batch, per_image=512, channels=CHANNELS)
    geometry = case.geometry(2, aligned=False)
    maps = [level.permute(0, 3, 1, 2).contiguous().requires_grad_() for level in case.maps]
    forward = backward = None
    try:
        with torch.no_grad():
            forward = seconds_of(lambda: case.theirs(maps, 2, False))
        graph = case.theirs(maps, 2, False)
        upstreams = [case.upstream[chosen].permute(0, 3, 1, 2).contiguous() for chosen in case.chosen]
        backward = seconds_of(lambda: torch.autograd.grad(graph, maps, upstreams, retain_graph=True))
    except RuntimeError as error:  # NotImplementedError is one: a dtype that torchvision does not have
        if "not implemented" not in str(error):
            raise
        print(f"  torchvision: {str(error).splitlines()[0]}")
    pooled, pyramid = case.upstream.nbytes, sum(level.nbytes for level in case.maps)
    size = f"{str(dtype).removeprefix('torch.')}, {batch} x 512 RoIs"
    out, gradients = torch.empty_like(case.upstream), [torch.empty_like(level) for level in case.maps]
    cases = (
        ("forward", lambda: case.ours(kernels, geometry, out), forward, touched_bytes(case) + pooled),
        ("gradient", lambda: case.our_gradient(kernels, geometry, gradients), backward, pyramid + pooled),
    )
    return [
        {
            "case": f"roi_align {name}, {size}",
            "ours_us": 1e6 * seconds_of(work),
            "torchvision_us": theirs and 1e6 * theirs,
            "bound_us": 1e6 * least / bandwidth,
        }
        for name, work, theirs, least in cases
    ]


def nms_times(kernels: Any, count: int, groups: int, threshold: float, most: int) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    boxes = torch.from_numpy(random_boxes(rng, count)[None]).to(DEVICE)
    scores = torch.rand([1, count], device=DEVICE)
    classes = torch.randint(0, groups, [1, count], dtype=torch.int32, device=DEVICE)
    indices, counts = (torch.empty([1, size], dtype=torch.int32, device=DEVICE) for size in (most, 1))
    head = np.int32([1, count, most])
    inputs = [tensor.data_ptr() for tensor in (boxes, scores, classes)]
    ours = seconds_of(lambda: kernels.nms(head, threshold, inputs, indices.data_ptr(), counts.data_ptr()))
    wide = classes[0].long()
    theirs = seconds_of(lambda: torchvision.ops.batched_nms(boxes[0], scores[0], wide, threshold)[:most])
    name = f"nms, {count} boxes in {groups} groups at {threshold}, first {most}"
    return {"case": name, "ours_us": 1e6 * ours, "torchvision_us": 1e6 * theirs, "bound_us": None}
