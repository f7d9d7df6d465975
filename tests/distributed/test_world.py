"""A world of one process; several ranks are in test_ranks.py."""

from __future__ import annotations

import numpy as np
import pytest

from frcnn.distributed import AgreedError, World, connect
from frcnn.distributed.mpi import buckets
from frcnn.errors import UserError


def test_in_one_process_every_operation_is_the_identity() -> None:
    world = World()
    assert world.is_main
    assert world.allgather_strings("a") == ["a"]
    assert world.broadcast_object({"step": 3}) == {"step": 3}
    assert world.allreduce_max(7) == 7
    world.check_consistent({"frcnn": "1"})
    ((array,),) = world.allgather([np.arange(3)])
    assert array.tolist() == [0, 1, 2]


def test_in_one_process_errors_pass_through_unchanged() -> None:
    with pytest.raises(UserError, match="no folder") as raised, World().abort_together(), World().raise_together():
        raise UserError("no folder")
    assert not isinstance(raised.value, AgreedError)


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "HOROVOD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert connect().size == 1


def test_buckets_keep_the_order_and_the_limit() -> None:
    assert list(buckets({9: 3, 8: 3, 7: 4, 6: 100, 5: 1, 4: 1}, 10)) == [[9, 8, 7], [6], [5, 4]]
    assert list(buckets({}, 10)) == []
