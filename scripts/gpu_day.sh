#!/usr/bin/env bash
# Checks and measures everything on a machine with a GPU, in one command (about 40 minutes; nothing is downloaded).
#
#   scripts/gpu_day.sh [OUT] [--small] [--sections NAME...] [--precisions NAME...] [--batch-sizes N...]
#
# Runs frcnn doctor, the tests of the kernels and of GPU placement, a comparison of CPU and GPU, ResNet-50-FPN training
# and inference at 800 x 1333 in all precisions, the same of torchvision where it is installed, the input pipeline and
# the endpoint. Writes OUT/gpu_report.json and
# OUT/gpu_report.md, the table for docs/results.md (default OUT: gpu_day). Exit code 1 if a section failed.
# --small tries the command itself on any machine in minutes; its figures mean nothing.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python}" benchmarks/gpu_day.py "$@"
