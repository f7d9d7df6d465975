"""Uploads, downloads and the clean-up against moto."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from frcnn.aws.account import AwsAccount, open_session
from frcnn.errors import UserError


@pytest.fixture
def account(tmp_path: Path) -> Iterator[AwsAccount]:
    with mock_aws():
        account = AwsAccount("us-east-1", tmp_path / "ledger.json")
        account.client("s3").create_bucket(Bucket="bucket")
        yield account


def put(account: AwsAccount, *keys: str) -> None:
    for key in keys:
        account.client("s3").put_object(Bucket="bucket", Key=key, Body=b"12")


def test_upload_and_download_a_folder(account: AwsAccount, tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "1.jpg").write_bytes(b"jpeg")
    (tmp_path / "data" / "a.json").write_bytes(b"{}")
    assert account.upload(tmp_path / "data", "s3://bucket/in/data/") == "s3://bucket/in/data/"
    assert account.objects("s3://bucket/in/data") == {"in/data/a.json": 2, "in/data/train/1.jpg": 4}
    account.download("s3://bucket/in/data", tmp_path / "back")
    assert (tmp_path / "back" / "train" / "1.jpg").read_bytes() == b"jpeg"
    account.download("s3://bucket/in/data/a.json", tmp_path / "one")
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["a.json"]


def test_upload_skips_files_of_the_same_size(account: AwsAccount, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"new")
    (tmp_path / "data" / "b").write_bytes(b"no")
    put(account, "data/a", "data/b")
    account.upload(tmp_path / "data", "s3://bucket/data")
    bodies = {key: account.client("s3").get_object(Bucket="bucket", Key=f"data/{key}")["Body"].read() for key in "ab"}
    assert bodies == {"a": b"new", "b": b"12"}


def test_folder_markers_and_files_of_the_operating_system(
    account: AwsAccount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    for name in ("a.jpg", ".DS_Store", "train/.DS_Store", "train/._b.jpg", "train/b.jpg"):
        (tmp_path / "data" / name).write_bytes(b"1")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "c.jpg").write_bytes(b"1")
    (tmp_path / "data" / "val").symlink_to(tmp_path / "disk")
    account.upload(tmp_path / "data", "s3://bucket/data")
    assert set(account.objects("s3://bucket/data")) == {"data/a.jpg", "data/train/b.jpg", "data/val/c.jpg"}
    assert "not uploaded: 3 hidden files or files of the system (.DS_Store, ._b.jpg)" in capsys.readouterr().err
    put(account, "data/", "data/train/", "data/empty/")  # the console creates these
    account.download("s3://bucket/data", tmp_path / "back")
    assert {file.name for file in (tmp_path / "back").rglob("*") if file.is_file()} == {"a.jpg", "b.jpg", "c.jpg"}
    account.track("folder", "s3://bucket/data")
    list(account.clean_up())
    assert account.objects("s3://bucket") == {}


def test_objects_of_a_folder_exclude_keys_with_the_same_prefix(account: AwsAccount) -> None:
    put(account, "data/1", "database/2", "data")
    assert set(account.objects("s3://bucket/data/")) == {"data/1"}
    assert set(account.objects("s3://bucket/data")) == {"data", "data/1"}
    assert set(account.objects("s3://bucket")) == {"data/1", "database/2", "data"}


def test_clean_up_keeps_folders_that_existed_before(account: AwsAccount, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"1")
    put(account, "theirs/old", "ours2/x")
    account.upload(tmp_path / "data", "s3://bucket/theirs")
    account.upload(tmp_path / "data", "s3://bucket/ours")
    assert list(account.clean_up()) == ["deleted: folder s3://bucket/ours"]
    assert set(account.objects("s3://bucket")) == {"theirs/old", "theirs/a", "ours2/x"}
    assert account.created() == []


def test_a_new_session_deletes_tracked_resources_endpoints_first(account: AwsAccount) -> None:
    for kind, name in (("folder", "s3://bucket/x"), ("model", "m"), ("endpoint configuration", "e"), ("endpoint", "e")):
        account.track(kind, name)
        account.track(kind, name)
    again = AwsAccount("us-east-1", account.ledger)
    # None of them exists, which is not an error.
    assert list(again.clean_up(keep=("folder",))) == [
        "deleted: endpoint e",
        "deleted: endpoint configuration e",
        "deleted: model m",
        "kept: folder s3://bucket/x",
    ]
    assert again.created() == []


def test_kept_resources_survive_later_clean_ups(account: AwsAccount) -> None:
    put(account, "x/model.tar.gz")
    account.track("folder", "s3://bucket/x")
    list(account.clean_up(keep=("folder",)))
    assert list(AwsAccount("us-east-1", account.ledger).clean_up()) == []
    assert set(account.objects("s3://bucket/x")) == {"x/model.tar.gz"}


def test_a_run_deletes_only_its_own_resources_and_lists_the_others(account: AwsAccount) -> None:
    first, second = (AwsAccount("us-east-1", account.ledger.with_name(f"{run}.json")) for run in ("first", "second"))
    put(account, "first/1", "second/1")
    first.track("folder", "s3://bucket/first")
    first.track("endpoint", "first")
    second.track("folder", "s3://bucket/second")
    assert second.other_runs() == {"first": [("endpoint", "first"), ("folder", "s3://bucket/first")]}
    assert list(second.clean_up()) == ["deleted: folder s3://bucket/second"]
    assert set(account.objects("s3://bucket")) == {"first/1"}
    assert first.other_runs() == {}
    # From the later run, as after a kernel restart, which takes a new name.
    assert list(second.clean_up(run="first")) == ["deleted: endpoint first", "deleted: folder s3://bucket/first"]
    assert account.objects("s3://bucket") == {}
    assert first.created() == []


def test_many_objects_are_deleted_in_batches(account: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frcnn.aws.account.DELETE_BATCH", 2)
    put(account, "x/1", "x/2", "x/3")
    account.track("folder", "s3://bucket/x")
    list(account.clean_up())
    assert account.objects("s3://bucket/x") == {}


def test_objects_that_s3_does_not_delete_stay_tracked(account: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    put(account, "x/1", "x/2")
    account.track("folder", "s3://bucket/x")
    s3 = account.client("s3")
    # moto deletes everything; S3 answers 200 with this if a policy or a lock forbids the deletion.
    response = {"Errors": [{"Key": "x/2", "Code": "AccessDenied", "Message": "Access Denied"}]}
    with monkeypatch.context() as patch:
        patch.setattr(s3, "delete_objects", lambda **_: response)
        patch.setattr(account, "client", lambda _: s3)
        with pytest.raises(
            UserError,
            match=r"S3 did not delete 1 of the objects in s3://bucket/x, first 'x/2': Access Denied; docs/",
        ):
            list(account.clean_up())
    assert account.created() == [("folder", "s3://bucket/x")]
    assert list(account.clean_up()) == ["deleted: folder s3://bucket/x"]


def test_a_missing_boto3_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(
        UserError, match=r"need boto3 .*; run pip install -e '\.\[sagemaker\]' in the frcnn repository$"
    ):
        open_session()


def test_error_messages(account: AwsAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="has no files to upload"):
        account.upload(tmp_path / "none", "s3://bucket/x")
    with pytest.raises(
        UserError, match="s3://bucket/none does not exist; check the address, and that the job has ended"
    ):
        account.download("s3://bucket/none", tmp_path)
    with pytest.raises(UserError, match="AWS rejected ListObjectsV2: The specified bucket does not exist"):
        account.objects("s3://nobodys-bucket/x")
    put(account, "up/../../evil")
    with pytest.raises(UserError, match="would be written outside"):
        account.download("s3://bucket/up", tmp_path / "down")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no AWS region is given or configured"):
        open_session()
