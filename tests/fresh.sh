#!/bin/sh
# A fresh machine: a bare Debian with git and a C compiler in a folder of its own, Rust as rustup leaves it,
# and nothing else: no target, no registry, no KM_HOME. There this checkout's HEAD is cloned and the commands of the
# README are run, with the time they took. Needs root and debootstrap; uses up to 20 GB in the folder given.
#
#   sudo sh tests/fresh.sh /var/tmp/fresh                    # clone, then sh tests/tour.sh
#   sudo sh tests/fresh.sh /var/tmp/fresh 'cargo test --workspace'
set -eu
machine=${1:?a folder for the machine}
shift
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$machine/usr/bin/git" ] ||
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates,git bookworm "$machine"

# What rustup's installer makes: the toolchain that `rustc` is here, without anything ever downloaded.
home="$machine/root"
rm -rf "$home" "$machine/tmp/"*
mkdir -p "$home/rust"
cp -a "$(rustc --print sysroot)/." "$home/rust/"
# How names and certificates are found is the machine's around it.
cp /etc/resolv.conf /etc/hosts "$machine/etc/"
cp -L --remove-destination /etc/ssl/certs/ca-certificates.crt "$machine/etc/ssl/certs/"
git -C "$root" bundle create --quiet "$machine/tmp/checkout.bundle" HEAD
mountpoint -q "$machine/proc" || mount -t proc proc "$machine/proc"
mountpoint -q "$machine/dev" || mount --rbind /dev "$machine/dev"
trap 'umount "$machine/proc"; umount -R "$machine/dev"' EXIT

inside() {
    chroot "$machine" /usr/bin/env -i HOME=/root PATH=/root/rust/bin:/usr/bin:/bin LANG=C.UTF-8 sh -ec "$1"
}
began=$(date +%s)
inside 'git -c advice.detachedHead=false clone --quiet /tmp/checkout.bundle /root/checkout'
[ $# -gt 0 ] || set -- 'sh tests/tour.sh'
for command in "$@"; do
    printf '\n$ %s\n' "$command"
    inside "cd /root/checkout && $command"
    echo "[fresh machine: $(($(date +%s) - began)) s since before the clone]"
done
