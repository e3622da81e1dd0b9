#!/usr/bin/env bash
# Runs on every worker of a Cloud TPU slice; see docs/tpu_pods.md.
#   tpu_vm.sh install        installs Python 3.11, .venv and requirements-tpu.txt
#   tpu_vm.sh start FLAGS    runs `main.py train FLAGS` in the background; restarts it after a stop or a kill; log: runs/train.log
#   tpu_vm.sh stop           sends SIGTERM: training saves, ends, and is not restarted
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

install() {
  local python=${PYTHON:-python3.11}
  if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
    if "$python" -c 'import ensurepip' 2> /dev/null; then
      "$python" -m venv --clear .venv
    else # uv installs its own Python and needs no root; the variable is for systems that refuse `pip install --user`
      PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
      python3 -m uv venv --quiet --seed --clear --managed-python --python 3.11 .venv
    fi
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-tpu.txt
  touch .venv/run.done # make checks this file
}

running() { [[ -f runs/train.pid ]] && kill -0 "$(< runs/train.pid)" 2> /dev/null; }

start() {
  if running; then
    echo "tpu_vm.sh: training is running already; stop it first" >&2
    exit 2
  fi
  mkdir -p runs
  nohup bash scripts/tpu_vm.sh keep "$@" >> runs/train.log 2>&1 < /dev/null &
  echo $! > runs/train.pid
}

# Restarts training after exit code 75 (told to stop, or another host was lost) and above 128 (killed by a signal).
# On SIGTERM it passes the signal to training and does not restart.
keep() {
  local child="" code=75 stopped=""
  trap 'stopped=yes; kill -TERM "$child" 2> /dev/null || true' TERM
  while ((code == 75 || code > 128)) && [[ -z $stopped ]]; do
    .venv/bin/python main.py train "$@" &
    child=$!
    code=0
    wait "$child" || code=$?
    while kill -0 "$child" 2> /dev/null; do # a signal interrupts `wait`: wait again
      code=0
      wait "$child" || code=$?
    done
    echo "tpu_vm.sh: training ended with code $code" >&2
    sleep $((code > 128 ? 120 : code == 75 ? 10 : 0)) # JAX takes 100 s to notice that a killed process is gone
  done
  exit "$code"
}

case ${1:-} in
  install | start | keep) "$@" ;;
  stop) running && kill -TERM "$(< runs/train.pid)" ;;
  *) sed -n '2,5s/^# *//p' scripts/tpu_vm.sh >&2 && exit 2 ;;
esac
