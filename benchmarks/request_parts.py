"""Where the time of a request goes: the stages of the endpoint's log, split further by timing their parts here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 9
JPEG, MODEL = "decoding of the JPEG", "call of the model"
FLOOR = (JPEG, MODEL)
TENSORS, ANSWER = "to and from tensors", "response: selection, rounding, encoding"
POSTPROCESSING = (TENSORS, ANSWER)


def time_alone(model: Path, bodies: Sequence[bytes]) -> dict[str, float]:
    """Medians in milliseconds: ``decode`` of a JPEG alone, and what a detection takes ``around`` the model's call."""
    import tensorflow as tf

    from frcnn.data.decode import decode_image
    from frcnn.inference import Detector

    detector = Detector.load(model)
    bare, calls = detector._detect, [0.0]

    def timed(*arguments: Any) -> Any:
        tensors = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        found: list[Any] = []
        calls[0] = _milliseconds(lambda: found.append(bare(*tensors)))
        return found[0]

    detector._detect = timed  # type: ignore[assignment]
    prepared = [detector.prepare(decode_image(body)) for body in bodies]
    for image in prepared:
        detector.detect_batch([image])  # traced
    decode, around = [], []
    for number in range(ROUNDS):
        body, image = bodies[number % len(bodies)], prepared[number % len(bodies)]
        decode.append(_milliseconds(lambda body=body: decode_image(body, use_tensorflow=False)))
        around.append(_milliseconds(lambda image=image: detector.detect_batch([image])) - calls[0])
    return {"decode": float(np.median(decode)), "around": float(np.median(around))}


def _milliseconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def read_stages(lines: Sequence[str]) -> dict[str, float]:
    """Median milliseconds of the stages in lines of the endpoint's log; ``other`` is what is between them."""
    stages = [json.loads(line)["ms"] for line in lines if '"ms"' in line]
    for line in stages:
        line["other"] = 2 * line["total"] - sum(line.values())
    return {stage: float(np.median([line[stage] for line in stages])) for stage in stages[0]}


def parts_of(stages: Mapping[str, float], alone: Mapping[str, float], client: float) -> dict[str, float]:
    """Milliseconds of the parts of a request, which sum up to ``client``, the time that the client measures."""
    return {
        JPEG: alone["decode"],
        MODEL: stages["detect"] - alone["around"],
        "to and from the decoder's process": stages["decode"] - alone["decode"],
        "resize and padding": stages["prepare"],
        "waiting for the model's thread": stages["wait"],
        TENSORS: alone["around"],
        ANSWER: stages["answer"],
        "rest of the application": stages["read"] + stages["other"],
        "HTTP: nginx, gunicorn, client": client - stages["total"],
    }


def shares_of(parts: Mapping[str, float]) -> dict[str, float]:
    """Shares of a request's time: everything but decoding and the model, and of that postprocessing and encoding."""
    total = sum(parts.values())
    return {
        "overhead": 1 - sum(parts[name] for name in FLOOR) / total,
        "postprocessing": sum(parts[name] for name in POSTPROCESSING) / total,
    }


def print_parts(title: str, parts: Mapping[str, float]) -> None:
    total, shares = sum(parts.values()), shares_of(parts)
    print(f"{title}: {total:.1f} ms")
    for name, milliseconds in parts.items():
        print(f"  {name:<40} {milliseconds:8.1f} ms  {milliseconds / total:6.1%}")
    print(
        f"  everything but decoding and the model is {shares['overhead']:.1%} of the request, postprocessing and "
        f"encoding {shares['postprocessing']:.1%}"
    )
