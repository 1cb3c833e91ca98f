"""An MCP server of the official Python SDK over streamable HTTP, of both eras: http_server.py

Prints its port. Its tools have the names and arguments of those of server-everything; `wait` says on
stdout when it begins and when it is cancelled."""

import asyncio
import socket

import uvicorn
from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("km-tests", log_level="WARNING")


@server.tool()
async def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool()
async def long(duration: float, steps: int, ctx: Context) -> str:
    for step in range(1, steps + 1):
        await asyncio.sleep(duration / steps)
        await ctx.report_progress(step, steps)
    return "done"


@server.tool()
async def wait(ctx: Context) -> str:
    print("waiting", flush=True)
    try:
        await ctx.report_progress(1, 2)
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise
    return "nobody waits that long"


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
config = uvicorn.Config(server.streamable_http_app(), log_level="warning")
asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
