/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One hierarchical timing wheel per core: set, stop and fire in constant time, resolution
 * TIMER_TICK_MS, never early. It reads no clock: the caller brings the turn's one reading.
 * A timer is owned by the object that embeds it and must be stopped before that object goes.
 */
#ifndef RING_TIMER_H
#define RING_TIMER_H

#include "ring/list.h"

#define TIMER_TICK_MS 8
#define TIMER_LEVELS 4
#define TIMER_SLOTS 64

struct timer {
	struct list node;
	uint64_t at_ms;
	void (*fire)(struct timer *t); /* the timer is already stopped; it may be set again */
};

struct timers {
	uint64_t tick; /* last tick that was run */
	uint32_t armed;
	uint64_t busy[TIMER_LEVELS]; /* bit = slot is not empty */
	struct list due;	     /* set for a time already past: fire on the next run */
	struct list slot[TIMER_LEVELS][TIMER_SLOTS];
};

void timers_init(struct timers *ts, uint64_t now_ms);
/* Runs everything due at `now_ms`; fire() may set and stop any timer. Returns how many fired. */
unsigned timers_run(struct timers *ts, uint64_t now_ms);
/* When to call timers_run next at the latest; UINT64_MAX when nothing is set. Never later than the
 * earliest timer; may be earlier (a cascade). */
uint64_t timers_next_ms(const struct timers *ts);

void timer_init(struct timer *t, void (*fire)(struct timer *t));
/* Sets or moves it. A time in the past fires on the next run. Beyond the wheel's span (37 h) it
 * waits at the far end and is looked at again there. */
void timer_set(struct timers *ts, struct timer *t, uint64_t at_ms);
void timer_stop(struct timers *ts, struct timer *t); /* idempotent */
static inline bool timer_armed(const struct timer *t)
{
	return list_linked(&t->node);
}

#endif
