"""Every option of a run in one typed tree.

The defaults are torchvision's ``fasterrcnn_resnet50_fpn`` conventions; the YAML files under ``configs/`` change what a
recipe changes and nothing else. Every field states its unit and meaning; ranges are enforced by the schema, so that a
value that loads is a value that the code can use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Norm = Literal["frozen_bn", "bn", "gn"]


class Section(BaseModel):
    """Base of every section: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, tree: Any) -> Any:
        """A YAML section whose options are all commented out is null; it means the defaults."""
        if not isinstance(tree, dict):
            return tree
        return {
            name: value for name, value in tree.items() if value is not None or not is_section(annotation_of(cls, name))
        }


class Split(Section):
    """One split of a data set. With both fields null it is looked for below ``data.root`` by its usual names."""

    images: Path | None = Field(None, description="folder that the annotation file's `file_name` entries start from")
    annotations: Path | None = Field(None, description="COCO instances JSON file")


class Data(Section):
    root: Path | None = Field(
        None, description="folder with train/ val/ annotations/ or train2017/ val2017/ annotations/"
    )
    train: Split = Split()
    validation: Split = Split()
    on_bad_annotation: Literal["skip", "error"] = Field(
        "skip", description="a bad annotation is counted and skipped, or ends the run before it starts"
    )
    max_bad_image_share: Fraction = Field(
        0.01, description="share of unreadable images above which a run fails; below it they are logged and replaced"
    )
    sharded: bool = Field(
        False,
        description="each host's training folder holds only its part of the images (SageMaker's ShardedByS3Key), which its processes share",
    )
    keep_images_without_objects: bool = Field(True, description="train on images without objects as pure background")
    workers: Count | None = Field(
        None, description="threads that decode and augment; null: one per core of the process, at most 16"
    )


class Image(Section):
    min_size: tuple[Count, ...] = Field(
        (800,),
        description="short side after the resize, pixels; several: drawn anew per example in training, the last in inference",
    )
    max_size: Count = Field(1333, description="upper bound of the long side after the resize, pixels")
    resize: Literal["bilinear", "pillow"] = Field(
        "bilinear",
        description="bilinear: no antialias, sizes truncated (torchvision); pillow: antialiased on uint8, sizes rounded (Detectron2)",
    )
    channel_order: Literal["rgb", "bgr"] = Field("rgb", description="order of the colours that the network sees")
    mean: tuple[float, float, float] = Field(
        (123.675, 116.28, 103.53), description="subtracted per channel, on the 0..255 scale, in channel_order"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        (58.395, 57.12, 57.375), description="divided by per channel, on the 0..255 scale, in channel_order"
    )
    canvas_aspects: tuple[Annotated[float, Field(ge=1.0)], ...] = Field(
        (1.0, 1.34, 1.5),
        description="long/short sides of the static canvases; the aspect max_size/min_size is always one too",
    )

    @model_validator(mode="after")
    def _sizes(self) -> Image:
        if max(self.min_size, default=0) > self.max_size or not self.min_size:
            raise ValueError(
                f"min_size {list(self.min_size)} must hold at least one size and none above max_size {self.max_size}"
            )
        return self


class Augment(Section):
    """Random changes of training examples; every draw is a function of (seed, epoch, example)."""

    horizontal_flip: Fraction = Field(0.5, description="probability")
    vertical_flip: Fraction = Field(
        0.0, description="probability; for pictures without an up, such as microscopy or aerial ones"
    )
    scale_range: tuple[Positive, Positive] | None = Field(
        None,
        description="large-scale jitter: the resized image is scaled by a factor from this range, then cropped or padded to the canvas",
    )
    color_jitter: Fraction = Field(0.0, description="largest relative change of brightness, contrast and saturation")

    @model_validator(mode="after")
    def _range(self) -> Augment:
        if self.scale_range and self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range {list(self.scale_range)} must be [smallest, largest]")
        return self


class Backbone(Section):
    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = Field(
        "resnet50", description="network (v1.5)"
    )
    norm: Norm = Field(
        "frozen_bn", description="frozen_bn needs pretrained weights; bn or gn for training from random weights"
    )
    norm_eps: NonNegative = Field(
        1e-5, description="added to the variance (torchvision's COCO weights were made with 0)"
    )
    stride_in_1x1: bool = Field(
        False, description="bottleneck stride in the first 1x1 (MSRA, Detectron2) instead of the 3x3 (v1.5)"
    )
    freeze: Annotated[int, Field(ge=0, le=5)] = Field(
        0,
        description="how many stages never train, from the stem on: 0 none, 2 stem and first block group (with pretrained weights), 5 all",
    )


class FPN(Section):
    channels: Count = Field(256, description="channels of every pyramid level")
    norm: Literal["none", "bn", "gn"] = Field(
        "none", description="norm after each FPN convolution; none: the convolutions have biases"
    )

    @model_validator(mode="after")
    def _groups(self) -> FPN:
        if self.norm == "gn" and self.channels % 32:
            raise ValueError(
                f"channels {self.channels} cannot be normalised in 32 groups (norm gn); take a multiple of 32"
            )
        return self


class Anchors(Section):
    sizes: tuple[Positive, ...] = Field(
        (32, 64, 128, 256, 512),
        min_length=5,
        max_length=5,
        description="square root of the area on P2..P6, pixels of the resized image",
    )
    aspect_ratios: tuple[Positive, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="height / width")
    rounded: bool = Field(True, description="round base anchors half to even (torchvision)")
    stride: Literal["feature", "fixed"] = Field(
        "feature",
        description="feature: canvas // feature size per axis (torchvision); fixed: 4, 8, 16, 32, 64 (Detectron2)",
    )


class RPN(Section):
    convs: Count = Field(1, description="3x3 convolutions before the two 1x1 predictors")
    foreground_iou: Fraction = Field(0.7, description="anchors with at least this IoU are positive")
    background_iou: Fraction = Field(
        0.3, description="anchors below this IoU are negative; between the two they are ignored"
    )
    samples: Count = Field(256, description="anchors sampled per image for the losses")
    positive_fraction: Fraction = Field(0.5, description="upper bound of the positives' share of the samples")
    pre_nms_train: Count = Field(2000, description="proposals per level before NMS, training")
    pre_nms_test: Count = Field(1000, description="proposals per level before NMS, inference")
    post_nms_train: Count = Field(2000, description="proposals per image after NMS, training")
    post_nms_test: Count = Field(1000, description="proposals per image after NMS, inference")
    nms_iou: Fraction = Field(
        0.7, description="within a level, a proposal with a larger IoU to a better one is dropped"
    )
    min_box_size: NonNegative = Field(1e-3, description="proposals with a side of at most this many pixels are dropped")
    smooth_l1_beta: NonNegative = Field(1 / 9, description="where the box loss turns from square to linear; 0 is L1")
    normalizer: Literal["sampled", "constant"] = Field(
        "sampled",
        description="losses are divided by the sampled anchors (torchvision) or by `samples` per image (Detectron2)",
    )

    @model_validator(mode="after")
    def _thresholds(self) -> RPN:
        if self.background_iou > self.foreground_iou:
            raise ValueError(
                f"background_iou {self.background_iou} must not exceed foreground_iou {self.foreground_iou}"
            )
        return self


class RoIHead(Section):
    pooled_size: Count = Field(7, description="RoIAlign bins per side")
    sampling_ratio: Annotated[int, Field(ge=0)] = Field(
        2, description="samples per bin and axis; 0: as many as pixels in the bin, rounded up (Detectron2)"
    )
    aligned: bool = Field(False, description="shift boxes by half a pixel of the feature map (Detectron2)")
    level_rule: Literal["torchvision", "detectron2"] = Field(
        "torchvision", description="where the pyramid level's rounding guard stands; see docs/numerics.md"
    )
    convs: Annotated[int, Field(ge=0)] = Field(
        0, description="3x3 convolutions with norm before the fully connected layers (torchvision v2: 4)"
    )
    fc_layers: Count = Field(2, description="fully connected layers")
    fc_channels: Count = Field(1024, description="width of the fully connected layers")
    foreground_iou: Fraction = Field(
        0.5, description="proposals with at least this IoU train as their object's class, the others as background"
    )
    samples: Count = Field(512, description="proposals sampled per image for the losses")
    positive_fraction: Fraction = Field(0.25, description="upper bound of the positives' share of the samples")
    box_weights: tuple[Positive, Positive, Positive, Positive] = Field(
        (10.0, 10.0, 5.0, 5.0), description="scale of the regression targets dx, dy, dw, dh"
    )
    smooth_l1_beta: NonNegative = Field(1 / 9, description="where the box loss turns from square to linear; 0 is L1")
    score_threshold: Fraction = Field(0.05, description="detections at or below this score are dropped")
    nms_iou: Fraction = Field(
        0.5, description="within a class, a detection with a larger IoU to a better one is dropped"
    )
    min_box_size: NonNegative = Field(
        1e-2, description="detections with a side of at most this many pixels are dropped"
    )
    max_detections: Count = Field(100, description="detections per image")


class Ops(Section):
    kernel: Literal["auto", "compiled", "reference"] = Field(
        "auto",
        description="auto: our kernels where they can be built, else plain TensorFlow; compiled: ours or an error; reference: plain",
    )


class Optimizer(Section):
    learning_rate: Positive = Field(
        0.02, description="peak rate at base_batch_size; scaled linearly to the global batch size"
    )
    base_batch_size: Count = Field(16, description="images; the batch size that learning_rate is meant for")
    momentum: Fraction = Field(0.9, description="share of the last update in the next")
    nesterov: bool = Field(False, description="Nesterov's form of the momentum")
    weight_decay: NonNegative = Field(
        1e-4, description="L2 penalty's factor, added to the gradient as in PyTorch's SGD"
    )
    decay_norm_and_bias: bool = Field(True, description="apply weight_decay to norm parameters and biases too")
    schedule: Literal["multistep", "cosine"] = Field("multistep", description="how the rate falls after the warm-up")
    milestones: tuple[Fraction, ...] = Field(
        (16 / 26, 22 / 26), description="multistep: shares of the run after which the rate falls"
    )
    gamma: Fraction = Field(0.1, description="multistep: factor at each milestone")
    final_rate: Fraction = Field(0.0, description="cosine: rate at the end, as a share of the peak")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        1000, description="steps over which the rate rises at the start; at most a third of the run"
    )
    warmup_factor: Fraction = Field(0.001, description="share of the rate at step 0, rising linearly to 1")
    clip_norm: Positive | None = Field(None, description="largest global norm of the gradient; null: no clipping")
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None, description="decay per step of the averaged weights that are evaluated and saved; null: none"
    )
    accumulation: Count = Field(1, description="batches whose gradients are averaged before one update")


class Training(Section):
    epochs: Positive = Field(26, description="passes over the training images; the fraction counts")
    batch_size: Count = Field(16, description="images per step over all processes, which share them evenly")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="of the computation, a Keras policy; weights and losses are always float32"
    )
    evaluate_every: Positive | None = Field(
        1, description="epochs between evaluations on the validation split; null: only at the end"
    )
    checkpoint_minutes: Positive = Field(
        10, description="minutes between checkpoints, beside the one at each evaluation"
    )
    keep_checkpoints: Count = Field(2, description="newest checkpoints kept; the best model is in the model folder")
    log_every: Count = Field(20, description="steps between log records")
    deterministic: bool = Field(True, description="bit-identical repeats and resumes on a CPU; slower on a GPU")


class Distributed(Section):
    """Several processes; without effect on one that runs alone."""

    compression: Literal["none", "fp16"] = Field(
        "none", description="of gradients on their way between processes; fp16 halves what travels and rounds it"
    )
    sync_batch_norm: bool = Field(
        False, description="batch norm over the images of all processes; for norm bn, in training"
    )
    # Longer than mpirun needs to notice a lost host: told to end ranks on one that does not answer, it waits for ever.
    stall_minutes: Annotated[float, Field(ge=0.5)] = Field(
        10, description="minutes without progress of any process after which the run is ended"
    )


class Config(Section):
    """The whole tree. ``Config()`` is torchvision's R50-FPN recipe without data."""

    output: Path = Field(Path("runs/latest"), description="folder of the run: model/, checkpoints/, pictures/, logs")
    weights: Path | None = Field(
        None,
        description="model folder or .safetensors file to start from; tensors that do not fit the classes are drawn anew",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="of the weights, the order of examples, augmentation and sampling"
    )
    data: Data = Data()
    image: Image = Image()
    augment: Augment = Augment()
    backbone: Backbone = Backbone()
    fpn: FPN = FPN()
    anchors: Anchors = Anchors()
    rpn: RPN = RPN()
    roi_head: RoIHead = RoIHead()
    ops: Ops = Ops()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    distributed: Distributed = Distributed()


def is_section(annotation: Any) -> bool:
    """Whether a field of this annotation is a section of further options."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def annotation_of(section: type[Section], name: Any) -> Any:
    """Annotation of a section's field, or None where it has no such field."""
    return section.model_fields[name].annotation if name in section.model_fields else None
