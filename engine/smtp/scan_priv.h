/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the scanner's implementations share. Private to scan.c and scan_x86.c.
 *
 * An implementation is a *skip*: it moves over whole stretches in which nothing can happen, counts
 * in them, and leaves the state as the table in scan.c would have left it. Everything that can end
 * or stop a message is decided by the table alone.
 */
#ifndef SMTP_SCAN_PRIV_H
#define SMTP_SCAN_PRIV_H

#include "engine/smtp/scan.h"

/* Where the octets used so far leave us. The order counts: up to SCAN_ST_NULS no dot is pending. */
enum scan_state {
	SCAN_ST_LINE, /* after an exact CRLF, or at the start of the body */
	SCAN_ST_TEXT,
	SCAN_ST_CR,   /* the last octet was a CR */
	SCAN_ST_LF,   /* after a bare LF */
	SCAN_ST_NULS, /* after a line end of any spelling and then NULs */
	SCAN_ST_DOT,  /* SCAN_ST_LINE and a dot */
	SCAN_ST_LAX,  /* a dot after any other line end, or with NULs before or behind it */
	SCAN_ST_END,  /* SCAN_ST_DOT and a CR: an LF makes it the end */
	SCAN_ST_COUNT
};

/* Returns the new offset, between i and n; i itself when nothing could be skipped. */
typedef size_t (*scan_skip)(
	struct scan *s, enum scan_mode mode, const uint8_t *p, size_t i, size_t n);

/* Octets the table takes in one go before the skip is tried again. */
#define SCAN_STRIDE 8

void scan_feed_with(struct scan *s, struct span in, struct scan_step *out, scan_skip skip);

#if defined(__x86_64__)
bool scan_avx2_usable(void);
size_t scan_skip_avx2(struct scan *s, enum scan_mode mode, const uint8_t *p, size_t i, size_t n);
size_t scan_skip_sse2(struct scan *s, enum scan_mode mode, const uint8_t *p, size_t i, size_t n);
#endif

#endif
