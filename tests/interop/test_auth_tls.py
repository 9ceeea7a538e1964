# SPDX-License-Identifier: GPL-3.0-or-later
"""AUTH passed through to ringpost-sink --auth, STARTTLS passed through to Postfix, or hidden."""
import base64
import smtplib
import ssl
import subprocess

from kit import bodies, clients, servers
from kit.clients import HELO, RawClient, port_of
from lib.core import Failure, cases, test

USER, PASSWORD = "joe@auth.test", "secret-pass-41"
PLAIN = bodies.USUAL["dots"]
PASS = {"starttls": "passthrough"}
TLS_MAIN = {"smtpd_tls_security_level": "may", "smtpd_tls_received_header": "yes", "smtpd_tls_loglevel": "1",
            "smtpd_tls_chain_files": "{dir}/etc/both.pem"}


def one(sender="a@from.test"):
    return [(sender, ["to@rcpt.test"], PLAIN)]


# ---- AUTH ----

def by_swaks(mechanism):
    return lambda t, port: clients.Swaks(t, "--auth", mechanism, "--auth-user", USER, "--auth-password",
                                         PASSWORD).send(port, one())


def by_curl(mechanism):
    return lambda t, port: clients.Curl(t, "--user", USER + ":" + PASSWORD, "--login-options",
                                        "AUTH=" + mechanism).send(port, one())


def by_smtplib(mechanism, initial):
    def run(t, port):
        with smtplib.SMTP("127.0.0.1", port, HELO, timeout=20 * t.slow) as c:
            c.ehlo()
            c.user, c.password = USER, PASSWORD
            try:
                c.auth(mechanism, getattr(c, "auth_" + mechanism.lower()), initial_response_ok=initial)
            except smtplib.SMTPException as e:
                raise Failure("smtplib: %r" % e)
            clients.Smtplib.one(c, *one()[0])
    return run


LOGINS = {}
for _m in ("PLAIN", "LOGIN"):
    LOGINS["swaks-" + _m] = (_m, by_swaks(_m))
    LOGINS["curl-" + _m] = (_m, by_curl(_m))
    LOGINS["smtplib-%s-initial" % _m] = (_m, by_smtplib(_m, True))
    LOGINS["smtplib-%s-334" % _m] = (_m, by_smtplib(_m, False))


def no_secrets(t, rp):
    log = rp.raw_log() + rp.stderr().encode()
    for secret in (PASSWORD, USER + "\0" + PASSWORD):
        for how in (secret.encode(), base64.b64encode(secret.encode()).rstrip(b"="),
                    base64.b64encode(b"\0" + secret.encode()).rstrip(b"=")):
            t.check(how not in log, "the log shows the password")


@cases(LOGINS, timeout=30)
def auth(t, how):
    mechanism, login = how
    up = servers.Sink(t, "--auth")
    rp = t.ringpost(up)
    login(t, port_of(rp))
    t.check(PLAIN in (m := up.wait(1)[0].content) and len(m) - len(PLAIN) <= 2, "the body is another one")
    rec = rp.record("session")
    t.equal(rec.get("auth"), mechanism, "the mechanism in the session's record %r" % rec)
    no_secrets(t, rp)


@cases({"swaks": LOGINS["swaks-LOGIN"][1], "curl": LOGINS["curl-PLAIN"][1],
        "smtplib": LOGINS["smtplib-LOGIN-334"][1]}, timeout=30)
def auth_refused(t, login):
    up = servers.Sink(t, "--auth", "--reply", "auth=535 5.7.8 wrong password")
    rp = t.ringpost(up)
    try:
        login(t, port_of(rp))
    except Failure as e:
        t.check("Failure" not in str(e) or "535" in str(e), str(e))
    else:
        t.fail("the client does not mind that AUTH was refused")
    rp.record("session")
    t.equal(up.messages(), [], "the messages")
    no_secrets(t, rp)


# ---- STARTTLS ----

def tls_postfix(t):
    """A Postfix with a self-signed certificate."""
    key, cert = t.path("key.pem"), t.path("cert.pem")
    try:
        subprocess.run([servers.tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=postfix.test", "-keyout",
                        key, "-out", cert], check=True, capture_output=True, timeout=20 * t.slow)
    except subprocess.CalledProcessError as e:
        raise Failure("openssl: %s" % e.stderr)
    return servers.Postfix(t, main=TLS_MAIN, files={"both.pem": open(key).read() + open(cert).read()})


def unverified():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def tls_smtplib(t, port, messages):
    with smtplib.SMTP("127.0.0.1", port, HELO, timeout=20 * t.slow) as c:
        c.starttls(context=unverified())
        for m in messages:
            clients.Smtplib.one(c, *m)


TLS_CLIENTS = {
    "swaks": lambda t, port, ms: clients.Swaks(t, "--tls").send(port, ms),
    "curl": lambda t, port, ms: clients.Curl(t, "--ssl-reqd", "--insecure").send(port, ms),
    "smtplib": tls_smtplib,
    "postfix-client": lambda t, port, ms: clients.PostfixClient(
        t, {"smtp_tls_security_level": "encrypt", "smtp_tls_loglevel": "1"}).send(port, ms),
}


@cases(TLS_CLIENTS, timeout=40)
def starttls_passed_through(t, send):
    up = tls_postfix(t)
    rp = t.ringpost(up, listener=PASS)
    content = bodies.USUAL["medium"]
    send(t, port_of(rp), [("a@from.test", ["to@rcpt.test"], content)])
    m = up.sink.wait(1, 10)[0]
    t.check(b"(using TLS" in m.content, "Postfix did not get it by TLS")
    rest = servers.without_received(m.content)
    t.check(rest.startswith(content) and len(rest) - len(content) <= 2, "the body is another one")
    rec = rp.record("session")
    t.check(rec.get("tls_opaque") is True, "the session's record does not say tls_opaque: %r" % rec)
    t.equal(rp.records("transaction"), [], "transactions that nobody can have seen")


@cases({"copy": "copy", "splice": "splice", "ring-splice": "ring-splice", "zero-copy": "zero-copy"}, timeout=60)
def starttls_movers(t, mover):
    """Both directions, 5 MB, and several messages in a session, by every mover."""
    up = tls_postfix(t)
    rp = t.ringpost(up, listener=PASS, up={"mover": mover})
    content = bodies.big(5000000)
    tls_smtplib(t, port_of(rp), [("%d@from.test" % i, ["to@rcpt.test"], c) for i, c in
                                 enumerate([content, PLAIN, content[:100000] + b"\r\n", PLAIN])])
    got = up.by_sender(4, 15)
    t.equal(got[b"0@from.test"].content, content, "the 5 MB")
    t.equal(got[b"2@from.test"].content, content[:100000] + b"\r\n", "the 100 KB")


@test(timeout=30)
def starttls_hidden(t):
    """`starttls: none` is the default: clients that want TLS see none, clients that may go on without it."""
    up = tls_postfix(t)
    rp = t.ringpost(up)
    port = port_of(rp)
    c = RawClient(t, up.port)
    t.check(b"STARTTLS" in c.ehlo(), "Postfix does not offer STARTTLS itself")
    c.quit()
    c = RawClient(t, port)
    t.check(b"STARTTLS" not in c.ehlo(), "STARTTLS is shown")
    c.say(b"STARTTLS\r\n", b"502 5.5.1")
    c.quit()
    swaks = clients.Swaks(t, "--tls")
    t.equal(swaks.run(swaks.argv(port, *one()[0]), ok=None)[0], 29, "the status of swaks (29: no TLS)")
    curl = clients.Curl(t, "--ssl-reqd", "--insecure")
    t.equal(curl.run(["curl"] + curl.argv(port, *one()[0]), ok=None)[0], 64, "the status of curl (64: no TLS)")
    try:
        tls_smtplib(t, port, one())
        t.fail("smtplib got TLS")
    except smtplib.SMTPNotSupportedError:
        pass
    t.equal(up.messages(), [], "the messages")
    clients.PostfixClient(t, {"smtp_tls_security_level": "may"}).send(port, one("clear@from.test"))
    t.equal(up.wait(1, 10)[0].sender, b"clear@from.test", "the sender")
