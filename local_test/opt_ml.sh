# What SageMaker gives a container, for the other scripts of this folder: `. opt_ml.sh`, not run by itself.
# shellcheck shell=bash

DOCKER=${DOCKER:-docker}
IMAGE=${IMAGE:-frcnn}
WORK=${WORK:-runs/local_test}
DATA=${DATA:-}
# Strings all, as SageMaker hands them over.
HYPERPARAMETERS=${HYPERPARAMETERS:-'{
  "backbone.name": "resnet18", "backbone.norm": "gn", "fpn.channels": "64", "roi_head.fc_channels": "128",
  "image.min_size": "[96]", "image.max_size": "128", "image.canvas_aspects": "[1.0]", "anchors.sizes": "[8, 16, 32, 64, 128]",
  "rpn.post_nms_train": "200", "rpn.post_nms_test": "100", "roi_head.samples": "32",
  "optimizer.warmup_steps": "2", "training.batch_size": "2", "training.epochs": "1", "training.log_every": "1",
  "training.evaluate_every": "null"
}'}

# A channel to train on: DATA, or ten pictures of drawn shapes in $WORK/data, made by the image itself.
prepare_data() {
  mkdir -p "$WORK"
  if [ -z "$DATA" ]; then
    DATA=$WORK/data
    [ -e "$DATA/annotations" ] ||
      "$DOCKER" run --rm --user "$(id -u):$(id -g)" --volume "$(cd "$WORK" && pwd):/channel" "$IMAGE" make-shapes /channel/data --images 10
  elif [ ! -d "$DATA" ]; then
    echo "DATA=$DATA is no folder; expected a COCO folder: train/ val/ annotations/" >&2
    exit 2
  fi
}

# The folder of host $1 among the hosts $2 (a JSON list): $WORK/$1/{input,model,output,checkpoints}.
prepare_host() {
  local folder=$WORK/$1
  mkdir -p "$folder"/{input/config,model,output,checkpoints}
  rm -f "$folder/output/failure" # of an earlier run
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

# The volumes of host $1 as arguments of docker run, in the array `volumes`.
mount_host() {
  local folder
  folder=$(cd "$WORK/$1" && pwd)
  # shellcheck disable=SC2034  # read by the script that reads this file
  volumes=(
    --volume "$folder/input:/opt/ml/input:ro" --volume "$(cd "$DATA" && pwd):/opt/ml/input/data/training:ro"
    --volume "$folder/model:/opt/ml/model" --volume "$folder/output:/opt/ml/output" --volume "$folder/checkpoints:/opt/ml/checkpoints"
  )
  mkdir -p "$folder/input/data/training" # where the second is mounted into the first
}
