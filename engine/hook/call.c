/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Open questions: a call remembers which hook of the listener it has come to, and has a deadline.
 * Its slot carries a generation, so that an answer that comes too late finds nobody (counted).
 * Answers and log lines of other threads come by mailbox.
 *
 * Failure modes: no room for a call (false), a deadline that passes, a hook that fails: what
 * `on-failure` of the hook says; no room for a line: it is dropped.
 */
#include "engine/hook/hook_int.h"

#include "engine/hook/ringpost.h"

#define BOX_CAPACITY_MIN 1024u
#define LINES_MAX 256u
#define COMPLAINT_EACH_US 1000000u

static const struct local_reply failed_soft = {
	451, "4.3.0", "message inspection is not available, try again later", "hook-failed"};
static const struct local_reply failed_hard = {
	554, "5.3.0", "message inspection is not available", "hook-failed"};

/* ---- calls ---- */

static struct hook_call *take_call(struct hook_core *c)
{
	struct hook_call *call = c->calls_free;

	if (call)
		c->calls_free = call->next_free;
	else if (c->calls_fresh < c->calls_max)
		call = &c->calls[c->calls_fresh++];
	return call;
}

static struct hook_call *call_at(const struct hook_core *c, const struct hook_token *t)
{
	struct hook_call *call = t->slot < c->calls_fresh ? &c->calls[t->slot] : NULL;

	return call && call->seat && call->generation == t->generation && !call->answered ? call
											  : NULL;
}

static void free_call(struct hook_call *call)
{
	struct hook_core *c = call->core;

	timer_stop(c->timers, &call->timer);
	hook_edits_free(call->verdict.edits);
	call->verdict.edits = NULL;
	call->seat->call = NULL;
	call->seat = NULL;
	call->next_free = c->calls_free;
	c->calls_free = call;
	STAT_DEC(c->stats, hooks_now);
}

/* Nobody waits for its answer any more. */
static void void_call(struct hook_call *call)
{
	struct hook *h = &call->core->set->hooks[call->hook->index];

	if (!call->answered && h->class->forget)
		h->class->forget(h, call);
}

void hook_drop_call(struct hook_seat *seat)
{
	if (!seat->call)
		return;
	void_call(seat->call);
	free_call(seat->call);
}

void hook_fetch_call(struct hook_seat *seat, struct hook_verdict *v)
{
	ASSERT(seat->call->answered);
	*v = seat->call->verdict;
	seat->call->verdict.edits = NULL;
	free_call(seat->call);
}

bool hook_answered(const struct hook_seat *seat)
{
	return seat->call->answered;
}

void hook_failed_verdict(const struct hook *h, struct hook_verdict *v)
{
	memset(v, 0, sizeof(*v));
	switch (h->conf->on_failure) {
	case HOOK_FAILS_ACCEPT:
		break;
	case HOOK_FAILS_TEMPFAIL:
		v->kind = VERDICT_TEMPFAIL;
		v->reply = &failed_soft;
		break;
	case HOOK_FAILS_REJECT:
		v->kind = VERDICT_REJECT;
		v->reply = &failed_hard;
		break;
	}
}

void hook_complain(
	struct hook_core *c, const struct hook *h, enum hook_point point, const char *what)
{
	static const char *const names[] = {
#define X(id, name) name,
		HOOK_POINTS(X)
#undef X
	};
	uint64_t now = ring_now_us(c->ring);
	char line[128];

	if (now < c->quiet_until_us[h->index])
		return;
	c->quiet_until_us[h->index] = now + COMPLAINT_EACH_US;
	snprintf(line, sizeof(line), "%s: %s", names[point], what);
	hook_log(h, RINGPOST_LOG_WARN, line);
}

static void settle_call(struct hook_call *call)
{
	timer_stop(call->core->timers, &call->timer);
	call->answered = true;
	call->core->wake(call->seat);
}

static void too_late(struct timer *t)
{
	struct hook_call *call = CONTAINER_OF(t, struct hook_call, timer);

	STAT_INC(call->core->stats, hook_deadlines);
	hook_complain(call->core, call->hook, (enum hook_point)call->point,
		"no answer before its deadline");
	void_call(call);
	hook_failed_verdict(call->hook, &call->verdict);
	settle_call(call);
}

void hook_settle(struct hook_call *call, const struct hook_verdict *v)
{
	ASSERT(!call->answered);
	call->verdict = *v;
	settle_call(call);
}

void hook_settle_failed(struct hook_call *call)
{
	ASSERT(!call->answered);
	STAT_INC(call->core->stats, hook_failures);
	hook_failed_verdict(call->hook, &call->verdict);
	settle_call(call);
}

/* The end of a message takes filters longer than anything before it. */
static uint32_t deadline_ms(const struct hook *h, enum hook_point point)
{
	return point == HOOK_END_OF_DATA && h->conf->type == HOOK_MILTER
		       ? h->conf->content_deadline_ms
		       : h->conf->deadline_ms;
}

static void start_clock(struct hook_call *call)
{
	struct hook_core *c = call->core;

	timer_set(c->timers, &call->timer,
		ring_now_us(c->ring) / 1000 +
			deadline_ms(call->hook, (enum hook_point)call->point));
}

void hook_extend(struct hook_call *call)
{
	if (!call->answered)
		start_clock(call);
}

bool hook_suspend(const struct hook *h, const struct hook_ask *ask, struct hook_token *out)
{
	struct hook_core *c = ask->core;
	struct hook_call *call;

	ASSERT(!ask->seat->call);
	call = take_call(c);
	if (!call)
		return false;
	*call = (struct hook_call){.seat = ask->seat,
		.core = c,
		.hook = h,
		.generation = call->generation + 1,
		.point = (uint8_t)ask->ev->point};
	timer_init(&call->timer, too_late);
	start_clock(call);
	ask->seat->call = call;
	STAT_INC(c->stats, hooks_now);
	*out = (struct hook_token){c->worker, (uint32_t)(call - c->calls), call->generation};
	return true;
}

void hook_resume(const struct hook_ask *ask)
{
	free_call(ask->seat->call);
}

/* ---- answers of other threads ---- */

enum { POST_ANSWER = 1, POST_LOG, POST_CARRY };

struct posted {
	const struct hook *hook;
	struct hook_token token;
	bool failed; /* there is no verdict */
	struct hook_verdict verdict;
};

struct posted_carry {
	void (*take)(struct hook_core *c, void *arg);
	void *arg;
};

struct posted_line {
	const struct hook *hook;
	int level;
	char text[];
};

static enum hook_carried post(struct hook_set *set, uint32_t worker, uint32_t kind, void *what)
{
	struct hook_box *b = &set->boxes[worker];
	enum hook_carried res = CARRIED_NOT;

	pthread_mutex_lock(&b->lock);
	if (!b->box)
		res = CARRIED_VOID;
	else if (mbox_post(b->box, (struct mbox_msg){.kind = kind, .ptr = what}))
		res = CARRIED;
	pthread_mutex_unlock(&b->lock);
	if (res != CARRIED)
		free(what); /* but not its edits: they are still the caller's */
	return res;
}

enum hook_carried hook_answer(
	const struct hook *h, const struct hook_token *t, const struct hook_verdict *v)
{
	struct posted *p;

	if (t->worker >= h->set->workers)
		return CARRIED_VOID;
	p = malloc(sizeof(*p));
	if (!p)
		return CARRIED_NOT;
	*p = (struct posted){.hook = h, .token = *t, .failed = !v};
	if (v)
		p->verdict = *v;
	return post(h->set, t->worker, POST_ANSWER, p);
}

enum hook_carried hook_carry(const struct hook *h, uint32_t worker,
	void (*take)(struct hook_core *c, void *arg), void *arg)
{
	struct posted_carry *p = malloc(sizeof(*p));

	if (!p)
		return CARRIED_NOT;
	*p = (struct posted_carry){take, arg};
	return post(h->set, worker, POST_CARRY, p);
}

void hook_log(const struct hook *h, int level, const char *text)
{
	size_t n = strnlen(text, LOG_VALUE_BYTES_MAX);
	struct posted_line *p;

	/* Lines must not take the room of answers. */
	if (__atomic_add_fetch(&h->set->lines, 1, __ATOMIC_RELAXED) > LINES_MAX ||
		!(p = malloc(sizeof(*p) + n + 1))) {
		__atomic_sub_fetch(&h->set->lines, 1, __ATOMIC_RELAXED);
		return;
	}
	p->hook = h;
	p->level = level;
	memcpy(p->text, text, n);
	p->text[n] = '\0';
	if (post(h->set, 0, POST_LOG, p) != CARRIED)
		__atomic_sub_fetch(&h->set->lines, 1, __ATOMIC_RELAXED);
}

static void take_answer(struct hook_core *c, struct posted *p)
{
	struct hook_call *call = call_at(c, &p->token);

	/* Too late, or the answer of one who was not asked. */
	if (!call || call->hook != p->hook) {
		STAT_INC(c->stats, hook_late_answers);
		hook_edits_free(p->verdict.edits);
		return;
	}
	if (p->failed)
		hook_settle_failed(call);
	else
		hook_settle(call, &p->verdict);
}

static void take_line(struct hook_core *c, const struct posted_line *p)
{
	static const enum log_event events[] = {
		LOG_EV_HOOK_ERROR, LOG_EV_HOOK_WARN, LOG_EV_HOOK_INFO};
	struct log_rec rec;
	size_t level = (size_t)p->level < ARRAY_LEN(events) ? (size_t)p->level : 2;

	__atomic_sub_fetch(&p->hook->set->lines, 1, __ATOMIC_RELAXED);
	if (!log_begin(&rec, c->log, events[level], ring_wall_us(c->ring)))
		return;
	log_cstr(&rec, "hook", p->hook->conf->name);
	log_cstr(&rec, "text", p->text);
	log_end(&rec, c->stats);
}

static void received(void *arg, const struct mbox_msg *m)
{
	const struct posted_carry *carry;

	switch (m->kind) {
	case POST_ANSWER:
		take_answer(arg, m->ptr);
		break;
	case POST_CARRY:
		carry = m->ptr;
		carry->take(arg, carry->arg);
		break;
	default:
		take_line(arg, m->ptr);
	}
	free(m->ptr);
}

/* ---- a worker's share ---- */

static uint32_t capacity_for(uint32_t sessions)
{
	uint32_t n = BOX_CAPACITY_MIN;

	/* One answer for each open question, and the log's lines beside them. */
	while (n < sessions * 2)
		n *= 2;
	return n;
}

bool hook_calls_init(struct hook_core *c, uint32_t sessions_max)
{
	c->calls_max = c->set->may_wait ? sessions_max : 0;
	c->calls = calloc(MAX_OF(c->calls_max, 1u), sizeof(*c->calls));
	c->quiet_until_us = calloc(MAX_OF(c->set->hook_count, 1u), sizeof(*c->quiet_until_us));
	if (!c->calls || !c->quiet_until_us)
		return false;
	if (!c->set->may_wait)
		return true;
	c->box = mbox_open(c->ring, capacity_for(sessions_max), received, c);
	if (!c->box)
		return false;
	/* A plugin's thread, begun in its open(), may be looking already. */
	pthread_mutex_lock(&c->set->boxes[c->worker].lock);
	c->set->boxes[c->worker].box = c->box;
	pthread_mutex_unlock(&c->set->boxes[c->worker].lock);
	return true;
}

void hook_calls_fini(struct hook_core *c)
{
	if (c->box) {
		struct hook_box *b = &c->set->boxes[c->worker];

		pthread_mutex_lock(&b->lock);
		b->box = NULL;
		pthread_mutex_unlock(&b->lock);
		mbox_close(c->ring, c->box);
	}
	free(c->calls);
	free(c->quiet_until_us);
}
