# SPDX-License-Identifier: GPL-3.0-or-later
"""ringpost where people put it: as smtpd_proxy_filter before the queue of Postfix, behind sendmail(1), before a server
that is away or that refuses; and what each client makes of the refusals."""
import re
import smtplib
import subprocess

from kit import bodies, clients, servers
from kit.clients import HELO, RawClient, port_of
from lib.core import Failure, cases, test

PLAIN = bodies.USUAL["plain"]
RULES = {"hooks": {"deny": {"type": "rules", "reject-recipients": ["no@rcpt.test"], "reply": "550 5.7.1 not this way"}}}
ONE = ("a@from.test", ["to@rcpt.test"], PLAIN)


@test(timeout=40)
def before_queue_filter(t):
    """client -> Postfix smtpd with smtpd_proxy_filter -> ringpost with rules -> Postfix smtpd -> sink. The client hears
    the replies of the far end, the envelope's first client goes along by XFORWARD."""
    behind = servers.Postfix(t, main={"smtpd_authorized_xforward_hosts": "127.0.0.0/8"})
    rp = t.ringpost(behind, listener={"hooks": ["deny"], "trusted": "127.0.0.1"}, conf=RULES)
    before = servers.PostfixInstance(t, behind.sink.port, main={"smtpd_proxy_filter": "127.0.0.1:%d" % port_of(rp)})
    messages = [("%s@from.test" % n, ["to@rcpt.test", "two@rcpt.test"], c) for n, c in bodies.USUAL.items()]
    before.inject(messages)
    with smtplib.SMTP("127.0.0.1", before.port, HELO, timeout=20 * t.slow) as c:
        try:
            c.sendmail("refused@from.test", ["no@rcpt.test"], PLAIN)
            t.fail("the rule did not reach the client")
        except smtplib.SMTPException as e:
            t.check("5.7.1 not this way" in str(e), "the client hears: %r" % e)
        c.sendmail("after@from.test", ["to@rcpt.test"], PLAIN)
    got = behind.by_sender(len(messages) + 1, 15)
    for sender, rcpts, content in messages:
        t.equal(got[sender.encode()].content, content, "the body of %s" % sender)
        t.equal(sorted(got[sender.encode()].rcpts), [b"to@rcpt.test", b"two@rcpt.test"], "the recipients of %s" % sender)
    t.check(b"refused@from.test" not in got, "the refused message came through")
    t.check(behind.logged(r"orig_client="), "Postfix was not told of the client:\n" + behind.log())


@test(timeout=40)
def sendmail_of_postfix(t):
    """Mail as the programs of a host send it: sendmail(1), the maildrop queue, smtp(8), ringpost."""
    as_root = servers.as_root()
    up = servers.Sink(t)
    rp = t.ringpost(up)
    own = servers.PostfixInstance(t, port_of(rp))
    body = b"Gr\xc3\xbc\xc3\x9fe\n.\n..\n.dot\n\nlast\n"
    subprocess.run(as_root + [servers.tool("sendmail"), "-C", own.dir + "/etc", "-i", "-B8BITMIME", "-f", "joe@from.test",
                              "to@rcpt.test", "two@rcpt.test"], input=b"Subject: x\n\n" + body, check=True,
                   timeout=20 * t.slow)
    m = up.wait(1, 15)[0]
    t.equal((m.sender, m.rcpts), (b"joe@from.test", [b"to@rcpt.test", b"two@rcpt.test"]), "the envelope")
    head, _, text = m.content.partition(b"\r\n\r\n")
    t.equal(text, body.replace(b"\n", b"\r\n"), "the body")
    t.check(b"Subject: x" in head, "the header %r" % head)


# ---- servers that are away ----

def swaks_hears(t, port, code):
    swaks = clients.Swaks(t)
    status, out = swaks.run(swaks.argv(port, *ONE), ok=None)
    t.check(status != 0 and re.search(code, out), "swaks: status %d\n%s" % (status, out))


def curl_hears(t, port, code):
    curl = clients.Curl(t, "--verbose")
    status, out = curl.run(["curl"] + curl.argv(port, *ONE), ok=None)
    t.check(status != 0 and re.search(code, out), "curl: status %d\n%s" % (status, out))


def smtplib_hears(t, port, code):
    try:
        clients.Smtplib(t).send(port, [ONE])
    except smtplib.SMTPResponseException as e:
        t.check(re.search(code, "%d %s" % (e.smtp_code, e.smtp_error.decode())), repr(e))
    except Failure as e:
        t.check(re.search(code.replace(" ", ".*"), str(e)), str(e))
    else:
        t.fail("smtplib is content")


def source_hears(t, port, code):
    source = clients.SmtpSource(t)
    said, status, out = source.load(port, 1, 1, "a@from.test")
    t.check(status != 0 and not said and re.search(code, out), "smtp-source: status %d\n%s" % (status, out))


def postfix_hears(t, port, code):
    client = clients.PostfixClient(t)
    try:
        client.send(port, [ONE])
        t.fail("Postfix delivered: %r" % client.statuses())
    except Failure:
        pass
    t.check([s for s in client.statuses() if s[0] in ("deferred", "bounced") and re.search(code, s[1])],
            "Postfix: %r" % client.statuses())


HEAR = {"swaks": swaks_hears, "curl": curl_hears, "smtplib": smtplib_hears, "smtp-source": source_hears,
        "postfix-client": postfix_hears}


@cases(HEAR, timeout=40)
def server_away(t, hears):
    """Nobody listens there: each client is told in SMTP, and takes it for a temporary failure."""
    rp = t.ringpost("127.0.0.1:%d" % servers.free_port())
    hears(t, port_of(rp), "421 4.4.1")


@test(timeout=40)
def postfix_client_waits_for_the_server(t):
    """Deferred while the server is away, delivered when it comes: mail lost or bounced in between would show."""
    up = servers.Postfix(t)
    up.stop()
    rp = t.ringpost(up, up={"retry-down": "100ms"})
    client = clients.PostfixClient(t)
    try:
        client.send(port_of(rp), [ONE])
    except Failure:
        pass
    t.check(client.statuses()[0][0] == "deferred", "the first attempt: %r" % client.statuses())
    up.start()
    t.equal(up.wait(1, 20)[0].content, PLAIN, "the body")
    t.until(lambda: client.statuses()[-1][0] == "sent", "the client's Postfix knows it")


@cases({c: HEAR[c] for c in HEAR if c != "postfix-client"}, timeout=40)
def refused_at_the_end(t, hears):
    """The server's refusal of the whole message is the client's."""
    up = servers.Sink(t, "--reply", "dot=554 5.7.1 no spam here")
    rp = t.ringpost(up)
    hears(t, port_of(rp), "554 5.7.1 no spam here")
    t.equal(rp.record("transaction")["result"], "rejected", "the result in the record")
    t.equal(up.messages(), [], "the messages")


@cases(HEAR, timeout=40)
def dies_after_the_dot(t, hears):
    """No client may take the lost reply for a success, and the log says in doubt."""
    up = servers.Sink(t, "--drop", "dot")
    rp = t.ringpost(up)
    hears(t, port_of(rp), "451 4.4.2")
    t.equal(rp.record("in-doubt")["from"], "a@from.test", "the sender in the in-doubt record")


@cases({c: HEAR[c] for c in HEAR if c != "postfix-client"}, timeout=40)
def too_big(t, hears):
    """By SIZE= where the client says it, at the end of the data where it does not."""
    up = servers.Sink(t)
    rp = t.ringpost(up, listener={"limits": {"message": "20"}})
    hears(t, port_of(rp), "552 5.3.4")
    t.equal(up.messages(), [], "the messages")


@test(timeout=30)
def lmtp_is_not_for_us(t):
    up = servers.Sink(t)
    rp = t.ringpost(up)
    said, status, out = clients.SmtpSource(t).load(port_of(rp), 1, 1, "a@from.test", "-L")
    t.check(status != 0 and "502 5.5.1" in out, "smtp-source -L:\n" + out)
    t.equal(up.messages(), [], "the messages")


@test(timeout=30)
def vrfy_and_help_of_curl(t):
    """Commands that bring no mail: the same words through ringpost as without it."""
    up = servers.Postfix(t)
    rp = t.ringpost(up)
    heard = []
    for port in (up.port, port_of(rp)):
        curl = clients.Curl(t)
        url = "smtp://127.0.0.1:%d/%s" % (port, HELO)
        heard.append([curl.run(["curl", "--silent", url, "--mail-rcpt", "to@rcpt.test"], ok=None),
                      curl.run(["curl", "--silent", url, "--request", "NOOP"], ok=None),
                      curl.run(["curl", "--silent", url, "--request", "HELP"], ok=None)])
    t.equal(heard[1], heard[0], "what curl shows")
    t.check("252" in heard[0][0][1], "VRFY of Postfix: %r" % (heard[0],))


@test(timeout=30)
def limits_of_one_client(t):
    """51 sessions from one address: the 51st is told so, the others go on."""
    up = servers.Sink(t)
    rp = t.ringpost(up)
    c = [RawClient(t, port_of(rp)) for _ in range(50)]
    smtplib_hears(t, port_of(rp), "421 4.7.0")
    for x in c:
        x.ehlo()
        x.quit()
    clients.Smtplib(t).send(port_of(rp), [ONE])
    t.equal(up.wait(1)[0].content, PLAIN, "the body")
