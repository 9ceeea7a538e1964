# SPDX-License-Identifier: GPL-3.0-or-later
"""What hooks may change, see and throw away, and messages that are kept for them: the octets on both sides."""
import os
import random

from lib.core import cases, test
from lib.smtp import (BODY, GO, greet, hello, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, envelope, message, no_end_seen, opened, relinked, step)

NO_LIMIT = {"soft-errors": 1000, "errors": 1000}
RSET = b"RSET\r\n"
FLUSHED = b"250 2.0.0 flushed\r\n"
MADE = b"354 end data with <CR><LF>.<CR><LF>\r\n"
CHUNK = b"250 2.0.0 octets received\r\n"
GONE = b"250 2.0.0 message accepted\r\n"
RCPT2 = b"RCPT TO:<c@y.test>\r\n"


def put(t, name, text):
    path = os.path.join(t.path("scripts"), name + ".lua")
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.chmod(os.path.dirname(path), 0o755)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o644)
    return path


def scripted(t, *scripts, mode="hold-all", hold=None, listener=None, deadline="10s"):
    """A ringpost whose hooks are these scripts, in order: (ringpost, upstream)."""
    up = t.upstream()
    hooks = {}
    for i, text in enumerate(scripts):
        hooks["h%d" % i] = {"type": "lua", "file": put(t, "h%d" % i, text), "mode": mode, "deadline": deadline, "memory": "64m", "budget": "100m"}
    conf = {"hooks": hooks}
    if hold:
        conf["hold"] = hold
    lis = {"hooks": list(hooks), "limits": NO_LIMIT}
    lis.update(listener or {})
    return t.ringpost(up, listener=lis, conf=conf), up


PASSES = "function end_of_data(ev) end"
SEES_NOTHING = "function body(ev) end\n"


def ask_for_data(c, u, rcpts=(RCPT,)):
    step(c, u, MAIL, OK_MAIL)
    for r in rcpts:
        step(c, u, r, OK_RCPT)
    c.send(b"DATA\r\n")
    c.expect(MADE)


def delivered(c, u, content, first=b"DATA\r\n", reply=TAKEN):
    """The kept message goes up by DATA."""
    u.expect(first)
    u.send(GO)
    u.expect(content)
    u.send(reply)
    c.expect(reply)


def kept(c, u, body, want=None):
    ask_for_data(c, u)
    c.send(body)
    delivered(c, u, body if want is None else want)


# ---- keeping ----

@test(quick=True)
def nothing_leaves_before_the_verdict(t):
    rp, up = scripted(t, "function end_of_data(ev) ringpost.sleep(0.3) end")
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT)
    u.quiet()
    u.send(OK_MAIL + OK_RCPT)
    c.expect(OK_MAIL + OK_RCPT + MADE)
    c.send(BODY + b"NOOP\r\n")
    u.quiet()
    delivered(c, u, BODY)
    u.expect(b"NOOP\r\n").send(FLUSHED)
    c.expect(FLUSHED)
    message_record = rp.record("transaction", result="accepted", body="data")
    t.equal(message_record["bytes"], len(BODY) - 3, "octets")


@test(quick=True)
def octet_for_octet(t):
    """Dots, empty lines, stray line ends, NULs, no empty line, nothing at all; in one piece, split, by the octet."""
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    for body in (b".\r\n", b"\r\n.\r\n", b"..\r\n.\r\n", b"a: b\r\n.\r\n", b"no header\r\n..x\r\n.\r\n", b"s: x\r\n\r\nbare \r cr \n lf\r\n\x00\xff\r\n.\r\n",
                 b"..first: x\r\n\r\n...\r\n.\r\n"):
        t.round(repr(body))
        kept(c, u, body)
        ask_for_data(c, u)
        c.send_octets(body)
        delivered(c, u, body)
        for at in range(1, len(body)):
            ask_for_data(c, u)
            c.send_split(body, at)
            delivered(c, u, body)


@test(quick=True)
def refused_and_the_link_stays(t):
    rp, up = scripted(t, "function end_of_data(ev) if ev.bytes < 100 then return ringpost.reject('too short') end end")
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(BODY + MAIL)
    u.expect(RSET)
    u.send(FLUSHED)
    c.expect(b"550 5.7.1 too short\r\n")
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    c.send(b"DATA\r\n")
    c.expect(MADE)
    long = b"x" * 100 + b"\r\n.\r\n"
    c.send(long)
    delivered(c, u, long)
    t.equal(rp.record("transaction", result="rejected")["reason"], "hook:h0", "who")


@test(quick=True)
def the_server_refuses_data(t):
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(BODY)
    u.expect(b"DATA\r\n").send(b"554-5.6.0 not\r\n554 5.6.0 this one\r\n")
    c.expect(b"554-5.6.0 not\r\n554 5.6.0 this one\r\n")
    u.expect(RSET).send(FLUSHED)
    kept(c, u, BODY)
    rp.record("transaction", result="rejected", stage="data")


@test(quick=True)
def the_server_refuses_the_message(t):
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(BODY)
    delivered(c, u, BODY, reply=b"550 5.7.0 spam\r\n")
    kept(c, u, BODY)


@test(quick=True)
def the_server_speaks_in_mid_message(t):
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    big = b"x" * 78 + b"\r\n"
    body = big * 60000 + b".\r\n"
    ask_for_data(c, u)
    c.send_async(body)
    u.expect(b"DATA\r\n").send(GO)
    u.recv_exact(100000)
    u.send(b"552 5.3.4 enough\r\n")
    c.expect(b"552 5.3.4 enough\r\n")
    c.join_sender()
    t.check(not u.rest().endswith(b"\r\n.\r\n"), "no end of the message")
    u = relinked(up, c)
    kept(c, u, BODY)


@test(quick=True)
def nobody_left_to_get_it(t):
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + RCPT2 + b"DATA\r\n")
    u.expect(MAIL + RCPT + RCPT2)
    u.send(OK_MAIL + b"550 5.1.1 who\r\n" + b"450 4.2.1 later\r\n")
    c.expect(OK_MAIL + b"550 5.1.1 who\r\n" + b"450 4.2.1 later\r\n")
    c.reply(b"554 5.5.1")
    u.quiet()


@test(quick=True)
def mail_refused_ahead_of_it(t):
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT)
    u.send(b"550 5.7.1 no\r\n503 5.5.1 no\r\n")
    c.expect(b"550 5.7.1 no\r\n503 5.5.1 no\r\n")
    c.reply(b"503 5.5.1")
    kept(c, u, BODY)


@test(quick=True)
def the_link_is_lost_meanwhile(t):
    for when in ("body", "verdict", "data", "content"):
        t.round(when)
        rp, up = scripted(t, "function end_of_data(ev) ringpost.sleep(0.3) end")
        c, u = opened(t, rp, up)
        ask_for_data(c, u)
        if when == "body":
            c.send(b"s: x\r\n\r\n")
            u.reset()
            c.send(b"y\r\n.\r\n")
        else:
            c.send(BODY)
        if when == "verdict":
            u.reset()
        elif when != "body":
            u.expect(b"DATA\r\n")
            if when == "content":
                u.send(GO)
                u.expect(BODY)
            u.reset()
        c.reply(b"451 4.4.2")
        u = relinked(up, c)
        kept(c, u, BODY)
        rp.record("transaction", result="in-doubt" if when == "content" else "aborted")


@test(quick=True)
def the_client_is_lost_meanwhile(t):
    for when in ("body", "verdict"):
        t.round(when)
        rp, up = scripted(t, "function end_of_data(ev) ringpost.sleep(0.5) end")
        c, u = opened(t, rp, up)
        ask_for_data(c, u)
        c.send(b"s: x\r\n" if when == "body" else BODY)
        if when == "verdict":
            u.quiet()
        c.reset()
        u.gone()
        rp.record("transaction", result="aborted")
        t.equal(rp.stop_now()["held_now"], 0, "messages that are kept still")


@test(quick=True)
def the_client_has_said_all_it_had_to_say(t):
    """A half-closed client still gets its reply."""
    rp, up = scripted(t, "function end_of_data(ev) ringpost.sleep(0.3) end")
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(BODY)
    c.half_close()
    delivered(c, u, BODY)
    c.ended()
    u.gone()


@test(quick=True)
def bare_newlines_are_refused(t):
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(b"x\n.\nMAIL FROM:<evil@x.test>\r\n.\r\n")
    c.reply(b"550 5.5.2")
    u.expect(RSET).send(FLUSHED)
    kept(c, u, BODY)


@cases({m: m for m in ("guard", "pass", "normalize", "reject")}, quick=True)
def the_end_in_pieces(t, newlines):
    rp, up = scripted(t, SEES_NOTHING + PASSES, listener={"bare-newlines": newlines})
    c, u = opened(t, rp, up)
    for body in (b".\r\n", b"\r\n.\r\n", b"..\r\n.\r\n", b"..x\r\n\r\n..\r\ny\r\n.\r\n"):
        t.round(repr(body))
        for at in range(1, len(body)):
            ask_for_data(c, u)
            c.send_split(body, at)
            delivered(c, u, body)


# ---- limits ----

@test(quick=True)
def too_long(t):
    rp, up = scripted(t, PASSES, hold={"message": "64k", "spill": "16k"})
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(b"x" * 70000 + b"\r\n.\r\n")
    c.reply(b"552 5.3.4")
    u.expect(RSET).send(FLUSHED)
    fits = b"x" * 65000 + b"\r\n.\r\n"
    kept(c, u, fits)
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    c.send(b"BDAT 70000 LAST\r\n" + b"x" * 70000)
    c.reply(b"552 5.3.4")
    u.expect(RSET).send(FLUSHED)


@test(quick=True)
def clients_are_told_what_can_be_kept(t):
    """By SIZE in the EHLO list, and at MAIL: nobody need send it first."""
    rp, up = scripted(t, PASSES, hold={"message": "64k", "spill": "16k"})
    c = rp.client()
    u = up.accept()
    greet(c, u)
    shown = hello(c, u, (b"PIPELINING", b"SIZE 100000000"))
    t.equal(shown[b"SIZE"], b"65536", "the size that is shown")
    c.send(b"MAIL FROM:<a@x.test> SIZE=70000\r\n")
    c.reply(b"552 5.3.4")


@test(quick=True)
def no_room(t):
    """Memory for little, no disk: what does not fit is refused at its end, and what fits goes on."""
    rp, up = scripted(t, PASSES, hold={"memory": "1m", "spill": "512k", "disk": 0, "message": "512k"})
    c, u = opened(t, rp, up)
    c2, u2 = opened(t, rp, up)
    ask_for_data(c, u)
    ask_for_data(c2, u2)
    c3, u3 = opened(t, rp, up)
    ask_for_data(c3, u3)
    for peer in (c, c2, c3):
        peer.send((b"x" * 78 + b"\r\n") * 5000)
        peer.settle()
    for peer in (c, c2, c3):
        peer.send(b".\r\n")
    outcomes = [outcome(t, *pair) for pair in ((c, u), (c2, u2), (c3, u3))]
    t.equal(sorted(outcomes), [b"250", b"250", b"452"], "one of three found no room")
    kept(c, u, BODY)
    kept(c2, u2, BODY)
    for peer in (c, c2, c3):
        peer.close()
    stop = rp.stop_now()
    t.equal((stop["limit_hold"], stop["held_now"]), (1, 0), "counted")


def outcome(t, c, u):
    """Of a kept message: what the upstream was told decides what the client hears."""
    line = u.line()
    if line == b"DATA\r\n":
        u.send(GO)
        while not u.line() == b".\r\n":
            pass
        u.send(TAKEN)
        c.expect(TAKEN)
        return b"250"
    t.equal(line, RSET, "what the upstream is told")
    u.send(FLUSHED)
    return c.reply()[:3]


@test(quick=True)
def no_directory(t):
    where = t.path("spools")
    os.makedirs(where, exist_ok=True)
    os.chmod(where, 0o777)
    rp, up = scripted(t, PASSES, hold={"spill": "16k", "directory": where})
    c, u = opened(t, rp, up)
    kept(c, u, b"x" * 100000 + b"\r\n.\r\n")
    os.rmdir(where)
    ask_for_data(c, u)
    c.send(b"x" * 100000 + b"\r\n.\r\n")
    c.reply(b"451 4.3.0")
    u.expect(RSET).send(FLUSHED)
    kept(c, u, BODY)


@test(quick=True)
def no_room_for_a_made_body(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:replace_body(string.rep('x', 3000000)) end",
                      hold={"memory": "1m", "spill": "512k", "disk": 0, "message": "512k"})
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(BODY)
    c.reply(b"452 4.3.1")
    u.expect(RSET).send(FLUSHED)
    c.close()
    u.gone()
    t.equal(rp.stop_now()["limit_hold"], 1, "counted")


@cases({"data": b"DATA\r\n", "bdat": b""}, quick=True)
def a_header_that_is_too_long_to_be_changed(t, data):
    rp, up = scripted(t, "function mail(ev) ev:add_header('X', 'y') end\n" + PASSES, hold={"spill": "16k"})
    c, u = opened(t, rp, up)
    long = b"".join(b"H%d: %s\r\n" % (i, b"x" * 70) for i in range(300)) + b"\r\nbody\r\n"
    if data:
        ask_for_data(c, u)
        c.send(long + b".\r\n")
    else:
        envelope(c, u)
        c.send(b"BDAT %d LAST\r\n" % len(long) + long)
    c.reply(b"451 4.3.0")
    u.expect(RSET).send(FLUSHED)
    rp.record("transaction", result="rejected", reason="change-failed")
    kept(c, u, BODY, b"X: y\r\n" + BODY)


@test(quick=True)
def what_is_refused_makes_room(t):
    """While its client still sends, or thinks about what to say next."""
    rp, up = scripted(t, PASSES, hold={"memory": "1m", "spill": "512k", "disk": 0, "message": "512k"})
    pairs = [opened(t, rp, up) for _ in range(2)]
    big = (b"x" * 78 + b"\r\n") * 5000
    for c, u in pairs:
        ask_for_data(c, u)
        c.send(big)
        c.settle()
        c.send(big)
        c.settle()
    c, u = opened(t, rp, up)
    kept(c, u, big + b".\r\n")
    for c, u in pairs:
        c.send(b".\r\n")
        c.reply(b"552 5.3.4")
        u.expect(RSET).send(FLUSHED)
        # By BDAT the transaction stays until the client says something.
        envelope(c, u)
        c.send(b"BDAT %d\r\n" % len(big) + big)
        c.expect(CHUNK)
        c.send(b"BDAT %d\r\n" % len(big) + big)
        c.reply(b"552 5.3.4")
        u.expect(RSET).send(FLUSHED)
    c, u = opened(t, rp, up)
    kept(c, u, big + b".\r\n")
    rp.record("transaction", count=2, result="accepted")


@test(quick=True)
def spilled(t):
    """5 MB with dots at line starts, in odd pieces, through the file: octet for octet, also behind a changed header."""
    rnd = random.Random(7)
    lines = b"".join(rnd.choice((b"", b"..", b"..x", b"x" * rnd.randrange(900), bytes([rnd.randrange(32, 250)]) * rnd.randrange(80))) + b"\r\n" for _ in range(20000))
    body = b"Subject: big\r\nX-A: 1\r\n\r\n" + lines + b".\r\n"
    rp, up = scripted(t, "function mail(ev) ev.user.change = ev.address:find('change') end\n"
                         "function end_of_data(ev) if ev.user.change then ev:delete_header('X-A', 1) ev:add_header('X-B', '2') end end", hold={"spill": "16k"})
    c, u = opened(t, rp, up)
    c.loud = u.loud = False
    for mail, want in ((MAIL, body), (b"MAIL FROM:<change@x.test>\r\n", b"X-B: 2\r\nSubject: big\r\n\r\n" + lines + b".\r\n")):
        step(c, u, mail, OK_MAIL)
        step(c, u, RCPT, OK_RCPT)
        c.send(b"DATA\r\n")
        c.expect(MADE)
        c.send_async(body)
        u.expect(b"DATA\r\n").send(GO)
        t.check(u.recv_exact(len(want)) == want, "the same octets")
        c.join_sender()
        u.send(TAKEN)
        c.expect(TAKEN)


@test(quick=True)
def changes_name_their_transaction(t):
    rp, up = scripted(t, "function mail(ev) ev:add_header('X', 'y') ev:set_params('') end\nfunction rcpt(ev) ev:add_header('Y', 'z') end\n"
                         "function end_of_data(ev) ev:add_header('Z', 'z') end")
    c, u = opened(t, rp, up)
    kept(c, u, BODY, b"Z: z\r\nY: z\r\nX: y\r\n" + BODY)
    tid = rp.record("transaction", result="accepted")["tid"]
    t.equal([r["tid"] for r in rp.records("change")], [tid] * 4, "transactions of the changes")


# ---- changes of a kept message ----

HEADERS = {
    "none": ("", b"A: 1\r\nB: 2\r\n\r\nx\r\n", b"A: 1\r\nB: 2\r\n\r\nx\r\n"),
    "top": ("ev:add_header('T', '0')", b"A: 1\r\n\r\nx\r\n", b"T: 0\r\nA: 1\r\n\r\nx\r\n"),
    "behind-one": ("ev:add_header('T', '0', 1)", b"A: 1\r\nB: 2\r\n\r\nx\r\n", b"A: 1\r\nT: 0\r\nB: 2\r\n\r\nx\r\n"),
    "bottom": ("ev:append_header('T', '0')", b"A: 1\r\nB: 2\r\n\r\nx\r\n", b"A: 1\r\nB: 2\r\nT: 0\r\n\r\nx\r\n"),
    "folded": ("ev:append_header('T', 'a\\n b')", b"A: 1\r\n\r\nx\r\n", b"A: 1\r\nT: a\r\n b\r\n\r\nx\r\n"),
    "change": ("ev:change_header('b', 2, 'z')", b"B: 1\r\nA: x\r\nB: 2\r\n more\r\n\r\nx\r\n", b"B: 1\r\nA: x\r\nB: z\r\n\r\nx\r\n"),
    "delete": ("ev:delete_header('b', 1)", b"A: 1\r\nB: 2\r\n\tmore\r\nC: 3\r\n\r\nx\r\n", b"A: 1\r\nC: 3\r\n\r\nx\r\n"),
    "header-only": ("ev:append_header('T', '0')", b"A: 1\r\n", b"A: 1\r\nT: 0\r\n"),
    "no-header": ("ev:add_header('T', '0')", b"\r\nx\r\n", b"T: 0\r\n\r\nx\r\n"),
    "body-at-once": ("ev:add_header('T', '0')", b"garbage\r\nmore\r\n", b"T: 0\r\n\r\ngarbage\r\nmore\r\n"),
    "dotted-garbage": ("ev:add_header('T', '0')", b"..garbage\r\nmore\r\n", b"T: 0\r\n\r\n..garbage\r\nmore\r\n"),
    "empty": ("ev:add_header('T', '0')", b"", b"T: 0\r\n"),
    "dots": ("ev:add_header('T', '0')", b"A: 1\r\n\r\n..\r\n..x\r\n", b"T: 0\r\nA: 1\r\n\r\n..\r\n..x\r\n"),
    "body": ("ev:replace_body('.new\\r\\n.\\r\\nlast')", b"A: 1\r\n\r\nold\r\n", b"A: 1\r\n\r\n..new\r\n..\r\nlast\r\n"),
    "body-pieces": ("ev:replace_body('one\\r') ev:replace_body('\\n.two\\r\\n')", b"A: 1\r\n\r\nold\r\n", b"A: 1\r\n\r\none\r\n..two\r\n"),
    "body-of-none": ("ev:replace_body('new\\r\\n')", b"A: 1\r\n", b"A: 1\r\n\r\nnew\r\n"),
    "all": ("ev:replace_body('n\\r\\n') ev:add_header('T','0') ev:delete_header('A',1) ev:append_header('Z','9')", b"A: 1\r\nB: 2\r\n\r\nold\r\n",
            b"T: 0\r\nB: 2\r\nZ: 9\r\n\r\nn\r\n"),
}


@cases({name: name for name in HEADERS}, quick=True)
def changed(t, name):
    what, before, after = HEADERS[name]
    rp, up = scripted(t, "function end_of_data(ev) %s end" % what)
    c, u = opened(t, rp, up)
    kept(c, u, before + b".\r\n", after + b".\r\n")
    # The same by BDAT: plain octets, one chunk.
    plain = before.replace(b"\r\n..", b"\r\n.")
    plain = plain[1:] if plain.startswith(b"..") else plain
    want = after.replace(b"\r\n..", b"\r\n.")
    want = want[1:] if want.startswith(b"..") else want
    if name == "body":
        want = want[:-2]  # a body that a hook made has no line end of ours when none is needed
    envelope(c, u)
    c.send(b"BDAT %d LAST\r\n" % len(plain) + plain)
    u.expect(b"BDAT %d LAST\r\n" % len(want) + want)
    u.send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def a_body_behind_a_header_without_an_end(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:replace_body('x') end")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 4 LAST\r\nA: 1")
    u.expect(b"BDAT 9 LAST\r\nA: 1\r\n\r\nx").send(TAKEN)
    c.expect(TAKEN)


MADE_UP = {"lf-dot": "a\\n.\\r\\nMAIL FROM:<evil@x.test>\\r\\n", "cr": "a\\r.\\rb",
           "at-the-end": "a\\n.", "pieces": "a\\n') ev:replace_body('.\\r') ev:replace_body('\\nb"}


@cases({name: name for name in MADE_UP}, quick=True)
def a_made_body_has_no_end_inside(t, name):
    rp, up = scripted(t, "function end_of_data(ev) ev:replace_body('%s') end" % MADE_UP[name])
    c, u = opened(t, rp, up)
    ask_for_data(c, u)
    c.send(BODY)
    c.reply(b"550 5.5.2")
    u.expect(RSET).send(FLUSHED)
    # A chunk is counted, and has no such end.
    made = MADE_UP[name].replace("') ev:replace_body('", "").replace("\\r", "\r").replace("\\n", "\n").encode()
    envelope(c, u)
    c.send(b"BDAT %d LAST\r\n" % len(b"S: x\r\n\r\nold") + b"S: x\r\n\r\nold")
    u.expect(b"BDAT %d LAST\r\n" % (8 + len(made)) + b"S: x\r\n\r\n" + made).send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def stray_newlines_of_a_made_body(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:replace_body('a\\nb\\rc.\\n..\\r\\n.') end")
    c, u = opened(t, rp, up)
    kept(c, u, BODY, b"Subject: x\r\n\r\na\nb\rc.\n..\r\n..\r\n.\r\n")


@test(quick=True)
def the_second_sees_what_the_first_has_changed(t):
    sees = """
function data(ev) ev.user.seen = '' end
function body(ev) ev.user.seen = ev.user.seen .. ev.data end
function end_of_data(ev) ev:append_header('X-Seen-%s', (ev.user.seen:gsub('\\r\\n', '|'))) %s end"""
    rp, up = scripted(t, sees % ("A", "ev:replace_body('.new\\r\\n')"), sees % ("B", ""))
    c, u = opened(t, rp, up)
    kept(c, u, b"S: x\r\n\r\n..old\r\n.\r\n",
         b"S: x\r\nX-Seen-A: S: x||.old|\r\nX-Seen-B: S: x|X-Seen-A: S: x||.old|||.new|\r\n\r\n..new\r\n.\r\n")


@test(quick=True)
def headers_from_before_and_after(t):
    rp, up = scripted(t, "function mail(ev) ev:add_header('From-Mail', '1') end\nfunction rcpt(ev) ev:add_header('From-Rcpt', '2') end\n"
                         "function data(ev) ev:add_header('From-Data', '3') end\nfunction end_of_data(ev) ev:add_header('From-End', '4') end")
    c, u = opened(t, rp, up)
    kept(c, u, BODY, b"From-End: 4\r\nFrom-Data: 3\r\nFrom-Rcpt: 2\r\nFrom-Mail: 1\r\n" + BODY)
    kept(c, u, BODY, b"From-End: 4\r\nFrom-Data: 3\r\nFrom-Rcpt: 2\r\nFrom-Mail: 1\r\n" + BODY)


# ---- the envelope of a kept message ----

def ask_two(c, u):
    ask_for_data(c, u, (RCPT, RCPT2))
    c.send(BODY)


@test(quick=True)
def a_recipient_is_added(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:add_recipient('archive@z.test') ev:add_recipient('other@z.test', 'NOTIFY=NEVER') end")
    c, u = opened(t, rp, up)
    ask_two(c, u)
    u.expect(b"RCPT TO:<archive@z.test>\r\nRCPT TO:<other@z.test> NOTIFY=NEVER\r\n").send(OK_RCPT + OK_RCPT)
    delivered(c, u, BODY)
    rp.record("change", count=2, what="add-recipient")


@test(quick=True)
def an_added_recipient_is_refused(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:add_recipient('archive@z.test') end")
    c, u = opened(t, rp, up)
    ask_two(c, u)
    u.expect(b"RCPT TO:<archive@z.test>\r\n").send(b"550 5.1.1 nobody\r\n")
    c.reply(b"451 4.3.0")
    u.expect(RSET).send(FLUSHED)
    r = rp.record("transaction", result="rejected", stage="rcpt")
    t.equal((r["code"], r["by"]), (550, "upstream"), "what the upstream said")
    step(c, u, MAIL, OK_MAIL)


@test(quick=True)
def recipients_go_and_the_sender_changes(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:set_sender('new@x.test') ev:delete_recipient('b@y.test') ev:add_recipient('d@y.test') end")
    c, u = opened(t, rp, up)
    step(c, u, b"MAIL FROM:<a@x.test> BODY=8BITMIME\r\n", OK_MAIL)
    c.send(RCPT + b"RCPT TO:<refused@y.test>\r\n" + RCPT2 + b"DATA\r\n")
    u.expect(RCPT + b"RCPT TO:<refused@y.test>\r\n" + RCPT2).send(OK_RCPT + b"550 5.1.1 who\r\n" + OK_RCPT)
    c.expect(OK_RCPT + b"550 5.1.1 who\r\n" + OK_RCPT + MADE)
    c.send(BODY)
    again = RSET + b"MAIL FROM:<new@x.test> BODY=8BITMIME\r\n" + RCPT2 + b"RCPT TO:<d@y.test>\r\n"
    u.expect(again).send(FLUSHED + OK_MAIL + OK_RCPT + OK_RCPT)
    delivered(c, u, BODY)


@test(quick=True)
def nobody_is_left(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:delete_recipient('B@y.test') ev:delete_recipient('c@y.test') end")
    c, u = opened(t, rp, up)
    ask_two(c, u)
    c.expect(GONE)
    u.expect(RSET).send(FLUSHED)
    rp.record("transaction", result="discarded")


@test(quick=True)
def without_pipelining_one_by_one(t):
    rp, up = scripted(t, "function end_of_data(ev) ev:set_sender('new@x.test') end")
    c, u = opened(t, rp, up, caps=(b"8BITMIME",))
    ask_two(c, u)
    for line in (RSET, b"MAIL FROM:<new@x.test>\r\n", RCPT, RCPT2):
        u.expect(line)
        u.quiet()
        u.send(b"250 2.0.0 fine\r\n")
    delivered(c, u, BODY)


# ---- BDAT ----

@test(quick=True)
def chunks_become_one(t):
    rp, up = scripted(t, "function end_of_data(ev) ringpost.sleep(0.2) end")
    c, u = opened(t, rp, up)
    binary = bytes(range(256)) * 3 + b"\r\n.\r\n\n.\n"
    c.send(MAIL + RCPT + b"BDAT 100\r\n" + binary[:100] + b"BDAT 0\r\nBDAT %d\r\n" % (len(binary) - 100) + binary[100:] + b"BDAT 0 LAST\r\n" + b"NOOP\r\n")
    u.expect(MAIL + RCPT).send(OK_MAIL + OK_RCPT)
    c.expect(OK_MAIL + OK_RCPT + CHUNK * 3)
    u.expect(b"BDAT %d LAST\r\n" % len(binary) + binary + b"NOOP\r\n")
    u.send(TAKEN + FLUSHED)
    c.expect(TAKEN + FLUSHED)
    rp.record("transaction", result="accepted", body="bdat", bytes=len(binary))


@test(quick=True)
def chunks_refused(t):
    rp, up = scripted(t, "function end_of_data(ev) return ringpost.tempfail() end")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 5\r\nhelloBDAT 5 LAST\r\nworld")
    c.expect(CHUNK)
    c.reply(b"450 4.7.1")
    u.expect(RSET).send(FLUSHED)
    step(c, u, MAIL, OK_MAIL)


@test(quick=True)
def the_link_is_lost_in_mid_chunk(t):
    rp, up = scripted(t, PASSES)
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 5\r\nhello")
    c.expect(CHUNK)
    c.send(b"BDAT 10 LAST\r\nworld")
    u.reset()
    c.settle()
    c.quiet()
    c.send(b"again")
    c.reply(b"451 4.4.2")
    u = relinked(up, c)
    kept(c, u, BODY)


# ---- discard, in every mode ----

AT = ("mail", "rcpt", "data", "end_of_data")


@cases({"%s-%s" % (mode, at): (mode, at) for mode in ("hold-end", "hold-all") for at in AT}, quick=True)
def discarded(t, where):
    mode, at = where
    rp, up = scripted(t, "function %s(ev) return ringpost.discard() end" % at, mode=mode)
    c, u = opened(t, rp, up)
    if mode == "hold-end" and at == "end_of_data":
        data_open(c, u)
        c.send(BODY)
        no_end_seen(u, BODY[:-3])
        c.expect(GONE)
        u = relinked(up, c)
    else:
        ask_for_data(c, u)
        c.send(BODY)
        c.expect(GONE)
        u.expect(RSET).send(FLUSHED)
    r = rp.record("transaction", result="discarded")
    t.equal(r["reason"], "hook:h0", "who")
    # By BDAT.
    envelope(c, u)
    c.send(b"BDAT 5\r\nhelloBDAT 5 LAST\r\nworld")
    if mode == "hold-end" and at == "end_of_data":
        u.expect(b"BDAT 5\r\nhello").send(FLUSHED)
        c.expect(FLUSHED)
    else:
        c.expect(CHUNK)
    c.expect(GONE)
    u.expect(RSET).send(FLUSHED)
    step(c, u, MAIL, OK_MAIL)


@test(quick=True)
def a_discarded_message_needs_its_recipients(t):
    rp, up = scripted(t, "function mail(ev) return ringpost.discard() end", mode="hold-end")
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT)
    u.quiet()
    u.send(OK_MAIL + b"550 5.1.1 who\r\n")
    c.expect(OK_MAIL + b"550 5.1.1 who\r\n")
    c.reply(b"554 5.5.1")


@cases({"hold-end": "hold-end", "hold-all": "hold-all"}, quick=True)
def a_discarded_chunk_needs_its_recipients(t, mode):
    rp, up = scripted(t, "function end_of_data(ev) return ringpost.discard() end", mode=mode)
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"BDAT 5 LAST\r\nhello")
    u.expect(MAIL + RCPT)
    u.quiet()
    u.send(OK_MAIL + b"550 5.1.1 who\r\n")
    c.expect(OK_MAIL + b"550 5.1.1 who\r\n")
    c.reply(b"554 5.5.1")
    u.expect(RSET).send(FLUSHED)
    step(c, u, MAIL, OK_MAIL)


# ---- seen as it comes ----

SEES = """
function data(ev) ev.user.seen = '' end
function body(ev) ev.user.seen = ev.user.seen .. ev.data end
function end_of_data(ev)
  if ev.user.seen ~= ringpost.options.want then return ringpost.reject((ev.user.seen:gsub('%c', '|'))) end
end"""


@test(quick=True)
def seen_as_it_comes(t):
    """Without the dots of stuffing, whatever the pieces; the upstream gets every octet as it was sent."""
    want = b".x\r\n\r\n.\r\ny\r\n"
    body = b"..x\r\n\r\n..\r\ny\r\n.\r\n"
    up = t.upstream()
    conf = {"hooks": {"h": {"type": "lua", "file": put(t, "h", SEES.replace("ringpost.options.want", "'.x\\r\\n\\r\\n.\\r\\ny\\r\\n'"))}}}
    for newlines in ("guard", "pass", "normalize", "reject"):
        t.round(newlines)
        rp = t.ringpost(up, listener={"hooks": ["h"], "limits": NO_LIMIT, "bare-newlines": newlines}, conf=conf)
        c, u = opened(t, rp, up)
        message(c, u, body)
        for at in range(1, len(body)):
            data_open(c, u)
            c.send_split(body, at)
            u.expect(body).send(TAKEN)
            c.expect(TAKEN)
        # The last chunk is called the last when the hooks have passed it.
        envelope(c, u)
        c.send(b"BDAT 6\r\n" + want[:6] + b"BDAT %d LAST\r\n" % (len(want) - 6) + want[6:])
        u.expect(b"BDAT 6\r\n" + want[:6] + b"BDAT %d\r\n" % (len(want) - 6) + want[6:] + b"BDAT 0 LAST\r\n")
        u.send(FLUSHED + FLUSHED + TAKEN)
        c.expect(FLUSHED + TAKEN)
        envelope(c, u)
        c.send(b"BDAT 3 LAST\r\nbad")
        u.expect(b"BDAT 3\r\nbad" + RSET)
        u.send(FLUSHED + FLUSHED)
        c.expect(b"550 5.7.1 bad\r\n")
        # A chunk that the server refuses is refused, whatever the hooks would say.
        envelope(c, u)
        c.send(b"BDAT 3 LAST\r\nbad")
        u.expect(b"BDAT 3\r\nbad" + RSET)
        u.send(b"552 5.3.4 enough\r\n" + FLUSHED)
        c.expect(b"550 5.7.1 bad\r\n")
        # So is one that they have passed: "BDAT 0 LAST" has left by then.
        envelope(c, u)
        c.send(b"BDAT %d LAST\r\n" % len(want) + want)
        u.expect(b"BDAT %d\r\n" % len(want) + want + b"BDAT 0 LAST\r\n")
        u.send(b"552 5.3.4 enough\r\n" + TAKEN)
        c.expect(b"552 5.3.4 enough\r\n")
        u.expect(RSET).send(FLUSHED)
        rp.record("transaction", result="rejected", code=552)
        step(c, u, MAIL, OK_MAIL)
        c.send(b"QUIT\r\n")
        u.expect(b"QUIT\r\n").send(b"221 2.0.0 bye\r\n")
        c.expect(b"221 2.0.0 bye\r\n")
        c.ended()
        u.gone()


@cases({"nothing": b"", "421": b"421 4.4.2 too slow\r\n", "451": b"451 4.4.2 too slow\r\n", "250": b"250 2.0.0 what\r\n"}, quick=True)
def the_server_does_not_wait_for_the_verdict(t, says):
    """The octets of the last chunk are there and answered, "BDAT 0 LAST" waits for the hooks."""
    rp, up = scripted(t, SEES_NOTHING + "function end_of_data(ev) ringpost.sleep(0.5) end", mode="hold-end")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 5 LAST\r\nhello")
    u.expect(b"BDAT 5\r\nhello").send(FLUSHED)
    u.quiet()
    u.send(says) if says else None
    u.close()
    if says.startswith(b"4"):
        c.expect(says)
    else:
        c.reply(b"451 4.4.2")
    if says.startswith(b"421"):
        c.ended()
    else:
        relinked(up, c)


@test(quick=True)
def a_full_pipeline_and_a_last_chunk(t):
    rp, up = scripted(t, SEES_NOTHING + "function end_of_data(ev) return ringpost.reject() end", mode="hold-end",
                      listener={"limits": dict(NO_LIMIT, pipeline=250, junk=1000)})
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"NOOP\r\n" * 249 + b"BDAT 5 LAST\r\nhello")
    u.expect(b"NOOP\r\n" * 249 + b"BDAT 5\r\nhello" + RSET).send(FLUSHED * 251)
    c.expect(FLUSHED * 249)
    c.reply(b"550 5.7.1")


# ---- changes on the way ----

@test(quick=True)
def a_field_whose_name_begins_with_a_dot(t):
    rp, up = scripted(t, "function mail(ev) ev:add_header('.X', 'y') end", mode="stream")
    c, u = opened(t, rp, up)
    data_open(c, u)
    c.send(BODY)
    u.expect(b"..X: y\r\n" + BODY).send(TAKEN)
    c.expect(TAKEN)
    envelope(c, u)
    c.send(b"BDAT 1 LAST\r\nx")
    u.expect(b"BDAT 8 LAST\r\n.X: y\r\nx").send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def headers_on_top_of_a_stream(t):
    rp, up = scripted(t, "function mail(ev) ev:add_header('A', '1') end\nfunction rcpt(ev) ev:add_header('B', ev.address) end\nfunction data(ev) ev:add_header('C', '3') end",
                      mode="stream")
    c, u = opened(t, rp, up)
    top = b"C: 3\r\nB: b@y.test\r\nA: 1\r\n"
    data_open(c, u)
    c.send(b"..x\r\n.\r\n")
    u.expect(top + b"..x\r\n.\r\n").send(TAKEN)
    c.expect(TAKEN)
    envelope(c, u)
    c.send(b"BDAT 3\r\nabcBDAT 3 LAST\r\ndef")
    u.expect(b"BDAT %d\r\n" % (len(top) + 3) + top + b"abcBDAT 3 LAST\r\ndef").send(FLUSHED + TAKEN)
    c.expect(FLUSHED + TAKEN)
    # What a message that never came had on top is not the next one's.
    step(c, u, MAIL, OK_MAIL)
    step(c, u, RSET, FLUSHED)
    data_open(c, u)
    c.send(BODY)
    u.expect(top + BODY).send(TAKEN)
    c.expect(TAKEN)


@cases({"stream": "stream", "hold-all": "hold-all"}, quick=True)
def a_second_data_is_asked_about_again(t, mode):
    rp, up = scripted(t, "function mail(ev) ev:add_header('M', '1') end\nfunction data(ev) ev:add_header('D', '2') end", mode=mode)
    c, u = opened(t, rp, up)
    if mode == "stream":
        envelope(c, u)
        step(c, u, b"DATA\r\n", b"451 4.3.0 later\r\n")
        step(c, u, b"DATA\r\n", GO)
        c.send(BODY)
        u.expect(b"D: 2\r\nM: 1\r\n" + BODY).send(TAKEN)
        c.expect(TAKEN)
        return
    c.send(MAIL + RCPT + b"DATA\r\n")
    u.expect(MAIL + RCPT).send(OK_MAIL + b"550 5.1.1 who\r\n")
    c.expect(OK_MAIL + b"550 5.1.1 who\r\n")
    c.reply(b"554 5.5.1")
    step(c, u, RCPT, OK_RCPT)
    c.send(b"DATA\r\n")
    c.expect(MADE)
    c.send(BODY)
    delivered(c, u, b"D: 2\r\nM: 1\r\n" + BODY)


@test(quick=True)
def changed_behind_a_link_that_is_made_anew(t):
    rp, up = scripted(t, "function mail(ev) ringpost.sleep(0.2) ev:set_address('new@x.test') ev:set_params('SIZE=5') ev:add_header('X', 'y') end", mode="stream")
    c, u = opened(t, rp, up)
    u.reset()
    c.send(MAIL)
    u = up.accept()
    u.send(b"220 up.test ESMTP ready\r\n")
    u.expect(b"EHLO client.test\r\n")
    from lib.smtp import ehlo_reply
    u.send(ehlo_reply())
    u.expect(b"MAIL FROM:<new@x.test> SIZE=5\r\n").send(OK_MAIL)
    c.expect(OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    c.send(BODY)
    u.expect(b"X: y\r\n" + BODY).send(TAKEN)
    c.expect(TAKEN)


# ---- found by the simulator ----

SEEN = "function body(ev) end function end_of_data(ev) end"


@test(quick=True)
def the_link_is_lost_in_the_last_chunk(t):
    """Its end was to wait for the hooks that see it; the client gets its reply all the same."""
    rp, up = scripted(t, SEEN, mode="hold-end")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 8 LAST\r\nhalf")
    u.expect(b"BDAT 8\r\nhalf")
    u.reset()
    c.send(b"all\n")
    c.reply(b"451 4.4.2")
    rp.record("transaction", result="aborted")


@test(quick=True)
def mail_is_refused_while_the_end_waits(t):
    """The question about the end is void, and what the upstream says to the chunk is the answer."""
    rp, up = scripted(t, "function body(ev) end function end_of_data(ev) ringpost.sleep(0.5) end", mode="hold-end")
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"BDAT 3 LAST\r\nabc")
    u.expect(MAIL + RCPT + b"BDAT 3\r\nabc")
    replies = b"550 5.1.8 not you\r\n503 5.5.1 MAIL first\r\n503 5.5.1 RCPT first\r\n"
    u.send(replies)
    c.expect(replies)
    c.quiet(0.7)
    message(c, u, BODY)
    rp.record("transaction", result="rejected")


@test(quick=True)
def octets_are_taken_behind_a_refused_mail(t):
    """The server does not know that they were all: its 2xx would be the last word on a message that it has not taken."""
    rp, up = scripted(t, "function body(ev) end function end_of_data(ev) ringpost.sleep(0.5) end", mode="hold-end")
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"BDAT 3 LAST\r\nabc")
    u.expect(MAIL + RCPT + b"BDAT 3\r\nabc")
    u.send(b"503 5.5.1 one at a time\r\n" + OK_RCPT + b"250 2.0.0 octets taken\r\n")
    c.expect(b"503 5.5.1 one at a time\r\n" + OK_RCPT)
    c.reply(b"451 4.4.2")
    relinked(up, c)
    rp.no_record("transaction", result="accepted")


@test(quick=True)
def a_body_behind_a_field_without_an_end(t):
    """The empty line that divides them ends the field first."""
    rp, up = scripted(t, "function end_of_data(ev) ev:replace_body('new\\r\\n') end")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 4 LAST\r\nA: 1")
    u.expect(b"BDAT 13 LAST\r\nA: 1\r\n\r\nnew\r\n").send(TAKEN)
    c.expect(TAKEN)


@test(quick=True)
def a_recipient_behind_a_discarded_chunk(t):
    """The link may be gone by then: nobody needs it any more."""
    rp, up = scripted(t, "function rcpt(ev) return ringpost.discard() end", mode="hold-end")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 3\r\nabc")
    c.expect(CHUNK)
    u.reset()
    c.quiet(0.2)
    c.send(RCPT2)
    c.reply(b"503 5.5.1")
    c.send(b"BDAT 0 LAST\r\n")
    c.expect(GONE)
    rp.record("transaction", result="discarded")


@test(quick=True)
def the_next_mail_stands_behind_a_refused_chunk(t):
    """RSET would take that with it."""
    rp, up = scripted(t, SEEN, mode="hold-end")
    c, u = opened(t, rp, up)
    envelope(c, u)
    c.send(b"BDAT 3 LAST\r\nabc" + MAIL)
    u.expect(b"BDAT 3\r\nabcBDAT 0 LAST\r\n" + MAIL)
    u.send(b"452 4.3.1 full\r\n503 5.5.1 no\r\n" + OK_MAIL)
    c.expect(b"452 4.3.1 full\r\n" + OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
