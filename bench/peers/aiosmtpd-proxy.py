#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy with aiosmtpd: HOST PORT UPSTREAM_HOST UPSTREAM_PORT.

As one would write it for work: an upstream connection for each session, opened at its first MAIL; each command is asked
upstream and its reply goes to the client; a message is read whole, then sent. uvloop is the event loop.
"""
import asyncio
import sys

import uvloop
from aiosmtpd.smtp import SMTP

SIZE_MAX = 104857600
BACKLOG = 4096
UPSTREAM_LOST = "421 4.4.2 upstream lost"


class Upstream:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def reply(self):
        lines = []
        while True:
            line = await self.reader.readline()
            if len(line) < 4:
                raise ConnectionResetError
            lines.append(line.rstrip(b"\r\n"))
            if line[3:4] != b"-":
                return b"\r\n".join(lines).decode("latin-1")

    async def ask(self, octets):
        self.writer.write(octets)
        return await self.reply()

    async def send(self, content):
        go_on = await self.ask(b"DATA\r\n")
        if not go_on.startswith("354"):
            return go_on
        if content.startswith(b"."):
            content = b"." + content
        self.writer.write(content.replace(b"\r\n.", b"\r\n..") + (b".\r\n" if content.endswith(b"\r\n") else b"\r\n.\r\n"))
        return await self.reply()


class Relay:
    """The handler of one session."""

    def __init__(self, host, port):
        self.host, self.port, self.upstream = host, port, None

    async def open(self, name):
        self.upstream = Upstream(*await asyncio.open_connection(self.host, self.port))
        await self.upstream.reply()
        await self.upstream.ask(b"EHLO %s\r\n" % name.encode())

    def close(self):
        if self.upstream:
            self.upstream.writer.close()

    async def handle_exception(self, error):
        return UPSTREAM_LOST if isinstance(error, OSError) else "451 4.3.0 " + type(error).__name__

    async def handle_MAIL(self, server, session, envelope, address, options):
        if not self.upstream:
            await self.open(session.host_name)
        reply = await self.upstream.ask(b"MAIL FROM:<%s>%s\r\n" % (address.encode(), "".join(" " + o for o in options).encode()))
        if reply.startswith("2"):
            envelope.mail_from, envelope.mail_options = address, options
        return reply

    async def handle_RCPT(self, server, session, envelope, address, options):
        reply = await self.upstream.ask(b"RCPT TO:<%s>%s\r\n" % (address.encode(), "".join(" " + o for o in options).encode()))
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server, session, envelope):
        return await self.upstream.send(envelope.content)

    async def handle_RSET(self, server, session, envelope):
        return await self.upstream.ask(b"RSET\r\n") if self.upstream else "250 2.0.0 Ok"

    async def handle_QUIT(self, server, session, envelope):
        if self.upstream:
            await self.upstream.ask(b"QUIT\r\n")
        return "221 2.0.0 Bye"


class Session(SMTP):
    def connection_lost(self, error):
        self.event_handler.close()
        super().connection_lost(error)


async def main():
    host, port, upstream_host, upstream_port = sys.argv[1:]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Session(Relay(upstream_host, int(upstream_port)), data_size_limit=SIZE_MAX,
                                                      enable_SMTPUTF8=True, hostname="aiosmtpd.example", timeout=600, loop=loop),
                                      host, int(port), backlog=BACKLOG)
    await server.serve_forever()


uvloop.install()
asyncio.run(main())
