/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A reply that ringpost itself gives. One line: code, enhanced code (RFC 3463), text. Static or
 * part of a configuration snapshot, so that a queue can hold a pointer. Pure.
 */
#ifndef SMTP_LOCAL_H
#define SMTP_LOCAL_H

#include "ring/base.h"

struct local_reply {
	uint16_t code;
	const char
		*enhanced; /* "5.5.1", or NULL where a reply carries none (354, EHLO, greetings) */
	const char *text;
	const char *word; /* what the log calls it */
};

#define LOCAL_REPLY_BYTES_MAX 512 /* RFC 5321 4.5.3.1.5 */

/* "ddd d.d.d text\r\n" into out[LOCAL_REPLY_BYTES_MAX]; the text is cut to fit. `detail` may be
 * NULL: else appended after a space (control octets are written as '?'). Returns its length. */
size_t local_reply_write(const struct local_reply *r, const char *detail, uint8_t *out);

#endif
