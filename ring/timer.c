/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The timing wheel: TIMER_LEVELS wheels of TIMER_SLOTS slots, each slot of a level as long as the
 * whole level below. A timer waits in the coarsest slot that still tells it apart from now and
 * moves down (cascades) when the wheel gets there. Rounding is always up, so nothing fires early.
 * A bit per slot lets an idle stretch be crossed in a few steps, however long the core slept.
 *
 * Failure modes: none; a clock that goes back only delays.
 */
#include "ring/timer.h"

#define SLOT_BITS 6
#define SLOT_MASK (TIMER_SLOTS - 1)
#define SPAN_TICKS (1ull << (SLOT_BITS * TIMER_LEVELS))

_Static_assert(TIMER_SLOTS == 1 << SLOT_BITS, "a slot index is SLOT_BITS wide");

static uint64_t tick_of(const struct timer *t)
{
	return t->at_ms / TIMER_TICK_MS + (t->at_ms % TIMER_TICK_MS != 0);
}

void timers_init(struct timers *ts, uint64_t now_ms)
{
	memset(ts, 0, sizeof(*ts));
	ts->tick = now_ms / TIMER_TICK_MS;
	list_init(&ts->due);
	for (unsigned level = 0; level < TIMER_LEVELS; level++)
		for (unsigned i = 0; i < TIMER_SLOTS; i++)
			list_init(&ts->slot[level][i]);
}

void timer_init(struct timer *t, void (*fire)(struct timer *t))
{
	list_init(&t->node);
	t->at_ms = 0;
	t->fire = fire;
}

/* `when` >= ts->tick. In level 0 a slot is one tick; "now" goes to the slot that runs next. */
static void place(struct timers *ts, struct timer *t, uint64_t when)
{
	uint64_t ahead = when - ts->tick;
	unsigned level = 0, i;

	if (ahead >= SPAN_TICKS) {
		/* Parked in the last slot of the top level; the cascade looks at at_ms again. */
		ahead = SPAN_TICKS - 1;
		when = ts->tick + ahead;
	}
	while (ahead >= TIMER_SLOTS) {
		ahead >>= SLOT_BITS;
		level++;
	}
	i = (unsigned)(when >> (SLOT_BITS * level)) & SLOT_MASK;
	list_push_back(&ts->slot[level][i], &t->node);
	ts->busy[level] |= 1ull << i;
}

void timer_set(struct timers *ts, struct timer *t, uint64_t at_ms)
{
	ASSERT(t->fire != NULL);
	timer_stop(ts, t);
	t->at_ms = at_ms;
	ts->armed++;
	if (tick_of(t) <= ts->tick)
		list_push_back(&ts->due, &t->node);
	else
		place(ts, t, tick_of(t));
}

/* Clears the slot's bit when its last timer goes: stopped timers then cost no wake-up. */
static void unmark(struct timers *ts, struct list *head)
{
	struct list *first = &ts->slot[0][0];

	if (head < first || head >= first + TIMER_LEVELS * TIMER_SLOTS)
		return; /* `due`, or the list that timers_run() is working on */
	size_t i = (size_t)(head - first);
	ts->busy[i / TIMER_SLOTS] &= ~(1ull << (i % TIMER_SLOTS));
}

void timer_stop(struct timers *ts, struct timer *t)
{
	if (!timer_armed(t))
		return;
	ASSERT(ts->armed > 0);
	ts->armed--;
	/* Neighbours that are one and the same are the head: this was the only timer in it. */
	if (t->node.next == t->node.prev)
		unmark(ts, t->node.next);
	list_remove(&t->node);
}

/* First tick after ts->tick at which a slot runs or cascades; UINT64_MAX = never. */
static uint64_t next_tick(const struct timers *ts)
{
	uint64_t best = UINT64_MAX;

	for (unsigned level = 0; level < TIMER_LEVELS; level++) {
		uint64_t cur = (ts->tick >> (SLOT_BITS * level)) + 1, bits = ts->busy[level], at;
		unsigned turn = (unsigned)cur & SLOT_MASK;

		if (bits == 0)
			continue;
		if (turn != 0)
			bits = bits >> turn | bits << (TIMER_SLOTS - turn);
		at = (cur + (unsigned)__builtin_ctzll(bits)) << (SLOT_BITS * level);
		best = MIN_OF(best, at);
	}
	return best;
}

uint64_t timers_next_ms(const struct timers *ts)
{
	uint64_t next;

	if (!list_empty(&ts->due))
		return ts->tick * TIMER_TICK_MS;
	next = next_tick(ts);
	return next == UINT64_MAX ? UINT64_MAX : next * TIMER_TICK_MS;
}

/* Empties the slot of `level` that begins at ts->tick into finer ones. */
static void cascade(struct timers *ts, unsigned level)
{
	unsigned i = (unsigned)(ts->tick >> (SLOT_BITS * level)) & SLOT_MASK;
	struct list moving, *n;

	list_init(&moving);
	list_splice_back(&moving, &ts->slot[level][i]);
	ts->busy[level] &= ~(1ull << i);
	while ((n = list_pop_front(&moving)) != NULL) {
		struct timer *t = CONTAINER_OF(n, struct timer, node);

		place(ts, t, MAX_OF(tick_of(t), ts->tick));
	}
}

static unsigned fire_all(struct timers *ts, struct list *ready)
{
	struct list *n;
	unsigned fired = 0;

	/* One at a time: fire() may stop a timer that is still in `ready`. */
	while ((n = list_pop_front(ready)) != NULL) {
		struct timer *t = CONTAINER_OF(n, struct timer, node);

		ts->armed--;
		fired++;
		t->fire(t);
	}
	return fired;
}

static unsigned run_tick(struct timers *ts)
{
	unsigned i = (unsigned)ts->tick & SLOT_MASK;
	struct list ready;

	for (unsigned level = TIMER_LEVELS - 1; level > 0; level--)
		if ((ts->tick & ((1ull << (SLOT_BITS * level)) - 1)) == 0)
			cascade(ts, level);
	list_init(&ready);
	list_splice_back(&ready, &ts->slot[0][i]);
	ts->busy[0] &= ~(1ull << i);
	return fire_all(ts, &ready);
}

unsigned timers_run(struct timers *ts, uint64_t now_ms)
{
	uint64_t end = now_ms / TIMER_TICK_MS, next;
	struct list ready;
	unsigned fired;

	list_init(&ready);
	list_splice_back(&ready, &ts->due);
	fired = fire_all(ts, &ready);
	while (ts->tick < end) {
		next = next_tick(ts);
		if (next > end) {
			ts->tick = end;
			break;
		}
		ts->tick = next;
		fired += run_tick(ts);
	}
	return fired;
}
