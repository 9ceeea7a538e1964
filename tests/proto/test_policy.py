# SPDX-License-Identifier: GPL-3.0-or-later
"""Hooks of type policy before a policy server in Python: what it is told at each event, what becomes of each
action, how many connections it sees, and what happens when it is slow, talks nonsense or goes away."""
from lib import diag
from lib.core import cases, test
from lib.crowd import OPEN, Crowd, ledger
from lib.policy import CLOSE, HOLD, RESET, PolicyServer
from lib.smtp import (BODY, EHLO, GO, MAIL, OK_MAIL, OK_RCPT, RCPT, TAKEN, data_open, ehlo_reply, envelope, greet, message,
                      no_end_seen, opened, step)

NO_LIMIT = {"soft-errors": 1000, "errors": 1000}
FAILED = b"451 4.3.0"


def policed(t, srv, up=None, hooks=None, workers=1, listener=None, **hook):
    """A ringpost that asks this policy server: (ringpost, upstream)."""
    up = up or t.upstream()
    hook = {"type": "policy", "endpoint": getattr(srv, "address", srv), "deadline": "20s", **hook}
    all_hooks = {"p": {k.replace("_", "-"): v for k, v in hook.items()}, **(hooks or {})}
    rp = t.ringpost(up, workers=workers, listener={"hooks": list(all_hooks), "limits": NO_LIMIT, **(listener or {})},
                    conf={"hooks": all_hooks})
    return rp, up


def counters(rp, *servers):
    """When everybody has hung up, so that all sockets are back."""
    for c in rp.t.conns:
        c.shut()
    for s in servers:
        s.stop()
    return rp.stop_now()


# ---- actions ----

PASSES = {"ok": "OK", "dunno": "DUNNO", "lower-case": "dunno", "permit": "permit and so on", "digits": "550", "empty": ""}


@cases(PASSES, quick=True)
def an_action_that_passes(t, action):
    srv = PolicyServer(t, lambda r: action)
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    message(c, u)
    t.equal(len(srv.requests), 1, "requests")


REFUSALS = {
    "reject": ("REJECT", b"554 5.7.1 Access denied\r\n"),
    "reject-text": ("REJECT not \xe4 him", b"554 5.7.1 not ?? him\r\n"),
    "reject-enhanced": ("REJECT 5.1.8 no such domain", b"554 5.1.8 no such domain\r\n"),
    "defer": ("DEFER", b"450 4.7.1 Access denied\r\n"),
    "4nn": ("451 4.7.1 Greylisted for 300 seconds", b"451 4.7.1 Greylisted for 300 seconds\r\n"),
    "550": ("550 5.1.1 who is that", b"550 5.1.1 who is that\r\n"),
    "wrong-class": ("550 4.1.1 x", b"550 5.7.1 4.1.1 x\r\n"),
    "defer-if-permit": ("DEFER_IF_PERMIT come back", b"450 4.7.1 come back\r\n"),
}

@cases(REFUSALS, quick=True)
def an_action_that_refuses(t, row):
    action, want = row
    srv = PolicyServer(t, lambda r: action if r["recipient"] == "evil@y.test" else "DUNNO")
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(b"RCPT TO:<evil@y.test>\r\n")
    c.expect(want)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    step(c, u, BODY, TAKEN)
    rp.record("transaction", result="accepted", rcpts=1, rcpts_refused=1)


@cases({"421": "421 4.3.2 going down", "521": "521 5.7.1 never again"}, quick=True)
def an_action_that_ends_the_session(t, action):
    srv = PolicyServer(t, lambda r: action)
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    c.send(MAIL + RCPT + b"NOOP\r\n")
    u.expect(MAIL).send(OK_MAIL)
    c.expect(OK_MAIL)
    t.check(c.reply(b"421").endswith(action[9:].encode() + b"\r\n"), "the text")
    c.ended()
    u.gone()


@test(quick=True)
def deferred_unless_another_refuses(t):
    """DEFER_IF_PERMIT goes on to the hooks behind it; one that refuses for good has the word."""
    srv = PolicyServer(t, lambda r: "DEFER_IF_PERMIT later")
    rules = {"r": {"type": "rules", "reject-recipients": "evil@y.test", "reply": "550 5.1.1 gone"}}
    rp, up = policed(t, srv, hooks=rules)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(b"RCPT TO:<evil@y.test>\r\n")
    c.expect(b"550 5.1.1 gone\r\n")
    c.send(RCPT)
    c.expect(b"450 4.7.1 later\r\n")


@cases({"connect": "connect", "mail": "mail", "rcpt": "rcpt", "data": "data"}, quick=True)
def deferred_while_another_is_waited_for(t, event):
    """The words of DEFER_IF_PERMIT are said when the hooks behind it have passed, however long they take."""
    srv, slow = PolicyServer(t, lambda r: "DEFER_IF_PERMIT later"), PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, srv, hooks={"slow": {"type": "policy", "endpoint": slow.address, "events": event}}, events=event)
    want = b"450 4.7.1 later\r\n"
    if event == "connect":
        c = rp.client()
    else:
        c, u = opened(t, rp, up)
    if event in ("rcpt", "data"):
        step(c, u, MAIL, OK_MAIL)
    if event == "data":
        step(c, u, RCPT, OK_RCPT)
    if event != "connect":
        c.send({"mail": MAIL, "rcpt": RCPT, "data": b"DATA\r\n"}[event])
    slow.asked(1)
    c.quiet()
    slow.answer(0, "DUNNO")
    c.expect(want)


@test(quick=True)
def deferred_while_another_thinks(t):
    """What the first has said is what the client is told, whatever other sessions are told meanwhile."""
    soft = PolicyServer(t, lambda r: "DEFER_IF_PERMIT come back" if r["recipient"] == "b@y.test" else "REJECT not you")
    slow = PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, soft, hooks={"slow": {"type": "policy", "endpoint": slow.address, "deadline": "20s"}})
    c, u = opened(t, rp, up)
    c2, u2 = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    step(c2, u2, MAIL, OK_MAIL)
    c.send(RCPT)
    t.until(lambda: len(slow.requests) == 1, "the second one is asked")
    for _ in range(3):
        c2.send(b"RCPT TO:<c@y.test>\r\n")
        c2.expect(b"554 5.7.1 not you\r\n")
    slow.answer(0, "DUNNO")
    c.expect(b"450 4.7.1 come back\r\n")


@test(quick=True)
def refusals_become_soft(t):
    srv = PolicyServer(t, lambda r: "DEFER_IF_REJECT later")
    rules = {"r": {"type": "rules", "reject-recipients": "evil@y.test", "reply": "550 5.1.1 gone"}}
    rp, up = policed(t, srv, hooks=rules)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(b"RCPT TO:<evil@y.test>\r\n")
    c.reply(b"450 4.7.1")
    step(c, u, RCPT, OK_RCPT)


@test(quick=True)
def discarded(t):
    """The client is told that it was taken; the upstream never gets it."""
    srv = PolicyServer(t, lambda r: "DISCARD spam of today")
    rp, up = policed(t, srv, events=["end-of-data"])
    c, u = opened(t, rp, up)
    data_open(c, u)
    c.send(BODY)
    c.reply(b"250 2")
    no_end_seen(u, u.rest())
    rp.record("hook", hook="p", text="DISCARD sid=%s tid=%s spam of today" % ids(rp))


def ids(rp):
    rec = rp.record("transaction")
    return rec["sid"], rec["tid"]


@cases({"rcpt": "rcpt", "mail": "mail", "data": "data"}, quick=True)
def a_header_field(t, event):
    srv = PolicyServer(t, lambda r: "PREPEND X-Policy: seen; by=us")
    rp, up = policed(t, srv, events=[event])
    c, u = opened(t, rp, up)
    data_open(c, u)
    c.send(BODY)
    u.expect(b"X-Policy: seen; by=us\r\n" + BODY)
    u.send(TAKEN)
    c.expect(TAKEN)


PASSED_OVER = {
    "prepend-too-late": ("end-of-data", "PREPEND X-Policy: seen", "too late"),
    "prepend-too-early": ("ehlo", "PREPEND X-Policy: seen", "no message yet"),
    "discard-too-early": ("ehlo", "DISCARD", "no message yet"),
    "bad-header": ("rcpt", "PREPEND not a header field", "not a header field"),
}


@cases(PASSED_OVER, quick=True)
def an_action_that_is_passed_over(t, row):
    event, action, why = row
    srv = PolicyServer(t, lambda r: action)
    rp, up = policed(t, srv, events=[event])
    c, u = opened(t, rp, up)
    message(c, u)
    text = rp.record("hook-warning", hook="p")["text"]
    t.check(text.startswith(event + ": " + action.split()[0]) and why in text, text)
    t.equal(counters(rp, srv)["hook_failures"], 0, "failures")


@cases({"warn": ("WARN", "hook-warning"), "info": ("INFO", "hook")}, quick=True)
def an_action_for_the_log(t, row):
    word, ev = row
    srv = PolicyServer(t, lambda r: word + " looks odd")
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    message(c, u)
    rp.record(ev, hook="p", text="%s sid=%s tid=%s looks odd" % ((word,) + ids(rp)))


@cases({"hold": "HOLD", "filter": "FILTER smtp:[10.0.0.1]:25", "redirect": "REDIRECT a@b.test", "bcc": "BCC a@b.test",
        "unknown": "permit_mynetworks", "600": "600 no", "odd": "\x01\xff"}, quick=True)
def an_action_that_cannot_be_honoured(t, action):
    srv = PolicyServer(t, lambda r: action)
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    c.reply(FAILED)
    text = rp.record("hook-warning", hook="p")["text"]
    word = "".join(x if " " < x <= "~" else "??" if x > "~" else "?" for x in action.split()[0])
    t.check(text.startswith("rcpt: " + word + ": "), text)
    t.equal(counters(rp, srv)["hook_failures"], 1, "failures")


# ---- what it is told ----

ALL = ["connect", "ehlo", "mail", "rcpt", "data", "end-of-data"]
LONG = BODY[:-3] + b"x" * 60 + b"\r\n.\r\n"


def about(request, *names):
    return tuple(request[n] for n in names)


@test(quick=True)
def all_events(t):
    srv = PolicyServer(t)
    rp, up = policed(t, srv, events=ALL, context="inbound")
    c, u = opened(t, rp, up)
    step(c, u, b"MAIL FROM:<a@x.test> SIZE=1234\r\n", OK_MAIL)
    step(c, u, RCPT, OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    step(c, u, LONG, TAKEN)
    sid, tid = ids(rp)
    states = [r["protocol_state"] for r in srv.requests]
    t.equal(states, ["CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE"], "states")
    for r in srv.requests:
        t.equal(r["request"], "smtpd_access_policy", "request")
        t.equal(about(r, "client_address", "client_port"), c.sock.getsockname()[:1] + (str(c.sock.getsockname()[1]),), "client")
        t.equal(about(r, "client_name", "reverse_client_name"), ("unknown", "unknown"), "names")
        t.equal(about(r, "server_address", "server_port"), c.sock.getpeername()[:1] + (str(c.sock.getpeername()[1]),), "server")
        t.equal(r["policy_context"], "inbound", "context")
        t.equal(about(r, "sasl_method", "sasl_username", "encryption_protocol"), ("", "", ""), "not there")
    names = ("protocol_name", "helo_name", "sender", "recipient", "recipient_count", "size")
    bytes_ = str(rp.record("transaction")["bytes"])
    for r, want in zip(srv.requests, [
            ("SMTP", "", "", "", "0", "0"),
            ("ESMTP", "client.test", "", "", "0", "0"),
            ("ESMTP", "client.test", "a@x.test", "", "0", "1234"),
            ("ESMTP", "client.test", "a@x.test", "b@y.test", "0", "1234"),
            ("ESMTP", "client.test", "a@x.test", "b@y.test", "1", "1234"),
            ("ESMTP", "client.test", "a@x.test", "b@y.test", "1", bytes_)]):
        t.equal(about(r, *names), want, r["protocol_state"])
    t.equal({r["instance"] for r in srv.requests[2:]}, {"%x.%x" % (int(sid, 16), int(tid, 16))}, "instance")
    t.equal([r["queue_id"] for r in srv.requests], ["", ""] + [tid] * 4, "queue_id")
    t.equal({r["#"] for r in srv.requests}, {1}, "connections")


@test(quick=True)
def a_second_message_is_another_instance(t):
    """Two recipients: none of them is the only one. No SIZE=: nothing of the message before is left."""
    srv = PolicyServer(t)
    rp, up = policed(t, srv, events=["rcpt", "data"])
    c, u = opened(t, rp, up)
    data_open(c, u, mail=b"MAIL FROM:<a@x.test> SIZE=77\r\n")
    step(c, u, BODY, TAKEN)
    envelope(c, u, mail=b"MAIL FROM:<>\r\n")
    step(c, u, b"RCPT TO:<c@y.test>\r\n", OK_RCPT)
    step(c, u, b"DATA\r\n", GO)
    step(c, u, BODY, TAKEN)
    first, second = srv.requests[:2], srv.requests[2:]
    t.equal([len({r["instance"] for r in part}) for part in (first, second)], [1, 1], "instances")
    t.check(first[0]["instance"] != second[0]["instance"], "one instance for two messages")
    t.equal({r["size"] for r in first}, {"77"}, "size of the first")
    t.equal({about(r, "size", "sender") for r in second}, {("0", "")}, "size and sender of the second")
    t.equal(about(second[-1], "protocol_state", "recipient", "recipient_count"), ("DATA", "", "2"), "at DATA")


@test(quick=True)
def helo_and_bdat(t):
    srv = PolicyServer(t)
    rp, up = policed(t, srv, events=["ehlo", "data", "end-of-data"])
    c = rp.client()
    u = up.accept()
    greet(c, u)
    step(c, u, b"HELO old.test\r\n", b"250 hello\r\n")
    step(c, u, EHLO, ehlo_reply())
    envelope(c, u)
    step(c, u, b"BDAT 4\r\nabcd", b"250 2.0.0 4 octets\r\n")
    step(c, u, b"BDAT 4 LAST\r\nefgh", TAKEN)
    t.equal([about(r, "protocol_state", "protocol_name", "helo_name") for r in srv.requests], [
        ("HELO", "SMTP", "old.test"), ("EHLO", "ESMTP", "client.test"), ("DATA", "ESMTP", "client.test"),
        ("END-OF-MESSAGE", "ESMTP", "client.test")], "requests")


@test(quick=True)
def a_client_of_a_unix_socket(t):
    srv = PolicyServer(t)
    rp, up = policed(t, srv, listener={"bind": "unix:" + t.path("in"), "clients": "any"})
    c, u = opened(t, rp, up)
    message(c, u)
    t.equal(about(srv.requests[0], "client_address", "client_name", "client_port"), ("127.0.0.1", "localhost", "0"), "client")


@cases({e: e for e in ALL}, quick=True)
def refused_at(t, event):
    srv = PolicyServer(t, lambda r: "REJECT not here")
    rp, up = policed(t, srv, events=[event])
    c = rp.client()
    if event == "connect":
        c.reply(b"554 5.7.1 not here")
        c.ended()
        return
    u = up.accept()
    greet(c, u)
    steps = [("ehlo", EHLO, ehlo_reply()), ("mail", MAIL, OK_MAIL), ("rcpt", RCPT, OK_RCPT), ("data", b"DATA\r\n", GO)]
    for name, line, reply in steps:
        if name == event:
            c.send(line)
            c.reply(b"554 5.7.1 not here")
            return
        step(c, u, line, reply)
    c.send(BODY)
    c.reply(b"554 5.7.1 not here")
    no_end_seen(u, u.rest())


# ---- connections ----

@cases({"tcp": "127.0.0.1:0", "unix": None}, quick=True)
def one_connection_is_used_again(t, address):
    srv = PolicyServer(t, address=address or "unix:" + t.path("policy"))
    rp, up = policed(t, srv, events=["mail", "rcpt", "data"])
    for _ in range(3):
        c, u = opened(t, rp, up)
        message(c, u)
        message(c, u)
    t.equal((len(srv.requests), srv.connections), (18, 1), "requests, connections")
    stop = counters(rp, srv)
    t.equal((stop["policy_questions"], stop["policy_connections"], stop["policy_retries"]), (18, 1, 0), "counters")


@test(quick=True)
def kept_connections_end_with_the_process(t):
    srv = PolicyServer(t)
    rp, up = policed(t, srv)
    rp.leaks_allowed = True
    c, u = opened(t, rp, up)
    message(c, u)
    c.close()
    u.gone()
    rp.stop_now()
    t.until(lambda: srv.gone == 1, "the kept connection is closed")


@test(quick=True)
def bounded_in_its_connections(t):
    """Six sessions, two connections: two questions at a time, the others in their order."""
    srv = PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, srv, connections=2)
    pairs = [opened(t, rp, up) for _ in range(6)]
    for i, (c, u) in enumerate(pairs):
        step(c, u, MAIL, OK_MAIL)
        c.send(b"RCPT TO:<r%d@y.test>\r\n" % i)
        c.settle()
    srv.asked(2)
    for i in range(6):
        srv.asked(min(6, i + 2))
        t.equal(len(srv.requests), min(6, i + 2), "asked")
        who = int(srv.requests[i]["recipient"][1])
        srv.answer(i, "REJECT %d" % who)
        pairs[who][0].expect(b"554 5.7.1 %d\r\n" % who)
    t.equal(sorted(r["recipient"] for r in srv.requests), ["r%d@y.test" % i for i in range(6)], "all were asked about")
    t.equal((srv.connections, srv.most), (2, 2), "connections, at the same time")


@test(quick=True)
def no_room_in_the_queue(t):
    srv = PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, srv, connections=1, queue=1)
    pairs = [opened(t, rp, up) for _ in range(3)]
    for i, (c, u) in enumerate(pairs):
        step(c, u, MAIL, OK_MAIL)
        c.send(b"RCPT TO:<r%d@y.test>\r\n" % i)
        if i < 2:
            c.settle()
    pairs[2][0].reply(FAILED)
    for i in range(2):
        srv.asked(i + 1)
        srv.answer(i, "REJECT yes")
        pairs[i][0].expect(b"554 5.7.1 yes\r\n")
    t.check("under way" in rp.record("hook-warning")["text"], "the reason")
    stop = counters(rp, srv)
    t.equal((stop["policy_queue_full"], stop["hook_failures"]), (1, 1), "counters")


@test(quick=True)
def answers_in_odd_order(t):
    """Pipelined groups of several sessions; each gets its own answers, in its own order."""
    srv = PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, srv)
    n, pairs = 3, []
    for i in range(n):
        c, u = opened(t, rp, up)
        c.send(MAIL + b"".join(b"RCPT TO:<r%d-%d@y.test>\r\n" % (i, k) for k in range(3)))
        u.expect(MAIL).send(OK_MAIL)
        c.expect(OK_MAIL)
        srv.asked(i + 1)
        pairs.append((c, u))
    for _round in range(3):
        first = len(srv.requests) - n
        for i in reversed(range(first, first + n)):
            who = srv.requests[i]["recipient"]
            srv.answer(i, "REJECT about " + who)
            pairs[int(who[1])][0].expect(b"554 5.7.1 about %s\r\n" % who.encode())
        if _round < 2:
            srv.asked(first + 2 * n)
    t.equal(srv.connections, 3, "connections")


# ---- trouble ----

@cases({"closed": CLOSE, "reset": RESET, "half": (b"action=OK\n", CLOSE)}, quick=True)
def closed_without_an_answer(t, how):
    """On a connection that was kept: asked again at once, nobody notices."""
    srv = PolicyServer(t)
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    message(c, u)

    def once(request):
        srv.decide = lambda r: "DUNNO"
        return how
    srv.decide = once
    message(c, u)
    t.equal((len(srv.requests), srv.connections), (3, 2), "requests, connections")
    t.equal(srv.requests[1]["instance"], srv.requests[2]["instance"], "the same question")
    rp.no_record("hook-warning")
    stop = counters(rp, srv)
    t.equal((stop["policy_retries"], stop["hook_failures"]), (1, 0), "counters")


@test(quick=True)
def closed_on_new_connections_too(t):
    srv = PolicyServer(t, lambda r: CLOSE)
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    c.reply(FAILED)
    t.equal(len(srv.requests), 2, "tries")
    t.check("without an answer" in rp.record("hook-warning")["text"], "the reason")


@cases({"accept": "accept", "reject": "reject"}, quick=True)
def nobody_listens(t, outcome):
    srv = PolicyServer(t)
    srv.stop()
    rp, up = policed(t, srv, on_failure=outcome)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    if outcome == "accept":
        u.expect(RCPT).send(OK_RCPT)
        c.expect(OK_RCPT)
    else:
        c.reply(b"554 5.3.0")
    t.check("cannot be reached" in rp.record("hook-warning")["text"], "the reason")


@test(quick=True)
def it_starts_before_the_second_try(t):
    srv = PolicyServer(t)
    srv.stop()
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    c.settle()
    srv.start()
    u.expect(RCPT).send(OK_RCPT)
    c.expect(OK_RCPT)
    t.equal(len(srv.requests), 1, "requests")


@cases({"smtp": b"220 this is an MTA\r\n", "empty": b"\n", "nul": b"action=O\0K\n\n", "two": b"action=OK\naction=OK\n\n",
        "endless": b"x" * 5000, "no-action": b"a=b\n\n"}, quick=True)
def no_reply_at_all(t, said):
    srv = PolicyServer(t, lambda r: said)
    rp, up = policed(t, srv)
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    c.reply(FAILED)
    t.until(lambda: srv.gone == 1, "that connection is closed")
    srv.decide = lambda r: "DUNNO"
    step(c, u, RCPT, OK_RCPT)
    t.equal((len(srv.requests), srv.connections), (2, 2), "requests, connections")
    rp.record("hook-warning")


@test(quick=True)
def too_slow(t):
    """Behind the deadline the connection is out of step: its late answer must not become the next one's."""
    srv = PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, srv, connections=1, deadline="1s")
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    c.reply(FAILED)
    srv.answer(0, "REJECT late")
    srv.decide = lambda r: "DUNNO"
    step(c, u, RCPT, OK_RCPT)
    t.equal(srv.connections, 2, "connections")
    stop = counters(rp, srv)
    t.equal((stop["hook_deadlines"], stop["hook_failures"], stop["hook_late_answers"]), (1, 0, 0), "counters")


@cases({"asked": 1, "waiting": 2}, quick=True)
def the_client_leaves(t, which):
    srv = PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, srv, connections=1)
    pairs = [opened(t, rp, up) for _ in range(3)]
    for i, (c, u) in enumerate(pairs):
        step(c, u, MAIL, OK_MAIL)
        c.send(b"RCPT TO:<r%d@y.test>\r\n" % i)
        c.settle()
    srv.asked(1)
    gone, u = pairs[which - 1]
    srv.decide = lambda r: "REJECT"
    gone.reset()
    u.gone()
    if which == 2:
        srv.answer(0, "REJECT")
        pairs[0][0].reply(b"554")
    else:
        pairs[1][0].reply(b"554")
    pairs[2][0].reply(b"554")
    t.equal([r["recipient"][:2] for r in srv.requests], ["r0", "r1", "r2"] if which == 1 else ["r0", "r2"], "asked")
    t.equal(srv.connections, 2 if which == 1 else 1, "connections")


@test(quick=True)
def the_process_ends_amid_a_question(t):
    srv = PolicyServer(t, lambda r: HOLD)
    rp, up = policed(t, srv)
    rp.leaks_allowed = True
    c, u = opened(t, rp, up)
    step(c, u, MAIL, OK_MAIL)
    c.send(RCPT)
    srv.asked(1)
    c.ignore_rest = u.ignore_rest = True
    rp.stop_now()
    t.until(lambda: srv.gone == 1, "the connection is closed")


# ---- load ----

@test(serial=True, timeout=120)
def a_thousand_sessions_by_four_connections(t):
    srv, pol = t.auto(), PolicyServer(t, lambda r: "DUNNO" if r["sender"][-8] != "3" else "REJECT by its number")
    n = 1000 if t.slow == 1 else 250
    rp, _ = policed(t, pol, up=srv, events="mail", connections=4, queue=2 * n, deadline="1m", listener={"limits": {**OPEN, **NO_LIMIT}})
    crowd = Crowd(t, rp.address, n, per_session=4)
    crowd.start()
    crowd.until(lambda: len(crowd.acked) >= 3 * n, 60 * t.slow)
    crowd.finish(60 * t.slow)
    t.check(len(crowd.acked) >= 3 * n and len(crowd.refused) > 0, "%d taken, %d refused" % (len(crowd.acked), len(crowd.refused)))
    ledger(t, crowd, [srv])
    asked = {r["sender"][1:-7].encode(): r for r in pol.requests}
    t.equal(len(asked), len(pol.requests), "each was asked about once")
    t.check(crowd.acked | crowd.refused <= set(asked), "some were not asked about")
    t.equal({i for i in crowd.refused if i[-1:] != b"3"} | {i for i in crowd.acked if i[-1:] == b"3"}, set(), "got another's answer")
    t.equal((pol.connections, pol.most), (4, 4), "connections, at the same time")
    stop = counters(rp, pol)
    t.equal((stop["policy_questions"], stop["hook_failures"], stop["hook_deadlines"]), (len(pol.requests), 0, 0), "counters")


@cases({"tempfail": "tempfail", "accept": "accept"}, serial=True, timeout=120)
def killed_and_restarted_under_load(t, outcome):
    srv, pol = t.auto(), PolicyServer(t)
    n = 200 if t.slow == 1 else 60
    rp, _ = policed(t, pol, up=srv, workers=2, events="mail", on_failure=outcome, connections=8, listener={"limits": {**OPEN, **NO_LIMIT}})
    crowd = Crowd(t, rp.address, n, per_session=20)
    crowd.start()
    for round_ in range(4):
        before = len(crowd.acked)
        t.check(crowd.until(lambda: len(crowd.acked) >= before + n, 30 * t.slow), "messages flow in round %d" % round_)
        pol.stop(reset=round_ % 2 == 1)
        # Longer than the pause before the second try in one round of two.
        crowd.run(0.3 if round_ < 2 else 1.5)
        pol.start()
    before = len(crowd.acked)
    t.check(crowd.until(lambda: len(crowd.acked) >= before + n, 30 * t.slow), "messages flow at the end")
    crowd.finish(60 * t.slow)
    ledger(t, crowd, [srv])
    t.equal((crowd.lost, crowd.told_421), (0, 0), "sessions lost, told 421")
    stop = counters(rp, pol)
    t.check(stop["policy_retries"] > 0 and stop["hook_failures"] > 0, "nobody noticed four restarts")
    if outcome == "accept":
        t.equal(len(crowd.refused), 0, "refused")
    else:
        t.equal(len(crowd.refused), stop["hook_failures"], "refused, and failed questions")
