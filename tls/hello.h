/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A look into a ClientHello before anything is decided (RFC 8446 4.1.2, RFC 5246 7.4.1.2): which
 * name, which kinds of certificates, whether it is for us at all. Pure: octets in, facts out, no
 * state, no memory of its own. Everything else of the hello is for the library that answers it.
 */
#ifndef TLS_HELLO_H
#define TLS_HELLO_H

#include "ring/base.h"

#define HELLO_BYTES_MAX (16u << 10) /* of the message, without the headers of records */
#define HELLO_RECORDS_MAX 16
#define HELLO_WIRE_MAX (HELLO_BYTES_MAX + 4 + 5 * HELLO_RECORDS_MAX)
#define HELLO_NAME_MAX 255

/* Kinds of certificates, as bits of hello.kinds. */
enum hello_kind {
	HELLO_RSA = 1,
	HELLO_P256 = 2,
	HELLO_P384 = 4,
	HELLO_P521 = 8,
};

enum hello_result {
	HELLO_WHOLE,
	HELLO_MORE,    /* good so far */
	HELLO_NOT_TLS, /* something else speaks: nothing to be answered */
	HELLO_BAD,     /* h->alert says what is wrong */
};

struct hello {
	struct span sni; /* in scratch; none: not named */
	uint8_t kinds;	 /* certificates that the client can check */
	uint8_t alert;	 /* RFC 8446 6; HELLO_BAD only */
	bool tls13;	 /* offered, with a suite of it */
	bool alpn, smtp; /* has a list of protocols; "smtp" is in it */
};

/* `wire`: all octets so far. `scratch`: HELLO_BYTES_MAX + 4 octets, where the message is put
 * together. More than HELLO_WIRE_MAX octets never come back as HELLO_MORE. */
enum hello_result hello_read(struct span wire, uint8_t *scratch, struct hello *h) MUST_USE;

#endif
