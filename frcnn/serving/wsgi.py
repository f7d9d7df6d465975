"""gunicorn with our app: ``python -m frcnn.serving.wsgi SCRATCH`` is what the supervisor starts."""

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

from frcnn.errors import UserError, print_message
from frcnn.serving.options import ServeOptions
from frcnn.startup import import_tensorflow

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from frcnn.serving.engine import Engine

OPTIONS, MODEL, METRICS, SOCKET = (
    "options.json",
    "model-folder.txt",
    "metrics",
    "gunicorn.sock",
)  # in the scratch folder
SPARE_THREADS = 8  # beyond those that detect: for pings, and to turn callers away
WORKER_DIED = 1

logger = logging.getLogger(__name__)


class Arbiter(gunicorn.arbiter.Arbiter):
    """Ends the server where a worker dies: whoever started it starts it afresh, and nobody takes half of it for the whole."""

    stopping = False

    def stop(self, graceful: bool = True) -> None:
        self.stopping = True
        super().stop(graceful)


class Application(BaseApplication):
    """One endpoint's gunicorn. The app, and with it TensorFlow, is loaded after the fork: neither it nor CUDA survives one."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.options = ServeOptions.from_json((scratch / OPTIONS).read_text())
        self.worker_number = 0
        super().__init__()

    def load_config(self) -> None:
        options = self.options
        settings = {
            "bind": f"unix:{self.scratch / SOCKET}" if options.nginx else address(options),
            "umask": 0,  # nginx's workers are another user where it was started by root
            "workers": options.workers or 1,
            "worker_class": "gthread",
            "threads": options.queue_size + SPARE_THREADS,
            "worker_connections": 2048,
            "backlog": 2048,
            "keepalive": 0 if options.nginx else 5,
            # Of the loop that accepts, not of a request. Importing TensorFlow can hold it up.
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
        return ServingWorker(self.options, self.scratch, self.worker_number)

    def run(self) -> None:
        Arbiter(self).run()


class ServingWorker:
    """The WSGI application of one worker. It answers at once; TensorFlow is imported meanwhile, and then the model loaded."""

    def __init__(self, options: ServeOptions, scratch: Path, number: int) -> None:
        self._options = options
        self._scratch = scratch
        self._number = number
        self._engine: Engine | None = None
        self._app: WSGIApplication | None = None
        threading.Thread(target=self._prepare, name="importing", daemon=True).start()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self._app:
            return self._app(environ, start_response)
        body = json.dumps({"error": "the endpoint is starting", "status": 503}).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Retry-After", "5")]
        start_response("503 Service Unavailable", headers)
        return [body]

    def close(self) -> None:
        """Finish what waits and end the process, past the interpreter's own end, which TensorFlow's threads would not survive."""
        if self._engine and self._engine.loaded:
            self._engine.close()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def _prepare(self) -> None:
        try:
            import_tensorflow()
            from frcnn.serving.engine import Engine
            from frcnn.serving.health import Health
            from frcnn.serving.predictor import create_app

            _use_one_gpu(self._number)
            health = Health(self._scratch, self._number, self._options.workers or 1)
            self._engine = Engine(self._options, Path((self._scratch / MODEL).read_text()), health, give_up)
            self._app = create_app(self._options, self._engine, health, self._scratch / METRICS)
        except UserError as error:
            give_up(str(error))
        except Exception as error:
            logger.exception("the worker cannot be started")
            give_up(f"the worker cannot be started: {type(error).__name__}")


def address(options: ServeOptions) -> str:
    """``bind:port`` as nginx and gunicorn write it."""
    return f"[{options.bind}]:{options.port}" if ":" in options.bind else f"{options.bind}:{options.port}"


def _use_one_gpu(worker_number: int) -> None:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        own = gpus[worker_number % len(gpus)]
        tf.config.set_visible_devices(own, "GPU")
        tf.config.experimental.set_memory_growth(own, True)


def give_up(sentence: str) -> None:
    """Without a model there is nothing to stay up for. This exit code makes gunicorn end as a whole."""
    print_message(sentence)
    os._exit(gunicorn.arbiter.Arbiter.APP_LOAD_ERROR)


def _post_fork(arbiter: Arbiter, worker: Any) -> None:
    worker.app.worker_number = worker.age - 1  # a dead worker is not replaced, so these are 0, 1, 2, …


def _child_exit(arbiter: Arbiter, worker: Any) -> None:
    if not arbiter.stopping:
        raise HaltServer(f"worker {worker.pid} died", WORKER_DIED)


def _worker_exit(arbiter: Arbiter, worker: Any) -> None:
    if worker.wsgi is not None:  # None where it ends before it has begun
        worker.wsgi.close()


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies, however that happens. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main(scratch: Path) -> None:
    end_with_parent()
    # Before prometheus_client is imported, which looks at it then.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(scratch / METRICS)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="frcnn: %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every canvas that is traced, which is meant
    Application(scratch).run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
