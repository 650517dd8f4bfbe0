#!/bin/bash
# One process on each of several hosts that ssh reaches without a password:
#     HOSTS="node1 node2" DIR=/shared/psann_jax \
#         tools/launch/ssh.sh --config configs/x.py --workdir /shared/x
# The first host is the coordinator; the private network between them must be trusted, since the
# coordinator's PORT asks nobody who he is. DIR has the code and its .venv on every host.
# Ctrl-C or SIGTERM here is passed on; the run saves, and this script ends with 75.
set -u
: "${HOSTS:?name the hosts, the coordinator first: HOSTS=\"node1 node2\"}"
: "${DIR:?name the folder of the code on every host: DIR=/shared/psann_jax}"
PORT=${PORT:-12355}
SSH=${SSH:-ssh}
read -r -a hosts <<<"$HOSTS"
command=$(printf '%q ' .venv/bin/python -m psann_jax.main "$@")
pids=()

pid_file() { echo "/tmp/psann_jax-$PORT-$1.pid"; }

for i in "${!hosts[@]}"; do
    $SSH "${hosts[$i]}" "cd $(printf '%q' "$DIR") && echo \$\$ >$(pid_file "$i") && exec env \
        JAX_COORDINATOR_ADDRESS=${hosts[0]}:$PORT JAX_NUM_PROCESSES=${#hosts[@]} \
        JAX_PROCESS_ID=$i $command" > >(sed -u "s/^/[$i] /") 2>&1 &
    pids+=($!)
done

stop() { # all hosts at once: one that does not answer keeps none waiting
    local signal=TERM
    [ "$1" = INT ] && [ -n "$stopped" ] && signal=INT # a second Ctrl-C interrupts
    told=1 stopped=1
    for i in "${!hosts[@]}"; do
        $SSH "${hosts[$i]}" "kill -$signal \$(cat $(pid_file "$i"))" &
    done
}
stopped=
trap 'stop INT' INT
trap 'stop TERM' TERM

worst=0
for pid in "${pids[@]}"; do
    while
        told=
        wait "$pid"
        code=$?
        [ "$code" -gt 128 ] && [ -n "$told" ] # it is the wait that the signal ended
    do :; done
    [ "$code" -gt "$worst" ] && worst=$code
done
wait
exit "$worst"
