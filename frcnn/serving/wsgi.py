"""gunicorn with the Flask app; the supervisor starts it as ``python -m frcnn.serving.wsgi SCRATCH``."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gunicorn.arbiter
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer

from frcnn.errors import EXIT_FAILURE, UserError, print_message
from frcnn.serving.scratch import METRICS, SOCKET, Settings, listen_address, read_settings
from frcnn.startup import import_tensorflow

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from frcnn.serving.engine import Engine

SPARE_THREADS = 8  # besides one per admitted request: for pings, and to reject requests
PR_SET_PDEATHSIG = 1  # of Linux' prctl(2)

logger = logging.getLogger(__name__)


class Arbiter(gunicorn.arbiter.Arbiter):
    """Exits when a worker dies, so that the supervisor restarts it instead of serving at reduced capacity."""

    stopping = False

    def stop(self, graceful: bool = True) -> None:
        self.stopping = True
        super().stop(graceful)


class Application(BaseApplication):
    """gunicorn of one endpoint. Each worker imports TensorFlow after the fork: neither it nor CUDA survives a fork."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.settings = read_settings(scratch)
        self.worker_number = 0
        super().__init__()

    def load_config(self) -> None:
        options = self.settings.options
        settings = {
            "bind": f"unix:{self.settings.shared / SOCKET}" if options.nginx else listen_address(options),
            "umask": 0,  # nginx's workers may run as another user; no one else can open the socket's folder
            "workers": options.workers or 1,
            "worker_class": "frcnn.serving.gunicorn_worker.Worker",
            "threads": options.queue_size + SPARE_THREADS,
            "worker_connections": 2048,
            "backlog": 2048,
            "keepalive": 0 if options.nginx else 5,
            # Of the accept loop, not of a request. Importing TensorFlow can block the loop.
            "timeout": 120,
            "graceful_timeout": int(options.drain_timeout),
            "worker_tmp_dir": str(self.scratch),
            "control_socket_disable": True,
            "loglevel": "warning",
            "proc_name": "frcnn-serve",
            "post_fork": _post_fork,
            "child_exit": _child_exit,
            "worker_exit": _worker_exit,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> ServingWorker:
        return ServingWorker(self.settings, self.scratch, self.worker_number)

    def run(self) -> None:
        Arbiter(self).run()


class ServingWorker:
    """The WSGI application of one worker. It responds with 503 while TensorFlow is imported in the background."""

    def __init__(self, settings: Settings, scratch: Path, number: int) -> None:
        self._settings = settings
        self._scratch = scratch
        self._number = number
        self._engine: Engine | None = None
        self._app: WSGIApplication | None = None
        threading.Thread(target=self._create_app, name="importing", daemon=True).start()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._app:
            return self._app(environ, start_response)
        body = json.dumps({"error": "the endpoint is starting", "status": 503}).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Retry-After", "5")]
        start_response("503 Service Unavailable", headers)
        return [body]

    def close(self) -> None:
        """Run the queued images and exit at once: TensorFlow's threads can crash an interpreter that shuts down."""
        if self._engine and self._engine.loaded:
            self._engine.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def _create_app(self) -> None:
        try:
            import_tensorflow()
            from frcnn.serving.engine import Engine
            from frcnn.serving.health import Health
            from frcnn.serving.predictor import create_app

            _use_one_gpu(self._number)
            options = self._settings.options
            health = Health(self._scratch, self._number, options.workers or 1)
            self._engine = Engine(options, self._settings.model, health, exit_worker)
            self._app = create_app(options, self._engine, health, self._scratch / METRICS)
        except UserError as error:
            exit_worker(str(error))
        except Exception as error:
            logger.exception("the worker failed to start")
            exit_worker(f"the worker failed to start: {type(error).__name__}")


def _use_one_gpu(worker_number: int) -> None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        gpu = gpus[worker_number % len(gpus)]
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.set_memory_growth(gpu, True)


def exit_worker(message: str) -> None:
    """Exit with the code that makes gunicorn exit as a whole."""
    print_message(message)
    os._exit(gunicorn.arbiter.Arbiter.APP_LOAD_ERROR)


def _post_fork(arbiter: Arbiter, worker: Any) -> None:
    worker.app.worker_number = worker.age - 1  # 0, 1, 2, …: a dead worker is never replaced


def _child_exit(arbiter: Arbiter, worker: Any) -> None:
    if not arbiter.stopping:
        raise HaltServer(f"worker {worker.pid} died", EXIT_FAILURE)


def _worker_exit(arbiter: Arbiter, worker: Any) -> None:
    if worker.wsgi is not None:  # None if the worker exits before it has loaded the app
        worker.wsgi.close()


def terminate_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies, even by SIGKILL. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(scratch: Path) -> None:
    terminate_with_parent()
    # prometheus_client reads this when it is imported.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(scratch / METRICS)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="frcnn: %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns about tracing every canvas, which is intended
    Application(scratch).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
