/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-micro: what one call of something costs, in CPU time of this thread. A row is a function
 * that does the same work a given number of times. The harness asks for a name (--filter may not
 * want it), checks the result once, finds how many rounds take --sample-ms, and takes --samples
 * samples of so many.
 *
 * A row's function must take its inputs through micro_hide(), so that no compiler finds out that
 * every round does the same, and return something that depends on all it did.
 *
 * Thread: one. Failure: a check that does not hold ends the program with status 1, so nothing
 * broken is ever measured; no memory for a fixture: 69.
 */
#ifndef BENCH_MICRO_H
#define BENCH_MICRO_H

#include "ring/base.h"

#define MICRO_NAME_BYTES 64
#define MICRO_SAMPLES_MAX 101

struct micro {
	/* options */
	const char *filter; /* glob, found anywhere in the name; NULL = all rows */
	uint64_t samples, sample_ms, cpu;
	bool json, list;
	/* the row in hand */
	char name[MICRO_NAME_BYTES];
	unsigned rows; /* so far */
	uint64_t consumed;
};

/* The next row is called so: is it wanted? With --list its name is written and nothing is. */
bool micro_row(struct micro *m, const char *format, ...) PRINTF_LIKE(2, 3) MUST_USE;

/* What the row must be able to do before it is measured. */
void micro_check(const struct micro *m, bool good, const char *what);

typedef uint64_t micro_work(void *arg, uint64_t rounds);

struct micro_size {
	const char *thing; /* what is counted: "line", "command", "message" */
	uint64_t things;   /* in one round */
	uint64_t bytes;	   /* read in one round; 0: no rate is shown */
};

void micro_measure(struct micro *m, struct micro_size size, micro_work *work, void *arg);

/* The compiler must believe that `p` and the memory behind it may have changed. */
static inline const void *micro_hide(const void *p)
{
	__asm__ volatile("" : "+r"(p) : : "memory");
	return p;
}
static inline struct span micro_hide_span(struct span s)
{
	return span_of(micro_hide(s.p), s.n);
}

/* ends the program when there is none */
void *micro_alloc(size_t n);

/* The rows, by room. */
void rows_scan(struct micro *m);    /* end of data, dot stuffing */
void rows_command(struct micro *m); /* lines, commands, paths, parameters, BDAT */
void rows_reply(struct micro *m);   /* replies, EHLO lists */
void rows_header(struct micro *m);  /* the header of a message */
void rows_log(struct micro *m);	    /* log records */
void rows_session(struct micro *m); /* whole sessions, no kernel */

#endif
