# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers of Postfix's policy delegation: postgrey and postfwd."""
import time

from kit import bodies, filters, servers
from kit.clients import RawClient, attempt, port_of
from lib.core import cases, test

CONTENT = bodies.USUAL["dots"]
PLACES = {"unix": False, "port": True}


def policy(daemon, **more):
    return dict({"type": "policy", "endpoint": daemon.endpoint}, **more)


def hooked(t, up, **hooks):
    return t.ringpost(up, listener={"hooks": list(hooks)}, conf={"hooks": hooks})


def send(t, rp, rcpts, sender="a@from.test", content=CONTENT, chunk=None):
    return attempt(t, port_of(rp), sender, rcpts, content, chunk)


def says(t, reply, step, code, enhanced, words):
    t.equal((reply.step, reply.code, reply.text[:6]), (step, code, enhanced + " "), "the reply %r" % reply)
    t.check(words in reply.text, "%r in the reply %r" % (words, reply))


# ---- postgrey ----

@cases(PLACES, timeout=30)
def postgrey_lets_the_second_attempt_pass(t, port):
    up = servers.Sink(t)
    rp = hooked(t, up, grey=policy(filters.Postgrey(t, port=port)))
    for sender in ("a@from.test", "b@from.test"):
        says(t, send(t, rp, ["to@rcpt.test"], sender), "rcpt", 450, "4.2.0", "Greylisted")
    t.equal(up.count(), 0, "messages at the server")

    def passes():
        reply = send(t, rp, ["to@rcpt.test"])
        time.sleep(0 if reply.code == 250 else 0.2)
        return reply.code == 250
    t.until(passes, "the second attempt passes", 10)
    says(t, send(t, rp, ["other@rcpt.test"]), "rcpt", 450, "4.2.0", "Greylisted")
    m = up.wait(1)[0].content
    first, _, rest = m.partition(b"\r\n")
    t.check(first.startswith(b"X-Greylist: delayed ") and b" by postgrey-" in first, "the first line is %r" % first)
    t.equal(rest, CONTENT, "what is below it")
    t.equal(send(t, rp, ["to@rcpt.test"]).code, 250, "the reply to the third attempt")
    t.equal(up.wait(2)[1].content, CONTENT, "what came third: once it has waited there is no header any more")


# ---- postfwd ----

REPLIES = {
    "refused": (554, "5.7.1", "not at this address"),
    "coded": (554, "5.7.0", "rule with a code"),
    "later": (450, "4.7.1", "not just now"),
    "if": (450, "4.7.1", "not just now"),
    "gone": (421, "4.3.2", "going down"),
}


@cases(PLACES, timeout=30)
def postfwd_answers(t, port):
    up = servers.Sink(t)
    rp = hooked(t, up, fw=policy(filters.Postfwd(t, port=port)))
    for name, want in REPLIES.items():
        says(t, send(t, rp, [name + "@rcpt.test"]), "rcpt", *want)
        t.equal(rp.record("transaction", code=want[0]).get("reason") if name == "refused" else "hook:fw", "hook:fw",
                "the reason in the log")
    says(t, send(t, rp, ["to@rcpt.test"], "bad@from.test"), "rcpt", 554, "5.7.1", "not from there")
    t.equal(up.count(), 0, "messages at the server")
    for name in ("ok", "to"):
        t.equal(send(t, rp, [name + "@rcpt.test"], name + "@from.test").code, 250, "the reply to " + name)
    t.equal([m.content for m in up.wait(2)], [CONTENT] * 2, "what came to the server")


@cases({"data": None, "bdat": 7}, timeout=30)
def postfwd_prepends(t, chunk):
    up = servers.Sink(t)
    rp = hooked(t, up, fw=policy(filters.Postfwd(t)))
    sent = {name: bodies.USUAL[name] for name in ("dots", "no-text", "long-line", "medium")}
    for name, content in sent.items():
        t.equal(send(t, rp, ["header@rcpt.test"], name + "@from.test", content, chunk and max(
            chunk, len(content) // 50)).code, 250, "the reply to " + name)
    for m, (name, content) in zip(up.wait(len(sent)), sent.items()):
        t.equal(m.content, b"X-Postfwd: 127.0.0.1 %s@from.test ESMTP\r\n" % name.encode() + content, "the message " + name)


@test(timeout=30)
def postfwd_judges_each_recipient(t):
    """A refused recipient does not touch the others; the header of one belongs to the message, not to the next one."""
    up = servers.Sink(t)
    rp = hooked(t, up, fw=policy(filters.Postfwd(t)))
    c = RawClient(t, port_of(rp))
    c.ehlo()
    c.say(c.envelope("a@from.test", ["refused@rcpt.test", "ok@rcpt.test", "later@rcpt.test", "header@rcpt.test"]) +
          b"DATA\r\n", b"250", b"554", b"250", b"450", b"250", b"354")
    c.say(b"Subject: one\r\n\r\n1\r\n.\r\n", b"250")
    c.data("b@from.test", ["to@rcpt.test"], b"Subject: two\r\n\r\n2\r\n.\r\n")
    c.quit()
    one, two = up.wait(2)
    t.equal(one.rcpts, [b"ok@rcpt.test", b"header@rcpt.test"], "recipients of the first message")
    t.equal(one.content, b"X-Postfwd: 127.0.0.1 a@from.test ESMTP\r\nSubject: one\r\n\r\n1\r\n", "the first message")
    t.equal(two.content, b"Subject: two\r\n\r\n2\r\n", "the second message")


@cases({"data": None, "bdat": 20000}, timeout=30)
def postfwd_at_other_events(t, chunk):
    up = servers.Sink(t)
    rp = hooked(t, up, fw=policy(filters.Postfwd(t), events=["connect", "ehlo", "mail", "rcpt", "data", "end-of-data"]))
    small, large = bodies.message("small", b"x" * 40000), bodies.message("large", b"x" * 60000)
    says(t, send(t, rp, ["to@rcpt.test"], "bad@from.test"), "mail", 554, "5.7.1", "not from there")
    three = ["%d@rcpt.test" % i for i in range(3)]
    says(t, send(t, rp, three, content=small, chunk=chunk), "end" if chunk else "data", 450, "4.5.3", "too many at once")
    says(t, send(t, rp, ["to@rcpt.test"], content=large, chunk=chunk), "end", 554, "5.7.1", "too much for now")
    t.equal(up.count(), 0, "messages at the server")
    t.equal(send(t, rp, three[1:], content=small, chunk=chunk).code, 250, "the reply to a small one")
    t.equal([m.content for m in up.wait(1)], [small], "what came to the server")
