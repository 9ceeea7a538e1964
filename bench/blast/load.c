/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who begins what when. Idle sessions are opened first; when all of them are open (or have failed)
 * the load begins, and with it the time. A closed loop begins a message wherever a connection is
 * free, an open loop (--rate) when the schedule says so. The measuring window moves here, between
 * two turns.
 *
 * The end: nothing more is begun, what is under way ends, then slow connections are cut off and
 * the idle ones dismissed.
 */
#include "bench/blast/blast_int.h"

#define SLOW_FIRST 1000000000000000u /* messages of slow connections are numbered from here */

static uint64_t scheduled_us(const struct blast *b, uint64_t message)
{
	return b->began_us + (uint64_t)((double)message / b->opt.rate * 1e6);
}

/* How many messages the schedule had up to now. */
static uint64_t scheduled_count(const struct blast *b)
{
	double s = (double)(now_us(b) - b->began_us) / 1e6;

	return MIN_OF(b->total, (uint64_t)(s * b->opt.rate) + 1);
}

uint64_t load_backlog(const struct blast *b)
{
	if (b->opt.rate == 0 || !b->loading)
		return 0;
	uint64_t due = scheduled_count(b);
	return due > b->started ? due - b->started : 0;
}

bool load_all_begun(const struct blast *b)
{
	/* --idle alone: no session is left to wait with. */
	bool alone = b->opt.connections == 0 && b->active[ROLE_IDLE] == 0;

	return b->started >= b->total || b->gave_up || rig_stopped() || alone ||
	       now_us(b) >= b->end_us;
}

/* A message may be begun now. */
static bool due(const struct blast *b)
{
	if (load_all_begun(b))
		return false;
	return b->opt.rate == 0 || scheduled_us(b, b->started) <= now_us(b);
}

bool load_goes_on(const struct client *c)
{
	return c->role == ROLE_SLOW ? !load_all_begun(c->blast) : due(c->blast);
}

void load_take(struct client *c)
{
	struct blast *b = c->blast;
	const struct blast_options *o = &b->opt;
	bool slow = c->role == ROLE_SLOW;

	c->message = slow ? SLOW_FIRST + b->slow_started++ : b->started++;
	c->maker = &b->maker[sizes_pick(&o->sizes, o->seed, c->message)];
	c->busy = true;
	c->start_us = o->rate > 0 && !slow ? scheduled_us(b, c->message) : now_us(b);
}

/* ---- beginning ---- */

static struct client *pop(struct list *l)
{
	struct list *n = list_pop_front(l);

	return n ? CONTAINER_OF(n, struct client, node) : NULL;
}

static bool can_dial(const struct blast *b, enum role role)
{
	return !list_empty(&b->cold[role]) && b->connecting < CONNECTING_MAX;
}

static bool can_begin(const struct blast *b)
{
	return !list_empty(&b->warm[ROLE_LOAD]) || can_dial(b, ROLE_LOAD);
}

static void begin_what_is_due(struct blast *b)
{
	while (due(b) && can_begin(b)) {
		struct client *c = pop(&b->warm[ROLE_LOAD]);

		if (c) {
			load_take(c);
			talk_message(c);
		} else {
			c = pop(&b->cold[ROLE_LOAD]);
			load_take(c);
			client_dial(c);
		}
	}
}

static void begin_slow(struct blast *b)
{
	while (!load_all_begun(b) && can_dial(b, ROLE_SLOW)) {
		struct client *c = pop(&b->cold[ROLE_SLOW]);

		load_take(c);
		client_dial(c);
	}
}

static void cut_slow(struct blast *b)
{
	for (uint64_t i = 0; i < b->opt.slow; i++)
		if (b->clients[i].stage != ST_COLD && b->clients[i].stage != ST_CLOSE)
			client_cut(&b->clients[i]);
}

static bool may_open_idle(const struct blast *b)
{
	return b->idle_begun < b->idle_count && !b->gave_up && !rig_stopped();
}

static void open_idle(struct blast *b)
{
	while (may_open_idle(b) && can_dial(b, ROLE_IDLE)) {
		b->idle_begun++;
		client_dial(pop(&b->cold[ROLE_IDLE]));
	}
}

/* Each idle session that will be opened is, or has failed. */
static bool idle_settled(const struct blast *b)
{
	const uint64_t *n = b->tally[PART_IDLE].count;

	return !may_open_idle(b) &&
	       b->idle_opened + n[OUT_FAILED] + n[OUT_REJECTED] == b->idle_begun;
}

/* By what the run ends when no window does it. */
static void set_limits(struct blast *b)
{
	const struct blast_options *o = &b->opt;

	b->total = o->messages ? o->messages : 1;
	if (o->duration_us || o->connections == 0)
		b->total = o->messages ? o->messages : UINT64_MAX;
	b->end_us = UINT64_MAX;
	if (o->rate == 0 && (o->duration_us || o->connections == 0))
		b->end_us = b->began_us + o->duration_us;
	if (o->rate == 0)
		return;
	if (o->duration_us)
		b->total =
			MIN_OF(b->total, (uint64_t)(o->rate * (double)o->duration_us / 1e6 + 0.5));
	/* arrivals that found no free connection have this long to find one */
	b->end_us = scheduled_us(b, b->total) + o->timeout_us;
}

/* ---- the window, and the end ---- */

static void window_closed(struct blast *b)
{
	report_closed(b);
	b->end_us = now_us(b);
	if (b->opt.rate == 0)
		return;
	/* What was due in the window is still sent, if it soon finds a connection. */
	b->total = MAX_OF(b->started, scheduled_count(b));
	b->end_us += b->opt.timeout_us;
}

static void move_window(struct blast *b)
{
	uint64_t ended = tally_sent(&b->tally[PART_MEASURED]);

	while (!rig_stopped() && window_step(&b->window, now_us(b), ended)) {
		if (b->window.phase == WINDOW_OPEN)
			report_opened(b);
		else
			window_closed(b);
	}
}

static void begin_load(struct blast *b)
{
	b->loading = true;
	b->began_us = now_us(b);
	window_begin(&b->window, b->began_us);
	if (!windowed(&b->opt))
		set_limits(b);
	report_idle_open(b);
	move_window(b);
}

/* Warm connections that will not be needed any more. */
static void dismiss(struct blast *b, enum role role)
{
	struct client *c;

	while ((c = pop(&b->warm[role])) != NULL) {
		talk_quit(c);
		client_enter(c, ST_QUIT);
	}
}

/* The load is over; the rest is not told yet. */
static bool load_ended(const struct blast *b)
{
	return b->loading && load_all_begun(b) && b->active[ROLE_LOAD] == 0;
}

static void close_window(struct blast *b)
{
	bool was_open = b->window.phase == WINDOW_OPEN;

	window_close(&b->window, now_us(b));
	if (was_open)
		report_closed(b);
}

void load_turn(struct blast *b)
{
	open_idle(b);
	if (b->opt.give_up && b->fails_in_row >= b->opt.give_up)
		b->gave_up = true;
	if (!b->loading && idle_settled(b))
		begin_load(b);
	if (!b->loading)
		return;
	begin_slow(b);
	begin_what_is_due(b);
	b->backlog_max = MAX_OF(b->backlog_max, load_backlog(b));
	move_window(b);
	if (load_all_begun(b))
		dismiss(b, ROLE_LOAD);
	if (load_ended(b)) {
		close_window(b);
		cut_slow(b);
		dismiss(b, ROLE_IDLE);
	}
}

void load_stop(struct blast *b)
{
	close_window(b);
	for (uint64_t i = 0; i < b->client_count; i++) {
		struct client *c = &b->clients[i];

		if (c->stage != ST_COLD && c->stage != ST_CLOSE)
			client_fail(c, "stopped by a signal");
	}
}

uint64_t load_wake_us(const struct blast *b)
{
	uint64_t at = UINT64_MAX;

	if (!b->loading)
		return idle_settled(b) ? 0 : at;
	if (load_ended(b) && b->window.phase != WINDOW_CLOSED)
		return 0;
	if (due(b) && can_begin(b))
		return 0;
	if (!load_all_begun(b) && b->opt.rate > 0)
		at = MAX_OF(scheduled_us(b, b->started), now_us(b) + 1);
	if (b->end_us > now_us(b))
		at = MIN_OF(at, b->end_us);
	return MIN_OF(at, window_next_us(&b->window));
}

bool load_over(const struct blast *b)
{
	uint64_t active = 0;

	for (unsigned i = 0; i < ROLE_COUNT; i++)
		active += b->active[i];
	return active == 0 && load_ended(b) && b->window.phase == WINDOW_CLOSED;
}
