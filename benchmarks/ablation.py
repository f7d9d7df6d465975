"""Ablation: named variants of a recipe, each trained for the same minutes with several seeds; a Markdown table.

    python benchmarks/ablation.py --config configs/bccd_r18_fpn.yaml --minutes 5 --variants variants.yaml \
        --out runs/ablation data.root=bccd

``variants.yaml`` maps the name of each variant to its overrides:

    baseline: []
    GIoU: [roi_head.box_loss=giou]

The first variant is what the others are compared with. The epochs of each variant are those that its speed allows in
the time (its learning-rate schedule then ends in time); ``training.max_minutes`` holds in any case. The speeds of all
variants are measured first, in turns, because a shared machine is faster in one minute than in another; where the
steps of the seeds differ in the table, the time ended a run before its schedule. Runs are made one after the other;
each finished run updates ``OUT/table.md``. A rerun skips finished runs and resumes an interrupted one. Values need an
idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frcnn.config import Config, load_config, read_yaml
from frcnn.data.coco import Index, find_split, load_index

TRAINING_SHARE = 0.8  # of the minutes; the rest is for start-up and evaluations
ROUNDS = 3  # of measuring the speeds of all variants; the median counts
METRICS = ("AP", "AP50", "AP75")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--variants", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    variants = {str(name): list(options or []) for name, options in read_yaml(arguments.variants).items()}
    for options in variants.values():  # refuse a wrong option now and not after an hour
        load_config(arguments.config, [*arguments.overrides, *options])
    plans = plan(arguments, variants)
    for seed in arguments.seeds:
        for name, options in variants.items():
            run(arguments, name, [*arguments.overrides, *options], seed, plans[name])
            text = table(variants, arguments.seeds, arguments.out)
            (arguments.out / "table.md").write_text(text)
            print(text, flush=True)


def folder_of(out: Path, name: str, seed: int) -> Path:
    return out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"


def plan(arguments: argparse.Namespace, variants: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Speed of each variant, and the epochs that the time allows; a rerun keeps those of the first run."""
    file = arguments.out / "plan.json"
    plans = json.loads(file.read_text()) if file.exists() else {}
    new = {name: options for name, options in variants.items() if name not in plans}
    speeds: dict[str, list[float]] = {name: [] for name in new}
    for _ in range(ROUNDS if new else 0):
        for name, options in new.items():
            speed = command_output([__file__, "--speed", str(arguments.config), *arguments.overrides, *options])
            speeds[name].append(float(speed))
    for name, options in new.items():
        speed = statistics.median(speeds[name])
        images = len(training_index(load_config(arguments.config, [*arguments.overrides, *options])).images)
        epochs = max(round(TRAINING_SHARE * 60 * arguments.minutes * speed / images, 2), 0.01)
        plans[name] = {"images_per_second": speed, "epochs": epochs}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plans))
    return plans


def training_index(config: Config) -> Index:
    return load_index(*find_split(config.data, "train"), box_format=config.data.box_format)


def run(
    arguments: argparse.Namespace, name: str, overrides: Sequence[str], seed: int, planned: Mapping[str, float]
) -> None:
    """Train and evaluate one variant, unless its result exists."""
    folder = folder_of(arguments.out, name, seed)
    if (folder / "result.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    frcnn = ["-m", "frcnn"]
    options = [f"output={folder}", f"seed={seed}", f"training.epochs={planned['epochs']}"]
    limit = f"training.max_minutes={arguments.minutes}"
    command([*frcnn, "train", "--config", str(arguments.config), *overrides, *options, limit])
    metrics = folder / "metrics.json"
    split = ["--split", arguments.split, "--json", str(metrics)]
    command([*frcnn, "evaluate", "--model", str(folder / "model"), *split])
    found = json.loads(metrics.read_text())
    result = {**planned, **{name: found[name] for name in METRICS}, "steps": steps_of(folder)}
    (folder / "result.json").write_text(json.dumps(result))


def measured_speed(config: Config) -> float:
    """Images per second, in a process of its own: a process has one device and one precision."""
    from frcnn.training.probe import measure_speed

    return measure_speed(training_index(config), config)


def steps_of(folder: Path) -> int:
    """Steps that a run has taken."""
    return int(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"])


def command(arguments: Sequence[str]) -> None:
    print("$", *arguments, flush=True)
    subprocess.run([sys.executable, *arguments], check=True)


def command_output(arguments: Sequence[str]) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def table(variants: Mapping[str, Sequence[str]], seeds: Sequence[int], out: Path) -> str:
    """The Markdown table of the results so far."""
    results: dict[str, list[dict[str, Any]]] = {}
    for name in variants:
        files = [folder_of(out, name, seed) / "result.json" for seed in seeds]
        results[name] = [json.loads(file.read_text()) for file in files if file.exists()]
    first = mean(results[next(iter(variants))], "AP")
    columns = ("variant", "AP of each seed", "mean AP", "difference", "AP50", "AP75", "steps of each seed", "images/s")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, found in results.items():
        if not found:
            continue
        ap = mean(found, "AP")
        values = ", ".join(f"{result['AP']:.3f}" for result in found)
        difference = "" if found is results[next(iter(variants))] else f"{ap - first:+.3f}"
        cells = [f"{mean(found, metric):.3f}" for metric in ("AP50", "AP75")]
        cells += [", ".join(str(result["steps"]) for result in found), f"{mean(found, 'images_per_second'):.2f}"]
        lines.append(f"| {name} | {values} | {ap:.3f} | {difference} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def mean(results: Sequence[Mapping[str, float]], name: str) -> float:
    return statistics.fmean(result[name] for result in results) if results else float("nan")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--speed"]:
        print(measured_speed(load_config(Path(sys.argv[2]), sys.argv[3:])))
    else:
        main()
