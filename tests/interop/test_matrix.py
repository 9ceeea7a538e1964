# SPDX-License-Identifier: GPL-3.0-or-later
"""Every client with every upstream: all of bodies.USUAL, octet for octet at the far end, and one record of an
accepted transaction for each in ringpost's log."""
from kit import bodies, clients, servers
from lib.core import cases, show

PAIRS = {"%s-%s" % (c, s): (c, s) for s in servers.KINDS for c in clients.KINDS}


@cases(PAIRS, timeout=60)
def usual_bodies(t, pair):
    client, server = pair
    up = servers.KINDS[server](t)
    rp = t.ringpost(up)
    program = clients.KINDS[client](t)
    sent = {"%s@from.test" % name: content for name, content in bodies.USUAL.items()}
    program.send(clients.port_of(rp), [(sender, ["to@rcpt.test"], content) for sender, content in sent.items()])
    got = up.by_sender(len(sent), 15)
    for sender, content in sent.items():
        m = got.pop(sender.encode(), None)
        t.check(m, "no message from %s" % sender)
        t.equal(servers.without_received(m.content), up.shown(program.sends(content)), "the body of %s" % sender)
        t.equal(m.rcpts, [b"to@rcpt.test"], "the recipients of %s" % sender)
    t.check(not got, "messages that nobody sent: %s" % show(repr(got).encode()))
    t.until(lambda: len(rp.records("transaction")) >= len(sent), "a record for each transaction")
    for rec in rp.records("transaction"):
        t.equal((rec["result"], rec["code"], rec["rcpts"], rec["body"]), ("accepted", 250, 1, "data"), "the record")
