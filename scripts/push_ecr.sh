#!/usr/bin/env bash
# Pushes the image to Amazon ECR, from where alone SageMaker pulls, and prints its full name there as the last line.
#
#   scripts/push_ecr.sh [--dry-run]
#
# Variables, with their defaults below, are taken from the environment:
#
#   SOURCE_IMAGE     the local image; empty builds one with scripts/build_image.sh, which takes its own variables (DEVICE, BASE_IMAGE, …)
#   REPOSITORY       name in ECR; made, with scanning of what is pushed, where it is missing
#   TAG              tag in ECR; empty takes that of SOURCE_IMAGE
#   TAG_MUTABILITY   IMMUTABLE: a tag once pushed cannot be given to another image. Or MUTABLE. Only for a repository that is made.
#                    A tag that is taken is found before anything is built: the same commit's image is not made again
#   AWS_REGION       the region of your jobs: SageMaker pulls from its own; empty asks `aws configure get region`, else us-east-1
#   AWS_ACCOUNT      twelve digits; empty asks AWS whose credentials these are
#   ECR_SUFFIX       domain of the region's partition; empty knows the public ones, China, ISO and the European Sovereign Cloud
#   DOCKER           docker or podman
#
# Needs the AWS command line, version 1 or 2, and the permissions of scripts/iam/push-policy.json.
set -euo pipefail

SOURCE_IMAGE=${SOURCE_IMAGE:-}
REPOSITORY=${REPOSITORY:-frcnn}
TAG=${TAG:-}
TAG_MUTABILITY=${TAG_MUTABILITY:-IMMUTABLE}
AWS_REGION=${AWS_REGION:-${AWS_DEFAULT_REGION:-}}
AWS_ACCOUNT=${AWS_ACCOUNT:-}
ECR_SUFFIX=${ECR_SUFFIX:-}
DOCKER=${DOCKER:-docker}

run=()
case ${1:-} in
  '') ;;
  -h | --help) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --dry-run) run=(echo +) ;;
  *) echo "push_ecr: unknown argument '$1'; see --help" >&2; exit 2 ;;
esac
case ${REPOSITORY##*/} in
  *:*) echo "push_ecr: REPOSITORY is '$REPOSITORY'; it must not contain a tag, which belongs into TAG" >&2; exit 2 ;;
esac

AWS_REGION=${AWS_REGION:-$(aws configure get region 2>/dev/null || true)}
AWS_REGION=${AWS_REGION:-us-east-1}
export AWS_REGION AWS_DEFAULT_REGION=$AWS_REGION AWS_PAGER=
AWS_ACCOUNT=${AWS_ACCOUNT:-$(aws sts get-caller-identity --query Account --output text)}

partition_suffix() { # of the region $1
  case $1 in
    cn-*) echo amazonaws.com.cn ;;
    us-iso-*) echo c2s.ic.gov ;;
    us-isob-*) echo sc2s.sgov.gov ;;
    us-isof-* | eu-isof-*) echo csp.hci.ic.gov ;;
    eu-isoe-*) echo cloud.adc-e.uk ;;
    eusc-*) echo amazonaws.eu ;;
    *) echo amazonaws.com ;;
  esac
}

registry=$AWS_ACCOUNT.dkr.ecr.$AWS_REGION.${ECR_SUFFIX:-$(partition_suffix "$AWS_REGION")}

build='' given_tag=$TAG
if [ -z "$SOURCE_IMAGE" ]; then
  build=$(dirname "$0")/build_image.sh
  SOURCE_IMAGE=$(TAG='' "$build" --name)
fi
last=${SOURCE_IMAGE##*/}
case $last in
  *:*) TAG=${TAG:-${last##*:}} ;;
  *) TAG=${TAG:-latest} ;;
esac
name=$registry/$REPOSITORY:$TAG

# Whether the image of digest $1, which has our tag in the repository, is the one that would be pushed.
is_ours() {
  if [ -z "$build" ]; then
    "$DOCKER" inspect --format '{{join .RepoDigests "\n"}}' "$SOURCE_IMAGE" 2>/dev/null | grep -q "@$1\$"
    return
  fi
  # A tag that build_image.sh made tells version, commit and device; not which bases, and which version of EFA's installer.
  [ -z "$given_tag${BASE_IMAGE:-}${BUILD_IMAGE:-}${EFA_INSTALLER:-}" ] || return 1
  case $TAG in *-dirty* | *-unknown*) return 1 ;; esac
}

# Ends the script where our tag is taken in the repository and cannot be moved.
look_for_tag() {
  local digest
  digest=$(aws ecr describe-images --repository-name "$REPOSITORY" --image-ids imageTag="$TAG" \
    --query 'imageDetails[0].imageDigest' --output text 2>/dev/null) || return 0
  if is_ours "$digest"; then
    echo "push_ecr: this image is there already" >&2
    echo "$name"
    exit 0
  fi
  echo "push_ecr: another image is $name already, and tags of this repository cannot be moved; set TAG to a new one" \
    "(or commit your changes, which are part of the tag), or use the image that is there" >&2
  exit 1
}

if mutability=$(aws ecr describe-repositories --repository-names "$REPOSITORY" \
    --query 'repositories[0].imageTagMutability' --output text 2>/dev/null); then
  case $mutability in IMMUTABLE*) look_for_tag ;; esac
else
  ${run[@]+"${run[@]}"} aws ecr create-repository --repository-name "$REPOSITORY" \
    --image-scanning-configuration scanOnPush=true --image-tag-mutability "$TAG_MUTABILITY" >&2
fi
if [ -n "$build" ]; then
  SOURCE_IMAGE=$(TAG='' "$build" ${run[@]+--dry-run} | tail -n 1)
fi
if [ ${#run[@]} -gt 0 ]; then
  echo "+ aws ecr get-login-password | $DOCKER login --username AWS --password-stdin $registry" >&2
else
  aws ecr get-login-password | "$DOCKER" login --username AWS --password-stdin "$registry" >&2
fi
${run[@]+"${run[@]}"} "$DOCKER" tag "$SOURCE_IMAGE" "$name" >&2
${run[@]+"${run[@]}"} "$DOCKER" push "$name" >&2
echo "$name"
