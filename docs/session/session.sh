#!/bin/sh
# The session that record.sh records, in the current folder: the commands are shown as typed, and run.
# $1 is the checkout, in which the plugin is compiled.
set -eu
checkout=$1
export KM_HOME="$PWD/.km"

run() {
    printf '\033[1;32m$\033[0m %s\n' "$1"
    sleep 0.8
    eval "$1"
    sleep "${2:-1.2}"
    echo
}

run 'km-pack keygen'
# Only the place of the source is another than what is shown.
printf '\033[1;32m$\033[0m km-pack build --plugin console-logger --customer customer_123 --tier Pro\n'
sleep 0.8
km-pack build --plugin "$checkout/km-plugin-template" --customer customer_123 --tier Pro 2>build.log
sleep 1.2
echo
run 'km trust add keys/release.pub.pem'
run 'km plugins install dist/*.kmpkg'
run 'mcp-client -- km monitor --summary -- mcp-server' 4
run 'km plugins status' 4
