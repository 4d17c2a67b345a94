#!/usr/bin/env bash
# TPU VMs and pods of Google Cloud, by queued resources: the same few commands for one host and for many.
#
#   launch/tpu_vm.sh create  NAME                    ask for the TPU; returns when it is there
#   launch/tpu_vm.sh install NAME                    this folder and bertjax, on all workers
#   launch/tpu_vm.sh run     NAME bertjax pretrain ...    start on all workers, in the background there
#   launch/tpu_vm.sh logs    NAME                    what worker 0 says, as it comes (WORKER=all: all of them)
#   launch/tpu_vm.sh stop    NAME                    SIGTERM: the run saves its step and ends
#   launch/tpu_vm.sh delete  NAME                    give the TPU back
#   launch/tpu_vm.sh keep    NAME bertjax pretrain ...    all of it: create, install, run; anew after a preemption,
#                                                    until the run is done; then, or on Ctrl-C, delete
#
# Set in the environment: ZONE, TYPE (such as v5litepod-16), VERSION (such as v2-alpha-tpuv5-lite), perhaps PROJECT,
# SPOT=1, and SHARE=HOST:/PATH, an NFS share (Filestore), mounted at /mnt/share on all workers: --out must be on it, or
# in a bucket (gs://), where there are several workers, and for `keep`, as the disks of a preempted TPU are gone.
set -euo pipefail

verb="${1:-}" name="${2:-}"
if [ -z "$verb" ] || [ -z "$name" ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
fi
shift 2
: "${ZONE:?name the zone: ZONE=us-west4-a}"
poll="${POLL:-30}"
where=(--zone "$ZONE" ${PROJECT:+--project "$PROJECT"})

say() { echo "tpu_vm: $*" >&2; }

queued() { gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"; }

on_all() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"; }

# ACTIVE, SUSPENDED, FAILED, ...; MISSING where there is none; UNKNOWN where that cannot be told now.
state() {
    local answer
    if answer="$(queued describe --format='value(state.state)' 2>&1)"; then
        echo "${answer:-UNKNOWN}"
    elif grep -qi 'NOT_FOUND\|not found' <<<"$answer"; then
        echo MISSING
    else
        say "$answer"
        echo UNKNOWN
    fi
}

create() {
    : "${TYPE:?name the accelerator type: TYPE=v5litepod-16}" "${VERSION:?name the runtime: VERSION=v2-alpha-tpuv5-lite}"
    queued create --node-id "$name" --accelerator-type "$TYPE" --runtime-version "$VERSION" ${SPOT:+--spot}
}

# Suspended and failed ones count against the quota until they are deleted; --force takes the nodes with them.
delete() {
    queued delete --force --quiet || [ "$(state)" = MISSING ]
}

install() {
    local folder
    folder="$(mktemp -d)"
    git -C "$(dirname "$0")/.." archive --output "$folder/bertjax.tar.gz" HEAD || return
    gcloud compute tpus tpu-vm scp "$folder/bertjax.tar.gz" "$name:bertjax.tar.gz" "${where[@]}" --worker=all || return
    rm -r "$folder"
    # The images have a Python that is too old, so uv brings one.
    on_all "set -e
mkdir -p bertjax && tar -xzf bertjax.tar.gz -C bertjax
python3 -m pip install --quiet --user uv
[ -d venv ] || python3 -m uv venv --quiet --python 3.12 venv
(cd bertjax && python3 -m uv pip install --quiet --python ../venv --constraint launch/constraints.txt '.[tpu,gcs]')
${SHARE:+mountpoint -q /mnt/share || { sudo apt-get install -qq nfs-common && sudo mkdir -p /mnt/share && sudo mount $SHARE /mnt/share; }}"
}

# In the background, as the run must outlive this connection. What was killed leaves the TPU's lock file behind.
run() {
    local command
    command="echo \$\$ >../bertjax.pid; $(printf '%q ' "$@"); echo \$? >../bertjax.exit"
    on_all "if [ ! -s bertjax.exit ] && kill -0 \$(cat bertjax.pid 2>/dev/null) 2>/dev/null; then echo 'it runs already: stop it first'; exit 3; fi
sudo rm -f /tmp/libtpu_lockfile bertjax.exit
cd bertjax
PATH=\$HOME/venv/bin:\$PATH setsid nohup bash -c $(printf '%q' "$command") >>../bertjax.log 2>&1 </dev/null &"
}

logs() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="${WORKER:-0}" --command='tail -n 100 -f bertjax.log'; }

# The wrapper's child is the run itself; a lone worker's signal would do, as the processes tell each other.
stop() {
    on_all "pkill -TERM -P \$(cat bertjax.pid); for _ in \$(seq 90); do [ -s bertjax.exit ] && exit; sleep 1; done
echo 'it has not ended in 90 seconds'; exit 1"
}

# The run's exit code where all workers have ended, "running" where one has not, "unreachable".
ended() {
    local answer codes
    # shellcheck disable=SC2016 # is for the shell of the worker
    answer="$(on_all 'echo "bertjax-exit: $(cat bertjax.exit 2>/dev/null || echo running)"' 2>/dev/null)" ||
        { echo unreachable && return; }
    codes="$(sed -n 's/^bertjax-exit: //p' <<<"$answer" | sort -u | tr '\n' ' ')"
    case " $codes" in
        " ") echo unreachable ;;
        *" running "*) echo running ;;
        *" 2 "*) echo 2 ;;
        *" 3 "*) echo 3 ;;
        *" 42 "*) echo 42 ;;
        *) tr ' ' '\n' <<<"$codes" | sort -n | tail -n 1 ;;
    esac
}

logs_end() { on_all 'tail -n 20 bertjax.log' >&2 || true; }

keep() {
    local started="" faults=0 now code
    trap 'say "interrupted: saves the run and gives the TPU back"; stop || true; delete; exit 130' INT TERM
    while true; do
        now="$(state)"
        case "$now" in
            MISSING)
                started=""
                if ! create; then
                    faults=$((faults + 1))
                    say "could not be created ($faults)"
                fi
                ;;
            SUSPENDED | FAILED)
                say "$now: deletes it and asks again"
                if [ "$now" = FAILED ]; then faults=$((faults + 1)); else faults=0; fi
                started=""
                delete
                ;;
            ACTIVE)
                if [ -z "$started" ]; then
                    if install && run "$@"; then
                        started=yes
                    else
                        faults=$((faults + 1))
                        say "could not be started ($faults)"
                    fi
                else
                    code="$(ended)"
                    case "$code" in
                        running | unreachable) ;;
                        0) say "done" && delete && return ;;
                        2) say "the command is wrong: see the message above this" && logs_end && delete && return 2 ;;
                        3) say "the disk is full or broken: see the message above this" && logs_end && delete && return 3 ;;
                        42) say "was asked to stop: goes on" && started="" ;;
                        *) faults=$((faults + 1)) started="" && say "ended with $code ($faults)" && logs_end ;;
                    esac
                fi
                ;;
            *) say "$now" ;;
        esac
        if [ "$faults" -ge 3 ]; then
            say "three failures: gives up"
            delete
            return 1
        fi
        sleep "$poll" &
        wait $! # so that a signal is seen at once
    done
}

case "$verb" in
    create)
        create
        while [ "$(state)" != ACTIVE ]; do
            case "$(state)" in SUSPENDED | FAILED | MISSING) say "$(state): see 'gcloud compute tpus queued-resources describe'" && exit 1 ;; esac
            sleep "$poll"
        done
        ;;
    run | keep)
        [ $# -gt 0 ] || { say "give the command: launch/tpu_vm.sh $verb $name bertjax pretrain ..." && exit 2; }
        "$verb" "$@"
        ;;
    install | logs | stop | delete) "$verb" ;;
    *) say "there is no $verb; see launch/tpu_vm.sh without arguments" && exit 2 ;;
esac
