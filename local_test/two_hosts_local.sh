#!/usr/bin/env bash
# Trains on two hosts, algo-1 and algo-2, as SageMaker does: two containers on an isolated network, connected by MPI.
# Takes two to three minutes on two cores, one of which is spent in waits of SageMaker's launcher.
#
#   local_test/two_hosts_local.sh [ARGUMENTS OF docker run, such as --gpus all]
#
# IMAGE, DATA, HYPERPARAMETERS, DOCKER: as in train_local.sh; WORK as well, with the default runs/local_test/two_hosts,
# so that the checkpoints of train_local.sh are not resumed. Exits with the first exit code that is not 0.
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
WORK=${WORK:-runs/local_test/two_hosts}
# shellcheck source=/dev/null
. "$(dirname "$0")/opt_ml.sh"
volumes=() # set by mount_host

network=frcnn-two-hosts-$$
containers=()
# shellcheck disable=SC2329  # the trap calls it
remove() {
  [ ${#containers[@]} -eq 0 ] || "$DOCKER" rm --force "${containers[@]}" >/dev/null
  "$DOCKER" network rm "$network" >/dev/null
}
prepare_data
"$DOCKER" network create --internal "$network" >/dev/null
trap remove EXIT
for host in algo-1 algo-2; do
  prepare_host $host '["algo-1", "algo-2"]'
  mount_host $host
  containers+=("$("$DOCKER" run --detach --hostname $host --network "$network" --network-alias $host \
    --env "TRAINING_JOB_NAME=$network" "${volumes[@]}" "$@" "$IMAGE" train)")
done

"$DOCKER" logs --follow "${containers[0]}" &
code=0
for number in 0 1; do
  ended=$("$DOCKER" wait "${containers[$number]}")
  echo "algo-$((number + 1)) exited with code $ended" >&2
  [ "$code" -ne 0 ] || code=$ended
  failure=$WORK/algo-$((number + 1))/output/failure
  if [ -e "$failure" ]; then echo "FailureReason: $(cat "$failure")" >&2; fi
done
wait
[ "$code" -ne 0 ] || echo "The model is in $WORK/algo-1/model."
exit "$code"
