"""Options of an endpoint, set by ``frcnn serve`` and, inside SageMaker, by environment variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from frcnn.config import Options
from frcnn.data.tiles import DEFAULT_OVERLAP

Seconds = Annotated[float, Field(ge=1, le=3600)]


class ServeOptions(Options):
    """An endpoint."""

    model_config = ConfigDict(protected_namespaces=())  # model_version is a field

    model: Path = Field(
        description="model folder, a folder with model/ or model.tar.gz in it, or the archive; read-only"
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(8080, description="HTTP port")
    bind: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 accepts connections from other machines")
    workers: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None,
        description="worker processes with a model each; null: one per GPU, or one on the CPU, where it uses all cores",
    )
    nginx: bool | None = Field(
        None,
        description="nginx in front of gunicorn, which shields the workers from slow clients and large bodies; null: "
        "if it is installed",
    )
    page: bool = Field(True, description="serve the page / for trying the model in a browser")
    max_batch: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="maximum images of one canvas that run together; null: 8 on a GPU, 1 on the CPU"
    )
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = Field(
        5.0, description="maximum wait of a batch's first image for others that are being decoded, in milliseconds"
    )
    queue_size: Annotated[int, Field(ge=1, le=1000)] = Field(
        64, description="maximum queued images, and concurrent requests, of a worker; beyond it requests get 503"
    )
    request_timeout: Seconds = Field(
        55.0, description="seconds per request, queueing included, before it gets 503; SageMaker allows 60"
    )
    drain_timeout: Seconds = Field(
        25.0, description="seconds after SIGTERM to finish accepted requests; SageMaker kills the container after 30"
    )
    max_body_mb: Annotated[int, Field(ge=1, le=1024)] = Field(100, description="maximum request body, MiB")
    max_pixels: Annotated[int, Field(ge=1, le=2**31)] = Field(
        50_000_000, description="maximum pixels of an image, checked before it is decoded"
    )
    decode_timeout: Annotated[int, Field(ge=1, le=3600)] = Field(
        10, description="maximum CPU time of decoding an image, seconds; beyond it the image gets 413"
    )
    max_images: Annotated[int, Field(ge=1, le=1000)] = Field(32, description="maximum images of a request")
    tile: Annotated[int, Field(ge=32)] | None = Field(
        None,
        description="detect in overlapping tiles of this size, and in the whole image, for small objects in large "
        "images, pixels; null: in the whole image only",
    )
    overlap: Annotated[float, Field(ge=0, le=0.9)] = Field(
        DEFAULT_OVERLAP, description="minimum share of a tile that its neighbor covers as well"
    )
    test: str | None = Field(
        None,
        description="test-time augmentation and Soft-NMS, such as 'flip=true soft_nms=gaussian'; null: as in the "
        "model's configuration",
    )
    variant: str | None = Field(None, description="name in responses and logs, such as the production variant's")
    model_version: str | None = Field(
        None, description="model name in responses and logs; null: the first 12 digits of the weights' SHA-256"
    )

    @model_validator(mode="after")
    def _check_header_values(self) -> ServeOptions:
        for name, value in (("variant", self.variant), ("model_version", self.model_version)):
            if value is not None and not re.fullmatch(r"[A-Za-z0-9._:/@+-]{1,128}", value):
                raise ValueError(
                    f"option {name!r} is {value!r}; expected 1 to 128 letters, digits and . _ : / @ + -, because it is "
                    "sent in HTTP headers"
                )
        return self

    @model_validator(mode="after")
    def _check_queue(self) -> ServeOptions:
        if self.max_images > self.queue_size:
            raise ValueError(
                f"option 'max_images' is {self.max_images}; expected at most queue_size, {self.queue_size}"
            )
        return self
