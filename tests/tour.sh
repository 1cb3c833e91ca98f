#!/bin/sh
# The whole way in one go, in a temporary folder: a key, two plugins published for a customer, a server
# that hands them out by tier, an upgrade, and a monitored MCP session. Needs nothing but Rust. Each command
# is shown as typed.
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
say "Two plugins for customer_123, who is at Free (the first build of a plugin takes a few minutes)"
printf 'id,tier\ncustomer_123,Free\n' >"$tour/customers.csv"
for plugin in console-logger api-logger; do
    run km-pack build --plugin "$plugin" --customers "$tour/customers.csv" --publish --store "$tour/store" \
        --key "$tour/keys/release.key.pem"
done

say "The API: customer_123 may use what is Free"
export KM_DATABASE="sqlite://$tour/km.db"
printf '$ %s\n' "km-pack customers add customer_123 --tier Free > key.txt" "km-pack serve --store store &"
km-pack customers add customer_123 --tier Free >"$tour/key.txt"
km-pack serve --listen 127.0.0.1:0 --store "$tour/store" --json >"$tour/serve.json" 2>"$tour/serve.log" &
server=$!
trap 'kill $server; rm -rf "$tour"' EXIT
until [ -s "$tour/serve.json" ]; do kill -0 $server && sleep 0.1; done
url=$(sed 's/.*"listening":"\([^"]*\)".*/\1/' "$tour/serve.json")
echo "listening on $url"

say "Customer: the release key, the API key, and everything that was published for them"
run km trust add "$tour/keys/release.pub.pem"
printf '$ %s\n' "km init --endpoint $url --auto-provision-plugins --api-key - < key.txt"
km init --endpoint "$url" --auto-provision-plugins --api-key - <"$tour/key.txt"
run km auth status

say "An upgrade: the tier, the packages at that tier (nothing is compiled), and the customer's refresh"
run km-pack customers set-tier customer_123 Pro
run km-pack restamp --customers "$KM_DATABASE" --store "$tour/store" --key "$tour/keys/release.key.pem"
run km plugins refresh
run km doctor
run km plugins list
run km plugins status
run "$KM_HOME/plugins/km-plugin-console-logger" --version

say "An MCP client calls a tool of an MCP server through km; on stderr is what the plugin saw"
run mcp-client -- km monitor --server -- mcp-server

say "What api-logger has sent to the API, as the server logged it"
grep '"path":"/api/events/batch"' "$tour/serve.log"

say "Done. Nothing is left of it: $tour goes now."
