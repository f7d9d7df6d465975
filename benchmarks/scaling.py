"""Weak scaling from one rank on one core to two ranks on two cores, and the part of the all-reduce that is hidden.

    python benchmarks/scaling.py --config configs/bccd_r18_fpn.yaml data.root=bccd --json scaling.json

Each rank has the recipe's batch. Steps of two ranks are measured with the exchange of gradients and, alternating with
those in the same processes, without it; the exchange is also measured alone. Values are medians and need an idle
machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from frcnn.config import Config, load_config
from frcnn.distributed import World, connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)  # started by this script itself, as a rank
    arguments = parser.parse_args()
    if arguments.rank_of:
        world = connect()
        overrides = [*arguments.overrides, f"output={arguments.rank_of.parent}", "data.workers=1"]
        images = load_config(arguments.config, overrides).training.batch_size
        with world.abort_together():
            config = load_config(arguments.config, [*overrides, f"training.batch_size={images * world.size}"])
            found = measure(config, world, arguments.steps)
        if world.is_main:
            arguments.rank_of.write_text(json.dumps(found))
        return
    core = str(min(os.sched_getaffinity(0)))
    two = [
        "mpirun",
        "--allow-run-as-root",
        "-np",
        "2",
        "--bind-to",
        "none",
        "-mca",
        "btl_vader_single_copy_mechanism",
        "none",
    ]
    alone, together = (run([*start, sys.executable, *sys.argv]) for start in (["taskset", "-c", core], two))
    results = {
        "one rank, step (ms)": alone["step"],
        "two ranks, step (ms)": together["step"],
        "two ranks, step without exchange (ms)": together["apart"],
        "exchange alone (ms)": together["exchange"],
        "gradient (MB)": together["megabytes"],
        "efficiency": alone["step"] / together["step"],
        "efficiency without exchange": alone["step"] / together["apart"],
        "hidden share of the exchange": 1 - (together["step"] - together["apart"]) / together["exchange"],
    }
    for name, value in results.items():
        print(f"{name:<40}{value:10.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def run(command: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        subprocess.run([*command, "--rank-of", str(file)], check=True, stdout=sys.stderr)
        return json.loads(file.read_text())


def measure(config: Config, world: World, steps: int) -> dict[str, float]:
    """Milliseconds of a step, of one without exchange, and of the exchange."""
    import tensorflow as tf

    from frcnn.training.step import build_train_step
    from frcnn.training.trainer import Trainer

    trainer = Trainer(config, world=world)
    batch = next(trainer.shard.batches(trainer.train_index, config, 0, trainer.unreadable_images))
    weights = [variable.value for variable in trainer.model.trainable_variables]

    def step_in(processes: World) -> Callable[[], object]:
        program = build_train_step(trainer.model, trainer.optimizer, config, processes)
        call = functools.partial(program, batch, tf.constant(0), tf.zeros([2]))
        call()
        return call

    exchange = tf.function(lambda: world.average_gradients([tf.identity(weight) for weight in weights]))
    programs = {"step": step_in(world), "apart": step_in(World()), "exchange": exchange}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for repetition in range(steps + 1):
        for name, program in programs.items():
            world.barrier()
            begin = time.perf_counter()
            tf.nest.map_structure(lambda tensor: tensor.numpy(), program())
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    trainer.watchdog.end()
    megabytes = sum(weight.shape.num_elements() * 4 for weight in weights) / 1e6
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()} | {"megabytes": megabytes}


if __name__ == "__main__":
    main()
