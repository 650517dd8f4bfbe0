#!/bin/bash
# One training run on TPU slices of a GKE cluster that xpk made:
#     CLUSTER=my-cluster ZONE=us-east5-b TPU_TYPE=v5litepod-64 IMAGE=REGISTRY/psann_jax:latest \
#         STORAGE=runs tools/launch/xpk.sh NAME --config configs/x.py --workdir /runs/x
# STORAGE is a shared disk that `xpk storage attach` gave the cluster, here with /runs as its mount
# point. SLICES is the number of slices. What was preempted, stopped and saved (75), or ended by its
# machine (74) or a crash (1) is started again up to RESTARTS times.
set -eu
: "${CLUSTER:?name the cluster: CLUSTER=my-cluster}"
: "${ZONE:?name its zone: ZONE=us-east5-b}"
: "${TPU_TYPE:?name the slice: TPU_TYPE=v5litepod-64}"
: "${IMAGE:?name the image made of tools/launch/Dockerfile}"
: "${STORAGE:?name the storage of the cluster that the workdir is on: STORAGE=runs}"
name=${1:?name the workload, then the arguments of psann_jax.main}
shift
XPK=${XPK:-xpk}
$XPK workload create --workload "$name" --cluster "$CLUSTER" --zone "$ZONE" \
    --tpu-type "$TPU_TYPE" --num-slices "${SLICES:-1}" --docker-image "$IMAGE" \
    --storage "$STORAGE" --max-restarts "${RESTARTS:-10}" --restart-on-exit-codes 1,74,75 \
    --command "PSANN_JAX_CLUSTER=auto $(printf '%q ' python -m psann_jax.main "$@")"
