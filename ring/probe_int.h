/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Private to the conformance scripts: the lab in which one script runs. It has a ring, connections,
 * operations that are watched, and the trace. Everything a script makes belongs to the lab, which
 * takes it back afterwards, whatever state the script left it in.
 *
 * Octets have a place in their stream: both sides send a pattern and compare what arrives with it,
 * so one that is lost, doubled or moved shows up in the trace as such.
 */
#ifndef RING_PROBE_INT_H
#define RING_PROBE_INT_H

#include "ring/probe.h"

#define PROBE_IDLE_US 1500u	   /* nothing for so long means: nothing is coming */
#define PROBE_STEP_US 1000u	   /* one wait, before the far side is looked at again */
#define PROBE_PATIENCE_US 2000000u /* before a wait is given up */
#define PROBE_TURNS_MAX 20000u
#define PROBE_KEPT_MAX 16u
#define PROBE_PERIOD 65521u /* of the pattern; a prime */

/* What is said of a completion that carries no octets and no socket. */
enum watch_shape {
	WATCH_WORD,  /* its result */
	WATCH_COUNT, /* the count, when it went well */
	WATCH_MASK,  /* the poll mask, in words */
};

struct lab_end {
	struct lab_end *next;
	struct ring_fd fd; /* ours; RING_FD_NONE = closed */
	int far;	   /* -1 = closed */
	uint32_t seed;	   /* which pattern its octets have, both ways */
	size_t sent;	   /* by us */
	size_t far_sent, far_got;
	enum probe_sight sight;
};

struct watch {
	struct ring_op op;
	struct watch *next;
	struct lab *lab;
	const char *name; /* NULL = nothing is said */
	enum watch_shape shape;
	uint32_t seed;
	size_t n; /* octets received, or counted by what else it does */
	unsigned dones, ends;
	struct ring_done last;
	unsigned keep; /* lease the buffers of this many completions */
	unsigned kept_count;
	uint16_t kept[PROBE_KEPT_MAX];
	struct span held;	       /* octets of the first lease */
	void (*then)(struct watch *w); /* called last in done() */
	bool adopts;		       /* accepts for lab_pairs() */
	bool lent; /* a zero-copy send: it ends when the network has let go of the octets */
	struct lab_end *end; /* whose octets these are; NULL = nobody's */
};

struct lab {
	struct ring *r;
	const struct probe_far *far;
	const uint8_t *pattern; /* PROBE_BIG_BYTES + PROBE_PERIOD octets of it */
	struct lab_end *ends;
	struct watch *watches;
	struct ring_fd listener;
	struct ring_addr at; /* of the server */
	struct ring_bell *bell;
	struct ring_pipe *pipe;
	struct ring_zcbuf zc;
	bool zc_got;
	bool left_out;	/* by the script itself: the limits of this process forbid it */
	uint32_t seeds; /* given out so far */
	uint32_t chance;
	unsigned dones; /* completions that were watched, and rings of the bell */
	unsigned rung;
	uint8_t *room;		    /* where files are read to; NULL until then */
	struct ring_fd accepted[8]; /* and files: what is closed at the end */
	unsigned accepted_count;

	char *trace; /* of PROBE_TRACE_BYTES */
	size_t trace_n;
	const struct watch *piece_of; /* octets that are not said yet */
	size_t pieces;
};

/* ---- the trace ---- */

void lab_say(struct lab *l, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- turning ---- */

/* One wait. False when the patience of `limit_us` is over. */
bool lab_turn(struct lab *l, uint64_t limit_us, unsigned *turns);
/* Until nothing comes any more. */
void lab_settle(struct lab *l);
/* Leaves the script when `cond` does not come true. */
#define LAB_UNTIL(l, cond)                                                 \
	do {                                                               \
		uint64_t limit_ = ring_now_us((l)->r) + PROBE_PATIENCE_US; \
		unsigned turns_ = 0;                                       \
		while (!(cond)) {                                          \
			if (!lab_turn((l), limit_, &turns_)) {             \
				lab_say((l), "STUCK before %s", #cond);    \
				return;                                    \
			}                                                  \
		}                                                          \
	} while (0)
/* Leaves the script, saying so, when something it needs cannot be had. */
#define LAB_HAVE(l, cond)                             \
	do {                                          \
		if (!(cond)) {                        \
			lab_say((l), "NO %s", #cond); \
			return;                       \
		}                                     \
	} while (0)

/* ---- connections ---- */

struct lab_end *lab_end_new(struct lab *l); /* not connected */
/* Dials n times and accepts; the first of them, the others behind it by `next`. NULL: none. */
struct lab_end *lab_pairs(struct lab *l, unsigned n);
static inline struct lab_end *lab_pair(struct lab *l)
{
	return lab_pairs(l, 1);
}
void lab_close(struct lab *l, struct lab_end *e); /* our side; nothing armed */
/* The far side sends the next n octets of the pattern, all of them. False: it cannot. */
bool lab_far_send(struct lab *l, struct lab_end *e, size_t n);
/* The far side reads what is there, compares, and looks how the connection stands. */
size_t lab_far_read(struct lab *l, struct lab_end *e);
void lab_far_shut(struct lab *l, struct lab_end *e);
void lab_far_close(struct lab *l, struct lab_end *e);
void lab_far_reset(struct lab *l, struct lab_end *e);
/* "far 1000 EOF" */
void lab_say_far(struct lab *l, const struct lab_end *e);
/* Where in memory the octets [at, ...) of the pattern `seed` lie; at most PROBE_BIG_BYTES. */
const uint8_t *lab_octets(const struct lab *l, uint32_t seed, size_t at);
/* The next n octets that we send on `e`; counts them only in lab_sent(). */
struct iovec lab_out(const struct lab *l, const struct lab_end *e, size_t n);
bool lab_server(struct lab *l, enum probe_server mode);
/* Pseudo-random, the same on every back end. */
uint32_t lab_chance(struct lab *l, uint32_t n);

/* ---- operations ---- */

struct watch *lab_watch(struct lab *l, const char *name, enum watch_shape shape);
/* Armed at once. */
struct watch *lab_recv(struct lab *l, const char *name, struct lab_end *e, uint32_t cap);
void lab_recv_again(struct watch *w, uint32_t cap);
void lab_drop_leases(struct watch *w);
static inline bool watch_ended(const struct watch *w)
{
	return !ring_op_armed(&w->op);
}
static inline bool watch_saw(const struct watch *w, enum ring_res res)
{
	return w->dones > 0 && w->last.res == res && watch_ended(w);
}

/* ---- the scripts, by subject; each list ends with a row without a name ---- */

extern const struct probe_script probe_recv_scripts[];
extern const struct probe_script probe_send_scripts[];
extern const struct probe_script probe_conn_scripts[];
extern const struct probe_script probe_queue_scripts[];
extern const struct probe_script probe_move_scripts[];
extern const struct probe_script probe_file_scripts[];

#endif
