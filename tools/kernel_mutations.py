"""Mutation tests of the CUDA files: inserts typical defects one at a time, and checks that the host runs detect them.

A mutant is detected if one of the modes of ``tests/ops/shim_runs.py`` fails: fibers in three orders, then threads under
the address and the thread sanitizer. Prints a table; exits with 1 if a mutant survives.

    python tools/kernel_mutations.py --json mutations.json        # all, about ten minutes on two cores
    python tools/kernel_mutations.py --only barrier --jobs 2
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "ops"))
import shim_runs  # noqa: E402


class Mutant(NamedTuple):
    name: str
    file: str
    start: int
    end: int
    text: str

    def apply(self, kernels: Path) -> None:
        file = kernels / self.file
        source = file.read_text()
        file.write_text(source[: self.start] + self.text + source[self.end :])


# file, regular expression, replacement, name
REPLACEMENTS = [
    ("roi_align.cu", r"__syncthreads\(\);", "", "barrier dropped"),
    ("roi_align_gradient.cu", r"__syncthreads\(\);", "", "barrier dropped"),
    ("nms.cu", r"__syncthreads\(\);", "", "barrier dropped"),
    ("nms.cu", r"atomicAdd\(buffers.found \+ b, 1\)", "buffers.found[b]++", "++ for atomicAdd"),
    (
        "nms.cu",
        r"(?<=cached\[threadIdx.x\] = )(\w+)\[(\w+) \+ threadIdx.x\]",
        r"\1[\2 + threadIdx.x + 1]",
        "shared memory filled from one too far",
    ),
    ("nms.cu", r"j < size(?=; \+\+j\) rank)", "j <= size", "shared memory read one too far"),
    ("nms.cu", r"uint64_t\{1\} << ", "1 << ", "32-bit mask"),
    ("nms.cu", r"uint64_t\(flags\[j\] != 0\)", "int(flags[j] != 0)", "32-bit mask"),
    ("nms.cu", r"word \* kWord \+ r < size", "word * kWord + r <= size", "mask row one too far"),
    ("nms.cu", r"rank \+= cached\[j\] < key", "rank += cached[j] <= key", "rank one too high"),
    ("nms.cu", r"blockIdx.y \+ 1 == gridDim.y", "blockIdx.y == gridDim.y", "no comparison with kept boxes"),
    ("nms_cuda.cc", r"words \+ 1, call", "words, call", "a row of blocks missing"),
    ("nms_cuda.cc", r"\(sizeof\(Candidate\) \+ sizeof\(int\)\)", "sizeof(Candidate)", "too little shared memory"),
    ("nms_cuda.cc", r"set_bytes\(buffers.found, 0", "set_bytes(buffers.found, 1", "counters not zeroed"),
    ("roi_align.cu", r"y\.weight \* x\.weight", "y.weight * y.weight", "weight of the wrong axis"),
    ("roi_align_gradient.cu", r"\(first \+ i\) \* bins \+ q", "q * bins + first + i", "transposed bins"),
    ("roi_align_gradient.cu", r"bin \+ 1 - first", "bin - first", "last bin dropped"),
    ("roi_align_gradient.cu", r"tile\.left \+ column < width", "tile.left + column <= width", "column too many"),
    ("roi_align_gradient.cu", r"tile\.top \+ r >= height", "tile.top + r > height", "row too many"),
    ("roi_align_gradient.cu", r"atomicOr\(words \+ own, (.*)\);", r"words[own] |= \1;", "|= for atomicOr"),
    ("roi_align_gradient.cu", r"<< bit\) - 1\)", "<< bit))", "rank without the thread itself"),
    ("roi_align_gradient.cu", r"chosen\[first \+ i\]", "chosen[i]", "first RoIs again"),
    ("roi_align_gradient.cu", r"tested < size", "tested <= size", "one RoI too many"),
    ("roi_align_gradient.cu", r"n < count && box", "n <= count && box", "one box too many"),
    ("roi_align.cu", r"item < bins \* bins \* packets", "item <= bins * bins * packets", "one item too many"),
    (
        "roi_align.cu",
        r"item \+= gridDim\.y \* blockDim\.x(?=\) \{\s+float sums)",
        "item += blockDim.x",
        "items computed by several blocks",
    ),
    (
        "roi_align.cu",
        r"select\(rows, roi\.y, roi\.x\)",
        "select(rows, roi.x, roi.y)",
        "axes swapped",
    ),
    ("roi_align_cuda.cc", r"\+ taps_capacity\(sides\.width, bins\)", "", "too little shared memory"),
    (
        "roi_align_cuda.cc",
        r"sizeof\(float\) \* bins \* kTileWeights",
        "bins * kTileWeights",
        "too little shared memory",
    ),
    ("roi_align_cuda.cc", r"place\(&lists->members, groups \* ", "place(&lists->members, ", "too little workspace"),
    ("group_norm_device.h", r"__syncthreads\(\);", "", "barrier dropped"),
    ("group_norm_device.h", r"(?<=left - half\) \* columns; i \+= )blockDim.x", "blockDim.x + 1", "elements left out"),
    ("group_norm_device.h", r"values\[half \* columns \+ i\]", "values[i + columns]", "the wrong row added"),
    ("group_norm_device.h", r"const int half = \(left \+ 1\) / 2", "const int half = left / 2", "an odd row left out"),
    ("group_norm_device.h", r"slice.row < slice.rows && ", "", "threads beyond the last row"),
    ("group_norm_device.h", r" && slice.channel < plan.channels", "", "channels beyond the last one"),
    ("group_norm_device.h", r"if \(channel < plan.channels\) ", "", "partial sums beyond the last channel"),
    (
        "group_norm_device.h",
        r"left < plan.chunk_pixels \? left : plan.chunk_pixels",
        "plan.chunk_pixels",
        "last chunk too long",
    ),
    ("group_norm_device.h", r"\+\+member == members", "++member > members", "channel of the wrong group"),
    (
        "group_norm.cu",
        r"double\(plan.pixels\) \* \(plan.channels / plan.groups\)",
        "double(plan.pixels)",
        "wrong count",
    ),
    (
        "group_norm_device.h",
        r"left < plan.groups_per_block \? left : plan.groups_per_block",
        "plan.groups_per_block",
        "groups beyond the last one",
    ),
    ("group_norm_device.h", r"part < count", "part + 1 < count", "a part left out"),
    ("group_norm.cu", r"pixel \+ n \* slice.rows >= slice.end", "pixel > slice.end", "pixels beyond the chunk"),
    ("group_norm.cu", r"- average \* average", "", "variance about the pivot"),
    ("group_norm.cu", r"plan.batch \* plan.chunks, plan", "plan.chunks, plan", "gamma's gradient of one image"),
    ("group_norm.cu", r" \*= rstd\[group\[v\]\]", " *= 1.0f", "product not normalized"),
    ("group_norm_cuda.cc", r"sizeof\(double\) \* 2", "sizeof(double)", "too little shared memory"),
    ("group_norm_cuda.cc", r"sizeof\(float\) \* 2 \* width_", "sizeof(float) * width_", "too little shared memory"),
    ("group_norm_cuda.cc", r" \+ plan.groups\);", ");", "too little workspace"),
    ("bias_relu.cu", r"row \+ k \* step >= call\.rows", "row + k * step > call.rows", "one row too many"),
    ("bias_relu.cu", r"thread >= step \* packets", "false", "threads without a row"),
    ("bias_relu.cu", r"row \+= kPacketsInFlight \* step", "row += step", "rows computed twice"),
    ("bias_relu.cu", r"thread % packets \* kWidth", "thread % kWidth * kWidth", "bias of other channels"),
    ("update.cu", r"__syncthreads\(\);", "", "barrier dropped"),
    ("update.cu", r"i < chunk\.end", "i <= chunk.end", "one element too many"),
    ("update.cu", r"threadIdx\.x < half\)", "threadIdx.x + 1 < half)", "a partial sum left out"),
    ("update.h", r"variable\.decay, gradient", "shared.scale, gradient", "decay of no variable"),
    ("update_cuda.cc", r"sums \+ chunks", "sums", "sums of the first launch overwritten"),
    ("tensor_table.h", r"first_block\[tensor \+ 1\]\)", "first_block[tensor])", "chunk of the tensor before"),
    ("tensor_table.h", r"end < size \? end : size", "end", "elements beyond the tensor"),
    ("tensor_launch.h", r"begin \+= kTableSize", "begin += count", "tensors after the first launch left out"),
    ("channel_scale.cu", r"\(first \+ i\) % channels", "i % channels", "channel of the chunk, not of the tensor"),
    ("channel_scale.cu", r"i < count", "i <= count", "one element too many"),
    ("cuda_launch.h", r" && addresses % kVectorBytes == 0", "", "16 bytes at an odd address"),
    ("roi_align.h", r"\(1\.0f - fraction\) \* share(?=\);)", "fraction * share", "swapped weight"),
    ("roi_align.h", r"kTapsBetweenBins = 4", "kTapsBetweenBins = 0", "taps of bins overlap"),
]


def mutants(only: str = "") -> list[Mutant]:
    """One mutant for each match of each replacement."""
    found = []
    for file, pattern, text, name in REPLACEMENTS:
        source = (shim_runs.KERNELS / file).read_text()
        places = list(re.finditer(pattern, source))
        if not places:
            raise SystemExit(f"{file} does not contain {pattern!r}; update REPLACEMENTS")
        for place in places:
            line = source.count("\n", 0, place.start()) + 1
            found.append(Mutant(f"{file}:{line} {name}", file, place.start(), place.end(), place.expand(text)))
    return [mutant for mutant in found if only in mutant.name]


def detected_by(mutant: Mutant, modes: tuple[str, ...] = tuple(shim_runs.MODES)) -> str | None:
    """The first mode and check that fail; None if the mutant survives."""
    with tempfile.TemporaryDirectory() as folder:
        kernels = Path(folder) / "kernels"
        shutil.copytree(shim_runs.KERNELS, kernels)
        mutant.apply(kernels)
        for mode in modes:
            try:
                program = shim_runs.build(mode, Path(folder) / mode, kernels)
            except subprocess.CalledProcessError as error:
                raise SystemExit(f"{mutant.name} does not compile: {error.stderr[:500]}") from error
            for order in shim_runs.ORDERS if mode == "fibers" else ("forward",):
                for name, check in shim_runs.checks():
                    try:
                        check(program, order)
                    except (AssertionError, subprocess.TimeoutExpired):
                        return f"{mode}{', ' + order if mode == 'fibers' else ''}: {name}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only mutants whose name contains this text")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chosen = mutants(arguments.only)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = dict(zip([mutant.name for mutant in chosen], pool.map(detected_by, chosen), strict=True))
    for name, detector in results.items():
        print(f"{name:60} {detector or 'SURVIVED'}")
    survivors = sum(detector is None for detector in results.values())
    print(f"{len(results) - survivors} of {len(results)} detected")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
