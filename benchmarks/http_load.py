"""Load generator for an endpoint on this machine.

    python benchmarks/http_load.py --port 8080 --images photos --concurrency 16 --seconds 10 --json load.json

Closed loop: a fixed number of clients, each sending its next request when the last one was answered. With --rate an
open loop: requests start at random times (Poisson) whether or not earlier ones were answered, and the latency counts
from the time at which a request was due.
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
    """Clients of ``/invocations``, their latencies and statuses.

    Args:
        query: of the URI, without the question mark.
        accept: type of the response.
    """

    def __init__(self, port: int, bodies: list[bytes], seconds: float, query: str = "", accept: str = "*/*") -> None:
        self._port = port
        self._bodies = bodies
        self._path = "/invocations" + (f"?{query}" if query else "")
        self._headers = {"Content-Type": "image/jpeg", "Accept": accept}
        self._until = time.perf_counter() + seconds
        self.seconds = seconds
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()

    def closed(self, clients: int) -> None:
        """Closed loop with a number of clients."""
        threads = [threading.Thread(target=self._call, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def open(self, rate: float, seed: int = 0) -> None:
        """Open loop with ``rate`` requests per second at random times."""
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
        connection.request("POST", self._path, self._bodies[number % len(self._bodies)], self._headers)
        response = connection.getresponse()
        response.read()
        self.statuses[response.status] += 1
        if response.status == 200:
            self.latencies.append(time.perf_counter() - started)

    def summary(self) -> dict[str, float | dict[str, int]]:
        """Successful requests per second, latencies in milliseconds, and the count of each status."""
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
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files, sent in turn")
    parser.add_argument("--concurrency", type=int, default=1, choices=range(1, 129), metavar="1..128")
    parser.add_argument("--rate", type=float, help="requests per second, instead of --concurrency")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--query", default="", help="parameters of the requests, such as max_detections=20")
    parser.add_argument("--accept", default="*/*", help="type of the responses")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bodies = [file.read_bytes() for file in sorted(options.images.glob("*.jpg"))]
    load = Load(options.port, bodies, options.seconds, options.query, options.accept)
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
