#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU slice. Run again to continue: bash docs/launch/tpu_vm.sh
#
#   NAME, ZONE      of the slice; it is created if it does not exist and TYPE is given
#   TYPE, RUNTIME   such as v5litepod-16 and v2-alpha-tpuv5-lite
#   OUT             the run's folder on a file system that all workers mount (Filestore, gcsfuse)
#   ARGS            flags of `seqzoo train`
set -euo pipefail
: "${NAME:?name of the slice}" "${ZONE:?its zone}" "${OUT:?a folder that all workers see}"
ARGS=${ARGS:-"--task listops --model s4d --steps 100000 --batch-size 256"}

if [ -n "${TYPE:-}" ] && ! gcloud compute tpus tpu-vm describe "$NAME" --zone "$ZONE" >/dev/null 2>&1; then
  gcloud compute tpus tpu-vm create "$NAME" --zone "$ZONE" \
    --accelerator-type "$TYPE" --version "${RUNTIME:?runtime version of the TPU}"
fi

on_all() { gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$1"; }

on_all "python3 -m pip install --quiet 'seqzoo[tpu]'"
on_all "python3 -m seqzoo.train.cli doctor --out $(dirname "$OUT")" || true  # says what is wrong
on_all "python3 -m seqzoo.train.cli train $ARGS --out $OUT"
