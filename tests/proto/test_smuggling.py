# SPDX-License-Identifier: GPL-3.0-or-later
"""Ends of data in every spelling, before the worst server that could stand behind a proxy.

The sloppy AutoServer takes any line end around a dot for the end of the message and executes what
follows. Whatever is sent through ringpost as one body must never become two messages, nor a message
without its rest, in the modes guard, reject and normalize; every spelling, every split in two.
"""
import itertools

from lib.core import cases, test
from lib.smtp import (CAPS, EHLO, GREETING, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, ehlo_reply, message,
                      no_end_seen, opened, pair, quit_, relinked, step)

ENDS = {"CR": b"\r", "LF": b"\n", "CRLF": b"\r\n"}
MANY_ERRORS = {"errors": 1000000, "soft-errors": 1000000, "junk": 1000000}


def spellings():
    out = {}
    for (a, x), (b, y) in itertools.product(ENDS.items(), ENDS.items()):
        if (a, b) != ("CRLF", "CRLF"):
            out["%s.%s" % (a, b)] = x + b"." + y
    for name, text in (("CRLF.0CRLF", b"\r\n.\0\r\n"), ("CRLF0.CRLF", b"\r\n\0.\r\n"), ("CRLF.CR0LF", b"\r\n.\r\0\n"),
                       ("CR0LF.CRLF", b"\r\0\n.\r\n"), ("LF.0LF", b"\n.\0\n"), ("LF0.LF", b"\n\0.\n"), ("CR.0CR", b"\r.\0\r"),
                       ("0LF.LF0", b"\0\n.\n\0"), ("CRLF0.0CRLF", b"\r\n\0.\0\r\n"), ("LF00.CRLF", b"\n\0\0.\r\n"),
                       ("CRLF.000LF", b"\r\n.\0\0\0\n"), ("CRCR.CR", b"\r\r.\r"), ("LFLF.LF", b"\n\n.\n"),
                       ("LFCR.LFCR", b"\n\r.\n\r"), ("CRLF.CRCRLF", b"\r\n.\r\r\n"), ("CRLF.LFCR", b"\r\n.\n\r")):
        out[name] = text
    return out


SPELLINGS = spellings()
EVIL = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@y.test>\r\nDATA\r\nsecond message\r\n"
AT_START = {k: v.lstrip(b"\r\n") for k, v in SPELLINGS.items() if k in ("LF.LF", "LF.CR", "CRLF.LF", "LF.0LF", "LF0.LF")}


def bodies(spelling):
    """The spelling in mid-body, and right before the true end."""
    yield b"Subject: x\r\n\r\nfirst" + spelling + EVIL + b".\r\n"
    yield b"x" + spelling + b"\r\n.\r\n"


def try_body(t, rp, srv, body, cuts, state):
    """One transaction in the session of `state`, its body cut at `cuts`; then the server's view."""
    c = state.get("c")
    if c is None:
        c = state["c"] = rp.client()
        c.reply(b"220")
        c.send(EHLO)
        c.reply(b"250")
    taken, seen = len(srv.messages), len(srv.commands)
    c.send(MAIL + RCPT + b"DATA\r\n")
    c.replies(b"250", b"250", b"354")
    c.send_split(body, *cuts)
    final = c.reply()
    c.send(b"NOOP\r\n")
    c.reply(b"250")
    judge(t, final, body, srv.messages[taken:], srv.commands[seen:])


def judge(t, final, body, messages, commands):
    for m in messages:
        t.check(b"evil" not in m.sender, "a second message came out: %r" % (m.sender,))
    for line in commands:
        t.check(b"evil" not in line and b"victim" not in line and b"second" not in line, "a smuggled command ran: %r" % line)
    if final.startswith(b"2"):
        t.check(len(messages) == 1, "%d messages for one 250" % len(messages))
        # All of the body is in it: an end in the middle would have cut it.
        want = body.count(b"second message")
        t.equal(messages[0].body.count(b"second message"), want, "the whole body, in %r" % messages[0].body)
    else:
        t.check(final.startswith(b"550 5.5.2"), "the final reply: %r" % final)
        t.check(not messages, "refused, but the server took %r" % [m.body for m in messages])


def every_split(t, mode, spelling_list):
    srv = t.auto(sloppy=True)
    rp = t.ringpost(srv, listener={"bare-newlines": mode, "limits": MANY_ERRORS})
    state = {}
    for name, spelling in spelling_list:
        for body in bodies(spelling):
            at = body.index(spelling)
            near = range(max(1, at - 1), min(len(body), at + len(spelling) + 3))
            for cuts in [(p,) for p in range(len(body))] + list(itertools.combinations(near, 2)):
                t.round("%s: %s cut at %r: %r" % (mode, name, cuts, body))
                try_body(t, rp, srv, body, cuts, state)
    rp.no_record("in-doubt")


@cases({"%s,%d" % (m, i): (m, i) for m in ("guard", "reject", "normalize") for i in range(2)}, timeout=120)
def every_spelling_every_split(t, case):
    mode, half = case
    every_split(t, mode, list(SPELLINGS.items())[half::2])


@test(quick=True)
def every_spelling_is_refused_by_guard(t):
    t.check(len(SPELLINGS) >= 18, "%d spellings" % len(SPELLINGS))
    srv = t.auto(sloppy=True)
    rp = t.ringpost(srv, listener={"limits": MANY_ERRORS})
    state = {}
    for name, spelling in SPELLINGS.items():
        for body in bodies(spelling):
            t.round("%s: %r" % (name, body))
            try_body(t, rp, srv, body, (), state)
            if body.endswith(EVIL + b".\r\n"):
                t.check(not srv.messages, "guard must refuse %s" % name)
    stop = rp_counters(rp, state)
    t.check(stop["smuggling_refused"] >= len(SPELLINGS), "counter: %r" % stop["smuggling_refused"])


def rp_counters(rp, state):
    state["c"].close()
    return rp.stop_now()


@test(quick=True)
def at_the_start_of_the_body(t):
    srv = t.auto(sloppy=True)
    for mode in ("guard", "reject", "normalize"):
        rp = t.ringpost(srv, listener={"bare-newlines": mode, "limits": MANY_ERRORS})
        state = {}
        for name, start in AT_START.items():
            body = start + EVIL + b".\r\n"
            for cut in range(0, len(start) + 2):
                t.round("%s: %s at the start, cut at %d" % (mode, name, cut))
                try_body(t, rp, srv, body, (cut,), state)
        state["c"].close()


@test(quick=True)
def octet_by_octet(t):
    srv = t.auto(sloppy=True)
    rp = t.ringpost(srv, listener={"limits": MANY_ERRORS})
    for name in ("LF.LF", "LF.CRLF", "CRLF.LF", "CR.CR", "CRLF.CR", "CRLF.CR0LF"):
        t.round(name)
        c = rp.client()
        c.reply(b"220")
        c.send(EHLO + MAIL + RCPT + b"DATA\r\n")
        c.replies(b"250", b"250", b"250", b"354")
        taken, seen = len(srv.messages), len(srv.commands)
        body = next(bodies(SPELLINGS[name]))
        c.send_octets(body)
        final = c.reply()
        judge(t, final, body, srv.messages[taken:], srv.commands[seen:])
        c.close()


@test(quick=True)
def guard_what_the_upstream_sees(t):
    """Up to the lookalike, not its last octet, and then the end of the connection without a dot."""
    up = t.upstream()
    rp = t.ringpost(up, listener={"limits": MANY_ERRORS})
    c, u = opened(t, rp, up)
    for n, (name, spelling) in enumerate(SPELLINGS.items()):
        t.round(name)
        data_open(c, u)
        body = b"first" + spelling + EVIL + b".\r\n"
        c.send(body)
        c.expect(b"550 5.5.2 line ends in the message are not CR LF, refused\r\n") if n == 0 else c.reply(b"550 5.5.2")
        got = u.rest()
        t.check(body.startswith(got) and len(got) < 5 + len(spelling), "the upstream got %r" % got)
        no_end_seen(u, got)
        u.close()
        u = relinked(up, c)
    message(c, u)
    rec = rp.record("transaction")
    t.equal((rec["result"], rec["by"], rec["code"], rec["enhanced"]), ("rejected", "ringpost", 550, "5.5.2"), "record")


@test(quick=True)
def guard_next_transaction_in_the_same_segment(t):
    """The next group stands right behind the true end: it is carried over to the new link."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(b"x\n.\ny\r\n.\r\n" + MAIL + RCPT + b"DATA\r\n")
    u.rest()
    u2 = up.accept()
    u2.send(GREETING).expect(EHLO).send(ehlo_reply())
    u2.expect(MAIL + RCPT + b"DATA\r\n").send(OK_MAIL + OK_RCPT + b"354 go\r\n")
    c.reply(b"550 5.5.2")
    c.expect(OK_MAIL + OK_RCPT + b"354 go\r\n")
    c.send(b"good\r\n.\r\n")
    u2.expect(b"good\r\n.\r\n").send(TAKEN)
    c.expect(TAKEN)
    quit_(c, u2)


@test(quick=True)
def after_a_refusal_the_envelope_is_empty(t):
    """The bug of 2004: RCPT and DATA behind the refused end must not find the old sender."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(b"x\n.\ny\r\n.\r\n" + RCPT + b"DATA\r\nBDAT 3 LAST\r\nabcBDAT 0 LAST\r\n")
    c.reply(b"550 5.5.2")
    for _ in range(4):
        c.reply(b"503 5.5.1")
    no_end_seen(u, u.rest())
    up.nobody()


@test(quick=True)
def quit_after_a_refusal(t):
    rp, up, c, u = pair(t)
    up.any_number = True
    data_open(c, u)
    c.send(b"x\n.\ny\r\n.\r\nQUIT\r\n")
    u.rest()
    c.reply(b"550 5.5.2")
    if up.waiting(0.3):
        u2 = up.accept()
        u2.send(GREETING).expect(EHLO).send(ehlo_reply()).expect(b"QUIT\r\n").send(b"221 2.0.0 bye\r\n")
    c.reply(b"221")
    c.ended()


DIFFERENT = {
    "less": (GREETING, ehlo_reply(CAPS[:-1])),
    "more": (GREETING, ehlo_reply(CAPS + (b"SMTPUTF8",))),
    "size": (GREETING, ehlo_reply(CAPS + (b"SIZE 10",))),
    "refused-ehlo": (GREETING, b"502 5.5.1 no\r\n"),
    "bad-greeting": (b"554 5.7.1 no\r\n", None),
    "busy": (b"421 4.3.2 busy\r\n", None),
}


@cases(DIFFERENT, quick=True)
def a_new_link_that_differs_ends_the_session(t, case):
    greeting, reply = case
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(b"x\n.\ny\r\n.\r\n")
    u.rest()
    c.reply(b"550 5.5.2")
    c.send(MAIL)
    u2 = up.accept()
    u2.send(greeting)
    if reply is not None:
        u2.expect(EHLO).send(reply)
    c.reply(b"421 4.")
    c.ended()
    t.check(b"MAIL" not in u2.rest(), "the command went to the new link")


@test(quick=True)
def a_new_link_that_cannot_be_had(t):
    rp, up, c, u = pair(t, up={"timeouts": {"connect": "400ms"}})
    data_open(c, u)
    up.stop_listening()
    c.send(b"x\n.\ny\r\n.\r\n")
    u.rest()
    c.reply(b"550 5.5.2")
    c.send(MAIL)
    c.reply(b"4")
    c.ignore_rest = True


@test(quick=True)
def a_new_link_after_helo(t):
    up = t.upstream()
    rp = t.ringpost(up)
    c = rp.client()
    u = up.accept()
    u.send(GREETING)
    c.expect(GREETING)
    step(c, u, b"HELO client.test\r\n", b"250 up.test\r\n")
    data_open(c, u)
    c.send(b"x\n.\ny\r\n.\r\n")
    u.rest()
    c.reply(b"550 5.5.2")
    c.send(MAIL)
    u2 = up.accept()
    u2.send(GREETING).expect(b"HELO client.test\r\n").send(b"250 up.test\r\n")
    u2.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)


STRAYS = [b"a\nb", b"a\rb", b"\n", b"\r", b"\n\n", b"\r\r", b"\n\r", b"a\n..b", b"a\n.b", b"a\r.b", b"\n..\n", b".\0x", b"\0", b"\0\0\0",
          b"a\r\r\n", b"a\n\r\n", b"tail\r", b"tail\n", b"mix\r\n\n\r\r\n\n"]


@test(quick=True)
def guard_leaves_other_strays_alone(t):
    """Real mail has them, and signatures count them: byte for byte."""
    rp, up, c, u = pair(t)
    for s in STRAYS:
        for body in (b"x" + s + b"y\r\n.\r\n", b"x\r\n" + s + b"y\r\n.\r\n"):
            t.round(body)
            data_open(c, u)
            c.send(body)
            u.expect(body).send(TAKEN)
            c.expect(TAKEN)
    c.close()
    stop = rp.stop_now()
    t.check(stop["bare_lf"] > 0 and stop["bare_cr"] > 0 and stop["nul_octets"] > 0, "strays are counted: %r" % stop)


@test(timeout=60)
def guard_strays_in_every_split(t):
    rp, up, c, u = pair(t)
    for s in STRAYS:
        body = b"x" + s + b"y\r\n.\r\n"
        for cut in range(1, len(body)):
            t.round("%r cut at %d" % (body, cut))
            data_open(c, u)
            c.send_split(body, cut)
            u.expect(body).send(TAKEN)
            c.expect(TAKEN)


@test(quick=True)
def reject_refuses_every_stray(t):
    up = t.upstream()
    rp = t.ringpost(up, listener={"bare-newlines": "reject", "limits": MANY_ERRORS})
    c, u = opened(t, rp, up)
    for s in STRAYS:
        if b"\r" not in s.replace(b"\r\n", b"") and b"\n" not in s.replace(b"\r\n", b""):
            continue
        t.round(s)
        data_open(c, u)
        c.send(b"x" + s + b"y\r\n.\r\n")
        c.reply(b"550 5.5.2")
        no_end_seen(u, u.rest())
        u = relinked(up, c)
    message(c, u)


NORMALIZED = {b"a\nb": b"a\r\nb", b"a\rb": b"a b", b"a\n\nb": b"a\r\n\r\nb", b"a\n.b": b"a\r\n..b", b"a\r.b": b"a .b", b"a\n..b": b"a\r\n...b",
              b"a\r\r\nb": b"a \r\nb", b"a\r\nb": b"a\r\nb", b"a\r\n..b": b"a\r\n..b", b"\n": b"\r\n", b"a\n\rb": b"a\r\n b"}


@test(quick=True)
def normalize_rewrites(t):
    """Bare LF becomes CRLF, bare CR a space; a dot that so comes to the start of a line is doubled."""
    rp, up, c, u = pair(t, listener={"bare-newlines": "normalize"})
    for before, after in NORMALIZED.items():
        for cut in range(0, len(before) + 2):
            t.round("%r cut at %d" % (before, cut))
            data_open(c, u)
            c.send_split(b"x" + before + b"y\r\n.\r\n", cut)
            u.expect(b"x" + after + b"y\r\n.\r\n").send(TAKEN)
            c.expect(TAKEN)


@test(quick=True)
def normalize_with_a_strict_server_is_one_message(t):
    srv = t.auto()
    rp = t.ringpost(srv, listener={"bare-newlines": "normalize", "limits": MANY_ERRORS})
    state = {}
    for name, spelling in SPELLINGS.items():
        t.round(name)
        try_body(t, rp, srv, next(bodies(spelling)), (), state)


@test(quick=True)
def pass_passes(t):
    rp, up, c, u = pair(t, listener={"bare-newlines": "pass"})
    for name, spelling in SPELLINGS.items():
        t.round(name)
        body = b"first" + spelling + EVIL + b".\r\n"
        data_open(c, u)
        c.send(body)
        u.expect(body).send(TAKEN)
        c.expect(TAKEN)


@test(quick=True)
def bdat_is_not_searched(t):
    rp, up, c, u = pair(t, listener={"bare-newlines": "reject"})
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    data = b"".join(SPELLINGS.values())
    step(c, u, b"BDAT %d LAST\r\n" % len(data) + data, TAKEN)


@test(quick=True)
def bare_line_ends_in_commands_smuggle_nothing(t):
    srv = t.auto(sloppy=True)
    rp = t.ringpost(srv, listener={"limits": MANY_ERRORS})
    c = rp.client()
    c.send(EHLO)
    c.replies(b"220", b"250")
    for line in (b"NOOP\nMAIL FROM:<evil@x.test>\r\n", b"NOOP\rMAIL FROM:<evil@x.test>\r\n", b"NOOP x\n\r\n", b"NOOP \0\r\n",
                 b"VRFY a\r\r\n", b"MAIL FROM:<a@b>\rRCPT TO:<evil@x>\r\n", b"EHLO x\rMAIL FROM:<evil@x.test>\r\n"):
        t.round(line)
        seen = len(srv.commands)
        c.send(line)
        c.reply(b"500 5.5.2")
        c.send(b"RSET\r\n")
        got = c.reply()
        while not got.startswith(b"250 2.0.0 ok"):
            got = c.reply()
        for cmd in srv.commands[seen:]:
            t.check(cmd in (b"RSET", b"MAIL FROM:<evil@x.test>"), "went through: %r" % cmd)
        if b"\n" not in line[:-2]:
            t.equal(srv.commands[seen:], [b"RSET"], "what the server saw")


@test(quick=True)
def early_reply_and_lookalike(t):
    """Both in one body: the upstream's word came first; no end is seen either way."""
    rp, up, c, u = pair(t)
    data_open(c, u)
    c.send(b"first\r\n")
    u.expect(b"first")
    u.send(b"552 5.3.4 too big\r\n").settle()
    c.send(b"x\n.\n" + EVIL + b".\r\n")
    got = c.reply(b"55")
    t.check(got.startswith((b"552 5.3.4", b"550 5.5.2")), "final reply %r" % got)
    no_end_seen(u, b"first" + u.rest())
