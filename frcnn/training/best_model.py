"""The best evaluation so far: which model is kept, and when training stops early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from frcnn import config
from frcnn.config.training_options import CLASS_AP
from frcnn.errors import UserError
from frcnn.evaluation.coco import Metrics


class Best(NamedTuple):
    """The best evaluation so far; the defaults are those of a run without one. Serializable as JSON.

    Attributes:
        metric: option ``training.best_metric``, in which the values are measured.
        value: of the model in the model folder; None if there is no model yet, or no comparable one.
        ap: AP of that model.
        reference: value of the last evaluation that counted as an improvement.
        waited: evaluations since then.
    """

    metric: str = "AP"
    value: float | None = None
    ap: float | None = None
    reference: float | None = None
    waited: int = 0

    def updated(self, metrics: Metrics, min_delta: float, counts: bool = True) -> tuple[Best, bool]:
        """The best after another evaluation, and whether that evaluation's model is the best.

        A later model with the same value replaces an earlier one. An improvement is a value above the last improvement
        by more than ``min_delta``, as in Keras's EarlyStopping: many small steps up count once their sum does.

        Args:
            counts: for early stopping. One after ``training.max_minutes`` does not: a run that is given more time
                afterwards stops where it would have stopped with the time from the start.
        """
        value, is_best = metric_value(metrics, self.metric), self.is_reached_by(metrics)
        after = self.replaced_by(metrics) if is_best else self
        if not counts:
            return after, is_best
        if self.reference is None or value > self.reference + min_delta:
            return after._replace(reference=value, waited=0), is_best
        return after._replace(waited=self.waited + 1), is_best

    def is_reached_by(self, metrics: Metrics) -> bool:
        """Whether an evaluation is at least as good as the best."""
        return self.value is None or metric_value(metrics, self.metric) >= self.value

    def replaced_by(self, metrics: Metrics) -> Best:
        """The best if another model of the same evaluation is kept instead, which early stopping does not count."""
        return self._replace(value=metric_value(metrics, self.metric), ap=metric_value(metrics, "AP"))

    def exhausted(self, training: config.Training) -> bool:
        """Whether the run ends, because ``training.patience`` evaluations in a row were no improvement."""
        return training.patience is not None and self.waited >= training.patience

    def records(self) -> dict[str, float | None]:
        """Values for the record of an evaluation."""
        name = "class_AP" if self.metric.startswith(CLASS_AP) else self.metric
        return {"best_AP": self.ap, f"best_{name}": self.value}

    def describe(self, step: int, total_steps: int) -> str:
        """The message of a run that stops early."""
        return (
            f"stopped early at step {step}/{total_steps} (training.patience): {self.waited} evaluations without an "
            f"improvement of {self.metric}, best {self.value:.4f}"
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Best:
        """The best of a checkpoint's state; earlier versions stored the AP alone.

        Raises:
            ValueError: an entry has a wrong type or range.
        """
        ap = state["best_AP"]
        stored = state.get("best", {"metric": "AP", "value": ap, "ap": ap, "reference": ap, "waited": 0})
        if not isinstance(stored, Mapping) or stored.keys() != set(cls._fields):
            raise ValueError("best of its state has not the expected entries")
        best = cls(**stored)
        for name in ("value", "ap", "reference"):
            value = stored[name]
            if value is None:
                continue
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise ValueError(f"best.{name} of its state is {type(value).__name__}, expected float")
            if not 0 <= value <= 1:
                raise ValueError(f"best.{name} of its state is not between 0 and 1")
        if not isinstance(best.metric, str) or type(best.waited) is not int or best.waited < 0:
            raise ValueError("best of its state has entries of wrong types")
        return best


def metric_value(metrics: Metrics, name: str) -> float:
    """The value of an evaluation by the name of ``training.best_metric``; 0 if no object contributes to it."""
    values = metrics.class_ap if name.startswith(CLASS_AP) else metrics.summary
    value = values[name.removeprefix(CLASS_AP)]
    return 0.0 if math.isnan(value) else value


def check_best_metric(training: config.Training, class_names: tuple[str, ...], validated: bool) -> None:
    """Check the options of early stopping and of the best model against the data.

    Raises:
        UserError: a class that the data does not have, or no validation split to measure anything on.
    """
    name = training.best_metric.removeprefix(CLASS_AP)
    if name != training.best_metric and name not in class_names:
        raise UserError(
            f"option 'training.best_metric' is {training.best_metric!r}, but there is no class {name!r}; "
            f"the classes are {', '.join(class_names)}"
        )
    if training.patience is not None and not validated:
        raise UserError(
            f"option 'training.patience' is {training.patience}, but there is no validation split to measure "
            "improvement on; add one (frcnn split), or set training.patience=null"
        )
