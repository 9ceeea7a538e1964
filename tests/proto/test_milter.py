# SPDX-License-Identifier: GPL-3.0-or-later
"""Milters: a scripted filter beside the real binary. Every step, every verdict, every change, and filters
that go away, say nothing or talk nonsense."""
import threading
import time

from lib.core import Failure, cases, test
from lib.milter import (ALL_ACTIONS, CLOSE, LEADING_SPACE, NO_BODY, NO_CONNECT, NO_DATA, NO_EOH, NO_HDRS, NO_HELO, NO_MAIL, NO_RCPT,
                        NO_REPLIES, NOTHING_OFFERED, NR_HDR, QUARANTINE, SILENT, SKIP, Milter, packet, reply)
from lib.smtp import EHLO, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, ehlo_reply, greet

NO_LIMIT = {"soft-errors": 1000, "errors": 1000}
MODES = {"stream": "stream", "hold-end": "hold-end", "hold-all": "hold-all"}
HOLDS = {"hold-end": "hold-end", "hold-all": "hold-all"}
TEXT = b"Subject: one\r\n two\r\nX-Two: 2\r\n\r\nhello\r\n..dot\r\n.\r\n"
PLAIN_BODY = b"hello\r\n.dot\r\n"
FAILED = b"451 4.3.0 message inspection is not available, try again later\r\n"


def filtered(t, mode="hold-end", server=None, hook=None, names=("h",), milters=None, conf=None, **kw):
    """(ringpost, milter, server): a ringpost whose hooks are milters."""
    milters = milters or [Milter(t, **kw)]
    server = server or t.auto()
    hooks = {}
    for name, m in zip(names, milters):
        hooks[name] = {"type": "milter", "endpoint": m.address, "mode": mode, "deadline": "20s"}
        hooks[name].update(hook or {})
    rp = t.ringpost(server, listener={"hooks": list(names), "limits": NO_LIMIT}, conf=dict({"hooks": hooks}, **(conf or {})))
    return rp, milters[0], server


def hello(rp):
    c = rp.client()
    c.reply(b"220")
    c.send(EHLO)
    c.reply(b"250")
    return c


def send(c, text=TEXT, rcpts=(RCPT,), final=b"250"):
    c.send(MAIL)
    c.reply(b"250")
    for r in rcpts:
        c.send(r)
        c.reply(b"250")
    c.send(b"DATA\r\n")
    c.reply(b"354")
    c.send(text)
    return c.reply(final)


def leave(c):
    c.send(b"QUIT\r\n")
    c.reply(b"221")
    c.ended()


# ---- the steps ----

@cases(MODES, quick=True)
def every_step(t, mode):
    rp, m, server = filtered(t, mode)
    c = hello(rp)
    send(c)
    message = "MRTLLNBE" if mode != "stream" else "MRTA"
    m.saw("OCH" + message)
    send(c)
    leave(c)
    k = m.saw("OCH" + message + message + "Q")
    t.equal(k.offer, (6, {"stream": NOTHING_OFFERED, "hold-end": NOTHING_OFFERED | QUARANTINE, "hold-all": ALL_ACTIONS}[mode],
                      0x1ff7ff), "what the filter was offered")
    t.equal(k.payloads("H"), [b"client.test\0"], "HELO")
    t.equal(k.payloads("M"), [b"<a@x.test>\0"] * 2, "MAIL")
    t.equal(k.payloads("R"), [b"<b@y.test>\0"] * 2, "RCPT")
    t.check(k.payloads("C")[0].startswith(b"[127.0.0.1]\x004"), "CONNECT: %r" % k.payloads("C"))
    if mode != "stream":
        t.equal(k.fields, [(b"Subject", b" one\n two"), (b"X-Two", b" 2")], "the header fields")
        t.equal(k.body, PLAIN_BODY, "the body")
    t.equal([x.body for x in server.messages], [TEXT] * 2, "what the server took")
    stop = rp.stop_now()
    t.equal(stop["milter_connections"], 1, "connections")
    t.equal(stop["milter_messages"], 2, "messages")


@test(quick=True)
def over_a_unix_socket(t):
    rp, m, _ = filtered(t, address="unix:" + t.path("milter.sock"))
    c = hello(rp)
    send(c)
    leave(c)
    m.saw("OCHMRTLLNBEQ")


@cases(HOLDS, quick=True)
def in_chunks(t, mode):
    rp, m, server = filtered(t, mode)
    c = hello(rp)
    c.send(MAIL + RCPT)
    c.reply(b"250")
    c.reply(b"250")
    c.send(b"BDAT 9\r\nSubject: ")
    c.reply(b"250")
    c.send(b"BDAT 10\r\nx\r\n\r\n.one\n")
    c.reply(b"250")
    c.send(b"BDAT 4 LAST\r\ntwo\r")
    c.reply(b"250")
    leave(c)
    k = m.saw("OCHMRTLNBEQ")
    t.equal(k.fields, [(b"Subject", b" x")], "the header fields")
    t.equal(k.body, b".one\ntwo\r", "the body")
    t.equal(len(server.messages), 1, "messages")


@cases(HOLDS)
def a_large_message(t, mode):
    """Through a filter that answers each chunk, none of it lost, in chunks as large as they may be."""
    rp, m, server = filtered(t, mode, loud=False)
    body = b"".join(b"%07d %s\r\n" % (i, b"x" * (i % 90)) for i in range(40000))
    c = hello(rp)
    c.loud = False
    send(c, b"Subject: x\r\n\r\n" + body + b".\r\n")
    leave(c)
    k = m.connection()
    t.until(lambda: k.over, "the milter's connection ends")
    t.check(k.body == body, "the filter has another body")
    t.check(server.messages[0].body == b"Subject: x\r\n\r\n" + body + b".\r\n", "the server has another body")
    sizes = [len(p) for p in k.payloads("B")]
    t.check(all(n == 65535 for n in sizes[:-1]), "chunks of %s octets" % sizes)


@test(quick=True)
def steps_declined_and_unanswered(t):
    rp, m, _ = filtered(t, protocol=NO_CONNECT | NO_HELO | NO_MAIL | NO_RCPT | NO_DATA | NO_EOH | NO_BODY | NO_HDRS)
    c = hello(rp)
    send(c)
    leave(c)
    m.saw("OEQ")


@test(quick=True)
def a_filter_that_answers_only_the_end(t):
    rp, m, _ = filtered(t, "hold-all", protocol=NO_REPLIES, say={"E": reply("h", "X-Spam", "no") + packet("c")})
    c = hello(rp)
    send(c)
    leave(c)
    m.saw("OCHMRTLLNBEQ")


@test(quick=True)
def fields_unanswered_bodies_skipped(t):
    rp, m, _ = filtered(t, protocol=SKIP | NR_HDR, say={"L": SILENT, "B": packet("s")}, loud=False)
    c = hello(rp)
    send(c, b"A: b\r\nC:d\r\n\r\n" + b"x" * 98 + b"\r\n" + b"y" * 300000 + b"\r\n.\r\n")
    leave(c)
    k = m.saw("OCHMRTLLNBEQ")
    t.equal(k.fields, [(b"A", b"b"), (b"C", b"d")], "fields without their blank")


# ---- macros ----

@test(quick=True)
def usual_macros(t):
    rp, m, _ = filtered(t, hook={"daemon-name": "inbound"})
    c = hello(rp)
    send(c)
    leave(c)
    k = m.saw("OCHMRTLLNBEQ")
    port = rp.address.rsplit(":", 1)[1].encode()
    tid = rp.record("transaction")["tid"].encode()
    conn = k.macros["C"]
    t.check(conn.pop(b"j") and conn.pop(b"v").startswith(b"ringpost ") and conn.pop(b"{client_port}"), "C: %r" % conn)
    t.equal(conn, {b"{daemon_name}": b"inbound", b"{daemon_addr}": b"127.0.0.1", b"{daemon_port}": port, b"_": b"[127.0.0.1]",
                   b"{client_name}": b"[127.0.0.1]", b"{client_addr}": b"127.0.0.1", b"{client_ptr}": b"unknown"}, "at connect")
    t.equal(k.macros["M"], {b"i": tid, b"{mail_addr}": b"a@x.test", b"{mail_host}": b"x.test", b"{mail_mailer}": b"smtp"}, "at MAIL")
    t.equal(k.macros["R"], {b"i": tid, b"{rcpt_addr}": b"b@y.test", b"{rcpt_host}": b"y.test", b"{rcpt_mailer}": b"smtp"}, "at RCPT")
    for letter in "TNE":
        t.equal(k.macros[letter], {b"i": tid}, "at " + letter)


@test(quick=True)
def its_own_macros(t):
    rp, m, _ = filtered(t, macros={0: "", 2: "{client_addr},{daemon_name}", 3: "i j", 5: "{mail_addr} {rcpt_addr} {nothing}"})
    c = hello(rp)
    send(c)
    leave(c)
    k = m.saw("OCHMRTLLNBEQ")
    t.check("C" not in k.macros, "macros at connect")
    t.equal(k.macros["M"], {b"{client_addr}": b"127.0.0.1", b"{daemon_name}": b"in"}, "at MAIL")
    t.equal(sorted(k.macros["R"]), [b"i", b"j"], "at RCPT")
    t.equal(k.macros["E"], {b"{mail_addr}": b"a@x.test", b"{rcpt_addr}": b"b@y.test"}, "at the end of the body")


# ---- verdicts ----

STEPS = "CHMRTLNBE"
ANSWERS = {"reject": (packet("r"), b"550 5.7.1 refused by policy\r\n"), "tempfail": (packet("t"), b"450 4.7.1 try again later\r\n"),
           "code": (reply("y", "554-5.7.8 not%%\r\n554 5.7.8 you"), b"554 5.7.8 not% you\r\n"),
           "connection-failure": (packet("f"), FAILED), "shutdown": (packet("4"), b"421 4.7.1 closing connection\r\n"),
           "nonsense": (b"HTTP/1.0 400 Bad Request\r\n\r\n", FAILED), "unexpected": (packet("O", bytes(12)), FAILED), "gone": (CLOSE, FAILED)}


def up_to(t, c, letter):
    """The client's commands up to this step; what is behind the last one has not been read."""
    if letter == "C":
        return
    c.reply(b"220")
    for each, line, ok in (("H", EHLO, b"250"), ("M", MAIL, b"250"), ("R", RCPT, b"250"), ("T", b"DATA\r\n", b"354")):
        c.send(line)
        if each == letter:
            return
        c.reply(ok)
    c.send(TEXT)


@cases({"%s at %s" % (name, step): (name, step) for step in STEPS for name in ANSWERS}, quick=True)
def refusing(t, how):
    """The session goes on with a next message, for which the filter is asked again."""
    name, letter = how
    answer, want = ANSWERS[name]
    rp, m, server = filtered(t, say={letter: answer})
    c = rp.client()
    up_to(t, c, letter)
    c.expect(want)
    if name == "shutdown" or letter == "C":
        c.ended()
    else:
        m.say = {}
        c.send(b"RSET\r\n")
        c.reply(b"250")
        if letter == "H":
            c.send(EHLO)
            c.reply(b"250")
        send(c)
        leave(c)
        t.equal(len(server.messages), 1, "messages")
    stop = rp.stop_now()
    t.equal(stop["hook_failures"], 1 if want == FAILED else 0, "hook_failures")


@cases({"C": "C", "H": "H", "M": "M", "R": "R", "T": "T", "L": "L", "N": "N", "B": "B", "E": "E"}, quick=True)
def accepting(t, letter):
    rp, m, server = filtered(t, say={letter: packet("a")})
    c = hello(rp)
    send(c)
    send(c)
    leave(c)
    t.equal(len(server.messages), 2, "messages")
    first = "OCHMRTLLNBE"
    cut = first[:first.index(letter) + 1]
    m.saw(cut + "Q" if letter in "CH" else (cut + cut[3:] + "Q" if letter == "E" else cut + "A" + cut[3:] + "AQ"))


@cases({"%s, %s" % (step, mode): (step, mode) for step in "MRTLNBE" for mode in HOLDS}, quick=True)
def discarding(t, how):
    """The client is told that all is well; the server gets nothing of it, and the next message as ever."""
    letter, mode = how
    rp, m, server = filtered(t, mode, say={letter: packet("d")})
    c = hello(rp)
    send(c)
    rp.record("transaction", result="discarded")
    m.say = {}
    send(c)
    leave(c)
    t.equal(len(server.messages), 1, "messages")


@test(quick=True)
def one_recipient_refused(t):
    def judge(k, payload):
        return reply("y", "550 5.1.1 nobody") if b"evil" in payload else packet("c")
    rp, m, server = filtered(t, say={"R": judge})
    c = hello(rp)
    c.send(MAIL + b"RCPT TO:<evil@y.test>\r\n" + RCPT + b"DATA\r\n")
    c.replies(b"250", b"550 5.1.1 nobody", b"250", b"354")
    c.send(TEXT)
    c.reply(b"250")
    leave(c)
    t.equal(server.messages[0].rcpts, [b"TO:<b@y.test>"], "recipients")
    m.saw("OCHMRRTLLNBEQ")


@cases({"reject": b"554 5.7.1", "tempfail": b"451 4.7.1", "discard": b"250", "accept": b"250"}, quick=True)
def quarantine(t, want):
    what = t.test.name.split("[")[1][:-1]
    rp, m, server = filtered(t, hook={"quarantine": what}, say={"E": reply("q", "a virus") + packet("c")})
    c = hello(rp)
    send(c, final=want)
    leave(c)
    t.equal(len(server.messages), 1 if what == "accept" else 0, "messages")
    rec = rp.record("hook-warning")
    t.check(rec["text"].startswith("quarantine of ") and rec["text"].endswith(": a virus"), rec["text"])
    t.equal(rp.stop_now()["milter_quarantined"], 1, "milter_quarantined")


# ---- changes (hold-all) ----

EDITS = {
    "add": (reply("h", "X-New", " 1\n\t2"), b"Subject: one\r\n two\r\nX-Two: 2\r\nX-New: 1\r\n\t2\r\n\r\n" + TEXT.split(b"\r\n\r\n")[1], None),
    "insert on top": (reply("i", "X-New", " 1", index=0), b"X-New: 1\r\n" + TEXT, None),
    "insert behind one": (reply("i", "X-New", " 1", index=1), b"Subject: one\r\n two\r\nX-New: 1\r\nX-Two: 2\r\n\r\n"
                          + TEXT.split(b"\r\n\r\n")[1], None),
    "insert behind all": (reply("i", "X-New", " 1", index=0x7fffffff), TEXT.replace(b"2\r\n\r\n", b"2\r\nX-New: 1\r\n\r\n"), None),
    "CRLF in a value": (reply("h", "X-New", " 1\r\n\t2"), TEXT.replace(b"2\r\n\r\n", b"2\r\nX-New: 1\r\n\t2\r\n\r\n"), None),
    "no body": (packet("b"), TEXT.split(b"\r\n\r\n")[0] + b"\r\n\r\n.\r\n", None),
    "a bare recipient": (reply("+", "d@y.test"), TEXT, (b"FROM:<a@x.test>", [b"TO:<b@y.test>", b"TO:<d@y.test>"])),
    "null sender": (reply("e", "<>"), TEXT, (b"FROM:<>", [b"TO:<b@y.test>"])),
    "change": (reply("m", "subject", " other", index=1), TEXT.replace(b"Subject: one\r\n two", b"subject: other"), None),
    "delete": (reply("m", "X-Two", "", index=1), TEXT.replace(b"X-Two: 2\r\n", b""), None),
    "body": (packet("b", b"new\r\n.") + packet("b", b"dot\r\n"), b"Subject: one\r\n two\r\nX-Two: 2\r\n\r\nnew\r\n..dot\r\n.\r\n", None),
    "sender": (reply("e", "<c@x.test>"), TEXT, (b"FROM:<c@x.test>", [b"TO:<b@y.test>"])),
    "more recipients": (reply("+", "<d@y.test>"), TEXT, (b"FROM:<a@x.test>", [b"TO:<b@y.test>", b"TO:<d@y.test>"])),
    "other recipients": (reply("-", "<b@y.test>") + reply("+", "<d@y.test>"), TEXT, (b"FROM:<a@x.test>", [b"TO:<d@y.test>"])),
}


@cases({name: name for name in EDITS}, quick=True)
def changing(t, name):
    edit, text, envelope = EDITS[name]
    rp, m, server = filtered(t, "hold-all", say={"E": edit + packet("c")})
    c = hello(rp)
    send(c)
    m.say = {}
    send(c)
    leave(c)
    t.check(server.messages[0].body.lower() == text.lower(), "the server took %r" % server.messages[0].body)
    if envelope:
        t.equal((server.messages[0].sender.strip(), [r.strip() for r in server.messages[0].rcpts]), envelope, "the envelope")
    t.equal(server.messages[1].body, TEXT, "the next message")


@test(quick=True)
def changes_that_the_mode_does_not_have(t):
    """As rspamd does it: it asks for everything and does it, whatever it was offered."""
    rp, m, server = filtered(t, "hold-end", actions=ALL_ACTIONS, say={"E": reply("h", "X-New", " 1") + packet("c")})
    for _ in range(2):
        c = hello(rp)
        send(c)
        leave(c)
    rp.record("hook-warning", text="connect: the filter asks for add-headers, which mode hold-end does not have: it will be left out")
    t.equal(len(rp.records("hook-warning")), 1, "lines about it")
    t.equal([x.body for x in server.messages], [TEXT] * 2, "what the server took")
    t.equal(rp.stop_now()["milter_left_out"], 2, "milter_left_out")


@test(quick=True)
def the_second_filter_sees_what_the_first_has_changed(t):
    one = Milter(t, say={"E": reply("i", "X-One", " 1", index=0) + reply("+", "<d@y.test>") + packet("c")})
    two = Milter(t, say={"E": reply("h", "X-Last", " 2") + packet("c")})
    rp, _, server = filtered(t, "hold-all", milters=[one, two], names=("one", "two"))
    c = hello(rp)
    send(c)
    leave(c)
    t.equal([f for f, _ in two.saw("OCHMRTLLLNBEQ").fields], [b"X-One", b"Subject", b"X-Two"], "what the second one saw")
    t.check(server.messages[0].body.startswith(b"X-One: 1\r\nSubject: one\r\n two\r\nX-Two: 2\r\nX-Last: 2\r\n\r\n"),
            "%r" % server.messages[0].body)


# ---- time ----

@test(quick=True)
def progress(t):
    """Each one begins the deadline anew: together they take longer than it."""
    def slowly(k, payload):
        for _ in range(8):
            time.sleep(0.3)
            k.sock.sendall(packet("p"))
        return packet("c")
    rp, m, server = filtered(t, hook={"content-deadline": "2s"}, say={"E": slowly})
    c = hello(rp)
    send(c)
    leave(c)


@cases({s: s for s in "CMLE"}, quick=True)
def silence(t, letter):
    rp, m, server = filtered(t, hook={"deadline": "300ms", "content-deadline": "300ms"}, say={letter: SILENT})
    c = rp.client()
    up_to(t, c, letter)
    c.expect(FAILED)
    t.until(lambda: m.connection().over, "the filter is hung up on")
    if letter == "C":
        c.ended()
    else:
        leave(c)
    t.equal(rp.stop_now()["hook_deadlines"], 1, "hook_deadlines")


# ---- connections ----

@cases({"stream": ("stream", "it may need mode hold-end or hold-all"), "hold-end": ("hold-end", "it may need mode hold-all"),
        "hold-all": ("hold-all", "(EOF)")}, quick=True)
def a_hang_up_in_the_negotiation(t, how):
    mode, hint = how
    rp, m, server = filtered(t, mode, say={"O": CLOSE})
    c = rp.client()
    c.expect(FAILED)
    c.ended()
    t.check(rp.record("hook-warning")["text"].endswith(hint), rp.records("hook-warning"))


@cases({"version": ("hold-all", {"version": 1}, "connect: the filter speaks version 1 of the protocol; 2 to 6 are known here"),
        "later version": ("hold-all", {"version": 7}, "connect: the filter speaks version 7 of the protocol; 2 to 6 are known here"),
        "protocol": ("hold-all", {"protocol": 1 << 11},
                     "connect: the filter wants rejected-rcpts (protocol bits 0x800), which was not offered")}, quick=True)
def a_negotiation_without_end(t, how):
    mode, neg, line = how
    rp, m, server = filtered(t, mode, **neg)
    c = rp.client()
    c.expect(FAILED)
    c.ended()
    rp.record("hook-warning", text=line)


@cases({"tempfail": FAILED, "reject": b"554 5.3.0 message inspection is not available\r\n", "accept": None}, quick=True)
def nobody_listens(t, want):
    what = t.test.name.split("[")[1][:-1]
    m = Milter(t)
    m.stop()
    rp, _, server = filtered(t, milters=[m], hook={"on-failure": what})
    if want:
        c = rp.client()
        c.expect(want)
        c.ended()
    else:
        c = hello(rp)
        send(c)
        leave(c)
    rp.record("hook-warning", text="connect: cannot connect to the filter: ECONNREFUSED")


@cases({"between messages": "", "in mid-message": "T", "at the end": "E"}, quick=True)
def restarted(t, letter):
    """The same session has its filter back at its next message, and says all of itself again."""
    rp, m, server = filtered(t, say={letter: CLOSE})
    c = hello(rp)
    if letter == "":
        send(c)
        m.stop()
        m.start()
    else:
        c.send(MAIL + RCPT + b"DATA\r\n")
        c.replies(b"250", b"250", b"354" if letter == "E" else b"451 4.3.0")
        if letter == "E":
            c.send(TEXT)
            c.expect(FAILED)
        else:
            c.send(b"RSET\r\n")
            c.reply(b"250")
    m.say = {}
    send(c)
    leave(c)
    m.saw("OCHMRTLLNBEQ", 2)


@test(quick=True)
def sessions_wait_for_a_connection(t):
    rp, m, server = filtered(t, hook={"connections": 1, "queue": 1})
    c = hello(rp)
    second = rp.client()
    t.until(lambda: rp.sockets() >= rp.base_sockets + 4, "the second client is there")
    third = rp.client()
    third.expect(FAILED)
    third.ended()
    second.quiet()
    send(c)
    leave(c)
    second.reply(b"220")
    second.send(EHLO)
    second.reply(b"250")
    send(second)
    leave(second)
    t.equal(rp.stop_now()["milter_full"], 1, "milter_full")


@test(quick=True)
def a_client_that_leaves_in_mid_message(t):
    rp, m, server = filtered(t, say={"E": SILENT})
    for _ in range(3):
        c = hello(rp)
        c.send(MAIL + RCPT + b"DATA\r\n")
        c.replies(b"250", b"250", b"354")
        c.send(TEXT)
        t.until(lambda: m.connections and "E" in m.connections[-1].letters(), "the filter is asked")
        c.reset()
        t.until(lambda: m.connections[-1].over, "the filter's connection ends")
    t.equal(server.messages, [], "messages")


@cases({"octet by octet": 1, "in one piece": 1 << 20}, quick=True)
def answers_in_pieces(t, size):
    def dribble(answer):
        def say(k, payload):
            for at in range(0, len(answer), size):
                k.sock.sendall(answer[at:at + size])
                time.sleep(0.001)
            return SILENT
        return say
    everything = reply("h", "X-New", " 1") + packet("p") + packet("b", b"new\r\n") + packet("a")
    rp, m, server = filtered(t, "hold-all", say={"E": dribble(everything), "R": dribble(packet("c"))})
    c = hello(rp)
    send(c)
    leave(c)
    t.equal(server.messages[0].body, b"Subject: one\r\n two\r\nX-Two: 2\r\nX-New: 1\r\n\r\nnew\r\n.\r\n", "what the server took")


# ---- load ----

@cases(HOLDS, serial=True, timeout=60)
def killed_and_restarted_under_load(t, mode):
    """Each client is told the truth about each of its messages, whatever becomes of the filter meanwhile."""
    rp, m, server = filtered(t, mode, loud=False)
    told, problems, running = [], [], [True]

    def client(n):
        serial = 0
        try:
            while running[0]:
                c = rp.client()
                c.loud = False
                if not c.reply().startswith(b"220"):
                    c.close()
                    continue
                c.send(EHLO)
                if not c.reply().startswith(b"250"):
                    c.close()
                    continue
                for _ in range(5):
                    serial += 1
                    name = b"X-Serial: %d-%d" % (n, serial)
                    c.send(MAIL + RCPT + b"DATA\r\n")
                    replies = [c.reply(), c.reply(), c.reply()]
                    if not replies[2].startswith(b"354"):
                        c.send(b"RSET\r\n")
                        c.reply(b"250")
                        continue
                    c.send(name + b"\r\n\r\n" + b"x" * 3000 + b"\r\n.\r\n")
                    if c.reply().startswith(b"250"):
                        told.append(name)
                leave(c)
        except Failure as e:
            problems.append(str(e))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for x in threads:
        x.start()
    for _ in range(6):
        time.sleep(0.25)
        m.stop()
        time.sleep(0.05)
        m.start()
    t.until(lambda: len(told) > 50, "messages pass", seconds=30)
    running[0] = False
    for x in threads:
        x.join(30)
    t.equal(problems, [], "what went wrong for clients")
    took = sorted(x.body.split(b"\r\n")[0] for x in server.messages)
    t.equal(took, sorted(told), "what the server took and what clients were told")
    m.stop()
