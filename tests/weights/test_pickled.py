"""Reading pickles without executing them: PyTorch's two formats, NumPy arrays, and malicious or damaged files."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frcnn.errors import UserError
from frcnn.weights.pickled import read_pickled


@pytest.mark.parametrize("name", ["archive.pth", "legacy.pth"])
def test_both_formats_of_pytorch(golden: Path, name: str) -> None:
    tree = read_pickled(golden / name)
    counted = np.arange(24, dtype=np.float32)
    expected = {
        "plain": counted[:6].reshape(2, 3),
        "transposed": counted.reshape(4, 6).T,
        "part": counted.reshape(4, 6)[1:3, 2:5],
        "scalar": np.array(7),
        "half": np.array([0.5, -2.0], np.float16),
        "brain": np.array([1.5, -3.0], ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.array([1.0, 2.0], np.float32),
    }
    assert list(tree["model"]) == list(expected)
    for key, values in expected.items():
        found = tree["model"][key]
        assert (found.dtype, found.shape) == (values.dtype, values.shape), key
        np.testing.assert_array_equal(found, values, err_msg=key)
    assert tree["epoch"] == 12
    np.testing.assert_array_equal(tree["optimizer"]["state"][0], counted)


def test_numpy_arrays_under_every_protocol_and_order(tmp_path: Path) -> None:
    arrays = {
        "rows": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "scalar": np.float32(2.5),
    }
    for protocol in range(5):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(OrderedDict(model=arrays, __author__="me"), protocol=protocol))
        tree = read_pickled(tmp_path / "a.pkl")
        assert tree["__author__"] == "me"
        for name, values in arrays.items():
            np.testing.assert_array_equal(tree["model"][name], values, err_msg=f"{name}, protocol {protocol}")


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Strings of Python 2 are bytes. This is {'conv1_w': array([1.5, -2], float32)} as Python 2 writes it."""
    state = (
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R" + state
    data = b"\x80\x02}U\x07conv1_w" + array + np.array([1.5, -2], "<f4").tobytes() + b"tbs."
    (tmp_path / "old.pkl").write_bytes(data)
    np.testing.assert_array_equal(read_pickled(tmp_path / "old.pkl")["conv1_w"], [1.5, -2])


class Call:
    """Pickles as a call of a function, as in a malicious file."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "argument", "named"),
    [
        (os.system, "touch {marker}", r"posix\.system"),
        (eval, "open({marker!r}, 'w')", r"builtins\.eval"),
        (getattr, "x", r"builtins\.getattr"),
    ],
)
@pytest.mark.parametrize("container", ["pickle", "archive"])
def test_a_call_is_rejected_by_name_and_not_executed(
    tmp_path: Path, call: Any, argument: str, named: str, container: str
) -> None:
    marker = tmp_path / "marker"
    data = pickle.dumps({"weight": Call(call, argument.format(marker=str(marker)))})
    file = tmp_path / "bad.pth"
    if container == "archive":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("bad/data.pkl", data)
    else:
        file.write_bytes(data)
    with pytest.raises(UserError, match=rf"bad\.pth was not read: it uses {named}, which could execute code"):
        read_pickled(file)
    assert not marker.exists()


def test_an_array_of_objects_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "o.pkl").write_bytes(pickle.dumps({"a": np.array([1, "x"], object)}))
    with pytest.raises(UserError, match="it contains an array of 'O8'"):
        read_pickled(tmp_path / "o.pkl")


def test_a_truncated_storage_is_an_error(golden: Path, tmp_path: Path) -> None:
    """The archive's index announces more values than it contains."""
    cut = tmp_path / "cut.pth"
    with zipfile.ZipFile(golden / "archive.pth") as whole, zipfile.ZipFile(cut, "w") as archive:
        for entry in whole.infolist():
            data = whole.read(entry)
            archive.writestr(entry, data[:-4] if entry.filename.endswith("data/0") else data, zipfile.ZIP_STORED)
    with pytest.raises(
        UserError, match=r"cut\.pth cannot be read \(ValueError: a storage of \d+ values is larger than the file"
    ):
        read_pickled(cut)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "damaged.pth"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_files_raise_only_user_errors(golden: Path, scratch: Path, data: st.DataObject) -> None:
    """Truncated or with changed bytes: reading succeeds or raises a UserError, and never takes much memory."""
    original = (golden / data.draw(st.sampled_from(["legacy.pth", "archive.pth"]))).read_bytes()
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    scratch.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged)
    with contextlib.suppress(UserError):
        read_pickled(scratch)


def test_pickles_of_other_objects_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(
        UserError, match=r"text\.pth cannot be read .*expected a file written by torch.save, or a .pkl of NumPy arrays"
    ):
        read_pickled(tmp_path / "text.pth")
    buffer = io.BytesIO()
    pickle.Pickler(buffer).dump(pickle.PickleBuffer)
    (tmp_path / "class.pkl").write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="PickleBuffer, which could execute code"):
        read_pickled(tmp_path / "class.pkl")


def test_a_partial_download_is_recognized(golden: Path, tmp_path: Path) -> None:
    for name, sentence in {
        "archive.pth": "starts as an archive but does not end as one: a part of it is missing",
        "legacy.pth": r"a storage has \d+ bytes, expected \d+",
    }.items():
        content = (golden / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) - 6])
        with pytest.raises(UserError, match=sentence):
            read_pickled(tmp_path / name)


def test_another_archive_is_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(
        UserError, match=r"an archive with 0 entries 'data\.pkl', expected one as written by torch\.save"
    ):
        read_pickled(tmp_path / "photos.pth")
