#!/usr/bin/env bash
# One-node Slurm on this machine, to try sweeps on: bash scripts/slurm_node.sh start|stop
#
# Debian: apt-get install slurm-wlm munge. Needs root. Everything it writes is below $SLURM_NODE
# (/var/tmp/progdtd-slurm); commands find it by SLURM_CONF, which `start` prints. Partition `low`
# gives way to partition `high`: its jobs get a SIGTERM, GRACE seconds, and are requeued.
set -euo pipefail
ROOT=${SLURM_NODE:-/var/tmp/progdtd-slurm}
GRACE=${GRACE:-30}
export SLURM_CONF=$ROOT/slurm.conf

die() { echo "slurm_node: $*" >&2; exit 1; }

configure() {
  local host node
  host=$(hostname -s)
  node=$(slurmd -C | sed -n 's/^NodeName=[^ ]* //p')
  cat >"$SLURM_CONF" <<EOF
ClusterName=progdtd
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$ROOT/munge/socket,cred_expire=3
CryptoType=crypto/munge
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool
SlurmctldPidFile=$ROOT/slurmctld.pid
SlurmdPidFile=$ROOT/slurmd.pid
SlurmctldLogFile=$ROOT/slurmctld.log
SlurmdLogFile=$ROOT/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,requeue_setup_env_fail
SchedulerType=sched/backfill
KillWait=30
MinJobAge=600
ReturnToService=2
MailProg=/bin/true
NodeName=$host NodeAddr=127.0.0.1 $node State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE State=UP
PartitionName=high Nodes=$host PriorityTier=2 PreemptMode=OFF State=UP
EOF
}

start() {
  [ "$(id -u)" = 0 ] || die "start it as root"
  for tool in munged slurmctld slurmd; do
    command -v $tool >/dev/null || die "no $tool here: apt-get install slurm-wlm munge"
  done
  [ -f /etc/munge/munge.key ] || die "/etc/munge/munge.key is missing: create it with mungekey"
  mkdir -p "$ROOT"/{state,spool,munge}
  chmod 755 "$ROOT"
  chown munge:munge "$ROOT/munge"
  configure
  local munge=$ROOT/munge
  runuser -u munge -- munged --socket="$munge/socket" --pid-file="$munge/pid" \
    --log-file="$munge/log" --seed-file="$munge/seed" --force 2>/dev/null
  slurmctld -c
  slurmd
  for _ in $(seq 100); do
    [ "$(sinfo -h -p low -o %t 2>/dev/null)" = idle ] && break
    sleep 0.2
  done
  [ "$(sinfo -h -p low -o %t)" = idle ] || die "the node does not come up: see $ROOT/*.log"
  echo "export SLURM_CONF=$SLURM_CONF"
}

stop() {
  scancel --me 2>/dev/null || true
  for _ in $(seq 50); do
    [ -n "$(squeue -h 2>/dev/null)" ] || break
    sleep 0.2
  done
  for pid in "$ROOT"/slurmd.pid "$ROOT"/slurmctld.pid "$ROOT"/munge/pid; do
    [ -f "$pid" ] || continue
    local process
    process=$(cat "$pid")
    kill "$process" 2>/dev/null || true
    for _ in $(seq 100); do
      [ -d "/proc/$process" ] || break
      sleep 0.1
    done
  done
  rm -rf "$ROOT"
}

case ${1:-} in
  start | stop) "$1" ;;
  *) die "start or stop?" ;;
esac
