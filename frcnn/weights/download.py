"""Downloads published weights: resumed after interruptions, checked, and kept in a cache."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from frcnn.atomic import PREFIX, flush_to_disk
from frcnn.errors import UserError
from frcnn.weights.published import PUBLISHED, PublishedWeights, cache_folder

MIRROR = "FRCNN_WEIGHTS_URL"  # environment variable: folder of a server that has the files by name
ATTEMPTS = 5  # connections without progress before giving up
TIMEOUT_SECONDS = 30
_CHUNK = 1 << 20
HTTP_RANGE_NOT_SATISFIABLE = 416

Progress = Callable[[int, int], None]  # (bytes so far, bytes in all or 0)


def fetch_file(name: str, file: Path | None = None, progress: Progress = lambda done, total: None) -> Path:
    """The checked file of published weights: from the cache, from ``file``, or downloaded.

    Args:
        name: key of ``PUBLISHED``.
        file: a copy that was downloaded by other means; None: download it if the cache does not have it.
        progress: called with the bytes so far and in all.

    Raises:
        UserError: the name is unknown, the download fails (a later call resumes it), or the file is a different one.
    """
    if name not in PUBLISHED:
        raise UserError(f"weights {name!r} are unknown; expected one of {', '.join(PUBLISHED)}")
    weights = PUBLISHED[name]
    if file is not None:
        if not file.is_file():
            raise UserError(f"{file} does not exist; expected a copy of {weights.url}")
        if problem := hash_problem(file, weights):
            raise UserError(f"{file} is not {weights.file_name}: {problem}")
        return file
    cached = cache_folder() / "downloads" / weights.file_name
    if cached.exists() and not hash_problem(cached, weights):
        return cached
    cached.unlink(missing_ok=True)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_name(f"{PREFIX}{cached.name}")
    url = source_url(weights)
    download(url, partial, progress)
    if problem := hash_problem(partial, weights):
        partial.unlink()
        raise UserError(f"{url} is not the published file: {problem}; it was deleted")
    flush_to_disk(partial)
    os.replace(partial, cached)
    return cached


def source_url(weights: PublishedWeights) -> str:
    """Address to download from: the publisher's, or that of the mirror in ``FRCNN_WEIGHTS_URL``."""
    mirror = os.environ.get(MIRROR)
    return f"{mirror.rstrip('/')}/{weights.file_name}" if mirror else weights.url


def hash_problem(file: Path, weights: PublishedWeights) -> str | None:
    """Why a file is not the published one; None if its hash is right or none is published."""
    if weights.digest is None:
        return None
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, weights.algorithm).hexdigest()
    if found.startswith(weights.digest):
        return None
    return f"its {weights.algorithm} is {found}, expected {weights.digest}{'' if len(weights.digest) > 32 else '…'}"


def download(url: str, file: Path, progress: Progress) -> None:
    """Download to ``file``, appending to what is there; repeats interrupted connections as long as they make progress.

    Raises:
        UserError: the server has no such file, or the connection keeps breaking; ``file`` keeps what arrived.
    """
    failures, error = 0, ""
    while failures < ATTEMPTS:
        before = _size(file)
        try:
            if _receive(url, file, progress):
                return
            error = "the connection ended early"
        except urllib.error.HTTPError as refused:
            if refused.code == HTTP_RANGE_NOT_SATISFIABLE and before:
                file.unlink()  # longer than the file on the server: from another version of it
            elif refused.code < 500:
                raise UserError(f"{url} cannot be downloaded: HTTP {refused.code} {refused.reason}") from refused
            error = f"HTTP {refused.code} {refused.reason}"
        except (OSError, http.client.HTTPException) as broken:
            error = str(broken) or type(broken).__name__
        except ValueError as invalid:
            raise UserError(f"{url} is not a valid address ({invalid}); check {MIRROR}") from invalid
        failures = 0 if _size(file) > before else failures + 1
    raise UserError(
        f"{url} cannot be downloaded ({error}); run the command again to resume, set {MIRROR} to a mirror, or give a "
        "downloaded file with --file"
    )


def _receive(url: str, file: Path, progress: Progress) -> bool:
    """One connection; returns whether the file is complete."""
    start = _size(file)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        done = start if resumed else 0
        total = done + int(length) if length is not None else 0
        with file.open("ab" if resumed else "wb") as out:
            while chunk := response.read1(_CHUNK):
                out.write(chunk)
                done += len(chunk)
                progress(done, total)
    return not total or done == total


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def import_published(name: str, file: Path, folder: Path) -> None:
    """Make a model folder of the file of published weights. Imports TensorFlow.

    Raises:
        UserError: the file cannot be imported.
    """
    from frcnn.weights.import_weights import import_weights

    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f"{PREFIX}{folder.name}")
    shutil.rmtree(new, ignore_errors=True)
    import_weights(file, PUBLISHED[name].framework, new)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(new, folder)
