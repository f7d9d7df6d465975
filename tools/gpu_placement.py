"""Print which tensors of a training step and of inference would travel between a GPU and its host. Needs no GPU.

    python tools/gpu_placement.py --config configs/coco_r50_fpn_1x.yaml training.precision=mixed_bfloat16

On a GPU, TensorFlow runs an operation on the host if it has no GPU kernel for its types, and some GPU kernels have
inputs or outputs in host memory: those of most int32 arithmetic, which is meant for shapes. The kernel registry says
which; a TensorFlow build with CUDA contains all of it on every machine. The functions are only traced, at full size.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.framework import kernels
from tensorflow.python.grappler import tf_optimizer

from frcnn import ops
from frcnn.config import Config, load_config
from frcnn.data.batch import Batch
from frcnn.data.plan import canvases
from frcnn.distributed import World
from frcnn.modeling.faster_rcnn import build_model
from frcnn.ops import compiled
from frcnn.training.optimizer import build_optimizer
from frcnn.training.step import build_train_step

# Our operations register their GPU kernels where there is a GPU; all their inputs and outputs are in device memory,
# but for the handles of variables.
OWN_OPERATIONS = tuple(
    f"Frcnn{name}"
    for name in (
        *("RoiAlign", "RoiAlignGrad", "Nms", "BiasRelu", "BiasReluGrad", "GroupNorm", "GroupNormGrad"),
        *("ChannelScale", "GlobalNorm", "Update"),
    )
)
# The graph optimizations of TensorFlow that change what is copied: inlining of functions and loops, constant folding.
OPTIMIZATIONS = ("function", "constfold", "dependency")
HOST, DEVICE, EITHER = "host", "device", "either"  # EITHER: an argument, which the caller may have placed anywhere


class Transfer(NamedTuple):
    """A tensor that is produced in one memory and consumed in the other.

    Attributes:
        size: bytes; None if the shape is not static.
        consumers: types of the operations that read it in the other memory.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    size: int | None
    producer: str
    consumers: tuple[str, ...]


class Placement(NamedTuple):
    """Placement of a function's operations and tensors on a machine with a GPU.

    Attributes:
        operations: number of operations.
        on_host: types and names of operations without a GPU kernel.
        to_host, to_device: copies, the largest first; constants are not counted.
    """

    operations: int
    on_host: list[tuple[str, str]]
    to_host: list[Transfer]
    to_device: list[Transfer]


def analyze(function: Any) -> Placement:
    """Placement of a concrete function, with its calls inlined and its loops and conditions lowered."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(_optimize(function), name="")
    memories = {operation.name: _memories(operation) for operation in graph.get_operations()}
    transfers: dict[tuple[str, bool], tuple[tf.Tensor, set[str]]] = {}
    for operation in graph.get_operations():
        for tensor, needed in zip(operation.inputs, memories[operation.name].inputs, strict=True):
            source = memories[tensor.op.name].outputs[tensor.value_index]
            if tensor.dtype != tf.resource and tensor.op.type != "Const" and {source, needed} == {HOST, DEVICE}:
                transfers.setdefault((tensor.name, needed == HOST), (tensor, set()))[1].add(operation.type)
    copies = {
        to_host: sorted(
            (_transfer(*entry) for (_, direction), entry in transfers.items() if direction == to_host),
            key=lambda transfer: -(transfer.size or 0),
        )
        for to_host in (True, False)
    }
    on_host = [(operation.type, operation.name) for operation in graph.get_operations() if memories[operation.name].cpu]
    return Placement(len(memories), on_host, copies[True], copies[False])


def _optimize(function: Any) -> Any:
    """The function's graph with its calls, loops and conditions inlined, as TensorFlow executes it."""
    graph = tf.compat.v1.train.export_meta_graph(
        graph_def=function.graph.as_graph_def(add_shapes=True), graph=function.graph
    )
    fetched = meta_graph_pb2.CollectionDef()
    fetched.node_list.value.extend(tensor.name for tensor in function.inputs + function.outputs)
    graph.collection_def["train_op"].CopyFrom(fetched)
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1  # small graphs as well
    config.graph_options.rewrite_options.optimizers.extend(OPTIMIZATIONS)
    return tf_optimizer.OptimizeGraph(config, graph)


class _Memories(NamedTuple):
    inputs: list[str]
    outputs: list[str]
    cpu: bool = False


def _memories(operation: tf.Operation) -> _Memories:
    inputs, outputs = len(operation.inputs), len(operation.outputs)
    if operation.type in OWN_OPERATIONS:
        return _Memories([DEVICE] * inputs, [DEVICE] * outputs)
    if operation.type == "Placeholder":
        return _Memories([], [EITHER])
    if "CPU" in operation.device:  # on the host by intention
        return _Memories([HOST] * inputs, [HOST] * outputs)
    # The DEFAULT device stands for every device without a kernel of its own.
    registered = kernels.get_registered_kernels_for_op(operation.type).kernel
    for device in ("GPU", "DEFAULT"):
        fitting = [kernel for kernel in registered if kernel.device_type == device and _fits(kernel, operation)]
        if fitting:
            on_host = set(max(fitting, key=lambda kernel: kernel.priority).host_memory_arg)
            names = (
                _argument_names(arguments, operation.node_def)
                for arguments in (operation.op_def.input_arg, operation.op_def.output_arg)
            )
            return _Memories(*([HOST if name in on_host else DEVICE for name in group] for group in names))
    return _Memories([HOST] * inputs, [HOST] * outputs, cpu=True)


def _fits(kernel: Any, operation: tf.Operation) -> bool:
    """Whether the kernel is registered for the operation's types."""
    for constraint in kernel.constraint:
        attribute = operation.node_def.attr[constraint.name]
        types = attribute.list.type if attribute.HasField("list") else [attribute.type]
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True


def _argument_names(arguments: Iterable[Any], node: Any) -> list[str]:
    """The argument's name for each tensor: an argument may be a list of tensors."""
    names = []
    for argument in arguments:
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
        else:
            count = len(node.attr[argument.type_list_attr].list.type) if argument.type_list_attr else 1
        names += [argument.name] * count
    return names


def _transfer(tensor: tf.Tensor, consumers: set[str]) -> Transfer:
    elements = tensor.shape.num_elements()
    size = None if elements is None else elements * tensor.dtype.size
    shape = tuple(tensor.shape.as_list()) if tensor.shape.rank is not None else (None,)
    return Transfer(tensor.name, tensor.dtype.name, shape, size, tensor.op.type, tuple(sorted(consumers)))


def trace_training_step(config: Config, num_classes: int, batch_size: int, slots: int) -> Any:
    """The training step of the first canvas, traced and not run."""
    model = build_model(num_classes, config)
    optimizer = build_optimizer(config, 1000, model.trainable_variables)
    step: Any = build_train_step(model, optimizer, config, World())
    height, width = canvases(config.image)[0]
    spec = tf.TensorSpec
    batch = Batch(
        images=spec([batch_size, height, width, 3], tf.uint8),
        image_sizes=spec([batch_size, 2], tf.int32),
        original_sizes=spec([batch_size, 2], tf.int32),
        boxes=spec([batch_size, slots, 4], tf.float32),
        labels=spec([batch_size, slots], tf.int32),
        crowd=spec([batch_size, slots], tf.bool),
        image_ids=spec([batch_size], tf.int64),
    )
    with _as_on_a_gpu():
        return step.get_concrete_function(batch, spec([], tf.int32), spec([2], tf.float32))


def trace_inference(config: Config, num_classes: int, batch_size: int) -> Any:
    """Inference on the first canvas, traced and not run."""
    model = build_model(num_classes, config)
    height, width = canvases(config.image)[0]
    images = tf.TensorSpec([batch_size, height, width, 3], tf.float32)
    sizes = tf.TensorSpec([batch_size, 2], tf.int32)
    with _as_on_a_gpu():
        return tf.function(model.detect).get_concrete_function(images, sizes, sizes)


def _as_on_a_gpu() -> contextlib.AbstractContextManager[object]:
    """Inside, ``frcnn.ops`` selects the implementations for GPUs."""
    compiled.active_kernels()  # those of this machine
    return mock.patch.object(ops, "uses_gpu", return_value=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="recipe; default: the default options")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--slots", type=int, default=64, help="ground-truth boxes per image")
    parser.add_argument("overrides", nargs="*", help="options as for frcnn train")
    arguments = parser.parse_args()
    config = load_config(arguments.config, ["ops.kernel=compiled", *arguments.overrides])
    traces: dict[str, Callable[[], Any]] = {
        "training": lambda: trace_training_step(config, arguments.classes, arguments.batch_size, arguments.slots),
        "inference": lambda: trace_inference(config, arguments.classes, arguments.batch_size),
    }
    for name, trace in traces.items():
        found = analyze(trace())
        print(f"{name}: {found.operations} operations, {len(found.on_host)} without GPU kernel")
        for kind, operation in found.on_host:
            print(f"  on the host: {kind} {operation}")
        for direction, transfers in (("to host", found.to_host), ("to device", found.to_device)):
            total = sum(transfer.size or 0 for transfer in transfers)
            print(f"  {direction}: {len(transfers)} tensors, {total / 1e6:.3f} MB")
            for transfer in transfers:
                size = "unknown size" if transfer.size is None else f"{transfer.size} bytes"
                shape = list(transfer.shape)
                consumers = ", ".join(transfer.consumers)
                print(f"    {size} {transfer.dtype}{shape} {transfer.producer} -> {consumers}  {transfer.name[-80:]}")


if __name__ == "__main__":
    main()
