#!/usr/bin/env bash
# Pushes the image to Docker Hub, or another registry, and prints its full name there as the last line.
#
#   DOCKERHUB_USER=me scripts/push_dockerhub.sh [--dry-run]
#
# Variables, with their defaults below, are taken from the environment:
#
#   DOCKERHUB_USER   your name or organisation there; required
#   DOCKERHUB_TOKEN  an access token (Account settings, Personal access tokens); empty counts on an earlier `docker login`
#   SOURCE_IMAGE     the local image; empty builds one with scripts/build_image.sh, which takes its own variables (DEVICE, BASE_IMAGE, …)
#   REPOSITORY       name in the registry
#   TAG              tag in the registry; empty takes that of SOURCE_IMAGE
#   REGISTRY         docker.io, or another registry's host[:port]
#   DOCKER           docker or podman
#
# SageMaker does not pull from Docker Hub: docker pull, then SOURCE_IMAGE=… scripts/push_ecr.sh. The image holds no key, so publishing
# it publishes none.
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
  -h | --help) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --dry-run) run=(echo +) ;;
  *) echo "push_dockerhub: unknown argument '$1'; see --help" >&2; exit 2 ;;
esac
case ${REPOSITORY##*/} in
  *:*) echo "push_dockerhub: REPOSITORY is '$REPOSITORY'; it must not contain a tag, which belongs into TAG" >&2; exit 2 ;;
esac
if [ -z "$DOCKERHUB_USER" ]; then
  echo "push_dockerhub: DOCKERHUB_USER is empty; set it to your name or organisation at $REGISTRY" >&2
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
