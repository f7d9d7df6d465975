"""The way of one request: read, decode, wait for its turn, detect, answer."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout

from flask import Request, Response

from frcnn.serving import metrics
from frcnn.serving.batching import DeadlineExceeded, Outcome, QueueFull
from frcnn.serving.engine import Engine
from frcnn.serving.options import ServeOptions
from frcnn.serving.request_body import Body, Pixels, check_content_type, read_body
from frcnn.serving.request_error import RequestError
from frcnn.serving.request_log import RequestRecord
from frcnn.serving.response import DRAWN_THRESHOLD, Found, ResponseFormat, draw, json_of, negotiate, write_json
from frcnn.serving.selection import CUSTOM_ATTRIBUTES, Selection, read_selection


def detect_and_answer(request: Request, engine: Engine, options: ServeOptions, record: RequestRecord) -> Response:
    """ResponseFormat of ``/invocations``.

    Raises:
        RequestError: what is wrong with the request, or 503 where the model is not ready or not fast enough.
    """
    deadline = time.monotonic() + options.request_timeout
    content_type, answer = request.mimetype, negotiate(request.headers.get("Accept", ""), request.mimetype)
    record.fields |= {"content_type": content_type, "accept": answer.content_type}
    check_content_type(content_type, request.headers.get("Content-Encoding", ""))
    if not engine.loaded:
        raise RequestError(503, engine.unhealthy_reason() or "the model is being loaded", retry_after=5)
    detector = engine.detector
    selection = read_selection(
        request.args.items(multi=True), request.headers.get(CUSTOM_ATTRIBUTES, ""), detector.class_names
    )
    with record.stage("read"):
        body = read_body(content_type, request.get_data(cache=False), options)
    if answer.drawn and body.many:
        raise RequestError(
            406, f"{answer.media} has room for one picture and the body is a list; expected Accept: application/json"
        )
    outcomes = _detect_all(body, engine, deadline, record)
    with record.stage("answer"):
        encoded = _write(body, outcomes, answer, selection, engine, options, record)
    return Response(encoded, content_type=answer.content_type)


class _Job:
    """A picture on its way through the batcher."""

    def __init__(self, size: tuple[int, int], outcome: Future[Outcome]) -> None:
        self.height, self.width = size
        self.outcome = outcome


def _detect_all(body: Body, engine: Engine, deadline: float, record: RequestRecord) -> list[Found | RequestError]:
    """What was found in each picture, in order; a broken line of JSON lines keeps its place as its RequestError."""
    record.fields["images"] = len(body.pictures)
    jobs: list[_Job | RequestError] = []
    try:
        for number, picture in enumerate(body.pictures):
            jobs.append(_start(picture, number, body, engine, deadline, record))
        if all(isinstance(job, RequestError) for job in jobs):
            first = jobs[0]
            assert isinstance(first, RequestError)
            raise RequestError(
                first.status, f"no line can be answered; line 0: {first}" if len(jobs) > 1 else str(first)
            )
        return [job if isinstance(job, RequestError) else _finish(job, deadline, record) for job in jobs]
    finally:
        for job in jobs:
            if isinstance(job, _Job):
                job.outcome.cancel()  # where the request failed before its turn


def _start(
    picture: Pixels | RequestError, number: int, body: Body, engine: Engine, deadline: float, record: RequestRecord
) -> _Job | RequestError:
    """Decode a picture and put it into the queue."""
    if isinstance(picture, RequestError):
        return picture
    try:
        return _decode_and_submit(picture, engine, deadline, record)
    except RequestError as refusal:
        if body.each_for_itself and refusal.status != 503:
            return refusal
        raise RequestError(
            refusal.status, f"image {number}: {refusal}" if body.many else str(refusal), refusal.retry_after
        ) from None


def _decode_and_submit(picture: Pixels, engine: Engine, deadline: float, record: RequestRecord) -> _Job:
    with record.stage("wait"):
        admitted = engine.decoding.acquire(timeout=max(deadline - time.monotonic(), 0))
    if not admitted:
        raise _too_late()
    try:
        with record.stage("decode"), engine.batcher.decoding():
            pixels = picture()
            record.fields.setdefault("sizes", []).append([pixels.shape[1], pixels.shape[0]])
            prepared = engine.detector.prepare(pixels)
            return _Job(prepared.original_size, engine.batcher.submit(prepared, deadline))
    except QueueFull:
        raise RequestError(503, "too many pictures are waiting; try again", retry_after=1) from None
    finally:
        engine.decoding.release()


def _finish(job: _Job, deadline: float, record: RequestRecord) -> Found:
    try:
        outcome = job.outcome.result(timeout=max(deadline - time.monotonic(), 0))
    except (FutureTimeout, DeadlineExceeded, CancelledError):
        raise _too_late() from None
    record.add("wait", outcome.waited)
    record.add("detect", outcome.ran)
    record.fields["batch"] = max(record.fields.get("batch", 0), outcome.batch_size)
    metrics.BATCH_SIZE.observe(outcome.batch_size)
    return Found(outcome.detections, job.width, job.height)


def _too_late() -> RequestError:
    return RequestError(
        503, "the request took longer than a request may; try again with fewer or smaller pictures", retry_after=5
    )


def _write(
    body: Body,
    outcomes: list[Found | RequestError],
    answer: ResponseFormat,
    selection: Selection,
    engine: Engine,
    options: ServeOptions,
    record: RequestRecord,
) -> bytes:
    threshold = DRAWN_THRESHOLD if answer.drawn else 0.0
    selected = [
        outcome
        if isinstance(outcome, RequestError)
        else outcome._replace(detections=selection.of(outcome.detections, threshold))
        for outcome in outcomes
    ]
    found = [outcome for outcome in selected if isinstance(outcome, Found)]
    record.fields["detections"] = sum(len(outcome.detections.scores) for outcome in found)
    metrics.IMAGES.labels(engine.model_version).inc(len(found))
    metrics.DETECTIONS.labels(engine.model_version).inc(record.fields["detections"])
    names = engine.detector.class_names
    if answer.drawn:
        # Decoded a second time: pixels that are kept while the request waits would be most of the worker's memory.
        (picture,), (outcome,) = body.pictures, found
        assert not isinstance(picture, RequestError)
        with engine.decoding:
            return draw(picture(), outcome.detections, names, answer.media)
    identity = {"model_version": engine.model_version} | ({"variant": options.variant} if options.variant else {})
    documents = [
        {"error": str(outcome), "status": outcome.status}
        if isinstance(outcome, RequestError)
        else json_of(outcome, answer.style, names, identity)
        for outcome in selected
    ]
    return write_json(documents, answer, body.many)
