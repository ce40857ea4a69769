#!/usr/bin/env bash
# What the cluster files do on a node, so that all of them do it the same way:
#
#   node.sh install [PACKAGE…]        the project and PACKAGEs in ~/venv, every node at the head's versions
#   node.sh login NAME=VALUE…         what login shells know, and with them Ray and every trial
#   node.sh tracking HEAD_IP          where MLflow is
#   node.sh mlflow HEAD_IP STORE ARTIFACTS
#                                     the same, and the MLflow server itself, started again; STORE is the URI
#                                     of a database, or `postgresql`: one of this machine, made if need be
#   node.sh stop-mlflow               `ray down` leaves it running on machines that stay
#
# Every command may be repeated. PYTHON names the interpreter to install with (3.11 or newer), MLFLOW_PORT the
# server's port (5000).
set -euo pipefail

readonly PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly STATE=$HOME/.transfusion
readonly PORT=${MLFLOW_PORT:-5000}
mkdir -p "$STATE"

install() {
    local python=${PYTHON:-python3} pins=$PROJECT/configs/clusters/constraints.txt
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old: 3.11 or newer is needed; set PYTHON or take a newer image"
    "$python" -c 'import ensurepip' 2>"$STATE/ensurepip.log" ||
        apt_install python3-venv
    "$python" -m venv "$HOME/venv"
    # The head writes its versions into the folder that Ray copies from it to the workers.
    local pinned=()
    [ ! -s "$pins" ] || pinned=(--constraint "$pins")
    "$HOME/venv/bin/pip" install --quiet "${pinned[@]}" --editable "$PROJECT" "$@"
    [ -s "$pins" ] || "$HOME/venv/bin/pip" freeze --exclude-editable >"$pins"
}

login() {
    local pair
    for pair in "$@"; do
        case $pair in TRANSFUSION_DATA=*) mkdir -p "${pair#*=}" ;; esac
    done
    {
        printf 'export PATH=%q:$PATH\n' "$HOME/venv/bin"
        [ $# -eq 0 ] || printf 'export %q\n' "$@"
        echo "[ ! -f $STATE/tracking.sh ] || . $STATE/tracking.sh"
    } >"$STATE/login.sh"
    # First, since the .bashrc of some systems leaves early where nobody types.
    local line=". $STATE/login.sh" rest
    touch "$HOME/.bashrc"
    rest=$(grep -vxF "$line" "$HOME/.bashrc" || true)
    printf '%s\n%s\n' "$line" "$rest" >"$HOME/.bashrc"
    # A login shell reads the first of these that exists, and only that.
    local file=$HOME/.profile
    [ ! -f "$HOME/.bash_profile" ] || file=$HOME/.bash_profile
    grep -qs bashrc "$file" || echo '. ~/.bashrc' >>"$file"
}

tracking() {
    echo "export MLFLOW_TRACKING_URI=http://$1:$PORT" >"$STATE/tracking.sh"
}

mlflow_server() {
    local ip=$1 store=$2 artifacts=$3 listen=0.0.0.0
    # Workers come by the head's address, a browser through the tunnel of `ray attach -p` as localhost.
    [ "$ip" != 127.0.0.1 ] || listen=127.0.0.1
    tracking "$ip"
    stop_mlflow
    case $store in
    postgresql) local_postgresql && store="postgresql+psycopg2:///mlflow?host=/var/run/postgresql" ;;
    sqlite:///*) mkdir -p "$(dirname "${store#sqlite:///}")" ;;
    esac
    # The store by its variable: a password in it would be seen by `ps`.
    MLFLOW_BACKEND_STORE_URI=$store MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
        setsid nohup mlflow server --host "$listen" --port "$PORT" --workers 1 \
        --artifacts-destination "$artifacts" \
        --allowed-hosts "$ip:$PORT,localhost:*,127.0.0.1:*" >"$STATE/mlflow.log" 2>&1 </dev/null &
    echo $! >"$STATE/mlflow.pid"
    for _ in $(seq 240); do
        sleep 0.5
        kill -0 "$(cat "$STATE/mlflow.pid")" 2>>"$STATE/mlflow.log" || break
        ! answers || return 0
    done
    tail -n 20 "$STATE/mlflow.log" >&2
    fail "the MLflow server does not answer on port $PORT; the end of $STATE/mlflow.log is above"
}

local_postgresql() {
    [ -d /etc/postgresql ] || apt_install postgresql
    as root service postgresql start >"$STATE/postgresql.log" 2>&1
    # Who logs in by the socket is who the system says, so there is no password.
    local exists="select count(*) from"
    [ "$(query "$exists pg_roles where rolname = '$(id -un)'")" = 1 ] || as postgres createuser "$(id -un)"
    [ "$(query "$exists pg_database where datname = 'mlflow'")" = 1 ] ||
        as postgres createdb --owner="$(id -un)" mlflow
}

query() { as postgres psql --tuples-only --no-align --command="$1"; }

apt_install() { as root apt-get -o DPkg::Lock::Timeout=300 install --yes --quiet "$@" </dev/null; }

as() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid="$1" --regid="$1" --init-groups "${@:2}")
    else
        (cd / && sudo --user="$1" "${@:2}")
    fi
}

stop_mlflow() {
    local pid
    pid=$(cat "$STATE/mlflow.pid" 2>/dev/null) || return 0
    # The number may belong to another process since a reboot.
    if [[ $(ps -ww -o args= -p "$pid") == *"mlflow server"* ]]; then
        kill -- "-$pid"
        for _ in $(seq 40); do kill -0 -- "-$pid" 2>/dev/null || break; sleep 0.25; done
        ! kill -KILL -- "-$pid" 2>/dev/null || sleep 1
    fi
    rm -f "$STATE/mlflow.pid"
}

answers() {
    "${PYTHON:-python3}" - "http://127.0.0.1:$PORT/health" <<'END' 2>/dev/null
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=2)
END
}

fail() {
    echo "node.sh on $(hostname): $1" >&2
    exit 1
}

case ${1:-} in
    install | login) "$1" "${@:2}" ;;
    tracking) tracking "${2:?HEAD_IP}" ;;
    mlflow) mlflow_server "${2:?HEAD_IP}" "${3:?STORE}" "${4:?ARTIFACTS}" ;;
    stop-mlflow) stop_mlflow ;;
    *) fail "expected install, login, tracking, mlflow or stop-mlflow, got '${1:-}'" ;;
esac
