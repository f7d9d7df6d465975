"""Options of the network: backbone, FPN, anchors, RPN, RoI head and kernels.

The defaults are those of torchvision's ``fasterrcnn_resnet50_fpn``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from frcnn.config.options import Count, Fraction, NonNegative, Options, Positive

Norm = Literal["frozen_bn", "bn", "gn"]


class Backbone(Options):
    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = Field(
        "resnet50", description="backbone architecture (ResNet v1.5)"
    )
    norm: Norm = Field(
        "frozen_bn",
        description="normalization; frozen_bn needs pretrained weights, bn and gn train from random weights",
    )
    norm_eps: NonNegative = Field(1e-5, description="batch norm epsilon (0 for torchvision's COCO weights)")
    stride_in_1x1: bool = Field(False, description="bottleneck stride in the first 1x1 convolution instead of the 3x3")
    freeze: Annotated[int, Field(ge=0, le=5)] = Field(
        0,
        description="frozen stages: 0 none, 2 stem and first block group (usual with pretrained weights), 5 all",
    )


class FPN(Options):
    channels: Count = Field(256, description="channels of every pyramid level")
    norm: Literal["none", "bn", "gn"] = Field(
        "none", description="normalization after each FPN convolution; none: convolutions with bias"
    )

    @model_validator(mode="after")
    def _check_groups(self) -> FPN:
        if self.norm == "gn" and self.channels % 32:
            raise ValueError(f"channels {self.channels} is not a multiple of the 32 groups of norm gn")
        return self


class Anchors(Options):
    sizes: tuple[Positive, ...] = Field(
        (32, 64, 128, 256, 512),
        min_length=5,
        max_length=5,
        description="square root of the anchor area on P2..P6, in pixels of the resized image",
    )
    aspect_ratios: tuple[Positive, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="height / width")
    rounded: bool = Field(True, description="round base anchors half to even")
    stride: Literal["feature", "fixed"] = Field(
        "feature", description="feature: canvas size // feature size, per axis; fixed: 4, 8, 16, 32, 64"
    )


class RPN(Options):
    convs: Count = Field(1, description="3x3 convolutions before the two 1x1 predictors")
    foreground_iou: Fraction = Field(0.7, description="minimum IoU of positive anchors")
    background_iou: Fraction = Field(
        0.3, description="anchors below this IoU are negative; those between the two thresholds are ignored"
    )
    samples: Count = Field(256, description="anchors sampled per image for the losses")
    positive_fraction: Fraction = Field(0.5, description="maximum fraction of positive samples")
    pre_nms_train: Count = Field(2000, description="proposals per level before NMS in training")
    pre_nms_test: Count = Field(1000, description="proposals per level before NMS in inference")
    post_nms_train: Count = Field(2000, description="proposals per image after NMS in training")
    post_nms_test: Count = Field(1000, description="proposals per image after NMS in inference")
    nms_iou: Fraction = Field(0.7, description="NMS threshold, per level")
    min_box_size: NonNegative = Field(
        1e-3, description="proposals whose width or height is at most this are dropped, in pixels"
    )
    smooth_l1_beta: NonNegative = Field(1 / 9, description="transition from quadratic to linear box loss; 0 is L1")
    normalizer: Literal["sampled", "constant"] = Field(
        "sampled", description="divisor of the losses: the sampled anchors, or `samples` per image"
    )

    @model_validator(mode="after")
    def _check_thresholds(self) -> RPN:
        if self.background_iou > self.foreground_iou:
            raise ValueError(
                f"background_iou {self.background_iou} must not exceed foreground_iou {self.foreground_iou}"
            )
        return self


class RoIHead(Options):
    pooled_size: Count = Field(7, description="RoIAlign bins per side")
    sampling_ratio: Annotated[int, Field(ge=0)] = Field(
        2, description="RoIAlign samples per bin and axis; 0: adaptive, the bin's size in pixels rounded up"
    )
    aligned: bool = Field(False, description="RoIAlign with the half-pixel correction")
    level_rule: Literal["torchvision", "detectron2"] = Field(
        "torchvision",
        description="where epsilon enters the assignment of boxes to pyramid levels; see docs/numerics.md",
    )
    convs: Annotated[int, Field(ge=0)] = Field(
        0, description="3x3 convolutions before the fully connected layers (torchvision v2: 4)"
    )
    norm: Literal["bn", "gn", "sync_bn"] = Field(
        "bn", description="normalization of these convolutions; sync_bn: batch norm over all ranks"
    )
    fc_layers: Count = Field(2, description="number of fully connected layers")
    fc_channels: Count = Field(1024, description="width of the fully connected layers")
    cascade: tuple[Fraction, ...] = Field(
        (),
        description="Cascade R-CNN: foreground_iou of each stage, such as [0.5, 0.6, 0.7]; empty: a single head. Stage "
        "k has k times the box_weights",
    )
    foreground_iou: Fraction = Field(0.5, description="minimum IoU of positive proposals; the others are background")
    samples: Count = Field(512, description="proposals sampled per image for the losses")
    positive_fraction: Fraction = Field(0.25, description="maximum fraction of positive samples")
    box_weights: tuple[Positive, Positive, Positive, Positive] = Field(
        (10.0, 10.0, 5.0, 5.0), description="weights of the regression targets dx, dy, dw, dh"
    )
    box_loss: Literal["smooth_l1", "giou", "ciou"] = Field(
        "smooth_l1", description="box loss: smooth L1 of the deltas, or generalized or complete IoU of the boxes"
    )
    smooth_l1_beta: NonNegative = Field(1 / 9, description="transition from quadratic to linear box loss; 0 is L1")
    dynamic: bool = Field(
        False,
        description="Dynamic R-CNN: foreground_iou and smooth_l1_beta start at 0.4 and 1, and follow statistics of the "
        "proposals every 100 steps",
    )
    score_threshold: Fraction = Field(0.05, description="minimum score of detections (exclusive)")
    nms_iou: Fraction = Field(0.5, description="NMS threshold, per class")
    min_box_size: NonNegative = Field(
        1e-2, description="detections whose width or height is at most this are dropped, in pixels"
    )
    max_detections: Count = Field(100, description="maximum detections per image")

    @field_validator("cascade", mode="before")
    @classmethod
    def _null_is_empty(cls, value: Any) -> Any:
        return () if value is None else value

    @model_validator(mode="after")
    def _check_combinations(self) -> RoIHead:
        if self.cascade and self.cascade[0] != self.foreground_iou:
            raise ValueError(
                f"cascade starts with {self.cascade[0]}, but foreground_iou is {self.foreground_iou}; both are the "
                "threshold of the first stage, so set them to the same value"
            )
        if self.dynamic and (self.cascade or self.box_loss != "smooth_l1"):
            raise ValueError(
                "dynamic schedules the IoU threshold of a single head and the beta of smooth_l1; leave out cascade and "
                "set box_loss to smooth_l1, or set dynamic to false"
            )
        if self.norm != "bn" and not self.convs:
            raise ValueError(f"norm {self.norm} needs convolutions to normalize; set convs, for example to 4")
        return self


class Inference(Options):
    """What detection does beyond one pass over the image; training does not depend on it."""

    flip: bool = Field(False, description="also detect in the mirrored image, and merge the detections")
    scales: tuple[Annotated[float, Field(ge=0.25, le=4.0)], ...] = Field(
        (1.0,),
        min_length=1,
        description="sizes to detect at, as factors of the last image.min_size and of image.max_size; detections of "
        "all sizes are merged",
    )
    soft_nms: Literal["none", "linear", "gaussian"] = Field(
        "none",
        description="lower the scores of boxes that overlap a better one of their class instead of dropping them; "
        "linear: above roi_head.nms_iou",
    )
    soft_nms_sigma: Positive = Field(0.5, description="gaussian: width of the decay; smaller lowers more")

    @model_validator(mode="after")
    def _check_scales(self) -> Inference:
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales {list(self.scales)} contains a size twice")
        return self


class Ops(Options):
    kernel: Literal["auto", "compiled", "reference"] = Field(
        "auto",
        description="implementation of RoIAlign, NMS, group norm, bias with ReLU, and the resize of training images. "
        "auto: compiled kernels if they can be built, else TensorFlow ops; compiled: kernels or an error; reference: "
        "TensorFlow ops",
    )
