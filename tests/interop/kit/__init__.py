# SPDX-License-Identifier: GPL-3.0-or-later
"""Real mail software on loopback: servers.py (ringpost-sink, smtp-sink, a private Postfix), clients.py
(swaks, curl, smtplib, smtp-source, Postfix's own client, a small BDAT client), bodies.py (what is sent),
tls.py (both again, by TLS), exim.py, filters.py (what ringpost asks)."""
