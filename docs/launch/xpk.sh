#!/usr/bin/env bash
# The same as gke_jobset.yaml through XPK, which writes the JobSet: bash docs/launch/xpk.sh
#
#   CLUSTER, ZONE, PROJECT   a cluster that `xpk cluster create` made
#   IMAGE                    with `pip install 'seqzoo[tpu]'`
#   STORAGE                  attached with `xpk storage attach`, mounted at /runs
set -euo pipefail
: "${CLUSTER:?}" "${ZONE:?}" "${PROJECT:?}" "${IMAGE:?}" "${STORAGE:?}"
TYPE=${TYPE:-v5litepod-256} SLICES=${SLICES:-1}

xpk workload create --workload "${WORKLOAD:-seqzoo}" \
  --cluster "$CLUSTER" --zone "$ZONE" --project "$PROJECT" \
  --tpu-type "$TYPE" --num-slices "$SLICES" --docker-image "$IMAGE" --storage "$STORAGE" \
  --max-restarts 100 \
  --command "python3 -m seqzoo.train.cli train ${ARGS:---task listops --model s4d --steps 100000 --batch-size 256} --mesh.replica $SLICES --stop-seconds 25 --out ${OUT:-/runs/listops-s4d}"
