"""A session of the official Python SDK's client over streamable HTTP: http_session.py <url> <mode> [cancel]

Prints one line for each step; ends with 1 when something is not as it should be. With `cancel` it leaves
in the middle of a call."""

import asyncio
import sys

from mcp import Client

# An event in answer holds it twice, and clients take events of at most 1 MiB.
PAYLOAD = 400_001


def text_of(result):
    return "".join(part.text for part in result.content if part.type == "text")


async def steps(client):
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

    answers = await asyncio.gather(*(client.call_tool("echo", {"message": str(n)}) for n in range(20)))
    assert all(text_of(answer).endswith(str(n)) for n, answer in enumerate(answers)), answers
    print("at once", len(answers))


async def cancel(client):
    begun = asyncio.Event()

    async def on_progress(done, total, message):
        begun.set()

    call = asyncio.create_task(client.call_tool("wait", {}, progress_callback=on_progress))
    await asyncio.wait_for(begun.wait(), 20)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    print("cancelled")


async def main():
    url, mode, *what = sys.argv[1:]
    async with Client(url, mode=mode) as client:
        print("version", client.protocol_version)
        await (cancel if what else steps)(client)


asyncio.run(main())
