#!/usr/bin/env bash
# Create .venv with the pinned packages: `make setup`. Usage: setup.sh VENV PYTHON
# The installers write to VENV/setup.log; the screen has one line for each of the three steps.
set -euo pipefail
venv=$1 python=$2 log=$1/setup.log
pip=("$venv/bin/python" -m pip)

fail() {
    echo "set-up: $1" >&2
    exit 2
}

# Name of the Debian and Ubuntu package with ensurepip; without it venv makes a folder without pip.
name_package() {
    local version
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    fail "$python lacks ensurepip. Debian and Ubuntu: sudo apt install $version-venv. Then run make again."
}

create_venv() {
    if "${pip[@]}" --version >/dev/null 2>&1; then
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || { remove_half_made; name_package; }
    remove_half_made
    trap 'rm -rf "$venv"' EXIT
    "$python" -m venv "$venv" || fail "$python -m venv $venv failed, see the message above"
    trap - EXIT
}

remove_half_made() {
    if [ -e "$venv" ]; then
        echo "set-up: $venv has no working pip: removed"
        rm -rf "$venv"
    fi
}

# What the installs would only show at their end, or the first run.
check_system() {
    case $PWD in
    *[\"\$\`\\:{}]*) fail "the path $PWD has one of \" \$ \` \\ : { }, which pip or DVC cannot use: move the folder" ;;
    esac
    "$python" -c 'import ctypes, sys; sys.platform != "linux" or ctypes.CDLL("libgomp.so.1")' 2>/dev/null ||
        fail "libgomp.so.1 is absent, and LightGBM needs it. Debian and Ubuntu: sudo apt install libgomp1. Then run make again."
    command -v git >/dev/null ||
        echo "set-up: git is not installed: runs will have no commit. Debian and Ubuntu: sudo apt install git"
    local folder=$PWD
    while [ -n "$folder" ] && [ ! -e "$folder/.git" ]; do folder=${folder%/*}; done
    [ -n "$folder" ] ||
        echo "set-up: this folder is no git repository, and DVC needs one: git init && git add . && git commit -m Start"
}

# step NUMBER TEXT PIP-ARGUMENTS…
step() {
    local number=$1 text=$2 start=$SECONDS pid
    shift 2
    echo "set-up $number of 3: $text (log: $log)"
    "${pip[@]}" install --disable-pip-version-check --constraint constraints.txt "$@" >>"$log" 2>&1 &
    pid=$!
    trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
    while [ -t 1 ] && kill -0 "$pid" 2>/dev/null; do
        printf '\r\033[K  %d s  %.60s' $((SECONDS - start)) "$(tail -n 1 "$log")"
        sleep 1
    done
    [ ! -t 1 ] || printf '\r\033[K'
    wait "$pid" || {
        grep -i '^ *error' "$log" | tail -n 3 >&2 || tail -n 5 "$log" >&2
        fail "pip failed in step $number of 3; the whole log is $log. The same command resumes."
    }
    trap - INT TERM
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer is needed: make PYTHON=python3.12 …"
check_system
create_venv
: >"$log"
# torch first: the later installs keep the build that is resolved here (CPU-only if no other is offered).
step 1 "torch and torchvision, the largest downloads" torch torchvision
step 2 "the project and what it needs" --editable '.[pipeline,dev]'
step 3 "class-activation maps" --no-deps grad-cam ttach
