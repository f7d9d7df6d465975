"""A load on an endpoint, from a process of its own so that it takes nothing from the server's interpreter. Loopback only.

    python benchmarks/http_load.py --port 8080 --pictures photos --concurrency 16 --seconds 10 --json load.json

Closed loop (so many callers, each sends when it has its answer), or with --rate an open one: requests start at random times
(Poisson), whether earlier ones are answered or not, and their latency counts from the time at which they should have started.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np


class Load:
    """Callers of ``/invocations`` and what became of their requests."""

    def __init__(self, port: int, bodies: list[bytes], seconds: float) -> None:
        self._port = port
        self._bodies = bodies
        self._until = time.perf_counter() + seconds
        self.seconds = seconds
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()

    def closed(self, callers: int) -> None:
        """So many callers at a time."""
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def open(self, rate: float, seed: int = 0) -> None:
        """``rate`` requests a second at random times."""
        rng = random.Random(seed)
        threads = []
        due = time.perf_counter()
        while (due := due + rng.expovariate(rate)) < self._until:
            time.sleep(max(due - time.perf_counter(), 0))
            threads.append(threading.Thread(target=self._call_once, args=(len(threads), due)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _call(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        while (started := time.perf_counter()) < self._until:
            self._request(connection, number, started)
            number += 1
        connection.close()

    def _call_once(self, number: int, due: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        self._request(connection, number, due)
        connection.close()

    def _request(self, connection: http.client.HTTPConnection, number: int, started: float) -> None:
        connection.request(
            "POST", "/invocations", self._bodies[number % len(self._bodies)], {"Content-Type": "image/jpeg"}
        )
        response = connection.getresponse()
        response.read()
        self.statuses[response.status] += 1
        if response.status == 200:
            self.latencies.append(time.perf_counter() - started)

    def summary(self) -> dict[str, float | dict[str, int]]:
        """Answers a second, latencies in milliseconds, and how often each status came."""
        latencies = np.array(self.latencies or [np.nan]) * 1000
        return {
            "requests_per_second": len(self.latencies) / self.seconds,
            "p50_ms": float(np.percentile(latencies, 50)),
            "p99_ms": float(np.percentile(latencies, 99)),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of JPEG files, sent in turn")
    parser.add_argument("--concurrency", type=int, default=1, choices=range(1, 129), metavar="1..128")
    parser.add_argument("--rate", type=float, help="requests a second, in place of --concurrency")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load = Load(options.port, [file.read_bytes() for file in sorted(options.pictures.glob("*.jpg"))], options.seconds)
    if options.rate:
        load.open(options.rate)
    else:
        load.closed(options.concurrency)
    text = json.dumps(load.summary())
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
