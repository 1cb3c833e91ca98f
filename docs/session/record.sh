#!/bin/sh
# Makes docs/session.svg anew from a real session, in a temporary folder: sh docs/session/record.sh
# Needs python3 with venv, and PyPI for termtosvg (once, into target/session).
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
tool=$target/session
if ! "$tool/bin/termtosvg" --version >/dev/null 2>&1; then
    python3 -m venv --clear "$tool"
    # It reads its templates by pkg_resources, which later setuptools do not have.
    "$tool/bin/pip" install --quiet 'termtosvg==1.1.0' 'setuptools<81'
fi
cargo build --quiet -p km -p km-pack
cargo build --quiet -p km-tests --bin mcp-client --bin mcp-server

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Compiled before, so that nobody has to watch it.
"$target/debug/km-pack" keygen --out "$folder/first" 2>"$folder/log" >&2
"$target/debug/km-pack" build --plugin "$root/km-plugin-template" --customer customer_123 \
    --key "$folder/first/release.key.pem" --out "$folder/first" >&2
mkdir "$folder/try"
ln -s "$root" "$folder/kilometers"
export CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" HOME="$folder"
cd "$folder/try"
# A stdin that never ends, nor says anything: at its end the recording would stop.
mkfifo "$folder/keyboard"
exec 3<>"$folder/keyboard"
PATH="$target/debug:$PATH" TERM=xterm-256color "$tool/bin/termtosvg" record "$folder/session.cast" \
    --screen-geometry 104x30 --command "sh $root/docs/session/session.sh" <&3 >"$folder/log"
"$tool/bin/termtosvg" render "$folder/session.cast" "$folder/session.svg" \
    --template "$root/docs/session/template.svg" --loop-delay 6000 --min-frame-duration 40
sed "s,$folder/try,~/try,g; s,$folder/,~/,g" "$folder/session.svg" >"$root/docs/session.svg"
wc -c "$root/docs/session.svg"
