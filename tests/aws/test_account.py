"""S3 and the clean-up against moto: what goes up, what comes down, what is removed and in which order."""

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


def test_a_folder_goes_up_and_comes_down(account: AwsAccount, tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train" / "1.jpg").write_bytes(b"jpeg")
    (tmp_path / "data" / "a.json").write_bytes(b"{}")
    assert account.upload(tmp_path / "data", "s3://bucket/in/data/") == "s3://bucket/in/data/"
    assert account.objects("s3://bucket/in/data") == {"in/data/a.json": 2, "in/data/train/1.jpg": 4}
    account.download("s3://bucket/in/data", tmp_path / "back")
    assert (tmp_path / "back" / "train" / "1.jpg").read_bytes() == b"jpeg"
    account.download("s3://bucket/in/data/a.json", tmp_path / "one")
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["a.json"]


def test_only_what_changed_in_size_is_sent_again(account: AwsAccount, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"new")
    (tmp_path / "data" / "b").write_bytes(b"no")
    put(account, "data/a", "data/b")
    account.upload(tmp_path / "data", "s3://bucket/data")
    bodies = {key: account.client("s3").get_object(Bucket="bucket", Key=f"data/{key}")["Body"].read() for key in "ab"}
    assert bodies == {"a": b"new", "b": b"12"}


def test_a_folder_is_not_its_neighbour(account: AwsAccount) -> None:
    put(account, "data/1", "database/2", "data")
    assert set(account.objects("s3://bucket/data/")) == {"data/1"}
    assert set(account.objects("s3://bucket/data")) == {"data", "data/1"}
    assert set(account.objects("s3://bucket")) == {"data/1", "database/2", "data"}


def test_the_clean_up_spares_what_was_there_before(account: AwsAccount, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"1")
    put(account, "theirs/old", "ours2/x")
    account.upload(tmp_path / "data", "s3://bucket/theirs")
    account.upload(tmp_path / "data", "s3://bucket/ours")
    assert list(account.clean_up()) == ["removed: folder s3://bucket/ours"]
    assert set(account.objects("s3://bucket")) == {"theirs/old", "theirs/a", "ours2/x"}
    assert account.made() == []


def test_endpoints_go_first_and_a_new_session_can_remove_them(account: AwsAccount) -> None:
    for kind, name in (("folder", "s3://bucket/x"), ("model", "m"), ("endpoint configuration", "e"), ("endpoint", "e")):
        account.remember(kind, name)
        account.remember(kind, name)
    again = AwsAccount("us-east-1", account.ledger)
    # None of them is there any more, which is no mistake.
    assert list(again.clean_up(keep=("folder",))) == [
        "removed: endpoint e",
        "removed: endpoint configuration e",
        "removed: model m",
        "kept: folder s3://bucket/x",
    ]
    assert again.made() == []


def test_what_was_kept_stays_when_a_later_clean_up_keeps_nothing(account: AwsAccount) -> None:
    put(account, "x/model.tar.gz")
    account.remember("folder", "s3://bucket/x")
    list(account.clean_up(keep=("folder",)))
    assert list(AwsAccount("us-east-1", account.ledger).clean_up()) == []
    assert set(account.objects("s3://bucket/x")) == {"x/model.tar.gz"}


def test_a_run_removes_its_own_alone_and_knows_the_others(account: AwsAccount) -> None:
    first, second = (AwsAccount("us-east-1", account.ledger.with_name(f"{run}.json")) for run in ("first", "second"))
    put(account, "first/1", "second/1")
    first.remember("folder", "s3://bucket/first")
    first.remember("endpoint", "first")
    second.remember("folder", "s3://bucket/second")
    assert second.other_runs() == {"first": [("endpoint", "first"), ("folder", "s3://bucket/first")]}
    assert list(second.clean_up()) == ["removed: folder s3://bucket/second"]
    assert set(account.objects("s3://bucket")) == {"first/1"}
    assert first.other_runs() == {}
    # From the later run, as after a restart of the kernel, which takes another name.
    assert list(second.clean_up(run="first")) == ["removed: endpoint first", "removed: folder s3://bucket/first"]
    assert account.objects("s3://bucket") == {}
    assert first.made() == []


def test_many_objects_take_several_calls(account: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frcnn.aws.account.DELETED_AT_ONCE", 2)
    put(account, "x/1", "x/2", "x/3")
    account.remember("folder", "s3://bucket/x")
    list(account.clean_up())
    assert account.objects("s3://bucket/x") == {}


def test_what_s3_does_not_delete_stays_remembered(account: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    put(account, "x/1", "x/2")
    account.remember("folder", "s3://bucket/x")
    s3 = account.client("s3")
    # moto deletes everything; S3 answers 200 with this where a policy or a lock forbids it.
    refused = {"Errors": [{"Key": "x/2", "Code": "AccessDenied", "Message": "Access Denied"}]}
    with monkeypatch.context() as patch:
        patch.setattr(s3, "delete_objects", lambda **_: refused)
        patch.setattr(account, "client", lambda _: s3)
        with pytest.raises(
            UserError,
            match=r"S3 did not delete 1 of the objects below s3://bucket/x, first 'x/2': Access Denied; docs/",
        ):
            list(account.clean_up())
    assert account.made() == [("folder", "s3://bucket/x")]
    assert list(account.clean_up()) == ["removed: folder s3://bucket/x"]


def test_boto3_is_asked_for_by_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UserError, match=r"needs boto3 .*; pip install -e '\.\[sagemaker\]' in frcnn's folder$"):
        open_session()


def test_mistakes_in_one_sentence(account: AwsAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="has no files to upload"):
        account.upload(tmp_path / "none", "s3://bucket/x")
    with pytest.raises(UserError, match="nothing lies at s3://bucket/none; has the job ended"):
        account.download("s3://bucket/none", tmp_path)
    with pytest.raises(UserError, match="AWS refused ListObjectsV2: The specified bucket does not exist"):
        account.objects("s3://nobodys-bucket/x")
    put(account, "up/../../evil")
    with pytest.raises(UserError, match="would be written outside"):
        account.download("s3://bucket/up", tmp_path / "down")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no AWS region is given or configured"):
        open_session()
