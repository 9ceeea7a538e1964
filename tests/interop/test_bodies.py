# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies that need more than the matrix: 20 MB, ends that fall on the edges of buffers, newlines that no mail program
makes, and ends of data that a lax server would believe."""
from kit import bodies, clients, servers
from kit.bodies import BIG
from kit.clients import RawClient, port_of, stuffed
from lib.core import cases, test

LAX = {"smtp-sink": servers.SmtpSink, "postfix": lambda t: servers.Postfix(t, main={"smtpd_forbid_bare_newline": "no"})}


@cases(clients.KINDS, timeout=60)
def twenty_megabytes(t, client):
    up = servers.Sink(t)
    rp = t.ringpost(up)
    program = client(t)
    content = bodies.big(BIG)
    program.send(port_of(rp), [("big@from.test", ["to@rcpt.test"], content)])
    t.equal(servers.without_received(up.wait(1, 20)[0].content), program.sends(content), "the body")
    rec = rp.record("transaction", result="accepted")
    t.check(rec["bytes"] >= BIG, "the record says bytes = %d" % rec["bytes"])


@test(timeout=60)
def twenty_megabytes_to_postfix(t):
    up = servers.Postfix(t)
    rp = t.ringpost(up)
    content = bodies.big(BIG)
    clients.Smtplib(t).send(port_of(rp), [("big@from.test", ["to@rcpt.test"], content)])
    t.equal(up.wait(1, 30)[0].content, content, "the body")


@test(timeout=30)
def ends_on_the_edges_of_buffers(t):
    up = servers.Sink(t)
    rp = t.ringpost(up)
    sent = bodies.straddling()
    clients.Smtplib(t).send(port_of(rp), [(name, ["to@rcpt.test"], content) for name, content in sent.items()])
    got = up.by_sender(len(sent))
    for name, content in sent.items():
        t.equal(got[name.encode()].content, content, "the body " + name)


@cases({name: clients.KINDS[name] for name in ("swaks", "curl", "smtplib", "smtp-source")}, timeout=60)
def odd_newlines_as_sent_directly(t, client):
    """What the sink gets through ringpost is what it gets without it."""
    direct, up = servers.Sink(t), servers.Sink(t)
    rp = t.ringpost(up)
    program = client(t)
    odd = dict(bodies.RAW, **{"no-final-newline": b"Subject: x\r\n\r\nlast line",
                              "dot-unended": b"Subject: x\r\n\r\na\r\n.b"})
    if client is clients.Swaks:
        del odd["empty"]
    messages = [(name + "@from.test", ["to@rcpt.test"], content) for name, content in odd.items()]
    program.send(direct.port, messages)
    program.send(port_of(rp), messages)
    want, got = direct.by_sender(len(odd)), up.by_sender(len(odd))
    t.equal(sorted(got), sorted(want), "the messages")
    for sender in want:
        t.equal(got[sender].content, want[sender].content, "the body of %s" % sender)
        t.equal(got[sender].params, want[sender].params, "the parameters of %s" % sender)


@test(timeout=30)
def data_exactly(t):
    """Every RAW body octet for octet: the dot-stuffing is the client's, nothing is repaired on the way."""
    up = servers.Sink(t)
    rp = t.ringpost(up)
    c = RawClient(t, port_of(rp))
    c.ehlo()
    for name, content in bodies.RAW.items():
        c.data(name, ["to@rcpt.test"], stuffed(content) + b".\r\n")
    c.quit()
    got = up.by_sender(len(bodies.RAW))
    for name, content in bodies.RAW.items():
        t.equal(got[name.encode()].content, content, "the body " + name)


LOOKALIKES = {"lf-dot-lf": b"\n.\n", "lf-dot-crlf": b"\n.\r\n", "crlf-dot-lf": b"\r\n.\n", "cr-dot-cr": b"\r.\r",
              "crlf-dot-cr": b"\r\n.\r", "cr-dot-crlf": b"\r.\r\n", "lf-dot-cr": b"\n.\r", "lf-nul-dot-crlf": b"\n\0.\r\n"}
SECOND = b"MAIL FROM:<smuggled@x.test>\r\nRCPT TO:<victim@rcpt.test>\r\nDATA\r\nSubject: s\r\n\r\ns\r\n"


@cases(LAX, timeout=60)
def no_second_message(t, server):
    """Behind every lookalike stands a whole transaction. Neither message may reach the server, the client is told at
    the true end, and the session goes on."""
    up = server(t)
    rp = t.ringpost(up)
    c = RawClient(t, port_of(rp))
    c.ehlo()
    for name, ends in LOOKALIKES.items():
        c.data(name + "@x.test", ["to@rcpt.test"], b"Subject: x\r\n\r\nfirst" + ends + SECOND + b".\r\n", b"550 5.5.2")
    c.data("good@x.test", ["to@rcpt.test"], b"Subject: good\r\n\r\nlast\r\n.\r\n")
    c.quit()
    t.equal([m.sender for m in up.wait(1, 10)], [b"good@x.test"], "what the server took")


@test(timeout=30)
def postfix_alone_is_lax(t):
    """What no_second_message protects: the same octets sent directly are two messages."""
    up = servers.Postfix(t, main={"smtpd_forbid_bare_newline": "no"})
    c = RawClient(t, up.port)
    c.ehlo()
    c.data("first@x.test", ["to@rcpt.test"], b"Subject: x\r\n\r\nfirst\n.\r\n" + SECOND + b".\r\n")
    c.expect(b"250", b"250", b"354", b"250")
    c.quit()
    t.equal({m.sender for m in up.wait(2, 10)}, {b"first@x.test", b"smuggled@x.test"}, "what Postfix took")
