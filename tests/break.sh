#!/bin/sh
# Breaks the source in one place after another, in a copy of this checkout, and shows which scenarios the
# suite names and that it ends with 1. Builds with a target folder of its own: some minutes.
# `sh tests/break.sh [AREA]…` breaks only these.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git -C "$root" ls-files -z --cached --others --exclude-standard | (cd "$root" && tar --null -T - -cf -) | tar -xf - -C "$copy"
git -C "$copy" init -q && git -C "$copy" add -A
git -C "$copy" -c user.name=break -c user.email=break@localhost commit -qm "as it is"
# What is compiled already need not be again.
if [ -d "$root/target/debug" ]; then
    mkdir "$copy/target" && cp -a "$root/target/debug" "$copy/target/"
    [ ! -d "$root/target/km-pack" ] || cp -a "$root/target/km-pack" "$copy/target/"
fi
export CARGO_TARGET_DIR="$copy/target" CARGO_INCREMENTAL=0
cd "$copy"

suite() { "$CARGO_TARGET_DIR/debug/km-pack" automate --quick --report "$copy/report" "$@"; }

cargo build --quiet -p km -p km-pack
suite --phase build >"$copy/out" 2>&1 || { cat "$copy/out" >&2; exit 1; }
cp -a "$CARGO_TARGET_DIR/debug/km-pack" "$copy/suite"

failed=0
# try AREA FILE SED SCENARIOS: where the file stays as it is, the place is gone and this script is out of date.
try() {
    [ -z "$only" ] || case " $only " in *" $1 "*) ;; *) return 0 ;; esac
    sed -i "$3" "$2"
    if git diff --quiet; then echo "$1: nothing to break in $2: mend tests/break.sh" >&2; failed=1; return 0; fi
    cargo build --quiet -p km -p km-pack
    status=0
    "$copy/suite" automate --quick --phase test --scenario "$4" --report "$copy/report" \
        --bins "$CARGO_TARGET_DIR/debug" >"$copy/out" 2>&1 || status=$?
    named=$(sed -n 's/^FAILED   \([a-z]*\/[a-z-]*\).*/\1/p' "$copy/out" | sort -u | tr '\n' ' ')
    printf '%-10s exit %s  %s\n' "$1" "$status" "$named"
    if [ "$status" != 1 ] || [ -z "$named" ]; then cat "$copy/out" >&2; failed=1; fi
    git checkout -q -- "$2"
}

only=$*
try list    km/src/commands/list.rs        's/no plugins are installed;/nothing is there;/'             plugins
try remove  km/src/commands/remove.rs      's/Kind::NotFound, format_args!("plugin/Kind::Failed, format_args!("plugin/' errors
try install km/src/commands/install.rs     's/cannot open it/cannot be opened/'                          errors
try monitor km/src/monitor/session.rs      's/ExitCode::from(127)/ExitCode::from(1)/'                    errors
try config  km/src/environment.rs          's/"KM_API_URL"\]/"KM_URL"]/' access
try api     km/src/api/client.rs           's/the API refused: /the API says no: /'                      access
try verify  proto/package/src/verify.rs    's/refused by rule V/refused by /'                            errors
try pack    km-pack/src/commands/keygen.rs 's/key id  /id      /'                                          release
exit $failed
