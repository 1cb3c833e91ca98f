#!/bin/sh
# The whole way in one go, in a temporary folder: a key, two packages for one customer, a server that
# says what that customer may run, their installation, and a monitored MCP session. Needs nothing but Rust. Each command is shown as typed.
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
run km-pack build --plugin api-logger --customer customer_123 --tier Pro \
    --key "$tour/keys/release.key.pem" --out "$tour/dist"
run km-pack verify "$tour"/dist/*.kmpkg --key "$tour/keys/release.pub.pem"

say "The API: customer_123 may use what is Pro"
export KM_DATABASE="sqlite://$tour/km.db"
printf '$ %s\n' "km-pack customers add customer_123 --tier Pro > key.txt" "km-pack serve &"
km-pack customers add customer_123 --tier Pro >"$tour/key.txt"
km-pack serve --listen 127.0.0.1:0 --json >"$tour/serve.json" 2>"$tour/serve.log" &
server=$!
trap 'kill $server; rm -rf "$tour"' EXIT
until [ -s "$tour/serve.json" ]; do kill -0 $server && sleep 0.1; done
url=$(sed 's/.*"listening":"\([^"]*\)".*/\1/' "$tour/serve.json")
echo "listening on $url"

say "Customer: the API key, the release key, both plugins"
printf '$ %s\n' "km init --endpoint $url --api-key - < key.txt"
km init --endpoint "$url" --api-key - <"$tour/key.txt"
run km auth status
run km trust add "$tour/keys/release.pub.pem"
for package in "$tour"/dist/*.kmpkg; do run km plugins install "$package"; done
run km doctor
run km plugins list
run km plugins status
run "$KM_HOME/plugins/km-plugin-console-logger" --version

say "An MCP client calls a tool of an MCP server through km; on stderr is what the plugin saw"
run mcp-client -- km monitor --server -- mcp-server

say "What api-logger has sent to the API, as the server logged it"
grep '"path":"/api/events/batch"' "$tour/serve.log"

say "Done. Nothing is left of it: $tour goes now."
