#!/bin/sh
# The session that record.sh records, in the current folder: the commands are shown as typed, and run.
# ~/kilometers is the checkout.
set -eu
export KM_HOME="$PWD/.km"

run() {
    printf '\033[1;32m$\033[0m %s\n' "$1"
    sleep 0.8
    eval "$1"
    sleep "${2:-1.2}"
    echo
}

run 'km-pack keygen'
run 'km-pack build --plugin ~/kilometers/km-plugin-template --customer customer_123 --tier Pro'
run 'km trust add keys/release.pub.pem'
run 'km plugins install dist/*.kmpkg'
run 'mcp-client -- km monitor --summary -- mcp-server' 4
run 'km plugins status' 4
