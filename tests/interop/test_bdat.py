# SPDX-License-Identifier: GPL-3.0-or-later
"""BDAT (RFC 3030) to Postfix's smtpd and to ringpost-sink, by the small client of kit/clients.py: no client of
Debian 12 sends it. Chunks of all sizes, pipelined or one by one; content that is none of DATA's."""
import threading

from kit import bodies, servers
from kit.bodies import BIG
from kit.clients import RawClient, port_of
from lib.core import Failure, cases, test

CHUNKS = {"%s-%s" % (size, "pipelined" if p else "stepwise"): (size, p) for size in (7, 1000, 16384, 1 << 20)
          for p in (False, True)}
EXACT = dict(bodies.RAW, **{
    "no-final-newline": b"Subject: x\r\n\r\nlast line",
    "end-of-data": b"Subject: x\r\n\r\nsome\r\n.\r\nmore\r\n.\r\nQUIT\r\n",
    "only-an-end": b"\r\n.\r\n",
    "lookalikes": b"Subject: x\r\n\r\na\n.\nb\r.\rc\n.\r\nd\r\n.\ne",
    "binary": b"Subject: x\r\n\r\n" + bytes(range(256)) * 40,
    "stuffed": b"Subject: x\r\n\r\n..\r\n...\r\n",
})


def usual(t, up, size, pipelined, few):
    rp = t.ringpost(up)
    c = RawClient(t, port_of(rp))
    c.ehlo()
    sent = {n: b for n, b in few.items() if len(b) // size < 3000}
    for name, content in sent.items():
        c.bdat(name + "@x.test", ["to@rcpt.test"], content, size, pipelined)
    c.quit()
    got = up.by_sender(len(sent), 10)
    for name, content in sent.items():
        t.equal(got[name.encode() + b"@x.test"].content, content, "the body " + name)
    t.until(lambda: len(rp.records("transaction", body="bdat", result="accepted")) == len(sent), "the records")


@cases(CHUNKS, timeout=40)
def to_the_sink(t, how):
    usual(t, servers.Sink(t), how[0], how[1], dict(bodies.USUAL, **EXACT))


@cases(CHUNKS, timeout=40)
def to_postfix(t, how):
    usual(t, servers.Postfix(t), how[0], how[1], bodies.USUAL)


@cases({"copy": "copy", "splice": "splice", "ring-splice": "ring-splice", "zero-copy": "zero-copy"}, timeout=60)
def twenty_megabytes(t, mover):
    up = servers.Sink(t)
    rp = t.ringpost(up, up={"mover": mover})
    content = bodies.big(BIG)[:-2] + b"\0\r"
    c = RawClient(t, port_of(rp))
    c.ehlo()
    c.bdat("whole", ["to@rcpt.test"], content, BIG, False, b" BODY=BINARYMIME")
    c.bdat("parts", ["to@rcpt.test"], content, 300001, True, b" BODY=BINARYMIME")
    c.quit()
    for sender, m in up.by_sender(2, 20).items():
        t.equal(m.content, content, "the body %s" % sender)


@test(timeout=30)
def empty_last_chunk(t):
    up = servers.Sink(t)
    rp = t.ringpost(up)
    c = RawClient(t, port_of(rp))
    c.ehlo()
    c.say(c.envelope("a@x.test", ["b@y.test"]) + b"BDAT 5\r\nhelloBDAT 0\r\nBDAT 2\r\n\r\nBDAT 0 LAST\r\n", *[b"250"] * 6)
    c.quit()
    t.equal(up.wait(1)[0].content, b"hello\r\n", "the body")


@test(timeout=30)
def refused_by_postfix(t):
    """The only recipient is refused, the chunks are on their way: Postfix swallows them, and so do we."""
    up = servers.Postfix(t, main={"smtpd_recipient_restrictions":
                                  "check_recipient_access inline:{{no@rcpt.test=REJECT}}"})
    rp = t.ringpost(up)
    c = RawClient(t, port_of(rp))
    c.ehlo()
    poison = b"RSET\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<to@rcpt.test>\r\nDATA\r\n.\r\n"
    c.say(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<no@rcpt.test>\r\nBDAT %d\r\n%sBDAT %d LAST\r\n%s"
          % (len(poison), poison, len(poison), poison), b"250", b"554 5.7.1", b"5", b"5")
    c.say(b"RSET\r\n", b"250")
    c.bdat("good@x.test", ["to@rcpt.test"], bodies.USUAL["plain"], 10, True)
    c.quit()
    t.equal([m.sender for m in up.wait(1, 10)], [b"good@x.test"], "what Postfix took")


@cases({"smtp-sink": (servers.SmtpSink, {}), "sink": (lambda t: servers.Sink(t, "--no-chunking"), {}),
        "postfix-without": (lambda t: servers.Postfix(t, main={"smtpd_discard_ehlo_keywords": "chunking"}), {}),
        "postfix-stripped": (servers.Postfix, {"extensions": {"CHUNKING": "strip"}})}, timeout=30)
def no_command_hides_in_a_chunk(t, how):
    """A server that does not offer CHUNKING would take the octets of a chunk for commands, behind the back of the
    rules. Nothing of the chunk may be executed."""
    server, listener = how
    up = server(t)
    rp = t.ringpost(up, listener=dict(listener, hooks=["deny"]),
                    conf={"hooks": {"deny": {"type": "rules", "reject-recipients": ["@blocked.test"]}}})
    c = RawClient(t, port_of(rp))
    t.check(b"CHUNKING" not in c.ehlo(), "CHUNKING is offered")
    hidden = b"RSET\r\nMAIL FROM:<evil@x.test>\r\nRCPT TO:<to@blocked.test>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\n"
    c.say(c.envelope("a@x.test", ["b@y.test"]), b"250", b"250")
    c.say(b"BDAT %d LAST\r\n%s" % (len(hidden), hidden), b"5")
    c.say(b"RSET\r\n", b"250")
    c.data("good@x.test", ["to@rcpt.test"], b"Subject: good\r\n\r\nlast\r\n.\r\n")
    c.quit()
    t.equal([m.sender for m in up.wait(1, 10)], [b"good@x.test"], "what the server took")


@cases({"ring-splice": "ring-splice", "zero-copy": "zero-copy", "auto": "auto"}, timeout=60, serial=True)
def replies_come_at_once(t, mover):
    """A server that answers a chunk the moment its last octet is there, while ringpost's threads wait for a CPU: the
    answer must not be taken for one that came before the chunk was sent."""
    up = servers.Sink(t, store=False)
    rp = t.ringpost(up, up={"mover": mover})
    content = bodies.octets(6000000, seed=3)
    failed = []

    def session(n):
        for i in range(16):
            try:
                c = RawClient(t, port_of(rp))
                c.ehlo()
                c.bdat("%d-%d@from.test" % (n, i), ["to@rcpt.test"], content, 90001, True)
                c.quit()
            except (Failure, OSError) as e:
                failed.append("session %d, message %d: %s" % (n, i, e))
                c.close()
    threads = [threading.Thread(target=session, args=(n,)) for n in range(3)]
    with servers.busy_cpus(t):
        for th in threads:
            th.start()
        for th in threads:
            th.join(50)
    t.equal(failed[:5], [], "of 48 messages these failed (%d)" % len(failed))
    stop, stats = rp.stop_now(), up.stats()
    t.equal(stop["upstream_bad_replies"], 0, "upstream_bad_replies")
    t.equal((stats["messages"], stats["bytes"]), (48, 48 * len(content)), "messages and octets in the sink")
