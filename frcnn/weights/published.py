"""Published weights by name: where they are, how to check them, and what they are for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from frcnn.errors import UserError

TORCHVISION = "https://download.pytorch.org/models"
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2"
_BSD = "BSD-3-Clause (torchvision); COCO and ImageNet have terms of their own"
_CC = "CC BY-SA 3.0 (Detectron2's model zoo)"


class PublishedWeights(NamedTuple):
    """One published file.

    Attributes:
        url: address of the file. A mirror has it under the last part of this address.
        framework: its framework, for ``import_weights``.
        megabytes: size in MiB, rounded.
        algorithm: hash of ``digest``.
        digest: the hash in hexadecimal digits, or the beginning of it that the file name contains; None: not published.
        quality: what its makers measured.
        recipe: file under configs/, or the options to train with.
        licence: of the file.
    """

    url: str
    framework: str
    megabytes: int
    algorithm: str
    digest: str | None
    quality: str
    recipe: str
    licence: str

    @property
    def file_name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]


def _resnet(file: str, megabytes: int, digest: str, accuracy: float, recipe: str) -> PublishedWeights:
    quality = f"ImageNet top-1 {accuracy}"
    return PublishedWeights(f"{TORCHVISION}/{file}", "torchvision", megabytes, "sha256", digest, quality, recipe, _BSD)


def _detector(file: str, megabytes: int, digest: str, ap: float, recipe: str) -> PublishedWeights:
    url, quality = f"{TORCHVISION}/{file}", f"COCO AP {ap}"
    return PublishedWeights(url, "torchvision", megabytes, "sha256", digest, quality, recipe, _BSD)


def _zoo(path: str, megabytes: int, digest: str | None, quality: str, recipe: str) -> PublishedWeights:
    return PublishedWeights(f"{DETECTRON2}/{path}", "detectron2", megabytes, "md5", digest, quality, recipe, _CC)


_SMALL = "backbone.name={} backbone.norm=frozen_bn backbone.freeze=2"

# Names, sizes, accuracies and the beginnings of hashes: torchvision's weight enumerations (models/resnet.py and
# models/detection/faster_rcnn.py) and Detectron2's MODEL_ZOO.md, whose file names contain the MD5's beginning. Sizes of
# Detectron2's files follow from their numbers of parameters. Full SHA-256 values were published by users of the files;
# each begins with the digits in the file name, which torchvision checks.
PUBLISHED: dict[str, PublishedWeights] = {
    "torchvision_v1": _detector(
        "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 160,
        "258fb6c638b15964ddcdd1ae0748c5eef1be9e732750120cc857feed3faac384", 37.0, "configs/torchvision_r50_fpn.yaml",
    ),
    "torchvision_v2": _detector(
        "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 167,
        "dd69338a24b8d7381807e247652bdc356325bcbaf1cd3e092e00e0a1a58706bf", 46.7, "configs/torchvision_r50_fpn_v2.yaml",
    ),
    "detectron2_r50_1x": _zoo(
        "COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/model_final_b275ba.pkl", 160, "b275ba", "COCO AP 37.9",
        "configs/detectron2_r50_fpn.yaml",
    ),
    "detectron2_r50_3x": _zoo(
        "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl", 160, "280758", "COCO AP 40.2",
        "configs/detectron2_r50_fpn.yaml",
    ),
    "detectron2_r101_3x": _zoo(
        "COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl", 232, "f6e8b1", "COCO AP 42.0",
        "configs/detectron2_r101_fpn.yaml",
    ),
    "resnet18": _resnet("resnet18-f37072fd.pth", 45, "f37072fd", 69.758, _SMALL.format("resnet18")),
    "resnet34": _resnet("resnet34-b627a593.pth", 83, "b627a593", 73.314, _SMALL.format("resnet34")),
    "resnet50": _resnet(
        "resnet50-0676ba61.pth", 98, "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a", 76.13,
        "configs/coco_r50_fpn_1x.yaml",
    ),
    "resnet50_v2": _resnet("resnet50-11ad3fa6.pth", 98, "11ad3fa6", 80.858, "configs/coco_r50_fpn_1x.yaml"),
    "resnet101": _resnet("resnet101-63fe2227.pth", 171, "63fe2227", 77.374, "configs/coco_r101_fpn_3x.yaml"),
    "resnet101_v2": _resnet("resnet101-cd907fc2.pth", 171, "cd907fc2", 81.886, "configs/coco_r101_fpn_3x.yaml"),
    "resnet152": _resnet("resnet152-394f9c45.pth", 230, "394f9c45", 78.312, _SMALL.format("resnet152")),
    "resnet152_v2": _resnet("resnet152-f82ba261.pth", 230, "f82ba261", 82.284, _SMALL.format("resnet152")),
    "msra_r50": _zoo(
        "ImageNetPretrained/MSRA/R-50.pkl", 98, None, "ImageNet, MSRA's ResNet-50", "configs/detectron2_r50_fpn.yaml"
    ),
    "msra_r101": _zoo(
        "ImageNetPretrained/MSRA/R-101.pkl", 170, None, "ImageNet, MSRA's ResNet-101",
        "configs/detectron2_r101_fpn.yaml",
    ),
}  # fmt: skip


def cache_folder() -> Path:
    """Folder of downloads and imported weights: ``FRCNN_WEIGHTS_CACHE``, else below the user's cache folder."""
    if folder := os.environ.get("FRCNN_WEIGHTS_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "frcnn" / "weights"


def is_published(weights: Path | str) -> bool:
    """Whether the option ``weights`` names published weights, and not a file or folder."""
    return str(weights) in PUBLISHED and not Path(weights).exists()


def resolve_weights(weights: Path) -> Path:
    """The model folder or file that the option ``weights`` stands for; nothing is downloaded.

    Raises:
        UserError: it names published weights that have not been fetched.
    """
    if not is_published(weights):
        return weights
    folder = cache_folder() / weights
    if not folder.is_dir():
        raise UserError(f"weights {str(weights)!r} are not in {cache_folder()}; run: frcnn fetch-weights {weights}")
    return folder
