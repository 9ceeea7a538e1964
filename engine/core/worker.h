/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A worker: one core's thread and everything it owns: ring, buffers, sessions, timers, counters,
 * log buffer, one accepting operation per listening address. The control thread talks to it only
 * through its mailbox and reads only its counters and state. TLS material is shared by all workers
 * and never changes; a worker has a reference to the one that its next handshakes use.
 */
#ifndef CORE_WORKER_H
#define CORE_WORKER_H

#include "engine/core/acceptor.h"
#include "engine/core/clients.h"
#include "ring/mbox.h"
#include "tls/material.h"

#include <pthread.h>

enum worker_state { WORKER_STARTING, WORKER_RUNNING, WORKER_DRAINED, WORKER_FAILED, WORKER_ENDING };
enum worker_order { ORDER_DRAIN = 1, ORDER_KILL, ORDER_RENEW };

/* DRAINED: no session is left. Clients are still turned away in words until ORDER_KILL: other
 * workers of the SO_REUSEPORT group may be draining, and the kernel goes on spreading connections
 * over all. */
struct worker_conf {
	const struct conf *conf;
	struct clients *clients;
	struct tls_material *material; /* of the start; the worker takes a reference of its own */
	struct ring_conf ring;
	struct sess_core_conf sessions;
	unsigned index;
	int cpu;		    /* -1: not pinned */
	int wake_fd;		    /* written when the state changes */
	int log_fd;		    /* rung when the log buffer fills */
	struct acceptor *acceptors; /* this worker's; owns */
	uint32_t acceptor_count;
};

struct worker {
	struct worker_conf wc;
	pthread_t thread;
	bool started;		     /* thread is one */
	uint32_t state;		     /* enum worker_state; atomic */
	struct ring_barrier barrier; /* WORKER_FAILED */
	struct ring *ring;
	struct mbox *mbox;
	pthread_mutex_t orders; /* held while posting: the mailbox goes when the worker ends */
	struct tls_material *material; /* one reference */
	struct tls_material *renewed;  /* ordered and not taken up yet: one reference, or NULL;
					  guarded by orders */
	struct sess_core core;
	struct stat_table stats;
	struct ring_stats
		ring_stats; /* a copy that outlives the ring, published each tick and at the end */
	struct log_buf *log;
	struct timer pressure_timer;
	uint64_t heap_bytes;	    /* allocated by this thread so far (jemalloc), published with
				       ring_stats */
	uint32_t ticks, late_ticks; /* of the running second; late by more than LAG_MS */
	bool draining, killing;
};

/* The thread starts at once; ready when the state leaves WORKER_STARTING. False: no thread, errno
 * says why. */
bool worker_start(struct worker *w, const struct worker_conf *wc) MUST_USE;
enum worker_state worker_state(const struct worker *w);
void worker_order(
	struct worker *w, enum worker_order o); /* nothing when it is ending or has ended */
/* From its next turn on, new handshakes use `m`; connections keep what they have. Takes a reference
 * of its own, and gives back that of the one before when the worker has changed over. */
void worker_renew(struct worker *w, struct tls_material *m);
void worker_join(struct worker *w); /* nothing when it was never started */

#endif
