#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one private Postfix instance, as root: `[sudo -n] python3 postfix_guard.py DIR`.

DIR/etc holds main.cf and master.cf, written by the test. Makes DIR/spool and DIR/data with the owners that
Postfix wants, then does what it is told on standard input, one word a line: `start`, `stop` (TERM to the
master, which takes its processes along; KILL after 10 s), `queue` (how many messages are in it). Answers
with one line each. At the end of the input, that is also when the test's process died in whatever way, it
stops the instance, removes all of DIR and ends.
"""
import grp
import os
import pwd
import shutil
import signal
import subprocess
import sys

STOP_S = 10


def owner(path, user, mode, group="root"):
    os.makedirs(path, exist_ok=True)
    os.chown(path, pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
    os.chmod(path, mode)


def prepare(top):
    os.chmod(top, 0o755)
    owner(top + "/etc", "root", 0o755)
    for name in os.listdir(top + "/etc"):
        os.chown(top + "/etc/" + name, 0, 0)
        os.utime(top + "/etc/" + name, (1, 1))  # Postfix waits for seconds while a file may still be changing
    owner(top + "/data", "postfix", 0o700)
    owner(top + "/spool", "root", 0o755)
    owner(top + "/spool/pid", "root", 0o755)
    for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
                 "saved", "trace"):
        owner(top + "/spool/" + name, "postfix", 0o700)
    owner(top + "/spool/maildrop", "postfix", 0o1730, "postdrop")
    owner(top + "/spool/public", "postfix", 0o2710, "postdrop")
    open(top + "/mail.log", "a").close()
    os.chmod(top + "/mail.log", 0o644)


def start(top):
    daemons = subprocess.check_output(["postconf", "-dh", "daemon_directory"], text=True).strip()
    # A session of its own: the master signals its whole process group when it ends. It inherits neither pipe.
    with open(top + "/master.err", "ab") as err:
        return subprocess.Popen([daemons + "/master", "-c", top + "/etc", "-s"], start_new_session=True,
                                stdin=subprocess.DEVNULL, stdout=err, stderr=err, cwd=top + "/spool")


def stop(master):
    if master.poll() is None:
        master.send_signal(signal.SIGTERM)
        try:
            master.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(master.pid, signal.SIGKILL)  # the session it led: nothing else can be in it
    except ProcessLookupError:
        pass
    master.wait()


def queued(top):
    """Whole messages: a file that its writer could not finish has no x bit, and nobody was told that it is there."""
    count = 0
    for queue in ("maildrop", "incoming", "active", "deferred"):
        for path, _, names in os.walk(top + "/spool/" + queue):
            for name in names:
                try:
                    count += bool(os.stat(path + "/" + name).st_mode & 0o100)
                except OSError:
                    count += 1  # on its way from one queue to the next
    return count


def main():
    top = sys.argv[1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    prepare(top)
    master = None
    try:
        for line in sys.stdin:
            if line == "start\n" and not master:
                master = start(top)
                print("started %d" % master.pid, flush=True)
            elif line == "stop\n" and master:
                stop(master)
                master = None
                print("stopped", flush=True)
            elif line == "queue\n":
                print("%d queued" % queued(top), flush=True)
    except BrokenPipeError:
        pass  # nobody reads our answers
    finally:
        if master:
            stop(master)
        shutil.rmtree(top, ignore_errors=True)


main()
