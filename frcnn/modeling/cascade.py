"""Cascade R-CNN (Cai & Vasconcelos 2018): heads that each refine the boxes of the one before, as in Detectron2.

Stage k is trained at its own, higher IoU threshold and with k times the weights of the regression targets, because its
boxes are closer to the objects. Boxes are regressed once for all classes. At inference the scores of all stages are
averaged, and the boxes are those of the last stage.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from frcnn import boxes as box_ops
from frcnn import config
from frcnn.modeling import roi_head
from frcnn.modeling.matching import match
from frcnn.modeling.roi_head import RoIHead, RoISample
from frcnn.modeling.rpn import Proposals

Pool = Callable[[tf.Tensor], tf.Tensor]


def stage_options(options: config.RoIHead) -> list[config.RoIHead]:
    """Options of each stage: its threshold, and Detectron2's weights (10, 20 and 30 for dx with the defaults)."""
    return [
        options.model_copy(
            update={"foreground_iou": iou, "box_weights": tuple(number * weight for weight in options.box_weights)}
        )
        for number, iou in enumerate(options.cascade, start=1)
    ]


class CascadeHead(keras.layers.Layer):
    """A head for each of ``options.cascade``: ``stage1``, ``stage2``, ….

    Attributes:
        stages: the heads, each with its own weights and options.
    """

    def __init__(self, options: config.RoIHead, num_classes: int, channels: int, name: str = "roi_head") -> None:
        super().__init__(name=name)
        self.stages = [
            RoIHead(of_stage, num_classes, channels, class_agnostic=True, name=f"stage{number}")
            for number, of_stage in enumerate(stage_options(options), start=1)
        ]
        self.built = True  # the stages create their variables when they are first called

    def call(self, pooled: tf.Tensor, stage: int, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Pooled RoIs ``[N, P, P, C]`` to logits ``[N, K + 1]`` and deltas ``[N, 1, 4]`` of a stage, from 0."""
        if training:
            # The losses of the stages are added; the features that they share are to be trained at the rate of one.
            pooled = _scale_gradient(pooled, 1 / len(self.stages))
        return self.stages[stage](pooled, training=training)

    def losses(
        self,
        pool: Pool,
        rois: RoISample,
        image_sizes: tf.Tensor,
        gt_boxes: tf.Tensor,
        gt_labels: tf.Tensor,
        gt_valid: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """``roi_class`` and ``roi_box``, each the sum over all stages.

        Args:
            pool: RoIAlign of boxes ``[B, S, 4]``.
            rois: sampled for the first stage. The others train on the same RoIs, refined and labeled anew.
        """
        total: dict[str, tf.Tensor] = {}
        refined: Proposals | None = None
        for number, stage in enumerate(self.stages):
            if refined is not None:
                rois = _relabel(rois, refined, gt_boxes, gt_labels, gt_valid, stage.options)
            logits, deltas = self(pool(rois.boxes), stage=number, training=True)
            refined = refine(rois.boxes, rois.sample.valid, deltas, image_sizes, stage.options)
            for name, value in roi_head.roi_losses(logits, deltas, rois, stage.options).items():
                total[name] = total.get(name, 0.0) + value
        return total

    def predict(
        self, pool: Pool, proposals: Proposals, image_sizes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, Proposals]:
        """Mean probabilities ``[B * P, K + 1]``, the last stage's deltas ``[B * P, 1, 4]`` and the boxes it refines."""
        scores: list[tf.Tensor] = []
        refined = proposals.boxes
        for number, stage in enumerate(self.stages):
            boxes = refined
            logits, deltas = self(pool(boxes), stage=number)
            refined = refine(boxes, proposals.valid, deltas, image_sizes, stage.options).boxes
            scores.append(tf.nn.softmax(logits))
        return tf.add_n(scores) / len(scores), deltas, Proposals(boxes, proposals.valid)


def refine(
    boxes: tf.Tensor, valid: tf.Tensor, deltas: tf.Tensor, image_sizes: tf.Tensor, options: config.RoIHead
) -> Proposals:
    """The boxes ``[B, N, 4]`` that a stage predicts, clipped, without gradient; boxes without area are not valid."""
    refined = box_ops.decode(tf.reshape(deltas, boxes.shape), boxes, options.box_weights)
    refined = box_ops.clip(tf.stop_gradient(refined), image_sizes)
    return Proposals(refined, valid & (box_ops.area(refined) > 0))


def _relabel(
    rois: RoISample,
    refined: Proposals,
    gt_boxes: tf.Tensor,
    gt_labels: tf.Tensor,
    gt_valid: tf.Tensor,
    options: config.RoIHead,
) -> RoISample:
    """The same RoIs, refined, with targets at the IoU of a later stage; nothing is sampled again."""
    matches = match(
        refined.boxes,
        gt_boxes,
        gt_valid,
        foreground_iou=options.foreground_iou,
        background_iou=options.foreground_iou,
        low_quality=False,
    )
    sampled = rois.sample._replace(positive=(matches >= 0) & refined.valid, valid=refined.valid)
    return roi_head.label(refined.boxes, matches, sampled, gt_boxes, gt_labels)


def _scale_gradient(inputs: tf.Tensor, factor: float) -> tf.Tensor:
    """The inputs, with their gradient multiplied by a factor."""

    @tf.custom_gradient
    def scaled(values: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(values), lambda gradient: gradient * tf.cast(factor, gradient.dtype)

    return scaled(inputs)
