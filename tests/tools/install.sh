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
        @modelcontextprotocol/server-everything@2026.8.31 \
        @modelcontextprotocol/server-filesystem@2026.8.31 \
        @modelcontextprotocol/server-memory@2026.8.31 \
        @modelcontextprotocol/sdk@1.32.2
    # Cleared: one that was copied here would install into the folder it comes from.
    python3 -m venv --clear python
    python/bin/pip install --quiet mcp==2.3.0 mcp-server-time==2026.10.19 mcp-server-git==2026.10.19 \
        zstandard==0.25.0
    # A proxy to be compared with; it needs an older mcp.
    python3 -m venv --clear proxy
    proxy/bin/pip install --quiet mcp-proxy==0.13.0
    cp "$here/install.sh" installed
fi
echo "$tools"
