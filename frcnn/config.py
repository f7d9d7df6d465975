"""Every option of a run in one typed tree: YAML file, then KEY=VALUE overrides, then frozen.

The defaults are torchvision's ``fasterrcnn_resnet50_fpn`` conventions; the YAML files under ``configs/`` change what a
recipe changes and nothing else. Every field states its unit and meaning; ranges are enforced by the schema, so that a
value that loads is a value that the code can use.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from frcnn.errors import UserError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]
Norm = Literal["frozen_bn", "bn", "gn"]


class Section(BaseModel):
    """Base of every section: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Channel(Section):
    """One split of a data set. With both fields null it is looked for below ``data.root`` by its usual names."""

    images: Path | None = Field(None, description="folder that the annotation file's `file_name` entries start from")
    annotations: Path | None = Field(None, description="COCO instances JSON file")


class Data(Section):
    root: Path | None = Field(None, description="folder with train/ val/ annotations/ or train2017/ val2017/ annotations/")
    train: Channel = Channel()
    validation: Channel = Channel()
    on_bad_annotation: Literal["skip", "error"] = Field(
        "skip", description="a bad annotation is counted and skipped, or ends the run before it starts"
    )
    max_bad_image_share: Fraction = Field(
        0.01, description="share of unreadable images above which a run fails; below it they are logged and replaced"
    )
    keep_images_without_objects: bool = Field(True, description="train on images without objects as pure background")
    workers: Count | None = Field(None, description="threads that decode and augment; null: one per core")


class Image(Section):
    min_size: tuple[Count, ...] = Field(
        (800,), description="short side after the resize, pixels; several: drawn anew per example in training, the last in inference"
    )
    max_size: Count = Field(1333, description="upper bound of the long side after the resize, pixels")
    resize: Literal["bilinear", "pillow"] = Field(
        "bilinear", description="bilinear: no antialias, sizes truncated (torchvision); pillow: antialiased on uint8, sizes rounded (Detectron2)"
    )
    channel_order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = Field(
        (123.675, 116.28, 103.53), description="subtracted per channel, on the 0..255 scale, in channel_order"
    )
    std: tuple[Positive, Positive, Positive] = Field(
        (58.395, 57.12, 57.375), description="divided by per channel, on the 0..255 scale, in channel_order"
    )
    canvas_aspects: tuple[Annotated[float, Field(ge=1.0)], ...] = Field(
        (1.0, 1.34, 1.5), description="long/short sides of the static canvases; the aspect max_size/min_size is always one too"
    )

    @model_validator(mode="after")
    def _sizes(self) -> Image:
        if max(self.min_size, default=0) > self.max_size or not self.min_size:
            raise ValueError(f"min_size {list(self.min_size)} must hold at least one size and none above max_size {self.max_size}")
        return self


class Augment(Section):
    """Random changes of training examples; every draw is a function of (seed, epoch, example)."""

    horizontal_flip: Fraction = Field(0.5, description="probability")
    vertical_flip: Fraction = Field(0.0, description="probability; for pictures without an up, such as microscopy or aerial ones")
    scale_range: tuple[Positive, Positive] | None = Field(
        None, description="large-scale jitter: the resized image is scaled by a factor from this range, then cropped or padded to the canvas"
    )
    color_jitter: Fraction = Field(0.0, description="largest relative change of brightness, contrast and saturation")

    @model_validator(mode="after")
    def _range(self) -> Augment:
        if self.scale_range and self.scale_range[0] > self.scale_range[1]:
            raise ValueError(f"scale_range {list(self.scale_range)} must be [smallest, largest]")
        return self


class Backbone(Section):
    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    norm: Norm = Field("frozen_bn", description="frozen_bn needs pretrained weights; bn or gn for training from random weights")
    norm_eps: NonNegative = Field(1e-5, description="added to the variance (torchvision's COCO weights were made with 0)")
    stride_in_1x1: bool = Field(False, description="bottleneck stride in the first 1x1 (MSRA, Detectron2) instead of the 3x3 (v1.5)")
    freeze: Annotated[int, Field(ge=0, le=5)] = Field(
        0, description="how many stages never train, from the stem on: 0 none, 2 stem and first block group (the usual with pretrained weights), 5 all"
    )


class FPN(Section):
    channels: Count = Field(256, description="channels of every pyramid level")
    norm: Literal["none", "bn", "gn"] = Field("none", description="norm after each FPN convolution; none: the convolutions have biases")


class Anchors(Section):
    sizes: tuple[Positive, ...] = Field((32, 64, 128, 256, 512), min_length=5, max_length=5, description="square root of the anchor area on P2..P6, pixels of the resized image")
    aspect_ratios: tuple[Positive, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="height / width")
    rounded: bool = Field(True, description="round base anchors half to even (torchvision)")
    stride: Literal["feature", "fixed"] = Field(
        "feature", description="feature: canvas // feature size per axis (torchvision); fixed: 4, 8, 16, 32, 64 (Detectron2)"
    )


class RPN(Section):
    convs: Count = Field(1, description="3x3 convolutions before the two 1x1 predictors")
    foreground_iou: Fraction = Field(0.7, description="anchors with at least this IoU are positive")
    background_iou: Fraction = Field(0.3, description="anchors below this IoU are negative; between the two they are ignored")
    samples: Count = Field(256, description="anchors sampled per image for the losses")
    positive_fraction: Fraction = Field(0.5, description="upper bound of the positives' share of the samples")
    pre_nms_train: Count = Field(2000, description="proposals per level before NMS, training")
    pre_nms_test: Count = Field(1000, description="proposals per level before NMS, inference")
    post_nms_train: Count = Field(2000, description="proposals per image after NMS, training")
    post_nms_test: Count = Field(1000, description="proposals per image after NMS, inference")
    nms_iou: Fraction = 0.7
    min_box_size: NonNegative = Field(1e-3, description="proposals with a side below this many pixels are dropped")
    smooth_l1_beta: NonNegative = Field(1 / 9, description="where the box loss turns from square to linear; 0 is L1")
    normalizer: Literal["sampled", "constant"] = Field(
        "sampled", description="losses are divided by the sampled anchors (torchvision) or by `samples` per image (Detectron2)"
    )

    @model_validator(mode="after")
    def _thresholds(self) -> RPN:
        if self.background_iou > self.foreground_iou:
            raise ValueError(f"background_iou {self.background_iou} must not exceed foreground_iou {self.foreground_iou}")
        return self


class RoIHead(Section):
    pooled_size: Count = Field(7, description="RoIAlign bins per side")
    sampling_ratio: Annotated[int, Field(ge=0)] = Field(2, description="samples per bin and axis; 0: as many as pixels in the bin, rounded up (Detectron2)")
    aligned: bool = Field(False, description="shift boxes by half a pixel of the feature map (Detectron2)")
    level_rule: Literal["torchvision", "detectron2"] = Field("torchvision", description="where the pyramid level's rounding guard stands; see docs/numerics.md")
    convs: Annotated[int, Field(ge=0)] = Field(0, description="3x3 convolutions with norm before the fully connected layers (torchvision v2: 4)")
    fc_layers: Count = Field(2, description="fully connected layers")
    fc_channels: Count = Field(1024, description="width of the fully connected layers")
    foreground_iou: Fraction = Field(0.5, description="proposals with at least this IoU train as their object's class, the others as background")
    samples: Count = Field(512, description="proposals sampled per image for the losses")
    positive_fraction: Fraction = Field(0.25, description="upper bound of the positives' share of the samples")
    box_weights: tuple[Positive, Positive, Positive, Positive] = Field((10.0, 10.0, 5.0, 5.0), description="scale of the regression targets dx, dy, dw, dh")
    smooth_l1_beta: NonNegative = Field(1 / 9, description="where the box loss turns from square to linear; 0 is L1")
    score_threshold: Fraction = Field(0.05, description="detections at or below this score are dropped")
    nms_iou: Fraction = Field(0.5, description="within a class, a detection with a larger IoU to a better one is dropped")
    min_box_size: NonNegative = Field(1e-2, description="detections with a side below this many pixels are dropped")
    max_detections: Count = Field(100, description="detections per image")


class Ops(Section):
    kernel: Literal["auto", "compiled", "reference"] = Field(
        "auto", description="auto: our kernels where they can be built, else plain TensorFlow; compiled: ours or an error; reference: plain TensorFlow"
    )


class Optimizer(Section):
    learning_rate: Positive = Field(0.02, description="peak rate at base_batch_size; scaled linearly to the global batch size")
    base_batch_size: Count = Field(16, description="images; the batch size that learning_rate is meant for")
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = Field(1e-4, description="L2 penalty's factor, added to the gradient as in PyTorch's SGD")
    decay_norm_and_bias: bool = Field(True, description="apply weight_decay to norm parameters and biases too")
    schedule: Literal["multistep", "cosine"] = "multistep"
    milestones: tuple[Fraction, ...] = Field((16 / 26, 22 / 26), description="multistep: shares of the run after which the rate falls")
    gamma: Fraction = Field(0.1, description="multistep: factor at each milestone")
    final_rate: Fraction = Field(0.0, description="cosine: rate at the end, as a share of the peak")
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    warmup_factor: Fraction = Field(0.001, description="share of the rate at step 0, rising linearly to 1")
    clip_norm: Positive | None = Field(None, description="largest global norm of the gradient; null: no clipping")
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(None, description="decay per step of the averaged weights that are evaluated and saved; null: none")
    accumulation: Count = Field(1, description="batches whose gradients are averaged before one update")


class Training(Section):
    epochs: Positive = Field(26, description="passes over the training images; the fraction counts")
    batch_size: Count = Field(16, description="images per step over all processes")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    evaluate_every: Positive | None = Field(1, description="epochs between evaluations on the validation split; null: only at the end")
    checkpoint_minutes: Positive = Field(10, description="minutes between checkpoints, beside the one at each evaluation")
    keep_checkpoints: Count = Field(2, description="newest checkpoints kept, beside the best one")
    log_every: Count = Field(20, description="steps between log records")
    deterministic: bool = Field(True, description="bit-identical repeats and resumes on a CPU; slower on a GPU")


class Config(Section):
    """The whole tree. ``Config()`` is torchvision's R50-FPN recipe without data."""

    output: Path = Field(Path("runs/latest"), description="folder of the run: model/, checkpoints/, pictures/, logs")
    weights: Path | None = Field(None, description="model folder or .safetensors file to start from; tensors that do not fit the classes are drawn anew")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
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


def load_config(file: Path | None = None, overrides: list[str] | None = None) -> Config:
    """YAML file (or the defaults) with KEY=VALUE overrides on top.

    Args:
        file: YAML file of nested sections, as under ``configs/``.
        overrides: ``section.option=value``; values are texts that the schema coerces (``true``, ``3``, ``null``, JSON).

    Raises:
        UserError: names the file and key, the value, what is allowed and the nearest known key.
    """
    tree = _read_yaml(file) if file else {}
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override {override!r} is not of the form KEY=VALUE, for example training.batch_size=4")
        _insert(tree, key.strip(), text.strip())
    return _validate(tree, source=str(file) if file else "command line")


def config_from_texts(texts: dict[str, str], base: dict[str, Any] | None = None) -> Config:
    """Config from flat ``{"section.option": "text"}`` pairs, as SageMaker hands over hyperparameters, over a nested ``base``."""
    tree = dict(base or {})
    for key, text in texts.items():
        _insert(tree, key, text)
    return _validate(tree, source="hyperparameters")


def save_config(config: Config, file: Path) -> None:
    """Write every option, defaults included, so that the file alone repeats the run."""
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"config file {file} cannot be read ({error.strerror}); give the path of a YAML file such as configs/shapes_r18_fpn.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config file {file} is not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"config file {file} holds a {type(tree).__name__}; expected sections such as 'training:' with options below them")
    return tree


def _insert(tree: dict[str, Any], key: str, text: str) -> None:
    """Put a text value at a dotted key, coerced as its field asks."""
    sections = key.split(".")
    field = _field(key)
    if field is None:
        raise UserError(f"unknown option {key!r}{_nearest(key)}")
    for section in sections[:-1]:
        child = tree.get(section)
        tree[section] = dict(child) if isinstance(child, dict) else {}
        tree = tree[section]
    tree[sections[-1]] = _decode(text, wants_text=_wants_text(field))


def _decode(text: Any, wants_text: bool) -> Any:
    """``"True"``, ``"3"``, ``"null"``, ``"[1, 2]"`` and ``'"name"'`` as the values they spell; other texts stay texts."""
    if not isinstance(text, str):
        return text
    words = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in words and not (wants_text and isinstance(words[text.lower()], bool)):
        return words[text.lower()]
    if wants_text and not text.startswith('"'):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value


def _field(key: str) -> Any:
    """Annotation of the option at a dotted key, or None where there is no such option."""
    annotation: Any = Config
    for name in key.split("."):
        if not (isinstance(annotation, type) and issubclass(annotation, Section)) or name not in annotation.model_fields:
            return None
        annotation = annotation.model_fields[name].annotation
    return annotation


def _wants_text(annotation: Any) -> bool:
    members = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
    return any(member in (str, Path) or isinstance(member, str) for member in members)


def option_names(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all options, in the order of the schema."""
    names: list[str] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += option_names(field.annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _nearest(key: str) -> str:
    names = option_names()
    by_leaf = [name for name in names if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = by_leaf or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; see docs/configuration.md for all options"


def _validate(tree: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except pydantic.ValidationError as invalid:
        problems = [_describe(error) for error in invalid.errors(include_url=False)]
        raise UserError(f"{source}: " + "; ".join(problems)) from None


def _describe(error: Any) -> str:
    """One pydantic error as: option, value, what is allowed."""
    key = ".".join(str(part) for part in error["loc"] if isinstance(part, str))
    if error["type"] == "extra_forbidden":
        return f"unknown option {key!r}{_nearest(key)}"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    if isinstance(value, dict) and error["type"] == "value_error":
        return f"option {key!r}: {message}"
    return f"option {key!r} is {value!r}: {message[:1].lower() + message[1:]}"
