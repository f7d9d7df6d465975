"""How the hosts of a job report to each other: process 1 of every worker keeps a TCP connection to that of the leader.

A worker reports when it is ready and how it ended; the leader reports how the job ended. So a failure on one host ends
all within seconds, with its reason. Messages are JSON lines, authenticated by HMAC with a key that only the job's hosts
derive. TCP keepalive detects a host that disappears without closing its connections.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from frcnn.container.failure import Failure
from frcnn.errors import UserError

PORT = 12322
CONNECT_SECONDS = 2.0
RETRY_SECONDS = 0.3
REPORT_SECONDS = 60.0  # in which a worker that failed tries to reach the leader
ANNOUNCE_SECONDS = 10.0  # in which the leader waits until the workers know how the job ended
MAX_LINE = 1 << 16  # bytes of a message; a failure has at most 1 KiB of text
# A host without network is detected after 4 + 3*2 seconds.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 4), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3))


@dataclass(frozen=True)
class Outcome:
    """How a host or the job ended: an exit code, and the reason of a failure."""

    code: int
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "failure": asdict(self.failure) if self.failure else None}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Outcome:
        """Raises KeyError, TypeError or ValueError for anything else than :meth:`to_json` returns."""
        return cls(int(content["code"]), Failure.from_json(content["failure"]) if content["failure"] else None)


class _Channel:
    """Authenticated messages; each is bound to a random number of its receiver, so that none can be replayed."""

    def __init__(self, connection: socket.socket, key: bytes, sender: bytes, receiver: bytes) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self._connection, self._file = connection, connection.makefile("rb")
        self._key, self._sender, self._receiver = key, sender, receiver
        self._nonce = secrets.token_hex(16).encode()
        connection.sendall(self._nonce + b"\n")
        self._peer_nonce = self._file.readline(MAX_LINE).strip()

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        self._connection.sendall(self._code(self._sender, self._peer_nonce, text) + b" " + text + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """The next message, None at the end of the connection.

        Raises:
            OSError: the connection was lost, or the message is not from a host of the job.
        """
        line = self._file.readline(MAX_LINE)
        if not line:
            return None
        code, _, text = line.rstrip(b"\n").partition(b" ")
        if not hmac.compare_digest(code, self._code(self._receiver, self._nonce, text)):
            raise ConnectionError("a message that is not authentic")
        try:
            message: dict[str, Any] = json.loads(text)
        except RecursionError as error:
            raise ConnectionError("a message that is nested too deeply") from error
        return message

    def _code(self, sender: bytes, nonce: bytes, text: bytes) -> bytes:
        return hmac.new(self._key, b"\0".join((sender, nonce, text)), "sha256").hexdigest().encode()


@dataclass
class WorkerStatus:
    """What the leader knows about a worker; ``since`` is the time of the last change of ``connected``."""

    connected: bool = False
    was_connected: bool = False
    ready: bool = False
    end: Outcome | None = None
    since: float = 0.0


class WorkerReports:
    """The leader's side: collects the workers' reports and announces how the job ended.

    Raises:
        UserError: the port is in use.
    """

    def __init__(self, workers: Sequence[str], key: bytes, port: int = PORT) -> None:
        self._key = key
        self._condition = threading.Condition()
        self._outcome: Outcome | None = None
        self._channels: dict[str, _Channel] = {}
        self.workers = {host: WorkerStatus(since=time.monotonic()) for host in workers}
        try:
            self._listener = socket.create_server(("", port), backlog=128)
        except OSError as error:
            raise UserError(
                f"port {port}, on which the hosts report to the leader, cannot be opened ({error.strerror}); stop the "
                "program that uses it"
            ) from error
        threading.Thread(target=self._accept, name="worker reports", daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def announce(self, outcome: Outcome, seconds: float = ANNOUNCE_SECONDS) -> None:
        """Tell all workers how the job ended; returns when they have closed their connections, or after ``seconds``."""
        with self._condition:
            self._outcome = outcome
            for channel in self._channels.values():
                with contextlib.suppress(OSError):
                    channel.send(outcome.to_json())
            self._condition.wait_for(
                lambda: all(
                    status.end or (status.was_connected and not status.connected) for status in self.workers.values()
                ),
                timeout=seconds,
            )
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        host = channel = None
        with connection, contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            channel = _Channel(connection, self._key, b"leader", b"worker")
            while message := channel.receive():
                host = str(message["host"])
                self._update(host, channel, message)
                if message["end"]:
                    break  # closing the connection acknowledges the report
        with self._condition:
            if host is not None and self._channels.get(host) is channel:  # not replaced by a new connection
                del self._channels[host]
                self.workers[host].connected, self.workers[host].since = False, time.monotonic()
                self._condition.notify_all()

    def _update(self, host: str, channel: _Channel, message: dict[str, Any]) -> None:
        with self._condition:
            status = self.workers[host]
            status.ready = bool(message["ready"])
            status.end = Outcome.from_json(message["end"]) if message["end"] else None
            if self._channels.get(host) is not channel:
                self._channels[host] = channel
                status.connected, status.was_connected, status.since = True, True, time.monotonic()
                if self._outcome:
                    channel.send(self._outcome.to_json())
            self._condition.notify_all()


class LeaderConnection:
    """A worker's side: reports to the leader, and receives how the job ended.

    Attributes:
        outcome: how the job ended, None until the leader has announced it.
        was_connected: whether the leader has ever been reached.
    """

    def __init__(self, leader: str, host: str, key: bytes, port: int = PORT) -> None:
        self.outcome: Outcome | None = None
        self.was_connected = False
        self._address, self._host, self._key = (leader, port), host, key
        self._condition = threading.Condition()
        self._channel: _Channel | None = None
        self._since = time.monotonic()
        self._ready = False
        self._end: Outcome | None = None
        self._end_delivered = False
        threading.Thread(target=self._run, name="leader connection", daemon=True).start()

    def seconds_without_leader(self) -> float:
        """Since the connection was lost, or since the start; 0 while connected."""
        with self._condition:
            return 0.0 if self._channel else time.monotonic() - self._since

    def report_ready(self) -> None:
        """Report that this host has prepared the job."""
        if not self._ready:
            self._ready = True
            self._send()

    def report_end(self, outcome: Outcome, seconds: float = REPORT_SECONDS) -> None:
        """Report how this host ended; returns when the leader has received it, or after ``seconds``."""
        self._end = outcome
        self._send()
        with self._condition:
            self._condition.wait_for(lambda: self._end_delivered or self.outcome, timeout=seconds)

    def wait(self, seconds: float) -> Outcome | None:
        """Wait for the leader's announcement; None if there is none within ``seconds``."""
        with self._condition:
            self._condition.wait_for(lambda: self.outcome, timeout=seconds)
        return self.outcome

    def _send(self) -> None:
        with self._condition, contextlib.suppress(OSError):
            if self._channel:
                end = self._end.to_json() if self._end else None
                self._channel.send({"host": self._host, "ready": self._ready, "end": end})

    def _run(self) -> None:
        while not self.outcome and not self._end_delivered:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                self._talk()
            time.sleep(RETRY_SECONDS)

    def _talk(self) -> None:
        with socket.create_connection(self._address, timeout=CONNECT_SECONDS) as connection:
            channel = _Channel(connection, self._key, b"worker", b"leader")
            connection.settimeout(None)
            with self._condition:
                self._channel, self.was_connected = channel, True
            self._send()
            try:
                if message := channel.receive():
                    self.outcome = Outcome.from_json(message)
                else:  # closed after a report of the end; otherwise the leader is lost
                    self._end_delivered = self._end is not None
            finally:
                with self._condition:
                    self._channel, self._since = None, time.monotonic()
                    self._condition.notify_all()
