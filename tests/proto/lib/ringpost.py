# SPDX-License-Identifier: GPL-3.0-or-later
"""The process under test: configuration, start, log records, memory and descriptors, end.

The configuration is written as JSON, which YAML reads. The log goes to a file; the start record
there says which ports were bound. finish() holds what must be true after every test.
"""
import copy
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time

from lib.core import Failure, Skip
from lib.peers import connect

BAD_STDERR = re.compile(r"Sanitizer|runtime error:|[Aa]ssert|core dumped|stack smashing|terminate called|"
                        r"corrupted|double free|Segmentation")
SANITIZER_OPTIONS = {
    "ASAN_OPTIONS": "exitcode=99:detect_leaks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "exitcode=98:halt_on_error=0:second_deadlock_stack=1",
}


def merge(base, over):
    """`over` laid upon `base`; None removes a key."""
    out = copy.deepcopy(base)
    for key, value in (over or {}).items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merge(out[key], value)
        else:
            out[key] = copy.deepcopy(value)
    return out


class Ringpost:
    """t.ringpost(upstream, ..., listener={...}, up={...}, conf={...}).

    servers: ScriptedUpstream, AutoServer or address strings. listener, up: directives of the listener
    `in` and the upstream `mta`. conf: anything on top of all. prefix: a command before the program
    (setpriv, prlimit). nofile: a soft and hard limit on descriptors. cold: written but not started."""

    def __init__(self, t, servers, listener=None, up=None, conf=None, workers=1, bind="127.0.0.1:0",
                 prefix=(), nofile=None, cold=False, env=None, program=None):
        self.t = t
        self.name = "ringpost%d" % (len(t.processes) + 1)
        self.log_path = t.path(self.name + ".log")
        self.err_path = t.path(self.name + ".err")
        self.conf_path = t.path(self.name + ".yaml")
        self.clients = 0
        self.proc = None
        self.finished = False
        self.want_status = 0
        self.leaks_allowed = False
        self.addresses = []
        self.conf = merge({
            "workers": workers,
            "log": {"to": "file:" + self.log_path, "format": "json"},
            "shutdown-grace": "2s",
            "limits": {"pressure": False},  # a busy machine must not shorten the limits under test
            "listeners": {"in": merge({"bind": bind, "upstream": "mta"}, listener)},
            "upstreams": {"mta": merge({"servers": [getattr(s, "address", s) for s in servers]}, up)},
        }, conf)
        t.processes.append(self)
        with open(self.conf_path, "w") as f:
            json.dump(self.conf, f, indent=1)
        self.program = program or os.path.join(t.build, "ringpost")
        self.prefix = list(prefix)
        self.nofile = nofile
        self.env = dict(os.environ, **(env or {}))
        for key, value in SANITIZER_OPTIONS.items():
            self.env[key] = value + (":" + self.env[key] if self.env.get(key) else "")
        if not cold:
            self.start()

    # ---- start ----

    def start(self):
        def limits():
            if self.nofile:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile, self.nofile))
        err = open(self.err_path, "ab")
        self.proc = subprocess.Popen(self.prefix + [self.program, "run", "-c", self.conf_path], stdout=err,
                                     stderr=err, stdin=subprocess.DEVNULL, env=self.env, preexec_fn=limits)
        err.close()
        self.t.log.note("--", "%s started, pid %d" % (self.name, self.proc.pid))
        rec = self.t.until(self._start_record, "ringpost starts", seconds=10)
        self.addresses = rec["listen"].split()
        self.pid = self.proc.pid
        self.base_sockets = self.sockets()

    def _start_record(self):
        if self.proc.poll() is not None:
            raise Failure("ringpost ended at once with status %d:\n%s" % (self.proc.returncode, self.stderr()))
        return next((r for r in self.records() if r.get("ev") == "start"), None)

    @property
    def address(self):
        return self.addresses[0]

    def client(self, address=None, **kw):
        self.clients += 1
        return connect(self.t, address or self.address, "C%d" % self.clients, **kw)

    # ---- log ----

    def raw_log(self):
        try:
            with open(self.log_path, "rb") as f:
                return f.read()
        except FileNotFoundError:
            return b""

    def records(self, ev=None, **match):
        out = []
        for line in self.raw_log().split(b"\n")[:-1]:
            try:
                rec = json.loads(line)
            except ValueError as e:
                raise Failure("a log line is not JSON (%s): %r" % (e, line))
            if (ev is None or rec.get("ev") == ev) and all(rec.get(k) == v for k, v in match.items()):
                out.append(rec)
        return out

    def record(self, ev, count=1, seconds=None, **match):
        """Waits for the count-th record of this kind and returns it."""
        what = "log record %s %s" % (ev, match or "")
        try:
            self.t.until(lambda: len(self.records(ev, **match)) >= count, what, seconds)
        except Failure as e:
            raise Failure("%s\nthe log:\n%s" % (e, self.raw_log().decode("utf-8", "replace")[-3000:]))
        return self.records(ev, **match)[count - 1]

    def no_record(self, ev, **match):
        got = self.records(ev, **match)
        if got:
            raise Failure("a log record that should not be: %r" % got[0])

    def stderr(self):
        try:
            with open(self.err_path, "rb") as f:
                return f.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    # ---- looking at the process ----

    def fds(self, kind=None):
        out = []
        base = "/proc/%d/fd" % self.proc.pid
        for name in os.listdir(base):
            try:
                target = os.readlink(os.path.join(base, name))
            except OSError:
                continue
            if kind is None or target.startswith(kind):
                out.append(target)
        return len(out)

    def sockets(self):
        try:
            return self.fds("socket:")
        except OSError:
            return None

    def status_kib(self, key):
        with open("/proc/%d/status" % self.proc.pid) as f:
            for line in f:
                if line.startswith(key + ":"):
                    return int(line.split()[1])
        return 0

    def rss_anon(self):
        return self.status_kib("RssAnon")

    def alive(self):
        return self.proc.poll() is None

    def signal(self, sig):
        self.t.log.note("--", "signal %s" % signal.Signals(sig).name)
        self.proc.send_signal(sig)

    # ---- the end ----

    def wait_exit(self, seconds=None):
        try:
            return self.proc.wait(seconds * self.t.slow if seconds else self.t.wait)
        except subprocess.TimeoutExpired:
            raise Failure("ringpost does not end after TERM")

    def sockets_back(self, seconds=None):
        """All sockets but those of the start are closed."""
        if self.base_sockets is None:
            return
        try:
            self.t.until(lambda: self.sockets() <= self.base_sockets, "sockets back to base", seconds)
        except Failure:
            raise Failure("ringpost holds %d sockets, %d at its start" % (self.sockets(), self.base_sockets))

    def finish(self, checks=True):
        if self.finished or self.proc is None:
            return
        self.finished = True
        try:
            if checks and self.alive() and not self.leaks_allowed:
                self.sockets_back()
            if self.alive():
                self.proc.send_signal(signal.SIGTERM)
                if not checks:
                    time.sleep(0.02)
                    self.proc.send_signal(signal.SIGTERM)
                self.wait_exit(8)
        finally:
            if self.alive():
                self.proc.kill()
                self.proc.wait()
        problems = []
        if self.proc.returncode != self.want_status:
            problems.append("ringpost's exit status is %d, not %d" % (self.proc.returncode, self.want_status))
        err = self.stderr()
        if BAD_STDERR.search(err):
            problems.append("on standard error:\n" + err[-6000:])
        elif problems and err:
            problems.append("standard error:\n" + err[-3000:])
        if problems:
            raise Failure("\n".join(problems))
        if checks and self.want_status == 0:
            self.check_stop_record()

    def check_stop_record(self):
        stop = self.records("stop")
        if not stop:
            raise Failure("no stop record in the log; it ends:\n" + self.raw_log().decode("utf-8", "replace")[-800:])
        self.stop = stop[-1]
        for name in ("sessions_now", "links_now", "ring_overflows", "log_dropped"):
            if self.stop.get(name, 0) != 0:
                raise Failure("the stop record says %s = %s" % (name, self.stop[name]))

    def stop_now(self):
        """TERM, a clean exit, the stop record. For tests that look at the counters."""
        self.finish()
        return self.stop


def as_nobody(t, memlock=8 << 20):
    """A prefix that makes the program nobody's inside a bound of locked memory, and a copy it may read."""
    if not shutil.which("prlimit"):
        raise Skip("no prlimit")
    prefix = ["prlimit", "--memlock=%d:%d" % (memlock, memlock)]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            raise Skip("no setpriv")
        prefix += ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--no-new-privs"]
    os.chmod(t.dir, 0o777)
    copy = t.path("ringpost-copy")
    shutil.copy(os.path.join(t.build, "ringpost"), copy)
    os.chmod(copy, 0o755)
    return prefix, copy
