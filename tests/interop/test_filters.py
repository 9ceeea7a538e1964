# SPDX-License-Identifier: GPL-3.0-or-later
"""Real milters: rspamd, OpenDKIM, clamav-milter before clamd. What they say reaches the client, what they refuse does not
reach the server, what they change arrives there and nothing else is changed."""
import re

from kit import bodies, filters, servers
from kit.clients import RawClient, attempt, port_of
from lib.core import cases, test

HEADER = b"From: a@signed.test\r\nTo: to@rcpt.test\r\nX-Fold: one\r\n two\r\n\tthree\r\n"
PLAIN = HEADER + b"Subject: plain\r\n\r\nhello\r\n.\r\n..two\r\n"
HOWS = {"data": None, "bdat": 1000}
CHECKS = ("hold-end", "hold-all")
REFUSES = {"%s-%s" % (mode, how): (mode, HOWS[how]) for mode in CHECKS for how in HOWS}


def milter(daemon, mode="hold-all", **more):
    return dict({"type": "milter", "endpoint": daemon.endpoint, "mode": mode}, **more)


def hooked(t, up, **hooks):
    """ringpost that asks these, in this order."""
    return t.ringpost(up, listener={"hooks": list(hooks)}, conf={"hooks": hooks})


def subject(text):
    return HEADER + b"Subject: " + text + b"\r\nX-Taken: yes\r\n\r\nhello\r\n.dot\r\n"


def fields(content):
    """Its header fields, its body."""
    head, _, body = content.partition(b"\r\n\r\n")
    return re.split(rb"\r\n(?![ \t])", head), body


def send(t, rp, content, chunk=None, sender="a@from.test", rcpts=("to@rcpt.test",)):
    return attempt(t, port_of(rp), sender, rcpts, content, chunk)


def accepted(t, rp, content, chunk=None, **how):
    reply = send(t, rp, content, chunk, **how)
    t.equal((reply.step, reply.code), ("end", 250), "the reply %r" % reply)


def refused(t, rp, content, want, chunk=None, **how):
    """At the end of the message, with these words."""
    reply = send(t, rp, content, chunk, **how)
    t.equal((reply.step, "%d %s" % (reply.code, reply.text)), ("end", want), "the reply")


def only_this(t, rp, up, content):
    """A message passes, and nothing else has come to the server."""
    accepted(t, rp, content)
    t.equal([m.content for m in up.wait(1)], [content], "what came to the server")


# ---- rspamd ----

def added_by_rspamd(t, sent, got, more=()):
    """Nothing but rspamd's fields was added, nothing but X-Taken is gone."""
    was, body = fields(sent)
    now, now_body = fields(got)
    t.equal(now_body, body, "the body")
    kept = [f for f in was if not f.startswith(b"X-Taken:")]
    t.equal(now[:len(kept)], kept, "the fields that were there")
    new = {f.partition(b":")[0]: f.partition(b":")[2].strip() for f in now[len(kept):]}
    t.equal(len(new), len(now) - len(kept), "fields that came once, of %r" % now)
    t.check(new.pop(b"X-Spamd-Result", b"").startswith(b"default: False ["), "X-Spamd-Result in %r" % now)
    t.equal(new, {b"X-Rspamd-Server": b"rspamd.test", b"X-Mine": b"seen", **dict(more)}, "the new fields")


@cases({"data": (None, False), "bdat": (11, False), "port": (None, True)}, timeout=30)
def rspamd_changes_the_header(t, how):
    chunk, port = how
    up = servers.Sink(t)
    rp = hooked(t, up, spam=milter(filters.Rspamd(t, port=port)))
    spam = {b"X-Spam": b"Yes"}
    sent = [(subject(b"plain"), ()), (subject(b"very spammy"), spam), (PLAIN, ()),
            (HEADER + b"Subject: folded\r\n one\r\nX-Taken: 1\r\nX-Taken: 2\r\nX-Last: 3\r\n\r\n", ()),
            (b"From: a@b.test\r\nX-Body: " + bodies.USUAL["latin1"] + bodies.octets(200000, 3, b"abc. "), ())]
    rewritten = subject(b"please rewriteme now"), subject(b"[SPAM] please rewriteme now")
    for content in [content for content, _ in sent] + [rewritten[0]]:
        accepted(t, rp, content, chunk and max(chunk, len(content) // 50))
    got = [m.content for m in up.wait(len(sent) + 1)]
    for now, (content, more) in zip(got, sent):
        added_by_rspamd(t, content, now, more)
    added_by_rspamd(t, rewritten[1], got[-1])


@cases(REFUSES, timeout=30)
def rspamd_refuses_gtube(t, how):
    mode, chunk = how
    up = servers.Sink(t)
    rp = hooked(t, up, spam=milter(filters.Rspamd(t), mode))
    refused(t, rp, subject(b"x") + filters.GTUBE + b"\r\n", "554 5.7.1 Gtube pattern", chunk)
    refused(t, rp, filters.with_attachment(bytes(range(256)) * 2000, text=filters.GTUBE), "554 5.7.1 Gtube pattern",
            chunk and 100000)
    refused(t, rp, subject(b"comeback"), "451 4.7.1 come back later", chunk)
    for code in ("554", "451"):
        t.equal(rp.record("transaction", code=int(code)).get("reason"), "hook:spam", "the reason of %s in the log" % code)
    accepted(t, rp, PLAIN, chunk)
    got = up.wait(1)[0].content
    if mode == "hold-all":
        added_by_rspamd(t, PLAIN, got)
    else:
        t.equal(got, PLAIN, "the only message that came: nothing can be changed in this mode")


@cases(dict(zip(CHECKS, CHECKS)), timeout=30)
def a_refusal_in_the_middle_of_a_session(t, mode):
    """The session goes on: what comes behind a refused message is another message."""
    up = servers.Sink(t)
    rp = hooked(t, up, spam=milter(filters.Rspamd(t), mode))
    c = RawClient(t, port_of(rp))
    c.ehlo()
    for i in range(3):
        c.data("good%d@from.test" % i, ["to@rcpt.test"], PLAIN.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        c.data("bad%d@from.test" % i, ["to@rcpt.test"], PLAIN.replace(b"\r\n.", b"\r\n..") + filters.GTUBE + b"\r\n.\r\n",
               b"554")
    c.quit()
    t.equal(sorted(up.by_sender(3)), [b"good%d@from.test" % i for i in range(3)], "who came through")


# ---- OpenDKIM ----

SIGNED = dict({name: HEADER + bodies.USUAL[name] for name in
               ("plain", "dots", "only-dots", "dot-last", "no-text", "blank-lines", "spaces", "eight-bit", "latin1",
                "controls", "long-line", "looks-like-smtp", "medium")},
              two_megabytes=HEADER + bodies.big(2000000))


@cases(dict(HOWS, port=None), timeout=40)
def opendkim_signs(t, chunk):
    """The signature is on top, what is below is what was sent, and both belong together."""
    up = servers.Sink(t)
    sign = filters.OpenDkim(t, port=t.test.name.endswith("[port]"))
    rp = hooked(t, up, sign=milter(sign))
    for name, content in SIGNED.items():
        accepted(t, rp, content, chunk and max(chunk, len(content) // 50), sender=name + "@signed.test")
    got = up.by_sender(len(SIGNED), 10)
    for name, content in SIGNED.items():
        m = got[name.encode() + b"@signed.test"].content
        first = fields(m)[0][0]
        t.check(first.startswith(b"DKIM-Signature: v=1;"), "%s begins with %r" % (name, first))
        t.equal(m[len(first) + 2:], content, "what is below the signature of " + name)
    sign.verify(*[m.content for m in got.values()])


@test(timeout=30)
def opendkim_needs_to_hold(t):
    """In another mode it cannot add its field: it hangs up, and that is no message without a signature."""
    up = servers.Sink(t)
    sign = filters.OpenDkim(t)
    rp = hooked(t, up, sign=milter(sign, "hold-end"))
    reply = send(t, rp, SIGNED["plain"])
    t.equal(reply.code, 451, "the code of %r" % reply)
    t.equal(up.count(), 0, "messages at the server")


@cases(HOWS, timeout=30)
def rspamd_then_opendkim(t, chunk):
    """The second one sees and signs what the first one has made of the message."""
    up = servers.Sink(t)
    sign = filters.OpenDkim(t)
    rp = hooked(t, up, spam=milter(filters.Rspamd(t)), sign=milter(sign))
    sent = [subject(b"plain"), subject(b"rewriteme"), SIGNED["dots"], SIGNED["eight-bit"],
            HEADER + bodies.message("long") + bodies.octets(1500000, 9, b"abc. ")]
    for content in sent:
        accepted(t, rp, content, chunk and max(chunk, len(content) // 50))
    refused(t, rp, SIGNED["plain"] + filters.GTUBE + b"\r\n", "554 5.7.1 Gtube pattern", chunk)
    got = [m.content for m in up.wait(len(sent))]
    for m, content in zip(got, sent):
        signature = fields(m)[0][0]
        rest = m[len(signature) + 2:]
        t.check(b"X-Mine" in re.search(rb"[;\s]h=([^;]*);", signature).group(1), "X-Mine is not signed: %r" % signature)
        added_by_rspamd(t, content.replace(b"Subject: rewriteme", b"Subject: [SPAM] rewriteme"), rest)
    sign.verify(*got)
    t.equal(up.count(), len(sent), "messages at the server")


# ---- clamav-milter and clamd ----

INFECTED = "550 5.7.1 infected: Eicar-Test.UNOFFICIAL"


@cases(REFUSES, timeout=30)
def clamav_finds_eicar(t, how):
    mode, chunk = how
    up = servers.Sink(t)
    rp = hooked(t, up, virus=milter(filters.ClamavMilter(t), mode))
    attached = filters.with_attachment(filters.EICAR)
    t.check(filters.EICAR not in attached, "EICAR is not encoded")
    refused(t, rp, PLAIN + filters.EICAR + b"\r\n", INFECTED, chunk)
    refused(t, rp, attached, INFECTED, chunk)
    refused(t, rp, filters.with_attachment(b"x" * 600000 + b"\n" + filters.EICAR), INFECTED, chunk and 100000)
    clean = filters.with_attachment(bytes(range(256)) * 1000)
    accepted(t, rp, clean, chunk and 100000)
    accepted(t, rp, SIGNED["eight-bit"], chunk)
    t.equal([m.content for m in up.wait(2)], [clean, SIGNED["eight-bit"]], "what came to the server")


@test(timeout=30)
def clamav_adds_what_it_found(t):
    up = servers.Sink(t)
    rp = hooked(t, up, virus=milter(filters.ClamavMilter(t, header=True)))
    refused(t, rp, filters.with_attachment(filters.EICAR), INFECTED)
    sent = PLAIN.replace(b"Subject:", b"X-Virus-Status: forged\r\nSubject:")
    accepted(t, rp, sent)
    now, body = fields(up.wait(1)[0].content)
    was, was_body = fields(sent)
    t.equal(body, was_body, "the body")
    theirs = [f for f in now if f.startswith(b"X-Virus-")]
    t.equal([f for f in now if f not in theirs], [f for f in was if not f.startswith(b"X-Virus-")], "the other fields")
    t.equal(sorted(f.partition(b" ")[0] for f in theirs), [b"X-Virus-Scanned:", b"X-Virus-Status:"], "its fields")
    t.check(b"X-Virus-Status: Clean" in theirs, "its fields are %r" % theirs)


@cases({"%s-%s" % (mode, word): (mode, word) for mode in CHECKS for word in ("reject", "tempfail", "discard", "accept")},
       timeout=30)
def clamav_wants_it_put_aside(t, how):
    """Its default: quarantine. What that means is configured."""
    mode, word = how
    up = servers.Sink(t)
    rp = hooked(t, up, virus=milter(filters.ClamavMilter(t, infected="Quarantine"), mode, quarantine=word))
    eicar = filters.with_attachment(filters.EICAR)
    reply = send(t, rp, eicar)
    t.equal((reply.step, reply.code // 100), ("end", {"reject": 5, "tempfail": 4}.get(word, 2)), "the reply %r" % reply)
    accepted(t, rp, PLAIN)
    t.equal([m.content for m in up.wait(1 + (word == "accept"))], [eicar] * (word == "accept") + [PLAIN],
            "what came to the server")


@cases(dict(zip(CHECKS, CHECKS)), timeout=30)
def clamav_without_clamd(t, mode):
    """Its own word for it is a tempfail: that stands whatever on-failure is, since it is an answer."""
    up = servers.Sink(t)
    virus = filters.ClamavMilter(t)
    rp = hooked(t, up, virus=milter(virus, mode, **{"on-failure": "accept"}))
    only_this(t, rp, up, PLAIN)
    virus.clamd.kill()
    reply = send(t, rp, PLAIN)
    t.equal(reply.code // 100, 4, "the class of %r" % reply)
    t.equal(up.count(), 1, "messages at the server")
