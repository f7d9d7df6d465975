"""torchvision's Faster R-CNN with the layers and sizes of a configuration, in its fastest form on a CPU or a GPU.

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


Images = list[torch.Tensor]
Targets = list[dict[str, torch.Tensor]]
AUTOCAST = {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}


def build(config: Config, classes: int) -> FasterRCNN:
    """The detector with random weights, in channels-last memory format."""
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


def inference(
    config: Config, images: Images, classes: int, device: str = "cpu"
) -> Callable[[], list[dict[str, torch.Tensor]]]:
    """One call of the detector; the images are on the device."""
    model = build(config, classes).to(device).eval()

    def detect() -> list[dict[str, torch.Tensor]]:
        with torch.inference_mode(), _autocast(config, device):
            found: list[dict[str, torch.Tensor]] = model(images)
            return found

    return detect


def training_step(
    config: Config, images: Images, targets: Targets, classes: int, device: str = "cpu"
) -> Callable[[], object]:
    """One step of SGD, with loss scaling in float16; images and targets are on the device."""
    model = build(config, classes).to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device, enabled=config.training.precision == "mixed_float16")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with _autocast(config, device):
            loss: torch.Tensor = sum(model(images, targets).values())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


def convert(batch: Batch) -> tuple[Images, Targets]:
    """The images of a batch without padding, ``[3, H, W]`` in 0..1, strided as channels last, and their objects."""
    images, targets = [], []
    for image, size in zip(batch.images, batch.image_sizes.numpy(), strict=True):
        pixels = image.numpy()[: size[0], : size[1]]
        images.append(torch.from_numpy((pixels / 255).astype(np.float32)).permute(2, 0, 1))
    for boxes, labels in zip(batch.boxes.numpy(), batch.labels.numpy(), strict=True):
        real = labels > 0
        targets.append({"boxes": torch.from_numpy(boxes[real]), "labels": torch.from_numpy(labels[real]).long()})
    return images, targets


def _autocast(config: Config, device: str) -> Any:
    dtype = AUTOCAST.get(config.training.precision)
    return torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None)
