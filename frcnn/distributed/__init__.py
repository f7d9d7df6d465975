"""Data-parallel training on several processes. Nothing outside this package imports Horovod or mpi4py."""

from frcnn.distributed.connect import connect
from frcnn.distributed.world import AgreedError, World

__all__ = ["AgreedError", "World", "connect"]
