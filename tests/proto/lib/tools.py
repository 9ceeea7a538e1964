# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench's tools as processes of a test: Sink (ringpost-sink) and Blast (ringpost-blast).

Both end with the test at the latest; a report of a sanitizer or a crash is then a failure, whatever the test looked at.
"""
import json
import os
import re
import signal
import subprocess

from lib.core import Failure

WRONG = re.compile(r"Sanitizer|runtime error:|assertion failed")


class Tool:
    """One process. `lines` is what it has said on standard output, as far as it was read."""

    def __init__(self, t, name, arguments, stderr=None):
        self.t = t
        self.name = name
        self.errors = t.path("%s.%d.err" % (name, len(t.servers)))
        self.lines = []
        with open(self.errors, "wb") as err:
            self.process = subprocess.Popen([os.path.join(t.build, name)] + [str(a) for a in arguments],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr or err)
        self.status = None
        t.log.note("--", "%s %s" % (name, " ".join(map(str, arguments))))
        t.servers.append(self)

    def line(self):
        """The next line of its output; the test's own time limit bounds the wait."""
        text = self.process.stdout.readline().decode()
        if not text.endswith("\n"):
            raise Failure("%s said nothing more:\n%s" % (self.name, self.complaint()))
        self.t.log.note(self.name, text.strip()[:200])
        self.lines.append(text.rstrip("\n"))
        return self.lines[-1]

    def end(self):
        """Waits for its end; the exit status. All of its output is in lines then."""
        if self.status is None:
            rest = self.process.stdout.read().decode()
            self.lines += rest.splitlines()
            self.status = self.process.wait()
            self.t.log.note(self.name, "(status %d)" % self.status)
        return self.status

    def complaint(self):
        with open(self.errors, errors="replace") as f:
            return f.read()

    def stop(self):
        if self.status is None:
            self.process.send_signal(signal.SIGTERM)
            self.end()
        self.process.stdout.close()
        if WRONG.search(self.complaint()) or self.status not in (0, 1, 64, 69):
            raise Failure("%s ended with status %d:\n%s" % (self.name, self.status, self.complaint()))


class Sink(Tool):
    def __init__(self, t, *options):
        port = t.path("sink.port.%d" % len(t.servers))
        super().__init__(t, "ringpost-sink", ("--listen", "127.0.0.1:0", "--port-file", port, "--stats") + options)
        t.until(lambda: os.path.exists(port) and open(port).read().endswith("\n"), "ringpost-sink starts", 20)
        self.address = "127.0.0.1:%d" % int(open(port).read())

    def stats(self):
        """Ends it; its counters."""
        self.process.send_signal(signal.SIGTERM)
        self.end()
        text = "\n".join(self.lines) + "\n" + self.complaint()
        return json.loads(re.search(r'^\{"ev":"stats".*\}$', text, re.M).group())

    def messages(self):
        """With --print, after stats(): what it took."""
        return [m for m in map(json.loads, (s for s in self.lines if s.startswith("{"))) if "from" in m]


class Blast(Tool):
    """With --json: report() is its last line."""

    def __init__(self, t, to, *options, **how):
        super().__init__(t, "ringpost-blast", ("--to", getattr(to, "address", to), "--json") + options, **how)

    def report(self, status=0):
        got = self.end()
        if got != status:
            raise Failure("ringpost-blast ended with status %d, not %d:\n%s\n%s" % (
                got, status, "\n".join(self.lines), self.complaint()))
        return json.loads(self.lines[-1])

    def mark(self, name):
        """Waits for the next line, which is this mark."""
        got = json.loads(self.line())
        if got.get("ev") != name:
            raise Failure("ringpost-blast: %r, not the mark %s" % (got, name))
        return got
