# SPDX-License-Identifier: GPL-3.0-or-later
"""The two-peer harness: see core.py (tests, failures, transcript), peers.py (sockets), ringpost.py
(the process), autoserver.py (an SMTP server for loops), crowd.py (many clients), policy.py (a policy
server), diag.py (what the kernel knows of a socket)."""
