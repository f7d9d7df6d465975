"""One-line ``key=value`` log records, and the regular expressions by which SageMaker reads them from a job's log."""

from __future__ import annotations

from collections.abc import Mapping

_NUMBER = r"([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)"

# The values that become metrics of a SageMaker job, by record. SageMaker allows at most 40.
_OF_RECORD = {
    "train": (
        "loss", "rpn_objectness", "rpn_box", "roi_class", "roi_box",
        "gradient_norm", "learning_rate", "images_per_second",
    ),
    "evaluation": ("AP", "best_AP", "AP50", "AP75", "APs", "APm", "APl", "unreadable_images"),
    "checkpoint": ("step",),
    "resources": (
        "cpu_percent", "memory_percent", "disk_percent", "disk_read_mb_s", "disk_write_mb_s",
        "network_in_mb_s", "network_out_mb_s", "gpu_percent", "gpu_memory_percent",
    ),
}  # fmt: skip

# ``AlgorithmSpecification.MetricDefinitions`` of a training job. A key is preceded by a space, so that AP does not
# match in mAP; a prefix that mpirun adds to the line does not matter.
METRIC_DEFINITIONS = tuple(
    {"Name": f"{record}:{name}", "Regex": f"{record} (?:.* )?{name}={_NUMBER}"}
    for record, names in _OF_RECORD.items()
    for name in names
)


def metric_line(record: str, values: Mapping[str, float | int | str]) -> str:
    """``record key=value …``; numbers with six digits."""
    pairs = (f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())
    return " ".join((record, *pairs))
