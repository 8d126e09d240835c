#!/usr/bin/env bash
# Sees to it that this machine has what a target of the Makefile needs.
#
#   .ci/setup.sh build | demo | test
#
# On Debian and its kin the packages that are missing are installed, without recommended
# ones, and no service is started, now or at the next boot. Elsewhere, or without the right
# to install, it says what is missing. Where nothing is, it takes less than a second and
# touches neither the network nor apt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PATH:${HOME:-}/.cargo/bin:/usr/sbin:/sbin"

main() {
    local mode="${1:-}"
    case "$mode" in
    build | demo | test) ;;
    *) printf 'usage: %s build|demo|test\n' "$0" >&2 && exit 2 ;;
    esac

    require_linux
    require_rust "$mode"
    find_missing "$mode"
    if [ "${#packages[@]}" -gt 0 ]; then
        install_missing
        find_missing "$mode"
        [ "${#packages[@]}" -eq 0 ] || stop "Still missing after the installation: $(list "${tools[@]}")."
    fi
    if [ "$mode" = test ]; then
        install_test_tools
    fi
}

# What a mode needs, each with the Debian package that brings it. Leaves what is missing in
# `packages` (Debian's names) and `tools` (anyone's).
find_missing() {
    packages=() tools=()
    need cmake cmake command -v cmake
    need g++ 'a C++ compiler (c++)' command -v c++
    need make make command -v make
    need git git command -v git
    need perl 'perl with its standard modules' perl -MFindBin -MIPC::Cmd -MFile::Compare -MTime::Piece -e 1
    need pkg-config pkg-config command -v pkg-config
    need libclang-dev "libclang with clang's own headers" have_libclang
    if [ "$1" != build ]; then
        need curl curl command -v curl
        need mosquitto 'mosquitto (the broker)' command -v mosquitto
        need mosquitto-clients "mosquitto's clients" command -v mosquitto_rr
    fi
    if [ "$1" = test ]; then
        need nginx nginx command -v nginx
        need openssl 'openssl (the command)' command -v openssl
        need prometheus 'promtool (comes with Prometheus)' command -v promtool
        need postgresql "PostgreSQL's server (initdb, postgres)" have_postgresql
        need strace strace command -v strace
        need python3-venv 'Python 3 with venv' have_venv
        need nodejs 'Node.js' command -v node
        need npm npm command -v npm
    fi
}

# Debian keeps the server's programs off the path.
have_postgresql() {
    command -v initdb >/dev/null && command -v postgres >/dev/null ||
        any /usr/lib/postgresql/*/bin/initdb
}

have_venv() {
    python3 -c 'import venv, ensurepip'
}

# What tests use of PyPI and npm, pinned, in the build's own folder; made anew where the
# lists have changed.
install_test_tools() {
    local tools wanted
    tools="${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}/test-tools"
    wanted=$(cat tests/tools/requirements.txt tests/tools/package.json tests/tools/package-lock.json | sha256sum)
    if [ "$(cat "$tools/made-of" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    printf 'Installing what tests use of PyPI and npm into %s\n' "$tools"
    rm -rf "$tools"
    mkdir -p "$tools"
    python3 -m venv "$tools/python"
    "$tools/python/bin/pip" --quiet --disable-pip-version-check install --requirement tests/tools/requirements.txt ||
        stop 'The Python packages of tests/tools/requirements.txt cannot be installed.'
    cp tests/tools/package.json tests/tools/package-lock.json "$tools/"
    npm ci --prefix "$tools" --no-audit --no-fund --ignore-scripts --loglevel=error >/dev/null ||
        stop 'The npm packages of tests/tools/package.json cannot be installed.'
    printf '%s' "$wanted" >"$tools/made-of"
}

need() {
    local package="$1" tool="$2"
    shift 2
    "$@" >/dev/null 2>&1 || packages+=("$package") tools+=("$tool")
}

# bindgen loads the library at build time; clang's headers (stddef.h …) are a package of
# their own that the library alone does not bring.
have_libclang() {
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    any /usr/lib{,64}/libclang{.so,-[0-9]}* /usr/lib/*-linux-gnu/libclang{.so,-[0-9]}* \
        /usr/lib{,64}/llvm*/lib{,64}/libclang{.so,-[0-9]}* /usr/local/lib/libclang{.so,-[0-9]}* &&
        any /usr/{,local/}lib{,64}/clang/*/include/stddef.h /usr/lib{,64}/llvm*/lib{,64}/clang/*/include/stddef.h
}

any() {
    local file
    for file in "$@"; do
        [ ! -e "$file" ] || return 0
    done
    return 1
}

require_linux() {
    [ "$(uname -s)" = Linux ] || stop "Portcullis builds on Linux only; this is $(uname -s)."
}

# The least version has one home: rust-version in Cargo.toml.
require_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null && command -v rustc >/dev/null ||
        stop "Rust is missing: cargo and rustc are not on the path." \
            "Install Rust $wanted or later, for example with rustup: https://rustup.rs"
    found=$(rustc --version | sed -nE 's/^rustc ([0-9.]+).*/\1/p') || found=
    [ -n "$found" ] || stop "rustc --version does not work. With rustup: rustup default stable"
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        stop "Rust $found is too old: Portcullis needs $wanted or later. With rustup: rustup update stable"
    [ "$1" = test ] || return 0
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
        stop "rustfmt or clippy is missing. With rustup: rustup component add rustfmt clippy"
}

install_missing() {
    command -v apt-get >/dev/null ||
        stop "Missing on this machine: $(list "${tools[@]}")." "Install these, then run the same command again."

    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            stop_without_rights
        elif sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        elif [ -t 0 ] && [ -t 2 ]; then
            as_root=(sudo)
        else
            stop_without_rights
        fi
    fi
    printf 'Installing what is missing (Debian packages): %s\n' "${packages[*]}"
    "${as_root[@]}" bash -c "$(declare -f install_as_root); install_as_root \"\$@\"" setup "${packages[@]}" ||
        stop "The installation of these Debian packages failed: ${packages[*]}"
}

stop_without_rights() {
    stop "Debian packages are missing: ${packages[*]}" "Install them as root, then run the same command again:" \
        "  apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
}

# Runs as root in a shell of its own. While it runs, policy-rc.d forbids packages to start
# services; what stood in its place before comes back at the end, however it ends. A run that
# was killed leaves the file with our mark, which the next run takes for its own.
install_as_root() {
    set -euo pipefail
    export DEBIAN_FRONTEND=noninteractive
    exec 9>/run/portcullis-setup.lock
    flock 9

    policy=/usr/sbin/policy-rc.d
    before=$policy.before-portcullis-setup
    mark='portcullis: no service starts while packages are installed'
    # shellcheck disable=SC2329
    restore() {
        if [ -e "$before" ] || [ -L "$before" ]; then mv -fT "$before" "$policy"; else rm -f "$policy"; fi
    }
    trap restore EXIT
    trap 'exit 1' INT TERM HUP
    if { [ -e "$policy" ] || [ -L "$policy" ]; } && ! grep -qs "$mark" "$policy"; then
        mv -fT "$policy" "$before"
    fi
    printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"

    # A foreign source that does not answer must not stop us: the installation will tell.
    apt-get -qq -o DPkg::Lock::Timeout=300 update 9>&- </dev/null || true
    apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@" 9>&- </dev/null

    # Tests start nginx, mosquitto and PostgreSQL themselves and need only promtool of Prometheus: none is
    # to run at the next boot because of us.
    local package
    for package in "$@"; do
        case "$package" in
        nginx | mosquitto | prometheus | postgresql) systemctl --quiet disable "$package.service" >/dev/null 2>&1 || true ;;
        esac
    done
}

list() {
    local IFS=';'
    printf '%s' "$*" | sed 's/;/, /g'
}

stop() {
    printf '%s\n' "$@" >&2
    exit 1
}

main "$@"
