#!/bin/sh
# Installs MCP servers and clients that others wrote, and a zstd, for the tests that use them, into a folder of
# its own: target/mcp-tools (or the one given). Needs npm and python3; doing it twice does nothing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
tools=${1:-$here/../../target/mcp-tools}
mkdir -p "$tools"
cd "$tools"
if ! cmp -s "$here/install.sh" installed; then
    rm -f installed
    npm install --prefix node --no-audit --no-fund --loglevel=error \
        @modelcontextprotocol/server-everything@2026.8.31
    python3 -m venv python
    python/bin/pip install --quiet mcp==2.3.0 mcp-server-time==2026.10.19 zstandard==0.25.0
    cp "$here/install.sh" installed
fi
echo "$tools"
