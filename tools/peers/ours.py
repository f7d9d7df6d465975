"""frcnn on the peers' images and weights, with the outputs of the same stages."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from frcnn.config import Config
from frcnn.data.plan import STRIDE
from frcnn.data.transforms import resized_size, to_canvas
from frcnn.modeling import roi_head, rpn
from frcnn.modeling.anchors import FIXED_STRIDES
from frcnn.modeling.cascade import CascadeHead, refine
from frcnn.modeling.faster_rcnn import FasterRCNN, build_model
from frcnn.modeling.matching import Sample, match
from frcnn.ops.resize import resize_bilinear, resize_pillow
from frcnn.weights import detectron2, torchvision
from frcnn.weights.conversion import Translation, convert

TRANSLATE = {"torchvision": torchvision.translate, "detectron2": detectron2.translate}


def prepare(
    image: np.ndarray, options: Config, canvas: Sequence[int] | None = None
) -> tuple[tf.Tensor, tuple[int, int]]:
    """The image on a canvas, and its size there.

    The default canvas is the image's size rounded up to 32, as a peer pads a batch of one.
    """
    size = resized_size(*image.shape[:2], options.image.min_size[-1], options.image.max_size, options.image.resize)
    resized = (
        resize_pillow(image, size) if options.image.resize == "pillow" else resize_bilinear(image, tf.constant(size))
    )
    canvas = canvas or [-(-side // STRIDE) * STRIDE for side in size]
    return to_canvas(tf.convert_to_tensor(resized), tf.constant([0, 0]), tf.constant(canvas), options.image)[None], size


class OurSide:
    """A model with a peer's weights; ``build`` creates it from the number of classes and the options."""

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

    def stages(self, image: np.ndarray, peer_proposals: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Outputs of every stage. Where given, the peer's proposals are the input of the RoI head's stages.

        Detections always result from our own proposals.
        """
        images, size = prepare(image, self.options)
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
        found |= self._head_stages(pyramid, shown[None], tf.constant([size]))
        return {name: np.asarray(value) for name, value in found.items()} | self.detect(image)

    def _head_stages(self, pyramid: list[tf.Tensor], boxes: tf.Tensor, image_sizes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Outputs of the RoI head, or of each stage of a cascade, whose later ones have names with a number."""
        model, options = self.model, self.options
        found: dict[str, tf.Tensor] = {}
        for number, stage in enumerate(model.roi_head.stages, start=1):
            suffix = f"_{number}" if number > 1 else ""
            pooled = roi_head.pool(pyramid, boxes, options.roi_head, options.ops.kernel)
            logits, deltas = stage(pooled)
            outputs = {"roi_features": pooled, "class_scores": tf.nn.softmax(logits), "box_deltas": deltas}
            found |= {f"{name}{suffix}": value for name, value in outputs.items()}
            if isinstance(model.roi_head, CascadeHead):
                boxes, _ = refine(boxes, tf.fill(boxes.shape[:2], True), deltas, image_sizes, stage.options)
        return found

    def detect(self, image: np.ndarray, canvas: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Boxes, scores and labels; ``canvas`` as for :func:`prepare`."""
        images, size = prepare(image, self.options, canvas)
        detections = self.model.detect(images, tf.constant([size]), tf.constant([image.shape[:2]]))
        count = int(detections.counts[0])
        return {name: getattr(detections, name)[0, :count].numpy() for name in ("boxes", "scores", "labels")}

    def training(
        self, images: list[np.ndarray], boxes: list[np.ndarray], labels: list[np.ndarray], samples: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The four losses and their gradients by path on the anchors and proposals that the peer sampled."""
        options = self.options
        prepared = [prepare(image, options) for image in images]
        canvases = tf.concat([canvas for canvas, _ in prepared], axis=0)
        scaled = [
            _scaled(rows, image.shape, size) for rows, image, (_, size) in zip(boxes, images, prepared, strict=True)
        ]
        gt_boxes, gt_labels = tf.constant(padded(scaled), tf.float32), tf.constant(padded(labels), tf.int32)
        gt_valid = gt_labels > 0
        anchors = self._anchors(canvases)
        matches = match(
            anchors, gt_boxes, gt_valid,
            foreground_iou=options.rpn.foreground_iou, background_iou=options.rpn.background_iou, low_quality=True,
        )  # fmt: skip
        rois = tf.constant(padded(samples["rois"]), tf.float32)
        threshold = options.roi_head.foreground_iou
        objects = match(rois, gt_boxes, gt_valid, foreground_iou=threshold, background_iou=threshold, low_quality=False)
        sizes = tf.constant([size for _, size in prepared])
        found = self.step(canvases, sizes, anchors, gt_boxes, gt_labels, matches, objects, samples)
        return found | {
            "image_sizes": sizes,
            "matches": matches,
            "objects": objects,
            "mismatched": _mismatched(matches, found.pop("roi_labels"), samples),
        }

    def _anchors(self, images: tf.Tensor) -> tf.Tensor:
        """Anchors of the five levels; the model uses only the sizes of the pyramid."""
        sides = [[-(-side // stride) for side in images.shape[1:3]] for stride in FIXED_STRIDES]
        return self.model.anchors(images.shape[1:3], [tf.zeros([1, *side, 1]) for side in sides])

    def step(
        self,
        images: tf.Tensor,
        image_sizes: tf.Tensor,
        anchors: tf.Tensor,
        gt_boxes: tf.Tensor,
        gt_labels: tf.Tensor,
        matches: tf.Tensor,
        objects: tf.Tensor,
        samples: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Losses and gradients of a prepared batch with our matches ``[B, A]`` of anchors and ``[B, S]`` of RoIs."""
        model, options = self.model, self.options
        sample, rois = _anchor_sample(samples), _rois(samples, gt_boxes, gt_labels, objects)
        with tf.GradientTape() as tape:
            pyramid = model.pyramid(images, training=True)
            losses = rpn.rpn_losses(
                *model.rpn.at(pyramid, sample.indices), anchors, gt_boxes, matches, sample, options.rpn
            )
            if isinstance(model.roi_head, CascadeHead):
                pool = functools.partial(roi_head.pool, pyramid, options=options.roi_head, kernel=options.ops.kernel)
                truth = (gt_boxes, gt_labels, gt_labels > 0)
                losses |= model.roi_head.losses(pool, rois, image_sizes, *truth)
            else:
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
    """Stack arrays of different lengths, padded with zeros."""
    longest = max(map(len, rows))
    return np.stack([np.pad(row, [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)) for row in rows])


def _scaled(boxes: np.ndarray, image: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    return boxes * np.array([size[1] / image[1], size[0] / image[0]] * 2, np.float32)


def _anchor_sample(samples: Mapping[str, Any]) -> Sample:
    """The peer's sampled anchors in our format, positives first; their number may differ between images."""
    rows = [
        np.concatenate([np.flatnonzero(positive), np.flatnonzero(negative)])
        for positive, negative in samples["anchors"]
    ]
    positives = [int(positive.sum()) for positive, _ in samples["anchors"]]
    position = np.arange(max(map(len, rows)))
    return Sample(
        tf.constant(padded(rows), tf.int32),
        tf.constant([position < count for count in positives]),
        tf.constant([position < len(row) for row in rows]),
    )


def _rois(
    samples: Mapping[str, Any], gt_boxes: tf.Tensor, gt_labels: tf.Tensor, objects: tf.Tensor
) -> roi_head.RoISample:
    """The peer's sampled proposals with the classes and boxes assigned by our matching."""
    boxes = tf.constant(padded(samples["rois"]), gt_boxes.dtype)
    valid = tf.constant([np.arange(boxes.shape[1]) < len(rows) for rows in samples["rois"]])
    matched = tf.maximum(objects, 0)
    labels = tf.where((objects >= 0) & valid, tf.gather(gt_labels, matched, batch_dims=1), 0)
    sample = Sample(tf.zeros_like(objects), labels > 0, valid)
    return roi_head.RoISample(boxes, labels, tf.gather(gt_boxes, matched, batch_dims=1), sample)


def _mismatched(matches: tf.Tensor, roi_labels: np.ndarray, samples: Mapping[str, Any]) -> int:
    """Number of the peer's sampled anchors and proposals that our matching assigns differently."""
    anchors = sum(
        int(((row.numpy() >= 0) != positive)[positive | negative].sum())
        for row, (positive, negative) in zip(matches, samples["anchors"], strict=True)
    )
    return anchors + sum(
        int((ours[: len(theirs)] != theirs).sum())
        for ours, theirs in zip(roi_labels, samples["roi_labels"], strict=True)
    )
