# Creates the contents of /opt/ml as SageMaker does; sourced by the other scripts of this folder.
# shellcheck shell=bash

DOCKER=${DOCKER:-docker}
IMAGE=${IMAGE:-frcnn}
WORK=${WORK:-runs/local_test}
DATA=${DATA:-}
# All values are strings, as in SageMaker.
HYPERPARAMETERS=${HYPERPARAMETERS:-'{
  "backbone.name": "resnet18", "backbone.norm": "gn", "fpn.channels": "64", "roi_head.fc_channels": "128",
  "image.min_size": "[96]", "image.max_size": "128", "image.canvas_aspects": "[1.0]",
  "anchors.sizes": "[8, 16, 32, 64, 128]",
  "rpn.post_nms_train": "200", "rpn.post_nms_test": "100", "roi_head.samples": "32",
  "optimizer.warmup_steps": "2", "training.batch_size": "2", "training.epochs": "1", "training.log_every": "1",
  "training.evaluate_every": "null"
}'}

# The training channel: DATA, or ten synthetic images in $WORK/data, which the image generates.
prepare_data() {
  mkdir -p "$WORK"
  if [ -z "$DATA" ]; then
    DATA=$WORK/data
    [ -e "$DATA/annotations" ] ||
      "$DOCKER" run --rm --user "$(id -u):$(id -g)" --volume "$(cd "$WORK" && pwd):/channel" "$IMAGE" \
        make-shapes /channel/data --images 10
  elif [ ! -d "$DATA" ]; then
    echo "DATA=$DATA is not a folder; expected a COCO folder: train/ val/ annotations/" >&2
    exit 2
  fi
}

# Creates the folder $WORK/$1/{input,model,output,checkpoints} of host $1; $2 is the JSON list of all hosts.
prepare_host() {
  local folder=$WORK/$1
  mkdir -p "$folder"/{input/config,model,output,checkpoints}
  rm -f "$folder/output/failure" # left by an earlier run
  printf '%s\n' "$HYPERPARAMETERS" >"$folder/input/config/hyperparameters.json"
  cat >"$folder/input/config/inputdataconfig.json" <<JSON
{"training": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}}
JSON
  cat >"$folder/input/config/resourceconfig.json" <<JSON
{"current_host": "$1", "hosts": $2, "current_instance_type": "local", "current_group_name": "homogeneousCluster",
 "instance_groups": [{"instance_group_name": "homogeneousCluster", "instance_type": "local", "hosts": $2}],
 "network_interface_name": "eth0"}
JSON
}

# Sets the array `volumes` to the arguments of docker run that mount host $1's folder.
mount_host() {
  local folder
  folder=$(cd "$WORK/$1" && pwd)
  # shellcheck disable=SC2034  # used by the scripts that source this file
  volumes=(
    --volume "$folder/input:/opt/ml/input:ro" --volume "$(cd "$DATA" && pwd):/opt/ml/input/data/training:ro"
    --volume "$folder/model:/opt/ml/model" --volume "$folder/output:/opt/ml/output"
    --volume "$folder/checkpoints:/opt/ml/checkpoints"
  )
  mkdir -p "$folder/input/data/training" # mount point for the second volume inside the first
}
