#!/usr/bin/env bash
# Pushes the image to Docker Hub or another registry and prints its full name as the last line.
#
#   DOCKERHUB_USER=me scripts/push_dockerhub.sh [--dry-run]
#
# Environment variables:
#
#   DOCKERHUB_USER   your user name or organisation; required
#   DOCKERHUB_TOKEN  an access token (Account settings, Personal access tokens); default: an earlier `docker login`
#   SOURCE_IMAGE     the local image; default: build one with scripts/build_image.sh and its variables (DEVICE, …)
#   REPOSITORY       repository name (default frcnn)
#   TAG              tag; default: that of SOURCE_IMAGE
#   REGISTRY         docker.io (default), or another registry's host[:port]
#   DOCKER           docker (default) or podman
#
# SageMaker does not pull from Docker Hub: run docker pull, then SOURCE_IMAGE=… scripts/push_ecr.sh. The image contains no
# private key, so it can be published.
set -euo pipefail

DOCKERHUB_USER=${DOCKERHUB_USER:-}
DOCKERHUB_TOKEN=${DOCKERHUB_TOKEN:-}
SOURCE_IMAGE=${SOURCE_IMAGE:-}
REPOSITORY=${REPOSITORY:-frcnn}
TAG=${TAG:-}
REGISTRY=${REGISTRY:-docker.io}
DOCKER=${DOCKER:-docker}

run=()
case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --dry-run) run=(echo +) ;;
  *) echo "push_dockerhub: unknown argument '$1'; see --help" >&2; exit 2 ;;
esac
case ${REPOSITORY##*/} in
  *:*) echo "push_dockerhub: REPOSITORY is '$REPOSITORY', which contains a tag; set TAG instead" >&2; exit 2 ;;
esac
if [ -z "$DOCKERHUB_USER" ]; then
  echo "push_dockerhub: DOCKERHUB_USER is not set; set it to your user name or organisation at $REGISTRY" >&2
  exit 2
fi

if [ -z "$SOURCE_IMAGE" ]; then
  SOURCE_IMAGE=$(TAG='' "$(dirname "$0")/build_image.sh" ${run[@]+--dry-run} | tail -n 1)
fi
last=${SOURCE_IMAGE##*/}
case $last in
  *:*) TAG=${TAG:-${last##*:}} ;;
  *) TAG=${TAG:-latest} ;;
esac
name=$REGISTRY/$DOCKERHUB_USER/$REPOSITORY:$TAG

if [ -n "$DOCKERHUB_TOKEN" ]; then
  if [ ${#run[@]} -gt 0 ]; then
    echo "+ $DOCKER login --username $DOCKERHUB_USER --password-stdin $REGISTRY" >&2
  else
    printf '%s' "$DOCKERHUB_TOKEN" | "$DOCKER" login --username "$DOCKERHUB_USER" --password-stdin "$REGISTRY" >&2
  fi
fi
${run[@]+"${run[@]}"} "$DOCKER" tag "$SOURCE_IMAGE" "$name" >&2
${run[@]+"${run[@]}"} "$DOCKER" push "$name" >&2
echo "$name"
