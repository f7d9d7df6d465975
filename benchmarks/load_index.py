"""Time and memory to load a COCO-sized annotation file.

    python benchmarks/load_index.py --json load.json

Writes a file of 118 000 images with 7 annotations each, polygons included, to a temporary folder; loads it in a fresh
process with frcnn and with pycocotools, and prints seconds, peak memory, and their ratio to parsing the JSON alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LOADERS = {
    "frcnn": """
from pathlib import Path
from frcnn.data.coco import load_index
load = lambda file: load_index(Path("."), Path(file), require_images=False)
""",
    "pycocotools": "from pycocotools.coco import COCO; load = COCO",
    "json alone": "import json; load = lambda f: json.load(open(f))",
}
MEASURE = """
import resource, sys, time
{loader}
start = time.perf_counter()
found = load(sys.argv[1])
seconds = time.perf_counter() - start
print("measured", seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_annotations(file: Path, images: int, boxes: int) -> None:
    """A COCO file with random boxes and 20-cornered polygons."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(images * boxes):
        box = (rng.random(4) * 200 + 1).round(2).tolist()
        polygon = (rng.random(40) * 200).round(2).tolist()
        entry = {
            "id": number,
            "image_id": number // boxes,
            "category_id": number % 80,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        annotations.append({**entry, "segmentation": [polygon]})
    tables = {
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "width": 640, "height": 480} for number in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in range(80)],
    }
    file.write_text(json.dumps(tables))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=7, help="per image")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        # A child inherits the peak memory of its parent, so another process writes the file.
        writer = multiprocessing.Process(target=write_annotations, args=(file, arguments.images, arguments.boxes))
        writer.start()
        writer.join()
        megabytes = file.stat().st_size / 2**20
        for name, loader in LOADERS.items():
            command = [sys.executable, "-c", MEASURE.format(loader=loader), str(file)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            seconds, memory = (float(word) for word in output.rsplit("measured", 1)[1].split())
            figures[name] = {"seconds": seconds, "megabytes": memory}
    print(f"{arguments.images} images, {arguments.images * arguments.boxes} annotations, {megabytes:.0f} MB")
    for name, figure in figures.items():
        ratio = figure["seconds"] / figures["json alone"]["seconds"]
        print(f"  {name:<12} {figure['seconds']:6.1f} s  x{ratio:.2f}  {figure['megabytes']:6.0f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
