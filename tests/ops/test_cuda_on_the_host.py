"""The .cu files, compiled for the host and run by the shim: results, barriers and atomics."""

from __future__ import annotations

import shutil

import group_norm_checks
import numpy as np
import pytest
import shim_runs

CHECKS = shim_runs.checks()
named = pytest.mark.parametrize("check", [check for _, check in CHECKS], ids=[name for name, _ in CHECKS])


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Builds the program of a mode at its first use."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    built = {}

    def get(mode):
        if mode not in built:
            built[mode] = shim_runs.build(mode, tmp_path_factory.mktemp("shim") / mode)
        return built[mode]

    return get


@named
@pytest.mark.parametrize("order", shim_runs.ORDERS)
def test_fibers(program, check, order):
    check(program("fibers"), order)


@named
@pytest.mark.parametrize("mode", ["address", "threads"])
def test_threads_under_a_sanitizer(program, check, mode):
    check(program(mode), "forward")


def test_the_gradient_does_not_depend_on_the_thread_order(program):
    call = shim_runs.pooling_call(8, 2, True)
    results = {
        shim_runs.run(program("fibers"), "roi_align_gradient", order, *call.head, call.upstream)[0]
        for order in shim_runs.ORDERS
    }
    assert len(results) == 1


def test_group_norm_does_not_depend_on_the_thread_order_or_the_other_images(program):
    head, _, (inputs, gamma, beta, upstream), _ = group_norm_checks.norm_call((2, 13, 7, 64), 4, True, dtype=1)
    alone = np.array([1, *head[1:]], np.int32)
    results = set()
    for order in shim_runs.ORDERS:
        for call, images in ((head, slice(2)), (alone, slice(1))):
            arrays = call, np.float32([1e-3]), inputs[images], gamma, beta
            forward = shim_runs.run(program("fibers"), "group_norm", order, *arrays)[0]
            size = inputs[images].nbytes
            statistics = np.frombuffer(forward[size:], np.float32)
            arrays = call, upstream[images], inputs[images], gamma, beta, statistics
            backward = shim_runs.run(program("fibers"), "group_norm_gradient", order, *arrays)[0]
            half = inputs[0].nbytes
            results.add((forward[:half], backward[:half]))
    assert len(results) == 1


def test_group_norm_reads_twice_and_writes_once(program):
    head, _, (inputs, gamma, beta, upstream), _ = group_norm_checks.norm_call((2, 13, 7, 64), 4, True, dtype=1)
    statistics = np.zeros([2, 2, 4], np.float32)
    forward = shim_runs.run(program("fibers"), "group_norm", "forward", head, np.float32([1e-3]), inputs, gamma, beta)
    arrays = head, upstream, inputs, gamma, beta, statistics
    backward = shim_runs.run(program("fibers"), "group_norm_gradient", "forward", *arrays)
    assert (forward[1], backward[1]) == (3 * inputs.nbytes, 5 * inputs.nbytes)


def test_roi_align_reads_each_tap_once(program):
    # One box with one bin of 2 x 2 samples between pixels: 3 x 3 taps after merging, and one result.
    head = np.int32([1, 1, 4, 1, 2, 1, 0, 1]), np.int32([8]), np.int32([8]), np.float32([1]), np.float32([0])
    arrays = (*head, np.float32([[2.25, 2.25, 4.25, 4.25]]), np.int32([0]), np.zeros([1, 8, 8, 4], np.float32))
    assert shim_runs.run(program("fibers"), "roi_align", "forward", *arrays)[1] == (9 + 1) * 4 * 4
