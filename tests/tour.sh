#!/bin/sh
# The whole way in one go, in a temporary folder: a key, a package for one customer, its
# installation, and a monitored MCP session. Needs nothing but Rust. Each command is shown as typed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
echo "Compiling km, km-pack, and an MCP server and client to try them on: some minutes the first time."
cargo build --quiet --workspace --bins
PATH="${CARGO_TARGET_DIR:-$root/target}/debug:$PATH"

tour=$(mktemp -d)
trap 'rm -rf "$tour"' EXIT
export KM_HOME="$tour/km"

say() { printf '\n# %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }

say "Release engineer: a signing key"
run km-pack keygen --out "$tour/keys"
say "A package for customer_123 at Pro (the first build of a plugin takes a few minutes)"
run km-pack build --plugin console-logger --customer customer_123 --tier Pro \
    --key "$tour/keys/release.key.pem" --out "$tour/dist"
package=$(echo "$tour"/dist/*.kmpkg)
run km-pack verify "$package" --key "$tour/keys/release.pub.pem"

say "Customer: trust the release key, install the package, look at it"
run km trust add "$tour/keys/release.pub.pem"
run km plugins install "$package"
run km plugins list
run km plugins status
run "$KM_HOME/plugins/km-plugin-console-logger" --version

say "An MCP client calls a tool of an MCP server through km; on stderr is what the plugin saw"
run mcp-client -- km monitor --server -- mcp-server

say "Done. Nothing is left of it: $tour goes now."
