"""The Flask app: routes, limits on requests in flight, and errors as JSON."""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask, Response, g, request, send_from_directory
from werkzeug.exceptions import HTTPException

from frcnn import __version__
from frcnn.serving import metrics
from frcnn.serving.custom_attributes import CUSTOM_ATTRIBUTES, response_attributes
from frcnn.serving.engine import Engine
from frcnn.serving.health import Health
from frcnn.serving.invocation import handle_invocation
from frcnn.serving.options import ServeOptions
from frcnn.serving.page_settings import page_settings
from frcnn.serving.receiving import check_length, drain
from frcnn.serving.request_error import RequestError
from frcnn.serving.request_log import RequestRecord

MEBIBYTE = 1 << 20
BODIES_IN_MEMORY = 8  # of the maximum size, or more of smaller ones
REQUEST_ID_HEADERS = ("X-Amzn-SageMaker-Inference-Id", "X-Request-Id")
TRANSFORM_PAYLOAD_MB = 6  # batch transform's default
MAX_TRANSFORM_MB = 100  # SageMaker's limit for all concurrent payloads together

PAGE = Path(__file__).parent / "page"
OPENAPI = Path(__file__).parent / "openapi.json"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
LOCAL_ADDRESSES = ("", "127.0.0.1", "::1")  # "": through nginx's socket, and nginx admits only local clients

logger = logging.getLogger(__name__)


class Admission:
    """Limits the requests, and the bytes of their bodies, that a worker handles at a time."""

    def __init__(self, requests: int, size: int) -> None:
        self._requests = requests
        self._size = size
        self._lock = threading.Lock()

    @contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Count a request of ``size`` bytes while inside. Raises RequestError (503) if it exceeds a limit."""
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
    app.url_map.redirect_defaults = False
    admission = Admission(options.queue_size, BODIES_IN_MEMORY * options.max_body_mb * MEBIBYTE)
    _register_error_handlers(app)

    @app.get("/ping")
    def ping() -> Response:
        reason = engine.unhealthy_reason() or health.unhealthy_reason()
        return _error_response(503, reason, retry_after=5) if reason else Response(status=200)

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
        except RequestError as error:
            response = _error_response(error.status, str(error), error.retry_after)
        except HTTPException as error:
            response = _http_error_response(error)
        except Exception:
            logger.exception("request %s failed", record.request_id)
            response = _error_response(500, "internal server error; see the endpoint log for this request_id")
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
        if (request.remote_addr or "") not in LOCAL_ADDRESSES:
            return _error_response(404, "not found")
        return Response(metrics.expose(metrics_folder), content_type="text/plain; version=0.0.4; charset=utf-8")

    if options.page:
        _add_page(app, engine)
    return app


def _invoke(options: ServeOptions, engine: Engine, admission: Admission, record: RequestRecord) -> Response:
    limit = options.max_body_mb * MEBIBYTE
    try:
        size = check_length(request, limit)
        with admission.admit(size):
            return handle_invocation(request, engine, options, record)
    finally:
        # A proxy may still be sending the body, and would report a closed socket as a failure.
        drain(request, limit)


def _finish(response: Response, record: RequestRecord, options: ServeOptions, engine: Engine) -> None:
    """Add the identifying headers, write the log line, and count the request."""
    version = getattr(engine, "model_version", "")
    response.headers["X-Request-Id"] = record.request_id
    response.headers["X-Model-Version"] = version
    # The only header that SageMaker passes on to the client.
    own = {"model_version": version} | ({"variant": options.variant} if options.variant else {})
    if "score_threshold" in record.fields:
        own["score_threshold"] = record.fields["score_threshold"]
    response.headers[CUSTOM_ATTRIBUTES] = response_attributes(request.headers.get(CUSTOM_ATTRIBUTES, ""), own)
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
    """The client's request id if it is safe to log, or a new one."""
    for header in REQUEST_ID_HEADERS:
        given = request.headers.get(header, "")
        if re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", given):
            return given
    return uuid.uuid4().hex


def _error_response(status: int, message: str, retry_after: int | None = None) -> Response:
    """``{"error": message, "status": status}``, with the request's id if it has one."""
    document: dict[str, str | int] = {"error": message, "status": status}
    if "record" in g:
        document["request_id"] = g.record.request_id
        g.record.fields["error"] = message
    response = Response(json.dumps(document) + "\n", status, content_type="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def _http_error_response(error: HTTPException) -> Response:
    response = _error_response(error.code or 500, error.description or error.name)
    for name, value in error.get_headers():
        if name == "Allow":
            response.headers[name] = value
    return response


def _register_error_handlers(app: Flask) -> None:
    app.register_error_handler(HTTPException, _http_error_response)

    def internal_error(error: Exception) -> Response:
        logger.exception("%s %s failed", request.method, request.path)
        return _error_response(500, f"internal server error ({type(error).__name__}); see the endpoint log")

    app.register_error_handler(Exception, internal_error)


def _add_page(app: Flask, engine: Engine) -> None:
    """The page for trying the model in a browser; it loads nothing from other hosts."""

    @app.get("/page/settings.json")
    def settings() -> Response:
        if not engine.loaded:
            return _error_response(503, engine.unhealthy_reason() or "the model is being loaded", retry_after=5)
        return Response(json.dumps(page_settings(engine.detector)), content_type="application/json")

    @app.get("/", defaults={"name": "index.html"})
    @app.get("/page/<name>")
    def page(name: str) -> Response:
        response = send_from_directory(PAGE, name)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
