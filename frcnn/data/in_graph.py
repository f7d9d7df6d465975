"""Image preprocessing as pure TensorFlow operations, with the same pixels as ``decode.py`` and ``transforms.py``.

It is part of every exported model, so nothing here may need Python, Pillow or custom kernels after tracing.
"""

from __future__ import annotations

import tensorflow as tf

from frcnn import config
from frcnn.data.bit_depth import BIT_DEPTHS
from frcnn.data.plan import canvases
from frcnn.ops.resize import HEIGHT_MAY_BE_FIRST, resize_bilinear

MAX_SEGMENTS = 100  # of a JPEG's header; Exif is the first or the second
ORIENTATION = 0x0112  # EXIF 2.32
EXIF_SHORT = 3
# Pillow's fixed-point resize (Resample.c): weights have 22 fractional bits.
WEIGHT_BITS = 22


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Upright pixels ``[H, W, 3]`` uint8 RGB of an encoded image, a scalar string.

    JPEG (EXIF orientation applied), PNG (16 bits are scaled by the range in use), BMP or GIF (first frame).

    Bytes that are not a complete image raise InvalidArgumentError when the graph runs.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    # The bit depth follows the signature, the head of the first chunk, width and height.
    is_deep = (tf.strings.substr(encoded, 0, 4) == b"\x89PNG") & (_byte_at(encoded, 24) == b"\x10")
    pixels = tf.case(
        [
            (
                is_jpeg,
                lambda: upright(
                    tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"), exif_orientation(encoded)
                ),
            ),
            (is_deep, lambda: scale_to_8_bits(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16))),
        ],
        default=lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(pixels, [None, None, 3])


def scale_to_8_bits(samples: tf.Tensor) -> tf.Tensor:
    """Samples of 16 bits as uint8: :func:`bit_depth.scale_to_8_bits` as a graph, without a declared range."""
    maxima = tf.constant([2**bits - 1 for bits in BIT_DEPTHS if bits <= 16], tf.float64)
    samples = tf.cast(samples, tf.float64)
    full = tf.reduce_min(tf.where(maxima >= tf.reduce_max(samples), maxima, maxima[-1]))
    return tf.cast(samples * (255.0 / full) + 0.5, tf.uint8)


def _byte_at(text: tf.Tensor, position: int) -> tf.Tensor:
    """One byte of a scalar string; 0 behind its end."""
    padded = tf.strings.join([text, b"\0" * (position + 1)])
    return tf.strings.substr(padded, position, 1)


def exif_orientation(jpeg: tf.Tensor) -> tf.Tensor:
    """EXIF orientation 1..8 of a JPEG, a scalar string; 1 where it has none or no valid one. Scalar int64."""
    content = tf.cast(tf.io.decode_raw(jpeg, tf.uint8), tf.int64)
    size = tf.size(content, tf.int64)
    content = tf.concat([content, [0]], axis=0)

    def byte(at: tf.Tensor) -> tf.Tensor:
        return tf.gather(content, tf.clip_by_value(at, 0, size))

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all(byte(at + [1, 4, 5, 6, 7, 8, 9]) == [0xE1, *b"Exif\0\0"])

    def is_other_segment(at: tf.Tensor) -> tf.Tensor:
        return (at < size) & (byte(at) == 0xFF) & (byte(at + 1) != 0xDA) & ~is_exif(at)

    segment = tf.while_loop(
        is_other_segment,
        lambda at: [at + 2 + 256 * byte(at + 2) + byte(at + 3)],
        [tf.constant(2, tf.int64)],
        maximum_iterations=MAX_SEGMENTS,
    )[0]
    start = segment + 10
    little = byte(start) == ord("I")

    def number(at: tf.Tensor, length: int) -> tf.Tensor:
        """Unsigned integers of ``length`` bytes in the file's byte order."""
        digits = byte(at[..., None] + tf.range(length, dtype=tf.int64))
        powers = [256**digit for digit in range(length)]
        return tf.reduce_sum(
            digits * tf.where(little, tf.constant(powers, tf.int64), tf.constant(powers[::-1], tf.int64)), axis=-1
        )

    directory = start + number(start + 4, 4)
    entries = directory + 2 + 12 * tf.range(number(directory, 2))
    values = tf.where(number(entries + 2, 2) == EXIF_SHORT, number(entries + 8, 2), number(entries + 8, 4))
    found = tf.boolean_mask(values, (number(entries, 2) == ORIENTATION) & is_exif(segment))
    orientation = tf.concat([found, [1]], axis=0)[0]
    return tf.where((orientation >= 1) & (orientation <= 8), orientation, 1)


def upright(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Pixels ``[H, W, 3]`` with an EXIF orientation applied."""
    pixels = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
    flip_x, flip_y = (
        tf.reduce_any(orientation == tf.constant(which, tf.int64)) for which in ([2, 3, 6, 7], [3, 4, 7, 8])
    )
    return tf.raw_ops.Reverse(tensor=pixels, dims=tf.stack([flip_y, flip_x, False]))


def resized_size(size: tf.Tensor, min_size: int, image: config.Image) -> tf.Tensor:
    """:func:`transforms.resized_size` as a graph: height and width ``[2]`` int32 of an image of ``size`` ``[2]``."""
    sides = tf.cast(size, tf.float64)
    short, long = tf.reduce_min(sides), tf.reduce_max(sides)
    if image.resize == "bilinear":
        new = tf.floor(sides * tf.minimum(min_size / short, image.max_size / long))
    else:
        exact = sides * (min_size / short)
        # The short side is min_size itself; of two equal sides the height is computed, as in transforms.py.
        is_short = tf.stack([sides[0] < sides[1], sides[0] >= sides[1]])
        exact = tf.where(is_short, tf.constant(float(min_size), tf.float64), exact)
        largest = tf.reduce_max(exact)
        new = tf.floor(tf.where(largest > image.max_size, exact * (image.max_size / largest), exact) + 0.5)
    return tf.maximum(tf.cast(new, tf.int32), 1)


def canvas_number(size: tf.Tensor, image: config.Image) -> tf.Tensor:
    """Number of the canvas of images of ``size`` ``[2]``, scalar int32: :func:`plan.canvas_number` as a graph."""
    fits = tf.reduce_all(
        resized_size(size, max(image.min_size), image) <= tf.constant(canvases(image), tf.int32), axis=1
    )
    return tf.argmax(fits, output_type=tf.int32)


def resize(pixels: tf.Tensor, size: tf.Tensor, image: config.Image) -> tf.Tensor:
    """Image ``[H, W, 3]`` uint8 resized to ``size`` ``[2]`` by the method of ``image.resize``."""
    return resize_bilinear(pixels, size) if image.resize == "bilinear" else resize_pillow(pixels, size)


def resize_pillow(pixels: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """``ops.resize.resize_pillow`` as a graph, bit-identical: values are rounded after each axis."""

    def resample(pixels: tf.Tensor, axes: tuple[int, int]) -> tf.Tensor:
        for axis in axes:
            pixels = tf.cond(
                tf.shape(pixels)[axis] == size[axis],
                lambda p=pixels: p,
                lambda p=pixels, a=axis: _resample(p, size[a], a),
            )
        return pixels

    shrinkage = tf.shape(pixels)[:2] - size
    height_first = (shrinkage[0] > 0) & (shrinkage[0] > 2 * shrinkage[1]) & HEIGHT_MAY_BE_FIRST
    return tf.cond(height_first, lambda: resample(pixels, (0, 1)), lambda: resample(pixels, (1, 0)))


def _resample(pixels: tf.Tensor, length: tf.Tensor, axis: int) -> tf.Tensor:
    """Pixels ``[H, W, 3]`` uint8 with ``length`` rows (axis 0) or columns (axis 1)."""
    before = tf.shape(pixels)[axis]
    scale = tf.cast(before, tf.float64) / tf.cast(length, tf.float64)
    support = tf.maximum(scale, 1.0)  # half the width of the triangle filter
    center = (tf.cast(tf.range(length), tf.float64) + 0.5) * scale
    first = tf.cast(tf.maximum(center - support + 0.5, 0.0), tf.int32)
    count = tf.minimum(tf.cast(center + support + 0.5, tf.int32), before) - first
    taps = tf.reduce_max(count)
    offsets = tf.range(taps)
    distance = tf.cast(first[:, None] + offsets, tf.float64) - center[:, None] + 0.5
    weights = tf.maximum(1.0 - tf.abs(distance * (1.0 / support)), 0.0) * tf.cast(offsets < count[:, None], tf.float64)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    fixed = tf.cast(tf.floor(weights * 2.0**WEIGHT_BITS + 0.5), tf.int32)
    column = [-1, 1, 1] if axis == 0 else [1, -1, 1]

    def add(tap: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        row = tf.gather(pixels, tf.minimum(first + tap, before - 1), axis=axis)
        return tap + 1, total + tf.cast(row, tf.int32) * tf.reshape(fixed[:, tap], column)

    shape = tf.tensor_scatter_nd_update(tf.shape(pixels), [[axis]], [length])
    half = tf.fill(shape, 1 << (WEIGHT_BITS - 1))
    shapes = [tf.TensorShape([]), tf.TensorShape([None, None, 3])]
    _, total = tf.while_loop(
        lambda tap, _: tap < taps,
        add,
        (tf.constant(0), tf.ensure_shape(half, shapes[1])),
        shape_invariants=tuple(shapes),
    )
    return tf.cast(tf.clip_by_value(tf.bitwise.right_shift(total, WEIGHT_BITS), 0, 255), tf.uint8)
