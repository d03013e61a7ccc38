#!/usr/bin/env bash
# Trains on GPUs under Slurm, one process for each: sbatch docs/launch/slurm.sh
# Submitted again, or requeued, it continues. Leave --gpus-per-task out: every task must see all GPUs
# of its node and takes the one of its local number.
#SBATCH --job-name=seqzoo
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
ARGS=${ARGS:-"--task listops --model s4d --steps 100000 --batch-size 256"}
# shellcheck disable=SC2086  # ARGS holds several words
srun seqzoo train $ARGS --stop-seconds 110 --out "${OUT:-$HOME/runs/listops-s4d}" || {
  code=$?
  # Stopped in time and saved: the queue gives it the next turn.
  if [ "$code" -eq 75 ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi
  exit "$code"
}
