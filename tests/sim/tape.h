/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Everything that is left to chance in a simulated world comes out of a tape. A tape is made from a
 * seed, and then it records what it gave; or it is a recording, and then it gives the same again.
 * Cutting or zeroing a recording yields another valid world, usually a simpler one: 0 is the dull
 * choice everywhere (no fault, the shortest, the first). Behind its end a recording gives 0 for
 * ever, so a short tape is a short story. Any octets are a valid recording (a fuzzer's input).
 */
#ifndef TESTS_SIM_TAPE_H
#define TESTS_SIM_TAPE_H

#include "ring/base.h"

struct tape {
	uint8_t *p; /* what was given so far, or what is to be given; owns */
	size_t n, cap;
	size_t at; /* replaying: the next octet */
	uint64_t rng;
	bool replay;
	/* Also to be written here as it is given, for whoever survives us; may be NULL. */
	uint8_t *copy;
	size_t copy_max, *copy_n;
};

void tape_from_seed(struct tape *t, uint64_t seed);
void tape_from_bytes(struct tape *t, const void *p, size_t n); /* copies */
/* Every octet given from now on is written to `copy` as well, as long as it fits; *n counts. */
void tape_record_into(struct tape *t, uint8_t *copy, size_t max, size_t *n);
void tape_free(struct tape *t);

/* [0, n), evenly. n >= 1. Up to 256 alternatives take one octet of tape, then two, then four. */
uint32_t tape_pick(struct tape *t, uint32_t n);
/* True in about `rate` of 256 cases; 0 never (and takes no octet). */
bool tape_chance(struct tape *t, uint8_t rate);
/* [0, max], small ones much more often: half of them below about a sixteenth of max. */
uint32_t tape_small(struct tape *t, uint32_t max);

#endif
