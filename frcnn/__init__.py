"""Faster R-CNN for COCO-format data: train, evaluate, predict and serve."""

__version__ = "0.1.0"
