#!/usr/bin/env bash
# Trains in the image as SageMaker does, with `docker run IMAGE train` and a folder for /opt/ml; a minute on two cores.
#
#   local_test/train_local.sh [ARGUMENTS OF docker run, such as --gpus all, --network none or --read-only --tmpfs /tmp]
#
# IMAGE            the image (default frcnn)
# DATA             a COCO folder: train/ val/ annotations/ (default: a few synthetic images)
# WORK             folder for inputs and results (default runs/local_test); training resumes from its checkpoints
# HYPERPARAMETERS  a JSON object of strings (default: a small network and one epoch)
# DOCKER           docker (default) or podman
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
# shellcheck source=/dev/null
. "$(dirname "$0")/opt_ml.sh"
volumes=() # set by mount_host

prepare_data
prepare_host algo-1 '["algo-1"]'
mount_host algo-1
code=0
"$DOCKER" run --rm --hostname algo-1 --add-host algo-1:127.0.0.1 "${volumes[@]}" "$@" "$IMAGE" train || code=$?
if [ -e "$WORK/algo-1/output/failure" ]; then
  echo "FailureReason: $(cat "$WORK/algo-1/output/failure")" >&2
fi
[ $code -ne 0 ] || echo "The model is in $WORK/algo-1/model."
exit $code
