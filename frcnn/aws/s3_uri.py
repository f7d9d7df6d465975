"""S3 addresses. S3 has no folders: an address selects every key that starts with it."""

from __future__ import annotations

from pathlib import PurePosixPath

from frcnn.data.image_files import IMAGE_SUFFIXES, is_hidden

# Suffixes of the single files that a channel or a transform may name (frcnn.container.channels).
FILE_SUFFIXES = (".tar.gz", ".manifest", ".jsonl", ".json", ".safetensors", ".yaml", ".yml", *IMAGE_SUFFIXES)


def is_junk(name: str) -> bool:
    """Whether a relative path or key is hidden or of the operating system, and so ignored as in local folders."""
    return is_hidden(PurePosixPath(name))


def is_folder_marker(key: str) -> bool:
    """Whether a key is one of the empty objects that the S3 console creates for a folder."""
    return key.endswith("/")


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def folder_uri(uri: str) -> str:
    """The address with a final ``/`` unless it names a file; ``bccd`` would also select ``bccd-v2/``."""
    return uri if uri.endswith("/") or uri.lower().endswith(FILE_SUFFIXES) else f"{uri}/"
