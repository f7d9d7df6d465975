"""Draw docs/images/augmentations.jpg: what each augmentation option does to a generated image.

python tools/augmentation_figure.py [--out FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from frcnn.config import load_config
from frcnn.data.augmentation_sheet import EPOCHS, draw_augmentations
from frcnn.data.coco import load_index
from frcnn.data.shapes import make_shapes
from frcnn.data.unreadable_images import UnreadableImages

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "augmentations.jpg"
BASE = ("image.min_size=[192]", "image.max_size=256", "image.canvas_aspects=[1.0,1.34]", "augment.horizontal_flip=0")
ROWS = (
    "augment.horizontal_flip=0.5",
    "augment.vertical_flip=0.5",
    "augment.scale_range=[0.5,2.0]",
    "augment.color_jitter=0.4",
    "augment.rotation=15",
    "augment.shear=15",
    "augment.crop=0.4",
    "augment.blur=3",
    "augment.noise=40",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIGURE)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_shapes(Path(temporary) / "shapes", images=20, seed=0)
        index = load_index(folder / "train", folder / "annotations" / "instances_train.json")
        record = max(index.images, key=lambda image: (image.width > image.height, len(image.labels)))
        rows = {row: load_config(None, [*BASE, row]) for row in ROWS}
        draw_augmentations(record, rows, out, UnreadableImages(index, max_share=0.0), range(EPOCHS))
    print(out)


if __name__ == "__main__":
    main()
