"""Detectron2's Faster and Cascade R-CNN, with the outputs of every stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.data import transforms
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from peers.hooks import capture, capture_all, nhwc

FILES = {
    "detectron2": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "detectron2_r101": "COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml",
    "detectron2_cascade": "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml",
}

LOSSES = {
    "loss_rpn_cls": "rpn_objectness",
    "loss_rpn_loc": "rpn_box",
    "loss_cls": "roi_class",
    "loss_box_reg": "roi_box",
}


class Detectron2Peer:
    """Stages of inference, losses and gradients, as NumPy arrays in NHWC; labels start at 1, as ours."""

    framework = "detectron2"
    background = -1  # row of the class scores

    def __init__(self, name: str) -> None:
        self.backbone_options = {"freeze": 2}
        self.options = model_zoo.get_config(FILES[name])
        self.options.MODEL.DEVICE, self.options.MODEL.WEIGHTS = "cpu", ""
        self.model = build_model(self.options).eval()
        self.model.roi_heads.mask_on = False  # the mask branch has weights but does not run
        self.set_sizes(self.options.INPUT.MIN_SIZE_TEST, self.options.INPUT.MAX_SIZE_TEST)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}

    def set_weights(self, tensors: dict[str, np.ndarray]) -> None:
        self.model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})

    def set_sizes(self, min_size: int, max_size: int) -> None:
        self.resize = transforms.ResizeShortestEdge([min_size, min_size], max_size)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize."""
        change = self.resize.get_transform(np.zeros((height, width, 1), np.uint8))
        return change.new_h, change.new_w

    def _images(self, images: list[np.ndarray]) -> tuple[ImageList, list[dict[str, torch.Tensor]]]:
        inputs = []
        for image in images:
            bgr = np.ascontiguousarray(image[:, :, ::-1])
            resized = self.resize.get_transform(bgr).apply_image(bgr)
            inputs.append({"image": torch.as_tensor(resized.transpose(2, 0, 1).astype(np.float32))})
        return self.model.preprocess_image(inputs), inputs

    @torch.no_grad()
    def stages(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of every stage for an image ``[H, W, 3]`` uint8 RGB."""
        model = self.model.eval()
        generator, heads = model.proposal_generator, model.roi_heads
        parts = {
            "body": model.backbone.bottom_up, "pyramid": model.backbone, "anchors": generator.anchor_generator,
            "head": generator.rpn_head, "rpn": generator,
        }  # fmt: skip
        predictors = self._predictors()
        parts |= {f"predictor{stage}": predictor for stage, predictor in enumerate(predictors)}
        images, inputs = self._images([image])
        with capture(parts) as outputs, capture_all(heads.box_pooler) as pooled:
            (result,) = model([{**inputs[0], "height": image.shape[0], "width": image.shape[1]}])
        found = {"image": nhwc(images.tensor)[0], "image_size": np.array(images.image_sizes[0])}
        found |= {f"C{name[-1]}": nhwc(features)[0] for name, features in outputs["body"].items()}
        found |= {f"P{name[-1]}": nhwc(features)[0] for name, features in outputs["pyramid"].items()}
        found["anchors"] = np.concatenate([boxes.tensor.numpy() for boxes in outputs["anchors"]])
        found["logits"] = np.concatenate([nhwc(level).reshape(-1) for level in outputs["head"][0]])
        found["deltas"] = np.concatenate([nhwc(level).reshape(-1, 4) for level in outputs["head"][1]])
        found["proposals"] = outputs["rpn"][0][0].proposal_boxes.tensor.numpy()
        for stage in range(len(predictors)):
            suffix = f"_{stage + 1}" if stage else ""
            logits, deltas = outputs[f"predictor{stage}"]
            found[f"roi_features{suffix}"] = nhwc(pooled[stage])
            found[f"class_scores{suffix}"] = np.roll(torch.softmax(logits, -1).numpy(), 1, axis=1)
            found[f"box_deltas{suffix}"] = deltas.reshape(len(deltas), -1, 4).numpy()
        result = result["instances"]
        return found | {
            "boxes": result.pred_boxes.tensor.numpy(),
            "scores": result.scores.numpy(),
            "labels": result.pred_classes.numpy() + 1,
        }

    def _predictors(self) -> list[torch.nn.Module]:
        """The predictor of each stage; one without a cascade."""
        predictor = self.model.roi_heads.box_predictor
        return list(predictor) if isinstance(predictor, torch.nn.ModuleList) else [predictor]

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
        model = self.model.to(torch.float32 if replay is None else torch.float64).train()
        torch.manual_seed(0)
        batch, inputs = self._images(images)
        instances = [
            _truth(image.shape, tuple(resized["image"].shape[1:]), box, label)
            for image, resized, box, label in zip(images, inputs, boxes, labels, strict=True)
        ]
        generator = model.proposal_generator
        with (
            EventStorage(),
            _sampling(model, replay) as samples,
            capture({"anchors": generator.anchor_generator}) as outputs,
        ):
            features = model.backbone(batch.tensor)
            proposals, losses = generator(batch, features, instances)
            losses |= model.roi_heads(batch, features, proposals, instances)[1]
        model.zero_grad()
        sum(losses.values()).backward()
        classes = [rois.gt_classes.numpy() for rois in samples["sampled_rois"]]
        return {
            **samples,
            "images": nhwc(batch.tensor),
            "gt_boxes": [truth.gt_boxes.tensor.numpy() for truth in instances],
            "anchor_boxes": np.concatenate([boxes.tensor.numpy() for boxes in outputs["anchors"]]),
            "anchors": [((mark == 1).numpy(), (mark == 0).numpy()) for mark in samples["marks"][0]],
            "rois": [rois.proposal_boxes.tensor.detach().numpy() for rois in samples["sampled_rois"]],
            "roi_labels": [np.where(marks == model.roi_heads.num_classes, 0, marks + 1) for marks in classes],
            "losses": _sums_over_stages(losses),
            "gradients": {
                name: value.grad.numpy().copy() for name, value in model.named_parameters() if value.grad is not None
            },
        }


def _sums_over_stages(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Losses by our names; a cascade has ``loss_cls_stage0`` to ``loss_cls_stage2``."""
    sums: dict[str, float] = {}
    for name, value in losses.items():
        ours = LOSSES[name.partition("_stage")[0]]
        sums[ours] = sums.get(ours, 0.0) + float(value.detach())
    return sums


def _truth(image: tuple[int, ...], size: tuple[int, int], boxes: np.ndarray, labels: np.ndarray) -> Instances:
    """Ground truth on the resized image; Detectron2's labels start at 0."""
    scale = np.array([size[1] / image[1], size[0] / image[0]] * 2, np.float32)
    truth = Instances(size)
    truth.gt_boxes, truth.gt_classes = (
        Boxes(torch.from_numpy(boxes * scale)),
        torch.from_numpy(labels.astype(np.int64) - 1),
    )
    return truth


@contextlib.contextmanager
def _sampling(model: torch.nn.Module, replay: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Record the results of the two samplers in the block; with ``replay`` they return those of the earlier run."""
    generator, heads = model.proposal_generator, model.roi_heads
    sample_anchors, sample_rois = generator.label_and_sample_anchors, heads.label_and_sample_proposals
    samples: dict[str, Any] = {}

    def of_anchors(*arguments: Any) -> Any:
        if replay is None:
            samples["marks"] = sample_anchors(*arguments)
        else:
            marks, matched = replay["marks"]
            samples["marks"] = (marks, [boxes.double() for boxes in matched])
        return samples["marks"]

    def of_rois(*arguments: Any) -> Any:
        samples["sampled_rois"] = (
            sample_rois(*arguments) if replay is None else [_double(rois) for rois in replay["sampled_rois"]]
        )
        return samples["sampled_rois"]

    generator.label_and_sample_anchors, heads.label_and_sample_proposals = of_anchors, of_rois
    if replay:
        generator.predict_proposals = lambda *_: []  # not needed, and its NMS does not support float64
    try:
        yield samples
    finally:
        generator.__dict__.pop("predict_proposals", None)
        generator.label_and_sample_anchors, heads.label_and_sample_proposals = sample_anchors, sample_rois


def _double(rois: Instances) -> Instances:
    fields = {
        name: Boxes(value.tensor) if isinstance(value, Boxes) else value for name, value in rois.get_fields().items()
    }
    for value in fields.values():
        if isinstance(value, Boxes):
            value.tensor = value.tensor.double()
    return Instances(rois.image_size, **fields)
