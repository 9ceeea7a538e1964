/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a bench tool stands on: one ring with its streams, timers and stashes, one core, and the
 * signals that end it. Failures at start go to stderr in words and end the program: EX_USAGE (64)
 * for addresses that cannot be read, EX_UNAVAILABLE (69) for addresses that cannot be had,
 * EX_NOPERM (77) when the kernel refuses io_uring.
 */
#ifndef BENCH_RIG_H
#define BENCH_RIG_H

#include "ring/listen.h"
#include "ring/stash.h"
#include "ring/stream.h"
#include "ring/timer.h"
#include "tls/tls.h"

#define RIG_EXIT_UNAVAILABLE 69
#define RIG_EXIT_NOPERM 77

struct rig_conf {
	const char *program;
	uint32_t connections; /* most at once */
	uint32_t cells_each;  /* 4 KiB cells one connection may have staged */
	int cpu;	      /* pin to it; -1 = do not */
	uint64_t buf_bytes;   /* receive buffers; 0 = the ring's default */
};

struct rig {
	struct ring *ring;
	struct streams streams;
	struct timers timers;
	struct stash_pools stashes;
	struct ring_bell *bell;
	struct tls_core tls; /* since rig_open_tls() */
	bool tls_on;
};

/* Signals TERM and INT set the stop flag and wake the ring; a second one ends the process at once.
 */
void rig_open(struct rig *g, const struct rig_conf *c);
void rig_close(struct rig *g);
bool rig_stopped(void);

/* TLS for its streams. The program has let go of its sites and policies before rig_close(). */
void rig_open_tls(struct rig *g, const char *program, uint32_t connections);

/* One turn: waits until something happens or `until_us`, runs timers. The caller stages what it
 * has to and ends the turn with streams_flush(). */
void rig_turn(struct rig *g, uint64_t until_us);

static inline uint64_t rig_now_us(const struct rig *g)
{
	return ring_now_us(g->ring);
}
static inline uint64_t rig_now_ms(const struct rig *g)
{
	return ring_now_us(g->ring) / 1000;
}

/* How many connections the descriptor limit allows after it was raised as far as it goes. */
uint32_t rig_connections_allowed(void);
double rig_cpu_seconds(void); /* user + system time of this process */

#endif
