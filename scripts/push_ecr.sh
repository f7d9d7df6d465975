#!/usr/bin/env bash
# Pushes the image to Amazon ECR, the only registry SageMaker pulls from, and prints its full name as the last line.
#
#   scripts/push_ecr.sh [--dry-run]
#
# Environment variables:
#
#   SOURCE_IMAGE     the local image; default: build one with scripts/build_image.sh and its variables (DEVICE, …)
#   REPOSITORY       repository name (default frcnn); created with scan-on-push if it does not exist
#   TAG              tag; default: that of SOURCE_IMAGE
#   TAG_MUTABILITY   IMMUTABLE (default) or MUTABLE, for a repository that is created. With immutable tags, an image
#                    that exists in ECR is not built again, and a tag of another image is an error before the build
#   AWS_REGION       the region of your jobs; default: `aws configure get region`, else us-east-1
#   AWS_ACCOUNT      the account's twelve digits; default: that of your credentials
#   ECR_SUFFIX       domain of the region's partition; default: known for all public partitions
#   DOCKER           docker (default) or podman
#
# Requires the AWS command line, version 1 or 2, and the permissions of scripts/iam/push-policy.json.
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
  -h | --help) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 0 ;;
  --dry-run) run=(echo +) ;;
  *) echo "push_ecr: unknown argument '$1'; see --help" >&2; exit 2 ;;
esac
case ${REPOSITORY##*/} in
  *:*) echo "push_ecr: REPOSITORY is '$REPOSITORY', which contains a tag; set TAG instead" >&2; exit 2 ;;
esac

# Ends the script unless variable $1 with value $2 matches the pattern $3 of ECR; $4 describes what is allowed.
expect() {
  [[ $2 =~ ^($3)$ ]] || { echo "push_ecr: $1 is '$2'; expected $4" >&2; exit 2; }
}

# awscli before 2.13 ignores the variable AWS_ENDPOINT_URL.
aws=(aws)
[ -z "${AWS_ENDPOINT_URL:-}" ] || aws+=(--endpoint-url "$AWS_ENDPOINT_URL")

word='[a-z0-9]+([._-][a-z0-9]+)*'
expect REPOSITORY "$REPOSITORY" "$word(/$word)*" "lower-case words, separated by one of . _ - /, such as team/frcnn"
[ ${#REPOSITORY} -ge 2 ] && [ ${#REPOSITORY} -le 256 ] || expect REPOSITORY "$REPOSITORY" '' "2 to 256 characters"
expect TAG_MUTABILITY "$TAG_MUTABILITY" 'IMMUTABLE|MUTABLE' "IMMUTABLE or MUTABLE"
AWS_REGION=${AWS_REGION:-$(aws configure get region 2>/dev/null || true)}
AWS_REGION=${AWS_REGION:-us-east-1}
expect AWS_REGION "$AWS_REGION" '[a-z]+(-[a-z]+)+-[0-9]+' "a region such as us-east-1"
export AWS_REGION AWS_DEFAULT_REGION=$AWS_REGION AWS_PAGER=
AWS_ACCOUNT=${AWS_ACCOUNT:-$("${aws[@]}" sts get-caller-identity --query Account --output text)}
expect AWS_ACCOUNT "$AWS_ACCOUNT" '[0-9]{12}' "twelve digits"

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
expect TAG "$TAG" '[A-Za-z0-9_][A-Za-z0-9._-]{0,127}' "up to 128 letters, digits and . _ -, not starting with . or -"
name=$registry/$REPOSITORY:$TAG

# Whether the image with digest $1, which has our tag in the repository, is the one to be pushed.
is_ours() {
  if [ -z "$build" ]; then
    "$DOCKER" inspect --format '{{join .RepoDigests "\n"}}' "$SOURCE_IMAGE" 2>/dev/null | grep -q "@$1\$"
    return
  fi
  # The tags of build_image.sh identify version, commit and device, but not the base images or the EFA version.
  [ -z "$given_tag${BASE_IMAGE:-}${BUILD_IMAGE:-}${EFA_INSTALLER:-}" ] || return 1
  case $TAG in *-dirty* | *-unknown*) return 1 ;; esac
}

# Exits if our tag exists in the repository and cannot be moved.
check_tag() {
  local digest
  digest=$("${aws[@]}" ecr describe-images --repository-name "$REPOSITORY" --image-ids imageTag="$TAG" \
    --query 'imageDetails[0].imageDigest' --output text 2>/dev/null) || return 0
  if is_ours "$digest"; then
    echo "push_ecr: this image has been pushed already" >&2
    echo "$name"
    exit 0
  fi
  echo "push_ecr: $name is another image, and tags of this repository are immutable; set TAG to a new one" \
    "(or commit your changes, which changes the default tag), or use the existing image" >&2
  exit 1
}

if mutability=$("${aws[@]}" ecr describe-repositories --repository-names "$REPOSITORY" \
    --query 'repositories[0].imageTagMutability' --output text 2>/dev/null); then
  case $mutability in IMMUTABLE*) check_tag ;; esac
else
  ${run[@]+"${run[@]}"} "${aws[@]}" ecr create-repository --repository-name "$REPOSITORY" \
    --image-scanning-configuration scanOnPush=true --image-tag-mutability "$TAG_MUTABILITY" >&2
fi
if [ -n "$build" ]; then
  SOURCE_IMAGE=$(TAG='' "$build" ${run[@]+--dry-run} | tail -n 1)
fi
if [ ${#run[@]} -gt 0 ]; then
  echo "+ ${aws[*]} ecr get-login-password | $DOCKER login --username AWS --password-stdin $registry" >&2
else
  "${aws[@]}" ecr get-login-password | "$DOCKER" login --username AWS --password-stdin "$registry" >&2
fi
${run[@]+"${run[@]}"} "$DOCKER" tag "$SOURCE_IMAGE" "$name" >&2
${run[@]+"${run[@]}"} "$DOCKER" push "$name" >&2
echo "$name"
