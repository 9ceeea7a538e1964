# SPDX-License-Identifier: GPL-3.0-or-later
"""The real filters that ringpost asks: milters (rspamd's proxy worker, OpenDKIM, clamav-milter before clamd) and
policy daemons (postgrey, postfwd).

Each runs in the foreground on a Unix socket of its own (a port: port=True), with a configuration of its own in a
directory of the test, as the account that its package made for it (when the tests run as root; as the tester
otherwise). .endpoint is what ringpost's configuration calls it. kill() is SIGKILL for it and its children, start()
brings it back at the same endpoint. Nothing looks up a name or leaves the machine.
"""
import base64
import os
import pwd
import re
import signal
import socket
import struct
import subprocess

from kit.servers import Server, free_port, tool
from lib.core import Failure

HERE = os.path.dirname(os.path.abspath(__file__))
DEBIAN_PYTHON = "/usr/bin/python3"  # the one that Debian's packages of modules belong to

# In pieces, so that no scanner takes this file for what it describes.
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN" b"*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def family(pid):
    """The process and all below it, children first."""
    out = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                for child in f.read().split():
                    out += family(int(child))
    except OSError:
        pass  # it ended meanwhile
    return out + [pid]


class Filter(Server):
    ACCOUNT = None  # of its package
    ENV = {}

    def __init__(self, t, port=False, **settings):
        super().__init__(t, type(self).__name__.lower())
        self.account = pwd.getpwnam(self.ACCOUNT) if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.dir = t.path(self.name)
        os.mkdir(self.dir)
        self.port = free_port() if port else None
        self.socket = self.dir + "/socket"
        self.endpoint = "127.0.0.1:%d" % self.port if port else "unix:" + self.socket
        self.configure(**settings)
        for path, _, names in os.walk(self.dir):
            for name in [path] + [os.path.join(path, n) for n in names]:
                os.chown(name, self.account.pw_uid, self.account.pw_gid)
        self.start()

    def write(self, name, text, mode=0o644):
        path = os.path.join(self.dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        os.chmod(path, mode)
        return path

    def start(self):
        # It dies with the test, and what it starts stays in the test's process group, which the runner ends. Its sockets
        # are for everybody.
        how = [tool("setpriv"), "--pdeathsig=KILL"]
        if os.geteuid() == 0:
            how += ["--reuid=%d" % self.account.pw_uid, "--regid=%d" % self.account.pw_gid, "--clear-groups"]
        argv = self.argv()
        with open(self.t.path(self.name + ".err"), "ab") as err:
            self.proc = subprocess.Popen(how + [tool(argv[0])] + argv[1:], cwd=self.dir,
                                         stdin=subprocess.DEVNULL, stdout=err, stderr=err, umask=0,
                                         env=dict(os.environ, HOME=self.dir, TMPDIR=self.dir, **self.ENV))
        self.t.until(self.accepts, "%s starts: %s" % (self.name, self.complaint()), 20)

    def accepts(self):
        if self.proc.poll() is not None:
            raise Failure("%s ended at once with status %d:\n%s" % (self.name, self.proc.returncode, self.complaint()))
        with socket.socket(socket.AF_INET if self.port else socket.AF_UNIX) as s:
            try:
                s.connect(("127.0.0.1", self.port) if self.port else self.socket)
                return True
            except OSError:
                return False

    def kill(self):
        """As a crash: no word to anybody, its socket stays in the file system."""
        self.t.note("%s is killed" % self.name)
        proc, self.proc = self.proc, None
        self.end(proc, family(proc.pid))

    def end(self, proc, pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        proc.wait()
        self.t.until(lambda: not any(alive(pid) for pid in pids), "%s has ended" % self.name)

    def finish(self, checks=True):
        """By KILL: TERM takes libmilter up to five seconds, and nothing of it is to be kept."""
        if self.proc is None:
            return
        proc, self.proc = self.proc, None
        status = proc.poll()
        self.end(proc, family(proc.pid) if status is None else [])
        if not checks:
            self.t.note("%s says:\n%s" % (self.name, self.complaint()))
        elif status is not None:
            raise Failure("%s ended by itself with status %d:\n%s" % (self.name, status, self.complaint()))


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# ---- milters ----

RSPAMD_CONF = """\
options {{
	pidfile = "{dir}/pid"; tempdir = "{dir}"; cache_file = "{dir}/symbols.cache"; hs_cache_dir = "{dir}";
	control_socket = "{dir}/control mode=0600"; url_tld = "{dir}/tlds";
	filters = ""; explicit_modules = []; local_addrs = []; enable_test_patterns = true;
	dns {{ nameserver = ["127.0.0.1:{dns}"]; timeout = 0.01s; retransmits = 1; }}
}}
logging {{ type = "console"; level = "notice"; color = false; }}
modules {{ path = "/usr/share/rspamd/plugins/milter_headers.lua"; }}
lua = "{dir}/rules.lua";
actions {{ reject = 15; "rewrite subject" = 10; add_header = 6; greylist = null; subject = "[SPAM] %s"; }}
milter_headers {{
	skip_local = false; skip_authenticated = false; use = ["x-rspamd-server", "x-spamd-result", "mine"];
	routines {{ "x-rspamd-server" {{ hostname = "rspamd.test"; }} }}
	custom {{ mine = "return function(task) return false, {{['X-Mine'] = 'seen'}}, {{['X-Taken'] = 0}}, {{}} end"; }}
}}
worker "rspamd_proxy" {{
	bind_socket = "{bind}"; milter = yes; timeout = 20s; count = 1; discard_on_reject = false;
	reject_message = "no spam here";
	upstream "local" {{ default = yes; self_scan = yes; }}
}}
"""

# By the subject, so that a test can ask for each action.
RSPAMD_RULES = """\
local function subject_is(name, word, weight)
	rspamd_config:register_symbol({name = name, score = weight, callback = function(task)
		return (task:get_header('Subject') or ''):find(word, 1, true) ~= nil
	end})
	rspamd_config:set_metric_symbol(name, weight, 'x')
end
subject_is('SUBJECT_SPAM', 'spammy', 7)
subject_is('SUBJECT_REWRITE', 'rewriteme', 11)
rspamd_config:register_symbol({name = 'SUBJECT_LATER', callback = function(task)
	if (task:get_header('Subject') or ''):find('comeback', 1, true) then
		task:set_pre_result('soft reject', 'come back later')
	end
end, type = 'prefilter'})
"""


class Rspamd(Filter):
    """Adds X-Rspamd-Server, X-Spamd-Result and `X-Mine: seen` to all, takes X-Taken away. GTUBE is rejected; subjects:
    `comeback` is refused for now, `rewriteme` gets another subject, `spammy` the header X-Spam."""
    ACCOUNT = "_rspamd"

    def configure(self):
        bind = "127.0.0.1:%d" % self.port if self.port else self.socket + " mode=0666"
        self.write("rules.lua", RSPAMD_RULES)
        self.write("tlds", "test\n")  # the real list takes seconds to compile
        self.write("rspamd.conf", RSPAMD_CONF.format(dir=self.dir, bind=bind, dns=free_port()))

    def argv(self):
        return ["rspamd", "-f", "-c", self.dir + "/rspamd.conf"] + (["-i"] if self.account.pw_uid == 0 else [])


OPENDKIM_CONF = """\
Syslog no
RequireSafeKeys no
Mode s
UMask 000
Domain %s
Selector %s
KeyFile %s/%s.private
Canonicalization simple/simple
InternalHosts 0.0.0.0/0
SubDomains no
SignHeaders *,+X-Mine
OverSignHeaders From
Socket %s
"""


class OpenDkim(Filter):
    """Signs what is From: an address at `signed.test`; simple/simple: an octet more or less spoils it. RequireSafeKeys: it
    would want no directory above that others may write to, and /tmp is one."""
    ACCOUNT = "opendkim"
    DOMAIN, SELECTOR = "signed.test", "one"

    def configure(self):
        keys = self.dir + "/keys"
        os.mkdir(keys)
        subprocess.run([tool("opendkim-genkey"), "-D", keys, "-d", self.DOMAIN, "-s", self.SELECTOR, "-b", "2048"],
                       check=True, stdin=subprocess.DEVNULL)
        with open("%s/%s.txt" % (keys, self.SELECTOR)) as f:
            self.record = "".join(re.findall(r'"([^"]*)"', f.read()))
        os.chmod(keys, 0o700)
        where = "inet:%d@127.0.0.1" % self.port if self.port else "local:" + self.socket
        self.write("conf", OPENDKIM_CONF % (self.DOMAIN, self.SELECTOR, keys, self.SELECTOR, where))

    def argv(self):
        return ["opendkim", "-f", "-x", self.dir + "/conf"]

    def verify(self, *contents):
        """Another implementation than the one that signed has to find the first signature of each of them good."""
        paths = []
        for i, content in enumerate(contents):
            paths.append(self.t.path("%s-%d.eml" % (self.name, i)))
            with open(paths[-1], "wb") as f:
                f.write(content)
        p = subprocess.run([DEBIAN_PYTHON, "-B", HERE + "/dkim_verify.py",
                            "%s._domainkey.%s." % (self.SELECTOR, self.DOMAIN), self.record] + paths,
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * self.t.slow)
        if p.returncode or p.stdout != b"%d good\n" % len(contents):
            raise Failure("not all signatures are good:\n" + p.stdout.decode("utf-8", "replace")[-4000:])


class Clamd(Filter):
    """With one signature: EICAR, wherever it stands in a part."""
    ACCOUNT = "clamav"

    def configure(self):
        self.write("db/eicar.ndb", "Eicar-Test:0:*:%s\n" % EICAR.hex())
        where = ("TCPSocket %d\nTCPAddr 127.0.0.1" % self.port if self.port
                 else "LocalSocket %s\nLocalSocketMode 666\nFixStaleSocket yes" % self.socket)
        self.write("conf", "Foreground yes\nDatabaseDirectory %s/db\nTemporaryDirectory %s\nMaxThreads 4\nSelfCheck 0\n"
                   "LogVerbose yes\n%s\n" % (self.dir, self.dir, where))

    def argv(self):
        return ["clamd", "--config-file=" + self.dir + "/conf"]


# Command, what goes with it, the bit by which a milter says that it does not want it.
PROBE = ((b"C", b"probe.test\0004\0\x19127.0.0.1\0", 0x01), (b"H", b"probe.test\0", 0x02), (b"M", b"<a@from.test>\0", 0x04),
         (b"R", b"<to@rcpt.test>\0", 0x08), (b"L", b"Subject\0probe\0", 0x20), (b"N", b"", 0x40), (b"B", b"x\r\n", 0x10),
         (b"E", b"", 0))
NO_STEPS = 0x37f  # may be left out; that a step has no reply is not offered
FINAL = (b"a", b"d", b"r", b"t", b"y")


def milter_says(sock):
    """What a milter says to a small message: the letter of its last packet."""
    file = sock.makefile("rb")

    def receive():
        packet = file.read(struct.unpack("!I", file.read(4))[0])
        return packet[:1], packet[1:]

    def send(command, data):
        sock.sendall(struct.pack("!I", 1 + len(data)) + command + data)
        return receive()

    _, wishes = send(b"O", struct.pack("!III", 6, 0x1ff, NO_STEPS))
    unwanted = struct.unpack("!I", wishes[8:12])[0]
    for command, data, bit in PROBE:
        if not unwanted & bit:
            said, _ = send(command, data)
            if said in FINAL:
                return said.decode()
    while said not in FINAL + (b"c",):  # changes come before the last word
        said, _ = receive()
    return said.decode()


class ClamavMilter(Filter):
    """Before a Clamd of its own. header: adds X-Virus-Scanned and X-Virus-Status. It listens before it has found clamd
    and defers mail until then, so it is ready when it has passed a message."""
    ACCOUNT = "clamav"

    def configure(self, infected="Reject", header=False):
        self.clamd = Clamd(self.t)
        where = "inet:%d@127.0.0.1" % self.port if self.port else "unix:" + self.socket
        self.write("conf", "Foreground yes\nMilterSocket %s\nMilterSocketMode 666\nFixStaleSocket yes\n"
                   "ClamdSocket unix:%s\nOnInfected %s\nOnFail Defer\nTemporaryDirectory %s\n%s%s" % (
                       where, self.clamd.socket, infected, self.dir,
                       "RejectMsg infected: %v\n" if infected == "Reject" else "",
                       "AddHeader Replace\nReportHostname clamav.test\n" if header else ""))

    def accepts(self):
        if not super().accepts():
            return False
        with socket.socket(socket.AF_INET if self.port else socket.AF_UNIX) as s:
            s.settimeout(10 * self.t.slow)
            s.connect(("127.0.0.1", self.port) if self.port else self.socket)
            return milter_says(s) in "ac"

    def argv(self):
        return ["clamav-milter", "--config-file=" + self.dir + "/conf"]


# ---- policy daemons ----

class Postgrey(Filter):
    """Lets each triplet pass `delay` seconds after it has first come, with X-Greylist; -1: at once."""
    ACCOUNT = "postgrey"

    def configure(self, delay=1):
        self.delay = delay
        os.mkdir(self.dir + "/db")
        for name in ("clients", "recipients"):
            self.write(name, "")

    def argv(self):
        group = pwd.getpwuid(self.account.pw_uid).pw_gid
        where = "--inet=127.0.0.1:%d" % self.port if self.port else "--unix=" + self.socket
        return ["postgrey", where, "--dbdir=%s/db" % self.dir, "--delay=%d" % self.delay, "--user=" +
                self.account.pw_name, "--group=%d" % group, "--hostname=postgrey.test", "--auto-whitelist-clients=0",
                "--whitelist-clients=%s/clients" % self.dir, "--whitelist-recipients=%s/recipients" % self.dir]


POSTFWD_RULES = """\
id=REFUSED; recipient==refused@rcpt.test; action=REJECT not at this address
id=CODED;   recipient==coded@rcpt.test; action=554 5.7.0 rule with a code
id=LATER;   recipient==later@rcpt.test; action=450 4.7.1 not just now
id=IF;      recipient==if@rcpt.test; action=DEFER_IF_PERMIT not just now
id=GONE;    recipient==gone@rcpt.test; action=421 4.3.2 going down
id=HEADER;  recipient==header@rcpt.test; action=PREPEND X-Postfwd: $$client_address $$sender $$protocol_name
id=LARGE;   protocol_state==END-OF-MESSAGE; size>=50000; action=REJECT too much for now
id=MANY;    protocol_state==DATA; recipient_count>=3; action=450 4.5.3 too many at once
id=SENDER;  sender==bad@from.test; action=REJECT not from there
id=OK;      recipient==ok@rcpt.test; action=OK
"""


class Postfwd(Filter):
    """A message of 50,000 octets is refused at its end, one to three recipients at DATA, the sender bad@ everywhere.
    By recipient: refused@ REJECT, coded@ 554, later@ 450, if@ DEFER_IF_PERMIT, gone@ 421, header@ PREPEND, ok@ OK."""
    ACCOUNT = "postfw"
    ENV = {"BOUND_SOCKETS": ";"}  # Net::Server's word for "started again in place": it stays in the foreground

    def configure(self):
        self.write("rules", POSTFWD_RULES)

    def argv(self):
        if os.path.exists(self.dir + "/pid"):
            os.unlink(self.dir + "/pid")  # of one that was killed; its number may be another's by now
        where = (["-i", "127.0.0.1", "-p", str(self.port)] if self.port
                 else ["--proto", "unix", "-p", self.socket, "--umask", "0000"])
        return ["postfwd1", "-d", "-f", self.dir + "/rules", "-n", "-c", "0", "--stdoutlog", "-u", self.account.pw_name, "-g",
                str(self.account.pw_gid), "--pidfile", self.dir + "/pid"] + where


def with_attachment(content, text=b"see below"):
    """A message with `content` as a base64 attachment."""
    return (b"From: a@from.test\r\nSubject: attached\r\nMIME-Version: 1.0\r\n"
            b"Content-Type: multipart/mixed; boundary=\"xxx\"\r\n\r\n--xxx\r\nContent-Type: text/plain\r\n\r\n" + text +
            b"\r\n--xxx\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
            b"Content-Disposition: attachment; filename=\"file.bin\"\r\n\r\n" +
            base64.encodebytes(content).replace(b"\n", b"\r\n") + b"--xxx--\r\n")
