"""torchvision's Faster R-CNN, with the outputs of every stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.faster_rcnn import _resnet_fpn_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

from peers.hooks import capture, nhwc

CLASSES, TRAINABLE = 91, 3
LOSSES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "roi_class",
    "loss_box_reg": "roi_box",
}


def build(version: str) -> FasterRCNN:
    """The detector as torchvision runs its published COCO weights: v1 with frozen norms and eps 0, v2 unchanged."""
    if version == "torchvision_v2":
        return fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    model = FasterRCNN(_resnet_fpn_extractor(resnet50(weights=None, norm_layer=FrozenBatchNorm2d), TRAINABLE), CLASSES)
    overwrite_eps(model, 0.0)
    return model


class TorchvisionPeer:
    """Stages of inference, losses and gradients, as NumPy arrays in NHWC."""

    framework = "torchvision"
    background = 0  # row of the class scores

    def __init__(self, name: str) -> None:
        # torchvision updates the batch norm statistics of v2's frozen stages, so the comparison freezes nothing.
        self.backbone_options = {"freeze": 0 if name == "torchvision_v2" else 2}
        self.model = build(name).eval()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    def set_weights(self, tensors: dict[str, np.ndarray]) -> None:
        self.model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})

    def set_sizes(self, min_size: int, max_size: int) -> None:
        self.model.transform.min_size, self.model.transform.max_size = (min_size,), max_size

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize."""
        resized, _ = self.model.transform.eval().resize(torch.zeros(1, height, width))
        return resized.shape[1], resized.shape[2]

    @torch.no_grad()
    def stages(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of every stage for an image ``[H, W, 3]`` uint8 RGB."""
        model = self.model.eval()
        parts = {
            "transform": model.transform, "body": model.backbone.body, "pyramid": model.backbone.fpn,
            "head": model.rpn.head, "anchors": model.rpn.anchor_generator, "rpn": model.rpn,
            "pooled": model.roi_heads.box_roi_pool, "predictor": model.roi_heads.box_predictor,
        }  # fmt: skip
        with capture(parts) as outputs:
            (result,) = model([_tensor(image)])
        images = outputs["transform"][0]
        found = {"image": nhwc(images.tensors)[0], "image_size": np.array(images.image_sizes[0])}
        found |= {f"C{level}": nhwc(features)[0] for level, features in enumerate(outputs["body"].values(), start=2)}
        found |= {f"P{level}": nhwc(features)[0] for level, features in enumerate(outputs["pyramid"].values(), start=2)}
        found["anchors"] = outputs["anchors"][0].numpy()
        found["logits"] = np.concatenate([nhwc(level).reshape(-1) for level in outputs["head"][0]])
        found["deltas"] = np.concatenate([nhwc(level).reshape(-1, 4) for level in outputs["head"][1]])
        found["proposals"] = outputs["rpn"][0][0].numpy()
        found["roi_features"] = nhwc(outputs["pooled"])
        logits, deltas = outputs["predictor"]
        found["class_scores"] = torch.softmax(logits, -1).numpy()
        found["box_deltas"] = deltas.reshape(len(deltas), -1, 4)[:, 1:].numpy()
        return found | {name: result[name].numpy() for name in ("boxes", "scores", "labels")}

    def training(
        self,
        images: list[np.ndarray],
        boxes: list[np.ndarray],
        labels: list[np.ndarray],
        replay: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Losses by our names, gradients by tensor name, and the samples, for a batch of images of one size.

        With ``replay``, the result of an earlier call, on its samples and in float64.
        """
        dtype = torch.float32 if replay is None else torch.float64
        model = self.model.to(dtype).train()
        torch.manual_seed(0)
        images = [_tensor(image).to(dtype) for image in images]
        targets = [
            {"boxes": torch.from_numpy(box).to(dtype), "labels": torch.from_numpy(label.astype(np.int64))}
            for box, label in zip(boxes, labels, strict=True)
        ]
        with (
            _sampling(model, replay) as samples,
            capture({"transform": model.transform, "anchors": model.rpn.anchor_generator}) as outputs,
        ):
            losses = model(images, targets)
        batch, truth = outputs["transform"]
        model.zero_grad()
        sum(losses.values()).backward()
        gradients = {
            name: parameter.grad.numpy().copy()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        return {
            **samples,
            "images": nhwc(batch.tensors),
            "gt_boxes": replay["gt_boxes"] if replay else [target["boxes"].numpy() for target in truth],
            "anchor_boxes": outputs["anchors"][0].numpy(),
            "anchors": [
                (positive.numpy() > 0, negative.numpy() > 0)
                for positive, negative in zip(*samples["masks"], strict=True)
            ],
            "rois": [rois.detach().numpy() for rois in samples["selected"][0]],
            "roi_labels": [marks.numpy() for marks in samples["selected"][2]],
            "losses": {LOSSES[name]: float(value.detach()) for name, value in losses.items()},
            "gradients": gradients,
        }


@contextlib.contextmanager
def _sampling(model: FasterRCNN, replay: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Record the results of the two samplers in the block; with ``replay`` they return those of the earlier run."""
    assign, sample_anchors = model.rpn.assign_targets_to_anchors, model.rpn.fg_bg_sampler
    select = model.roi_heads.select_training_samples
    samples: dict[str, Any] = {}

    def of_objects(*arguments: Any) -> Any:
        samples["matched"] = (
            assign(*arguments)
            if replay is None
            else tuple([rows.double() for rows in part] for part in replay["matched"])
        )
        return samples["matched"]

    def of_anchors(marks: list[torch.Tensor]) -> Any:
        samples["masks"] = replay["masks"] if replay else sample_anchors(marks)
        return samples["masks"]

    def of_rois(proposals: list[torch.Tensor], targets: Any) -> Any:
        if replay is None:
            samples["selected"] = select(proposals, targets)
        else:
            boxes, matched, labels, _ = replay["selected"]
            rois = [rows.double() for rows in boxes]
            objects = [
                torch.from_numpy(boxes).double()[rows] for boxes, rows in zip(replay["gt_boxes"], matched, strict=True)
            ]
            samples["selected"] = (rois, matched, labels, model.roi_heads.box_coder.encode(objects, rois))
        return samples["selected"]

    model.rpn.assign_targets_to_anchors, model.rpn.fg_bg_sampler = of_objects, of_anchors
    model.roi_heads.select_training_samples = of_rois
    try:
        yield samples
    finally:
        model.rpn.assign_targets_to_anchors, model.rpn.fg_bg_sampler = assign, sample_anchors
        model.roi_heads.select_training_samples = select


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)
