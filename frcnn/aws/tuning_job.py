"""Hyperparameter tuning jobs, and the exact ``create_hyper_parameter_tuning_job`` request for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from frcnn.aws.request_fields import tag_list
from frcnn.aws.request_file import load_request
from frcnn.aws.service_model import check_request
from frcnn.aws.training_job import TrainingJob
from frcnn.config import Options
from frcnn.errors import UserError
from frcnn.training.metric_lines import METRIC_DEFINITIONS

# Members of a training job's request that a trial's definition has as well.
_OF_TRIALS = (
    "RoleArn", "InputDataConfig", "VpcConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition",
    "EnableNetworkIsolation", "EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining", "RetryStrategy",
    "Environment",
)  # fmt: skip
_NOT_FOR_TRIALS = ("tensorboard", "mlflow", "remote_debug", "keep_alive_minutes")
_DEPENDS_ON_PROCESSES = "training.batch_size"  # must be a multiple of their number, so a list of values


class Range(Options):
    """Values that an option may take."""

    min: float | None = Field(None, description="smallest value")
    max: float | None = Field(None, description="largest value")
    scale: Literal["Auto", "Linear", "Logarithmic"] = Field("Auto", description="of the search between them")
    values: tuple[Any, ...] = Field((), description="instead of min and max: the values to choose from")

    @model_validator(mode="after")
    def _check_consistency(self) -> Range:
        bounds = (self.min, self.max)
        if bool(self.values) == any(bound is not None for bound in bounds) or (not self.values and None in bounds):
            raise ValueError("expected min and max, or values")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise ValueError(f"min {self.min:g} is not less than max {self.max:g}")
        return self

    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value, of a range that has them."""
        if self.min is None or self.max is None:
            raise ValueError("the range is a list of values")
        return self.min, self.max


class TuningJob(Options):
    """A search for the best values of options, by training jobs.

    Raises:
        UserError: the job, an option or a value of a range is invalid.
    """

    name: str = Field(description="of the job, unique: letters, digits and hyphens, at most 32")
    job: TrainingJob | Path = Field(description="job file (configs/jobs) of the trials")
    ranges: dict[str, Range] = Field(description="option: its range")
    objective: str = Field("evaluation:best_AP", description="metric; the last value of a trial is its result")
    goal: Literal["Maximize", "Minimize"] = Field("Maximize", description="of the objective")
    strategy: Literal["Bayesian", "Random", "Grid", "Hyperband"] = Field("Bayesian", description="of the search")
    max_jobs: Annotated[int, Field(ge=1)] = Field(10, description="trials")
    max_parallel: Annotated[int, Field(ge=1)] = Field(2, description="trials at a time; few let Bayesian search learn")
    early_stopping: bool = Field(True, description="stop trials that are unlikely to become the best")
    tags: dict[str, str] = Field({}, description="AWS tags")

    @model_validator(mode="after")
    def _check_consistency(self) -> TuningJob:
        names = [definition["Name"] for definition in METRIC_DEFINITIONS]
        if self.objective not in names:
            raise ValueError(f"objective is {self.objective!r}; expected one of {', '.join(names)}")
        if not self.ranges:
            raise ValueError("ranges are empty; expected at least one option, such as optimizer.learning_rate")
        if self.strategy == "Grid" and any(not span.values for span in self.ranges.values()):
            raise ValueError("strategy Grid needs values instead of min and max in every range")
        job = self.training_job()
        if unused := [name for name in _NOT_FOR_TRIALS if getattr(job, name)]:
            raise ValueError(f"{', '.join(unused)} of the job cannot be used in tuning; remove it")
        for name, span in self.ranges.items():
            self._check_range(job, name, span)
        return self

    def training_job(self) -> TrainingJob:
        """The job that the trials are made of."""
        return self.job if isinstance(self.job, TrainingJob) else load_request(TrainingJob, self.job)

    def request(self) -> dict[str, Any]:
        """Keyword arguments of ``create_hyper_parameter_tuning_job``."""
        job = self.training_job()
        training = job.request_for_aws()
        trial = {name: training[name] for name in _OF_TRIALS if name in training}
        trial["AlgorithmSpecification"] = training["AlgorithmSpecification"]
        # The trials differ in the tuned options, which must not be given twice.
        fixed = {name: text for name, text in training["HyperParameters"].items() if name not in self.ranges}
        if fixed:
            trial["StaticHyperParameters"] = fixed
        if job.spot:
            folder = f"{job.output.rstrip('/')}/{self.name}/checkpoints/"  # with a subfolder per trial
            trial["CheckpointConfig"] = {"S3Uri": folder}
        request = {
            "HyperParameterTuningJobName": self.name,
            "HyperParameterTuningJobConfig": {
                "Strategy": self.strategy,
                "HyperParameterTuningJobObjective": {"Type": self.goal, "MetricName": self.objective},
                "ResourceLimits": self._limits(),
                "ParameterRanges": self._parameter_ranges(job),
                # Hyperband stops trials by itself.
                "TrainingJobEarlyStoppingType": "Auto"
                if self.early_stopping and self.strategy != "Hyperband"
                else "Off",
            },
            "TrainingJobDefinition": trial,
            **tag_list(self.tags or job.tags),
        }
        check_request("CreateHyperParameterTuningJob", request)
        return request

    def trials(self) -> int:
        """Number of training jobs at most."""
        if self.strategy != "Grid":
            return self.max_jobs
        product = 1
        for span in self.ranges.values():
            product *= len(span.values)
        return product

    def _limits(self) -> dict[str, int]:
        limits = {"MaxParallelTrainingJobs": self.max_parallel}
        return limits if self.strategy == "Grid" else {"MaxNumberOfTrainingJobs": self.max_jobs, **limits}

    def _parameter_ranges(self, job: TrainingJob) -> dict[str, list[dict[str, Any]]]:
        ranges: dict[str, list[dict[str, Any]]] = {}
        for name, span in self.ranges.items():
            if span.values:
                texts = [value if isinstance(value, str) else json.dumps(value) for value in span.values]
                ranges.setdefault("CategoricalParameterRanges", []).append({"Name": name, "Values": texts})
                continue
            kind = "Integer" if _is_integer(job, name, span) else "Continuous"
            low, high = (f"{bound:.0f}" if kind == "Integer" else repr(bound) for bound in span.bounds())
            bounds = {"Name": name, "MinValue": low, "MaxValue": high, "ScalingType": span.scale}
            ranges.setdefault(f"{kind}ParameterRanges", []).append(bounds)
        return ranges

    def _check_range(self, job: TrainingJob, name: str, span: Range) -> None:
        if name == _DEPENDS_ON_PROCESSES and not span.values:
            raise UserError(f"range of {name!r}: expected a list of values, each a multiple of {job.processes()}")
        if span.values:
            values = list(span.values)
        elif _is_integer(job, name, span):
            low, high = span.bounds()
            if low % 1 or high % 1:
                raise UserError(f"range of {name!r}: {low:g} to {high:g}; expected whole numbers")
            values = [int(low), int(high)]
        else:
            values = list(span.bounds())
        for value in values:
            problem = _problem(job, name, value)
            if problem:
                raise UserError(f"range of {name!r}: {problem}")


def _problem(job: TrainingJob, name: str, value: Any) -> str | None:
    """Why a trial with this value of an option would fail; None if it would not."""
    fields = {field: getattr(job, field) for field in job.model_fields_set}
    try:
        TrainingJob(**{**fields, "hyperparameters": {**job.hyperparameters, name: value}})
    except UserError as error:
        return str(error)
    return None


def _is_integer(job: TrainingJob, name: str, span: Range) -> bool:
    """Whether the option takes whole numbers only: the schema rejects a fraction between the bounds."""
    low, high = span.bounds()
    between = int(low) + 0.5 if low <= int(low) + 0.5 <= high else (low + high) / 2
    return not float(between).is_integer() and "valid integer" in (_problem(job, name, between) or "")
