#!/usr/bin/env bash
# Serves a model in the image as SageMaker does, waits until /ping is healthy, sends an image and prints the response.
#
#   local_test/serve_local.sh [IMAGE_FILE] [-- ARGUMENTS OF docker run]
#
# IMAGE       the Docker image (default frcnn)
# MODEL       model folder (default: the result of train_local.sh)
# PORT        port on this machine (default 8080)
# DATA, WORK  as in train_local.sh; without IMAGE_FILE, an image of DATA is sent
# KEEP        1 keeps the endpoint running and prints how to stop it
# DOCKER      docker (default) or podman
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
# shellcheck source=/dev/null
. "$(dirname "$0")/opt_ml.sh"
MODEL=${MODEL:-$WORK/algo-1/model}
PORT=${PORT:-8080}
KEEP=${KEEP:-}
START_SECONDS=480 # SageMaker's limit

file=
if [ $# -gt 0 ] && [ "$1" != -- ]; then file=$1; shift; fi
if [ "${1:-}" = -- ]; then shift; fi
if [ -z "$file" ]; then
  # sed reads to the end: with head, sort would fail on the closed pipe and pipefail would end this script.
  file=$(find -H "${DATA:-$WORK/data}" \( -name '*.jpg' -o -name '*.png' \) | sort | sed -n 1p)
fi
if [ ! -r "$file" ] || [ ! -d "$MODEL" ]; then
  echo "serve_local: image '$file' or model '$MODEL' does not exist; run local_test/train_local.sh first" >&2
  exit 2
fi

model=$(cd "$MODEL" && pwd)
container=$("$DOCKER" run --detach --publish "127.0.0.1:$PORT:8080" --volume "$model:/opt/ml/model:ro" \
  "$@" "$IMAGE" serve)
stop() {
  "$DOCKER" stop --time 30 "$container" >/dev/null
  "$DOCKER" rm "$container" >/dev/null
}
[ -n "$KEEP" ] || trap stop EXIT

until curl --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:$PORT/ping"; do
  running=$("$DOCKER" inspect --format '{{.State.Running}}' "$container")
  if [ "$running" != true ] || [ $SECONDS -gt $START_SECONDS ]; then
    "$DOCKER" logs "$container" >&2
    echo "serve_local: the endpoint did not become healthy; its log is above" >&2
    exit 1
  fi
  sleep 1
done
case $file in *.png) type=image/png ;; *) type=image/jpeg ;; esac
curl --silent --show-error --fail-with-body --header "Content-Type: $type" --data-binary "@$file" \
  "http://127.0.0.1:$PORT/invocations"
echo
[ -z "$KEEP" ] || echo "http://127.0.0.1:$PORT/ serves until: $DOCKER rm --force $container" >&2
