/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Octet classes and small readers that the parsers of this room share. Private to engine/smtp.
 * No <ctype.h>: its answers depend on the locale.
 */
#ifndef SMTP_OCTETS_H
#define SMTP_OCTETS_H

#include "ring/base.h"

enum octet_class_bit {
	OCTET_ALPHA = 1,
	OCTET_DIGIT = 2,
	OCTET_HEX = 4,	   /* both cases */
	OCTET_KEYWORD = 8, /* ALPHA / DIGIT / "-" */
	OCTET_ATEXT = 16,  /* RFC 5321 atext, and every octet above 127 (RFC 6531) */
	OCTET_VALUE = 32,  /* RFC 5321 esmtp-value, and every octet above 127 */
	OCTET_XCHAR = 64,  /* RFC 3461 xchar */
	OCTET_BLANK = 128, /* SP and HT */
};

extern const uint8_t octet_bits[256];

static inline bool octet_is(uint8_t c, unsigned bits)
{
	return (octet_bits[c] & bits) != 0;
}

/* True for the empty span. */
bool span_all(struct span s, unsigned bits);

struct span span_trim(struct span s); /* blanks at both ends dropped */

/* Skips blanks, takes what comes before the next blank. Empty at the end. */
struct span span_take_word(struct span *rest);

/* 1 to 20 digits, nothing else, not above max. */
bool span_number(struct span s, uint64_t max, uint64_t *out);

/* s up to the first `c` (all of it when there is none); *rest is behind it, p NULL without one. */
struct span span_split(struct span s, uint8_t c, struct span *rest);

#endif
