#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the tests of ringpost between real mail software on loopback.

    tests/interop/run.py --build build/release [--quick] [--filter PATTERN] [-j N]

The runner, the process wrapper and the output are those of tests/proto (see its run.py); the tests
and kit/ are here. Needs postfix, swaks, curl, openssl, the filters rspamd, opendkim, clamav-milter,
postgrey, postfwd, for TLS Exim's program, gnutls-cli, msmtp, Java and ecj, aiosmtpd, sslscan, nmap
(`make need-test`), and root or `sudo -n` for the private Postfix instances; no service of the system
is touched and nothing is left behind.
"""
import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.join(os.path.dirname(HERE), "proto")
sys.path[:0] = [HERE, PROTO]

spec = importlib.util.spec_from_file_location("proto_run", os.path.join(PROTO, "run.py"))
proto_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(proto_run)

if __name__ == "__main__":
    proto_run.__doc__ = __doc__
    proto_run.HERE = HERE  # where it looks for test_*.py
    sys.exit(proto_run.main())
