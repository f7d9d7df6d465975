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


class Context(NamedTuple):
    """What all images of a request share; ``deadline`` is of ``time.monotonic``."""

    engine: Engine
    options: ServeOptions
    accepted: ResponseFormat
    deadline: float
    record: RequestRecord


class Job(NamedTuple):
    """An image that is being detected in.

    Attributes:
        height, width: pixels.
        windows: its parts.
        futures: the detections of each part.
        pixels: ``[H, W, 3]`` uint8, kept to draw in.
    """

    height: int
    width: int
    windows: list[Tile]
    futures: list[Future[Outcome]]
    pixels: np.ndarray | None = None

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
    context = Context(engine, options, accepted, deadline, record)
    results = _detect_all(body, context)
    with record.stage("answer"):
        encoded = _write(body, results, selection, context)
    return Response(encoded, content_type=accepted.content_type)


def _detect_all(body: Body, context: Context) -> list[ImageResult | RequestError]:
    """Results in the order of the images; a line of JSON Lines that failed is its RequestError."""
    context.record.fields["images"] = len(body.images)
    jobs: list[Job | RequestError] = []
    try:
        for number, image in enumerate(body.images):
            jobs.append(_start(image, number, body, context))
        if all(isinstance(job, RequestError) for job in jobs):
            first = jobs[0]
            assert isinstance(first, RequestError)
            message = f"every line of the body failed; line 0: {first}" if len(jobs) > 1 else str(first)
            raise RequestError(first.status, message)
        return [job if isinstance(job, RequestError) else _finish(job, context) for job in jobs]
    finally:
        for job in jobs:
            if not isinstance(job, RequestError):
                job.cancel()


def _start(image: EncodedImage | RequestError, number: int, body: Body, context: Context) -> Job | RequestError:
    """Decode an image and queue it."""
    if isinstance(image, RequestError):
        return image
    try:
        return _decode_and_submit(image, context)
    except RequestError as error:
        if body.independent and error.status != 503:
            return error
        message = f"image {number}: {error}" if body.is_list else str(error)
        raise RequestError(error.status, message, error.retry_after) from None


def _decode_and_submit(image: EncodedImage, context: Context) -> Job:
    engine, record = context.engine, context.record
    with record.stage("wait"):
        admitted = engine.decoding.acquire(timeout=max(context.deadline - time.monotonic(), 0))
    if not admitted:
        raise _timeout_error()
    try:
        with engine.batcher.decoding():
            with record.stage("decode"):
                pixels = _decode(image, context)
            record.fields.setdefault("sizes", []).append([pixels.shape[1], pixels.shape[0]])
            with record.stage("prepare"):
                return _submit(pixels, context)
    except DeadlineExceeded:
        raise _timeout_error() from None
    except QueueFull:
        raise RequestError(503, "the queue of images is full; try again", retry_after=1) from None
    finally:
        engine.decoding.release()


def _submit(pixels: np.ndarray, context: Context) -> Job:
    """Queue all parts of an image, or none."""
    engine, options = context.engine, context.options
    windows = engine.windows(pixels)
    if len(windows) > options.queue_size:
        raise RequestError(
            413,
            f"an image of {pixels.shape[1]} x {pixels.shape[0]} pixels has {len(windows)} parts with tile="
            f"{options.tile}; expected at most queue_size, {options.queue_size}",
        )
    job = Job(pixels.shape[0], pixels.shape[1], windows, [])
    canvas_bytes = 0
    try:
        for window in windows:
            prepared = engine.detector.prepare(window.crop(pixels))
            canvas_bytes += prepared.canvas.nbytes
            job.futures.append(engine.batcher.submit(prepared, context.deadline))
    except QueueFull:
        job.cancel()
        raise
    # Larger images are decoded a second time: they would be most of the worker's memory while requests wait.
    return job._replace(pixels=pixels) if context.accepted.is_image and pixels.nbytes <= canvas_bytes else job


def _decode(image: EncodedImage, context: Context) -> np.ndarray:
    if isinstance(image, bytes):
        return context.engine.decoders.decode(image, context.deadline)
    return np.ascontiguousarray(image)


def _finish(job: Job, context: Context) -> ImageResult:
    engine, record = context.engine, context.record
    try:
        outcomes = [future.result(timeout=max(context.deadline - time.monotonic(), 0)) for future in job.futures]
    except (FutureTimeout, DeadlineExceeded, CancelledError):
        raise _timeout_error() from None
    for outcome in outcomes:
        record.add("wait", outcome.wait_seconds)
        record.add("detect", outcome.run_seconds)
        record.fields["batch"] = max(record.fields.get("batch", 0), outcome.batch_size)
        metrics.BATCH_SIZE.observe(outcome.batch_size)
    found = [outcome.detections for outcome in outcomes]
    detections = merge(job.windows, found, engine.detector.config.roi_head.nms_iou)
    return ImageResult(detections, job.width, job.height, job.pixels)


def _timeout_error() -> RequestError:
    return RequestError(503, "the request timed out; try again with fewer or smaller images", retry_after=5)


def _write(body: Body, results: list[ImageResult | RequestError], selection: Selection, context: Context) -> bytes:
    engine, options, accepted, _, record = context
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
        (image,), (result,) = body.images, detected
        assert not isinstance(image, RequestError)
        return draw(_pixels(image, result, context), result.detections, accepted.media)
    documents = [
        {"error": str(result), "status": result.status}
        if isinstance(result, RequestError)
        else to_json(result, accepted.style, identity)
        for result in selected
    ]
    return write_json(documents, accepted, body.is_list)


def _pixels(image: EncodedImage, result: ImageResult, context: Context) -> np.ndarray:
    """The pixels to draw in, decoded again unless they were kept."""
    if result.pixels is not None:
        return result.pixels
    try:
        with context.engine.decoding:
            return _decode(image, context)
    except DeadlineExceeded:
        raise _timeout_error() from None
