"""Damaged, unusual and malicious input: each gets the right status, and the endpoint keeps working."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from raw_http import assert_malformed_requests_get_json_errors
from serving_client import Endpoint, encode, make_image

FORMATS = {"JPEG": {}, "PNG": {}, "WEBP": {}, "GIF": {}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}}
IMAGE = make_image()

Case = tuple[str, bytes, set[int]]  # content type, body, allowed statuses
BROKEN, TOO_MUCH, WHOLE = {400}, {413}, {200}
ANY = {200, 400, 413}  # depends on the damage; never a 5xx


def damaged_files() -> dict[str, Case]:
    """Files of every format, truncated at many offsets or with random bytes changed."""
    cases: dict[str, Case] = {}
    rng = np.random.default_rng(0)
    for name, options in FORMATS.items():
        whole = encode(IMAGE, name, **options)
        for cut in np.linspace(1, len(whole) - 1, 16).astype(int):
            # Decoders tolerate a missing end without pixels.
            cases[f"{name} cut at {cut} of {len(whole)}"] = (
                "image/*",
                whole[:cut],
                BROKEN if cut < len(whole) // 2 else ANY,
            )
        for seed in range(20):
            changed = bytearray(whole)
            for place in rng.integers(0, len(whole), 1 + seed):
                changed[place] = rng.integers(0, 256)
            cases[f"{name} changed {seed}"] = ("image/*", bytes(changed), ANY)
    for magic in (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"RIFF\0\0\0\0WEBP",
        b"%!PS-Adobe-3.0",
        b"<svg>",
        b"\0" * 8,
    ):
        cases[f"noise after {magic!r}"] = ("application/x-image", magic + rng.bytes(500), BROKEN | TOO_MUCH)
    return cases


def unusual_images() -> dict[str, Case]:
    """Valid images of the less common kinds."""
    rgb = Image.fromarray(IMAGE)
    grey16 = Image.fromarray(np.linspace(0, 65535, 60 * 90).reshape(60, 90).astype(np.uint16))
    modes = [rgb.convert(mode) for mode in ("CMYK", "L", "1", "YCbCr")]
    others = {f"{image.mode} JPEG": (image, "JPEG", {}) for image in modes if image.mode != "1"}
    others |= {f"{mode} PNG": (rgb.convert(mode), "PNG", {}) for mode in ("RGBA", "LA", "P", "1", "L")}
    others |= {
        "16-bit PNG": (grey16, "PNG", {}),
        "16-bit TIFF": (grey16, "TIFF", {}),
        "float TIFF": (rgb.convert("F"), "TIFF", {}),
        "CMYK TIFF": (rgb.convert("CMYK"), "TIFF", {}),
        "animated GIF": (
            rgb.convert("P"),
            "GIF",
            {"save_all": True, "append_images": [rgb.convert("P").rotate(90)] * 3},
        ),
        "animated PNG": (rgb, "PNG", {"save_all": True, "append_images": [rgb.rotate(90)] * 3}),
        "animated WebP": (rgb, "WEBP", {"save_all": True, "append_images": [rgb.rotate(90)] * 3}),
        "progressive JPEG": (rgb, "JPEG", {"progressive": True}),
        "palette with transparency": (rgb.convert("P"), "PNG", {"transparency": 3}),
    }
    for width, height in ((1, 1), (20000, 1), (1, 20000), (2, 5000), (1000, 1000)):
        others[f"{width} x {height}"] = (Image.new("RGB", (width, height), "red"), "PNG", {})
    cases: dict[str, Case] = {}
    for name, (image, format, options) in others.items():
        stream = io.BytesIO()
        image.save(stream, format, **options)
        cases[name] = ("image/*", stream.getvalue(), WHOLE)
    return cases


def png_of(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bombs() -> dict[str, Case]:
    """Small bodies that ask for much memory."""
    small = encode(IMAGE, "JPEG")
    frame = small.index(b"\xff\xc0") + 5
    huge_jpeg = small[:frame] + b"\xff\xff\xff\xff" + small[frame + 4 :]
    gif = encode(IMAGE, "GIF")
    bmp = encode(IMAGE, "BMP")
    many = "[" * 50_000
    return {
        "PNG of 50000 x 50000": ("image/png", png_of(50000, 50000, b""), TOO_MUCH),
        "PNG of 1001 x 1000": ("image/png", encode(np.zeros((1000, 1001, 3), np.uint8)), TOO_MUCH),
        "PNG of 0 x 0": ("image/png", png_of(0, 0, b""), BROKEN),
        "PNG with a text that unpacks to 100 MB": ("image/png", _with_text(encode(IMAGE)), ANY),
        "JPEG of 65535 x 65535": ("image/jpeg", huge_jpeg, TOO_MUCH),
        "GIF of 65535 x 65535": ("image/gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], TOO_MUCH),
        "BMP of 2^31 x 2^31": (
            "image/bmp",
            bmp[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + bmp[26:],
            TOO_MUCH | BROKEN,
        ),
        "npy of terabytes": ("application/x-npy", _npy_header((10**6, 10**6, 3)), BROKEN | TOO_MUCH),
        "npy of 2^82 bytes": (
            "application/x-npy",
            _npy_header((2**40, 2**40, 3)),
            BROKEN | TOO_MUCH,
        ),
        "JPEG of 101 scans": ("image/jpeg", _with_scans(101), TOO_MUCH),
        "JPEG of 10,000 scans": ("image/jpeg", _with_scans(10_000), TOO_MUCH),
        "GIF of many blocks": ("image/gif", _with_blocks(b"\x01a", 1_000_000), WHOLE),
        "PNG of 1 x 1e8": ("image/png", png_of(1, 100_000_000, b""), TOO_MUCH),
        "npy with a side of thousands of digits": (
            "application/x-npy",
            _npy_header("(0x" + "f" * 8000 + ", 5, 3)"),
            BROKEN,
        ),
        "npy with true as a side": ("application/x-npy", _npy_header("(True, 5, 3)") + bytes(15), WHOLE),
        "nested JSON": ("application/json", many.encode(), BROKEN | TOO_MUCH),
        "less nested JSON": ("application/json", ("[" * 15_000).encode(), BROKEN),
        "JSON of millions of lists": ("application/json", b'{"images": [' + b"[]," * 5_000_000 + b"[]]}", TOO_MUCH),
        "a number of a million digits": ("application/json", b'{"image": ' + b"1" * 1_000_000 + b"}", BROKEN),
        "nine images where eight are allowed": (
            "application/json",
            json.dumps({"images": ["AAAA"] * 9}).encode(),
            TOO_MUCH,
        ),
        "nine lines": ("application/jsonlines", b'"AAAA"\n' * 9, TOO_MUCH),
        "a million empty lines": ("application/jsonlines", b"\n" * 1_000_000, BROKEN | TOO_MUCH),
    }


def _with_text(png: bytes) -> bytes:
    content = b"comment\0\0" + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    return png[:33] + chunk + png[33:]


def _with_scans(scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    jpeg = encode(IMAGE, "JPEG", progressive=True)
    start, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:end] + jpeg[start:end] * (scans - jpeg.count(b"\xff\xda")) + jpeg[end:]


def _with_blocks(block: bytes, count: int) -> bytes:
    """A GIF with an extension of many blocks, behind its global color table."""
    gif = encode(IMAGE, "GIF")
    image = 13 + (3 << (gif[10] & 7) + 1)
    return gif[:image] + b"!\x01" + block * count + b"\0" + gif[image:]


def _npy_header(shape: object, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def broken_documents() -> dict[str, Case]:
    good = base64.b64encode(encode(IMAGE)).decode()
    texts = {
        "no JSON": "image",
        "a cut object": '{"image": "',
        "null": "null",
        "a list": f'["{good}"]',
        "NaN": '{"image": NaN}',
        "a number": '{"image": 7}',
        "an empty list": '{"images": []}',
        "a text for a list": f'{{"images": "{good}"}}',
        "two kinds": json.dumps({"image": good, "images": [good]}),
        "another key": json.dumps({"photo": good}),
        "an address": json.dumps({"image": {"s3_uri": "s3://bucket/key"}}),
        "a file": json.dumps({"image": "file:///etc/passwd"}),
        "wrong Base64": json.dumps({"image": good[:-3] + "*=="}),
        "cut Base64": json.dumps({"image": good[:-2]}),
        "Base64 of a truncated image": json.dumps({"image": good[: len(good) // 8 * 4]}),
        "spaces in Base64": json.dumps({"image": " ".join(good)}),
        "letters beyond ASCII": json.dumps({"image": "é" * 100}),
        "an empty image": json.dumps({"image": ""}),
        "one bad of two": json.dumps({"images": [good, "AAAA"]}),
        "nested too deep": json.dumps({"image": {"image": {"image": good}}}),
    }
    cases: dict[str, Case] = {
        f"JSON: {name}": ("application/json", text.encode(), BROKEN) for name, text in texts.items()
    }
    cases |= {
        f"JSON lines: {name}": ("application/jsonlines", text.encode(), BROKEN)
        for name, text in texts.items()
        if good not in text
    }
    cases["JSON: UTF-16"] = (
        "application/json",
        json.dumps({"image": good}).encode("utf-16"),
        WHOLE,
    )  # as the standard's first edition allows
    cases["JSON: not UTF-8"] = ("application/json", b'{"image": "\xff\xfe\xfa"}', BROKEN)
    for content_type in ("image/png", "application/json", "application/jsonlines", "application/x-npy"):
        cases[f"nothing as {content_type}"] = (content_type, b"", BROKEN)
    return cases


def broken_arrays() -> dict[str, Case]:
    def npy(array: np.ndarray) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=True)
        return stream.getvalue()

    odd = {422}
    arrays: dict[str, tuple[np.ndarray, set[int]]] = {
        "NaN": (np.full((5, 5, 3), np.nan, np.float32), odd),
        "float64": (np.zeros((5, 5, 3)), odd),
        "int8": (np.zeros((5, 5, 3), np.int8), odd),
        "bool": (np.zeros((5, 5, 3), bool), odd),
        "objects, which are pickles": (np.array([[{"a": print}]], object), odd),
        "records": (np.zeros((5, 5, 3), [("a", "u1"), ("b", "u1")]), odd),
        "grey": (np.zeros((5, 5), np.uint8), odd),
        "four channels": (np.zeros((5, 5, 4), np.uint8), odd),
        "channels first": (np.zeros((3, 5, 5), np.uint8), odd),
        "five axes": (np.zeros((1, 1, 5, 5, 3), np.uint8), odd),
        "no rows": (np.zeros((0, 5, 3), np.uint8), odd),
        "no axes": (np.array(7, np.uint8), odd),
        "too many pixels": (np.zeros((1000, 1001, 3), np.uint8), TOO_MUCH),
        "too many images": (np.zeros((9, 5, 5, 3), np.uint8), TOO_MUCH),
    }
    cases: dict[str, Case] = {
        f"npy: {name}": ("application/x-npy", npy(array), allowed) for name, (array, allowed) in arrays.items()
    }
    whole = npy(IMAGE)
    for cut in (1, 7, 9, 40, 127, 128, 1000, len(whole) - 1):
        cases[f"npy cut at {cut}"] = ("application/x-npy", whole[:cut], BROKEN)
    headers = {
        "negative sides": _npy_header((-5, -5, 3)),
        "an unknown type": _npy_header((1, 1, 3), "'|x9'"),
        "code": _npy_header((1,), "print(1)"),
    }
    cases |= {
        f"npy with {name}": ("application/x-npy", header + bytes(75), BROKEN | odd) for name, header in headers.items()
    }
    cases["npy with trailing bytes"] = ("application/x-npy", whole + b"x", BROKEN)
    cases["npy of version 9"] = ("application/x-npy", whole[:6] + b"\x09" + whole[7:], BROKEN)
    cases["an npz archive"] = ("application/x-npy", b"PK\x03\x04" + bytes(100), BROKEN)
    return cases


def all_cases() -> dict[str, Case]:
    return damaged_files() | unusual_images() | bombs() | broken_documents() | broken_arrays()


def test_hostile_input_gets_its_status_and_the_endpoint_keeps_working(endpoint: Endpoint) -> None:
    cases = all_cases()
    assert len(cases) > 300
    workers = endpoint.workers()
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda case: endpoint.post(case[1], case[0]), cases.values()))
    wrong = [
        f"{name}: {response.status_code} {response.text[:200]}"
        for (name, (_, _, allowed)), response in zip(cases.items(), responses, strict=True)
        if response.status_code not in allowed
    ]
    assert not wrong, "\n".join(wrong)
    for response in responses:
        if response.status_code != 200:
            answer = response.json()
            assert answer["status"] == response.status_code
            assert len(answer["error"]) > 20
            assert "Traceback" not in answer["error"]
            assert "/site-packages/" not in answer["error"]
    assert endpoint.get("/ping").status_code == 200
    assert endpoint.workers() == workers
    assert "Traceback" not in endpoint.errors()


def test_malformed_http_gets_json_errors(endpoint: Endpoint) -> None:
    assert_malformed_requests_get_json_errors(endpoint)


def test_an_aborted_request_is_dropped(endpoint: Endpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), 30) as connection:
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nabc"
        )
    assert endpoint.get("/ping").status_code == 200
    assert endpoint.post(encode(IMAGE)).status_code == 200
