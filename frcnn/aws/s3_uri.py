"""Addresses in S3, which knows no folders: a prefix is a text with which keys begin."""

from __future__ import annotations

from frcnn.prediction import SUFFIXES as PICTURES

# Of the files that a channel or a transform may consist of (frcnn.container.channels).
FILES = (".tar.gz", ".manifest", ".jsonl", ".json", ".safetensors", ".yaml", ".yml", *PICTURES)


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def exact_prefix(uri: str) -> str:
    """The address with ``/`` at the end unless it is a file's: ``bccd`` as it stands would bring ``bccd-v2/`` and ``bccd.zip`` as well."""
    return uri if uri.endswith("/") or uri.lower().endswith(FILES) else f"{uri}/"
