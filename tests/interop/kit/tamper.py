#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moves octets between clients and a server: HOST PORT UPSTREAM_HOST UPSTREAM_PORT keep|change. `change`: in the middle of
what comes at once from a client, if that is much, one octet is another. Runs until it is ended."""
import asyncio
import sys

MUCH = 500


async def move(reader, writer, change):
    try:
        while data := await reader.read(65536):
            if change and len(data) > MUCH:
                at = len(data) // 2
                data = data[:at] + (b"#" if data[at:at + 1] != b"#" else b"+") + data[at + 1:]
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def session(reader, writer):
    up_reader, up_writer = await asyncio.open_connection(sys.argv[3], int(sys.argv[4]))
    await asyncio.gather(move(reader, up_writer, sys.argv[5] == "change"), move(up_reader, writer, False))


async def main():
    server = await asyncio.start_server(session, sys.argv[1], int(sys.argv[2]), backlog=512)
    await server.serve_forever()


asyncio.run(main())
