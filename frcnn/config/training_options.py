"""Options of the optimizer, of the training loop and of distributed training."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from frcnn.config.options import Count, Fraction, NonNegative, Options, Positive

# Defaults under `name: adamw`.
ADAMW_DEFAULTS = {"learning_rate": 1e-4, "weight_decay": 0.05}


class Optimizer(Options):
    name: Literal["sgd", "adamw"] = Field(
        "sgd", description="sgd: momentum SGD; adamw: Adam with decoupled weight decay (Loshchilov & Hutter 2019)"
    )
    learning_rate: Positive = Field(
        0.02,
        description="peak learning rate at base_batch_size; scaled linearly with the global batch size "
        "(default with adamw: 1e-4)",
    )
    base_batch_size: Count = Field(16, description="batch size that learning_rate refers to")
    momentum: Fraction = Field(0.9, description="SGD momentum")
    nesterov: bool = Field(False, description="Nesterov momentum")
    betas: tuple[Fraction, Fraction] = Field(
        (0.9, 0.999), description="adamw: decays of the averages of the gradient and of its square"
    )
    weight_decay: NonNegative = Field(
        1e-4,
        description="sgd: weight_decay * weight is added to the gradient; adamw: a step shrinks weights by "
        "rate * weight_decay (default with adamw: 0.05)",
    )
    decay_norm_and_bias: bool = Field(True, description="apply weight_decay to normalization parameters and biases")
    decay_norm: bool | None = Field(
        None, description="apply weight_decay to normalization parameters; null: as decay_norm_and_bias says"
    )
    decay_bias: bool | None = Field(None, description="apply weight_decay to biases; null: as decay_norm_and_bias says")
    backbone_rate: Positive = Field(1.0, description="factor of the learning rate in the backbone")
    layer_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="factor of the learning rate from each stage of the backbone to the one before it"
    )
    schedule: Literal["multistep", "cosine"] = Field(
        "multistep", description="learning rate schedule after the warm-up"
    )
    milestones: tuple[Fraction, ...] = Field(
        (16 / 26, 22 / 26), description="multistep: fractions of the run at which the rate is multiplied by gamma"
    )
    gamma: Fraction = Field(0.1, description="multistep: factor at each milestone")
    final_rate: Fraction = Field(0.0, description="cosine: final rate as a fraction of the peak rate")
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        1000, description="steps of linear warm-up; capped at a third of the run"
    )
    warmup_factor: Fraction = Field(0.001, description="rate at step 0 as a fraction of the scheduled rate")
    clip_norm: Positive | None = Field(None, description="maximum global gradient norm; null: no clipping")
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None,
        description="decay per step of the exponential moving average that is evaluated and saved, to which it rises "
        "as n / (n + 9) after n steps; null: none",
    )
    accumulation: Count = Field(1, description="batches whose gradients are averaged into one update")

    @model_validator(mode="before")
    @classmethod
    def _apply_adamw_defaults(cls, values: Any) -> Any:
        """Set what AdamW needs otherwise than SGD and the values leave open."""
        return {**ADAMW_DEFAULTS, **values} if isinstance(values, dict) and values.get("name") == "adamw" else values


# The 12 COCO metrics, in the order of pycocotools.
COCO_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
BEST_METRICS = (*COCO_METRICS, "F1")
CLASS_AP = "AP of "  # prefix of a class's name


class Training(Options):
    epochs: Positive = Field(26, description="passes over the training images; may be fractional")
    max_minutes: Positive | None = Field(
        None,
        description="minutes after which training ends early, in time for a last evaluation; the schedule remains that "
        "of `epochs`; null: no limit",
    )
    batch_size: Count = Field(16, description="global batch size, split evenly across the ranks")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = Field(
        "float32", description="Keras dtype policy of the computation; weights and losses are always float32"
    )
    evaluate_every: Positive | None = Field(
        1, description="epochs between evaluations on the validation split; null: only at the end"
    )
    best_metric: str = Field(
        "AP",
        description="metric whose best evaluation is kept in the model folder: AP, AP50, another of the 12 COCO "
        "metrics, `AP of CLASS`, or F1: the mean over the classes of the best F1 of any score threshold, at IoU 0.5",
    )
    patience: Count | None = Field(
        None,
        description="early stopping: evaluations in a row without an improvement of best_metric after which the run "
        "ends; null: never",
    )
    min_delta: NonNegative = Field(0.0, description="early stopping: smaller gains than this are no improvement")
    checkpoint_minutes: Positive = Field(
        10, description="minutes between checkpoints, in addition to one at each evaluation"
    )
    keep_checkpoints: Count = Field(
        2, description="number of checkpoints to keep; the best model is in the model folder"
    )
    log_every: Count = Field(20, description="steps between log records")
    deterministic: Literal["auto", True, False] = Field(
        "auto",
        description="bit-identical repeats and resumes, slower on GPUs; auto: on CPUs, not on GPUs",
    )
    recompute: bool = Field(
        False,
        description="less memory for more time: keep only the outputs of the backbone's residual blocks, and compute "
        "them again for the gradient (Chen et al. 2016)",
    )
    tf32: bool = Field(
        True, description="let float32 convolutions and products use TF32 on GPUs from Ampere on (10 bits of mantissa)"
    )

    @model_validator(mode="after")
    def _check_best_metric(self) -> Training:
        if self.best_metric not in BEST_METRICS and not self.best_metric.startswith(CLASS_AP):
            raise ValueError(
                f"best_metric {self.best_metric!r} must be one of {', '.join(BEST_METRICS)}, or {CLASS_AP!r} and the "
                "name of a class"
            )
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError(f"patience {self.patience} needs evaluations during training: set evaluate_every")
        return self


class Tracking(Options):
    """Experiment tracking. A server that is slow or down never ends or delays a run."""

    mlflow: str | None = Field(
        None,
        description="URI of an MLflow tracking server, file: URI of a folder, or ARN of SageMaker's managed MLflow; "
        "credentials come from MLFLOW_TRACKING_USERNAME and ..._PASSWORD, ..._TOKEN, or AWS; null: none",
    )
    wandb: Literal["online", "offline"] | None = Field(
        None,
        description="Weights & Biases; online: the account of WANDB_API_KEY; offline: files in the run's folder for "
        "`wandb sync`; null: none",
    )
    experiment: str = Field("frcnn", min_length=1, description="experiment of MLflow, project of Weights & Biases")
    run: str | None = Field(None, description="name of the run there; null: named by the server")

    @field_validator("mlflow")
    @classmethod
    def _refuse_credentials(cls, uri: str | None) -> str | None:
        """They would be in every config.yaml and log."""
        parts = urlsplit(uri or "")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "option 'tracking.mlflow' contains a user name, password or query; give the address alone, and "
                "credentials in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        return uri


class Distributed(Options):
    """Training on several processes (ranks); ignored by a single process."""

    compression: Literal["none", "fp16"] = Field("none", description="precision of gradients in the allreduce")
    sync_batch_norm: bool = Field(False, description="synchronize batch norm statistics across ranks (norm: bn)")
    # The minimum exceeds what mpirun needs to notice a lost host: asked to end ranks on one, it waits forever.
    stall_minutes: Annotated[float, Field(ge=0.5)] = Field(
        10, description="minutes without progress of any rank after which the run is aborted"
    )
