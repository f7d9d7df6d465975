"""The typed tree of all options of a training run.

The defaults are torchvision's ``fasterrcnn_resnet50_fpn`` recipe; a YAML file under ``configs/`` contains only what its
recipe changes. Every option states its unit and meaning, and its range is enforced, so that the code can use any value
that loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from frcnn.config.data_options import Augment, Data, Image
from frcnn.config.model_options import FPN, RPN, Anchors, Backbone, Inference, Ops, RoIHead
from frcnn.config.options import Options
from frcnn.config.training_options import Distributed, Optimizer, Tracking, Training

# Defaults under `conventions: detectron2`; those under torchvision are the defaults of the schema (docs/numerics.md).
DETECTRON2_CONVENTIONS: Mapping[str, Any] = {
    "image.resize": "pillow",
    "image.channel_order": "bgr",
    "image.mean": [103.53, 116.28, 123.675],
    "image.std": [1.0, 1.0, 1.0],
    "backbone.norm_eps": 1e-5,
    "backbone.stride_in_1x1": True,
    "anchors.rounded": False,
    "anchors.stride": "fixed",
    "rpn.post_nms_train": 1000,
    "rpn.min_box_size": 0.0,
    "rpn.smooth_l1_beta": 0.0,
    "rpn.normalizer": "constant",
    "roi_head.sampling_ratio": 0,
    "roi_head.aligned": True,
    "roi_head.level_rule": "detectron2",
    "roi_head.smooth_l1_beta": 0.0,
    "roi_head.min_box_size": 0.0,
}


class Config(Options):
    """All options. ``Config()`` is torchvision's R50-FPN recipe without data."""

    output: Path = Field(Path("runs/latest"), description="folder of the run: model/, checkpoints/, images/, logs")
    weights: Path | None = Field(
        None,
        description="model folder, .safetensors file or name of fetched weights (frcnn fetch-weights --list) to "
        "initialize from; predictors of other classes start at random",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="seed of initialization, data order, augmentation and sampling"
    )
    conventions: Literal["torchvision", "detectron2"] = Field(
        "torchvision",
        description="framework whose numerical conventions apply: defaults of the options in the last section",
    )
    data: Data = Data()
    image: Image = Image()
    augment: Augment = Augment()
    backbone: Backbone = Backbone()
    fpn: FPN = FPN()
    anchors: Anchors = Anchors()
    rpn: RPN = RPN()
    roi_head: RoIHead = RoIHead()
    test: Inference = Inference()
    ops: Ops = Ops()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    distributed: Distributed = Distributed()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _check_groups(self) -> Config:
        if self.roi_head.norm == "gn" and self.fpn.channels % 32:
            raise ValueError(f"fpn.channels {self.fpn.channels} is not a multiple of the 32 groups of roi_head.norm gn")
        return self

    @model_validator(mode="after")
    def _check_recompute(self) -> Config:
        if self.training.recompute and self.backbone.norm == "bn":
            raise ValueError(
                "training.recompute computes blocks twice, which would update the statistics of backbone.norm bn "
                "twice; use frozen_bn or gn, or training.recompute=false"
            )
        return self

    @model_validator(mode="after")
    def _check_reduced_decode(self) -> Config:
        if self.data.reduced_decode and self.image.resize != "pillow":
            raise ValueError(
                f"data.reduced_decode averages pixels, which the resize {self.image.resize} does not; use "
                "image.resize=pillow, or data.reduced_decode=false"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _apply_conventions(cls, tree: Any) -> Any:
        """Set what the conventions decide and the tree leaves open."""
        if not isinstance(tree, dict) or tree.get("conventions") != "detectron2":
            return tree
        tree = dict(tree)
        for name, value in DETECTRON2_CONVENTIONS.items():
            section, option = name.split(".")
            chosen = tree.get(section)
            if isinstance(chosen, dict) or chosen is None:
                tree[section] = {option: value, **(chosen or {})}
        return tree
