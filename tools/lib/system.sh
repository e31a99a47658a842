# What the tools share: a Python that will do, the virtual environment .venv, system packages.
# Sourced by bash scripts that run with `set -euo pipefail`. Works without a terminal.
# shellcheck shell=bash

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Whether a Python is 3.11 or newer and can make virtual environments.
python_will_do() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Print the path of a Python that will do; fails when there is none.
find_python() {
    local name
    for name in python3 /usr/bin/python3 python3.13 python3.12 python3.11; do
        if python_will_do "$name"; then
            command -v "$name"
            return 0
        fi
    done
    return 1
}

# Install Debian packages; says what to do where that isn't possible.
install_packages() {
    if ! command -v apt-get >/dev/null; then
        die "these packages (Debian's names) are missing, and there is no apt-get to install them: $*"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        die "packages are missing; run as root, or first: sudo apt-get install --no-install-recommends $*"
    fi
    say "installing packages: $*"
    local -x DEBIAN_FRONTEND=noninteractive
    # One source out of order must not keep the others' packages out.
    apt-get update -q </dev/null || say "apt-get update had trouble, going on with what there is"
    apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@" </dev/null ||
        die "apt-get install failed, see above"
}

# Print the packages of bindep.txt's profiles that are missing here, one a line.
missing_packages() {
    local missing code=0
    missing=$("$project/.venv/bin/bindep" --brief --file "$project/bindep.txt" "$@") || code=$?
    if [ "$code" -ne 0 ] && [ -z "$missing" ]; then
        die "bindep failed with exit code $code"
    fi
    printf '%s\n' "$missing"
}

# Make sure that the packages of bindep.txt's profiles are there.
ensure_packages() {
    local missing
    missing=$(missing_packages "$@")
    if [ -n "$missing" ]; then
        # shellcheck disable=SC2086 # one word a package
        install_packages $missing
    fi
}

# Make sure that .venv exists and works.
ensure_venv() {
    local python
    if [ -x "$project/.venv/bin/python" ] && "$project/.venv/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    if ! python=$(find_python); then
        install_packages python3 python3-venv
        python=$(find_python) || die "Python 3.11 or newer with the venv module is needed"
    fi
    say "making the virtual environment $project/.venv"
    "$python" -m venv --clear "$project/.venv" || die "no virtual environment can be made, see above"
}

# Install into .venv what isn't there yet: venv_install NAME PIP-ARGUMENT...
# A stamp called NAME remembers the arguments and the packaging they were installed from.
venv_install() {
    local stamp="$project/.venv/installed-$1" wanted
    shift
    wanted=$(printf '%s\n' "$@" && cat "$project/setup.py" "$project/pyproject.toml")
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return
    fi
    say "installing into $project/.venv: $*"
    "$project/.venv/bin/python" -m pip install -qq --disable-pip-version-check "$@" </dev/null ||
        die "pip install failed, see above"
    printf '%s\n' "$wanted" >"$stamp"
}
