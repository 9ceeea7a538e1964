/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One direction of the wire, as arithmetic: what becomes of a frame that arrives, and when it
 * leaves. A bottleneck of a rate with a bounded queue before it, then loss, then delay; frames
 * never overtake each other. Pure: no clock, no sockets. It owns the queue of due frames, which is
 * allocated once; the frames themselves are the caller's, known here by their slot number.
 *
 * Times are nanoseconds of one clock of the caller's. One thread.
 */
#ifndef BENCH_WIRE_LANE_H
#define BENCH_WIRE_LANE_H

#include "ring/base.h"

#define LANE_NEVER UINT64_MAX
/* What a frame takes of an Ethernet besides itself: preamble, check sequence, gap. */
#define LANE_FRAME_OVERHEAD 24

struct lane_conf {
	uint64_t delay_ns;
	uint64_t jitter_ns;   /* up to so much more */
	double loss;	      /* share of the frames, 0 to 1 */
	uint64_t rate_bps;    /* bits a second; 0: no bottleneck */
	uint64_t queue_bytes; /* at the bottleneck, the frame being sent and overheads included */
	uint64_t seed;	      /* same seed, same frames lost */
};

enum lane_fate { LANE_QUEUED, LANE_LOST, LANE_DROPPED };

struct lane_due {
	uint64_t due_ns;
	uint32_t slot;
};

struct lane {
	struct lane_conf conf;
	uint64_t dice;
	uint64_t busy_ns;     /* until then the bottleneck sends what it has taken */
	uint64_t last_ns;     /* due time of the last frame that was queued */
	uint64_t queue_ns;    /* the longest queue so far, as the time it took to send */
	struct lane_due *due; /* owns; a ring of `slots` */
	uint32_t slots, head, count, count_max;
};

/* False: no memory. `slots`: frames that can wait at once; the caller never offers more. */
MUST_USE bool lane_init(struct lane *l, const struct lane_conf *conf, uint32_t slots);
void lane_fini(struct lane *l);

/* A frame of `bytes` octets arrived. QUEUED: it will come out of lane_take(). Else the slot stays
 * the caller's. */
enum lane_fate lane_arrive(struct lane *l, uint32_t slot, uint64_t arrival_ns, uint32_t bytes);

uint64_t lane_next_ns(const struct lane *l); /* when the next frame is due, or LANE_NEVER */

/* Takes out up to `max` frames that are due, oldest first; returns how many. */
uint32_t lane_take(struct lane *l, uint64_t now_ns, struct lane_due *out, uint32_t max);

uint64_t lane_queue_max(const struct lane *l); /* octets before the bottleneck, at most so far */

/* Option values. Share: "0.5%" or "0.005", 0 to 1. Rate: bits a second with k, m, g (powers of
 * 1000). False: not one. */
bool lane_share(const char *text, double *out);
bool lane_rate(const char *text, uint64_t *out_bps);

#endif
