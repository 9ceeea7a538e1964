/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * wolfSSL's headers in the one order that works (its options first, else structures have other
 * layouts), and what the build of it must have for this room to be right.
 */
#ifndef TLS_WOLF_H
#define TLS_WOLF_H

#include <wolfssl/options.h>

#include <wolfssl/ssl.h>
#include <wolfssl/error-ssl.h>
#include <wolfssl/wolfcrypt/error-crypt.h>

/* The verify callback sees every certificate of a peer, also a good one: pins and names are checked
 * there. */
#ifndef WOLFSSL_ALWAYS_VERIFY_CB
#error "wolfSSL needs -DWOLFSSL_ALWAYS_VERIFY_CB"
#endif
/* A chain is good when its leaf leads to a CA that is trusted, whatever else was sent with it. */
#ifndef WOLFSSL_ALT_CERT_CHAINS
#error "wolfSSL needs -DWOLFSSL_ALT_CERT_CHAINS"
#endif
/* Else a server with ticket nonces of more than 8 octets breaks the connection. */
#ifndef WOLFSSL_TICKET_NONCE_MALLOC
#error "wolfSSL needs -DWOLFSSL_TICKET_NONCE_MALLOC"
#endif
#if !defined(HAVE_SNI) || !defined(HAVE_ALPN) || !defined(HAVE_SESSION_TICKET) || \
	!defined(HAVE_SECRET_CALLBACK) || !defined(HAVE_HKDF)
#error "wolfSSL needs SNI, ALPN, session tickets, the secret callback and HKDF"
#endif
#if defined(OPENSSL_EXTRA) || defined(WOLFSSL_EARLY_DATA) || defined(HAVE_SECURE_RENEGOTIATION)
#error "wolfSSL must be built without opensslextra, early data and renegotiation"
#endif

#endif
