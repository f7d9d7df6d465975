"""torchvision's Faster R-CNN with the layers and sizes of a configuration, in its fastest form on a CPU.

Import this module before TensorFlow: importing torch after it crashes. Needs the extra "bench".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

if TYPE_CHECKING:
    from frcnn.config import Config
    from frcnn.data.batch import Batch


def build(config: Config, classes: int, threads: int) -> FasterRCNN:
    """The detector with random weights, in channels-last memory format."""
    torch.set_num_threads(threads)
    norms = {"gn": lambda channels: torch.nn.GroupNorm(32, channels), "bn": torch.nn.BatchNorm2d}
    backbone = resnet_fpn_backbone(
        backbone_name=config.backbone.name,
        weights=None,
        norm_layer=norms.get(config.backbone.norm, torchvision.ops.FrozenBatchNorm2d),
        trainable_layers=5 - config.backbone.freeze,
    )
    rpn, head = config.rpn, config.roi_head
    model = FasterRCNN(
        backbone,
        classes + 1,
        rpn_anchor_generator=AnchorGenerator(
            tuple((int(size),) for size in config.anchors.sizes),
            (config.anchors.aspect_ratios,) * len(config.anchors.sizes),
        ),
        min_size=config.image.min_size[-1],
        max_size=config.image.max_size,
        rpn_pre_nms_top_n_train=rpn.pre_nms_train,
        rpn_post_nms_top_n_train=rpn.post_nms_train,
        rpn_pre_nms_top_n_test=rpn.pre_nms_test,
        rpn_post_nms_top_n_test=rpn.post_nms_test,
        rpn_batch_size_per_image=rpn.samples,
        box_batch_size_per_image=head.samples,
    )
    return model.to(memory_format=torch.channels_last)


def inference(config: Config, batch: Batch, classes: int, threads: int) -> Callable[[], object]:
    """One call of the detector on the images of a batch."""
    model = build(config, classes, threads).eval()
    images = _images(batch)

    def detect() -> object:
        with torch.inference_mode(), _autocast(config):
            return model(images)

    return detect


def training_step(config: Config, batch: Batch, classes: int, threads: int) -> Callable[[], object]:
    """One step of SGD on a batch."""
    model = build(config, classes, threads).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)
    images, targets = _images(batch), []
    for boxes, labels in zip(batch.boxes.numpy(), batch.labels.numpy(), strict=True):
        real = labels > 0
        targets.append({"boxes": torch.from_numpy(boxes[real]), "labels": torch.from_numpy(labels[real]).long()})

    def step() -> None:
        optimizer.zero_grad()
        with _autocast(config):
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()

    return step


def _autocast(config: Config) -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=config.training.precision != "float32")


def _images(batch: Batch) -> list[torch.Tensor]:
    """The images without padding, ``[3, H, W]`` in 0..1, strided as channels last."""
    images = []
    for image, size in zip(batch.images, batch.image_sizes.numpy(), strict=True):
        pixels = image.numpy()[: size[0], : size[1]]
        images.append(torch.from_numpy((pixels / 255).astype(np.float32)).permute(2, 0, 1))
    return images
