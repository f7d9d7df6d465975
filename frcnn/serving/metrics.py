"""Prometheus metrics of an endpoint, aggregated over its workers."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

REQUESTS = Counter("frcnn_requests", "Requests to /invocations by status.", ["status", "model_version"])
IMAGES = Counter("frcnn_images", "Images the model was run on.", ["model_version"])
DETECTIONS = Counter("frcnn_detections", "Detections returned.", ["model_version"])
REQUEST_SECONDS = Histogram(
    "frcnn_request_seconds", "Time from a request's arrival in a worker to its response.", buckets=_SECONDS
)
STAGE_SECONDS = Histogram("frcnn_stage_seconds", "Time a request spends in each stage.", ["stage"], buckets=_SECONDS)
BATCH_SIZE = Histogram(
    "frcnn_batch_size", "Size of the batch an image ran in, one sample per image.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
QUEUE_DEPTH = Gauge("frcnn_queue_depth", "Images in the queue.", multiprocess_mode="livesum")
IN_FLIGHT = Gauge("frcnn_requests_in_flight", "Requests being handled.", multiprocess_mode="livesum")
HEALTHY = Gauge("frcnn_worker_healthy", "1 if the worker can detect, else 0.", multiprocess_mode="livemin")


def expose(folder: Path) -> bytes:
    """Metrics of all workers in Prometheus' text format.

    Args:
        folder: PROMETHEUS_MULTIPROC_DIR, which must have been set before this module was imported.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    return generate_latest(registry)
