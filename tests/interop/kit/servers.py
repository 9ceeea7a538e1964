# SPDX-License-Identifier: GPL-3.0-or-later
"""The real servers that stand behind ringpost. Each has .address, .wait(n) (the messages it took, when there
are at least n) and .shown(content): what must be found there of a message sent as `content`.

Sink     ringpost-sink --store: octet for octet.
SmtpSink Postfix's smtp-sink -d: it drops every CR, and a final newline is its own.
Postfix  smtpd of a private instance; its mail goes on to a Sink of its own. Received: lines are taken off.
"""
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import time

from lib.core import Failure, Skip

HERE = os.path.dirname(os.path.abspath(__file__))
PORTS = (20000, 30000)  # below the ephemeral ports: no outgoing connection takes one of them
RECEIVED = re.compile(rb"Received:[^\n]*\n(?:[ \t][^\n]*\n)*")
_next_port = None


def free_port():
    """For programs that cannot be told to take any port. Tests run side by side: each starts elsewhere."""
    global _next_port
    first, end = PORTS
    if _next_port is None:
        _next_port = first + os.getpid() * 37 % (end - first)
    for _ in range(1000):
        _next_port = first + (_next_port + 1 - first) % (end - first)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", _next_port))
                return _next_port
            except OSError:
                continue
    raise Failure("no free port")


def tool(name):
    """Path of a program of the mail software; it has to be there."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Failure("%s is not installed: make need-test" % name)
    return path


@contextlib.contextmanager
def busy_cpus(t):
    """Something that runs all the time on every CPU, so that threads wait for their turn."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"], stdin=subprocess.DEVNULL)
            for _ in range(min(os.cpu_count(), 4))]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def tail(path, octets=3000):
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace")[-octets:]
    except OSError:
        return ""


class Message:
    def __init__(self, sender, rcpts, content, params=b""):
        self.sender, self.rcpts, self.content, self.params = sender, rcpts, content, params


class Server:
    def __init__(self, t, name):
        self.t = t
        self.name = "%s%d" % (name, sum(isinstance(p, Server) for p in t.processes) + 1)
        self.proc = None
        t.processes.append(self)

    def spawn(self, argv):
        with open(self.t.path(self.name + ".err"), "ab") as err:
            self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=err, stderr=err)

    def finish(self, checks=True):
        if self.proc is None:
            return
        proc, self.proc = self.proc, None
        proc.send_signal(signal.SIGTERM)
        try:
            proc.wait(10)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()

    def complaint(self):
        return tail(self.t.path(self.name + ".err"))

    def wait(self, count=1, seconds=None):
        """The messages taken so far, at least `count`."""
        try:
            return self.t.until(lambda: self.found(count), "%d messages at %s" % (count, self.name), seconds)
        except Failure as e:
            raise Failure("%s; there are %d\n%s" % (e, len(self.messages()), self.complaint()))

    def found(self, count):
        return self.messages() if self.count() >= count else None

    def by_sender(self, count=1, seconds=None):
        """{sender: message}; each sender only once."""
        out = {}
        for m in self.wait(count, seconds):
            if m.sender in out:
                raise Failure("%s took two messages of %r" % (self.name, m.sender))
            out[m.sender] = m
        return out

    def shown(self, content):
        return content


class Sink(Server):
    def __init__(self, t, *options, store=True):
        super().__init__(t, "sink")
        self.dir = t.path(self.name)
        self.seen = {}
        ports = t.path(self.name + ".port")
        self.spawn([os.path.join(t.build, "ringpost-sink"), "--listen", "127.0.0.1:0", "--port-file", ports,
                    "--quiet", "--stats"] + (["--store", self.dir] if store else []) + list(options))
        t.until(lambda: os.path.exists(ports) and open(ports).read().endswith("\n"), "ringpost-sink starts", 10)
        self.port = int(open(ports).read())
        self.address = "127.0.0.1:%d" % self.port

    def stats(self):
        """Ends it; its counters."""
        self.finish()
        return json.loads(re.search(r"^\{.*\"stats\".*\}$", self.complaint(), re.M).group())

    def files(self):
        return sorted(glob.glob(self.dir + "/*.eml"))

    def count(self):
        return len(self.files())

    def messages(self):
        for path in self.files():
            if path not in self.seen:
                self.seen[path] = self.read(path)
        return [self.seen[p] for p in sorted(self.seen)]

    @staticmethod
    def read(path):
        with open(path, "rb") as f:
            content = f.read()
        with open(path[:-3] + "env", "rb") as f:
            env = [line.partition(b" ")[::2] for line in f.read().split(b"\n") if line]
        got = {name: value for name, value in env}
        return Message(got[b"MAIL"].strip(b"<>"), [v.strip(b"<>") for n, v in env if n == b"RCPT"], content,
                       got.get(b"MAIL-PARAMETERS", b""))


class SmtpSink(Server):
    PSEUDO = re.compile(rb"X-(?:Client-Addr|Client-Proto|Helo-Args|Mail-Args|Rcpt-Args): [^\n]*\n")

    def __init__(self, t, *options):
        super().__init__(t, "smtp-sink")
        self.dir = t.path(self.name)
        os.mkdir(self.dir)
        os.chmod(self.dir, 0o777)
        self.port = free_port()
        self.address = "127.0.0.1:%d" % self.port
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.spawn([tool("smtp-sink")] + user + ["-d", self.dir + "/m."] + list(options) + [self.address, "256"])
        t.until(self.listens, "smtp-sink starts", 10)

    def listens(self):
        if self.proc.poll() is not None:
            raise Failure("smtp-sink ended at once:\n" + self.complaint())
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        except OSError:
            return False

    def files(self):
        return sorted(glob.glob(self.dir + "/m.*"))

    def count(self):
        return len(self.files())

    def messages(self):
        return [self.read(p) for p in self.files()]

    def read(self, path):
        with open(path, "rb") as f:
            rest = f.read()
        sender, rcpts = b"", []
        while True:
            m = self.PSEUDO.match(rest)
            if not m:
                break
            name, _, value = m.group().rstrip(b"\n").partition(b": ")
            if name == b"X-Mail-Args":
                sender = value.split(b" ")[0].strip(b"<>")
            elif name == b"X-Rcpt-Args":
                rcpts.append(value.split(b" ")[0].strip(b"<>"))
            rest = rest[m.end():]
        m = RECEIVED.match(rest)  # its own
        rest = rest[m.end():] if m else rest
        return Message(sender, rcpts, rest[:-1] if rest.endswith(b"\n") else rest)

    def shown(self, content):
        return content.replace(b"\r", b"")


MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {dir}/spool
data_directory = {dir}/data
maillog_file = {dir}/mail.log
maillog_file_prefixes = {dir}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = {name}.test
myorigin = $myhostname
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
relay_domains =
relayhost = [127.0.0.1]:{next_port}
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
disable_dns_lookups = yes
smtputf8_enable = yes
message_size_limit = 60000000
smtp_line_length_limit = 0
disable_mime_output_conversion = yes
default_destination_recipient_limit = 1000
local_header_rewrite_clients =
always_add_missing_headers = no
in_flow_delay = 0
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
smtpd_client_event_limit_exceptions = static:all
smtpd_tls_security_level = none
smtp_tls_security_level = none
default_process_limit = 40
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
smtp_connection_cache_on_demand = no
"""

MASTER_CF = """\
{port}    inet  n - n - - smtpd
pickup    unix  n - n 1 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 1 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


def as_root():
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if not sudo or subprocess.run([sudo, "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode:
        raise Skip("Postfix needs root or sudo -n")
    return [sudo, "-n"]


class PostfixInstance(Server):
    """smtpd on .port; all mail goes on to next_port. main: more lines for main.cf. files: {name: text} for etc/.
    services: more of master.cf."""

    def __init__(self, t, next_port, main=None, files=None, name="postfix", services=""):
        super().__init__(t, name)
        tool("postfix")
        self.port = free_port()
        self.address = "127.0.0.1:%d" % self.port
        self.dir = t.path(self.name)
        os.makedirs(self.dir + "/etc")
        fill = {"dir": self.dir, "name": self.name, "next_port": next_port, "port": self.address}
        lines = MAIN_CF + "".join("%s = %s\n" % pair for pair in (main or {}).items())
        for fname, text in dict({"main.cf": lines.format(**fill), "master.cf": MASTER_CF.format(**fill) + services},
                                **(files or {})).items():
            with open(self.dir + "/etc/" + fname, "w") as f:
                f.write(text)
        with open(t.path(self.name + ".err"), "ab") as err:
            self.proc = subprocess.Popen(as_root() + [sys.executable, "-B", HERE + "/postfix_guard.py", self.dir],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True,
                                         start_new_session=True)
        self.start()

    def tell(self, word):
        try:
            self.proc.stdin.write(word + "\n")
            self.proc.stdin.flush()
        except OSError:
            pass
        answer = self.proc.stdout.readline()
        if not answer:
            raise Failure("the guard of %s ended with status %s\n%s" % (self.name, self.proc.wait(10), self.complaint()))
        if word != "queue":
            self.t.log.note("--", "%s: %s" % (self.name, answer.strip()))
        return answer

    def start(self):
        """All of Postfix logs through its postlogd and blocks on it: an instance whose postlogd did not come up (seen on busy
        machines: the log stays empty, later smtpd says nothing any more) is started anew."""
        before = len(self.log())
        for last in (False, False, True):
            self.tell("start")
            self.t.until(self.greets, "%s greets: %s" % (self.name, self.complaint()), 15)
            if last or self.logs(before):
                return
            self.tell("stop")

    def logs(self, before):
        end = time.monotonic() + 3
        while time.monotonic() < end:
            if len(self.log()) > before:
                return True
            time.sleep(0.02)
        return False

    def stop(self):
        self.tell("stop")

    def queued(self):
        return int(self.tell("queue").split()[0])

    def greets(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as s:
                return s.makefile("rb").readline().startswith(b"220 ")
        except OSError:
            return False

    def finish(self, checks=True):
        if self.proc is None:
            return
        proc, self.proc = self.proc, None
        if not checks:
            self.t.log.note("--", "%s says:\n%s" % (self.name, self.log()[-4000:]))
        try:
            proc.stdin.close()  # the guard stops the instance and removes the directory
        except OSError:
            pass  # it is gone already
        try:
            proc.wait(20)
        except subprocess.TimeoutExpired:
            raise Failure("the guard of %s does not end" % self.name)
        proc.stdout.close()

    def log(self):
        return tail(self.dir + "/mail.log", 1 << 30)

    def logged(self, pattern):
        return re.findall(pattern, self.log(), re.M)

    def complaint(self):
        return "%s%s%s" % (super().complaint(), tail(self.dir + "/master.err"), self.log()[-3000:])

    def inject(self, messages):
        """Hands over [(sender, rcpts, content)] by its smtpd, in one session."""
        with smtplib.SMTP("127.0.0.1", self.port, "injector.test", timeout=20 * self.t.slow) as c:
            for sender, rcpts, content in messages:
                utf8 = not (sender + "".join(rcpts)).isascii()
                refused = c.sendmail(sender, rcpts, content, ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else [])
                if refused:
                    raise Failure("%s refused %r" % (self.name, refused))


class Postfix(PostfixInstance):
    """As an upstream: with a Sink behind it that shows what arrived."""

    def __init__(self, t, *sink_options, **kw):
        self.sink = Sink(t, *sink_options)
        super().__init__(t, self.sink.port, **kw)

    def count(self):
        return self.sink.count()

    def messages(self):
        return [Message(m.sender, m.rcpts, without_received(m.content), m.params) for m in self.sink.messages()]


def without_received(content):
    while True:
        m = RECEIVED.match(content)
        if not m:
            return content
        content = content[m.end():]


KINDS = {"postfix": Postfix, "smtp-sink": SmtpSink, "sink": Sink}
