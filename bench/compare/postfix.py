# SPDX-License-Identifier: GPL-3.0-or-later
"""Postfix, as a filter before the queue and as a relay: an instance of its own in the place's folder.

Nothing of the machine's Postfix is read but its programs; it logs nowhere, so nothing reaches the machine's log either.
Its master starts as root only and its children inherit core and control group.
"""
import grp
import os
import pwd
import time

from peer import Peer, said
from stand import Failed

QUEUES = ("maildrop", "incoming", "active", "deferred")  # in the order in which a message goes through them
DRAIN_PATIENCE_S = 120
PROCESS_KIB = 2048  # what a process of smtpd takes, at most
# Of smtpd, beside those of a scenario's sessions: idle.py's first ones and its witness, and processes on their way out.
PROCESSES_SPARE = 500


def postconf(name):
    return said(["/usr/sbin/postconf", "-d", "-h", name]).strip()


def _folder(path, user, mode, group="root"):
    os.mkdir(path)
    os.chown(path, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
    os.chmod(path, mode)


def _make_queue(top):
    """The folders that `postfix check` would make, with their owners."""
    _folder(top + "/data", "postfix", 0o700)
    _folder(top + "/spool", "root", 0o755)
    _folder(top + "/spool/pid", "root", 0o755)
    for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"):
        _folder(top + "/spool/" + name, "postfix", 0o700)
    _folder(top + "/spool/maildrop", "postfix", 0o1730, "postdrop")
    _folder(top + "/spool/public", "postfix", 0o2710, "postdrop")


def _available_kib():
    with open("/proc/meminfo") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("MemAvailable"))


class Postfix(Peer):
    packages = ("postfix",)
    program = "postfix"
    parses = True
    slow = whole = True
    services = ""  # folder of its master.cf
    sessions_max = 1000
    sessions_why = "each is a process"

    def missing(self):
        return super().missing() or ("Postfix starts as root only" if os.geteuid() != 0 else None)

    def version(self, build):
        return postconf("mail_version")

    def unfit(self, scenario):
        if scenario.at_once * PROCESS_KIB > _available_kib() // 2:
            return "%d processes do not fit into this machine" % scenario.at_once
        return super().unfit(scenario)

    def start(self, place):
        _make_queue(place.dir)
        for path in (place.template("postfix/main.cf", PROCESSES=self.sessions_max + PROCESSES_SPARE),
                     place.template("postfix/%s/master.cf" % self.services)):
            os.utime(path, (1, 1))  # Postfix waits for seconds while a file may still be changing
        # A session of its own: master signals its whole process group when it ends.
        place.spawn([postconf("daemon_directory") + "/master", "-s", "-c", place.dir], start_new_session=True)


class PostfixFilter(Postfix):
    name = "postfix-filter"
    what = "smtpd_proxy_filter: a filter before the queue; one process a session, one upstream connection a message"
    services = "filter"


class PostfixRelay(Postfix):
    name = "postfix-relay"
    what = "smtpd, queue on the disk with fsync, smtp to the sink; CPU and rate until the sink has every message"
    services = "relay"
    sessions_max = 500
    sessions_why = "each is two processes, and idle ones are those of postfix-filter"

    def drain(self, place):
        until = time.monotonic() + DRAIN_PATIENCE_S
        while any(files for queue in QUEUES for _, _, files in os.walk("%s/spool/%s" % (place.dir, queue))):
            if time.monotonic() > until:
                raise Failed("Postfix still has messages in its queue after %d s" % DRAIN_PATIENCE_S)
            time.sleep(0.01)
