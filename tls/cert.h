/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What is read out of one X.509 certificate (DER): whom it is for, how long, what its key is and
 * the two digests that pins are made of. Nothing is verified here. Any thread; nothing is kept.
 */
#ifndef TLS_CERT_H
#define TLS_CERT_H

#include "tls/tls.h"

struct cert {
	char subject[TLS_SUBJECT_MAX + 1]; /* CN, else the first name; cut; NUL behind it */
	uint8_t sha256[32];		   /* of all of it */
	uint8_t spki_sha256[32];	   /* of its SubjectPublicKeyInfo (RFC 7469 2.4) */
	uint8_t kind;			   /* enum hello_kind; 0: another */
	int64_t expires_s;		   /* of 1970 */
	bool self_signed;
	bool signs;	  /* a CA that may sign certificates */
	uint8_t path_max; /* CAs that may stand below it; 255: any number */
};

bool cert_read(struct span der, struct cert *out) MUST_USE; /* false: cannot be read */

/* Each DNS name that the certificate is for: the alternative names, and only if there are none of
 * any type the CN (RFC 6125 6.4.4). `each` returns false to stop. */
void cert_names(struct span der, bool (*each)(void *arg, struct span name), void *arg);
/* One of the names stands for `host`. */
bool cert_covers(struct span der, struct span host);

/* RFC 6125 6.4: ASCII case does not matter; "*." at the beginning stands for one label, and at
 * least two must follow. A dot at the end of the host is nothing. */
bool name_covers(struct span pattern, struct span host);

#endif
