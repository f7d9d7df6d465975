"""S3 addresses. S3 has no folders: an address selects every key that starts with it."""

from __future__ import annotations

from frcnn.prediction import SUFFIXES as IMAGE_SUFFIXES

# Suffixes of the single files that a channel or a transform may name (frcnn.container.channels).
FILE_SUFFIXES = (".tar.gz", ".manifest", ".jsonl", ".json", ".safetensors", ".yaml", ".yml", *IMAGE_SUFFIXES)


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def folder_uri(uri: str) -> str:
    """The address with a final ``/`` unless it names a file; ``bccd`` would also select ``bccd-v2/``."""
    return uri if uri.endswith("/") or uri.lower().endswith(FILE_SUFFIXES) else f"{uri}/"
