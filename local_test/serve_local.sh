#!/usr/bin/env bash
# Serves a model in the image as SageMaker would, waits until /ping is healthy, sends one picture and prints the answer.
#
#   local_test/serve_local.sh [PICTURE] [-- ARGUMENTS OF docker run]
#
# IMAGE   the image (default frcnn)
# MODEL   model folder (default: what train_local.sh left)
# PORT    port of this machine (default 8080)
# DATA, WORK  as in train_local.sh; a picture of DATA is sent where none is named
# KEEP    1 leaves the endpoint running, and prints how to stop it
# DOCKER  docker or podman
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
# shellcheck source=/dev/null
. "$(dirname "$0")/opt_ml.sh"
MODEL=${MODEL:-$WORK/algo-1/model}
PORT=${PORT:-8080}
KEEP=${KEEP:-}
START_SECONDS=480 # SageMaker's own limit

picture=
if [ $# -gt 0 ] && [ "$1" != -- ]; then picture=$1; shift; fi
if [ "${1:-}" = -- ]; then shift; fi
if [ -z "$picture" ]; then
  # To the list's end: were sort cut off, pipefail would end this script without a word.
  picture=$(find -H "${DATA:-$WORK/data}" \( -name '*.jpg' -o -name '*.png' \) | sort | sed -n 1p)
fi
if [ ! -r "$picture" ] || [ ! -d "$MODEL" ]; then
  echo "serve_local: picture '$picture' or model '$MODEL' is not there; run local_test/train_local.sh first" >&2
  exit 2
fi

container=$("$DOCKER" run --detach --publish "127.0.0.1:$PORT:8080" --volume "$(cd "$MODEL" && pwd):/opt/ml/model:ro" "$@" "$IMAGE" serve)
stop() {
  "$DOCKER" stop --time 30 "$container" >/dev/null
  "$DOCKER" rm "$container" >/dev/null
}
[ -n "$KEEP" ] || trap stop EXIT

until curl --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:$PORT/ping"; do
  if [ "$("$DOCKER" inspect --format '{{.State.Running}}' "$container")" != true ] || [ $SECONDS -gt $START_SECONDS ]; then
    "$DOCKER" logs "$container" >&2
    echo "serve_local: the endpoint did not become healthy; its log is above" >&2
    exit 1
  fi
  sleep 1
done
case $picture in *.png) type=image/png ;; *) type=image/jpeg ;; esac
curl --silent --show-error --fail-with-body --header "Content-Type: $type" --data-binary "@$picture" "http://127.0.0.1:$PORT/invocations"
echo
[ -z "$KEEP" ] || echo "http://127.0.0.1:$PORT/ serves until: $DOCKER rm --force $container" >&2
