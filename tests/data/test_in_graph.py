"""The graph of an exported model against the Python implementation that training and evaluation use."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from frcnn import config
from frcnn.data import in_graph, transforms
from frcnn.data.decode import decode_image
from frcnn.data.plan import canvas_number
from frcnn.ops import resize

decode = tf.function(in_graph.decode, input_signature=[tf.TensorSpec([], tf.string)])
orientation_of = tf.function(in_graph.exif_orientation, input_signature=[tf.TensorSpec([], tf.string)])
resize_pillow = tf.function(
    in_graph.resize_pillow, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int32)]
)


def random_image(height: int = 33, width: int = 47) -> Image.Image:
    rng = np.random.default_rng(height * width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation: int, *, little: bool = True, long: bool = False) -> bytes:
    """An Exif block by hand: one other tag, then the orientation."""
    order = "little" if little else "big"

    def entry(tag: int, kind: int, value: int) -> bytes:
        data = value.to_bytes(2, order) + b"\0\0" if kind == 3 else value.to_bytes(4, order)
        return tag.to_bytes(2, order) + kind.to_bytes(2, order) + (1).to_bytes(4, order) + data

    head = (b"II" if little else b"MM") + (42).to_bytes(2, order) + (8).to_bytes(4, order)
    entries = entry(0x0100, 4, 7) + entry(0x0112, 4 if long else 3, orientation)
    return b"Exif\0\0" + head + (2).to_bytes(2, order) + entries + bytes(4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("little", [True, False])
def test_exif_orientation_of_jpegs(orientation, little):
    content = encoded(random_image(), "JPEG", exif=exif(orientation, little=little, long=orientation % 2 == 0))
    np.testing.assert_array_equal(decode(content), decode_image(content))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_other_formats_and_modes(mode):
    content = encoded(random_image().convert(mode), "PNG")
    np.testing.assert_array_equal(decode(content), decode_image(content))


@pytest.mark.parametrize("largest", [65535, 40000, 16383, 4095, 1023, 255, 0])
def test_16_bit_pngs_are_scaled_by_the_range_in_use(largest):
    samples = np.random.default_rng(largest).integers(0, largest + 1, (33, 47)).astype(np.uint16)
    samples[0, 0] = largest
    content = encoded(Image.fromarray(samples), "PNG")
    np.testing.assert_array_equal(decode(content), decode_image(content))


@pytest.mark.parametrize("form", ["BMP", "GIF", "JPEG"])
def test_other_formats(form):
    content = encoded(random_image(), form)
    np.testing.assert_array_equal(decode(content), decode_image(content))


@pytest.mark.parametrize(
    "block",
    [
        exif(0),
        exif(9),
        exif(6)[:-18],  # ends inside the entry
        b"Exif\0\0II*\0\xff\xff\xff\xff",  # a directory outside the file
        b"Exif\0\0",
        b"http://ns.adobe.com/xap/1.0/\0<x/>",
    ],
)
def test_broken_exif_blocks_are_ignored(block):
    plain = encoded(random_image(), "JPEG")
    segment = b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block
    content = plain[:2] + segment + plain[2:]
    assert orientation_of(content) == 1
    np.testing.assert_array_equal(decode(content), decode(plain))


@pytest.mark.parametrize("content", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\xff", b"\xff\xd8" + b"\xff\xe0\0\0" * 5000])
def test_unterminated_jpeg_headers(content):
    assert orientation_of(content) == 1


@pytest.mark.parametrize("before", [(33, 47), (1, 1), (20, 300), (301, 33)])
@pytest.mark.parametrize("scale", [0.13, 0.5, 0.77, 1.0, 1.9, 7.3])
def test_resize_pillow_is_bit_identical(before, scale):
    pixels = np.asarray(random_image(*before))
    after = tuple(max(round(side * scale), 1) for side in before)
    np.testing.assert_array_equal(resize_pillow(pixels, after), resize.resize_pillow(pixels, after))


@pytest.mark.parametrize("resize", ["bilinear", "pillow"])
def test_sizes_and_canvases_match_the_input_pipeline(resize):
    options = config.Image(min_size=(640, 800), max_size=1333, resize=resize)
    rng = np.random.default_rng(5)
    sizes = np.concatenate(
        [rng.integers(1, 3000, (600, 2)), [[1, 1], [1, 9000], [9000, 1], [480, 640], [800, 800], [640, 640]]]
    )

    @tf.function(input_signature=[tf.TensorSpec([2], tf.int32)])
    def graph(size):
        return in_graph.resized_size(size, 800, options), in_graph.canvas_number(size, options)

    for size in sizes.astype(np.int32):
        resized, number = graph(size)
        assert tuple(resized.numpy()) == transforms.resized_size(*map(int, size), 800, 1333, resize), size
        assert number.numpy() == canvas_number(*map(int, size), options), size
