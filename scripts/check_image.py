#!/usr/bin/env python3
"""Searches every layer of an image for files that must not be published: private keys, certificates, compilers.

    scripts/check_image.py IMAGE [--forbid FILE...]

--forbid names PEM files, such as the certificates of a proxy; none of their certificates may be in a file of any layer.
Files that a later layer removes are found as well, because they are part of the published image. Prints the findings
and exits with 1, or prints the number of files and exits with 0; exits with 2 if the image or a layer cannot be read.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# A header followed by key material; the header alone occurs in every program that reads keys.
PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+(?:[\w-]+: .*\s+)*[A-Za-z0-9+/=]{32}")
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")
COMPILERS = re.compile(r"(?:^|/)bin/(?:[\w-]+-)?(?:gcc|g\+\+|cc|c\+\+|cpp|ld|as|clang|nvcc|make|cmake)(?:-\d+)?$")
MAX_BYTES = 64 << 20  # of a file that are searched


class Unreadable(Exception):
    """The image or a layer could not be read."""


def layers(archive: BinaryIO) -> Iterator[tuple[str, tarfile.TarFile]]:
    """The layers in the output of ``docker save``, in archive order; in every layout, a layer is a file that is a tar.

    Raises:
        Unreadable: not an archive, or its ``manifest.json`` lists no layer or one that could not be read.
    """
    read, links, named = set(), {}, []
    try:
        with tarfile.open(fileobj=archive, mode="r|") as image:
            for entry in image:
                if entry.name == "manifest.json":
                    named = [name for one in json.load(image.extractfile(entry)) for name in one["Layers"]]
                elif entry.issym():  # a layer that occurs twice in the image
                    links[entry.name] = os.path.normpath(os.path.join(os.path.dirname(entry.name), entry.linkname))
                elif entry.isfile() and (layer := _as_tar(image.extractfile(entry))):
                    with layer:
                        yield entry.name, layer
                    read.add(entry.name)
    except (tarfile.ReadError, EOFError) as error:
        raise Unreadable(f"docker save did not write a complete image ({error})") from error
    missing = [name for name in named if links.get(name, name) not in read]
    if missing or not named:
        raise Unreadable(
            f"not read: {', '.join(missing)}; expected layers that are tar files"
            if named
            else "the image lists no layers"
        )


def _as_tar(content: BinaryIO) -> tarfile.TarFile | None:
    try:
        return tarfile.open(fileobj=content, mode="r|*")
    except tarfile.ReadError:  # one of the archive's own JSON files
        return None


def bodies(certificates: bytes) -> set[bytes]:
    """The middle of each certificate in a PEM file, on one line, which identifies it."""
    found = (b"".join(match.split()) for match in CERTIFICATE.findall(certificates))
    return {body[len(body) // 2 :][:64] for body in found}


def findings(layer: tarfile.TarFile, forbidden: set[bytes]) -> Iterator[tuple[str, str | None]]:
    """Every file's name, with its problem or None."""
    for entry in layer:
        if COMPILERS.search(entry.name):
            yield entry.name, "a compiler"
            continue
        if not entry.isfile():
            continue
        content = layer.extractfile(entry).read(MAX_BYTES)
        # Libraries contain the published keys of their self-tests.
        if not content.startswith(b"\x7fELF") and PRIVATE_KEY.search(content):
            yield entry.name, "a private key"
        elif forbidden and b"-----BEGIN CERTIFICATE-----" in content and forbidden & bodies(content):
            yield entry.name, "a forbidden certificate"
        else:
            yield entry.name, None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--forbid", nargs="*", type=Path, default=[], metavar="FILE", help="PEM files of certificates")
    options = parser.parse_args(arguments)
    forbidden = {body for file in options.forbid for body in bodies(file.read_bytes())}
    docker = os.environ.get("DOCKER", "docker")
    count, problems = 0, []
    with subprocess.Popen([docker, "save", options.image], stdout=subprocess.PIPE) as saving:
        try:
            for name, layer in layers(io.BufferedReader(saving.stdout, 1 << 20)):
                for file, problem in findings(layer, forbidden):
                    count += 1
                    if problem:
                        digest = name.removesuffix("/layer.tar").rpartition("/")[2][:12]
                        problems.append(f"{file}: {problem} (layer {digest})")
        except Unreadable as error:
            print(f"check_image: {options.image}: {error}", file=sys.stderr)
            return 2
    settings = subprocess.run([docker, "image", "inspect", options.image], stdout=subprocess.PIPE, check=False).stdout
    if saving.returncode or not json.loads(settings or "[]"):
        print(f"check_image: {docker} cannot save {options.image}", file=sys.stderr)
        return 2
    if PRIVATE_KEY.search(settings.replace(b"\\n", b"\n")):
        problems.append("the image's configuration: a private key")
    print(
        "\n".join(problems)
        if problems
        else f"{count} files in all layers: no private key, no compiler, none of {len(forbidden)} certificates"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
