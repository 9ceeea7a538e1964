/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The patterns of Lua 5.4 (reference manual 6.4.1), with a bound on the work. The library's own
 * matcher runs no instructions, so no budget stops it: `.-.-.-b` on an address of 320 octets takes
 * two seconds there, `a-a-b` on a header of 4,000 octets most of a minute. This one asks for every
 * batch of steps it takes. Pure: no Lua state, no memory; it finds the same as the library's.
 *
 * Failure modes: a pattern that is none, or too deep: `problem` says so, in the library's words;
 * no steps any more: MATCH_STOPPED.
 */
#ifndef HOOK_LUA_MATCH_H
#define HOOK_LUA_MATCH_H

#include "ring/base.h"

#define MATCH_CAPTURES_MAX 32

#define MATCH_OPEN (-1)	    /* a capture that has no end yet */
#define MATCH_POSITION (-2) /* `()` */

struct match {
	struct span subject, pattern; /* pattern: without the anchor */
	/* How many steps may be taken now; 0: no more. A step is one octet looked at. */
	uint32_t (*more)(void *arg);
	void *arg;
	uint32_t left; /* of what more() gave */

	/* what was found, and why not */
	uint32_t captures;
	struct {
		const uint8_t *at;
		ptrdiff_t n;
	} capture[MATCH_CAPTURES_MAX];
	const char *problem; /* static */
	uint32_t depth;
};

enum match_res { MATCH_NO, MATCH_YES, MATCH_BAD, MATCH_STOPPED };

/* Does the pattern match at `at`, in the subject? *end: behind what it matches. */
enum match_res match_at(struct match *m, const uint8_t *at, const uint8_t **end);
/* The first place from `at` on where it does; anchored: this one only. */
enum match_res match_from(struct match *m, bool anchored, const uint8_t **at, const uint8_t **end);
/* Are there octets that mean something in the pattern? */
bool match_is_plain(struct span pattern);

#endif
