#!/usr/bin/env bash
# The six reference models and their controls, in chunks: bash scripts/train_reference.sh [OVERRIDES]
#
# Lambda 0.1 over [0, 1] is trained first, for BASE steps; the others begin from its weights and take
# FINE steps each: the other lambdas and ranges, and the controls without a tail drop and with one
# tail alone. After CHUNK seconds whatever runs saves a checkpoint, and this ends with exit code 75:
# start it again until it ends with 0. For example:
#
#   until bash scripts/train_reference.sh trainer=gpu dataset=folder dataset.root=DIR; do
#     [ $? = 75 ] || break
#   done
set -euo pipefail
cd "$(dirname "$0")/.."
CHUNK=${CHUNK:-540} BASE=${BASE:-20000} FINE=${FINE:-5000} PYTHON=${PYTHON:-python}
ends=$(($(date +%s) + CHUNK))

train() {
  local left=$((ends - $(date +%s))) code=0
  [ "$left" -gt 0 ] || exit 75
  timeout --preserve-status --signal=TERM "$left" "$PYTHON" -m progdtd.train "$@" || code=$?
  [ "$code" != 143 ] || exit 75 # told to stop where there was nothing to save: as it began or ended
  [ "$code" = 0 ] || exit "$code"
}

reference=(experiment=reference "$@")
first=("${reference[@]}" hydra.mode=RUN lambda=0.1 'drop.range=[0.0,1.0]' trainer.steps="$BASE")
composed() { "$PYTHON" -m progdtd.train "${first[@]}" --cfg job --package "$1"; }
base=outputs/$(composed group)/$(composed run_name)
train "${first[@]}"
fine=("${reference[@]}" trainer.steps="$FINE" init_from="$base" launcher=local launcher.workers=1)
train -m "${fine[@]}" lambda=0.01,1.0 'drop.range=[0.0,1.0],[0.3,1.0]'
train -m "${fine[@]}" lambda=0.1 'drop.range=[0.3,1.0]'
train -m "${fine[@]}" lambda=0.1 'drop.range=[0.0,1.0]' drop=none,latent_only,hyper_only
