/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Threads for what may wait: a pool of a fixed number of threads for the whole process, and strands
 * of jobs. The jobs of one strand are run one after the other, in order; strands take turns. A job
 * is a question, of which so many may wait in the pool, or news, which are never refused: whoever
 * makes them has to stop making more (helpers_news() says how many wait).
 *
 * Ownership: a job belongs to the pool from the moment it is taken until run() is called, which has
 * to free it. A strand belongs to whoever has made it until strand_leave(); behind that, and behind
 * its last job, release() is called, on whatever thread.
 *
 * Threads: helpers_new() and helpers_free() on the main thread; the rest on any thread, that of one
 * strand on one thread only. run() is called on a thread of the pool, without its lock.
 *
 * Failure modes: no thread can be made (helpers_start() is false; one is enough); too many
 * questions (refused); a job that does not come back: it holds its thread and its strand, all else
 * goes on, and helpers_settle() says so in the end.
 */
#ifndef HOOK_HELPERS_H
#define HOOK_HELPERS_H

#include "ring/base.h"

#include <pthread.h>

struct helpers;
struct strand;

struct job {
	struct job *next;
	void (*run)(struct strand *s, struct job *j);
	size_t octets; /* of bulk; 0: none */
	bool question;
	uint8_t merge; /* not 0: not taken right behind one of the same number that waits still */
};

/* Whose jobs those of a strand are; zeroed. Lives as long as its strands. */
struct helpers_user {
	struct helpers *pool;
	uint32_t busy; /* strands that wait for a thread or are on one; the pool's lock */
};

/* A queue of jobs; zeroed but for user and release. All the rest is guarded by the pool's lock. */
struct strand {
	struct helpers_user *user;
	void (*release)(struct strand *s);
	/* On a thread of the pool, at most once until strand_roomy() was called: of the bulk that
	 * made strand_crowd() true not much is left. The strand stays until strand_roomy(). */
	void (*room)(struct strand *s);
	struct job *first, *last;
	struct strand *next_ready;
	struct job *asked; /* the question that waits here, of which there is one at most */
	size_t octets;	   /* of bulk that waits */
	uint32_t news;	   /* jobs that wait and are neither a question nor bulk */
	uint32_t holds;	   /* room() calls whose strand_roomy() is due */
	bool busy;	   /* ready, or on a thread */
	bool crowded, left;
};

/* NULL: no memory. No thread runs yet. */
struct helpers *helpers_new(uint32_t threads, uint32_t queue) MUST_USE;
/* Starts the threads unless that was done; they run where the caller of helpers_new() may run, with
 * the signal mask of whoever comes first. False: there is none. */
bool helpers_start(struct helpers *p) MUST_USE;
/* Nothing comes any more: waits until nothing of `u` waits or runs. False: that is not so after
 * wait_ms. */
bool helpers_settle(struct helpers_user *u, uint32_t wait_ms) MUST_USE;
/* Ends the threads when all that waits was run, however long that takes. */
void helpers_free(struct helpers *p);

#define STRAND_CROWDED_BYTES (64u << 10)
#define STRAND_ROOMY_BYTES (16u << 10)

/* False: too many wait, and the job is still the caller's. */
bool strand_ask(struct strand *s, struct job *j) MUST_USE;
/* False: not taken, since it is the same again (job.merge). */
bool strand_tell(struct strand *s, struct job *j) MUST_USE;
/* News that wait. */
uint32_t strand_news(struct strand *s);
/* The question that waits is void: it is taken out and freed with free(). Nothing if none waits. */
void strand_forget(struct strand *s);
/* As much bulk waits as should; said once until strand_roomy() says that it is over. */
bool strand_crowd(struct strand *s) MUST_USE;
/* Behind room(). False: more has come since, and room() will come again; or the strand was left. */
bool strand_roomy(struct strand *s);
/* No more jobs come. `s` is not to be used behind this. */
void strand_leave(struct strand *s);

#endif
