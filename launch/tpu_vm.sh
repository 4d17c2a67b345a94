#!/usr/bin/env bash
# TPU VMs and pods of Google Cloud, by queued resources: the same few commands for one host and for many.
#
#   launch/tpu_vm.sh create  NAME                    ask for the TPU; returns when it is there
#   launch/tpu_vm.sh install NAME                    this folder, as it is, and bertjax, on all workers
#   launch/tpu_vm.sh doctor  NAME --out RUN ...      `bertjax doctor` on all workers: chips, mesh, data, the run's folder
#   launch/tpu_vm.sh run     NAME bertjax pretrain ...    start on all workers, in the background there
#   launch/tpu_vm.sh logs    NAME                    what worker 0 says, as it comes (WORKER=all: all of them)
#   launch/tpu_vm.sh stop    NAME                    SIGTERM: the run saves its step and ends
#   launch/tpu_vm.sh delete  NAME                    give the TPU back
#   launch/tpu_vm.sh keep    NAME bertjax pretrain ...    all of it: create, install, run; anew after a preemption
#                                                    or a crash, until the run is done; then delete
#
# `keep` is to go on for as long as the run: start it in tmux, on a machine that stays. Ctrl-C, or its terminal closed,
# or `stop` from another one: the run is saved, the TPU deleted. Killed without a word it leaves the run as it is; the
# same command again looks after it. A TPU that was preempted, or has not answered to twenty looks in a row, is deleted
# and asked for again. After a failure `keep` pauses, each time twice as long, ten minutes at most; a run that was seen
# to go on twenty times makes up for those before. It gives up after five failures, or where no TPU could be asked for
# in GIVE_UP seconds: no quota, or no service.
#
# Set in the environment: ZONE, TYPE (such as v5litepod-16), VERSION (such as v2-alpha-tpuv5-lite), perhaps PROJECT,
# SPOT=1, WAIT=90 (the seconds that `stop` gives a run; more than its --grace), POLL=30 (seconds between two looks),
# GIVE_UP=3600, and
#   CREATE_FLAGS  of `gcloud compute tpus queued-resources create`, such as '--network ours --subnetwork ours
#                 --internal-ips --service-account NAME@PROJECT.iam.gserviceaccount.com --reserved'
#   SSH_FLAGS     of `gcloud compute tpus tpu-vm ssh` and scp; for workers without an external address (they install
#                 through Cloud NAT) --internal-ip in their network, --tunnel-through-iap (`gcloud alpha`) elsewhere
#   SHARE         HOST:/PATH, an NFS share (Filestore), mounted at /mnt/share on all workers. The user of ssh must have
#                 one number on all of them, as OS Login gives:
#                 gcloud compute project-info add-metadata --metadata enable-oslogin=TRUE
# Both flags are split at blanks: no quotes. --out must be on the share, or in a bucket (gs://), where there are several
# workers, and for `keep`, as the disks of a preempted TPU are gone. Otherwise a relative --out is in ~/bertjax of the
# worker, where `install` leaves it. For several workers gcloud wants its key in ssh-agent:
# ssh-add ~/.ssh/google_compute_engine
set -euo pipefail

say() { echo "tpu_vm: $*" >&2 || true; } # a terminal that is closed is no reason to end
wrong() { say "$*" && exit 2; }

verb="${1:-}" name="${2:-}"
if [ -z "$verb" ] || [ -z "$name" ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 2
fi
shift 2
case "$verb" in
    run | keep) [ $# -gt 0 ] || wrong "give the command: launch/tpu_vm.sh $verb $name bertjax pretrain ..." ;;
    doctor) ;;
    create | install | logs | stop | delete)
        [ $# -eq 0 ] || wrong "$verb takes a name and no more, not: $* (settings stand before: SPOT=1 launch/tpu_vm.sh ...)"
        ;;
    *) wrong "there is no $verb; see launch/tpu_vm.sh without arguments" ;;
esac
root="$(cd "$(dirname "$0")/.." && pwd)"
case "$verb" in
    install | keep)
        git -C "$root" rev-parse 2>/dev/null || wrong "$root is no checkout of git, by which it is known what to send: clone it"
        ;;
esac
[ -n "${ZONE:-}" ] || wrong "name the zone: ZONE=us-west4-a"
case "$verb" in
    create | keep)
        [ -n "${TYPE:-}" ] || wrong "name the accelerator type: TYPE=v5litepod-16"
        [ -n "${VERSION:-}" ] || wrong "name the runtime: VERSION=v2-alpha-tpuv5-lite"
        ;;
esac
command -v gcloud >/dev/null || wrong "gcloud is not on PATH: https://cloud.google.com/sdk/docs/install"
case "${SPOT:-0}" in
    1 | yes | true) spot=--spot ;;
    0 | no | false) spot="" ;;
    *) wrong "SPOT=$SPOT: 1 or 0" ;;
esac
poll="${POLL:-30}" patience="${WAIT:-90}" give_up="${GIVE_UP:-3600}"
[[ "$poll" =~ ^[0-9]+([.][0-9]+)?$ && "$patience" =~ ^[0-9]+$ && "$give_up" =~ ^[0-9]+$ ]] ||
    wrong "POLL=$poll, WAIT=$patience, GIVE_UP=$give_up: seconds, such as 30"

where=(--zone "$ZONE" ${PROJECT:+--project "$PROJECT"})
kind=(--node-id "$name" --accelerator-type "${TYPE:-}" --runtime-version "${VERSION:-}" ${spot:+"$spot"})
read -rd '' -a words <<<"${CREATE_FLAGS:-}" || true
kind+=(${words[@]+"${words[@]}"}) # the bash of macOS calls an empty array unset
reach=("${where[@]}")
read -rd '' -a words <<<"${SSH_FLAGS:-}" || true
reach+=(${words[@]+"${words[@]}"})
vm=(gcloud compute tpus tpu-vm)
case " ${reach[*]} " in *" --tunnel-through-iap "*) vm=(gcloud alpha compute tpus tpu-vm) ;; esac
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

queued() { gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"; }

on_all() { "${vm[@]}" ssh "$name" "${reach[@]}" --worker=all --command="$1"; }

# ACTIVE, SUSPENDED, FAILED, ...; MISSING where there is none; UNKNOWN where that cannot be told now.
state() {
    local answer
    if answer="$(queued describe --format='value(state.state)' 2>"$scratch/errors")"; then
        echo "${answer:-UNKNOWN}"
    elif grep -qi 'NOT_FOUND\|not found' "$scratch/errors"; then
        echo MISSING
    else
        say "$(cat "$scratch/errors")"
        echo UNKNOWN
    fi
}

create() { queued create "${kind[@]}"; }

# Suspended and failed ones count against the quota until they are deleted; --force takes the nodes with them.
delete() { queued delete --force --quiet || [ "$(state)" = MISSING ]; }

# What git tracks or does not ignore, as it is in this folder now.
sent() {
    git -C "$root" ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do if [ -e "$root/$file" ]; then printf '%s\0' "$file"; fi; done
}

install() {
    sent >"$scratch/sent" || return
    tar -C "$root" --null -T "$scratch/sent" -czf "$scratch/bertjax.tar.gz" || return
    "${vm[@]}" scp "$scratch/bertjax.tar.gz" "$name:bertjax.tar.gz" "${reach[@]}" --worker=all || return
    # Modules and recipes that were sent before and are no more are removed, also from what setuptools has built; what runs
    # have written there stays. The images have a Python that is too old, so uv brings one.
    on_all "set -e
modules() { tar --quoting-style=literal -tzf bertjax.tar.gz | grep '[.]py\$' | LC_ALL=C sort; }
mkdir -p bertjax
touch bertjax.sent
modules | LC_ALL=C comm -13 - bertjax.sent | (cd bertjax && xargs -rd '\n' rm -f --)
rm -rf bertjax/build/lib
tar -xzf bertjax.tar.gz -C bertjax
modules >bertjax.sent
python3 -m pip install --quiet --user uv
[ -d venv ] || python3 -m uv venv --quiet --python 3.12 venv
(cd bertjax && python3 -m uv pip install --quiet --python ../venv --constraint launch/constraints.txt '.[tpu,gcs]')
${SHARE:+$(mounting)}"
}

# A new share belongs to root. In its first minutes a machine updates itself, and holds the lock of apt-get update.
mounting() {
    echo "mountpoint -q /mnt/share || {
    sudo apt-get update -qq || sleep 60
    sudo apt-get install -qq -o DPkg::Lock::Timeout=600 nfs-common
    sudo mkdir -p /mnt/share
    sudo mount $(printf '%q' "$SHARE") /mnt/share
}
try=/mnt/share/.bertjax-\$(hostname)
touch \$try 2>/dev/null || sudo chmod 1777 /mnt/share || true
touch \$try || {
    echo \"\$USER cannot write \"$(printf '%q' "$SHARE")', nor root allow it: give the share no_root_squash, or chmod 1777 it elsewhere'
    exit 2
}
rm -f \$try"
}

# shellcheck disable=SC2016 # is for the shell of a worker
alive='kill -0 $(cat bertjax.pid 2>/dev/null) 2>/dev/null && [ ! -s bertjax.exit ]'

ready='[ -d bertjax ] && [ -d venv ] || { echo "nothing is installed: launch/tpu_vm.sh install '"$name"'"; exit 2; }'

# All workers at once, as it looks at what they are together.
doctor() {
    on_all "if $alive; then echo 'a run has the chips: stop it first'; exit 3; fi
$ready
cd bertjax && PATH=\$HOME/venv/bin:\$PATH bertjax doctor${*:+$(printf ' %q' "$@")}"
}

# In the background, as the run must outlive this connection. What was killed leaves the TPU's lock file behind.
run() {
    local command
    command="$(printf '%q ' "$@"); echo \$? >../bertjax.exit"
    on_all "if $alive; then echo 'it runs already: stop it first'; exit 3; fi
$ready
sudo rm -f /tmp/libtpu_lockfile bertjax.exit bertjax.stopped
echo $(sum_of "$@") >bertjax.command
(cd bertjax && PATH=\$HOME/venv/bin:\$PATH exec setsid nohup bash -c $(printf '%q' "$command") >>../bertjax.log 2>&1 </dev/null) &
echo \$! >bertjax.pid"
}

sum_of() { printf '%q ' "$@" | cksum | tr ' ' '-'; }

logs() { "${vm[@]}" ssh "$name" "${reach[@]}" --worker="${WORKER:-0}" --command='tail -n 100 -f bertjax.log'; }

# The wrapper's child is the run itself; a lone worker's signal would do, as the processes tell each other.
stop() {
    on_all "if ! { $alive; }; then echo 'nothing runs'; exit; fi
touch bertjax.stopped; pkill -TERM -P \$(cat bertjax.pid)
for _ in \$(seq $patience); do if ! { $alive; }; then exit; fi; sleep 1; done
echo 'it has not ended in $patience seconds'; exit 1"
}

# Of a command: "running", "partly" where a worker has lost it, "other" where another one runs; where it has ended on all
# workers, its exit code, "lost" where it left none, "stopped" by us; "none" before it was started; "unreachable".
ended() {
    local answer codes
    answer="$(on_all "if $alive; then [ \"\$(cat bertjax.command)\" = $(sum_of "$@") ] && a=running || a=other
elif [ -e bertjax.stopped ]; then a=stopped
elif [ -e bertjax.pid ]; then a=\$(cat bertjax.exit 2>/dev/null || echo lost)
else a=none; fi
echo \"bertjax-exit: \$a\"" 2>"$scratch/errors")" || { echo unreachable && return; }
    codes=" $(sed -n 's/^bertjax-exit: //p' <<<"$answer" | sort -u | tr '\n' ' ')"
    case "$codes" in
        " ") echo unreachable ;;
        *" other "*) echo other ;;
        *" lost "*"running "* | *" none "*"running "*) echo partly ;; # they are sorted
        *" running "*) echo running ;;
        *" none "*) echo none ;;
        *" stopped "*) echo stopped ;;
        *" 2 "*) echo 2 ;;
        *" 3 "*) echo 3 ;;
        *" 1 "*) echo 1 ;;
        *" lost "*) echo lost ;;
        *) tr ' ' '\n' <<<"$codes" | sort -n | tail -n 1 ;;
    esac
}

logs_end() { on_all 'tail -n 20 bertjax.log' >&2 || true; }

# However `keep` ends, the TPU is given back, or it is said that it is not.
leave() {
    local code=$? try
    trap '' INT TERM HUP
    for try in 1 2 3 4 5; do
        if delete; then
            rm -rf "$scratch"
            exit "$code"
        fi
        say "could not be deleted ($try)"
        sleep "$poll"
    done
    say "$name IS PERHAPS STILL THERE, AND PAID FOR: gcloud compute tpus queued-resources delete $name ${where[*]} --force"
    rm -rf "$scratch"
    exit 1
}

interrupted() {
    trap : INT TERM HUP # again: does not wait for the run to be saved
    say "interrupted: saves the run and gives the TPU back"
    stop || true
    exit 130
}

fault() {
    faults=$((faults + 1)) started="" well=0
    say "$* ($faults)"
    [ "$faults" -lt 5 ] || { say "five failures: gives up" && exit 1; }
    longer "$faults"
}

# The pause after this look: twice as long with every failure, ten minutes at most.
longer() { pause="$(LC_ALL=C awk "BEGIN { s = $poll * 2 ^ $1; print s < 600 ? s : 600 }")"; }

nap() {
    sleep "$pause" &
    wait $! # so that a signal is seen at once
}

# What cannot be had now may be had later; a first request that the service does not understand or allow, never.
ask() {
    local code=0
    create 2>"$scratch/errors" || code=$?
    if [ "$code" -eq 0 ]; then
        refused=0 had=yes
        return
    fi
    say "$(cat "$scratch/errors")"
    if [ -z "$had" ] && { [ "$code" -eq 2 ] || grep -q 'INVALID_ARGUMENT\|PERMISSION_DENIED' "$scratch/errors"; }; then
        wrong "it cannot be asked for so: mend TYPE, VERSION, ZONE or CREATE_FLAGS, or what the account may do"
    fi
    later "could not be created"
}

later() {
    [ "$refused" -gt 0 ] || since=$SECONDS
    refused=$((refused + 1))
    if [ $((SECONDS - since)) -ge "$give_up" ]; then say "$1 in $give_up seconds: gives up" && exit 1; fi
    longer "$refused"
    say "$1 ($refused): tries again in $pause seconds"
}

renew() {
    started="" well=0 silent=0
    until delete; do
        say "could not be deleted: tries again"
        nap
    done
}

# The workers start what crashes again by themselves (bertjax/supervise.py), as long as it makes new checkpoints.
keep() {
    local started="" had="" faults=0 refused=0 since=0 well=0 silent=0 pause now answer
    local supervised=(python -m bertjax.supervise "$@")
    [[ " $* " == *" --out"[\ =]* ]] || wrong "the command has no --out, by which its progress is seen; give one"
    trap interrupted INT TERM HUP
    trap leave EXIT
    while true; do
        pause="$poll" now="$(state)"
        case "$now" in MISSING | UNKNOWN) ;; *) refused=0 had=yes ;; esac
        case "$now" in
            MISSING)
                started="" well=0
                ask
                ;;
            UNKNOWN) [ -n "$had" ] || later "could not be asked about" ;; # who had one goes on: it may be the network here
            SUSPENDED | FAILED)
                say "$now: deletes it and asks again"
                if [ "$now" = FAILED ]; then fault "failed"; else faults=0; fi
                renew
                ;;
            ACTIVE)
                answer="$(ended "${supervised[@]}")"
                if [ "$answer" = unreachable ]; then
                    unreached
                else
                    silent=0
                    looked_after "${supervised[@]}"
                fi
                ;;
            *) say "$now" ;;
        esac
        nap
    done
}

# A node may have been preempted while its queued resource is still called ACTIVE: gcloud refuses to connect to it.
unreached() {
    silent=$((silent + 1))
    say "there, but ssh does not reach all workers: $(tail -n 1 "$scratch/errors")"
    if grep -q 'terminal state' "$scratch/errors"; then
        fault "was preempted: deletes it and asks again"
    elif [ "$silent" -eq 20 ]; then
        fault "not reached $silent times in a row: deletes it and asks again"
    else
        return 0
    fi
    renew
}

# One look at a TPU that answers: `answer` is what it said, `started` whether it is we who look after what runs there.
looked_after() {
    case "$answer" in
        other)
            trap 'rm -rf "$scratch"' EXIT
            wrong "another command runs on $name: launch/tpu_vm.sh stop $name, or take another NAME"
            ;;
        running)
            [ -n "$started" ] || say "it runs: looks after it"
            started=yes well=$((well + 1))
            if [ "$well" -eq 20 ]; then faults=0; fi
            return
            ;;
    esac
    if [ -n "$started" ]; then
        case "$answer" in
            0) say "done" && exit 0 ;;
            1) say "a fault of the program, or restarts that brought nothing: see its last words" && logs_end && exit 1 ;;
            2 | 126 | 127) say "the command is wrong: see its last words" && logs_end && exit 2 ;;
            3) say "the disk is full or broken: see its last words" && logs_end && exit 3 ;;
            stopped) say "was stopped" && exit 42 ;;
            *)
                logs_end
                fault "the run has ended: $answer"
                return # and is started again by the next look
                ;;
        esac
    fi
    if [ "$answer" = partly ]; then stop || true; fi
    if install && run "$@"; then started=yes; else fault "could not be started"; fi
}

case "$verb" in
    create)
        create
        while [ "$(state)" != ACTIVE ]; do
            case "$(state)" in SUSPENDED | FAILED | MISSING) say "$(state): see 'gcloud compute tpus queued-resources describe'" && exit 1 ;; esac
            sleep "$poll"
        done
        ;;
    *) "$verb" "$@" ;;
esac
