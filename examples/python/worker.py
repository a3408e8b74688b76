#!/usr/bin/env python3
"""A worker in Python: `python3 examples/python/worker.py [SOCKET]`, while an application runs.

It needs the package msgpack. What is said, and why, is in docs/protocol.md; it counts its calls as metrics.py does.
"""

import asyncio
import os
import random
import struct
import sys
import time

import metrics

try:
    import msgpack
except ModuleNotFoundError:
    sys.exit("the package msgpack is missing: python3 -m pip install msgpack (Debian: apt install python3-msgpack)")

STARTED = time.monotonic()
SEGMENT = metrics.Segment()
CALLS_ACTIVE = SEGMENT.metric("calls_active", "u32")
CALLS_TOTAL = SEGMENT.metric("calls_total")


async def ping(call, send):
    return {"version": "example", "process_id": os.getpid(), "uptime": time.monotonic() - STARTED}


async def greet(call, send):
    return {"greeting": f"hello {call['name']}, this is Python"}


async def count(call, send):
    for number in range(1, call.get("to", 3) + 1):
        await send({"number": number})
        await asyncio.sleep(call.get("pause", 0))
    return {}


async def utilization(call, send):
    return SEGMENT.describe()


OPERATIONS = {"ping": ping, "greet": greet, "count": count, "utilization": utilization}


async def unknown(call, send):
    return {"failed": True, "error": {"class": "UnknownOperation", "message": f"there is no '{call['do']}'"}}


async def answer(call, send):
    """Answers one call. When it is given up, this is cancelled, and says nothing more."""
    CALLS_TOTAL.add()
    CALLS_ACTIVE.add()
    try:
        result = await OPERATIONS.get(call["do"], unknown)(call, send)
    except Exception as error:
        kind = "InvalidParameters" if isinstance(error, KeyError) else "Internal"
        result = {"failed": True, "error": {"class": kind, "message": repr(error)}}
    finally:
        CALLS_ACTIVE.add(-1)
    await send({"finished": True, **result})


async def serve(path):
    """One connection, from its beginning to its end."""
    reader, writer = await asyncio.open_unix_connection(path)

    async def send(message):
        payload = msgpack.packb(message)
        writer.write(struct.pack(">I", len(payload)) + payload)
        await writer.drain()

    await send({"id": 2, "do": "register", "state": {"process_id": os.getpid(), "name": "python"}})
    calls = {}
    try:
        while True:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            message = msgpack.unpackb(await reader.readexactly(length), strict_map_key=False)
            key = message["id"]
            if "do" in message:
                task = asyncio.create_task(answer(message, lambda fields, key=key: send({"id": key, **fields})))
                calls[key] = task
                task.add_done_callback(lambda _, key=key: calls.pop(key, None))
            elif message.get("cancel") and key in calls:
                calls[key].cancel()
            elif message.get("failed"):
                raise ConnectionError(f"not registered: {message['error']}")
            elif "connection_id" in message:
                print(f"registered as {message['connection_id']}", flush=True)
    finally:
        for task in list(calls.values()):
            task.cancel()
        writer.close()


async def main(path):
    span = 0.05
    while True:
        try:
            await serve(path)
        except (OSError, asyncio.IncompleteReadError) as error:
            print(f"no supervisor, trying again: {error!r}", file=sys.stderr, flush=True)
        # Random, because all workers lose their supervisor at once and should not all come back at once.
        await asyncio.sleep(random.uniform(0, span))
        span = min(span * 2, 1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "supervisor.ipc"))
