"""All checks and measurements on a machine with a GPU, into one report; see scripts/gpu_day.sh.

Each section is a separate process: one that crashes or runs out of memory does not end the others. The report is
written after each section.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SECTIONS = ("doctor", "tests", "parity", "speed", "peer", "input", "serving")
PRECISIONS = ("float32", "tf32", "mixed_bfloat16", "mixed_float16")
SMALL_PRECISIONS = ("mixed_bfloat16",)
BATCH_SIZES = (1, 2, 4, 8, 16)
KERNEL_TESTS = ("tests/ops", "tests/modeling/test_gpu_placement.py")
# Small sizes for a trial run of this program.
SMALL_MODEL = ("image.min_size=[64]", "image.max_size=64", "backbone.name=resnet18")
SMALL_SPEED = ("--steps", "1", "--product", "256", *SMALL_MODEL, "fpn.channels=32", "roi_head.fc_channels=32")
SMALL_PEER = ("--steps", "1", "--size", "64", "64", *SMALL_MODEL)
SMALL_PARITY = (
    *("--steps", "3", "--images", "10", "image.min_size=[64]", "image.max_size=64", "image.canvas_aspects=[1.0]"),
    *("fpn.channels=32", "roi_head.fc_channels=32"),
)
SMALL_TESTS = ("tests/modeling/test_gpu_placement.py", "-k", "recognized")


SPEED_COLUMNS = (
    "precision | batch | images/s | ms per batch | share of peak | GPU idle | memory MiB | torchvision ms | "
    "torchvision MiB | torchvision's time in ours"
)


class Report:
    """Results by section, written to ``gpu_report.json`` after each."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.content: dict[str, Any] = {"machine": machine(), "sections": {}}
        out.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, command: list[str], result: Path | None = None) -> Any:
        """Run a section; its JSON file, or the end of its output, becomes the result. None if it failed."""
        print(f"== {name}: {' '.join(command)}", flush=True)
        started = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        output = done.stdout.strip() or done.stderr.strip()
        entry: dict[str, Any] = {
            "exit_code": done.returncode,
            "seconds": round(time.perf_counter() - started, 1),
            "output": output[-4000:],
        }
        if done.returncode:
            entry["errors"] = done.stderr[-4000:]
        if result and result.is_file():
            entry["result"] = json.loads(result.read_text())
        self.content["sections"][name] = entry
        (self.out / "gpu_report.json").write_text(json.dumps(self.content, indent=1) + "\n")
        print(output[-1500:], flush=True)
        return entry.get("result")


def machine() -> dict[str, Any]:
    """Card, driver and versions; without a GPU the card is null."""
    from importlib.metadata import version

    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        cards = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
        card = "; ".join(sorted({f"{cards.count(each)} x {each}" for each in cards})) or None
    except (OSError, subprocess.CalledProcessError):
        card = None
    return {
        "card": card,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"),
        "keras": version("keras"),
        "python": platform.python_version(),
    }


def run_sections(
    report: Report, names: Sequence[str], precisions: Sequence[str], batch_sizes: Sequence[int], small: bool
) -> None:
    """Run the sections in order."""
    python = sys.executable
    batches = ["--batch-sizes", *map(str, batch_sizes)]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def doctor() -> None:
            report.run("doctor", [python, "-m", "frcnn", "doctor"])

        def tests() -> None:
            report.run("tests", [python, "-m", "pytest", "-q", *(SMALL_TESTS if small else KERNEL_TESTS)])

        def parity() -> None:
            result = scratch / "parity.json"
            size = SMALL_PARITY if small else ()
            report.run("parity", [python, "benchmarks/gpu_parity.py", "--json", str(result), *size], result)

        def speed() -> None:
            for precision in precisions:
                result = scratch / f"{precision}.json"
                command = [python, "benchmarks/gpu_speed.py", "--precision", precision, "--json", str(result), *batches]
                report.run(f"speed {precision}", [*command, *(SMALL_SPEED if small else [])], result)

        def peer() -> None:
            if importlib.util.find_spec("torchvision") is None:
                print("== peer: skipped, torchvision is not installed", flush=True)
                return
            for precision in precisions:
                result = scratch / f"peer-{precision}.json"
                command = [python, "benchmarks/gpu_peer.py", "--precision", precision, "--json", str(result), *batches]
                report.run(f"peer {precision}", [*command, *(SMALL_PEER if small else [])], result)

        def input_pipeline() -> None:
            data, result = scratch / "shapes", scratch / "input.json"
            subprocess.run([python, "-m", "frcnn", "make-shapes", str(data), "--images", "100"], check=True)
            size = ["--seconds", "0.5"] if small else ["image.min_size=[800]", "image.max_size=1333"]
            command = [python, "benchmarks/input_pipeline.py", "--data", str(data), "--json", str(result)]
            report.run("input", [*command, *size], result)

        def serving() -> None:
            result = scratch / "serving.json"
            size = ["--seconds", "0.5", "--batch", "2"] if small else ["--recipe", "configs/coco_r50_fpn_1x.yaml"]
            report.run("serving", [python, "benchmarks/serving.py", "--json", str(result), *size], result)

        runners: list[Callable[[], None]] = [doctor, tests, parity, speed, peer, input_pipeline, serving]
        for name, runner in zip(SECTIONS, runners, strict=True):
            if name in names:
                runner()


def markdown(content: dict[str, Any]) -> str:
    """The report as a section for docs/results.md."""
    about, sections = content["machine"], content["sections"]
    lines = [f"## {about['card'] or 'No GPU: ' + about['processor']}", ""]
    lines += [f"TensorFlow {about['tensorflow']}, Keras {about['keras']}, {about['cores']} CPU cores.", ""]
    lines += ["| check | result |", "|---|---|"]
    for name in ("doctor", "tests", "parity"):
        if name in sections:
            passed = "passed" if sections[name]["exit_code"] == 0 else "**failed**"
            last = (sections[name]["output"].splitlines() or ["no output"])[-1]
            lines.append(f"| {name} | {passed}: {last} |")
    for task in ("training", "inference"):
        rows = [
            _speed_row(name.removeprefix("speed "), row, _peer_row(sections, name, task, row["batch"]))
            for name, section in sections.items()
            if name.startswith("speed ")
            for row in section.get("result", {}).get(task, [])
        ]
        if rows:
            lines += ["", f"| {task}: {SPEED_COLUMNS} |", "|" + "---|" * (SPEED_COLUMNS.count("|") + 1), *rows]
    if "result" in sections.get("input", {}):
        rates = sections["input"]["result"]["rates"]
        lines += ["", "| input pipeline | images/s |", "|---|---|"]
        lines += [f"| {name} | {rate['images_per_second']:.1f} |" for name, rate in rates.items()]
    if "result" in sections.get("serving", {}):
        lines += ["", "| endpoint | load | requests/s | p50 ms | p99 ms |", "|---|---|---|---|---|"]
        for size, rows in sections["serving"]["result"]["http"].items():
            lines += [
                f"| batches up to {size} | {load} | {row['requests_per_second']:.1f} | {row['p50_ms']:.0f} | "
                f"{row['p99_ms']:.0f} |"
                for load, row in rows.items()
            ]
    return "\n".join(lines) + "\n"


def _peer_row(sections: dict[str, Any], name: str, task: str, batch: int) -> dict[str, Any] | None:
    """torchvision's figures for the same precision, task and batch size, if they were measured."""
    peer = sections.get(name.replace("speed", "peer"), {}).get("result", {})
    return next((row for row in peer.get(task, []) if row["batch"] == batch), None)


def _speed_row(precision: str, row: dict[str, Any], peer: dict[str, Any] | None) -> str:
    if "error" in row:
        return f"| {precision} | {row['batch']} | {row['error']} |" + " |" * (SPEED_COLUMNS.count("|") - 2)
    idle = "" if row["gpu_idle"] is None else f"{row['gpu_idle']:.0%}"
    cells = [
        *(precision, str(row["batch"]), f"{row['images_per_second']:.1f}", f"{row['milliseconds']:.1f}"),
        *(f"{row['share_of_peak']:.0%}", idle, f"{row['memory_mebibytes']:.0f}"),
    ]
    if peer:
        ratio = peer["milliseconds"] / row["milliseconds"]
        cells += [f"{peer['milliseconds']:.1f}", f"{peer['memory_mebibytes']:.0f}", f"{ratio:.2f}"]
    else:
        cells += ["", "", ""]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("gpu_day"))
    parser.add_argument("--small", action="store_true", help="tiny sizes: try the command itself")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument("--batch-sizes", nargs="+", type=int)
    arguments = parser.parse_args()
    report = Report(arguments.out)
    precisions = arguments.precisions or (SMALL_PRECISIONS if arguments.small else PRECISIONS)
    batch_sizes = arguments.batch_sizes or ([1] if arguments.small else BATCH_SIZES)
    run_sections(report, arguments.sections, precisions, batch_sizes, arguments.small)
    (arguments.out / "gpu_report.md").write_text(markdown(report.content))
    failed = [name for name, section in report.content["sections"].items() if section["exit_code"]]
    print(f"report: {arguments.out / 'gpu_report.json'}, {arguments.out / 'gpu_report.md'}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
