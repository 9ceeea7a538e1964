# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of a session that many tests share."""
from lib.core import Failure

GREETING = b"220 up.test ESMTP ready\r\n"
CAPS = (b"PIPELINING", b"8BITMIME", b"CHUNKING", b"ENHANCEDSTATUSCODES")
MAIL = b"MAIL FROM:<a@x.test>\r\n"
RCPT = b"RCPT TO:<b@y.test>\r\n"
EHLO = b"EHLO client.test\r\n"
OK_MAIL = b"250 2.1.0 sender ok\r\n"
OK_RCPT = b"250 2.1.5 recipient ok\r\n"
GO = b"354 end with dot\r\n"
TAKEN = b"250 2.0.0 queued as 4711\r\n"
BYE = b"221 2.0.0 bye\r\n"
BODY = b"Subject: x\r\n\r\nhello\r\n.\r\n"


def ehlo_reply(caps=CAPS, first=b"up.test"):
    lines = [first] + list(caps)
    return b"".join(b"250%s%s\r\n" % (b" " if i == len(lines) - 1 else b"-", l) for i, l in enumerate(lines))


def keywords(reply):
    """EHLO reply -> {KEYWORD: arguments}; the first line is left out."""
    out = {}
    for line in reply.split(b"\r\n")[1:-1]:
        word, _, args = line[4:].partition(b" ")
        out[word.upper()] = args
    return out


def greet(c, u, greeting=GREETING):
    u.send(greeting)
    c.expect(greeting)


def hello(c, u, caps=CAPS):
    """EHLO through; returns what the client was shown."""
    c.send(EHLO)
    u.expect(EHLO)
    u.send(ehlo_reply(caps))
    return keywords(c.reply(b"250"))


def opened(t, rp, up, caps=CAPS, **kw):
    """A session after its EHLO: (client, upstream connection)."""
    c = rp.client(**kw)
    u = up.accept()
    greet(c, u)
    hello(c, u, caps)
    return c, u


def pair(t, caps=CAPS, **kw):
    """A ringpost with one scripted upstream and a session after EHLO: (rp, up, c, u)."""
    up = t.upstream()
    rp = t.ringpost(up, **kw)
    c, u = opened(t, rp, up, caps)
    return rp, up, c, u


def step(c, u, command, reply, shown=None):
    """One command through, one reply back."""
    c.send(command)
    u.expect(command)
    u.send(reply)
    c.expect(reply if shown is None else shown)


def envelope(c, u, mail=MAIL, rcpt=RCPT):
    step(c, u, mail, OK_MAIL)
    step(c, u, rcpt, OK_RCPT)


def data_open(c, u, mail=MAIL, rcpt=RCPT):
    """Up to the relayed 354."""
    envelope(c, u, mail, rcpt)
    step(c, u, b"DATA\r\n", GO)


def message(c, u, body=BODY, reply=TAKEN):
    data_open(c, u)
    c.send(body)
    u.expect(body)
    u.send(reply)
    c.expect(reply)


def again(up, c, first, caps=CAPS, greeting=GREETING, ehlo=EHLO, reply=None):
    """A replaced link: `first` is the command of the client that needs it. Returns the new upstream
    connection behind that command."""
    c.send(first)
    u = up.accept()
    u.send(greeting)
    u.expect(ehlo)
    u.send(ehlo_reply(caps) if reply is None else reply)
    return u.expect(first)


def relinked(up, c, **kw):
    """A replaced link by way of a MAIL that is taken back: the session is as after EHLO. The commands that
    ringpost could answer without an upstream (NOOP, RSET) need no new link."""
    u = again(up, c, MAIL, **kw)
    u.send(OK_MAIL)
    c.expect(OK_MAIL)
    step(c, u, b"RSET\r\n", b"250 flushed\r\n")
    return u


def replayed(up, caps=CAPS):
    """The upstream side of a replaced link up to its EHLO."""
    u = up.accept(up.t.wait * 2)
    return u.send(GREETING).expect(EHLO).send(ehlo_reply(caps))


def warm_up(rp, up):
    """Octets through every receive buffer, so that what memory does afterwards is growth."""
    c, u = opened(rp.t, rp, up)
    c.loud = u.loud = False
    data_open(c, u)
    body = b"0123456789abcd\r\n" * (2 << 20) + b".\r\n"
    c.send_async(body)
    u.recv_exact(len(body))
    u.send(TAKEN)
    c.expect(TAKEN)
    quit_(c, u)
    c.close()
    return rp.rss_anon()


def warm_up_auto(rp):
    """The same where an AutoServer is the upstream."""
    c = rp.client()
    c.loud = False
    c.send(EHLO + MAIL + RCPT + b"DATA\r\n" + b"0123456789abcd\r\n" * (2 << 20) + b".\r\nQUIT\r\n")
    if b"\r\n221" not in c.rest(rp.t.wait * 4):
        raise Failure("the first session did not end well")
    c.close()
    return rp.rss_anon()


def quit_(c, u):
    c.send(b"QUIT\r\n")
    u.expect(b"QUIT\r\n")
    u.send(BYE)
    c.expect(BYE)
    u.close()
    c.ended()


def no_end_seen(u, octets, what="the upstream"):
    """What an upstream got of a body that must not have ended. Fails if a lax one could see an end."""
    from lib.autoserver import SLOPPY_END
    if SLOPPY_END.search(octets):
        raise Failure("%s got an end of data: %r" % (what, octets[-60:]))
