# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates of the running process: files that are no good, HUP, what new handshakes and old sessions see of it,
expiry, ticket keys, the key log."""
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time

from lib.core import Skip, cases, test
from lib.peers import sockaddr
from lib.smtp import BODY, EHLO, MAIL, RCPT

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))


# ---- certificates ----

def made(t, name):
    """A file that tests/certs.sh makes, once for the source tree."""
    where = os.path.join(ROOT, "build", "test-certs")
    subprocess.run(["sh", os.path.join(ROOT, "tests/certs.sh"), where], check=True, timeout=t.wait * 12)
    return os.path.join(where, name)


def put(t, name, mode=0o600):
    """The pair `name` becomes the one that the configuration names: files are replaced as renewing programs do."""
    for end in (".pem", ".key"):
        new = t.path("new")
        shutil.copyfile(made(t, name + end), new)
        os.chmod(new, mode)
        os.rename(new, t.path("mx" + end))


def leaf(t, name):
    """The certificate itself, DER."""
    with open(made(t, name + ".pem")) as f:
        return ssl.PEM_cert_to_DER_cert(f.read().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n")


def conf(t, **more):
    return dict({"certificates": {"mx": {"chain": t.path("mx.pem"), "key": t.path("mx.key")}}}, **more)


OFFER = {"starttls": {"mode": "offer", "certificates": "mx"}}
MANY = {"per-client-sessions": 0}


def terminating(t, name="ecdsa", workers=1, conf_more=None, listener_more=None, **kw):
    """(ringpost that offers STARTTLS with this pair, an upstream that answers by itself)"""
    up = t.auto()
    put(t, name)
    listener = dict(OFFER, limits=MANY, **(listener_more or {}))
    return t.ringpost(up, listener=listener, conf=conf(t, **(conf_more or {})), workers=workers, **kw), up


# ---- a client ----

class Client:
    """One session of Python's ssl; every wait is bounded."""

    def __init__(self, t, rp):
        self.t = t
        self.sock = socket.create_connection(sockaddr(rp.address), t.wait)
        self.buf = b""

    def reply(self, code):
        while True:
            lines = self.buf.split(b"\r\n")
            for i, line in enumerate(lines[:-1]):
                if line[3:4] == b" ":
                    got = b"\r\n".join(lines[:i + 1])
                    self.buf = b"\r\n".join(lines[i + 1:])
                    self.t.check(got.startswith(code), "a reply %r, not %r" % (code, got))
                    return got
            data = self.sock.recv(65536)
            self.t.check(data, "the connection ended while waiting for %r; got %r" % (code, self.buf))
            self.buf += data

    def say(self, line, code):
        self.sock.sendall(line)
        return self.reply(code)

    def secure(self, ctx):
        self.reply(b"220")
        self.say(EHLO, b"250")
        self.say(b"STARTTLS\r\n", b"220")
        self.sock = ctx.wrap_socket(self.sock, server_hostname="mx.example.org")
        self.say(EHLO, b"250")
        return self

    def certificate(self):
        return self.sock.getpeercert(binary_form=True)

    def mail(self, body=BODY):
        self.say(MAIL, b"250")
        self.say(RCPT, b"250")
        self.say(b"DATA\r\n", b"354")
        self.say(body, b"250")

    def quit(self):
        self.say(b"QUIT\r\n", b"221")
        self.sock.close()


def trusting(t):
    ctx = ssl.create_default_context(cafile=made(t, "ca.pem"))
    ctx.minimum_version = ssl.TLSVersion.TLSv1_2
    return ctx


def shown(t, rp):
    """The certificate that a new session gets."""
    c = Client(t, rp).secure(trusting(t))
    der = c.certificate()
    c.quit()
    return der


def renew(t, rp, good=True):
    """HUP, and the record that says how it went."""
    word = "HUP: certificates, keys and CAs " + ("have been read anew" if good else "stay as they were")

    def said():
        return sum(r["note"].startswith(word) for r in rp.records("note" if good else "warning"))
    before = said()
    rp.signal(signal.SIGHUP)
    t.until(lambda: said() > before, word)


# ---- files that are no good ----

def program(t, *args):
    p = subprocess.run([os.path.join(t.build, "ringpost")] + list(args), capture_output=True, timeout=t.wait * 4)
    return p.returncode, (p.stdout + p.stderr).decode("utf-8", "replace")


def written(t, certificates, rest="", starttls="{mode: offer, certificates: mx}", up=""):
    path = t.path("c.yaml")
    with open(path, "w") as f:
        f.write("certificates:\n  mx: %s\n%slisteners:\n  in: {bind: 127.0.0.1:0, upstream: mta, starttls: %s}\n"
                "upstreams:\n  mta: {servers: 127.0.0.1:25%s}\n" % (certificates, rest, starttls, up))
    return path


PAIR = "{chain: %(dir)s/mx.pem, key: %(dir)s/mx.key}"
BAD = {
    "no-chain": ("{chain: %(dir)s/none.pem, key: %(dir)s/mx.key}", {}, "c.yaml:2:7: certificates `mx`: ", "none.pem: "),
    "no-key": ("{chain: %(dir)s/mx.pem, key: %(dir)s/none.key}", {}, "c.yaml:2:7: certificates `mx`: ", "none.key: "),
    "other-key": ("{chain: %(dir)s/mx.pem, key: %(dir)s/rsa.key}", {}, "c.yaml:2:7: certificates `mx`: ", "rsa.key: "),
    "nonsense": ("{chain: %(dir)s/c.yaml, key: %(dir)s/mx.key}", {}, "c.yaml:2:7: certificates `mx`: ", "c.yaml: "),
    "second-of-a-list": ("[" + PAIR + ", {chain: %(dir)s/none.pem, key: %(dir)s/mx.key}]", {}, "c.yaml:2:", "none.pem: "),
    "no-client-ca": (PAIR, {"starttls": "{mode: require, certificates: mx, client-certificates: optional, client-ca: %(dir)s/none.pem}"},
                     "c.yaml:4:3: listener `in`: ", "none.pem: "),
    "unknown-cipher": (PAIR, {"starttls": "{mode: implicit, certificates: mx, ciphers: NO-SUCH-THING}"}, "c.yaml:4:3: listener `in`: ", ""),
    "no-ca": (PAIR, {"up": ", tls: {mode: verify, name: a.b, ca: %(dir)s/none.pem}"}, "c.yaml:6:3: upstream `mta`: ", "none.pem: "),
    "no-ticket-keys": (PAIR, {"rest": "tls: {ticket-keys: %(dir)s/none}\n"}, "c.yaml:3:1: tls: ", "none: "),
}


@cases(BAD, quick=True)
def bad_file_exits_78(t, bad):
    certificates, more, place, file = bad
    put(t, "ecdsa")
    shutil.copyfile(made(t, "rsa.key"), t.path("rsa.key"))
    path = written(t, certificates % {"dir": t.dir}, **{k: v % {"dir": t.dir} for k, v in more.items()})
    for what in ("check", "run"):
        status, out = program(t, what, "-c", path)
        t.equal(status, 78, what + ":\n" + out)
        t.check(any(place in line and file in line for line in out.split("\n")), "%s and %s in\n%s" % (place, file, out))


@test(quick=True)
def all_bad_files_in_one_run(t):
    """Also those that other parts want."""
    put(t, "ecdsa")
    path = written(t, "[{chain: /none/a.pem, key: /none/a.key}, {chain: /none/b.pem, key: /none/b.key}]",
                   rest="tls: {ticket-keys: /none/tickets}\n", up=", tls: {mode: require, ca: /none/ca.pem}")
    with open(path, "a") as f:
        f.write("hooks:\n  gone: {type: lua, file: /none/script.lua}\n")
    for what in ("check", "run"):
        status, out = program(t, what, "-c", path)
        t.equal(status, 78, what + ":\n" + out)
        for name in ("/none/a.", "/none/b.", "/none/tickets: ", "/none/ca.pem: ", "hook `gone`: "):
            t.check(name in out, "%s: no %s in\n%s" % (what, name, out))


@test(quick=True)
def check_says_until_when(t):
    put(t, "expired")
    status, out = program(t, "check", "-c", written(t, PAIR % {"dir": t.dir}))
    t.equal(status, 0, out)
    t.check("mx.pem: has expired (2020-02-01T00:00:00Z)\n" in out, out)
    t.check("warning" not in out, out)
    put(t, "ecdsa", mode=0o644)
    status, out = program(t, "check", "-c", written(t, PAIR % {"dir": t.dir}))
    t.equal(status, 0, out)
    t.check("mx.pem: expires in 36" in out, out)
    t.check("c.yaml:2:7: warning: certificates `mx`: %s: everybody on this machine" % t.path("mx.key") in out, out)


@test(quick=True)
def dump_shows_paths_and_opens_nothing(t):
    path = written(t, "[{chain: /none/a.pem, key: /none/a.key}, {chain: /none/b.pem, key: /none/b.key}]",
                   rest="tls: {ticket-keys: /none/tickets, key-log: /none/log}\n", up=", tls: {mode: verify, name: MX.Example, ca: /none/ca}")
    status, text = program(t, "-T", "-c", path)
    t.equal(status, 0, text)
    for words in ('    - chain: "/none/b.pem"\n      key: "/none/b.key"\n', 'ticket-keys: "/none/tickets"', "ticket-rotate: 12h", "expiry-warning: 14d",
                  "certificates: mx\n", "mode: offer", "mode: verify", 'name: "mx.example"', "auth-in-clear: local", "tls: 30s", "min-version: 1.2"):
        t.check(words in text, "%s in\n%s" % (words, text))
    with open(path, "w") as f:
        f.write(text)
    t.equal(program(t, "-T", "-c", path), (0, text), "the dump of the dump")


FILES = {"mx": "ecdsa", "ecdsa": "ecdsa", "rsa": "rsa", "company-ca": "ca"}


@cases({"tls": "tls.yaml", "submission": "submission.yaml"}, quick=True)
def example_is_good_with_real_files(t, name):
    with open(os.path.join(ROOT, "docs/examples", name)) as f:
        text = f.read().replace("/etc/ringpost/", t.dir + "/")
    for to, of in FILES.items():
        for end in (".pem", ".key"):
            shutil.copyfile(made(t, of + end), t.path(to + end))
            os.chmod(t.path(to + end), 0o600)
    with open(os.open(t.path("tickets"), os.O_CREAT | os.O_WRONLY, 0o600), "wb") as f:
        f.write(os.urandom(80))
    with open(t.path("c.yaml"), "w") as f:
        f.write(text)
    p = subprocess.run([os.path.join(t.build, "ringpost"), "check", "-c", t.path("c.yaml")], capture_output=True, text=True, timeout=t.wait * 4,
                       env=dict(os.environ, RINGPOST_USER=pwd.getpwuid(os.geteuid()).pw_name))
    t.equal((p.returncode, p.stderr), (0, ""), p.stdout)
    t.check("expires in" in p.stdout and p.stdout.endswith("c.yaml: ok\n"), p.stdout)


# ---- HUP without a handshake ----

@test(quick=True)
def hup_reads_anew_and_says_so(t):
    rp, _ = terminating(t)
    base = rp.fds()
    for _ in range(3):
        renew(t, rp)
    with open(t.path("mx.key"), "w") as f:
        f.write("nonsense\n")
    renew(t, rp, good=False)
    t.check(rp.records("warning", file=t.path("mx.key"), certificates="mx"), "the file and whose it is")
    t.equal(rp.fds(), base, "descriptors afterwards")
    stop = rp.stop_now()
    t.equal((stop["certificates_reloaded"], stop["certificate_reload_failures"], stop["certificates_expiring_now"]), (3, 1, 0), "counted")


@test(quick=True)
def hup_says_that_the_rest_is_not_read(t):
    rp, _ = terminating(t)
    renew(t, rp)
    rp.no_record("warning", note="HUP: the configuration file has changed: that is read at start only; restart to have it")
    with open(rp.conf_path, "a") as f:
        f.write("\n")
    renew(t, rp)
    rp.record("warning", note="HUP: the configuration file has changed: that is read at start only; restart to have it")


@test(quick=True)
def hup_without_certificates(t):
    rp = t.ringpost(t.auto())
    rp.signal(signal.SIGHUP)
    t.until(lambda: any("HUP: there are no certificates" in r["note"] for r in rp.records("warning")), "a warning")


@test(quick=True)
def hup_many_times_at_once(t):
    """More than the workers can take up one by one."""
    rp, _ = terminating(t, workers=3)
    for _ in range(200):
        rp.proc.send_signal(signal.SIGHUP)
    renew(t, rp)
    t.check(rp.alive(), "it lives")
    t.equal(rp.stop_now()["certificate_reload_failures"], 0, "failures")


@test(quick=True, timeout=60)
def hup_while_a_worker_is_held_up(t):
    """More reloads than its mailbox holds, while a plugin keeps it from looking: what it finds then is the last one."""
    plugin = os.path.join(os.path.abspath(t.build), "tests/plugins/decide.so")
    rp, _ = terminating(t, listener_more={"hooks": ["slow"]},
                        conf_more={"hooks": {"slow": {"type": "plugin", "file": plugin, "mode": "stream", "options": {"slow": "2000"}}}})
    c = Client(t, rp)
    time.sleep(0.1)
    for _ in range(80):
        renew(t, rp)
    put(t, "rsa")
    renew(t, rp)
    c.sock.settimeout(t.wait * 4)
    c.reply(b"220")
    c.sock.close()
    t.equal(rp.stop_now()["certificates_reloaded"], 81, "certificates_reloaded")


@test(quick=True)
def hup_on_the_way_down(t):
    rp, _ = terminating(t, conf_more={"shutdown-grace": "20s"})
    c = Client(t, rp)
    c.reply(b"220")
    c.say(EHLO, b"250")
    c.say(MAIL, b"250")
    rp.signal(signal.SIGTERM)
    rp.record("drain")
    renew(t, rp)
    c.say(b"RSET\r\n", b"")
    c.sock.close()
    rp.stop_now()


@test(quick=True)
def expired_certificate_is_told_at_once(t):
    rp, _ = terminating(t, "expired")
    rec = rp.record("warning", file=t.path("mx.pem"))
    t.equal((rec["note"], rec["certificates"]), ("has expired (2020-02-01T00:00:00Z)", "mx"), "the record")
    t.equal(rp.stop_now()["certificates_expiring_now"], 1, "certificates_expiring_now")


@test(quick=True)
def key_of_root_alone(t):
    """Read before the privileges are dropped; a HUP could not: said at the start, and the old one stays."""
    if os.geteuid() != 0:
        raise Skip("not root")
    rp, _ = terminating(t, conf_more={"user": "nobody"})
    rec = rp.record("warning", file=t.path("mx.key"))
    t.check("user nobody cannot read it (Permission denied)" in rec["note"], rec["note"])
    renew(t, rp, good=False)
    for end in (".pem", ".key"):
        shutil.chown(t.path("mx" + end), "nobody")
    renew(t, rp)


# ---- what handshakes see ----

@test(quick=True)
def hup_is_for_new_handshakes(t):
    rp, up = terminating(t)
    old = Client(t, rp).secure(trusting(t))
    t.equal(old.certificate(), leaf(t, "ecdsa"), "the first certificate")
    put(t, "rsa")
    t.equal(shown(t, rp), leaf(t, "ecdsa"), "nothing has changed before HUP")
    renew(t, rp)
    t.equal(shown(t, rp), leaf(t, "rsa"), "the second certificate")
    old.mail()
    put(t, "ecdsa")
    renew(t, rp)
    t.equal(shown(t, rp), leaf(t, "ecdsa"), "the first one again")
    old.mail()
    old.quit()
    t.equal(len(up.messages), 2, "messages of the session that saw it all")


@test(quick=True)
def hup_in_mid_handshake(t):
    """What began before keeps its certificate."""
    rp, _ = terminating(t)
    c = Client(t, rp)
    c.reply(b"220")
    c.say(EHLO, b"250")
    c.say(b"STARTTLS\r\n", b"220")
    inc, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    obj = trusting(t).wrap_bio(inc, out, server_hostname="mx.example.org")
    try:
        obj.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = out.read()
    c.sock.sendall(hello[:100])
    put(t, "rsa")
    renew(t, rp)
    c.sock.sendall(hello[100:])
    while True:
        try:
            obj.do_handshake()
            break
        except ssl.SSLWantReadError:
            c.sock.sendall(out.read())
            inc.write(c.sock.recv(65536))
    t.equal(obj.getpeercert(binary_form=True), leaf(t, "ecdsa"), "the certificate of the time of STARTTLS")
    t.equal(shown(t, rp), leaf(t, "rsa"), "and that of now")
    c.sock.close()


@cases({"other-key": "rsa.key", "nonsense": None, "gone": ""}, quick=True)
def bad_file_leaves_the_old_one(t, key):
    rp, _ = terminating(t)
    if key == "":
        os.unlink(t.path("mx.key"))
    elif key is None:
        with open(t.path("mx.key"), "w") as f:
            f.write("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    else:
        shutil.copyfile(made(t, key), t.path("mx.key"))
    renew(t, rp, good=False)
    t.equal(shown(t, rp), leaf(t, "ecdsa"), "the old certificate")
    put(t, "rsa")
    renew(t, rp)
    t.equal(shown(t, rp), leaf(t, "rsa"), "the new one")


class Load(threading.Thread):
    """Sessions one after the other until told to stop: handshake, a message, QUIT."""

    def __init__(self, t, rp):
        super().__init__(daemon=True)
        self.t, self.rp = t, rp
        self.on = True
        self.seen = set()
        self.sessions = 0
        self.error = None
        self.start()

    def run(self):
        ctx = trusting(self.t)
        try:
            while self.on:
                c = Client(self.t, self.rp).secure(ctx)
                self.seen.add(c.certificate())
                c.mail()
                c.quit()
                self.sessions += 1
        except Exception as e:
            self.error = e


def hammered(t, workers, times, clients=4):
    rp, up = terminating(t, workers=workers)
    loads = [Load(t, rp) for _ in range(clients)]
    for i in range(times):
        done = sum(l.sessions for l in loads)
        put(t, ("rsa", "ecdsa")[i % 2])
        renew(t, rp)
        t.until(lambda: sum(l.sessions for l in loads) > done or any(l.error for l in loads), "sessions go on")
    t.until(lambda: all(l.sessions > 2 or l.error for l in loads), "every client has some sessions", seconds=20)
    for l in loads:
        l.on = False
    for l in loads:
        l.join(t.wait * 4)
        t.check(not l.is_alive() and l.error is None, "a client failed: %r" % l.error)
    t.check({leaf(t, "ecdsa"), leaf(t, "rsa")} == set().union(*(l.seen for l in loads)), "both certificates were seen")
    total = sum(l.sessions for l in loads)
    t.equal(len(up.messages), total, "messages")
    stop = rp.stop_now()
    t.equal((stop["certificates_reloaded"], stop["certificate_reload_failures"]), (times, 0), "reloads")
    t.equal(stop["tls_handshakes"], total, "handshakes")
    t.equal(stop["tls_failed"], 0, "failed handshakes")


@test(quick=True, timeout=60)
def hup_under_some_load(t):
    hammered(t, 1, 10, clients=2)


@test(timeout=180, serial=True)
def hup_100_times_under_load(t):
    hammered(t, 2, 100)


@test(timeout=120, serial=True)
def hup_leaves_no_memory_behind(t):
    rp, _ = terminating(t, workers=2)
    shown(t, rp)
    for _ in range(30):
        renew(t, rp)
    base = rp.rss_anon()
    for _ in range(60):
        renew(t, rp)
    t.check(t.mode in ("asan", "tsan") or rp.rss_anon() - base < 2048, "grew from %d to %d KiB" % (base, rp.rss_anon()))
    shown(t, rp)


# ---- ticket keys, the key log ----

def resumed(t, address, ctx, session=None):
    """(session to resume at another place, whether this one was)"""
    class At:
        pass
    at = At()
    at.address = address
    c = Client(t, at)
    c.reply(b"220")
    c.say(EHLO, b"250")
    c.say(b"STARTTLS\r\n", b"220")
    c.sock = ctx.wrap_socket(c.sock, server_hostname="mx.example.org", session=session)
    c.say(EHLO, b"250")
    was = c.sock.session_reused
    out = c.sock.session
    c.quit()
    return out, was


@cases({"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}, quick=True)
def tickets_are_good_after_hup_and_at_another_process(t, version):
    secret = t.path("tickets")
    with open(secret, "wb") as f:
        f.write(os.urandom(80))
    os.chmod(secret, 0o600)
    one, _ = terminating(t, workers=2, conf_more={"tls": {"ticket-keys": secret}})
    two, _ = terminating(t, conf_more={"tls": {"ticket-keys": secret}})
    other, _ = terminating(t)
    ctx = trusting(t)
    ctx.minimum_version = ctx.maximum_version = version
    session, was = resumed(t, one.address, ctx)
    t.equal(was, False, "the first handshake is a whole one")
    t.equal(resumed(t, one.address, ctx, session)[1], True, "resumed at the same process")
    renew(t, one)
    t.equal(resumed(t, one.address, ctx, session)[1], True, "resumed after HUP")
    t.equal(resumed(t, two.address, ctx, session)[1], True, "resumed at another process with the same secret")
    t.equal(resumed(t, other.address, ctx, session)[1], False, "at one with random keys")


@test()
def ticket_keys_rotate(t):
    """A process that has run for long has the same keys as one that starts now: those of the start are not among them."""
    secret = t.path("tickets")
    with open(os.open(secret, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as f:
        f.write(os.urandom(80))
    tickets = {"tls": {"ticket-keys": secret, "ticket-rotate": "1s"}}
    one, _ = terminating(t, conf_more=tickets)
    time.sleep(4.5)
    two, _ = terminating(t, conf_more=tickets)
    ctx = trusting(t)
    t.until(lambda: resumed(t, two.address, ctx, resumed(t, one.address, ctx)[0])[1], "a new ticket of the old process is good at the new one")


@test(quick=True)
def no_tickets(t):
    rp, _ = terminating(t, conf_more={"tls": {"ticket-rotate": "0"}})
    ctx = trusting(t)
    session, _ = resumed(t, rp.address, ctx)
    t.equal(resumed(t, rp.address, ctx, session)[1], False, "resumed without a ticket")


@test(quick=True)
def key_log_is_written_and_only_for_us(t):
    path = t.path("keys")
    rp, _ = terminating(t, conf_more={"tls": {"key-log": path}})
    rp.record("warning", note="tls.key-log: whoever has that file can read all TLS that is captured")
    shown(t, rp)
    renew(t, rp)
    shown(t, rp)
    with open(path) as f:
        lines = f.read().split("\n")
    t.equal(os.stat(path).st_mode & 0o777, 0o600, "mode of the key log")
    t.check(sum(l.startswith(("CLIENT_RANDOM ", "CLIENT_TRAFFIC_SECRET_0 ")) for l in lines) >= 2, "secrets of both sessions: %r" % lines)
    t.check(all(not l or len(l.split(" ")) == 3 for l in lines), "three words a line: %r" % lines)
