#!/bin/sh
# Builds pairing-plugin, pairing-host and plugin with Debian 12's Go 1.19, go-plugin 1.0.1 and
# grpc 1.33 into a folder: sh old.sh <folder>
set -eu
tests=$(cd "$(dirname "$0")" && pwd)
mkdir -p "${1:?the folder to build into}"
out=$(cd "$1" && pwd)
packages="golang-1.19-go golang-github-hashicorp-go-plugin-dev golang-google-grpc-dev golang-github-golang-protobuf-1-5-dev"

missing=
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "missing packages of Debian 12; install them by: apt-get install --no-install-recommends$missing" >&2
    exit 1
fi

mkdir -p "$out/gopath/src/kilometers.example"
ln -sfn "$tests" "$out/gopath/src/kilometers.example/tests"
ln -sfn "$tests/../../km-plugin-template/go" "$out/gopath/src/kilometers.example/plugin"
# Nothing of a newer Go's configuration.
unset GOROOT GOTOOLCHAIN
export GOENV=off GO111MODULE=off GOFLAGS= CGO_ENABLED=0
export GOPATH="$out/gopath:/usr/share/gocode" GOCACHE="$out/gocache"
cd "$out"
for program in pairing-plugin pairing-host plugin; do
    /usr/lib/go-1.19/bin/go build -tags old -o "$out/$program" "kilometers.example/tests/$program"
done
