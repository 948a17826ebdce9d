#!/usr/bin/env bash
# 2 nodes x 8 GPUs with Slurm: sbatch recipes/clusters/slurm.sh RECIPE.toml /SHARED/DIR
# One torchrun a node, started by srun; SieveRL, the recipe and the directory must be on storage that all nodes share.
#SBATCH --job-name=sieverl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

recipe=${1:?usage: sbatch slurm.sh RECIPE.toml /SHARED/DIR}
run_dir=${2:?usage: sbatch slurm.sh RECIPE.toml /SHARED/DIR}
shift 2

# Ten minutes before the time is over, and when the job must make room, it goes back to the queue. The same command
# then goes on from the last checkpoint, so checkpoint.every should be minutes, not hours.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # two jobs on one node do not share it

srun torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node 8 \
  --rdzv-backend c10d \
  --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "$head:$port" \
  -m sieverl train "$recipe" --run-dir "$run_dir" --distributed.strategy fsdp "$@" &
wait "$!"
