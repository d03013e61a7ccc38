#!/usr/bin/env bash
# Trains on GPU hosts that ssh reaches, one process a host with all of its GPUs:
#   HOSTS="gpu1 gpu2" OUT=/mnt/shared/run bash docs/launch/ssh_gpu.sh
# OUT must be a folder that all hosts see. Ctrl-C stops and saves; the same command continues.
set -euo pipefail
read -r -a hosts <<< "${HOSTS:?hosts, separated by spaces; the first one leads}"
: "${OUT:?a folder that all hosts see}"
PORT=${PORT:-7777}
ARGS=${ARGS:-"--task listops --model s4d --steps 100000 --batch-size 256"}

# One process that is asked to stop is enough: all save the same step and end.
trap 'ssh "${hosts[0]}" "pkill -TERM -f \"[s]eqzoo train .*--out $OUT \""' INT TERM
for i in "${!hosts[@]}"; do
  ssh "${hosts[$i]}" seqzoo train "$ARGS" --out "$OUT" \
    --coordinator "${hosts[0]}:$PORT" --num-processes "${#hosts[@]}" --process-id "$i" &
done
code=0
for job in $(jobs -p); do
  # A wait that a signal ended is begun again.
  while wait "$job"; ended=$?; kill -0 "$job" 2>/dev/null; do :; done
  [ "$ended" = 0 ] || code=$ended
done
exit "$code"
