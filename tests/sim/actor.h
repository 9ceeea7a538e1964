/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the simulated clients and servers share: cutting octets into pieces, reading lines and words
 * (their own way, not the engine's: they are witnesses), choices by weight, text.
 */
#ifndef TESTS_SIM_ACTOR_H
#define TESTS_SIM_ACTOR_H

#include "tests/sim/record.h"
#include "tests/sim/tape.h"

/* How many of n octets (n >= 1) to move now: all of them in half of the cases, also for 0. */
size_t actor_cut(struct tape *t, size_t n);

/* One row of a table of things that may happen; row 0 is the dull one and has what the others leave
 * of 256. A row is in play when the actor's manners are at least its own. */
struct actor_whim {
	uint8_t weight, manners;
};
uint32_t actor_whim(
	struct tape *t, const struct actor_whim *rows, uint32_t count, unsigned manners);

/* A while: seconds mostly, minutes up to beyond all time limits. */
uint64_t actor_nap_us(struct tape *t);

void octets_str(struct octets *o, const char *s);
void octets_fmt(struct octets *o, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Letters that make up no mark, the same ones for the same seed. */
void octets_letters(struct octets *o, uint32_t seed, size_t n);
/* What TLS could look like: every octet has bit 7 set or is one that SMTP would trip over. */
void octets_opaque(struct octets *o, uint32_t seed, size_t n);

/* The first line with its LF; empty when there is no LF yet. */
struct span actor_line(struct span in);
/* The line without LF and without the CR before it. */
struct span actor_trim(struct span line);
/* Takes the next word; empty at the end. */
struct span actor_word(struct span *rest);
/* `s` begins with `word`, in any case of letters. */
bool actor_begins(struct span s, const char *word);
/* Decimal digits, nothing else, below 2^40; UINT64_MAX: not so. */
uint64_t actor_number(struct span s);

/* Room for one more in an array of `count` rows of `size` octets. */
void *actor_grow(void *p, uint32_t count, size_t size);

#endif
