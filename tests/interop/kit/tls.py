# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS between ringpost and real software: certificates, ringpost's doors, programs that send by TLS, servers that take
mail by it.

A cell is (mode, version): how TLS begins (STARTTLS, or with the first octet) and which TLS it is. A client program has
deliver(rp, jobs), jobs = {cell: [(sender, rcpts, content)]}, and returns {cell: what it says about TLS}. A server has
.doors {cell: port}; its messages have .tls, what it says about TLS.
"""
import hashlib
import json
import os
import re
import smtplib
import socket
import ssl
import subprocess

from kit import clients, exim, servers
from kit.clients import HELO, RawClient
from lib.core import Failure
from lib.ringpost import merge

HERE = os.path.dirname(os.path.abspath(__file__))
NAME = "mx.example.org"
MODES = ("starttls", "implicit")
VERSIONS = ("1.2", "1.3")
CELLS = [(m, v) for m in MODES for v in VERSIONS]
GOOD = {"1.2": re.compile(r"TLS_ECDHE_(ECDSA|RSA)_WITH_(AES_(128|256)_GCM_SHA(256|384)|CHACHA20_POLY1305_SHA256)\Z"),
        "1.3": re.compile(r"TLS_(AES_(128|256)_GCM_SHA(256|384)|CHACHA20_POLY1305_SHA256)\Z")}


def label(cell):
    return "%s-%s" % (cell[0], cell[1].replace(".", ""))


def openssl_name(cipher):
    """TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 is ECDHE-RSA-AES128-GCM-SHA256 there; those of 1.3 have one name."""
    if "_WITH_" not in cipher:
        return cipher
    name = cipher[4:].replace("_WITH", "").replace("AES_", "AES").replace("CHACHA20_POLY1305_SHA256", "CHACHA20_POLY1305")
    return name.replace("_", "-")


# ---- certificates ----

class Certs:
    """Those of tests/certs.sh."""

    def __init__(self, t):
        self.dir = t.certs()

    def chain(self, name):
        return "%s/%s.pem" % (self.dir, name)

    def key(self, name):
        return "%s/%s.key" % (self.dir, name)

    def pair(self, name):
        return {"chain": self.chain(name), "key": self.key(name)}

    def both(self, name):
        """Key and chain in one text, as Postfix wants them."""
        return open(self.key(name)).read() + open(self.chain(name)).read()

    @property
    def ca(self):
        return self.chain("ca")

    def sha256(self, name):
        first = open(self.chain(name)).read().split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()


# ---- ringpost ----

def doors(t, *upstreams, pairs=("ecdsa", "rsa"), tls=None, starttls=None, limits=None, conf=None, **kw):
    """ringpost with STARTTLS at its first address and TLS from the first octet at its second. tls: more for both of
    them. starttls: for the first alone. limits: of both."""
    c = Certs(t)
    both = dict({"certificates": "public"}, **(tls or {}))
    second = {"bind": "127.0.0.1:0", "upstream": "mta", "limits": limits or {}, "starttls": dict(both, mode="implicit")}
    base = {"certificates": {"public": [c.pair(p) for p in pairs]}, "listeners": {"smtps": second}}
    first = {"limits": limits or {}, "starttls": merge(dict(both, mode="offer"), starttls)}
    return t.ringpost(*upstreams, listener=first, conf=merge(base, conf), **kw)


def door(rp, mode):
    return int(rp.addresses[MODES.index(mode)].rpartition(":")[2])


def front(t, ways, conf=None, **kw):
    """(ringpost, {label: port}): a listener and an upstream of its own for each of ways = {label: (port, tls)}.
    conf: more sections."""
    base = {"listeners": {"in": None}, "upstreams": {"mta": None}}
    doors = {name: servers.free_port() for name in ways}  # the start record is too short for the names of all
    for name, (port, tls) in ways.items():
        base["listeners"][name] = {"bind": "127.0.0.1:%d" % doors[name], "upstream": name}
        base["upstreams"][name] = {"servers": ["127.0.0.1:%d" % port], "tls": tls}
    return t.ringpost(conf=dict(base, **(conf or {})), **kw), doors


def session_of(t, rp, sender):
    """The record of the session that the message of this sender came in. Waits for its end."""
    rec = rp.record("transaction", **{"from": sender})
    return rp.record("session", sid=rec["sid"])


# ---- clients ----

class Program:
    ciphers = True  # it names the cipher

    def __init__(self, t):
        self.t = t
        self.certs = Certs(t)

    def deliver(self, rp, jobs):
        return {cell: self.send(door(rp, cell[0]), cell, messages) for cell, messages in jobs.items()}

    @staticmethod
    def sends(content):
        return content


class Swaks(Program):
    sends = staticmethod(clients.Swaks.sends)

    def options(self, cell):
        return ["--tls" if cell[0] == "starttls" else "--tls-on-connect", "--tls-protocol",
                "tlsv" + cell[1].replace(".", "_"), "--tls-verify", "--tls-ca-path", self.certs.ca, "--tls-sni", NAME]

    def send(self, port, cell, messages):
        swaks = clients.Swaks(self.t, *self.options(cell))
        return "".join(swaks.one(port, *m) for m in messages)


class Curl(Program):
    def client(self, cell, *more):
        return clients.Curl(self.t, "--verbose", "--ssl-reqd", "--cacert", self.certs.ca, "--tlsv" + cell[1], "--tls-max",
                            cell[1], *more, scheme="smtp" if cell[0] == "starttls" else "smtps", host=NAME)

    def send(self, port, cell, messages):
        curl = self.client(cell)
        return "".join(curl.one(port, *m) for m in messages)


def context(certs, version=None):
    c = ssl.create_default_context(cafile=certs.ca)
    if version:
        c.minimum_version = c.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
    return c


class Smtplib(Program):
    """Python's; it checks the name `localhost`."""

    def send(self, port, cell, messages):
        c = context(self.certs, cell[1])
        how = {"local_hostname": HELO, "timeout": 20 * self.t.slow}
        with (smtplib.SMTP("localhost", port, **how) if cell[0] == "starttls" else
              smtplib.SMTP_SSL("localhost", port, context=c, **how)) as s:
            if cell[0] == "starttls":
                s.starttls(context=c)
            for m in messages:
                clients.Smtplib.one(s, *m)
            return "%s" % (s.sock.cipher(),)


class PythonClient(RawClient):
    """RawClient in Python's TLS."""

    def __init__(self, t, port, cell):
        super().__init__(t, port, greets=False)
        if cell[0] == "starttls":
            self.expect(b"220")
            self.ehlo()
            self.say(b"STARTTLS\r\n", b"220")
        self.file.close()
        self.sock = context(Certs(t), cell[1]).wrap_socket(self.sock, server_hostname=NAME)
        self.file = self.sock.makefile("rb")
        if cell[0] == "implicit":
            self.expect(b"220")


class PipeClient(RawClient):
    """A program that does the TLS; the SMTP on its standard input and output is ours. Close it with quit()."""

    def __init__(self, t, argv, greets, packets=False):
        """packets: each of our sends is one read of the program (no longer than 4,000 octets)."""
        self.t = t
        self.words = t.path("pipe-%s-%d" % (argv[0], len(os.listdir(t.dir))))
        self.sock, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM)
        with open(self.words, "wb") as err:
            self.proc = subprocess.Popen([servers.tool(argv[0])] + argv[1:], stdin=theirs, stdout=theirs, stderr=err)
        theirs.close()
        self.sock.settimeout(15 * t.slow)
        self.file = self.sock.makefile("rb")
        t.processes.append(self)
        if greets:
            self.expect(b"220")

    def said(self):
        return servers.tail(self.words, 20000)

    def reply(self):
        try:
            return super().reply()
        except Failure as e:
            raise Failure("%s; the program says:\n%s" % (e, self.said()))

    def finish(self, checks=True):
        if self.proc is None:
            return None
        proc, self.proc = self.proc, None
        try:
            proc.wait(5 if checks else 0.1)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()
            if checks:
                raise Failure("%s does not end; it says:\n%s" % (proc.args[0], self.said()))
        self.close()
        return proc.returncode

    def quit(self):
        """Small letters: s_client takes a line that begins with Q for itself."""
        self.say(b"quit\r\n", b"221")
        return self.finish()


def s_client(t, port, mode, *options, commands=False, greets=True):
    """commands: it takes K and R at the begin of what it reads for itself. greets: waits for a greeting that is due."""
    argv = ["openssl", "s_client", "-connect", "127.0.0.1:%d" % port, "-brief", "-servername", NAME]
    argv += ["-starttls", "smtp", "-name", HELO] if mode == "starttls" else []
    argv += [] if commands else ["-ign_eof"]
    return PipeClient(t, argv + list(options), greets and mode == "implicit", packets=commands)


class SClient(Program):
    def send(self, port, cell, messages):
        said = ""
        for m in messages:
            c = s_client(self.t, port, cell[0], "-tls" + cell[1].replace(".", "_"), "-CAfile", self.certs.ca,
                         "-verify_hostname", NAME, "-verify_return_error")
            talk(c, *m)
            said += c.said()
        return said


def talk(c, sender, rcpts, content):
    c.ehlo()
    c.data(sender, rcpts, clients.stuffed(content) + b".\r\n")
    c.quit()


GNUTLS = {"1.1": "NORMAL:-VERS-ALL:+VERS-TLS1.1", "1.2": "NORMAL:-VERS-ALL:+VERS-TLS1.2",
          "1.3": "NORMAL:-VERS-ALL:+VERS-TLS1.3"}


def gnutls_cli(t, certs, port, cell, *options):
    log = t.path("gnutls-%d.log" % len(os.listdir(t.dir)))
    argv = ["gnutls-cli", "--port=%d" % port, "--x509cafile=" + certs.ca, "--sni-hostname=" + NAME,
            "--verify-hostname=" + NAME, "--priority=" + GNUTLS[cell[1]], "--logfile=" + log] + list(options)
    argv += ["--starttls-proto=smtp"] if cell[0] == "starttls" else []
    c = PipeClient(t, argv + ["127.0.0.1"], False)
    c.words = log
    if cell[0] == "implicit":
        c.expect(b"220")
    return c


class GnutlsCli(Program):
    ciphers = False

    def send(self, port, cell, messages):
        said = ""
        for m in messages:
            c = gnutls_cli(self.t, self.certs, port, cell)
            talk(c, *m)
            said += c.said()
        return said


class Msmtp(Program):
    ciphers = False

    def send(self, port, cell, messages):
        program = clients.Client(self.t)
        for sender, rcpts, content in messages:
            argv = [servers.tool("msmtp"), "--file=/dev/null", "--debug", "--host=localhost", "--port=%d" % port,
                    "--domain=" + HELO, "--tls=on", "--tls-starttls=" + ("on" if cell[0] == "starttls" else "off"),
                    "--tls-trust-file=" + self.certs.ca, "--tls-priorities=" + GNUTLS[cell[1]], "--set-date-header=off",
                    "--set-msgid-header=off", "--set-from-header=off", "--from=" + sender,
                    "--timeout=%d" % (20 * self.t.slow)] + rcpts
            with open(program.file(content), "rb") as f:
                p = subprocess.run(argv, stdin=f, capture_output=True, timeout=30 * self.t.slow)
            out = p.stdout + p.stderr
            if p.returncode:
                raise Failure("msmtp ended with status %d:\n%s" % (p.returncode, out.decode("utf-8", "replace")[-3000:]))
        return out.decode("utf-8", "replace")


def java(t, *arguments):
    """kit/TlsSend.java, compiled into the build directory once. (status, output)."""
    source = os.path.join(HERE, "TlsSend.java")
    classes = os.path.join(t.build, "java")
    made = os.path.join(classes, "TlsSend.class")
    if not os.path.exists(made) or os.path.getmtime(made) < os.path.getmtime(source):
        p = subprocess.run([servers.tool("ecj"), "-proc:none", "-17", "-d", t.path("java"), source],
                           capture_output=True, text=True, timeout=60 * t.slow)
        if p.returncode:
            raise Failure("ecj: " + p.stdout + p.stderr)
        os.makedirs(classes, exist_ok=True)
        for name in os.listdir(t.path("java")):
            os.replace(t.path("java/" + name), os.path.join(classes, name))
    argv = [servers.tool("java"), "-XX:TieredStopAtLevel=1", "-cp", classes, "TlsSend"] + list(arguments)
    p = subprocess.run(argv, capture_output=True, text=True, timeout=40 * t.slow)
    return p.returncode, p.stdout + p.stderr


class Java(Program):
    def deliver(self, rp, jobs):
        argv, cells, file = [self.certs.ca, NAME], [], clients.Client(self.t).file
        for cell, messages in jobs.items():
            for sender, rcpts, content in messages:
                argv += ["%s:TLSv%s:%d:%s:%s:%s" % (cell[0], cell[1], door(rp, cell[0]), sender, rcpts[0], file(content))]
                cells.append(cell)
        status, out = java(self.t, *argv)
        if status:
            raise Failure("TlsSend ended with status %d:\n%s" % (status, out[-3000:]))
        lines = out.splitlines(True)
        return {cell: "".join(x for x in lines if x.startswith("%s:TLSv%s " % cell)) for cell in cells}


class Postfix(Program):
    """Postfix's smtp(8), a transport for each cell; it checks certificate and name."""
    MAIN = {"smtp_tls_security_level": "secure", "smtp_tls_secure_cert_match": NAME, "smtp_tls_servername": NAME,
            "smtp_tls_loglevel": "1", "transport_maps": "texthash:{dir}/etc/transport"}

    def instance(self, ways, main=None, services=""):
        """ways: {domain: transport:[host]:port}."""
        lines = "".join("%s %s\n" % pair for pair in ways.items())
        return servers.PostfixInstance(self.t, 9, main=dict(self.MAIN, smtp_tls_CAfile=self.certs.ca, **(main or {})),
                                       files={"transport": lines}, name="postfix-client", services=services)

    def deliver(self, rp, jobs):
        services = "".join((
            "%s unix - - n - - smtp\n  -o smtp_tls_mandatory_protocols=TLSv%s\n  -o smtp_tls_wrappermode=%s\n") % (
            label(c), c[1], "yes" if c[0] == "implicit" else "no") for c in CELLS)
        own = self.instance({label(c) + ".test": "%s:[127.0.0.1]:%d" % (label(c), door(rp, c[0])) for c in CELLS},
                            services=services)
        messages = [m for ms in jobs.values() for m in ms]
        own.inject(messages)
        statuses(self.t, own, len(messages), "sent")
        return {c: "\n".join(own.logged(r"^.*TLS connection established to .*:%d: TLSv%s with.*" % (
            door(rp, c[0]), re.escape(c[1])))) for c in jobs}


def statuses(t, postfix, count, want=None):
    """[(recipient, status, words)] of the deliveries to anybody called `to`, when there are so many."""
    pattern = r"postfix/\S+\[\d+\]: \w+: to=<(to@\S+)>.* status=(\w+) (.*)"
    t.until(lambda: len(postfix.logged(pattern)) >= count, "Postfix's client says what became of %d" % count, 25)
    got = postfix.logged(pattern)
    bad = [s for s in got if want and s[1] != want]
    if bad:
        raise Failure("Postfix's client says %r\n%s" % (bad[0], postfix.complaint()))
    return got


class Exim(Program):
    """Its library is GnuTLS. It checks certificate and name, and sends by BDAT."""
    ciphers = False

    def deliver(self, rp, jobs):
        own = exim.Client(self.t, {label(c): (door(rp, c[0]), exim.transport(*c)) for c in CELLS})
        for messages in jobs.values():
            for m in messages:
                own.send(*m)
        out = {}
        for c in jobs:
            lines = own.logged(r"^.* => .* T=%s .*" % exim.word(label(c)))
            if len(lines) != len(jobs[c]) or not all(" CV=yes" in line for line in lines):
                raise Failure("Exim's client says:\n" + own.log())
            out[c] = "\n".join(lines)
        return out


CLIENTS = {"swaks": Swaks, "curl": Curl, "smtplib": Smtplib, "openssl": SClient, "gnutls-cli": GnutlsCli, "msmtp": Msmtp,
           "java": Java, "postfix": Postfix, "exim": Exim}


# ---- servers ----

class PostfixServer(servers.Postfix):
    """smtpd, a service for each cell."""
    MAIN = {"smtpd_tls_security_level": "may", "smtpd_tls_received_header": "yes", "smtpd_tls_loglevel": "1",
            "smtpd_tls_chain_files": "{dir}/etc/both.pem"}

    def __init__(self, t, pair="ecdsa", main=None):
        self.doors = {cell: servers.free_port() for cell in CELLS}
        super().__init__(t, main=dict(self.MAIN, **(main or {})), files={"both.pem": Certs(t).both(pair)}, services="".join(
            smtpd(self.doors[c], smtpd_tls_protocols="TLSv" + c[1], smtpd_tls_mandatory_protocols="TLSv" + c[1],
                  smtpd_tls_wrappermode="yes" if c[0] == "implicit" else "no") for c in CELLS))

    def messages(self):
        out = super().messages()
        for m, raw in zip(out, self.sink.messages()):
            m.tls = raw.content.split(b"\r\n\r\n")[0].decode("latin-1")
        return out


def smtpd(port, **settings):
    return "127.0.0.1:%d inet n - n - - smtpd\n%s" % (port, "".join("  -o %s=%s\n" % s for s in settings.items()))


class EximServer(exim.Server):
    def __init__(self, t, pair="ecdsa"):
        super().__init__(t, Certs(t), pair, CELLS)


class Aiosmtpd(servers.Server):
    """aiosmtpd on Python's ssl: kit/aiosmtpd_tls.py."""

    def __init__(self, t, pair="ecdsa"):
        super().__init__(t, "aiosmtpd")
        self.dir = t.path(self.name)
        os.mkdir(self.dir)
        certs = Certs(t)
        self.spawn(["/usr/bin/python3", "-B", HERE + "/aiosmtpd_tls.py", self.dir, certs.chain(pair), certs.key(pair)])
        t.until(lambda: self.proc.poll() is not None or os.path.exists(self.dir + "/ports"), "aiosmtpd starts", 15)
        if self.proc.poll() is not None:
            raise Failure("aiosmtpd ended at once:\n" + self.complaint())
        ports = json.load(open(self.dir + "/ports"))
        self.doors = {c: ports[label(c)] for c in CELLS}

    def files(self):
        return sorted(f for f in os.listdir(self.dir) if f.endswith(".json"))

    def count(self):
        return len(self.files())

    def messages(self):
        out = []
        for name in self.files():
            env = json.load(open(os.path.join(self.dir, name)))
            with open(os.path.join(self.dir, name[:-5] + ".eml"), "rb") as f:
                m = servers.Message(env["from"].encode(), [r.encode() for r in env["to"]], f.read())
            m.tls, m.reused = env["tls"], env["reused"]
            out.append(m)
        return out


class SServer(servers.Server):
    """openssl s_server, for one connection at a door; the SMTP on its standard input and output is the scripted server's."""

    def __init__(self, t, pair="ecdsa"):
        super().__init__(t, "s_server")
        self.auto = t.auto()
        self.procs = []
        self.certs = Certs(t)
        self.doors = {c: self.listen(pair, "-tls" + c[1].replace(".", "_")) for c in CELLS if c[0] == "implicit"}

    def listen(self, pair, *options):
        port = servers.free_port()
        host, _, behind = self.auto.address.rpartition(":")
        with socket.create_connection((host, int(behind))) as s, open(self.words(port), "wb") as err:
            chain = self.certs.chain(pair)
            argv = [servers.tool("openssl"), "s_server", "-accept", "127.0.0.1:%d" % port, "-naccept", "1", "-quiet",
                    "-cert", chain, "-cert_chain", chain, "-key", self.certs.key(pair)]
            self.procs.append(subprocess.Popen(argv + list(options), stdin=s, stdout=s, stderr=err))
        self.t.until(lambda: listens(port), "openssl s_server listens: " + servers.tail(self.words(port)), 10)
        return port

    def words(self, port):
        return self.t.path("s_server.%d.err" % port)

    def finish(self, checks=True):
        for p in self.procs:
            p.terminate()
            p.wait()
        self.procs = []

    def count(self):
        return len(self.auto.messages)

    def messages(self):
        out = []
        for m in self.auto.messages:
            body = m.body
            if m.how == "data":
                body = body[:-3].replace(b"\r\n..", b"\r\n.")
                body = body[1:] if body.startswith(b".") else body
            addresses = [p.partition(b"<")[2].partition(b">")[0] for p in [m.sender] + m.rcpts]
            got = servers.Message(addresses[0], addresses[1:], body)
            got.tls = None
            out.append(got)
        return out


def listens(port):
    """Without connecting: /proc/net/tcp has the port in state LISTEN."""
    with open("/proc/net/tcp") as f:
        return any(w[1].endswith(":%04X" % port) and w[3] == "0A" for w in map(str.split, f.readlines()[1:]))


SERVERS = {"postfix": PostfixServer, "exim": EximServer, "aiosmtpd": Aiosmtpd, "openssl": SServer}
