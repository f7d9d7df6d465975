"""Draws docs/images/architecture.png: the layers of the package, as tests/test_layering.py defines them.

python tools/architecture_figure.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))
from test_layering import LAYERS  # noqa: E402

FIGURE = REPOSITORY / "docs" / "images" / "architecture.png"
ROLES = {
    "__main__": "the program frcnn",
    "entrypoint": "process 1 of the image",
    "cli": "the command line",
    "aws": "jobs and endpoints, from a laptop",
    "container": "SageMaker's contract, in the image",
    "doctor": "what works here",
    "training": "loop, checkpoints, progress",
    "serving": "HTTP endpoint",
    "prediction": "image files in and out",
    "report": "one HTML page on a model",
    "evaluation": "COCO metrics, curves",
    "inference": "Detector",
    "export": "SavedModel",
    "weights": "model folder, import",
    "modeling": "backbone, FPN, RPN, heads",
    "data": "formats, index, tf.data",
    "ops": "RoIAlign, NMS: C++, CUDA",
    "distributed": "Horovod, MPI",
    "config": "options",
    "errors": "user errors, messages",
}
WIDTH, ROW = 11.0, 0.5
COLORS = ("#dbe9f6", "#e6f2dc", "#fdeed3", "#f6dfdf")


def main() -> int:
    figure, axes = plt.subplots(figsize=(WIDTH, ROW * len(LAYERS) + 0.2), dpi=110)
    axes.set(xlim=(0, WIDTH), ylim=(0, ROW * len(LAYERS) + 0.1))
    axes.axis("off")
    for number, packages in enumerate(LAYERS):
        boxes = [(name, ROLES[name]) for name in sorted(packages & ROLES.keys())]
        if modules := sorted(packages - ROLES.keys()):
            boxes.append((", ".join(modules), "single modules"))
        width = WIDTH / len(boxes)
        for column, (name, role) in enumerate(boxes):
            x, y = column * width, number * ROW
            color = COLORS[number * len(COLORS) // len(LAYERS)]
            axes.add_patch(plt.Rectangle((x + 0.04, y + 0.05), width - 0.08, ROW - 0.1, fc=color, ec="#555555", lw=0.8))
            axes.text(x + width / 2, y + ROW * 0.66, name, ha="center", va="center", fontsize=10.5, weight="bold")
            axes.text(x + width / 2, y + ROW * 0.3, role, ha="center", va="center", fontsize=8, color="#333333")
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995)
    figure.savefig(FIGURE, metadata={"Software": None})
    return 0


if __name__ == "__main__":
    sys.exit(main())
