"""An AWS account as the notebook uses it: data up, results down, and everything that was made along the way removed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from frcnn.aws.s3_uri import split_uri
from frcnn.errors import UserError

# What is removed first stands first: an endpoint costs money until it is gone, and holds on to its configuration and models.
_KINDS = ("endpoint", "endpoint configuration", "model", "folder")
DELETED_AT_ONCE = 1000  # objects in one call of S3


def open_session(region: str | None = None) -> Any:
    """A boto3 session with a region.

    Raises:
        UserError: boto3 is missing, or no region is given or configured.
    """
    try:
        import boto3
    except ImportError as error:
        raise UserError(
            f"starting SageMaker jobs needs boto3 ({error}); pip install -e '.[sagemaker]' in frcnn's folder"
        ) from error
    session = boto3.session.Session(region_name=region)
    if not session.region_name:
        raise UserError(
            "no AWS region is given or configured; name one, such as us-east-1, or set AWS_REGION or 'aws configure'"
        )
    return session


def call_aws(method: Callable[..., Any], **request: Any) -> Any:
    """Call a client's method; what AWS refuses becomes one sentence.

    Raises:
        UserError: no credentials, no permission, no such thing, no quota: AWS's own words.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return method(**request)
    except ClientError as refused:
        error = refused.response["Error"]
        hint = _HINTS.get(error["Code"], "")
        raise UserError(
            f"AWS refused {refused.operation_name}: {error.get('Message') or error['Code']}{hint}"
        ) from refused
    except BotoCoreError as failed:
        raise UserError(f"AWS could not be called: {failed}") from failed


_HINTS = {
    "AccessDeniedException": "; docs/sagemaker.md lists the permissions that are needed",
    "AccessDenied": "; docs/sagemaker.md lists the permissions that are needed",
    "ResourceLimitExceeded": "; ask for more in the Service Quotas console, or use another instance type",
    "ExpiredToken": "; renew your credentials",
    "ExpiredTokenException": "; renew your credentials",
}


class AwsAccount:
    """Clients of one region, and a file that remembers what was made, so that even a new session can remove it.

    Args:
        region: such as ``us-east-1``; None takes the configured one.
        ledger: JSON file of what one run made and has neither removed nor kept; named after the run, those of other runs beside it. There
            is one for each so that no run removes what another still uses.
    """

    def __init__(self, region: str | None = None, ledger: Path = Path("runs/launched/jobs.json")) -> None:
        self.session = open_session(region)
        self.region: str = self.session.region_name
        self.ledger = ledger

    def client(self, service: str) -> Any:
        """A boto3 client of the account's region."""
        return self.session.client(service, region_name=self.region)

    def made(self, run: str | None = None) -> list[tuple[str, str]]:
        """What this run, or another, made and has neither removed nor kept: (kind, name), in the order in which it is to be removed."""
        ledger = self._ledger_of(run)
        entries = [tuple(entry) for entry in json.loads(ledger.read_text())] if ledger.exists() else []
        return sorted(entries, key=lambda entry: _KINDS.index(entry[0]))

    def other_runs(self) -> dict[str, list[tuple[str, str]]]:
        """What other runs made and have neither removed nor kept, by their names."""
        others = sorted(ledger.stem for ledger in self.ledger.parent.glob("*.json") if ledger != self.ledger)
        return {run: made for run in others if (made := self.made(run))}

    def remember(self, kind: str, name: str) -> None:
        """Note what is about to be made, before it is: a thing that was not made after all is removed without harm."""
        if (kind, name) not in self.made():
            self._write([*self.made(), (kind, name)])

    def upload(self, folder: Path, uri: str) -> str:
        """Copy a folder's files into an S3 folder; a file that is there in the same size is left.

        Returns:
            ``uri``. The clean-up removes the S3 folder unless it held something before.

        Raises:
            UserError: the folder is empty or missing, or AWS refuses.
        """
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if not files:
            raise UserError(f"{folder} has no files to upload; expected a COCO folder")
        there = self.objects(uri)
        if not there:
            self.remember("folder", uri)
        bucket, prefix = split_uri(uri.rstrip("/"))
        s3 = self.client("s3")
        for file in files:
            key = f"{prefix}/{file.relative_to(folder).as_posix()}".lstrip("/")
            if there.get(key) != file.stat().st_size:
                call_aws(s3.upload_file, Filename=str(file), Bucket=bucket, Key=key)
        return uri

    def download(self, uri: str, folder: Path) -> Path:
        """Copy what lies below an S3 folder, or the one object of that name, into a folder of this machine.

        Raises:
            UserError: nothing is there, or AWS refuses.
        """
        bucket, prefix = split_uri(uri)
        found = self.objects(uri)
        if not found:
            raise UserError(f"nothing lies at {uri}; has the job ended?")
        names = {
            key: key.rpartition("/")[2] if key == prefix else key.removeprefix(prefix).lstrip("/") for key in found
        }
        return self._fetch(bucket, names, folder)

    def _fetch(self, bucket: str, names: dict[str, str], folder: Path) -> Path:
        """Copy objects to the paths below a folder that ``names`` gives them."""
        s3 = self.client("s3")
        for key, name in names.items():
            file = folder / name
            if not file.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"object {key!r} of bucket {bucket} would be written outside {folder}; rename it in S3")
            file.parent.mkdir(parents=True, exist_ok=True)
            call_aws(s3.download_file, Bucket=bucket, Key=key, Filename=str(file))
        return folder

    def objects(self, uri: str) -> dict[str, int]:
        """Size in bytes of each object at or below an address, by key."""
        bucket, key = split_uri(uri)
        folder = key.rstrip("/")
        pages = self.client("s3").get_paginator("list_objects_v2")

        def listed() -> dict[str, int]:
            found = (
                entry for page in pages.paginate(Bucket=bucket, Prefix=folder) for entry in page.get("Contents", [])
            )
            sizes = {entry["Key"]: entry["Size"] for entry in found}
            # "data" must not find "database".
            return {
                name: size for name, size in sizes.items() if not folder or name == key or name.startswith(f"{folder}/")
            }

        return dict(call_aws(listed))

    def clean_up(self, keep: tuple[str, ...] = (), run: str | None = None) -> Iterator[str]:
        """Remove what was made, endpoints first; gives a line for each thing as it goes.

        Args:
            keep: kinds or names that stay, such as ``"folder"``, for good: no later clean-up knows of them.
            run: another run, of which nothing should be in use any more; None: this one.

        Raises:
            UserError: AWS refuses to remove something, which is remembered until it is gone.
        """
        for kind, name in self.made(run):
            kept = kind in keep or name in keep
            if not kept:
                self._remove(kind, name)
            self._write([entry for entry in self.made(run) if entry != (kind, name)], run)
            yield f"{'kept' if kept else 'removed'}: {kind} {name}"

    def _remove(self, kind: str, name: str) -> None:
        if kind == "folder":
            return self._empty(name)
        sagemaker = self.client("sagemaker")
        remove = {
            "endpoint": lambda: sagemaker.delete_endpoint(EndpointName=name),
            "endpoint configuration": lambda: sagemaker.delete_endpoint_config(EndpointConfigName=name),
            "model": lambda: sagemaker.delete_model(ModelName=name),
        }[kind]
        try:
            call_aws(remove)
        except UserError as refused:
            if "could not find" not in str(refused).lower():  # SageMaker's words for what is not there
                raise

    def _empty(self, uri: str) -> None:
        s3, bucket, keys = self.client("s3"), split_uri(uri)[0], list(self.objects(uri))
        for start in range(0, len(keys), DELETED_AT_ONCE):
            chunk = [{"Key": key} for key in keys[start : start + DELETED_AT_ONCE]]
            answer = call_aws(s3.delete_objects, Bucket=bucket, Delete={"Objects": chunk, "Quiet": True})
            if errors := answer.get("Errors"):  # S3 answers 200 even where it deletes none of them
                first = errors[0]
                reason = f"{first.get('Message') or first['Code']}{_HINTS.get(first['Code'], '')}"
                raise UserError(
                    f"S3 did not delete {len(errors)} of the objects below {uri}, first {first['Key']!r}: {reason}"
                )

    def _ledger_of(self, run: str | None) -> Path:
        return self.ledger if run is None else self.ledger.with_name(f"{run}.json")

    def _write(self, entries: list[tuple[str, str]], run: str | None = None) -> None:
        ledger = self._ledger_of(run)
        if not entries:
            ledger.unlink(missing_ok=True)
            return
        ledger.parent.mkdir(parents=True, exist_ok=True)
        ledger.write_text(json.dumps(entries, indent=1) + "\n")
