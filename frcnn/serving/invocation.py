"""One request to ``/invocations``: read, decode, queue, detect, respond."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, NamedTuple

import numpy as np
from flask import Request, Response

from frcnn.data.tiles import Tile
from frcnn.serving import metrics
from frcnn.serving.batching import DeadlineExceeded, Outcome, QueueFull
from frcnn.serving.custom_attributes import CUSTOM_ATTRIBUTES
from frcnn.serving.engine import Engine
from frcnn.serving.options import ServeOptions
from frcnn.serving.receiving import receive_body
from frcnn.serving.request_body import OCTET_STREAM, Body, EncodedImage, check_content_type, read_body
from frcnn.serving.request_error import RequestError
from frcnn.serving.request_log import RequestRecord
from frcnn.serving.response import DRAWING_THRESHOLD, ImageResult, ResponseFormat, draw, negotiate, to_json, write_json
from frcnn.serving.selection import Selection, read_selection
from frcnn.tiling import merge

MODEL_THRESHOLDS = "model"  # said in the log and the response's attributes when the model's thresholds were applied


class Job(NamedTuple):
    """An image that is being detected in: its size in pixels, its parts, and the detections of each of them."""

    height: int
    width: int
    windows: list[Tile]
    futures: list[Future[Outcome]]

    def cancel(self) -> None:
        """Take what has not been run out of the queue."""
        for future in self.futures:
            future.cancel()


def handle_invocation(request: Request, engine: Engine, options: ServeOptions, record: RequestRecord) -> Response:
    """Response to ``/invocations``.

    Raises:
        RequestError: what is wrong with the request, or 503 if the model is not ready or not fast enough.
    """
    deadline = time.monotonic() + options.request_timeout
    content_type = request.mimetype or OCTET_STREAM
    accepted = negotiate(request.headers.get("Accept", ""), content_type)
    record.fields |= {"content_type": content_type, "accept": accepted.content_type}
    check_content_type(content_type, request.headers.get("Content-Encoding", ""))
    if not engine.loaded:
        raise RequestError(503, engine.unhealthy_reason() or "the model is being loaded", retry_after=5)
    selection = read_selection(
        request.args.items(multi=True), request.headers.get(CUSTOM_ATTRIBUTES, ""), engine.detector.class_names
    )
    with record.stage("read"):
        body = read_body(content_type, receive_body(request, options.max_body_mb << 20), options)
    if accepted.is_image and body.is_list:
        raise RequestError(
            406, f"{accepted.media} holds one image and the body is a list of images; expected Accept: application/json"
        )
    results = _detect_all(body, engine, options, deadline, record)
    with record.stage("answer"):
        encoded = _write(body, results, accepted, selection, engine, options, deadline, record)
    return Response(encoded, content_type=accepted.content_type)


def _detect_all(
    body: Body, engine: Engine, options: ServeOptions, deadline: float, record: RequestRecord
) -> list[ImageResult | RequestError]:
    """Results in the order of the images; a line of JSON Lines that failed is its RequestError."""
    record.fields["images"] = len(body.images)
    jobs: list[Job | RequestError] = []
    try:
        for number, image in enumerate(body.images):
            jobs.append(_start(image, number, body, engine, options, deadline, record))
        if all(isinstance(job, RequestError) for job in jobs):
            first = jobs[0]
            assert isinstance(first, RequestError)
            message = f"every line of the body failed; line 0: {first}" if len(jobs) > 1 else str(first)
            raise RequestError(first.status, message)
        return [job if isinstance(job, RequestError) else _finish(job, engine, deadline, record) for job in jobs]
    finally:
        for job in jobs:
            if not isinstance(job, RequestError):
                job.cancel()


def _start(
    image: EncodedImage | RequestError,
    number: int,
    body: Body,
    engine: Engine,
    options: ServeOptions,
    deadline: float,
    record: RequestRecord,
) -> Job | RequestError:
    """Decode an image and queue it."""
    if isinstance(image, RequestError):
        return image
    try:
        return _decode_and_submit(image, engine, options, deadline, record)
    except RequestError as error:
        if body.independent and error.status != 503:
            return error
        message = f"image {number}: {error}" if body.is_list else str(error)
        raise RequestError(error.status, message, error.retry_after) from None


def _decode_and_submit(
    image: EncodedImage, engine: Engine, options: ServeOptions, deadline: float, record: RequestRecord
) -> Job:
    with record.stage("wait"):
        admitted = engine.decoding.acquire(timeout=max(deadline - time.monotonic(), 0))
    if not admitted:
        raise _timeout_error()
    try:
        with record.stage("decode"), engine.batcher.decoding():
            pixels = _decode(image, engine, deadline)
            record.fields.setdefault("sizes", []).append([pixels.shape[1], pixels.shape[0]])
            return _submit(pixels, engine, options, deadline)
    except DeadlineExceeded:
        raise _timeout_error() from None
    except QueueFull:
        raise RequestError(503, "the queue of images is full; try again", retry_after=1) from None
    finally:
        engine.decoding.release()


def _submit(pixels: np.ndarray, engine: Engine, options: ServeOptions, deadline: float) -> Job:
    """Queue all parts of an image, or none."""
    windows = engine.windows(pixels)
    if len(windows) > options.queue_size:
        raise RequestError(
            413,
            f"an image of {pixels.shape[1]} x {pixels.shape[0]} pixels has {len(windows)} parts with tile="
            f"{options.tile}; expected at most queue_size, {options.queue_size}",
        )
    job = Job(pixels.shape[0], pixels.shape[1], windows, [])
    try:
        for window in windows:
            prepared = engine.detector.prepare(window.crop(pixels))
            job.futures.append(engine.batcher.submit(prepared, deadline))
    except QueueFull:
        job.cancel()
        raise
    return job


def _decode(image: EncodedImage, engine: Engine, deadline: float) -> np.ndarray:
    return engine.decoders.decode(image, deadline) if isinstance(image, bytes) else np.ascontiguousarray(image)


def _finish(job: Job, engine: Engine, deadline: float, record: RequestRecord) -> ImageResult:
    try:
        outcomes = [future.result(timeout=max(deadline - time.monotonic(), 0)) for future in job.futures]
    except (FutureTimeout, DeadlineExceeded, CancelledError):
        raise _timeout_error() from None
    for outcome in outcomes:
        record.add("wait", outcome.wait_seconds)
        record.add("detect", outcome.run_seconds)
        record.fields["batch"] = max(record.fields.get("batch", 0), outcome.batch_size)
        metrics.BATCH_SIZE.observe(outcome.batch_size)
    found = [outcome.detections for outcome in outcomes]
    detections = merge(job.windows, found, engine.detector.config.roi_head.nms_iou)
    return ImageResult(detections, job.width, job.height)


def _timeout_error() -> RequestError:
    return RequestError(503, "the request timed out; try again with fewer or smaller images", retry_after=5)


def _write(
    body: Body,
    results: list[ImageResult | RequestError],
    accepted: ResponseFormat,
    selection: Selection,
    engine: Engine,
    options: ServeOptions,
    deadline: float,
    record: RequestRecord,
) -> bytes:
    thresholds = engine.detector.thresholds
    threshold = thresholds or (DRAWING_THRESHOLD if accepted.is_image else 0.0)
    selected = [
        result
        if isinstance(result, RequestError)
        else result._replace(detections=selection.apply(result.detections, threshold))
        for result in results
    ]
    detected = [result for result in selected if isinstance(result, ImageResult)]
    record.fields["detections"] = sum(len(result.detections.scores) for result in detected)
    metrics.IMAGES.labels(engine.model_version).inc(len(detected))
    metrics.DETECTIONS.labels(engine.model_version).inc(record.fields["detections"])
    identity: dict[str, Any] = {"model_version": engine.model_version}
    if options.variant:
        identity["variant"] = options.variant
    if thresholds and selection.score_threshold is None:
        identity["score_thresholds"] = dict(thresholds.by_class)
        record.fields["score_threshold"] = MODEL_THRESHOLDS
    if accepted.is_image:
        # Decoded a second time: pixels kept while requests wait would be most of the worker's memory.
        (image,), (result,) = body.images, detected
        assert not isinstance(image, RequestError)
        try:
            with engine.decoding:
                return draw(_decode(image, engine, deadline), result.detections, accepted.media)
        except DeadlineExceeded:
            raise _timeout_error() from None
    documents = [
        {"error": str(result), "status": result.status}
        if isinstance(result, RequestError)
        else to_json(result, accepted.style, identity)
        for result in selected
    ]
    return write_json(documents, accepted, body.is_list)
