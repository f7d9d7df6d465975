"""The Flask app: content types in, answers out, and a reason for every refusal."""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flask import Flask, Response, g, request, send_from_directory
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from frcnn import __version__
from frcnn.serving import metrics
from frcnn.serving.engine import Engine
from frcnn.serving.health import Health
from frcnn.serving.invocation import detect_and_answer
from frcnn.serving.options import ServeOptions
from frcnn.serving.request_error import RequestError
from frcnn.serving.request_log import RequestRecord
from frcnn.serving.selection import CUSTOM_ATTRIBUTES

MEBIBYTE = 1 << 20
BODIES_IN_MEMORY = 8  # of the largest size; smaller ones accordingly more
REQUEST_ID_HEADERS = ("X-Amzn-SageMaker-Inference-Id", "X-Request-Id")
TRANSFORM_PAYLOAD_MB = 6  # batch transform's own default
MAX_TRANSFORM_MB = 100  # of all its concurrent payloads together, by SageMaker's rule

PAGE = Path(__file__).parent / "page"
OPENAPI = Path(__file__).parent / "openapi.json"
LOCAL = ("", "127.0.0.1", "::1")  # no address: nginx, over a socket, which lets only local callers through

logger = logging.getLogger(__name__)


class Admission:
    """How many requests, and how many bytes of them, a worker takes in at a time."""

    def __init__(self, requests: int, size: int) -> None:
        self._requests = requests
        self._size = size
        self._lock = threading.Lock()

    @contextmanager
    def of(self, size: int) -> Iterator[None]:
        """Inside, the request counts. Raises RequestError (503) where there is no room for it."""
        with self._lock:
            if self._requests < 1 or self._size < size:
                raise RequestError(503, "the endpoint is busy; try again", retry_after=1)
            self._requests -= 1
            self._size -= size
        try:
            yield
        finally:
            with self._lock:
                self._requests += 1
                self._size += size


def create_app(options: ServeOptions, engine: Engine, health: Health, metrics_folder: Path) -> Flask:
    """The WSGI application of one worker."""
    app = Flask("frcnn.serving", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = options.max_body_mb * MEBIBYTE
    app.url_map.redirect_defaults = False
    admission = Admission(options.queue_size, BODIES_IN_MEMORY * options.max_body_mb * MEBIBYTE)
    _answer_errors_in_json(app)

    @app.get("/ping")
    def ping() -> Response:
        trouble = engine.unhealthy_reason() or health.unhealthy_reason()
        return _problem(503, trouble, retry_after=5) if trouble else Response(status=200)

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        concurrent = min(
            2 * (options.max_batch or 1) * (options.workers or 1), MAX_TRANSFORM_MB // TRANSFORM_PAYLOAD_MB
        )
        parameters = {
            "MaxConcurrentTransforms": concurrent,
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": TRANSFORM_PAYLOAD_MB,
        }
        return Response(json.dumps(parameters), content_type="application/json")

    @app.post("/invocations")
    def invocations() -> Response:
        record = RequestRecord(_request_id())
        g.record = record
        record.fields["bytes_in"] = request.content_length
        try:
            metrics.IN_FLIGHT.inc()
            response = _invoke(options, engine, admission, record)
        except RequestError as refusal:
            response = _problem(refusal.status, str(refusal), refusal.retry_after)
        except HTTPException as error:
            response = _http_problem(error)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            response = _problem(500, "the request failed inside the endpoint; its log says more under this request_id")
        finally:
            metrics.IN_FLIGHT.dec()
        _finish(response, record, options, engine)
        return response

    @app.get("/openapi.json")
    def openapi() -> Response:
        document = json.loads(OPENAPI.read_text())
        document["info"]["version"] = __version__
        return Response(json.dumps(document), content_type="application/json")

    @app.get("/metrics")
    def read_metrics() -> Response:
        if (request.remote_addr or "") not in LOCAL:
            return _problem(404, "there is nothing here")
        return Response(metrics.expose(metrics_folder), content_type="text/plain; version=0.0.4; charset=utf-8")

    if options.page:
        _serve_page(app)
    return app


def _invoke(options: ServeOptions, engine: Engine, admission: Admission, record: RequestRecord) -> Response:
    size = request.content_length
    limit = options.max_body_mb * MEBIBYTE
    if size is not None and size > limit:
        raise RequestEntityTooLarge
    try:
        with admission.of(limit if size is None else size):
            return detect_and_answer(request, engine, options, record)
    finally:
        # A server in front may still be sending, and would take a closed socket for a failure.
        _drain()


def _drain() -> None:
    with suppress(HTTPException, OSError, ValueError):
        while request.stream.read(MEBIBYTE):
            pass


def _finish(response: Response, record: RequestRecord, options: ServeOptions, engine: Engine) -> None:
    """Names on the answer, the line in the log, and what is counted."""
    version = getattr(engine, "model_version", "")
    response.headers["X-Request-Id"] = record.request_id
    response.headers["X-Model-Version"] = version
    # SageMaker hands this header alone through to the caller.
    attributes = request.headers.get(CUSTOM_ATTRIBUTES, "")
    own = [f"model_version={version}", *([f"variant={options.variant}"] if options.variant else [])]
    response.headers[CUSTOM_ATTRIBUTES] = ",".join([*([attributes] if attributes else []), *own])
    record.fields |= {"bytes_out": response.content_length, "model_version": version}
    if options.variant:
        response.headers["X-Variant"] = options.variant
        record.fields["variant"] = options.variant
    record.write(response.status_code)
    metrics.REQUESTS.labels(str(response.status_code), version).inc()
    metrics.REQUEST_SECONDS.observe(record.elapsed())
    for stage, seconds in record.seconds.items():
        metrics.STAGE_SECONDS.labels(stage).observe(seconds)


def _request_id() -> str:
    """The caller's, where it is a plain one, or a new one."""
    for header in REQUEST_ID_HEADERS:
        given = request.headers.get(header, "")
        if re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", given):
            return given
    return uuid.uuid4().hex


def _problem(status: int, sentence: str, retry_after: int | None = None) -> Response:
    """RequestError in JSON: ``{"error": sentence, "status": status}``, and the request's id where it has one."""
    document: dict[str, str | int] = {"error": sentence, "status": status}
    if "record" in g:
        document["request_id"] = g.record.request_id
        g.record.fields["error"] = sentence
    response = Response(json.dumps(document) + "\n", status, content_type="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _http_problem(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        return _problem(413, "the body is larger than this endpoint takes")
    response = _problem(error.code or 500, error.description or error.name)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _answer_errors_in_json(app: Flask) -> None:
    app.register_error_handler(HTTPException, _http_problem)

    def unexpected(error: Exception) -> Response:
        logger.exception("%s %s failed", request.method, request.path)
        return _problem(500, f"the endpoint failed; its log says more ({type(error).__name__})")

    app.register_error_handler(Exception, unexpected)


def _serve_page(app: Flask) -> None:
    """The page on which a person drops a picture; it needs nothing from elsewhere."""
    policy = (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
    )

    @app.get("/", defaults={"name": "index.html"})
    @app.get("/page/<name>")
    def page(name: str) -> Response:
        response = send_from_directory(PAGE, name)
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
