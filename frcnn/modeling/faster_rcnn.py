"""The detector: takes a batch, returns losses or detections.

    backbone -> fpn -> rpn -> proposals -> roi_align -> roi_head -> losses | detections

Shape shorthand: ``B`` images, ``H W`` the canvas, ``G`` ground-truth slots, ``A`` anchors of an image, ``P``
proposals, ``S`` sampled RoIs, ``K`` classes without background, ``D`` detections. All are static for a given canvas.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from frcnn import config
from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.data.transforms import normalize
from frcnn.modeling import roi_head, rpn
from frcnn.modeling.anchors import level_anchors
from frcnn.modeling.cascade import CascadeHead
from frcnn.modeling.detections import BatchDetections, detect
from frcnn.modeling.dynamic import DynamicSchedule
from frcnn.modeling.fpn import FPN, PyramidConv
from frcnn.modeling.layers import Conv2D, folded_together
from frcnn.modeling.norms import BatchNorm, GroupNorm
from frcnn.modeling.resnet import ConvNorm, ResNet
from frcnn.modeling.views import detect_views, views_of

fold_in = tf.random.experimental.stateless_fold_in


class FasterRCNN(keras.Model):
    """Faster R-CNN with a feature pyramid network.

    Variables are float32; the compute dtype is that of the Keras dtype policy at construction.
    """

    def __init__(self, num_classes: int, options: Config) -> None:
        super().__init__(name="faster_rcnn")
        self.options = options
        # The compiled kernels have no XLA lowering. Keras would enable XLA on GPUs, and fail only there.
        self.supports_jit = False
        self.backbone = ResNet(options.backbone)
        self.fpn = FPN(options.fpn)
        self.rpn = rpn.RPNHead(options.rpn, options.fpn.channels, len(options.anchors.aspect_ratios))
        head = CascadeHead if options.roi_head.cascade else roi_head.RoIHead
        self.roi_head: CascadeHead | roi_head.RoIHead = head(options.roi_head, num_classes, options.fpn.channels)
        # Absent, not None, without the option: checkpoints hold every attribute.
        if options.roi_head.dynamic:
            self.dynamic_schedule = DynamicSchedule()
        self._create_variables()
        for layer in self._flatten_layers():
            if isinstance(layer, GroupNorm):
                layer.kernel = options.ops.kernel
            elif isinstance(layer, Conv2D):
                layer.bias_kernel = options.ops.kernel
        self.backbone.recompute = options.training.recompute

    def _create_variables(self) -> None:
        """Run every layer once on a small canvas to create all variables in a fixed order before tracing."""
        pyramid = self.pyramid(tf.zeros([1, 64, 64, 3]))
        self.rpn(pyramid)
        pooled = roi_head.pool(pyramid, tf.zeros([1, 1, 4]), self.options.roi_head, "reference")
        if isinstance(self.roi_head, CascadeHead):
            for stage in range(len(self.roi_head.stages)):
                self.roi_head(pooled, stage=stage)
        else:
            self.roi_head(pooled)
        self.built = True

    @property
    def training_state(self) -> list[tf.Variable]:
        """Variables that only training needs: in checkpoints, but neither in ``variables`` nor in model folders."""
        return list(self.dynamic_schedule.variables) if self.options.roi_head.dynamic else []

    def synchronize(self, allreduce_sum: Callable[[tf.Tensor, str], tf.Tensor]) -> None:
        """Compute statistics over all ranks: those of batch norms whose option says so, and of the dynamic schedule.

        Args:
            allreduce_sum: ``allreduce_sum(tensor, name)`` sums a tensor over the ranks.
        """
        if self.options.roi_head.dynamic:
            self.dynamic_schedule.allreduce_sum = allreduce_sum
        everywhere, in_head = self.options.distributed.sync_batch_norm, self.options.roi_head.norm == "sync_bn"
        for layer in self._flatten_layers():
            if isinstance(layer, BatchNorm) and (everywhere or (in_head and layer.path.startswith("roi_head/"))):
                layer.allreduce_sum = allreduce_sum

    def fold_batch_norm(self) -> None:
        """Fold stored statistics into the convolutions once, for inference: the weights must not change afterwards."""
        for convolution, normalization in self._conv_norm_pairs():
            convolution.fold(normalization)

    @property
    def inference_variables(self) -> list[tf.Variable]:
        """The variables that inference reads: those of folded layers instead of their kernels and norms."""
        replaced: set[int] = set()
        folded: list[tf.Variable] = []
        for convolution, normalization in self._conv_norm_pairs():
            if convolution.folded is not None:
                replaced |= {id(variable) for variable in (*convolution.variables, *normalization.variables)}
                folded.extend(convolution.folded)
        return [variable.value for variable in self.variables if id(variable) not in replaced] + folded

    def _conv_norm_pairs(self) -> list[tuple[Conv2D, keras.layers.Layer]]:
        layers = [layer for layer in self._flatten_layers() if isinstance(layer, ConvNorm | PyramidConv)]
        pairs = [(layer.conv, layer.norm) for layer in layers if layer.norm is not None]
        return pairs + [pair for head in self.roi_head.stages for pair in zip(head.convs, head.norms, strict=True)]

    def normalized(self, images: tf.Tensor, image_sizes: tf.Tensor) -> tf.Tensor:
        """Images of a :class:`Batch` as the network takes them: uint8 ones are normalized, float32 ones already are."""
        return normalize(images, image_sizes, self.options.image) if images.dtype == tf.uint8 else images

    def pyramid(self, images: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """Images ``[B, H, W, 3]`` to P2..P6, ``[B, Hl, Wl, C]``; ``H`` and ``W`` are multiples of 32."""
        # Recomputed blocks read their kernels themselves, because no gradient passes through what is computed outside.
        groups = [] if training and self.backbone.recompute else self._backbone_groups()
        with folded_together(groups, self.options.ops.kernel):
            return self.fpn(self.backbone(images, training=training), training=training)

    def _backbone_groups(self) -> list[list[tuple[Conv2D, keras.layers.Layer]]]:
        """Convolutions and norms of the stem and of each stage."""
        return [
            [
                (layer.conv, layer.norm)
                for part in parts
                for layer in part._flatten_layers()
                if isinstance(layer, ConvNorm)
            ]
            for parts in self.backbone.parts
        ]

    def anchors(self, canvas: tuple[int, int], pyramid: list[tf.Tensor]) -> tf.Tensor:
        """Anchors ``[A, 4]`` of all levels, a constant of the graph."""
        levels = [
            level_anchors(canvas, (features.shape[1], features.shape[2]), level, self.options.anchors)
            for level, features in enumerate(pyramid)
        ]
        return tf.constant(np.concatenate(levels))

    def compute_losses(self, batch: Batch, seed: tf.Tensor, first_image: int = 0) -> dict[str, tf.Tensor]:
        """The four training losses, scalars: ``rpn_objectness``, ``rpn_box``, ``roi_class``, ``roi_box``.

        Args:
            batch: images and ground truth of one canvas.
            seed: ``[2]`` int32. Which anchors and RoIs of an image are sampled is a pure function of the seed and the
                image's position in the global batch.
            first_image: position of the first image in the global batch, that of all ranks.
        """
        options = self.options
        gt_valid = (batch.labels > 0) & ~batch.crowd
        pyramid = self.pyramid(self.normalized(batch.images, batch.image_sizes), training=True)
        anchors = self.anchors((batch.images.shape[1], batch.images.shape[2]), pyramid)
        # Seeds are consumed in host memory: computed on a GPU, each would be copied back.
        with tf.device("CPU:0"):
            anchor_seeds, roi_seeds = (
                _image_seeds(fold_in(seed, stage), first_image, batch.images.shape[0]) for stage in range(2)
            )
        matches, sampled = rpn.assign(anchors, batch.boxes, gt_valid, options.rpn, anchor_seeds)
        sampled_outputs = self.rpn.at(pyramid, sampled.indices)
        losses = rpn.rpn_losses(*sampled_outputs, anchors, batch.boxes, matches, sampled, options.rpn)
        predictions = self.rpn([tf.stop_gradient(features) for features in pyramid])
        proposals = rpn.propose(predictions, anchors, batch.image_sizes, options.rpn, options.ops.kernel, training=True)
        truth = (batch.boxes, batch.labels, gt_valid)
        head_options = options.roi_head
        if head_options.dynamic:
            head_options = self.dynamic_schedule.current(head_options)
        rois = roi_head.assign(proposals, *truth, head_options, roi_seeds)
        if head_options.dynamic:
            self.dynamic_schedule.observe(proposals, batch.boxes, gt_valid, rois, head_options.box_weights)
        if isinstance(self.roi_head, CascadeHead):
            return losses | self.roi_head.losses(self._pool(pyramid), rois, batch.image_sizes, *truth)
        logits, deltas = self.roi_head(self._pool(pyramid)(rois.boxes), training=True)
        return losses | roi_head.roi_losses(logits, deltas, rois, head_options)

    def _pool(self, pyramid: list[tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
        """RoIAlign of boxes ``[B, N, 4]`` on this pyramid."""
        return lambda boxes: roi_head.pool(pyramid, boxes, self.options.roi_head, self.options.ops.kernel)

    def detect(self, images: tf.Tensor, image_sizes: tf.Tensor, original_sizes: tf.Tensor) -> BatchDetections:
        """Detections in pixels of the original images; arguments as in :class:`frcnn.data.batch.Batch`.

        With several views (``options.test``), the images are at the largest scale: :func:`at_largest_scale`.
        """
        options = self.options
        images = self.normalized(images, image_sizes)  # before views are reduced, so that their padding stays zero
        if len(views_of(options.test)) == 1:
            return self._detect_view(images, image_sizes, options.test).scaled(image_sizes, original_sizes)
        hard = options.test.model_copy(update={"soft_nms": "none"})  # scores are lowered once, over all views
        return detect_views(
            lambda canvases, sizes: self._detect_view(canvases, sizes, hard),
            images,
            image_sizes,
            original_sizes,
            options,
        )

    def _detect_view(self, images: tf.Tensor, image_sizes: tf.Tensor, test: config.Inference) -> BatchDetections:
        """Detections in pixels of the canvas."""
        options = self.options
        pyramid = self.pyramid(images)
        anchors = self.anchors((images.shape[1], images.shape[2]), pyramid)
        proposals = rpn.propose(
            self.rpn(pyramid), anchors, image_sizes, options.rpn, options.ops.kernel, training=False
        )
        if isinstance(self.roi_head, CascadeHead):
            scores, deltas, proposals = self.roi_head.predict(self._pool(pyramid), proposals, image_sizes)
        else:
            logits, deltas = self.roi_head(self._pool(pyramid)(proposals.boxes))
            scores = tf.nn.softmax(logits)
        head_options = self.roi_head.stages[-1].options
        return detect(scores, deltas, proposals, image_sizes, head_options, test, options.ops.kernel)


def _image_seeds(seed: tf.Tensor, first: int, count: int) -> tf.Tensor:
    """Seeds ``[count, 2]``, one for each image of a batch, from its position in the global batch."""
    return tf.stack([fold_in(seed, first + position) for position in range(count)])


def build_model(num_classes: int, options: Config) -> FasterRCNN:
    """Build the detector in ``options.training.precision``; Keras's global dtype policy is restored."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(options.training.precision)
    try:
        return FasterRCNN(num_classes, options)
    finally:
        keras.config.set_dtype_policy(before)
