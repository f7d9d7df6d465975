"""File names of a model folder. Imports nothing, so that processes without TensorFlow can use it."""

from __future__ import annotations

WEIGHTS, CONFIG, LABELS, METRICS = "weights.safetensors", "config.yaml", "labels.json", "metrics.json"
THRESHOLDS = "thresholds.json"  # optional; score thresholds, see score_thresholds.py
HASHES = "SHA256SUMS"  # of the other files; folders written by older versions have none
REQUIRED = (WEIGHTS, CONFIG, LABELS)  # to load a detector; metrics.json is for people
