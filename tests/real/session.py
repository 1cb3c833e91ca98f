"""A session of the official Python SDK's client: session.py <everything|time|git|hello> <mode> -- <server command>

The SDK gives the server only its own few environment variables, and KM_HOME. Prints one line for
each step, at the end how long closing took; ends with 1 when something is not as it should be."""

import asyncio
import os
import sys
from time import monotonic

from mcp import Client, StdioServerParameters

PAYLOAD = 5 * 1024 * 1024 + 1


def text_of(result):
    return "".join(part.text for part in result.content if part.type == "text")


async def everything(client):
    names = [tool.name for tool in (await client.list_tools()).tools]
    print("tools", len(names))

    progress = []

    async def on_progress(done, total, message):
        progress.append(done)

    slow = next(name for name in names if "long" in name)
    await client.call_tool(slow, {"duration": 1, "steps": 4}, progress_callback=on_progress)
    print("progress", progress)
    assert len(progress) >= 3, progress

    answer = await client.call_tool("echo", {"message": "x" * PAYLOAD})
    assert len(text_of(answer)) >= PAYLOAD
    print("payload", PAYLOAD)


async def time(client):
    names = [tool.name for tool in (await client.list_tools()).tools]
    print("tools", len(names))
    answer = await client.call_tool("get_current_time", {"timezone": "Etc/UTC"})
    assert "Etc/UTC" in text_of(answer), answer


async def git(client):
    repository = os.getcwd()
    answer = await client.call_tool("git_log", {"repo_path": repository})
    assert "the first commit" in text_of(answer), answer


async def hello(client):
    answer = await client.call_tool("echo", {"text": "hello"})
    assert "hello" in text_of(answer), answer


async def main():
    what, mode, _, command, *arguments = sys.argv[1:]
    environment = {name: os.environ[name] for name in ["KM_HOME"] if name in os.environ}
    server = StdioServerParameters(command=command, args=arguments, env=environment)
    async with Client(server, mode=mode) as client:
        print("version", client.protocol_version)
        await {"everything": everything, "time": time, "git": git, "hello": hello}[what](client)
        closing = monotonic()
    print("closed", round(1000 * (monotonic() - closing)))


asyncio.run(main())
