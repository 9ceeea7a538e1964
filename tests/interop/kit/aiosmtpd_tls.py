#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""aiosmtpd with TLS, by Debian's Python: aiosmtpd_tls.py DIR CHAIN KEY.

Listens at a free port for each way TLS begins and each version of it; DIR/ports says which. Each message becomes
DIR/N.eml and then DIR/N.json.
"""
import asyncio
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP


class Keep:
    def __init__(self, directory):
        self.dir = directory
        self.count = 0

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        base = os.path.join(self.dir, "%04d" % self.count)
        tls = server.transport.get_extra_info("ssl_object")
        with open(base + ".eml", "wb") as f:
            f.write(envelope.original_content)
        with open(base + ".tmp", "w") as f:
            json.dump({"from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": "%s" % (tls.cipher(),) if tls else None,
                       "reused": tls.session_reused if tls else None}, f)
        os.rename(base + ".tmp", base + ".json")
        return "250 2.0.0 taken"


async def main(directory, chain, key):
    loop = asyncio.get_running_loop()
    keep, ports, servers = Keep(directory), {}, []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        context.load_cert_chain(chain, key)
        for mode, own, listener in (("starttls", {"tls_context": context, "require_starttls": True}, None),
                                    ("implicit", {}, context)):
            def smtp(own=own):
                return SMTP(keep, hostname="aiosmtpd.test", data_size_limit=60000000, **own)
            server = await loop.create_server(smtp, "127.0.0.1", 0, ssl=listener)
            servers.append(server)
            ports["%s-%s" % (mode, "12" if version == ssl.TLSVersion.TLSv1_2 else "13")] = server.sockets[0].getsockname()[1]
    with open(directory + "/ports.tmp", "w") as f:
        json.dump(ports, f)
    os.rename(directory + "/ports.tmp", directory + "/ports")
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
