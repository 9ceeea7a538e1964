/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The end-of-data scanner. Reads a DATA body (from the octet after the 354 reply's answer on, which
 * counts as the start of a line) in pieces of any size and says how many octets may be passed on.
 *
 * Only CRLF.CRLF ends a message (RFC 5321 4.1.1.4); at the very start ".CRLF" does. A server that
 * is lax about line ends could take more for the end. A *lookalike* is: the start of the body or a
 * line end of any spelling (CR, LF, CRLF), a dot, a line end of any spelling, NULs anywhere between
 * them ignored, that is not the one true end. The last octet of a lookalike is never passed on by
 * the modes that guard; a CR that follows a dot at a line start is held back until the next octet
 * tells.
 *
 * Pure: no I/O, no allocation. Resumable at every octet. Any thread.
 */
#ifndef SMTP_SCAN_H
#define SMTP_SCAN_H

#include "ring/base.h"

enum scan_mode {
	SCAN_GUARD,	/* stop at a lookalike; stray CR and LF elsewhere pass untouched */
	SCAN_REJECT,	/* stop at any bare CR or bare LF, and at lookalikes */
	SCAN_NORMALIZE, /* bare LF becomes CRLF, bare CR a space; a dot that so comes to a line
			   start is doubled, a lone dot that so becomes a line is dropped (it was
			   stuffing): a strict reader finds the same content. Stop at the lookalikes
			   that are left, those with NULs */
	SCAN_PASS,	/* only the true end counts */
};

enum scan_end {
	SCAN_MORE,    /* all input was used; the message goes on */
	SCAN_DONE,    /* the true end: its last octet is the last one used */
	SCAN_STOPPED, /* an octet that must not be passed on: `used` stops right before it, or, when
			 it is a CR that was held back (held_cr stays set), right behind it */
};

struct scan {
	uint8_t state; /* private; 0 after scan_init */
	uint8_t mode;  /* enum scan_mode */
	bool held_cr;  /* a CR was used but is not in `pass`: it belongs before what comes next */
	uint64_t bare_lf, bare_cr, nul; /* met so far in octets used; a CR turns out to be bare,
					   and counts, when the octet behind it is used */
};

/* What one call did with in[0..n). */
struct scan_step {
	enum scan_end end;
	size_t used;	  /* octets consumed from the input */
	bool lead_cr;	  /* pass on one CR (held back by an earlier call) before everything else */
	struct span pass; /* then these octets of the input: always in[0 .. pass.n) */
	struct span tail; /* SCAN_NORMALIZE: then these (static) octets in place of the input's,
			     also with SCAN_DONE; else empty */
};

void scan_init(struct scan *s, enum scan_mode mode);

/* Call again with the rest of the input while end == SCAN_MORE and used < n (only SCAN_NORMALIZE
 * returns early, around each octet it rewrites; then used may be 0 and only tail set). After
 * SCAN_STOPPED the caller may go on with scan_swallow() from in[used] on to find the true end;
 * after SCAN_DONE the rest is the next command. */
void scan_feed(struct scan *s, struct span in, struct scan_step *out);

/* Octets of `in` up to and including the true end, which sets *done; all of it when it is not
 * there. For bodies that are thrown away: continues the same state and counters, in SCAN_PASS
 * manner; what was held back is thrown away too. */
size_t scan_swallow(struct scan *s, struct span in, bool *done);

/* The implementations, for the proof and the bench. scan_feed uses the best that the CPU has. */
struct scan_impl {
	const char *name;
	bool (*usable)(void);
	void (*feed)(struct scan *s, struct span in, struct scan_step *out);
};
extern const struct scan_impl scan_impls[];
extern const size_t scan_impl_count;

#endif
