"""World of several processes: Horovod for the tensors of a step, mpi4py buffers for what is exchanged between steps."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from frcnn.distributed.interfaces import check_interfaces
from frcnn.distributed.world import World
from frcnn.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

# Gradients reduced in one operation: enough for full bandwidth, few enough to start while the others are still
# computed.
BUCKET_BYTES = 32 << 20
INSTALL = "run scripts/build_horovod.sh --install"
_HEARTBEAT_TAG = 7


@dataclass(frozen=True)
class MPIWorld(World):
    """The processes of one MPI communicator.

    Attributes:
        communicator: a duplicate of mpi4py's ``COMM_WORLD``, used by nothing else.
        hosts: host name of each rank.
    """

    communicator: Any = None
    hosts: tuple[str, ...] = ()
    _unsent: list[tuple[Any, np.ndarray]] = field(default_factory=list)

    def name_of(self, rank: int) -> str:
        return f"rank {rank} on {self.hosts[rank]}"

    def init(self) -> None:
        with self.raise_together():
            check_interfaces()
        import tensorflow as tf

        self._pin_gpu()
        super().init()
        # Which gradients Horovod finds ready at a time varies between runs; fusing them accordingly would change the
        # order of summation, and with it the last digit.
        os.environ.setdefault("HOROVOD_DISABLE_GROUP_FUSION", "1")
        # Horovod's background thread polls all ranks every millisecond, on a CPU on the cores that compute.
        if not tf.config.get_visible_devices("GPU"):
            os.environ.setdefault("HOROVOD_CYCLE_TIME", "10")
        hvd = _horovod()
        hvd.init()
        if not hvd.mpi_enabled() or hvd.size() != self.size:
            raise UserError(
                f"Horovod counts {hvd.size()} processes, but MPI counts {self.size}: Horovod was built without MPI; "
                f"{INSTALL}"
            )

    def _pin_gpu(self) -> None:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        visible = self.allgather_strings(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        of_this_host = [devices for devices, host in zip(visible, self.hosts, strict=True) if host == self.host]
        given_by_launcher = len(gpus) == 1 and len(set(of_this_host)) == self.local_size  # each sees a different one
        if not gpus or given_by_launcher:
            return
        if self.local_size > len(gpus):
            raise UserError(
                f"{self.host} has {len(gpus)} GPUs for {self.local_size} processes; start one process per GPU"
            )
        tf.config.set_visible_devices(gpus[self.local_rank], "GPU")

    def average_gradients(
        self, gradients: Sequence[tf.Tensor | None], compression: str = "none"
    ) -> list[tf.Tensor | None]:
        import tensorflow as tf

        hvd = _horovod()
        dense = {
            number: tf.convert_to_tensor(gradient) for number, gradient in enumerate(gradients) if gradient is not None
        }
        averaged: list[tf.Tensor | None] = [None] * len(gradients)
        # The backward pass ends with the first layers. A bucket's all-reduce depends on its own gradients alone, so
        # that those of the last layers overlap with the rest of the backward pass.
        sizes = {number: dense[number].shape.num_elements() * 4 for number in reversed(dense)}
        for count, bucket in enumerate(buckets(sizes, BUCKET_BYTES)):
            # Divide before the sum: it then stays in float16's range whenever the mean does. Horovod does not support
            # bfloat16.
            parts = [
                tf.cast(dense[number], tf.float16 if compression == "fp16" else tf.float32) / self.size
                for number in bucket
            ]
            for number, total in zip(
                bucket, hvd.grouped_allreduce(parts, op=hvd.Sum, name=f"gradients.{count}"), strict=True
            ):
                averaged[number] = tf.cast(total, dense[number].dtype)
        return averaged

    def allreduce_sum(self, value: tf.Tensor, name: str) -> tf.Tensor:
        hvd = _horovod()
        return hvd.allreduce(value, op=hvd.Sum, name=name)

    def broadcast(self, variables: Sequence[Any]) -> None:
        for variable in variables:
            values = np.array(variable.numpy())
            self.communicator.Bcast(_bytes_of(values), root=0)
            if not self.is_main:
                variable.assign(values)

    def allgather(self, arrays: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        columns = [self._gather_one(np.ascontiguousarray(array)) for array in arrays]
        return [[column[rank] for column in columns] for rank in range(self.size)]

    def _gather_one(self, array: np.ndarray) -> list[np.ndarray]:
        lengths = np.empty(self.size, np.int64)
        self.communicator.Allgather(np.array([len(array)], np.int64), lengths)
        everyone = np.empty((lengths.sum(), *array.shape[1:]), array.dtype)
        row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        self.communicator.Allgatherv(_bytes_of(array), [_bytes_of(everyone), lengths * row_bytes])
        return np.split(everyone, np.cumsum(lengths)[:-1])

    def barrier(self) -> None:
        self.communicator.Barrier()

    def send_heartbeat(self, stage: int, ticks: int) -> None:
        from mpi4py import MPI

        message = np.array([stage, ticks], np.int64)
        # A peer may have exited; mpirun then ends this process in a moment.
        with contextlib.suppress(MPI.Exception):
            # MPI reads the buffer until the send is complete: keep it alive until then.
            self._unsent[:] = [(request, buffer) for request, buffer in self._unsent if not request.Test()]
            for rank in range(self.size) if self.is_main else [0]:
                self._unsent.append((self.communicator.Isend(message, dest=rank, tag=_HEARTBEAT_TAG), message))

    def receive_heartbeats(self) -> dict[int, tuple[int, int]]:
        from mpi4py import MPI

        status, latest = MPI.Status(), {}
        while self.communicator.Iprobe(source=MPI.ANY_SOURCE, tag=_HEARTBEAT_TAG, status=status):
            message = np.empty(2, np.int64)
            self.communicator.Recv(message, source=status.Get_source(), tag=_HEARTBEAT_TAG)
            latest[status.Get_source()] = (int(message[0]), int(message[1]))
        return latest

    def is_peer_failure(self, error: BaseException) -> bool:
        from mpi4py import MPI

        return (
            isinstance(error, MPI.Exception)
            or "Horovod has been shut down" in str(error)
            or "see MPI output for details" in str(error)
        )

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(0.5)  # let our message reach the user before MPI's abort output
        self.communicator.Abort(code)


def buckets(sizes: Mapping[int, int], limit: int) -> Iterable[list[int]]:
    """Split the keys, in order, into buckets of at most ``limit`` bytes; a larger entry has a bucket to itself."""
    bucket: list[int] = []
    filled = 0
    for key, size in sizes.items():
        if bucket and filled + size > limit:
            yield bucket
            bucket, filled = [], 0
        bucket.append(key)
        filled += size
    if bucket:
        yield bucket


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """The same memory as bytes: MPI has no datatype for bfloat16, and all ranks have the same byte order."""
    return array.reshape(-1).view(np.uint8)


def _horovod() -> Any:
    try:
        import horovod.tensorflow as hvd
    except ImportError as error:
        raise UserError(
            f"several processes were started, but Horovod cannot be imported ({error}); {INSTALL}"
        ) from error
    return hvd
