"""SageMaker's custom attributes: the one header that a client and a container exchange through an endpoint."""

from __future__ import annotations

import re

CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
MAX_LENGTH = 1023  # characters; SageMaker's limit is 1,024 of visible US-ASCII
_ALLOWED = re.compile(r"[ -~]*")


def parse_attributes(header: str) -> list[tuple[str, str]]:
    """Pairs of ``key=value,key=value``; a part without "=" continues the value before it: ``classes=a,b`` is one pair.

    Values keep their blanks inside, so that ``classes=a, b`` can be a single class name with a comma.
    """
    pairs: list[tuple[str, str]] = []
    for part in header.split(","):
        key, equals, value = part.partition("=")
        if equals:
            pairs.append((key.strip(), value.strip()))
        elif pairs and part.strip():
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part.rstrip()}")
    return pairs


def response_attributes(given: str, own: dict[str, str]) -> str:
    """The client's attributes followed by the endpoint's own, of at most ``MAX_LENGTH`` characters.

    What does not fit is dropped from the end of the client's, and all of them if they hold characters that the header
    cannot: the endpoint's own are always complete.
    """
    last = ",".join(f"{key}={value}" for key, value in own.items())
    if not _ALLOWED.fullmatch(given):
        given = ""
    room = MAX_LENGTH - len(last) - 1
    while len(given) > room:
        given = given[: max(given.rfind(",", 0, room + 1), 0)]
    return f"{given},{last}" if given else last
