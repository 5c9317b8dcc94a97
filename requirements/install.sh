#!/usr/bin/env bash
# Builds the environment: a virtual environment of Python 3.11 that holds exactly what requirements/dev.txt pins, every
# file checked against its hash, and this project, editable. Whatever index, proxy or certificate pip is configured for
# is used; none is named here. Usage: [PYTHON=python3.11] requirements/install.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: requirements/install.sh VENV}

say() { echo "env: $*"; }
fail() {
    printf 'env: %s\n' "$@" >&2
    exit 1
}

is_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_311 "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3 python; do
        if is_311 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "there is no Python 3.11 here (found: $(python3 --version 2>/dev/null || echo none))." \
        "On Debian 12: apt-get install python3.11 python3.11-venv. Elsewhere: make PYTHON=/path/to/python3.11"
}

# pip's value of an option, wherever it is configured: file or environment.
pip_option() { "$venv/bin/python" -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1; }

make_venv() {
    local python
    python=$(find_python)
    say "creating $venv with $("$python" --version)"
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv "$venv"
    elif "$python" -c 'import pip, venv' 2>/dev/null; then
        # Debian without python3-venv, but with its pip: that one can fill the new environment.
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --python "$venv/bin/python" install --quiet pip
    else
        fail "this Python cannot make virtual environments: Debian and Ubuntu keep that part in a package of its own." \
            "Run: apt-get install python3.11-venv (as root), then make again."
    fi
}

if ! is_311 "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$venv"
    make_venv
fi

say "installing the installer"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

# uv does not read pip's configuration: hand over what decides whether packages can be reached at all.
index=$(pip_option index-url)
certificate=$(pip_option cert)
if [ -n "$index" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; fi
if [ -n "$certificate" ]; then export SSL_CERT_FILE="${SSL_CERT_FILE:-$certificate}"; fi
export VIRTUAL_ENV="$PWD/$venv"

say "installing $(grep -c '^[a-z0-9].*==' requirements/dev.txt) pinned packages (about 6 GB with PyTorch; minutes when nothing is cached)"
if ! "$venv/bin/uv" pip sync --quiet --require-hashes requirements/dev.txt; then
    say "uv could not; trying with plain pip, which takes longer"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
fi

say "installing this project, editable"
"$venv/bin/uv" pip install --quiet --offline --no-deps --no-build-isolation --editable .
say "done: $venv/bin/serinus --help"
