"""The face of a run's processes, and its simplest case: a process that runs alone.

All code is written once, against :class:`World`; alone, every operation is the identity. Every operation but ``abort``,
``post`` and ``posts`` is collective: all ranks come to it in the same order.
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
    """A mistake that every rank raises at the same point; rank 0 alone tells it."""


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: this process's number among all ``size``, from 0.
        local_rank: its number among the ``local_size`` of its host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: str = "localhost"

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and reports."""
        return self.rank == 0

    def name_of(self, rank: int) -> str:
        """``"rank 1 on algo-2"``."""
        return f"rank {rank} on {self.host}"

    def init(self) -> None:
        """Get TensorFlow ready, before its first operation: this process's GPU with memory growth, and Horovod.

        Raises:
            UserError: an interface that the environment names does not exist; more processes on this host than GPUs; MPI and Horovod
                disagree on the number of processes.
        """
        import tensorflow as tf

        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)

    def average_gradients(
        self, gradients: Sequence[tf.Tensor | None], compression: str = "none"
    ) -> list[tf.Tensor | None]:
        """Mean over the ranks of each tensor, inside a ``tf.function``; ``"fp16"`` halves what travels."""
        return list(gradients)

    def allreduce_sum(self, value: tf.Tensor, name: str) -> tf.Tensor:
        """Sum over the ranks, inside a ``tf.function``; differentiable. ``name`` is unique in a step, and the same on all ranks."""
        return value

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Set Keras or TensorFlow variables to what they are on rank 0."""

    def allgather(self, arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Every rank's arrays, by rank. Lengths may differ between ranks; dtypes and the axes behind the first agree."""
        return [list(arrays)]

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def send_heartbeat(self, stage: int, ticks: int) -> None:
        """Tell rank 0, and as rank 0 all the others, how far this rank is, without waiting for them."""

    def receive_heartbeats(self) -> dict[int, tuple[int, int]]:
        """The last ``(stage, ticks)`` of every rank that posted to this one since the last call, without waiting."""
        return {}

    def is_peer_failure(self, error: BaseException) -> bool:
        """Whether an exception only says that other ranks are gone."""
        return False

    def abort(self, code: int) -> None:
        """End all processes of the run on all hosts, now."""
        sys.stderr.flush()
        os._exit(code)

    def allgather_strings(self, text: str) -> list[str]:
        """Every rank's text, by rank."""
        return [
            bytes(characters).decode() for (characters,) in self.allgather([np.frombuffer(text.encode(), np.uint8)])
        ]

    def allreduce_max(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return max(int(numbers[0]) for (numbers,) in self.allgather([np.array([number], np.int64)]))

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, which must be one that JSON can hold."""
        return json.loads(self.allgather_strings(json.dumps(value if self.is_main else None))[0])

    @contextlib.contextmanager
    def raise_together(self) -> Iterator[None]:
        """What every rank does by itself; a user's mistake on one becomes :class:`AgreedError` on all, naming rank and host.

        Nothing in it may be collective: the rank that made the mistake would not come to it.

        Raises:
            UserError: alone, the mistake itself.
        """
        if self.size == 1:
            yield
            return
        mistake = ""
        try:
            yield
        except UserError as error:
            mistake = str(error)
        mistakes = self.allgather_strings(mistake)
        if not any(mistakes):
            return
        if len(set(mistakes)) == 1:
            raise AgreedError(mistakes[0])
        raise AgreedError("; ".join(f"{self.name_of(rank)}: {text}" for rank, text in enumerate(mistakes) if text))

    def check_consistent(self, facts: Mapping[str, str]) -> None:
        """Check that named texts are the same on all ranks.

        Raises:
            AgreedError: rank and host, the fact, and the texts there and on rank 0.
        """
        first, *others = [json.loads(text) for text in self.allgather_strings(json.dumps(facts))]
        differences = [
            f"{self.name_of(rank)} has {name} {theirs.get(name, 'not at all')}, but {self.name_of(0)} {first.get(name, 'not at all')}"
            for rank, theirs in enumerate(others, start=1)
            for name in first | theirs
            if theirs.get(name) != first.get(name)
        ]
        if differences:
            shown = "; ".join(differences[:4]) + (f"; and {len(differences) - 4} more" if len(differences) > 4 else "")
            raise AgreedError(f"the processes do not work on the same thing: {shown}. Make the hosts alike")

    @contextlib.contextmanager
    def abort_together(self) -> Iterator[None]:
        """Around all of a run: what ends one rank ends all on all hosts, and its message, with rank and host, comes first.

        Alone, exceptions pass through. With others, rank 0 tells an :class:`AgreedError` and every rank leaves with 2; anything
        else is told by the rank it befell, which then ends the others.
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
        except (Exception, KeyboardInterrupt) as error:
            if self.is_peer_failure(error):
                cause = f"{type(error).__name__}: {error}".splitlines()[0]
                print_message(
                    f"{self.name_of(self.rank)}: lost the other ranks ({cause}); the first message, of the rank that ended, says why"
                )
            else:
                print_message(f"{self.name_of(self.rank)}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
            self.abort(EXIT_FAILURE)
