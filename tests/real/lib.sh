# shellcheck shell=bash
# What the scripts beside this one share: where the project is, its program, and installing what is missing.
# It is sourced: bash, with `set -euo pipefail`. What is installed for a script alone goes to its `cache`.
# shellcheck disable=SC2154

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# install PACKAGE...: with apt-get, as root.
install() {
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
}

# The program alone; the package, if it were installed, would also start a service. To be found in $cache/nginx/usr/sbin.
unpack_nginx() (
    cd "$cache" && apt-get update && apt-get download nginx && dpkg-deb --extract nginx_*.deb nginx && nginx -v
)

# install_python_packages FILE: the packages that it names, in $cache/venv.
install_python_packages() {
    local venv=$cache/venv
    if cmp --silent "$1" "$venv/installed"; then return; fi
    rm -rf "$venv"
    python3 -m venv "$venv" &&
        timeout 300 "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$1" &&
        cp "$1" "$venv/installed"
}

# install_node_packages PACKAGE@VERSION...: in $cache/npm.
install_node_packages() {
    if [ "$(cat "$cache/npm/installed" 2>/dev/null)" = "$*" ]; then return; fi
    timeout 300 npm install --prefix "$cache/npm" --no-audit --no-fund --ignore-scripts "$@" &&
        echo "$*" >"$cache/npm/installed"
}

# Prints the path of the program that is tried: $IFMATCH_BIN, else the release build.
gateway_program() {
    if [ -n "${IFMATCH_BIN:-}" ]; then
        realpath "$IFMATCH_BIN"
    else
        (cd "$root" && cargo build --release --locked --bin ifmatch >&2)
        (cd "$root" && realpath "${CARGO_TARGET_DIR:-target}/release/ifmatch")
    fi
}
