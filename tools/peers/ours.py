"""Our detector on the same picture and weights, opened up at the same stages as the peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from frcnn.config import Config
from frcnn.data.plan import STRIDE
from frcnn.data.transforms import resize_bilinear, resize_pillow, resized_size, to_canvas
from frcnn.modeling import roi_head, rpn
from frcnn.modeling.anchors import FIXED_STRIDES
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.modeling.matching import Sample, match
from frcnn.weights import detectron2, torchvision
from frcnn.weights.conversion import Translation, convert

TRANSLATE = {"torchvision": torchvision.translate, "detectron2": detectron2.translate}


def prepare(
    picture: np.ndarray, options: Config, canvas: Sequence[int] | None = None
) -> tuple[tf.Tensor, tuple[int, int]]:
    """The picture on a canvas, by default of its own size rounded up to 32, as a peer pads a batch of one, and its size there."""
    size = resized_size(*picture.shape[:2], options.image.min_size[-1], options.image.max_size, options.image.resize)
    resized = (
        resize_pillow(picture, size)
        if options.image.resize == "pillow"
        else resize_bilinear(picture, tf.constant(size))
    )
    canvas = canvas or [-(-side // STRIDE) * STRIDE for side in size]
    return to_canvas(tf.convert_to_tensor(resized), tf.constant([0, 0]), tf.constant(canvas), options.image)[None], size


class OurSide:
    """A model with a peer's weights; ``build`` makes it of the number of classes and the options."""

    def __init__(
        self,
        framework: str,
        tensors: Mapping[str, np.ndarray],
        changes: Mapping[str, Any],
        build: Callable[[int, Config], FasterRCNN] = build_model,
    ) -> None:
        self.translation: Translation = TRANSLATE[framework](tensors)
        tree = {
            section: dict(self.translation.options.get(section, {}))
            for section in {*self.translation.options, *changes}
        }
        for section, values in changes.items():
            tree[section].update(values)
        self.options = Config.model_validate(tree)
        self.model: FasterRCNN = build(len(self.translation.class_names), self.options)
        converted = convert(
            tensors, self.translation, {variable.path: tuple(variable.shape) for variable in self.model.variables}
        )
        for variable in self.model.variables:
            variable.assign(converted[variable.path])

    def stages(self, picture: np.ndarray, peer_proposals: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Every intermediate result; what follows the proposals is shown at the peer's where those are given, but for the detections."""
        images, size = prepare(picture, self.options)
        model, options = self.model, self.options
        features = model.backbone(images)
        pyramid = model.fpn(features)
        anchors = model.anchors(images.shape[1:3], pyramid)
        predictions = model.rpn(pyramid)
        proposals = rpn.propose(
            predictions, anchors, tf.constant([size]), options.rpn, options.ops.kernel, training=False
        )
        found = {"image": images[0], "image_size": np.array(size), "anchors": anchors}
        found |= {f"C{level}": feature[0] for level, feature in enumerate(features, start=2)}
        found |= {f"P{level}": feature[0] for level, feature in enumerate(pyramid, start=2)}
        found |= {
            "logits": predictions.logits[0],
            "deltas": predictions.deltas[0],
            "proposals": proposals.boxes[0][proposals.valid[0]],
        }
        shown = found["proposals"] if peer_proposals is None else tf.constant(peer_proposals)
        pooled = roi_head.pool(pyramid, shown[None], options.roi_head, options.ops.kernel)
        logits, deltas = model.roi_head(pooled)
        found |= {"roi_features": pooled, "class_scores": tf.nn.softmax(logits), "box_deltas": deltas}
        return {name: np.asarray(value) for name, value in found.items()} | self.detect(picture)

    def detect(self, picture: np.ndarray, canvas: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Boxes, scores and labels, computed on a canvas as ``prepare`` takes it."""
        images, size = prepare(picture, self.options, canvas)
        detections = self.model.detect(images, tf.constant([size]), tf.constant([picture.shape[:2]]))
        count = int(detections.counts[0])
        return {name: getattr(detections, name)[0, :count].numpy() for name in ("boxes", "scores", "labels")}

    def training(
        self, pictures: list[np.ndarray], boxes: list[np.ndarray], labels: list[np.ndarray], drawn: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The four losses and their gradients by path on the anchors and proposals that the peer drew (``drawn``)."""
        options = self.options
        prepared = [prepare(picture, options) for picture in pictures]
        images = tf.concat([image for image, _ in prepared], axis=0)
        scaled = [
            _scaled(rows, picture.shape, size)
            for rows, picture, (_, size) in zip(boxes, pictures, prepared, strict=True)
        ]
        gt_boxes, gt_labels = tf.constant(padded(scaled), tf.float32), tf.constant(padded(labels), tf.int32)
        gt_valid = gt_labels > 0
        anchors = self._anchors(images)
        matches = match(
            anchors, gt_boxes, gt_valid,
            foreground_iou=options.rpn.foreground_iou, background_iou=options.rpn.background_iou, low_quality=True,
        )  # fmt: skip
        rois = tf.constant(padded(drawn["rois"]), tf.float32)
        threshold = options.roi_head.foreground_iou
        objects = match(rois, gt_boxes, gt_valid, foreground_iou=threshold, background_iou=threshold, low_quality=False)
        found = self.step(images, anchors, gt_boxes, gt_labels, matches, objects, drawn)
        return found | {
            "matches": matches,
            "objects": objects,
            "mismatched": _mismatched(matches, found.pop("roi_labels"), drawn),
        }

    def _anchors(self, images: tf.Tensor) -> tf.Tensor:
        """Of the five levels, whose sizes alone the model looks at."""
        sides = [[-(-side // stride) for side in images.shape[1:3]] for stride in FIXED_STRIDES]
        return self.model.anchors(images.shape[1:3], [tf.zeros([1, *side, 1]) for side in sides])

    def step(
        self, images: tf.Tensor, anchors: tf.Tensor, gt_boxes: tf.Tensor, gt_labels: tf.Tensor, matches: tf.Tensor, objects: tf.Tensor,
        drawn: Mapping[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        """Losses and gradients of a prepared batch; ``matches`` ``[B, A]`` and ``objects`` ``[B, S]`` are our matching's results."""
        model, options = self.model, self.options
        sample, rois = _anchor_sample(drawn), _rois(drawn, gt_boxes, gt_labels, objects)
        with tf.GradientTape() as tape:
            pyramid = model.pyramid(images, training=True)
            losses = rpn.rpn_losses(
                *model.rpn.at(pyramid, sample.indices), anchors, gt_boxes, matches, sample, options.rpn
            )
            pooled = roi_head.pool(pyramid, rois.boxes, options.roi_head, options.ops.kernel)
            losses |= roi_head.roi_losses(*model.roi_head(pooled, training=True), rois, options.roi_head)
            total = tf.add_n(list(losses.values()))
        variables = model.trainable_variables
        gradients = {v.path: g.numpy() for v, g in zip(variables, tape.gradient(total, variables), strict=True)}
        return {
            "losses": {name: float(value) for name, value in losses.items()},
            "gradients": gradients,
            "roi_labels": rois.labels.numpy(),
        }


def padded(rows: list[np.ndarray]) -> np.ndarray:
    """Arrays of different lengths stacked, with zeros behind the shorter ones."""
    longest = max(map(len, rows))
    return np.stack([np.pad(row, [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows])


def _scaled(boxes: np.ndarray, picture: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    return boxes * np.array([size[1] / picture[1], size[0] / picture[0]] * 2, np.float32)


def _anchor_sample(drawn: Mapping[str, Any]) -> Sample:
    """The peer's anchors as ours stand, positives first; images may have drawn different numbers."""
    rows = [
        np.concatenate([np.flatnonzero(positive), np.flatnonzero(negative)]) for positive, negative in drawn["anchors"]
    ]
    positives = [int(positive.sum()) for positive, _ in drawn["anchors"]]
    position = np.arange(max(map(len, rows)))
    return Sample(
        tf.constant(padded(rows), tf.int32),
        tf.constant([position < count for count in positives]),
        tf.constant([position < len(row) for row in rows]),
    )


def _rois(
    drawn: Mapping[str, Any], gt_boxes: tf.Tensor, gt_labels: tf.Tensor, objects: tf.Tensor
) -> roi_head.RoISample:
    """The peer's sampled proposals with the classes and objects that our matching gives them."""
    boxes = tf.constant(padded(drawn["rois"]), gt_boxes.dtype)
    valid = tf.constant([np.arange(boxes.shape[1]) < len(rows) for rows in drawn["rois"]])
    matched = tf.maximum(objects, 0)
    labels = tf.where((objects >= 0) & valid, tf.gather(gt_labels, matched, batch_dims=1), 0)
    sample = Sample(tf.zeros_like(objects), labels > 0, valid)
    return roi_head.RoISample(boxes, labels, tf.gather(gt_boxes, matched, batch_dims=1), sample)


def _mismatched(matches: tf.Tensor, roi_labels: np.ndarray, drawn: Mapping[str, Any]) -> int:
    """How many of the peer's sampled anchors and proposals our matching takes for something else."""
    anchors = sum(
        int(((row.numpy() >= 0) != positive)[positive | negative].sum())
        for row, (positive, negative) in zip(matches, drawn["anchors"], strict=True)
    )
    return anchors + sum(
        int((ours[: len(theirs)] != theirs).sum()) for ours, theirs in zip(roi_labels, drawn["roi_labels"], strict=True)
    )
