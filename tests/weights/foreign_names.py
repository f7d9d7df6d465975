"""Names and shapes of other frameworks' tensors for networks of any size, so that tests can use small ones.

The tests compare them with the real lists in golden/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

Shapes = dict[str, tuple[int, ...]]
NORM = ("weight", "bias", "running_mean", "running_var")
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet_layers(depth: int) -> Iterator[tuple[str, int, int, str, tuple[int, ...]]]:
    """(part, stage from 2, block from 0, layer, kernel shape) of every convolution; the stem is stage 1."""
    bottleneck = depth >= 50
    yield "stem", 1, 0, "conv1", (64, 3, 7, 7)
    inputs = 64
    for stage, blocks in enumerate(DEPTHS[depth]):
        width = 64 * 2**stage
        outputs = width * 4 if bottleneck else width
        for block in range(blocks):
            sides = (
                [(width, inputs, 1), (width, width, 3), (outputs, width, 1)]
                if bottleneck
                else [(width, inputs, 3), (width, width, 3)]
            )
            for number, (out, into, side) in enumerate(sides, start=1):
                yield "block", stage + 2, block, f"conv{number}", (out, into, side, side)
            if inputs != outputs:
                yield "block", stage + 2, block, "shortcut", (outputs, inputs, 1, 1)
            inputs = outputs


def torchvision_resnet(depth: int, prefix: str = "", counters: bool = True) -> Shapes:
    """A ResNet; its batch norms have counters unless they are frozen."""
    shapes: Shapes = {}
    for part, stage, block, layer, kernel in resnet_layers(depth):
        at = prefix if part == "stem" else f"{prefix}layer{stage - 1}.{block}."
        convolution, norm = (
            ("downsample.0", "downsample.1") if layer == "shortcut" else (layer, layer.replace("conv", "bn"))
        )
        shapes[f"{at}{convolution}.weight"] = kernel
        shapes |= {f"{at}{norm}.{what}": kernel[:1] for what in NORM}
        if counters:
            shapes[f"{at}{norm}.num_batches_tracked"] = ()
    return shapes


def torchvision_classifier(depth: int) -> Shapes:
    return torchvision_resnet(depth) | {"fc.weight": (1000, 512 if depth < 50 else 2048), "fc.bias": (1000,)}


def torchvision_detector(depth: int = 50, outputs: int = 91, channels: int = 256, width: int = 1024) -> Shapes:
    shapes = torchvision_resnet(depth, "backbone.body.", counters=False)
    for level in range(4):
        inputs = 64 * 2**level * (4 if depth >= 50 else 1)
        shapes |= _layer(f"backbone.fpn.inner_blocks.{level}.0", channels, inputs, 1, 1)
        shapes |= _layer(f"backbone.fpn.layer_blocks.{level}.0", channels, channels, 3, 3)
    shapes |= _layer("rpn.head.conv.0.0", channels, channels, 3, 3)
    shapes |= _layer("rpn.head.cls_logits", 3, channels, 1, 1) | _layer("rpn.head.bbox_pred", 12, channels, 1, 1)
    shapes |= _layer("roi_heads.box_head.fc6", width, channels * 49) | _layer("roi_heads.box_head.fc7", width, width)
    shapes |= _layer("roi_heads.box_predictor.cls_score", outputs, width)
    return shapes | _layer("roi_heads.box_predictor.bbox_pred", 4 * outputs, width)


def detectron2_detector(depth: int = 50, classes: int = 80, channels: int = 256, width: int = 1024) -> Shapes:
    shapes: Shapes = {}
    for part, stage, block, layer, kernel in resnet_layers(depth):
        at = f"backbone.bottom_up.{'stem' if part == 'stem' else f'res{stage}.{block}'}.{layer}"
        shapes[f"{at}.weight"] = kernel
        shapes |= {f"{at}.norm.{what}": kernel[:1] for what in NORM}
    for level in range(2, 6):
        inputs = 16 * 2**level * (4 if depth >= 50 else 1)
        shapes |= _layer(f"backbone.fpn_lateral{level}", channels, inputs, 1, 1)
        shapes |= _layer(f"backbone.fpn_output{level}", channels, channels, 3, 3)
    head = "proposal_generator.rpn_head."
    shapes |= _layer(f"{head}conv", channels, channels, 3, 3) | _layer(f"{head}objectness_logits", 3, channels, 1, 1)
    shapes |= _layer(f"{head}anchor_deltas", 12, channels, 1, 1)
    shapes |= _layer("roi_heads.box_head.fc1", width, channels * 49) | _layer("roi_heads.box_head.fc2", width, width)
    shapes |= _layer("roi_heads.box_predictor.cls_score", classes + 1, width)
    return shapes | _layer("roi_heads.box_predictor.bbox_pred", 4 * classes, width)


def detectron2_cascade(classes: int = 80, channels: int = 256, width: int = 1024) -> Shapes:
    """A Cascade Mask R-CNN of the model zoo: three box heads, one box regression for all classes, a mask branch."""
    head = ("roi_heads.box_head.", "roi_heads.box_predictor.")
    shapes: Shapes = {}
    for name, shape in detectron2_detector(50, classes, channels, width).items():
        part = next((part for part in head if name.startswith(part)), None)
        if part is None:
            shapes[name] = shape
            continue
        shape = (4, *shape[1:]) if "bbox_pred" in name else shape
        shapes |= {name.replace(part, f"{part}{stage}."): shape for stage in range(3)}
    for number in range(1, 5):
        shapes |= _layer(f"roi_heads.mask_head.mask_fcn{number}", channels, channels, 3, 3)
    deconvolution = "roi_heads.mask_head.deconv"
    shapes |= {f"{deconvolution}.weight": (channels, channels, 2, 2), f"{deconvolution}.bias": (channels,)}
    return shapes | _layer("roi_heads.mask_head.predictor", classes, channels, 1, 1)


def caffe2_resnet(depth: int) -> Shapes:
    """MSRA's ResNets as published for Detectron and Detectron2."""
    branches = {"conv1": "2a", "conv2": "2b", "conv3": "2c", "shortcut": "1"}
    shapes: Shapes = {"conv1_b": (64,), "fc1000_w": (1000, 2048), "fc1000_b": (1000,)}
    for part, stage, block, layer, kernel in resnet_layers(depth):
        at = "conv1" if part == "stem" else f"res{stage}_{block}_branch{branches[layer]}"
        norm = "res_conv1_bn" if part == "stem" else f"{at}_bn"
        shapes |= {f"{at}_w": kernel, f"{norm}_s": kernel[:1], f"{norm}_b": kernel[:1]}
    return shapes


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Small random values; variances are positive."""
    rng = np.random.default_rng(seed)
    tensors = {name: np.asarray(0.05 * rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    return {name: np.abs(values) + 1 if name.endswith("running_var") else values for name, values in tensors.items()}


def _layer(name: str, outputs: int, inputs: int, *kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}
