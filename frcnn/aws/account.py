"""An AWS account as the launcher uses it: uploads, downloads, and a ledger of created resources for the clean-up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from frcnn.atomic import write_atomically
from frcnn.aws import autoscaling
from frcnn.aws.s3_uri import is_folder_marker, is_junk, split_uri
from frcnn.data.image_files import files_below
from frcnn.errors import UserError, print_message

# In the order of deletion: an endpoint costs money until it is gone, and uses configuration and models.
KINDS = ("alarm", "scaling target", "endpoint", "endpoint configuration", "model", "folder")
DELETE_BATCH = 1000  # objects per DeleteObjects call, S3's limit
_PERMISSION_HINT = "; docs/sagemaker.md lists the required permissions"
_CREDENTIALS_HINT = "; renew your credentials"
# Messages of SageMaker and Application Auto Scaling for resources that do not exist; the codes are not specific.
_MISSING = ("could not find", "no scalable target found")
_HINTS = {
    "AccessDeniedException": _PERMISSION_HINT,
    "AccessDenied": _PERMISSION_HINT,
    "ResourceLimitExceeded": "; request an increase in the Service Quotas console, or use another instance type",
    "ExpiredToken": _CREDENTIALS_HINT,
    "ExpiredTokenException": _CREDENTIALS_HINT,
}


def open_session(region: str | None = None) -> Any:
    """A boto3 session with a region.

    Raises:
        UserError: boto3 is missing, or no region is given or configured.
    """
    try:
        import boto3
    except ImportError as error:
        raise UserError(
            f"SageMaker commands need boto3 ({error}); run pip install -e '.[sagemaker]' in the frcnn repository"
        ) from error
    session = boto3.session.Session(region_name=region)
    if not session.region_name:
        raise UserError("no AWS region is given or configured; set AWS_REGION, for example to us-east-1")
    return session


def call_aws(method: Callable[..., Any], **request: Any) -> Any:
    """Call a boto3 client method, and turn AWS errors into a ``UserError`` with AWS's message.

    Raises:
        UserError: missing credentials or permissions, unknown resource, exceeded quota.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return method(**request)
    except ClientError as failure:
        error = failure.response["Error"]
        hint = _HINTS.get(error["Code"], "")
        raise UserError(
            f"AWS rejected {failure.operation_name}: {error.get('Message') or error['Code']}{hint}"
        ) from failure
    except BotoCoreError as failure:
        raise UserError(f"the AWS call failed: {failure}") from failure


class AwsAccount:
    """Clients of one region, and a ledger file of created resources, so that a later process can delete them.

    Args:
        region: such as ``us-east-1``; None: the configured one.
        ledger: JSON file of the resources that one run created and has neither deleted nor kept. Each run has its own
            file, named after it, so that no run deletes what another still uses.
    """

    def __init__(self, region: str | None = None, ledger: Path = Path("runs/launched/jobs.json")) -> None:
        self.session = open_session(region)
        self.region: str = self.session.region_name
        self.ledger = ledger

    def client(self, service: str) -> Any:
        """A boto3 client in the account's region."""
        return self.session.client(service, region_name=self.region)

    def created(self, run: str | None = None) -> list[tuple[str, str]]:
        """(kind, name) of what this run, or another one, created and has not deleted or kept, in deletion order."""
        ledger = self._ledger_of(run)
        entries = [tuple(entry) for entry in json.loads(ledger.read_text())] if ledger.exists() else []
        return sorted(entries, key=lambda entry: KINDS.index(entry[0]))

    def other_runs(self) -> dict[str, list[tuple[str, str]]]:
        """What other runs created and have not deleted or kept, by run name."""
        others = sorted(ledger.stem for ledger in self.ledger.parent.glob("*.json") if ledger != self.ledger)
        return {run: created for run in others if (created := self.created(run))}

    def track(self, kind: str, name: str) -> None:
        """Record a resource before it is created: deleting one that was never created is harmless."""
        if (kind, name) not in self.created():
            self._write([*self.created(), (kind, name)])

    def untrack(self, kind: str, name: str, run: str | None = None) -> None:
        """Forget a resource that was deleted, or that is to be kept."""
        self._write([entry for entry in self.created(run) if entry != (kind, name)], run)

    def upload(self, folder: Path, uri: str) -> str:
        """Copy a folder's files to an S3 folder, skipping files that exist there with the same size.

        Symbolic links are followed. Hidden files and those of the operating system, such as ``.DS_Store``, are skipped
        with a message: they fail batch transforms.

        Returns:
            ``uri``. The clean-up deletes the S3 folder unless it existed before.

        Raises:
            UserError: the folder is empty or missing, or AWS rejects a call.
        """
        found = sorted(files_below(folder))
        files = [file for file in found if not is_junk(file.name)]
        if len(files) < len(found):
            names = ", ".join(sorted({file.name for file in found} - {file.name for file in files}))
            print_message(f"not uploaded: {len(found) - len(files)} hidden files or files of the system ({names})")
        if not files:
            raise UserError(f"{folder} has no files to upload; expected a COCO folder")
        existing = self.objects(uri)
        if not existing:
            self.track("folder", uri)
        for file in files:
            address = f"{uri.rstrip('/')}/{file.relative_to(folder).as_posix()}"
            if existing.get(split_uri(address)[1]) != file.stat().st_size:
                self.upload_file(file, address)
        return uri

    def upload_file(self, file: Path, uri: str) -> None:
        """Copy a file to an S3 address.

        Raises:
            UserError: AWS rejects the upload.
        """
        bucket, key = split_uri(uri)
        call_aws(self.client("s3").upload_file, Filename=str(file), Bucket=bucket, Key=key)

    def download(self, uri: str, folder: Path) -> Path:
        """Copy an S3 folder, or a single object, to a local folder.

        Raises:
            UserError: no object exists there, or AWS rejects a call.
        """
        bucket, prefix = split_uri(uri)
        found = self.files(uri)
        if not found:
            raise UserError(f"{uri} does not exist; check the address, and that the job has ended")
        names = {
            key: key.rpartition("/")[2] if key == prefix else key.removeprefix(prefix).lstrip("/") for key in found
        }
        return self._fetch(bucket, names, folder)

    def _fetch(self, bucket: str, names: dict[str, str], folder: Path) -> Path:
        """Download objects; ``names`` maps each key to its path below ``folder``."""
        s3 = self.client("s3")
        for key, name in names.items():
            file = folder / name
            if not file.resolve().is_relative_to(folder.resolve()):
                raise UserError(f"object {key!r} of bucket {bucket} would be written outside {folder}; rename it in S3")
            file.parent.mkdir(parents=True, exist_ok=True)
            call_aws(s3.download_file, Bucket=bucket, Key=key, Filename=str(file))
        return folder

    def objects(self, uri: str) -> dict[str, int]:
        """Key and size in bytes of each object at or below an address."""
        bucket, key = split_uri(uri)
        folder = key.rstrip("/")
        pages = self.client("s3").get_paginator("list_objects_v2")

        def list_objects() -> dict[str, int]:
            found = (
                entry for page in pages.paginate(Bucket=bucket, Prefix=folder) for entry in page.get("Contents", [])
            )
            sizes = {entry["Key"]: entry["Size"] for entry in found}
            # "data" must not find "database".
            return {
                name: size for name, size in sizes.items() if not folder or name == key or name.startswith(f"{folder}/")
            }

        return dict(call_aws(list_objects))

    def files(self, uri: str) -> dict[str, int]:
        """Like :meth:`objects`, without the empty objects that the S3 console creates for folders."""
        return {key: size for key, size in self.objects(uri).items() if not is_folder_marker(key)}

    def clean_up(self, keep: tuple[str, ...] = (), run: str | None = None) -> Iterator[str]:
        """Delete what was created, endpoints first; yields a line for each resource.

        Args:
            keep: kinds or names to keep, such as ``"folder"``; they are dropped from the ledger, so later clean-ups
                keep them too.
            run: name of another run, nothing of which may still be in use; None: this one.

        Raises:
            UserError: AWS rejects a deletion; the resource stays in the ledger.
        """
        for kind, name in self.created(run):
            kept = kind in keep or name in keep
            if not kept:
                self.delete(kind, name)
            self.untrack(kind, name, run)
            yield f"{'kept' if kept else 'deleted'}: {kind} {name}"

    def delete(self, kind: str, name: str) -> None:
        """Delete a resource of one of ``KINDS``, if it exists.

        Raises:
            UserError: AWS rejects the deletion.
        """
        if kind == "folder":
            return self._delete_objects(name)
        sagemaker = self.client("sagemaker")
        delete = {
            "alarm": lambda: self.client("cloudwatch").delete_alarms(AlarmNames=[name]),
            "scaling target": lambda: self.client("application-autoscaling").deregister_scalable_target(
                ServiceNamespace=autoscaling.NAMESPACE, ResourceId=name, ScalableDimension=autoscaling.DIMENSION
            ),
            "endpoint": lambda: sagemaker.delete_endpoint(EndpointName=name),
            "endpoint configuration": lambda: sagemaker.delete_endpoint_config(EndpointConfigName=name),
            "model": lambda: sagemaker.delete_model(ModelName=name),
        }[kind]
        try:
            call_aws(delete)
        except UserError as error:
            if not any(message in str(error).lower() for message in _MISSING):
                raise

    def _delete_objects(self, uri: str) -> None:
        s3, bucket, keys = self.client("s3"), split_uri(uri)[0], list(self.objects(uri))
        for start in range(0, len(keys), DELETE_BATCH):
            chunk = [{"Key": key} for key in keys[start : start + DELETE_BATCH]]
            response = call_aws(s3.delete_objects, Bucket=bucket, Delete={"Objects": chunk, "Quiet": True})
            if errors := response.get("Errors"):  # S3 answers 200 even if it deletes none of them
                first = errors[0]
                reason = f"{first.get('Message') or first['Code']}{_HINTS.get(first['Code'], '')}"
                raise UserError(
                    f"S3 did not delete {len(errors)} of the objects in {uri}, first {first['Key']!r}: {reason}"
                )

    def _ledger_of(self, run: str | None) -> Path:
        return self.ledger if run is None else self.ledger.with_name(f"{run}.json")

    def _write(self, entries: list[tuple[str, str]], run: str | None = None) -> None:
        ledger = self._ledger_of(run)
        if not entries:
            ledger.unlink(missing_ok=True)
            return
        ledger.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(ledger, json.dumps(entries, indent=1) + "\n")
