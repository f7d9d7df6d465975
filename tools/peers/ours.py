"""Our detector on the same picture and weights, opened up at the same stages as the peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from frcnn.config import Config
from frcnn.data.plan import STRIDE
from frcnn.data.transforms import resize_bilinear, resize_pillow, resized_size, to_canvas
from frcnn.modeling import roi_head, rpn
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.modeling.matching import Sample, match
from frcnn.weights import detectron2, torchvision
from frcnn.weights.conversion import Translation, convert

TRANSLATE = {"torchvision": torchvision.translate, "detectron2": detectron2.translate}


def prepare(picture: np.ndarray, options: Config) -> tuple[tf.Tensor, tuple[int, int]]:
    """The picture on a canvas of its own size rounded up to 32, as a peer pads a batch of one, and its size there."""
    size = resized_size(*picture.shape[:2], options.image.min_size[-1], options.image.max_size, options.image.resize)
    resized = resize_pillow(picture, size) if options.image.resize == "pillow" else resize_bilinear(picture, tf.constant(size))
    canvas = tf.constant([-(-side // STRIDE) * STRIDE for side in size])
    return to_canvas(tf.convert_to_tensor(resized), tf.constant([0, 0]), canvas, options.image)[None], size


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
        tree = {section: dict(self.translation.options.get(section, {})) for section in {*self.translation.options, *changes}}
        for section, values in changes.items():
            tree[section].update(values)
        self.options = Config.model_validate(tree)
        self.model: FasterRCNN = build(len(self.translation.class_names), self.options)
        converted = convert(tensors, self.translation, {variable.path: tuple(variable.shape) for variable in self.model.variables})
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
        proposals = rpn.propose(predictions, anchors, tf.constant([size]), options.rpn, options.ops.kernel, training=False)
        found = {"image": images[0], "image_size": np.array(size), "anchors": anchors}
        found |= {f"C{level}": feature[0] for level, feature in enumerate(features, start=2)}
        found |= {f"P{level}": feature[0] for level, feature in enumerate(pyramid, start=2)}
        found |= {"logits": predictions.logits[0], "deltas": predictions.deltas[0], "proposals": proposals.boxes[0][proposals.valid[0]]}
        shown = found["proposals"] if peer_proposals is None else tf.constant(peer_proposals)
        pooled = roi_head.pool(pyramid, shown[None], options.roi_head, options.ops.kernel)
        logits, deltas = model.roi_head(pooled)
        found |= {"roi_features": pooled, "class_scores": tf.nn.softmax(logits), "box_deltas": deltas}
        detections = model.detect(images, tf.constant([size]), tf.constant([picture.shape[:2]]))
        count = int(detections.counts[0])
        found |= {"boxes": detections.boxes[0, :count], "scores": detections.scores[0, :count], "labels": detections.labels[0, :count]}
        return {name: np.asarray(value) for name, value in found.items()}

    def training(
        self, pictures: list[np.ndarray], boxes: list[np.ndarray], labels: list[np.ndarray], drawn: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The four losses and their gradients by path on the anchors and proposals that the peer drew (``drawn``)."""
        prepared = [prepare(picture, self.options) for picture in pictures]
        images = tf.concat([image for image, _ in prepared], axis=0)
        scaled = [_scaled(rows, picture.shape, size) for rows, picture, (_, size) in zip(boxes, pictures, prepared, strict=True)]
        gt_labels = tf.constant(padded(labels), tf.int32)
        return self.step(images, None, tf.constant(padded(scaled), tf.float32), gt_labels, drawn)

    def step(
        self, images: tf.Tensor, anchors: tf.Tensor | None, gt_boxes: tf.Tensor, gt_labels: tf.Tensor, drawn: Mapping[str, Any]
    ) -> dict[str, Any]:
        """``training`` from the prepared batch on; ``anchors`` in the place of the model's own where given."""
        model, options = self.model, self.options
        gt_valid = gt_labels > 0
        rois = _rois(drawn, gt_boxes, gt_labels, gt_valid, options)
        with tf.GradientTape() as tape:
            pyramid = model.pyramid(images, training=True)
            if anchors is None:
                anchors = model.anchors(images.shape[1:3], pyramid)
            matches = match(
                anchors, gt_boxes, gt_valid,
                foreground_iou=options.rpn.foreground_iou, background_iou=options.rpn.background_iou, low_quality=True,
            )  # fmt: skip
            losses = rpn.rpn_losses(model.rpn(pyramid), anchors, gt_boxes, matches, _anchor_sample(drawn), options.rpn)
            pooled = roi_head.pool(pyramid, rois.boxes, options.roi_head, options.ops.kernel)
            losses |= roi_head.roi_losses(*model.roi_head(pooled, training=True), rois, options.roi_head)
            total = tf.add_n(list(losses.values()))
        variables = model.trainable_variables
        gradients = {v.path: g.numpy() for v, g in zip(variables, tape.gradient(total, variables), strict=True)}
        mismatched = sum(
            int(((row.numpy() >= 0) != positive)[positive | negative].sum())
            for row, (positive, negative) in zip(matches, drawn["anchors"], strict=True)
        )
        mismatched += sum(int((ours != theirs).sum()) for ours, theirs in zip(rois.labels.numpy(), drawn["roi_labels"], strict=True))
        return {"losses": {name: float(value) for name, value in losses.items()}, "gradients": gradients, "mismatched": mismatched}


def padded(rows: list[np.ndarray]) -> np.ndarray:
    """Arrays of different lengths stacked, with zeros behind the shorter ones."""
    longest = max(map(len, rows))
    return np.stack([np.pad(row, [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows])


def _scaled(boxes: np.ndarray, picture: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    return boxes * np.array([size[1] / picture[1], size[0] / picture[0]] * 2, np.float32)


def _anchor_sample(drawn: Mapping[str, Any]) -> Sample:
    """The peer's anchors as ours stand, positives first; images may have drawn different numbers."""
    rows = [np.concatenate([np.flatnonzero(positive), np.flatnonzero(negative)]) for positive, negative in drawn["anchors"]]
    positives = [int(positive.sum()) for positive, _ in drawn["anchors"]]
    position = np.arange(max(map(len, rows)))
    return Sample(
        tf.constant(padded(rows), tf.int32),
        tf.constant([position < count for count in positives]),
        tf.constant([position < len(row) for row in rows]),
    )


def _rois(drawn: Mapping[str, Any], gt_boxes: tf.Tensor, gt_labels: tf.Tensor, gt_valid: tf.Tensor, options: Config) -> roi_head.RoISample:
    """The peer's sampled proposals with the classes and objects that our matching gives them."""
    size = max(map(len, drawn["rois"]))
    boxes = tf.constant(padded(drawn["rois"]), gt_boxes.dtype)
    valid = tf.constant([np.arange(size) < len(rows) for rows in drawn["rois"]])
    threshold = options.roi_head.foreground_iou
    matches = match(boxes, gt_boxes, gt_valid, foreground_iou=threshold, background_iou=threshold, low_quality=False)
    matched = tf.maximum(matches, 0)
    labels = tf.where((matches >= 0) & valid, tf.gather(gt_labels, matched, batch_dims=1), 0)
    sample = Sample(tf.zeros_like(matches), labels > 0, valid)
    return roi_head.RoISample(boxes, labels, tf.gather(gt_boxes, matched, batch_dims=1), sample)
