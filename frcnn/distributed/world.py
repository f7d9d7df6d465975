"""Interface to the processes of a run, and its simplest implementation: a single process.

All code is written once, against :class:`World`; in a single process, every operation is the identity. Every operation
but ``abort``, ``send_heartbeat`` and ``receive_heartbeats`` is collective: all ranks call them in the same order.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from frcnn.errors import EXIT_FAILURE, EXIT_USER_ERROR, UserError, print_message

if TYPE_CHECKING:
    import tensorflow as tf


class AgreedError(UserError):
    """An error that every rank raises at the same point; only rank 0 prints it."""


@dataclass(frozen=True)
class World:
    """The processes of a run, as seen by one of them.

    Attributes:
        rank: index of this process among all ``size`` processes.
        local_rank: its index among the ``local_size`` processes of its host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: str = "localhost"

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that writes files and reports."""
        return self.rank == 0

    def name_of(self, rank: int) -> str:
        """``"rank 1 on algo-2"``."""
        return f"rank {rank} on {self.host}"

    def init(self) -> None:
        """Initialize TensorFlow and Horovod before the first operation; select this process's GPU, with memory growth.

        Raises:
            UserError: a network interface set in the environment does not exist; more processes than GPUs on this host;
                MPI and Horovod disagree on the number of processes.
        """
        import tensorflow as tf

        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)

    def average_gradients(
        self, gradients: Sequence[tf.Tensor | None], compression: str = "none"
    ) -> list[tf.Tensor | None]:
        """Mean of each tensor over the ranks, inside a ``tf.function``; ``"fp16"`` sends them as float16."""
        return list(gradients)

    def allreduce_sum(self, value: tf.Tensor, name: str) -> tf.Tensor:
        """Differentiable sum over the ranks, inside a ``tf.function``; ``name`` is unique in a step."""
        return value

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Set Keras or TensorFlow variables to their values on rank 0."""

    def allgather(self, arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """The arrays of all ranks, by rank. The first axis may differ between ranks; dtypes and other axes may not."""
        return [list(arrays)]

    def barrier(self) -> None:
        """Wait until all ranks have called this."""

    def send_heartbeat(self, stage: int, ticks: int) -> None:
        """Send this rank's progress to rank 0, or from rank 0 to all others, without waiting for them."""

    def receive_heartbeats(self) -> dict[int, tuple[int, int]]:
        """The latest ``(stage, ticks)`` of each rank that sent one since the last call, without waiting."""
        return {}

    def is_peer_failure(self, error: BaseException) -> bool:
        """Whether an exception is only the consequence of another rank's exit."""
        return False

    def abort(self, code: int) -> None:
        """Kill all processes of the run on all hosts at once."""
        sys.stderr.flush()
        os._exit(code)

    def allgather_strings(self, text: str) -> list[str]:
        """The texts of all ranks, by rank."""
        return [
            bytes(characters).decode() for (characters,) in self.allgather([np.frombuffer(text.encode(), np.uint8)])
        ]

    def allreduce_max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return max(int(numbers[0]) for (numbers,) in self.allgather([np.array([number], np.int64)]))

    def broadcast_object(self, value: Any) -> Any:
        """The value of rank 0, which must be serializable as JSON."""
        return json.loads(self.allgather_strings(json.dumps(value if self.is_main else None))[0])

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """Context manager: a UserError on any rank becomes :class:`AgreedError` on all, naming rank and host.

        Nothing inside may be collective, because a rank that fails would not take part in it.

        Raises:
            UserError: in a world of one process, the error itself.
        """
        if self.size == 1:
            yield
            return
        message = ""
        try:
            yield
        except UserError as error:
            message = str(error)
        messages = self.allgather_strings(message)
        if not any(messages):
            return
        if len(set(messages)) == 1:
            raise AgreedError(messages[0])
        raise AgreedError("; ".join(f"{self.name_of(rank)}: {text}" for rank, text in enumerate(messages) if text))

    def check_consistent(self, signature: Mapping[str, str]) -> None:
        """Check that named texts are the same on all ranks.

        Raises:
            AgreedError: names rank, host and entry, with the texts there and on rank 0.
        """
        first, *others = [json.loads(text) for text in self.allgather_strings(json.dumps(signature))]
        differences = [
            f"{name} is {theirs.get(name, 'missing')} on {self.name_of(rank)}, but {first.get(name, 'missing')} on "
            f"{self.name_of(0)}"
            for rank, theirs in enumerate(others, start=1)
            for name in first | theirs
            if theirs.get(name) != first.get(name)
        ]
        if differences:
            shown = "; ".join(differences[:4]) + (f"; and {len(differences) - 4} more" if len(differences) > 4 else "")
            raise AgreedError(f"the processes differ: {shown}. Use the same software, options and data on all hosts")

    @contextlib.contextmanager
    def abort_together(self) -> Iterator[None]:
        """Context manager around a run: an exception on one rank ends all ranks, and its message is printed first.

        In a world of one process, exceptions pass through. Otherwise rank 0 prints an :class:`AgreedError` and every
        rank exits with 2; any other exception is reported by the rank that raised it, which then aborts the job.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except AgreedError as error:
            if self.is_main:
                print_message(str(error))
            self.barrier()
            raise SystemExit(EXIT_USER_ERROR) from None
        except UserError as error:
            print_message(f"{self.name_of(self.rank)}: {error}")
            self.abort(EXIT_USER_ERROR)
        except SystemExit as error:  # a signal in start-up, while the others may wait for this rank
            self.abort(error.code if isinstance(error.code, int) else EXIT_FAILURE)
        except (Exception, KeyboardInterrupt) as error:
            if self.is_peer_failure(error):
                cause = f"{type(error).__name__}: {error}".splitlines()[0]
                print_message(
                    f"{self.name_of(self.rank)}: lost the other ranks ({cause}); see the first "
                    "message, of the rank that failed"
                )
            else:
                print_message(f"{self.name_of(self.rank)}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
            self.abort(EXIT_FAILURE)
