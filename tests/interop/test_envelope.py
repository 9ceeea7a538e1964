# SPDX-License-Identifier: GPL-3.0-or-later
"""Envelopes and sessions: SMTPUTF8, many recipients, many messages, parameters, pipelining clients behind and before
servers that do not pipeline, refusals by rules and by the server while the rest of a message goes through."""
import re
import smtplib

from kit import bodies, clients, servers
from kit.clients import HELO, RawClient, port_of, stuffed
from lib.core import Failure, cases, test

PLAIN = bodies.USUAL["plain"]
UTF8 = {c: clients.KINDS[c] for c in ("smtplib", "curl", "postfix-client")}
RULES = {"hooks": {"deny": {"type": "rules", "reject-recipients": ["no@rcpt.test", "@.bad.test"],
                            "reject-senders": ["@spam.test"], "reply": "550 5.7.1 not this way"}}}
WANT = ["yes1@rcpt.test", "no@rcpt.test", "x@deep.bad.test", "yes2@rcpt.test"]


def same_body(t, m, content):
    got = servers.without_received(m.content)
    t.check(got.startswith(content) and len(got) - len(content) in (0, 2), "the body is another one")


def same_rcpts(t, m, rcpts, ordered=False):
    """Postfix sorts them and smtp-source counts down."""
    got = [r.decode() for r in m.rcpts]
    t.equal(got if ordered else sorted(got), rcpts if ordered else sorted(rcpts), "the recipients")


# ---- SMTPUTF8 ----

@cases({"%s-%s" % (c, s): (UTF8[c], servers.KINDS[s]) for c in UTF8 for s in ("sink", "postfix")}, timeout=40)
def smtputf8(t, pair):
    client, server = pair
    up = server(t)
    rp = t.ringpost(up)
    sender, rcpts = "grüße@from.test", ["用户@rcpt.test", "plain@rcpt.test"]
    client(t).send(port_of(rp), [(sender, rcpts, bodies.USUAL["latin1"])])
    m = up.wait(1, 10)[0]
    t.equal(m.sender.decode(), sender, "the sender")
    same_rcpts(t, m, rcpts)
    t.check(b"SMTPUTF8" in m.params, "SMTPUTF8 got lost: %r" % m.params)
    same_body(t, m, bodies.USUAL["latin1"])
    rec = rp.record("transaction")
    t.equal((rec["from"], rec["to"] in rcpts, rec["rcpts"]), (sender, True, 2), "the record")


# ---- many recipients ----

@cases({"%s-%s" % (c, s): (c, s) for c in clients.KINDS for s in servers.KINDS}, timeout=40)
def hundred_recipients(t, pair):
    client, server = pair
    up = servers.KINDS[server](t)
    rp = t.ringpost(up)
    rcpts = ["%dr@rcpt.test" % i for i in range(1, 101)]
    program = clients.KINDS[client](t)
    if client == "smtp-source":
        t.equal(program.load(port_of(rp), 1, 1, "a@from.test", "-r", "100", "-l", "2000")[1], 0, "its status")
        rcpts = ["%dto@load.test" % i for i in range(2, 101)] + ["to@load.test"]
    else:
        program.send(port_of(rp), [("a@from.test", rcpts, PLAIN)])
    m = up.wait(1, 15)[0]
    same_rcpts(t, m, rcpts, ordered="postfix" not in client + server and client != "smtp-source")
    if client != "smtp-source" and server != "smtp-sink":
        same_body(t, m, PLAIN)
    rec = rp.record("transaction")
    t.equal((rec["rcpts"], rec["rcpts_refused"], rec["result"]), (100, 0, "accepted"), "the record")


# ---- many messages, many sessions ----

@test(timeout=40)
def smtplib_many_in_a_session(t):
    up = servers.Sink(t)
    rp = t.ringpost(up)
    sent = {"%d@from.test" % i: bodies.message("%d" % i, *[b".%d" % n for n in range(i % 40)]) for i in range(300)}
    clients.Smtplib(t).send(port_of(rp), [(s, ["to@rcpt.test"], c) for s, c in sent.items()])
    got = up.by_sender(300)
    for sender, content in sent.items():
        t.equal(got[sender.encode()].content, content, "the body of %s" % sender)
    t.equal(rp.record("session")["messages"], 300, "messages in the session's record")


@test(timeout=40)
def curl_many_in_a_session(t):
    up = servers.Sink(t)
    rp = t.ringpost(up)
    clients.Curl(t).send(port_of(rp), [("%d@from.test" % i, ["to@rcpt.test"], PLAIN) for i in range(20)])
    t.equal(len(up.by_sender(20)), 20, "messages")
    t.equal(rp.record("session")["messages"], 20, "messages in the session's record")


@test(timeout=40)
def postfix_client_reuses_its_session(t):
    """smtp(8) with its connection cache: RSET and a new transaction in a session that lay idle."""
    up = servers.Postfix(t)
    rp = t.ringpost(up)
    program = clients.PostfixClient(t, {"smtp_connection_cache_destinations": "static:all",
                                        "smtp_destination_concurrency_limit": "1"})
    messages = [("%d@from.test" % i, ["to@rcpt.test"], bodies.USUAL["dots"]) for i in range(30)]
    program.send(port_of(rp), messages)
    got = up.by_sender(30, 15)
    for m in got.values():
        same_body(t, m, bodies.USUAL["dots"])
    program.instance.finish()
    t.until(lambda: sum(r["messages"] for r in rp.records("session")) == 30, "the session records")
    t.check(len(rp.records("session")) < 15, "%d sessions for 30 messages" % len(rp.records("session")))


@cases({"sink": servers.Sink, "smtp-sink": servers.SmtpSink}, timeout=60)
def smtp_source_load(t, server):
    """1,500 messages in 30 sessions at a time, one a session and then many a session."""
    up = server(t)
    rp = t.ringpost(up, workers=2, listener={"limits": {"per-client-sessions": 0}})
    source = clients.SmtpSource(t)
    for count, options in ((500, ("-r", "3")), (1000, ("-d", "-N"))):
        said, status, out = source.load(port_of(rp), 30, count, "a@from.test", "-l", "5000", *options)
        t.equal((status, len(said)), (0, count), "status and replies of smtp-source:\n" + out[-1000:])
    t.until(lambda: up.count() == 1500, "1,500 messages", 15)
    t.until(lambda: len(rp.records("transaction", result="accepted")) == 1500, "the records")
    t.equal(sum(len(m.rcpts) for m in up.messages()), 500 * 3 + 1000, "recipients")
    t.equal(rp.stop_now()["messages_accepted"], 1500, "messages_accepted")


@test(timeout=40)
def smtp_source_to_postfix(t):
    up = servers.Postfix(t)
    rp = t.ringpost(up, workers=2)
    said, status, out = clients.SmtpSource(t).load(port_of(rp), 10, 200, "a@from.test", "-l", "20000", "-N")
    t.equal((status, len(set(said))), (0, 200), "status and replies of smtp-source:\n" + out[-1000:])
    t.until(lambda: up.count() >= 200, "200 messages", 20)
    t.equal(up.count(), 200, "messages behind Postfix")
    t.equal(len({m.rcpts[0] for m in up.messages()}), 200, "different recipients")


# ---- pipelining ----

@cases({"swaks": lambda t: clients.Swaks(t, "--pipeline"), "postfix-client": clients.PostfixClient}, timeout=40)
def pipelining_before_a_server_without(t, client):
    """ringpost offers PIPELINING itself and goes step by step behind a server that does not: it is never early."""
    up = servers.Sink(t, "--no-pipelining")
    rp = t.ringpost(up)
    rcpts = ["%d@rcpt.test" % i for i in range(30)]
    client(t).send(port_of(rp), [("%d@from.test" % n, rcpts, bodies.USUAL["dots"]) for n in range(3)])
    for m in up.by_sender(3, 10).values():
        same_rcpts(t, m, rcpts)
        same_body(t, m, bodies.USUAL["dots"])
    stats = up.stats()
    t.equal((stats["early_input"], stats["messages"]), (0, 3), "early_input and messages of the sink")


@cases(servers.KINDS, timeout=40)
def swaks_pipelines(t, server):
    """A refused recipient in the middle of a group keeps its place."""
    up = server(t)
    rp = t.ringpost(up, listener={"hooks": ["deny"]}, conf=RULES)
    program = clients.Swaks(t, "--pipeline")
    out = program.one(port_of(rp), "a@from.test", WANT, PLAIN)
    told = re.findall(r"^<(?:-|\*\*) +(\d\d\d) ", out, re.M)
    t.equal(told, ["220", "250", "250", "250", "550", "550", "250", "354", "250", "221"], "the replies in\n" + out)
    t.equal(up.wait(1, 10)[0].rcpts, [b"yes1@rcpt.test", b"yes2@rcpt.test"], "the recipients")


# ---- parameters ----

@test(timeout=30)
def dsn_parameters(t):
    up = servers.Sink(t)
    rp = t.ringpost(up)
    with smtplib.SMTP("127.0.0.1", port_of(rp), HELO, timeout=20 * t.slow) as c:
        c.sendmail("a@from.test", ["to@rcpt.test"], PLAIN, ["RET=HDRS", "ENVID=x+2B41", "BODY=8BITMIME"],
                   ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;o+2Brig@x.test"])
    m = up.wait(1)[0]
    t.check(b"RET=HDRS ENVID=x+2B41 BODY=8BITMIME" in m.params, "the MAIL parameters are %r" % m.params)
    env = open(up.files()[0][:-3] + "env").read()
    t.check("NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o+2Brig@x.test" in env, "the RCPT parameters are in %r" % env)


@test(timeout=30)
def dsn_from_postfix(t):
    """The server's own success notification comes back to the sender it was asked by."""
    up = servers.Postfix(t)
    rp = t.ringpost(up)
    with smtplib.SMTP("127.0.0.1", port_of(rp), HELO, timeout=20 * t.slow) as c:
        c.sendmail("a@from.test", ["to@rcpt.test"], PLAIN, ["ENVID=id41"], ["NOTIFY=SUCCESS"])
    got = up.by_sender(1, 10)
    t.check(b"NOTIFY=SUCCESS" in open(up.sink.files()[0][:-3] + "env", "rb").read() or b"" in got, "NOTIFY got lost")


# ---- refusals ----

@test(timeout=30)
def rules_before_smtplib(t):
    """As a filter before the queue of Postfix: some recipients are refused, the message goes to the others."""
    up = servers.Postfix(t)
    rp = t.ringpost(up, listener={"hooks": ["deny"]}, conf=RULES)
    with smtplib.SMTP("127.0.0.1", port_of(rp), HELO, timeout=20 * t.slow) as c:
        refused = c.sendmail("a@from.test", WANT, PLAIN)
        t.equal(refused, {r: (550, b"5.7.1 not this way") for r in WANT[1:3]}, "what smtplib says")
        try:
            c.sendmail("x@spam.test", WANT, PLAIN)
            t.fail("the sender was not refused")
        except smtplib.SMTPSenderRefused as e:
            t.equal((e.smtp_code, e.smtp_error), (550, b"5.7.1 not this way"), "what smtplib says")
        try:
            c.sendmail("a@from.test", WANT[1:3], PLAIN)
            t.fail("the recipients were not refused")
        except smtplib.SMTPRecipientsRefused as e:
            t.equal(len(e.recipients), 2, "refused recipients")
        c.sendmail("b@from.test", WANT[:1], PLAIN)
    got = up.by_sender(2, 10)
    t.equal({s: m.rcpts for s, m in got.items()}, {b"a@from.test": [b"yes1@rcpt.test", b"yes2@rcpt.test"],
                                                   b"b@from.test": [b"yes1@rcpt.test"]}, "what Postfix took")
    rec = rp.record("transaction", result="accepted")
    t.equal((rec["rcpts"], rec["rcpts_refused"]), (2, 2), "the record")
    t.check("x@spam.test" not in up.log(), "Postfix heard of the refused sender")
    t.check("bad.test" not in up.log(), "Postfix heard of a refused recipient")


@test(timeout=40)
def rules_before_postfix_client(t):
    """The client's Postfix bounces what the rules refused, in ringpost's words, and the bounce comes by the same way."""
    up = servers.Postfix(t)
    rp = t.ringpost(up, listener={"hooks": ["deny"]}, conf=RULES)
    program = clients.PostfixClient(t)
    try:
        program.send(port_of(rp), [("a@from.test", WANT, PLAIN)])
    except Failure as e:
        t.check("not this way" in str(e), str(e))
    got = up.by_sender(2, 15)
    t.equal(got[b"a@from.test"].rcpts, [b"yes1@rcpt.test", b"yes2@rcpt.test"], "the recipients")
    t.equal(got[b""].rcpts, [b"a@from.test"], "who gets the bounce")
    bounce = got[b""].content
    t.check(bounce.count(b"550 5.7.1 not this way") >= 2, "the bounce does not quote the rule:\n%r" % bounce)
    said = program.statuses()
    t.equal(sorted(s[0] for s in said)[:4], ["bounced", "bounced", "sent", "sent"], "what the client's Postfix says")


@test(timeout=30)
def rules_before_curl(t):
    up = servers.SmtpSink(t)
    rp = t.ringpost(up, listener={"hooks": ["deny"]}, conf=RULES)
    curl = clients.Curl(t)
    t.equal(curl.run(["curl"] + curl.argv(port_of(rp), "x@spam.test", WANT, PLAIN), ok=None)[0], 55, "curl: MAIL refused")
    t.equal(curl.run(["curl"] + curl.argv(port_of(rp), "a@from.test", WANT, PLAIN), ok=None)[0], 55, "curl: RCPT refused")
    curl.run(["curl", "--mail-rcpt-allowfails"] + curl.argv(port_of(rp), "b@from.test", WANT, PLAIN))
    t.equal([m.rcpts for m in up.messages() if m.sender == b"b@from.test"], [[b"yes1@rcpt.test", b"yes2@rcpt.test"]],
            "what the server took")


@test(timeout=30)
def refusals_of_postfix_pass_unchanged(t):
    up = servers.Postfix(t, main={"smtpd_recipient_restrictions": "check_recipient_access inline:{{ {{no@rcpt.test=554 "
                                  "5.7.1 gone away}} }}", "message_size_limit": "100000"})
    rp = t.ringpost(up)
    texts = []
    for port in (up.port, port_of(rp)):
        swaks = clients.Swaks(t, "--pipeline")
        out = swaks.one(port, "a@from.test", WANT, PLAIN)
        texts.append(re.findall(r"^<.*554.*$", out, re.M))
        c = RawClient(t, port)
        c.ehlo()
        texts[-1].append(c.say(b"MAIL FROM:<a@from.test> SIZE=100001\r\n", b"552"))
        texts[-1].append(c.say(b"VRFY <to@rcpt.test>\r\n", b"252"))
        texts[-1].append(c.say(b"FROB x\r\n", b"50"))
        c.say(b"RSET\r\n", b"250")  # or this Postfix remembers the SIZE
        texts[-1].append(c.data("a@from.test", ["to@rcpt.test"], stuffed(bodies.big(150000)) + b".\r\n", b"552"))
        c.quit()
    t.check(len(texts[0]) == 5, "the replies are %r" % texts[0])
    t.equal(texts[1], texts[0], "the replies of Postfix")


# ---- XCLIENT ----

@test(timeout=90)
def xclient(t):
    """Hidden from everybody, passed for `trusted`: Postfix then believes what swaks says."""
    up = servers.Postfix(t, main={"smtpd_authorized_xclient_hosts": "127.0.0.0/8",
                                  "relay_domains": "rcpt.test",
                                  "smtpd_relay_restrictions": "reject_unauth_destination"})
    c = RawClient(t, up.port)
    t.check(b"XCLIENT" in c.ehlo(), "Postfix does not offer XCLIENT itself")
    c.sock.close()
    hidden, shown = t.ringpost(up), t.ringpost(up, listener={"trusted": "127.0.0.1"})
    swaks = clients.Swaks(t, "--xclient", "NAME=seen.test ADDR=192.0.2.41")
    status, out = swaks.run(swaks.argv(port_of(hidden), "a@from.test", ["to@rcpt.test"], PLAIN), ok=None)
    t.check(status != 0 and "XCLIENT" not in re.sub(r"\*\*\*.*", "", out), "XCLIENT is shown (%d):\n%s" % (status, out))
    c = RawClient(t, port_of(hidden))
    c.ehlo()
    c.say(b"XCLIENT NAME=seen.test ADDR=192.0.2.41\r\n", b"502 5.5.1")
    c.quit()
    swaks.one(port_of(shown), "b@from.test", ["to@rcpt.test"], PLAIN)
    t.equal(up.wait(1, 10)[0].sender, b"b@from.test", "the sender")
    t.check("client=seen.test[192.0.2.41]" in up.log(), "Postfix does not know the client:\n" + up.log())


@test(timeout=30)
def xforward_is_hidden(t):
    """A Postfix that would send XFORWARD to smtp-sink, which offers it, is not shown it, and delivers."""
    up = servers.SmtpSink(t)
    rp = t.ringpost(up)
    program = clients.PostfixClient(t, {"smtp_send_xforward_command": "yes"})
    program.send(port_of(rp), [("a@from.test", ["to@rcpt.test"], PLAIN)])
    t.equal(up.wait(1)[0].sender, b"a@from.test", "the sender")
    t.equal(rp.stop_now()["commands_local"], 0, "commands answered by ringpost")


@test(timeout=30)
def xforward_for_trusted(t):
    up = servers.Postfix(t, main={"smtpd_authorized_xforward_hosts": "127.0.0.0/8"})
    rp = t.ringpost(up, listener={"trusted": "127.0.0.1"})
    program = clients.PostfixClient(t, {"smtp_send_xforward_command": "yes"})
    program.send(port_of(rp), [("a@from.test", ["to@rcpt.test"], PLAIN)])
    t.equal(up.wait(1, 10)[0].sender, b"a@from.test", "the sender")
    t.check(up.logged(r"client=.*orig_queue_id=\w+, orig_client="), "Postfix does not know the first client:\n" + up.log())
