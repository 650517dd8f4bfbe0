#!/bin/bash
# One process on every host of a Cloud TPU slice whose VMs have the code in ~/psann_jax:
#     TPU=my-v5e-64 ZONE=us-east5-b \
#         tools/launch/tpu_vm.sh --config configs/x.py --workdir /mnt/runs/x
# /mnt/runs is a disk that every host has mounted, as a Filestore share. gs://bucket/x is refused;
# gcsfuse can mount the bucket, with a hierarchical namespace and its metadata cache off.
# JAX finds the other hosts in the metadata of the TPU. SETUP=1 installs the project first, with the
# hosts' PYTHON: python3, or another one where that is too old, as on Ubuntu 22.04.
# To stop and save: TPU=... ZONE=... STOP=1 tools/launch/tpu_vm.sh
set -eu
: "${TPU:?name the TPU: TPU=my-v5e-64}"
: "${ZONE:?name its zone: ZONE=us-east5-b}"
GCLOUD=${GCLOUD:-gcloud}
PYTHON=${PYTHON:-python3}

on_all() {
    $GCLOUD compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker all --command "$1"
}

if [ "${STOP:-}" = 1 ]; then
    on_all "pkill -TERM -f '[p]sann_jax.main'"
    exit
fi
if [ "${SETUP:-}" = 1 ]; then
    on_all "$PYTHON -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        echo '$PYTHON is no Python 3.11 or newer: name one that the hosts have: PYTHON=python3.12'
        exit 2
    } >&2
    cd ~/psann_jax && $PYTHON -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
fi
on_all "cd ~/psann_jax && PSANN_JAX_CLUSTER=auto $(printf '%q ' .venv/bin/python -m psann_jax.main "$@")"
