"""Options of the dataset, of preprocessing and of augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from frcnn.config.options import Count, Fraction, NonNegative, Options, Positive


class Split(Options):
    """One split of a dataset. If both are null, the split is searched for below ``data.root`` by its usual names."""

    images: Path | None = Field(
        None, description="folder that the annotation file's `file_name` entries are relative to"
    )
    annotations: Path | None = Field(None, description="COCO instances JSON file")


class Data(Options):
    root: Path | None = Field(
        None, description="dataset folder with train/ val/ annotations/ or train2017/ val2017/ annotations/"
    )
    train: Split = Split()
    validation: Split = Split()
    on_bad_annotation: Literal["skip", "error"] = Field(
        "skip", description="skip: count and skip invalid annotations; error: refuse the dataset before training starts"
    )
    box_format: Literal["xywh", "xyxy", "normalized_xywh"] | None = Field(
        None,
        description="format of `bbox`: pixels x, y, width, height (COCO), pixels x1, y1, x2, y2, or fractions of the "
        "image's size; null: xywh, and files that look like another format are refused",
    )
    max_bad_image_share: Fraction = Field(
        0.01,
        description="fraction of unreadable images that fails the run; fewer are logged and replaced by blank images",
    )
    max_pixels: Count = Field(
        50_000_000,
        description="maximum pixels of an image, checked on its header before decoding, which takes up to 40 bytes per "
        "pixel; larger images count as unreadable",
    )
    sharded: bool = Field(
        False,
        description="the training folder of each host holds only its shard of the images (SageMaker's ShardedByS3Key)",
    )
    keep_images_without_objects: bool = Field(True, description="train on images without objects as background")
    repeat_threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description="repeat-factor sampling: images of classes in less than this share f of the images are repeated "
        "about sqrt(repeat_threshold / f) times an epoch, which becomes longer; null: none",
    )
    fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="train on this share of the training images, chosen at random by the seed"
    )
    reduced_decode: bool = Field(
        False,
        description="decode training JPEGs at 1/2, 1/4 or 1/8 of their size if the resize reduces them by at least as "
        "much: less CPU time, slightly different pixels; needs image.resize=pillow",
    )
    validation_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0,
        description="evaluate on this share of the validation images during training, a random one that is the same in "
        "all runs",
    )
    workers: Count | None = Field(
        None, description="decoding and augmentation threads; null: one per available core, at most 16"
    )


class Image(Options):
    min_size: tuple[Count, ...] = Field(
        (800,),
        description="short side after resizing, in pixels; several sizes: one is sampled per training image, "
        "the last one is used in inference",
    )
    max_size: Count = Field(1333, description="maximum of the long side after resizing, in pixels")
    resize: Literal["bilinear", "pillow"] = Field(
        "bilinear",
        description="bilinear: no antialiasing, sizes truncated; pillow: antialiased on uint8, sizes rounded",
    )
    channel_order: Literal["rgb", "bgr"] = Field("rgb", description="channel order of the network's input")
    mean: tuple[float, float, float] = Field(
        (123.675, 116.28, 103.53), description="subtracted per channel, on the 0..255 scale, in channel_order"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        (58.395, 57.12, 57.375), description="divisor per channel, on the 0..255 scale, in channel_order"
    )
    canvas_aspects: tuple[Annotated[float, Field(ge=1.0)], ...] = Field(
        (1.0, 1.34, 1.5),
        description="aspect ratios (long / short side) of the static canvases; max_size / min_size is always added",
    )

    @model_validator(mode="after")
    def _check_sizes(self) -> Image:
        if max(self.min_size, default=0) > self.max_size or not self.min_size:
            raise ValueError(
                f"min_size {list(self.min_size)} must contain at least one size and none above max_size {self.max_size}"
            )
        return self


class Augment(Options):
    """Random augmentation of training images; every draw is a function of (seed, epoch, image)."""

    horizontal_flip: Fraction = Field(0.5, description="probability of a horizontal flip")
    vertical_flip: Fraction = Field(
        0.0, description="probability of a vertical flip; for images without an up direction (microscopy, aerial)"
    )
    scale_range: tuple[Positive, Positive] | None = Field(
        None,
        description="large-scale jitter: [smallest, largest] factor of the resized image, which is then cropped or "
        "padded to the canvas",
    )
    color_jitter: Fraction = Field(0.0, description="maximum relative change of brightness, contrast and saturation")
    rotation: Annotated[float, Field(ge=0.0, le=180.0)] = Field(
        0.0, description="maximum rotation to either side, degrees; boxes grow to enclose their rotated corners"
    )
    shear: Annotated[float, Field(ge=0.0, le=30.0)] = Field(0.0, description="maximum shear of each axis, degrees")
    crop: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None,
        description="random crop of the image's aspect ratio around a whole box, enlarged to the image's size: "
        "smallest side of the crop as a share of the image's; null: none",
    )
    blur: NonNegative = Field(0.0, description="maximum radius of a Gaussian blur, pixels of the file")
    noise: NonNegative = Field(0.0, description="maximum standard deviation of Gaussian noise, on the 0..255 scale")

    @model_validator(mode="after")
    def _check_range(self) -> Augment:
        if self.scale_range and self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range {list(self.scale_range)} must be [smallest, largest]")
        return self
