#!/usr/bin/env bash
# Builds the image from Dockerfile.frcnn and prints its name as the last line.
#
#   scripts/build_image.sh [--dry-run | --name] [-- ARGUMENTS OF docker build]
#
# --dry-run prints the build command, --name the name of the image; neither builds anything.
#
# Environment variables:
#
#   DEVICE           gpu (default), or cpu for an image without CUDA
#   IMAGE            the image's name (default frcnn)
#   TAG              the tag; default: version and commit, with -dirty for changes and untracked files, -cpu, -efa
#   BASE_IMAGE       the base image; default: the Dockerfile's (gpu) or debian:bookworm-slim (cpu)
#   BUILD_IMAGE      the image for compilation, the same system with nvcc; default: the Dockerfile's or BASE_IMAGE (cpu)
#   EFA_INSTALLER    version of Amazon's EFA installer, such as 1.49.0; default: without EFA
#   PIP_CONF         a pip.conf used during the build only; in it, cert = /run/secrets/ca_bundle refers to CA_BUNDLE
#   CA_BUNDLE        CA certificates (PEM) used during the build only, for example of a proxy
#   GIT_REVISION     the commit, if the source has no .git
#   DOCKER           docker (default) or podman
#
# Requires Docker with BuildKit (Engine 18.09 or newer; clients from version 23 on need the buildx plug-in), or podman.
# The same without this script:
#   DOCKER_BUILDKIT=1 docker build -t NAME -f Dockerfile.frcnn .
# The first build compiles Horovod, which takes five to ten minutes on two cores.
set -euo pipefail

DEVICE=${DEVICE:-gpu}
IMAGE=${IMAGE:-frcnn}
TAG=${TAG:-}
BASE_IMAGE=${BASE_IMAGE:-}
BUILD_IMAGE=${BUILD_IMAGE:-}
EFA_INSTALLER=${EFA_INSTALLER:-}
PIP_CONF=${PIP_CONF:-}
CA_BUNDLE=${CA_BUNDLE:-}
GIT_REVISION=${GIT_REVISION:-}
DOCKER=${DOCKER:-docker}

run=() only_name=
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) sed -n '2,24s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --dry-run) run=(echo +) ;;
    --name) only_name=yes ;;
    --) shift; break ;;
    *) echo "build_image: unknown argument '$1'; see --help (arguments of docker build follow --)" >&2; exit 2 ;;
  esac
  shift
done

case $DEVICE in
  gpu) suffix= ;;
  cpu) suffix=-cpu; BASE_IMAGE=${BASE_IMAGE:-debian:bookworm-slim}; BUILD_IMAGE=${BUILD_IMAGE:-$BASE_IMAGE} ;;
  *) echo "build_image: DEVICE is '$DEVICE'; expected gpu or cpu" >&2; exit 2 ;;
esac
if [ "$DEVICE" = gpu ] && [ -n "$BASE_IMAGE" ] && [ -z "$BUILD_IMAGE" ]; then
  echo "build_image: BASE_IMAGE is set, but BUILD_IMAGE is not; set it to an image of the same system with nvcc" \
    "(or set DEVICE=cpu)" >&2
  exit 2
fi

case ${IMAGE##*/} in
  *:*) echo "build_image: IMAGE is '$IMAGE', which contains a tag; set TAG instead" >&2; exit 2 ;;
esac

cd "$(dirname "$0")/.."
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' frcnn/__init__.py)
if [ -z "$GIT_REVISION" ]; then
  GIT_REVISION=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
  [ -z "$(git status --porcelain 2>/dev/null)" ] || GIT_REVISION=$GIT_REVISION-dirty
fi
name=$IMAGE:${TAG:-$version-$GIT_REVISION$suffix${EFA_INSTALLER:+-efa}}
if [ -n "$only_name" ]; then
  echo "$name"
  exit 0
fi

arguments=(
  --file Dockerfile.frcnn --platform linux/amd64 --tag "$name"
  --build-arg "VERSION=$version" --build-arg "GIT_REVISION=$GIT_REVISION"
)
[ -z "$BASE_IMAGE" ] || arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
[ -z "$BUILD_IMAGE" ] || arguments+=(--build-arg "BUILD_IMAGE=$BUILD_IMAGE")
[ -z "$EFA_INSTALLER" ] || arguments+=(--build-arg "EFA_INSTALLER=$EFA_INSTALLER")
[ -z "$PIP_CONF" ] || arguments+=(--secret "id=pip_conf,src=$PIP_CONF")
[ -z "$CA_BUNDLE" ] || arguments+=(--secret "id=ca_bundle,src=$CA_BUNDLE")

# Without BuildKit, the Dockerfile fails with an error about --mount that does not name the cause.
if [ ${#run[@]} -eq 0 ] && [ "${DOCKER##*/}" = docker ]; then
  client=$("$DOCKER" version --format '{{.Client.Version}}' 2>/dev/null || true)
  major=${client%%.*}
  case $major in '' | *[!0-9]*) major=0 ;; esac
  if [ "$major" -ge 23 ] && ! "$DOCKER" buildx version >/dev/null 2>&1; then
    echo "build_image: $DOCKER $client has no buildx plug-in, without which it cannot use BuildKit; install" \
      "docker-buildx-plugin (Debian: docker-buildx), or set DOCKER to another client" >&2
    exit 2
  fi
fi

# Attestations would make the tag an index of several manifests, which some consumers of a registry reject.
export DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1
${run[@]+"${run[@]}"} "$DOCKER" build "${arguments[@]}" "$@" . >&2
echo "$name"
