/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Running worlds in child processes, so that an assertion or a sanitizer's finding is one failed
 * world and not the end of the run.
 */
#ifndef TESTS_SIM_RUNNER_H
#define TESTS_SIM_RUNNER_H

#include "tests/sim/world.h"

#define FAILURES_MAX 16 /* of one run; it stops there */

struct failure {
	uint64_t seed;
	bool crashed; /* the process died; the invariant is I7 */
	struct verdict verdict;
};

struct run_conf {
	uint64_t first, count; /* seeds */
	unsigned jobs;
	unsigned twice_every;  /* one of so many seeds runs twice and must give the same hash; 0 =
				  none */
	unsigned seconds;      /* stop then; 0 = no limit */
	unsigned failures_max; /* stop behind so many */
	FILE *progress;	       /* a line now and then; may be NULL */
};

struct run_result {
	uint64_t worlds, twice;
	struct world_result sum; /* added up; hash: of all worlds, whatever their order */
	struct failure failures[FAILURES_MAX];
	unsigned failure_count;
	double seconds;	    /* of wall clock */
	double cpu_seconds; /* of the children */
};

void run_seeds(const struct run_conf *c, struct run_result *out);

/* One world from a recording, in a child with its standard error thrown away. */
void run_tape_apart(const struct octets *tape, struct failure *out);

/* The recording of a seed's world: as far as it got, if it crashes. */
void tape_of_seed(uint64_t seed, struct octets *out);

/* Makes a failing recording shorter and duller as long as it breaks the same invariant (or
 * crashes); at most `tries` worlds. */
void shrink(struct octets *tape, const struct failure *was, unsigned tries, FILE *progress);

/* Recordings as text: hexadecimal, lines that begin with # are comments. False: cannot be read or
 * written. */
bool tape_load(const char *path, struct octets *out);
bool tape_save(const char *path, const struct octets *tape, const char *comment);

const char *invariant_word(enum invariant i);
const char *invariant_text(enum invariant i);

#endif
