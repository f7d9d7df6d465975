"""What can be chosen about an endpoint; filled by ``frcnn serve`` and, inside SageMaker, by the container's environment."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frcnn.errors import UserError

# Unit-wide ranges of the numbers, both ends allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "port": (1, 65535),
    "workers": (1, 64),
    "max_batch": (1, 64),
    "batch_wait_ms": (0, 1000),
    "queue_size": (1, 1000),
    "request_timeout": (1, 3600),
    "drain_timeout": (1, 3600),
    "max_body_mb": (1, 1024),
    "max_pixels": (1, 2**31),
    "max_images": (1, 1000),
}


@dataclass(frozen=True)
class ServeOptions:
    """An endpoint.

    Attributes:
        model: model folder, a folder that holds one as ``model/`` or as ``model.tar.gz``, or such an archive; only read.
        port, bind: where HTTP is spoken.
        workers: processes with a model each; None is one a GPU, or one on the CPU, where TensorFlow's threads use all cores.
        nginx: nginx in front: it takes slow clients, big bodies and stopping off the workers. Without it gunicorn listens itself.
        page: serve the page ``/`` on which a person tries the model.
        max_batch: pictures of one canvas that run together at most; 1 switches batching off. None is 8 on a GPU, and 1 on the CPU,
            whose cores one picture keeps busy.
        batch_wait_ms: how long the first picture of a batch waits at most for others that are being decoded, milliseconds.
        queue_size: pictures that wait in a worker at most, and requests that it takes in at a time; beyond that the answer is 503.
        request_timeout: seconds a request may take, waiting included; then the answer is 503. SageMaker gives up after 60.
        drain_timeout: seconds from SIGTERM to the end in which accepted requests are finished. SageMaker kills after 30.
        max_body_mb: MiB of a request's body.
        max_pixels: pixels of a picture, checked before it is decoded.
        max_images: pictures of a request.
        variant: name that logs and answers carry, such as the production variant's.
        model_version: the same for the model; None is the first 12 digits of the weights' SHA-256.
    """

    model: Path
    port: int = 8080
    bind: str = "127.0.0.1"
    workers: int | None = None
    nginx: bool = True
    page: bool = True
    max_batch: int | None = None
    batch_wait_ms: float = 5.0
    queue_size: int = 64
    request_timeout: float = 55.0
    drain_timeout: float = 25.0
    max_body_mb: int = 100
    max_pixels: int = 50_000_000
    max_images: int = 32
    variant: str | None = None
    model_version: str | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UserError(f"serving option {name!r} is {value}; expected a number from {low:g} to {high:g}")
        if self.max_images > self.queue_size:
            raise UserError(
                f"serving option 'max_images' is {self.max_images}, more than 'queue_size' {self.queue_size} has room for"
            )

    def to_json(self) -> str:
        """For the worker processes; :meth:`from_json` is the way back."""
        return json.dumps(dataclasses.asdict(self) | {"model": str(self.model)})

    @classmethod
    def from_json(cls, text: str) -> ServeOptions:
        values: dict[str, Any] = json.loads(text)
        return cls(**(values | {"model": Path(values["model"])}))
