#!/bin/sh
# Makes the files of a release of km. Runs anywhere, also without GitHub: docs/releasing.md.
#
#   .github/release.sh archive [--target TRIPLE] [--bins DIR] [--tag TAG] [--out DIR]
#       km-<version>-<target>.tar.gz: km and km-pack (built here with --release --locked, or taken from DIR),
#       man pages, completions, licence. The same commit and compiler give the same bytes.
#   .github/release.sh sign --key FILE [--out DIR]
#       over all archives in DIR: install.sh with the public key, SHA256SUMS, SHA256SUMS.sig
set -eu
umask 022
export LC_ALL=C TZ=UTC
root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    printf 'error: %s\nhelp: %s\n' "$1" "$2" >&2
    exit 1
}

version_of_workspace() { sed -n '/^\[workspace.package\]/,/^\[[^w]/s/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml"; }

build() {
    # Paths of this machine do not belong into what others are to build, too.
    cargo=${CARGO_HOME:-$HOME/.cargo}
    sysroot=$(rustc --print sysroot)
    folder=${CARGO_TARGET_DIR:-$root/target}
    (
        cd "$root"
        RUSTFLAGS="--remap-path-prefix=$root=/km --remap-path-prefix=$cargo=/cargo --remap-path-prefix=$sysroot=/rust"
        CFLAGS="${CFLAGS:-} -ffile-prefix-map=$root=/km -ffile-prefix-map=$cargo=/cargo"
        export RUSTFLAGS CFLAGS SOURCE_DATE_EPOCH="$epoch" CARGO_INCREMENTAL=0
        cargo build --release --locked --target "$target" -p km -p km-pack
    )
    bins=$folder/$target/release
}

# The licences of what is compiled in: who has which, then each text once.
third_party() {
    registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
    texts=$work/texts
    mkdir "$texts"
    (cd "$root" && cargo tree --locked -p km -p km-pack --edges normal --target "$target" --prefix none \
        --format '{p}|{l}' --no-dedupe) | grep '|' | grep -v ' (/' | sed 's/ (proc-macro)//' | sort -u >"$work/crates"
    [ -s "$work/crates" ] || fail "cargo tree names no crates" "run it here: cargo tree -p km"
    while IFS='|' read -r crate licence; do
        folder=$(echo "$registry"/*/"${crate%% v*}-${crate##* v}")
        [ -d "$folder" ] || fail "the source of $crate is not in $registry" "cargo fetch --locked"
        printf '%s: %s\n' "$crate" "$licence"
        for file in "$folder"/LICEN[CS]E* "$folder"/COPYING* "$folder"/COPYRIGHT* "$folder"/NOTICE*; do
            [ -f "$file" ] || continue
            sum=$(sha256sum <"$file" | cut -c 1-64)
            cp "$file" "$texts/$sum"
            printf '%s\n' "$crate" >>"$texts/$sum.crates"
        done
    done <"$work/crates"
    for text in "$texts"/*.crates; do
        printf '\n%s\n' "---- $(sort -u "$text" | tr '\n' ',' | sed 's/,$//; s/,/, /g')"
        cat "${text%.crates}"
    done
}

# Everything in the archive but the programs comes out of the programs and the repository.
lay_out() {
    mkdir -p "$1"
    for program in km km-pack; do
        [ -x "$bins/$program" ] || fail "$bins has no $program" "build it, or leave --bins out"
        cp "$bins/$program" "$1/$program"
        said=$("$1/$program" --version) || fail "$program does not run here" "make the archive on a machine of $target"
        case $said in
        "$program $version" | "$program $version "*) ;;
        *) fail "$program says it is $said, not $version" "build it anew" ;;
        esac
        mkdir -p "$1/share/man/man1" "$1/share/bash-completion/completions" "$1/share/zsh/site-functions" \
            "$1/share/fish/vendor_completions.d"
        "$1/$program" man --out "$1/share/man/man1" >/dev/null
        "$1/$program" completions bash >"$1/share/bash-completion/completions/$program"
        "$1/$program" completions zsh >"$1/share/zsh/site-functions/_$program"
        "$1/$program" completions fish >"$1/share/fish/vendor_completions.d/$program.fish"
    done
    cp "$root/LICENSE" "$root/NOTICE" "$root/README.md" "$root/CHANGELOG.md" "$1"
    third_party >"$1/LICENSES-THIRD-PARTY"
    find "$1" -type d -exec chmod 755 {} +
    find "$1" -type f -exec chmod 644 {} +
    chmod 755 "$1/km" "$1/km-pack"
}

archive() {
    version=$(version_of_workspace)
    [ -n "$version" ] || fail "Cargo.toml has no version" "[workspace.package] version = …"
    [ -z "$tag" ] || [ "$tag" = "v$version" ] ||
        fail "the tag $tag is not v$version, which Cargo.toml says" "tag the commit that has the version"
    [ -n "$target" ] || target=$(rustc -vV | sed -n 's/^host: //p')
    epoch=$(git -C "$root" log -1 --format=%ct)
    [ -n "$bins" ] || build
    name=km-$version-$target
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    lay_out "$work/$name"
    mkdir -p "$out"
    # Sorted, of nobody, of the time of the commit.
    (cd "$work" && find "$name" | sort) >"$work/files"
    tar -C "$work" --no-recursion --files-from "$work/files" --format=ustar --owner=0 --group=0 --numeric-owner \
        --mtime="@$epoch" -cf "$work/archive.tar"
    gzip -n "$work/archive.tar"
    mv "$work/archive.tar.gz" "$out/$name.tar.gz"
    printf '%s\n' "$out/$name.tar.gz"
}

sign() {
    [ -n "$key" ] || fail "no signing key" ".github/release.sh sign --key FILE; openssl genpkey -algorithm ed25519 makes one"
    [ -f "$key" ] || fail "there is no $key" "--key takes the path of an ed25519 private key in PEM"
    cd "$out"
    set -- km-*.tar.gz
    [ -f "$1" ] || fail "$out has no archives" ".github/release.sh archive"
    # One line of base64 between the two lines of the PEM.
    openssl pkey -in "$key" -noout -text_pub | grep -q '^ED25519' ||
        fail "$key is no ed25519 key" "openssl genpkey -algorithm ed25519 makes one"
    public=$(openssl pkey -in "$key" -pubout | sed '/-----/d')
    sed "s|^release_key=''\$|release_key='$public'|" "$root/install.sh" >install.sh
    grep -qxF "release_key='$public'" install.sh || fail "install.sh has no line for the key" "release_key='' in install.sh"
    chmod 755 install.sh
    sha256sum -- "$@" install.sh >SHA256SUMS
    openssl pkeyutl -sign -inkey "$key" -rawin -in SHA256SUMS -out SHA256SUMS.sig
    openssl pkey -in "$key" -pubout |
        openssl pkeyutl -verify -pubin -inkey /dev/stdin -rawin -in SHA256SUMS -sigfile SHA256SUMS.sig >/dev/null
    printf '%s\n' SHA256SUMS SHA256SUMS.sig install.sh
}

[ $# -ge 1 ] || fail "what is to be done?" ".github/release.sh archive, then .github/release.sh sign"
command=$1
shift
target='' bins='' tag='' key='' out=dist/release
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value" "see the head of $0"
    case $1 in
    --target) target=$2 ;;
    --bins) bins=$2 ;;
    --tag) tag=$2 ;;
    --key) key=$2 ;;
    --out) out=$2 ;;
    *) fail "unknown argument: $1" "see the head of $0" ;;
    esac
    shift 2
done
case $key in '' | /*) ;; *) key=$PWD/$key ;; esac
case $command in
archive) archive ;;
sign) sign ;;
*) fail "there is no $command" "archive, or sign" ;;
esac
