# shellcheck shell=bash
# What the scripts beside this one share: where the project is, its program, and installing what is missing.
# It is sourced: bash, with `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# install PACKAGE...: with apt-get, as root.
install() {
    apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@"
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
