"""Throughput and latency of the endpoint compared with the model alone, the gain by batching, and memory under load.

    python benchmarks/serving.py --json serving.json            # about 4 minutes
    python benchmarks/serving.py --soak 20 --json soak.json     # memory over 20 minutes of mixed load
    python benchmarks/serving.py --split                        # where the time of one request goes

The baseline is decode, prepare and detect in a loop in one thread. The endpoint is `frcnn serve` with nginx; the load
comes from another process (http_load.py). Latency at 80 % of the measured throughput is that of an open loop with
random arrivals. Without --model the model of the recipe has random weights: the same work as a trained one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image
from request_parts import parts_of, print_parts, read_stages, shares_of, time_alone

REPOSITORY = Path(__file__).resolve().parent.parent
CONCURRENCIES = (1, 4, 16)
LOAD_FRACTION = 0.8
DRAWN = ("--accept", "image/jpeg", "--query", "score_threshold=0&max_detections=20")
RESPONSES: dict[str, tuple[str, ...]] = {"JSON": (), "drawn JPEG": DRAWN}


def make_model(recipe: Path, folder: Path) -> Path:
    """Model folder of a recipe with random weights."""
    import keras

    from frcnn.config import load_config
    from frcnn.modeling.faster_rcnn import build_model
    from frcnn.weights.model_folder import write_model_folder

    keras.utils.set_random_seed(0)
    config = load_config(recipe)
    names = [f"class {number}" for number in range(5)]
    write_model_folder(folder, build_model(len(names), config), config, names, range(1, 6), {})
    return folder


def make_images(folder: Path, count: int = 16) -> Path:
    """Photo-like JPEGs of 640 x 480 and 480 x 640 pixels."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        size = (640, 480) if number % 4 else (480, 640)
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:02}.jpg", quality=90)
    return folder


def baseline_rates(model: Path, images: Path, batch: int, seconds: float) -> dict[str, float]:
    """Images per second of one thread without a server: from bytes to detections, and the model alone."""
    from frcnn.data.decode import decode_image
    from frcnn.inference import Detector

    detector = Detector.load(model)
    bodies = [file.read_bytes() for file in sorted(images.glob("*.jpg"))]
    wide = [body for body in bodies if decode_image(body).shape[:2] == (480, 640)][:batch]
    prepared = [detector.prepare(decode_image(body)) for body in wide]

    def rate(work: Callable[[], Any]) -> float:
        work()
        started, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds:
            work()
            done += batch
        return done / elapsed

    return {
        "from_bytes": rate(lambda: detector.detect_batch([detector.prepare(decode_image(body)) for body in wide])),
        "model": rate(lambda: detector.detect_batch(prepared)),
    }


@contextmanager
def endpoint(model: Path, *flags: str, log: Path = Path(os.devnull)) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Port and process of a healthy `frcnn serve`, whose request log goes to the file ``log``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "frcnn",
        "serve",
        "--model",
        str(model),
        "--port",
        str(port),
        "--no-page",
        *flags,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output)
    try:
        while not ping(port):
            if process.poll() is not None:
                raise SystemExit(f"the endpoint ended with exit code {process.returncode}")
            time.sleep(0.2)
        yield port, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def ping(port: int) -> float | None:
    """Duration of a successful ping in seconds; None if it failed."""
    started = time.perf_counter()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10):
            return time.perf_counter() - started
    except (urllib.error.URLError, ConnectionError):
        return None


def load(port: int, images: Path, *flags: str) -> dict[str, Any]:
    """Summary of the load generator, and the slowest ping sent meanwhile."""
    command = [
        sys.executable,
        str(REPOSITORY / "benchmarks" / "http_load.py"),
        "--port",
        str(port),
        "--images",
        str(images),
        *flags,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as generator:
        slowest = 0.0
        while generator.poll() is None:
            slowest = max(slowest, ping(port) or float("inf"))
            time.sleep(0.2)
        assert generator.stdout
        return {**json.loads(generator.stdout.read()), "slowest_ping_ms": slowest * 1000}


def compare(model: Path, images: Path, seconds: float, batch: int) -> dict[str, Any]:
    """Rates over HTTP, without and with batching, each as a fraction of the baseline with the same batch size."""
    result: dict[str, Any] = {
        "baseline": {str(size): baseline_rates(model, images, size, seconds) for size in (1, batch)},
        "http": {},
    }
    for size, rates in result["baseline"].items():
        print(f"baseline, batches of {size}: {rates['from_bytes']:.1f} images/s, {rates['model']:.1f} the model alone")
    for size in (1, batch):
        with endpoint(model, "--max-batch", str(size)) as (port, _):
            load(port, images, "--concurrency", "4", "--seconds", "2")
            rows = {}
            for clients in CONCURRENCIES:
                rows[str(clients)] = load(port, images, "--concurrency", str(clients), "--seconds", str(seconds))
            rate = LOAD_FRACTION * max(row["requests_per_second"] for row in rows.values())
            rows["80 %"] = load(port, images, "--rate", f"{rate:.3f}", "--seconds", str(2 * seconds))
        for name, row in rows.items():
            row["share_of_baseline"] = row["requests_per_second"] / result["baseline"][str(size)]["from_bytes"]
            print(
                f"HTTP, batches up to {size}, load {name:>4}: {row['requests_per_second']:6.1f} /s "
                f"({row['share_of_baseline']:.2f} of the baseline), p50 {row['p50_ms']:6.0f} ms, "
                f"p99 {row['p99_ms']:6.0f} ms ({row['p99_ms'] / row['p50_ms']:.1f} x), "
                f"slowest ping {row['slowest_ping_ms']:.0f} ms, {row['statuses']}"
            )
        result["http"][str(size)] = rows
    return result


def split(model: Path, images: Path, seconds: float, folder: Path) -> dict[str, Any]:
    """Milliseconds of the parts of a request with one client, for each kind of response: see request_parts.py."""
    log, result = folder / "requests.log", {}
    alone = time_alone(model, [file.read_bytes() for file in sorted(images.glob("*.jpg"))[:4]])
    with endpoint(model, "--max-batch", "1", log=log) as (port, _):
        for name, flags in RESPONSES.items():
            load(port, images, "--concurrency", "1", "--seconds", "1", *flags)
            before = log.stat().st_size
            client = load(port, images, "--concurrency", "1", "--seconds", str(seconds), *flags)
            lines = log.read_bytes()[before:].decode().splitlines()
            parts = parts_of(read_stages(lines), alone, client["p50_ms"])
            print_parts(f"{name}, {len(lines)} requests, {json.loads(lines[-1])['detections']} detections", parts)
            result[name] = {"milliseconds": parts, **shares_of(parts)}
    return result


def soak(model: Path, images: Path, minutes: float) -> dict[str, Any]:
    """Memory of all processes of the server under load of varying concurrency, with damaged images in it."""
    for number in range(4):
        whole = (images / f"{number:02}.jpg").read_bytes()
        (images / f"damaged{number}.jpg").write_bytes(whole[: len(whole) // 2])
    samples: list[tuple[float, float]] = []
    with endpoint(model) as (port, process):
        started, number = time.perf_counter(), 0
        while time.perf_counter() - started < 60 * minutes:
            load(port, images, "--concurrency", str(CONCURRENCIES[number % 3]), "--seconds", "5")
            samples.append((time.perf_counter() - started, resident(process.pid)))
            print(f"{samples[-1][0]:6.0f} s {samples[-1][1]:8.1f} MiB", flush=True)
            number += 1
    settled = np.array([sample for sample in samples if sample[0] > 60] or samples)
    slope = np.polyfit(settled[:, 0] / 60, settled[:, 1], 1)[0]
    first, last = settled[0, 1], settled[-1, 1]
    print(f"after the first minute {first:.1f} MiB, at the end {last:.1f} MiB, {slope:+.2f} MiB per minute")
    return {"samples": samples, "mebibytes_per_minute": float(slope)}


def resident(process: int) -> float:
    """Resident memory of a process and its descendants, MiB."""
    total = 0.0
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            total += int(line.split()[1]) / 1024
    for task in Path(f"/proc/{process}/task").iterdir():
        total += sum(resident(int(child)) for child in (task / "children").read_text().split())
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder")
    parser.add_argument(
        "--recipe", type=Path, default=REPOSITORY / "configs" / "shapes_r18_fpn.yaml", help="instead of --model"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    parser.add_argument("--batch", type=int, default=4, help="largest batch")
    parser.add_argument("--split", action="store_true", help="measure the stages of a request instead")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="measure memory instead")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or make_model(options.recipe, Path(folder) / "model")
        images = make_images(Path(folder) / "images")
        if options.soak:
            result = soak(model, images, options.soak)
        elif options.split:
            result = split(model, images, options.seconds, Path(folder))
        else:
            result = compare(model, images, options.seconds, options.batch)
    if options.json:
        options.json.write_text(json.dumps({**result, "cores": os.cpu_count()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
