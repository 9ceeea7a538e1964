/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Asking, waiting, answering: see hook.h. A question that waits is a call: it remembers which hook
 * of the listener it has come to, and has a deadline. Its slot carries a generation, so that an
 * answer that comes too late finds nobody (counted). Answers of other threads come by mailbox.
 *
 * Failure modes: no room for a call, a deadline that passes, a hook that fails: what `on-failure`
 * of the hook says; no room for what it says: the usual words.
 */
#include "engine/hook/hook_int.h"

#include "engine/hook/ringpost.h"
#include "engine/smtp/reply.h"

#define BOX_CAPACITY_MIN 1024u
#define LINES_MAX 256u
#define COMPLAINT_EACH_US 1000000u

static const struct local_reply failed_soft = {
	451, "4.3.0", "message inspection is not available, try again later", "hook-failed"};
static const struct local_reply failed_hard = {
	554, "5.3.0", "message inspection is not available", "hook-failed"};

/* One that a hook made up; lives until the session points to none of them. */
struct hook_reply {
	struct hook_reply *next;
	struct local_reply reply;
	char enhanced[10], text[HOOK_TEXT_MAX];
};

/* ---- words ---- */

static void plain_text(char *out, size_t max, const char *text)
{
	size_t n = 0;

	for (; text[n] != '\0' && n + 1 < max; n++)
		out[n] = text[n] >= ' ' && text[n] <= '~' ? text[n] : '?';
	out[n] = '\0';
}

static bool enhanced_ok(const char *s, unsigned class)
{
	struct span all = span_str(s);

	return s[0] == (char)('0' + class) && smtp_enhanced_len(all) == all.n;
}

void hook_verdict_words(
	struct hook_verdict *v, uint32_t code, const char *enhanced, const char *text)
{
	uint32_t class = v->kind == VERDICT_REJECT ? 5 : 4;

	/* 421 says that the session ends: that is VERDICT_DROP. */
	if (code / 100 == class && code != 421)
		v->code = (uint16_t)code;
	if (enhanced && enhanced_ok(enhanced, class))
		snprintf(v->enhanced, sizeof(v->enhanced), "%s", enhanced);
	if (text)
		plain_text(v->text, sizeof(v->text), text);
}

static const struct local_reply *usual(enum hook_verdict_kind kind)
{
	static const struct local_reply replies[] = {
		[VERDICT_REJECT] = {550, "5.7.1", "refused by policy", "hook"},
		[VERDICT_TEMPFAIL] = {450, "4.7.1", "try again later", "hook"},
		[VERDICT_DROP] = {421, "4.7.1", "closing connection", "hook"},
	};

	return &replies[kind];
}

/* ---- replies that hooks made up ---- */

static const struct local_reply *reply_of(
	struct hook_core *c, struct hook_seat *seat, const struct hook *h, struct hook_verdict *v)
{
	const struct local_reply *like = usual(v->kind);
	struct hook_reply *r;

	if (v->reply)
		return v->reply;
	r = slab_get(&c->replies);
	if (!r)
		return like;
	memcpy(r->enhanced, v->enhanced, sizeof(r->enhanced));
	memcpy(r->text, v->text, sizeof(r->text));
	r->reply = (struct local_reply){.code = v->code ? v->code : like->code,
		.enhanced = r->enhanced[0] ? r->enhanced : like->enhanced,
		.text = r->text[0] ? r->text : like->text,
		.word = h->conf->word};
	r->next = seat->said;
	seat->said = r;
	return &r->reply;
}

void hook_forget_replies(struct hook_core *c, struct hook_seat *seat)
{
	while (seat->said) {
		struct hook_reply *r = seat->said;

		seat->said = r->next;
		slab_put(&c->replies, r);
	}
}

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
	call->seat->call = NULL;
	call->seat = NULL;
	call->next_free = c->calls_free;
	c->calls_free = call;
	STAT_DEC(c->stats, hooks_now);
}

void hook_forget_call(struct hook_core *c, struct hook_seat *seat)
{
	if (seat->call)
		free_call(seat->call);
}

bool hook_answered(const struct hook_seat *seat)
{
	return seat->call->answered;
}

/* What `on-failure` says instead of an answer. */
static void outcome(const struct hook *h, struct hook_verdict *v)
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
	outcome(call->hook, &call->verdict);
	settle_call(call);
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
	timer_set(c->timers, &call->timer, ring_now_us(c->ring) / 1000 + h->conf->deadline_ms);
	ask->seat->call = call;
	STAT_INC(c->stats, hooks_now);
	*out = (struct hook_token){c->worker, (uint32_t)(call - c->calls), call->generation};
	return true;
}

void hook_resume(const struct hook_ask *ask)
{
	hook_forget_call(ask->core, ask->seat);
}

/* ---- answers of other threads ---- */

enum { POST_ANSWER = 1, POST_LOG };

struct posted {
	const struct hook *hook;
	struct hook_token token;
	struct hook_verdict verdict;
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
		free(what);
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
	*p = (struct posted){h, *t, *v};
	return post(h->set, t->worker, POST_ANSWER, p);
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

static void take_answer(struct hook_core *c, const struct posted *p)
{
	struct hook_call *call = call_at(c, &p->token);

	/* Too late, or the answer of one who was not asked. */
	if (!call || call->hook != p->hook) {
		STAT_INC(c->stats, hook_late_answers);
		return;
	}
	call->verdict = p->verdict;
	settle_call(call);
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
	if (m->kind == POST_ANSWER)
		take_answer(arg, m->ptr);
	else
		take_line(arg, m->ptr);
	free(m->ptr);
}

/* ---- asking ---- */

static enum hook_said say(struct hook_core *c, struct hook_seat *seat, const struct hook *h,
	struct hook_verdict *v, const struct local_reply **no, bool *drop)
{
	if (v->kind == VERDICT_PASS)
		return HOOK_PASS;
	*no = reply_of(c, seat, h, v);
	*drop = v->kind == VERDICT_DROP;
	STAT_INC(c->stats, hook_refusals);
	return HOOK_NO;
}

/* The answer that was waited for; *next: where to go on behind it. */
static enum hook_said fetch(struct hook_core *c, struct hook_seat *seat, enum hook_point point,
	uint32_t *next, const struct local_reply **no, bool *drop)
{
	struct hook_call *call = seat->call;
	struct hook_verdict v;
	const struct hook *h = call->hook;

	ASSERT(call->point == point);
	if (!call->answered)
		return HOOK_LATER;
	v = call->verdict;
	*next = call->next;
	free_call(call);
	return say(c, seat, h, &v, no, drop);
}

static enum hook_said ask_one(const struct hook_ask *ask, struct hook *h, uint32_t next,
	const struct local_reply **no, bool *drop)
{
	struct hook_verdict v = {0};

	switch (h->class->ask(h, ask, &v)) {
	case REACH_PENDING:
		ask->seat->call->next = (uint8_t)next;
		return HOOK_LATER;
	case REACH_FAILED:
		STAT_INC(ask->core->stats, hook_failures);
		outcome(h, &v);
		break;
	case REACH_ANSWERED:
		break;
	}
	return say(ask->core, ask->seat, h, &v, no, drop);
}

enum hook_said hook_ask(struct hook_core *c, struct hook_seat *seat,
	const struct conf_listener *lis, const struct hook_event *ev, const struct local_reply **no,
	bool *drop)
{
	const struct hook_list *list = &c->set->lists[lis->index];
	const struct hook_ask ask = {c, seat, lis, ev};
	enum hook_said said = HOOK_PASS;
	uint32_t i = 0;

	ASSERT(ev->point < HOOK_QUESTIONS);
	if (seat->call)
		said = fetch(c, seat, ev->point, &i, no, drop);
	for (; said == HOOK_PASS && i < list->count; i++)
		if (list->hooks[i]->wants & 1u << ev->point)
			said = ask_one(&ask, list->hooks[i], i + 1, no, drop);
	return said;
}

void hook_tell(struct hook_core *c, struct hook_seat *seat, const struct conf_listener *lis,
	const struct hook_event *ev)
{
	const struct hook_list *list = &c->set->lists[lis->index];
	const struct hook_ask ask = {c, seat, lis, ev};

	ASSERT(ev->point >= HOOK_QUESTIONS);
	for (uint32_t i = 0; i < list->count; i++)
		if (list->hooks[i]->wants & 1u << ev->point)
			list->hooks[i]->class->tell(list->hooks[i], &ask);
}

void hook_leave(struct hook_core *c, struct hook_seat *seat)
{
	hook_forget_call(c, seat);
	hook_forget_replies(c, seat);
	if (seat->user)
		slab_put(&c->users, seat->user);
	seat->user = NULL;
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

bool hook_core_init(struct hook_core *c, const struct hook_worker_conf *wc, struct ring *r,
	struct timers *timers, struct stat_table *stats, struct log_buf *log)
{
	uint32_t n = wc->sessions_max;

	*c = (struct hook_core){.set = wc->set,
		.ring = r,
		.timers = timers,
		.stats = stats,
		.log = log,
		.worker = wc->worker,
		.wake = wc->wake};
	c->wants = c->set->wants;
	c->quiet_until_us = calloc(MAX_OF(c->set->hook_count, 1u), sizeof(*c->quiet_until_us));
	c->calls_max = c->set->may_wait ? n : 0;
	c->calls = calloc(MAX_OF(c->calls_max, 1u), sizeof(*c->calls));
	if (!c->quiet_until_us || !c->calls ||
		!slab_init(&c->replies, "hook replies", sizeof(struct hook_reply), 4 * n) ||
		!slab_init(&c->users, "hook users", MAX_OF(1u, c->set->hook_count) * sizeof(void *),
			n))
		return false;
	if (!c->set->may_wait)
		return true;
	c->box = mbox_open(r, capacity_for(n), received, c);
	if (!c->box)
		return false;
	/* A plugin's thread, begun in its open(), may be looking already. */
	pthread_mutex_lock(&c->set->boxes[c->worker].lock);
	c->set->boxes[c->worker].box = c->box;
	pthread_mutex_unlock(&c->set->boxes[c->worker].lock);
	return true;
}

void hook_core_fini(struct hook_core *c)
{
	if (c->box) {
		struct hook_box *b = &c->set->boxes[c->worker];

		pthread_mutex_lock(&b->lock);
		b->box = NULL;
		pthread_mutex_unlock(&b->lock);
		mbox_close(c->ring, c->box);
	}
	slab_fini(&c->users);
	slab_fini(&c->replies);
	free(c->calls);
	free(c->quiet_until_us);
}
