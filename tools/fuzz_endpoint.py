"""Sends hostile requests to an endpoint on this machine and counts what comes back.

    python tools/fuzz_endpoint.py --requests 10000 --minutes 30 --json fuzz.json
    python tools/fuzz_endpoint.py --requests 1 --first 4711 --show      # sends one request of that run again

Request N of a seed is always the same: an image file, JSON, JSON Lines, npy file or HTTP head, mutated at random. The
tool starts `frcnn serve` with a small model of random weights, or, with --port, uses the endpoint that listens there. A
run fails on a status of 5xx other than 501, 503 and 505, on an error that is not JSON, on a request without a response
in time, on the death of a worker, and if the endpoint is not healthy at the end. Only the loopback interface is used.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "benchmarks"))  # which are no package
from serving import endpoint, make_model, ping, resident  # noqa: E402

FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {}, "PNG": {}, "WEBP": {}, "GIF": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "AVIF": {},
}  # fmt: skip
DELIBERATE = (501, 503, 505)  # of the statuses of 5xx
REQUEST_TIMEOUT = 60.0  # seconds until the endpoint must have responded; its own limit is 55
SHOWN_FAILURES = 20
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)  # numbers


class Requests:
    """The requests of a seed, by number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
        image = Image.fromarray(pixels).resize((160, 120))
        self._files = [_encode(image, name, **options) for name, options in FORMATS.items()]
        self._files += [_encode(image, "JPEG", progressive=True), _encode(image.convert("CMYK"), "JPEG")]
        self._files += [_encode(image.convert(mode), "PNG") for mode in ("P", "LA", "1")]
        self._files += [
            _encode(image, name, save_all=True, append_images=[image.rotate(90)]) for name in ("GIF", "WEBP")
        ]
        stream = io.BytesIO()
        np.save(stream, pixels)
        self._array = stream.getvalue()

    def request(self, number: int) -> tuple[bytes, bool]:
        """The bytes to send, and whether the length that they announce is right."""
        rng = random.Random(f"{self._seed}-{number}")
        kind = rng.choices(("image", "json", "jsonl", "npy", "http"), (50, 15, 10, 10, 15))[0]
        if kind == "http":
            return _mutate(_head(rng, "image/png", 4) + b"\x89PNG", rng), False
        content_type, body = getattr(self, f"_{kind}")(rng)
        if rng.random() < 0.2:
            return _chunked(rng, content_type, body)
        return _head(rng, content_type, len(body)) + body, True

    def _image(self, rng: random.Random) -> tuple[str, bytes]:
        return rng.choice(("image/*", "image/jpeg", "application/octet-stream")), _mutate(rng.choice(self._files), rng)

    def _json(self, rng: random.Random) -> tuple[str, bytes]:
        entries = [self._entry(rng) for _ in range(rng.randrange(4))]
        document: Any = rng.choice(({"image": entries[:1]}, {"images": entries}, {"instances": entries}, entries))
        if entries and rng.random() < 0.4:
            document = {"image": entries[0]}
        text = json.dumps(document).encode()
        if rng.random() < 0.3:
            text = rng.choice(
                (b"[" * 10_000, b'{"image":' * 5_000, b'{"images": [' + b"[]," * 50_000 + b"0]}", b"9" * 9_999)
            )
        return "application/json", _mutate(text, rng) if rng.random() < 0.5 else text

    def _jsonl(self, rng: random.Random) -> tuple[str, bytes]:
        lines = [json.dumps(self._entry(rng)).encode() for _ in range(rng.randrange(5))]
        return "application/jsonlines", _mutate(b"\n".join(lines), rng) if rng.random() < 0.7 else b"\n".join(lines)

    def _npy(self, rng: random.Random) -> tuple[str, bytes]:
        return "application/x-npy", _mutate(self._array, rng)

    def _entry(self, rng: random.Random) -> Any:
        """An image in JSON, or something in its place."""
        file = rng.choice(self._files)
        text = base64.b64encode(_mutate(file, rng) if rng.random() < 0.7 else file).decode()
        wrong = (None, 1e308, -1, True, [], {}, "\ud800", "file:///etc/passwd", {"b64": None}, "data:;base64,", "A" * 5)
        return rng.choice((text, {"b64": text}, {"image": text}, f"data:image/png;base64,{text}", rng.choice(wrong)))


def _encode(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _mutate(content: bytes, rng: random.Random) -> bytes:
    """Content with some of its bits, bytes, numbers or parts changed, most often near its start."""
    data = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 16))):
        place = int(len(data) * rng.random() ** rng.choice((1, 4)))
        action = rng.randrange(6)
        if not data:
            break
        if action == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[place] = rng.randrange(256)
        elif action == 2:
            size, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
            value = rng.choice(INTERESTING) & (1 << 8 * size) - 1
            data[place : place + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
        elif action == 3:
            del data[place : place + rng.randrange(1, 64)]
        elif action == 4:
            source = rng.randrange(len(data))
            data[place:place] = data[source : source + rng.randrange(1, 256)] * rng.choice((1, 2, 100))
        else:
            del data[place:]
    return bytes(data)


def _head(rng: random.Random, content_type: str, length: int | None) -> bytes:
    """Request line and headers; one in eight heads has some that are refused before the body is read."""
    accept = rng.choice(("*/*", "application/json", "image/png", "image/jpeg"))
    query = rng.choice(("", "", "?score_threshold=0.5", "?max_detections=3"))
    attributes = rng.choice(("", "", "score_threshold=0.1", "max_detections=1"))
    if rng.random() < 0.125:
        accept = rng.choice((accept, "application/json;q=0", "text/html", ",;=é"))
        query = rng.choice((query, "?max_detections=nan", "?classes=%ff%00", "?x=y", "?" + "a" * 5000))
        attributes = rng.choice((attributes, "classes=a, b", "=,=,=", "é猫", "x" * 2000))
    lines = [
        f"POST /invocations{query} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {content_type}",
        f"Accept: {accept}",
    ]
    lines += [f"X-Amzn-SageMaker-Custom-Attributes: {attributes}"] if attributes else []
    lines += [f"Content-Length: {length}"] if length is not None else ["Transfer-Encoding: chunked"]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def _chunked(rng: random.Random, content_type: str, body: bytes) -> tuple[bytes, bool]:
    half = rng.randrange(len(body) + 1)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
    whole = chunks + b"0\r\n\r\n"
    intact = rng.random() < 0.7
    return _head(rng, content_type, None) + (whole if intact else _mutate(whole, rng)), intact


def send(port: int, request: bytes, intact: bool) -> bytes:
    """All that the endpoint responds; empty if it closed the connection."""
    response = b""
    with socket.create_connection(("127.0.0.1", port), REQUEST_TIMEOUT) as connection:
        with suppress(ConnectionError):
            connection.sendall(request)
            if not intact:  # or both sides would wait for each other
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                response += part
    return response


def judge(response: bytes, intact: bool) -> tuple[str, str | None]:
    """Status for the counts, and what is wrong with the response."""
    if not response:
        return "closed", "no response to a request of the right length" if intact else None
    head, _, body = response.partition(b"\r\n\r\n")
    try:
        status = int(head.split()[1])
    except (IndexError, ValueError):
        return "HTTP/0.9", None  # the request line had no version
    if status >= 500 and status not in DELIBERATE:
        return str(status), f"status {status}: {body[:200]!r}"
    if status >= 400:
        try:
            if json.loads(body)["status"] != status:
                return str(status), f"status {status}, but {body[:200]!r}"
        except (ValueError, KeyError, TypeError):
            return str(status), f"the error is not JSON: {body[:200]!r}"
    return str(status), None


class Run:
    """Sends requests from several threads until their number or the time is over."""

    def __init__(self, port: int, requests: Requests, minutes: float) -> None:
        self._port = port
        self._requests = requests
        self._until = time.monotonic() + 60 * minutes
        self._lock = threading.Lock()
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0

    def send(self, first: int, count: int, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._send, range(first, first + count)))

    def _send(self, number: int) -> None:
        if time.monotonic() > self._until:
            return
        started = time.monotonic()
        try:
            request, intact = self._requests.request(number)
            status, failure = judge(send(self._port, request, intact), intact)
        except OSError as error:
            status, failure = "none", f"no response: {type(error).__name__} {error}"
        with self._lock:
            self.slowest = max(self.slowest, time.monotonic() - started)
            self.statuses[status] += 1
            if failure:
                self.failures.append(f"request {number}: {failure}")


def processes(root: int, depth: int = 2) -> set[int]:
    """Process ids of the server, nginx, gunicorn and the workers; decoders, which may be replaced, are below these."""
    found = {root}
    if depth:
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= processes(int(child), depth - 1)
    return found


@contextmanager
def own_endpoint(folder: Path) -> Iterator[tuple[int, int]]:
    """Port and process id of an endpoint with a small model of random weights."""
    model = make_model(REPOSITORY / "configs" / "shapes_r18_fpn.yaml", folder / "model")
    with endpoint(model, "--max-pixels", "4000000", "--max-body-mb", "20") as (port, process):
        yield port, process.pid


def fuzz(port: int, process: int | None, options: argparse.Namespace) -> dict[str, Any]:
    """Send the requests in two halves, the first of which warms up what memory is compared with."""
    run = Run(port, Requests(options.seed), options.minutes)
    before = processes(process) if process else set()
    halves = (options.requests - options.requests // 2, options.requests // 2)
    memory = []
    for first, count in zip(itertools.accumulate((options.first, halves[0])), halves, strict=True):
        run.send(first, count, options.threads)
        memory += [round(resident(process), 1)] if process else []
    healthy = ping(port) is not None
    if process and processes(process) != before:
        run.failures.append("a process of the endpoint died")
    if not healthy:
        run.failures.append("the endpoint is not healthy at the end")
    return {
        "requests": sum(run.statuses.values()),
        "statuses": dict(sorted(run.statuses.items())),
        "failures": len(run.failures),
        "first_failures": run.failures[:SHOWN_FAILURES],
        "slowest_seconds": round(run.slowest, 1),
        "mebibytes_after_half_and_all": memory,
        "healthy": healthy,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10.0, help="stop sending after this time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--threads", type=int, default=4, choices=range(1, 65), metavar="1..64")
    parser.add_argument("--port", type=int, help="of an endpoint that runs on this machine")
    parser.add_argument("--show", action="store_true", help="print the requests as well")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for number in range(options.first, options.first + options.requests * options.show):
        print(number, Requests(options.seed).request(number))
    if options.port:
        result = fuzz(options.port, None, options)
    else:
        with tempfile.TemporaryDirectory() as folder, own_endpoint(Path(folder)) as (port, process):
            result = fuzz(port, process, options)
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
