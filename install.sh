#!/bin/sh
# Installs km and km-pack from a release, after checking who made it.
#
#   curl -fsSL https://github.com/kilometers-ai/kilometers-cli/releases/latest/download/install.sh | sh
#
# A release is SHA256SUMS, its ed25519 signature SHA256SUMS.sig, and archives. The signature is verified with
# the public key below, the archive with its digest, and only then is anything unpacked. There is no switch that
# leaves a check out. Everything is defined first and called on the last line: a script that was cut on its way
# does nothing.

# The public key of releases, one line of base64. Empty in the repository; .github/release.sh fills it in.
release_key=''
releases='https://github.com/kilometers-ai/kilometers-cli/releases'

usage() {
    cat <<END
Installs km and km-pack, with their man pages and completions, after checking the release's signature.

usage: install.sh [options]     (curl -fsSL …/install.sh | sh -s -- [options])

  --version VERSION   this release instead of the latest, even where a newer one is installed
  --from PLACE        a mirror (https://…) or a folder with the files of a release
  --key FILE          public key (PEM) that the release must be signed with, instead of the one in this script
  --to DIR            where the programs go (default: \$KM_INSTALL_DIR, else ~/.local/bin)
  --only NAME         only km, or only km-pack
  --help              this text

Needs openssl 3 or newer, tar, gzip, and curl or wget. Exit status: 2 usage, 3 untrusted, 5 unreachable,
6 not found, 7 a newer version is installed, 9 local trouble; then nothing was installed.
END
}

say() { printf '%s\n' "$*"; }

# fail STATUS MESSAGE HELP
fail() {
    printf 'error: %s\nhelp: %s\n' "$2" "$3" >&2
    exit "$1"
}

has() { command -v "$1" >/dev/null 2>&1; }

read_options() {
    version='' from='' key_file='' only=''
    to=${KM_INSTALL_DIR:-}
    while [ $# -gt 0 ]; do
        case $1 in
        --help | -h)
            usage
            exit 0
            ;;
        --version | --from | --key | --to | --only)
            [ -n "${2:-}" ] || fail 2 "$1 needs a value" 'install.sh --help'
            ;;
        *) fail 2 "unknown argument: $1" 'install.sh --help' ;;
        esac
        case $1 in
        --version) version=${2#v} ;;
        --from) from=${2%/} ;;
        --key) key_file=$2 ;;
        --to) to=$2 ;;
        --only) only=$2 ;;
        esac
        shift 2
    done
    case $version in
    *[!0-9A-Za-z.+-]*) fail 2 "--version $version is no version" 'a version looks like 1.2.3' ;;
    esac
    case $only in
    '') programs='km km-pack' ;;
    km | km-pack) programs=$only ;;
    *) fail 2 "--only $only: there is no such program" '--only km, or --only km-pack' ;;
    esac
    if [ -z "$to" ]; then
        [ -n "${HOME:-}" ] || fail 2 'HOME is not set' 'say where the programs go: --to DIR'
        to=$HOME/.local/bin
    fi
    case $to in
    /*) ;;
    *) to=$PWD/$to ;;
    esac
    to=${to%/}
}

find_target() {
    os=$(uname -s) machine=$(uname -m)
    from_source="on Linux, build it: git clone https://github.com/kilometers-ai/kilometers-cli && cargo install --locked --path kilometers-cli/km"
    [ "$os" = Linux ] || fail 1 "there is no km for $os: it needs Linux" \
        'run it in a Linux virtual machine or container (on Windows: WSL 2)'
    case $machine in
    x86_64 | amd64) target=x86_64-unknown-linux-gnu ;;
    aarch64 | arm64) target=aarch64-unknown-linux-gnu ;;
    *) fail 1 "releases have no km for $machine" "$from_source" ;;
    esac
}

find_tools() {
    for tool in openssl tar gzip mktemp; do
        has $tool || fail 9 "$tool is missing: nothing can be checked or unpacked without it" \
            "install $tool (Debian, Ubuntu: apt install $tool)"
    done
    # -rawin came with OpenSSL 3.0; without it pkeyutl cannot verify ed25519.
    openssl pkeyutl -help 2>&1 | grep -q -e -rawin ||
        fail 9 "$(openssl version) cannot verify ed25519 signatures, so nothing is installed" \
            'install OpenSSL 3.0 or newer, or check the release elsewhere as docs/releasing.md shows'
}

# The public key as a file of its own, so that what is read is what is checked.
find_key() {
    key=$work/key.pem
    if [ -n "$key_file" ]; then
        cat "$key_file" >"$key" 2>/dev/null || fail 6 "cannot read the key $key_file" 'check the path given with --key'
    elif [ -n "$release_key" ]; then
        printf -- '-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n' "$release_key" >"$key" ||
            fail 9 "cannot write to $work" 'is the disk full?'
    else
        fail 3 'this copy of install.sh carries no release key: it is the one in the repository, not that of a release' \
            'compile it (in this checkout: cargo install --locked --path km), use the install.sh of a release, or say which key signs the releases you trust: --key km-release.pub.pem'
    fi
    openssl pkey -pubin -in "$key" -noout -text 2>/dev/null | grep -qi '^ed25519' ||
        fail 3 "${key_file:-the key in this script} is no ed25519 public key in PEM" \
            'the file begins with -----BEGIN PUBLIC KEY-----'
    openssl pkey -pubin -in "$key" -outform DER -out "$work/key.der" || fail 9 'openssl cannot write the key' 'see above'
    key_id=$(digest "$work/key.der" | cut -c 1-16)
}

digest() { openssl dgst -sha256 -r "$1" | cut -d ' ' -f 1; }

find_source() {
    if [ -z "$from" ]; then
        from=$releases/latest/download
        [ -z "$version" ] || from=$releases/download/v$version
    fi
    case $from in
    http*://*@*) fail 2 "$from names a user" 'leave out what stands before the @' ;;
    https://*) protocol='=https' ;;
    # Without TLS only from this machine, as km does it.
    http://127.0.0.1:* | http://localhost:* | http://\[::1\]:*) protocol='=http,https' ;;
    http://*) fail 2 "$from is not https" 'http:// is for this machine only' ;;
    *)
        protocol=''
        from=${from#file://}
        [ -d "$from" ] || fail 6 "there is no folder $from" '--from takes https://… or a folder with the files of a release'
        return
        ;;
    esac
    has curl || has wget || fail 9 'neither curl nor wget is there' 'install one of them, or give a folder: --from DIR'
}

# get FILE KIB: into the working folder; never more than so much, however much a server sends.
get() {
    if [ -z "$protocol" ] && [ ! -f "$from/$1" ]; then
        fail 6 "$from has no $1" 'the folder must hold the files of one release'
    fi
    status=0
    # Counted in half KiB; in KiB by bash.
    words=$(ulimit -f $(($2 * 2)) && transfer "$from/$1" "$work/$1" 2>&1) || status=$?
    [ $status -ne 0 ] || return 0
    words=$(printf '%s\n' "$words" | grep -v '^ *$' | tail -n 1)
    case $status:$words in
    153:*) fail 3 "$from/$1 is longer than such a file can be" 'this is no release: look at what --from says' ;;
    *404*) fail 6 "there is no $from/$1: $words" "check --version and --from; releases: $releases" ;;
    *'No space left'* | 23:*) fail 9 "cannot save $1: $words" 'is the disk full?' ;;
    *) fail 5 "cannot get $from/$1: $words" 'try again, or give a folder with the files of a release: --from DIR' ;;
    esac
}

transfer() {
    if [ -z "$protocol" ]; then
        cat "$1" >"$2"
    elif has curl; then
        curl -fsSL --proto "$protocol" --connect-timeout 20 --speed-limit 1 --speed-time 60 --retry 2 -o "$2" "$1"
    else
        # What wget lets pass is caught by the signature and the digests.
        wget -T 60 -O "$2" "$1"
    fi
}

verify_sums() {
    get SHA256SUMS 64
    get SHA256SUMS.sig 1
    openssl pkeyutl -verify -pubin -inkey "$key" -rawin -in "$work/SHA256SUMS" -sigfile "$work/SHA256SUMS.sig" \
        >/dev/null 2>&1 ||
        fail 3 "the signature of $from/SHA256SUMS does not hold for the key $key_id: nothing is installed" \
            'the file was changed, or another key signed it; get both again from the release, and do not use these'
}

# From the signed list: which archive, and which version it is.
find_archive() {
    archive='' sum=''
    while read -r found name rest; do
        name=${name#\*}
        case $name in
        km-*-"$target".tar.gz) ;;
        *) continue ;;
        esac
        case $name$rest in
        *[!0-9A-Za-z._+-]*) fail 3 "SHA256SUMS has a name that no archive has: $name$rest" "$report" ;;
        esac
        [ -z "$archive" ] || fail 3 "SHA256SUMS has two archives for $target" "$report"
        archive=$name sum=$found
    done <"$work/SHA256SUMS"
    [ -n "$archive" ] || fail 6 "this release has no archive for $target" "$from_source"
    offered=${archive#km-}
    offered=${offered%-"$target".tar.gz}
    [ -z "$version" ] || [ "$version" = "$offered" ] ||
        fail 6 "$from has version $offered, not $version" 'leave --version out, or give another --from'
}

verify_archive() {
    get "$archive" 1048576
    found=$(digest "$work/$archive")
    [ "$found" = "$sum" ] || fail 3 "$archive is not what was signed: its SHA-256 is $found, signed is $sum" \
        'it was changed, or cut on its way; get it again'
}

# Only plain files and folders under the archive's own name; the list is read before anything is written.
unpack() {
    folder=km-$offered-$target
    if ! tar -tzf "$work/$archive" >"$work/names" || ! tar -tvzf "$work/$archive" >"$work/kinds"; then
        fail 3 "$archive is no archive that tar can read" "$report"
    fi
    while read -r name; do
        case /$name/ in
        */../* | */./* | *//?*) fail 3 "$archive has a path that leads elsewhere: $name" "$report" ;;
        "/$folder/"*) ;;
        *) fail 3 "$archive has a path that leads elsewhere: $name" "$report" ;;
        esac
    done <"$work/names"
    ! grep -v '^[-d]' "$work/kinds" >/dev/null || fail 3 "$archive has links or devices in it" "$report"
    words=$(tar -xzof "$work/$archive" -C "$work" 2>&1) || fail 9 "cannot unpack into $work: $words" 'is the disk full?'
}

# They run here, and are what the archive's name says.
try_programs() {
    for program in $programs; do
        chmod 755 "$work/$folder/$program" 2>/dev/null || fail 3 "$archive has no $program" "$report"
        said=$("$work/$folder/$program" --version 2>&1) ||
            fail 1 "$program of this release does not run here: $said" "it needs glibc, as Debian, Ubuntu and Fedora have it; $from_source"
        case $said in
        "$program $offered" | "$program $offered "*) ;;
        *) fail 3 "$archive has another version in it: $said" "$report" ;;
        esac
    done
}

# older A B: whether A comes before B. Of pre-releases only that they come before their release is looked at.
older() {
    numbers "$1"
    one=$major two=$minor three=$patch four=$final
    numbers "$2"
    [ "$one" -eq "$major" ] || { [ "$one" -lt "$major" ]; return; }
    [ "$two" -eq "$minor" ] || { [ "$two" -lt "$minor" ]; return; }
    [ "$three" -eq "$patch" ] || { [ "$three" -lt "$patch" ]; return; }
    [ "$four" -lt "$final" ]
}

numbers() {
    core=${1%%[-+]*} final=1
    case $1 in *-*) final=0 ;; esac
    major=${core%%.*} minor=${core#*.} patch=${core##*.}
    minor=${minor%%.*}
    for number in "$major" "$minor" "$patch"; do
        case $number in '' | *[!0-9]*) major=0 minor=0 patch=0 ;; esac
    done
}

# A mirror that hands out an old release does not take anybody back.
refuse_older() {
    for program in $programs; do
        [ -x "$to/$program" ] || continue
        here=$("$to/$program" --version 2>/dev/null) || continue
        here=${here#"$program "}
        here=${here%% *}
        [ -n "$version" ] || ! older "$offered" "$here" ||
            fail 7 "$to/$program is version $here, newer than $offered" "to go back: --version $offered"
        [ "$program" != km ] || before=$here
    done
}

# Renamed into place, one by one; if one cannot be, those before it come back.
put_programs() {
    mkdir "$work/before" || fail 9 "cannot write to $work" 'is the disk full?'
    for program in $programs; do
        [ ! -d "$to/$program" ] || fail 9 "$to/$program is a folder" 'move it away, or choose another place: --to DIR'
        [ ! -e "$to/$program" ] || ln "$to/$program" "$work/before/$program" 2>/dev/null ||
            cp -p "$to/$program" "$work/before/$program" || fail 9 "cannot keep the old $program" 'is the disk full?'
    done
    put=''
    for program in $programs; do
        if ! mv -f "$work/$folder/$program" "$to/$program"; then
            for done in $put; do
                if [ -e "$work/before/$done" ]; then mv -f "$work/before/$done" "$to/$done"; else rm -f "$to/$done"; fi
            done
            fail 9 "cannot put $program into $to" 'see above; nothing was changed'
        fi
        put="$put $program"
    done
}

# Beside …/bin, where shells and man look. What cannot be put there is said, and no failure.
put_pages() {
    case $to in
    */bin) share=${to%/bin}/share ;;
    *)
        say "no man pages and completions: $to is no folder named bin"
        return
        ;;
    esac
    for program in $programs; do
        for page in "$work/$folder/share/man/man1/$program".1 "$work/$folder/share/man/man1/$program"-*.1; do
            # km-*.1 are also the pages of km-pack.
            case $program:${page##*/} in km:km-pack.1 | km:km-pack-*) continue ;; esac
            put_page "$page" "$share/man/man1" || return 0
        done
        completions=$work/$folder/share
        put_page "$completions/bash-completion/completions/$program" "$share/bash-completion/completions" || return 0
        put_page "$completions/zsh/site-functions/_$program" "$share/zsh/site-functions" || return 0
        put_page "$completions/fish/vendor_completions.d/$program.fish" "$share/fish/vendor_completions.d" || return 0
    done
    say "man pages and completions are in $share"
}

put_page() {
    [ -f "$1" ] || return 0
    mkdir -p "$2" && cp "$1" "$2/.km-install.$$" && chmod 644 "$2/.km-install.$$" &&
        mv -f "$2/.km-install.$$" "$2/${1##*/}" && return
    rm -f "$2/.km-install.$$"
    say "man pages and completions could not be put into $2"
    return 1
}

look_at_path() {
    case :$PATH: in
    *:"$to":*) ;;
    *)
        say "$to is not in your PATH. Add this line to ~/.profile, and open a new shell:"
        say "    export PATH=\"$to:\$PATH\""
        return
        ;;
    esac
    for program in $programs; do
        first=$(command -v "$program")
        [ "$first" = "$to/$program" ] || say "$first comes before $to/$program in your PATH"
    done
}

# Folders for the programs; $made is the topmost that was not there.
make_folder() {
    made='' folder=$to
    while [ ! -d "$folder" ]; do
        made=$folder
        folder=$(dirname "$folder")
    done
    trap clean EXIT
    mkdir -p "$to" || fail 9 "cannot make the folder $to" 'choose another place: --to DIR'
}

clean() {
    [ -z "$work" ] || rm -rf "$work"
    # Folders that were made for this, if nothing came into them.
    folder=$to
    while [ -n "$made" ] && { rmdir "$folder" 2>/dev/null || [ ! -d "$folder" ]; } && [ "$folder" != "$made" ]; do
        folder=$(dirname "$folder")
    done
}

main() {
    set -u
    umask 022
    LC_ALL=C
    export LC_ALL
    report="report it: ${releases%/releases}/security"
    read_options "$@"
    find_target
    find_tools
    before='' work=''
    make_folder
    # In the folder itself: what fits here can be renamed into place.
    work=$(mktemp -d "$to/.km-install.XXXXXX") || fail 9 "cannot write to $to" 'choose another place: --to DIR'
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    find_key
    find_source
    verify_sums
    find_archive
    verify_archive
    unpack
    try_programs
    refuse_older
    put_programs
    say "installed $offered into $to: $programs${before:+ (before: $before)}"
    say "signed by the key $key_id; SHA-256 of $archive: $sum"
    put_pages
    look_at_path
}

# In parentheses: cut even here, it is no command. From /dev/null: stdin may be this script.
(main "$@" </dev/null)
