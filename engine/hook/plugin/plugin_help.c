/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Plugins that may block (RINGPOST_MAY_BLOCK): each event is copied and run on a helper thread, the
 * events of one session one after the other. A question waits as a call like any other, and its
 * answer comes back as those of other threads do. Why so: docs/decisions/0009-helper-threads.md.
 *
 * Memory: what waits for a session has a bound. One question at most; of the message
 * STRAND_CROWDED_BYTES and what comes before the client can be stopped, for the hook's deadline:
 * behind that none is kept until there is room, and messages with octets missing fail; and news, of
 * which no more are made while many wait: from NEWS_MANY on the next MAIL waits for them, from
 * NEWS_MAX on it is refused. The last event of a session has its memory from the start. When as
 * many sessions that are over still wait as a worker may have at all, the plugin hears of no
 * further ones.
 *
 * Ownership: a session's strand is made by its first event and frees itself behind its last job
 * (helpers.h); its seat is the worker's thread's, `user` that of whoever runs its job.
 *
 * Failure modes: no memory, or too much waits: the question fails; no memory for news, or more of
 * them than NEWS_LOST (the hooks before it let a session make them without a MAIL that this
 * one was asked about): lost and counted. A plugin that does not come back keeps its thread, and
 * holds up a session for its deadline.
 */
#include "engine/hook/plugin/plugin_int.h"

#include "engine/hook/clock.h"

#define NEWS_MANY 8
#define NEWS_MAX 32
#define NEWS_LOST 256
#define CARRY_PAUSE_NS 1000000
#define COMPLAINT_EACH_MS 1000

struct plugin_job {
	struct job job;		 /* first: helpers.c frees jobs by it */
	struct hook_token token; /* of a question */
	enum hook_point point;
	bool silent; /* only to be waited for: the plugin is not called */
	struct ringpost_event ev;
	char octets[];
};
_Static_assert(offsetof(struct plugin_job, job) == 0, "a job is freed by its first member");

struct plugin_strand {
	struct strand s;
	struct plugin *plugin;
	uint32_t worker;
	struct hook_core *core; /* its thread's only */
	struct hook_seat *seat;
	struct timer full; /* armed as long as hook_set_full() is on for this strand */
	bool overdue;	   /* it was full for longer than the deadline, and there is no room yet */
	void *user;	   /* the plugin's, for this session */
	uint64_t body_tid; /* of the message that made it full */
	uint64_t torn_tid; /* of the message of which a piece was lost; 0: none */
	struct plugin_job *last; /* room for its last event */
};

static struct plugin_strand *strand_at(struct strand *s)
{
	return CONTAINER_OF(s, struct plugin_strand, s);
}

/* ---- on helper threads ---- */

static void pause_a_little(void)
{
	nanosleep(&(struct timespec){.tv_nsec = CARRY_PAUSE_NS}, NULL);
}

static void complain(struct plugin *p, const char *what, uint64_t number)
{
	uint64_t now = hook_clock_ms(),
		 quiet = __atomic_load_n(&p->quiet_until_ms, __ATOMIC_RELAXED);
	char line[128];

	if (now < quiet ||
		!__atomic_compare_exchange_n(&p->quiet_until_ms, &quiet, now + COMPLAINT_EACH_MS,
			false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		return;
	snprintf(line, sizeof(line), "plugin %s: %s %llu", p->says->name, what,
		(unsigned long long)number);
	hook_log(p->hook, RINGPOST_LOG_WARN, line);
}

/* NULL: it has failed. A helper thread may wait until the worker has room for it. */
static void give_answer(
	const struct plugin *p, const struct hook_token *t, const struct hook_verdict *v)
{
	enum hook_carried res;

	while ((res = hook_answer(p->hook, t, v)) == CARRIED_NOT)
		pause_a_little();
	if (res != CARRIED && v)
		hook_edits_free(v->edits);
}

static void judge(const struct plugin_strand *ps, const struct plugin_job *j, uint32_t verdict,
	const struct ringpost_answer *answer)
{
	struct hook_verdict v = {0};

	switch (plugin_verdict(verdict, answer, j->point, &v)) {
	case PLUGIN_SAID:
		give_answer(ps->plugin, &j->token, &v);
		return;
	case PLUGIN_NONE:
		complain(ps->plugin, "what it returned is no verdict here:", verdict);
		break;
	case PLUGIN_WRONG:
		complain(ps->plugin,
			"its changes are not well-formed, or too many:", answer->change_count);
		break;
	}
	give_answer(ps->plugin, &j->token, NULL);
}

static void run(struct strand *s, struct job *job)
{
	struct plugin_job *j = (struct plugin_job *)(void *)job;
	struct plugin_strand *ps = strand_at(s);
	struct plugin_run r = {.plugin = ps->plugin, .question = job->question};
	struct ringpost_answer answer = {.size = sizeof(answer)};
	uint32_t verdict = RINGPOST_PASS;

	if (!j->silent) {
		j->ev.user = &ps->user;
		if (r.question)
			r.token = plugin_token(&j->token, j->point);
		verdict = plugin_run(&r, &j->ev, &answer);
	}
	if (r.question && !(verdict == RINGPOST_PENDING && r.suspended))
		judge(ps, j, verdict, &answer);
	free(j);
}

/* On the worker's thread again. */
static void take_room(struct hook_core *c, void *arg)
{
	struct plugin_strand *ps = arg;

	if (!strand_roomy(&ps->s))
		return;
	ps->overdue = false;
	if (!timer_armed(&ps->full))
		return;
	timer_stop(c->timers, &ps->full);
	hook_set_full(c, ps->seat, false);
}

static void room(struct strand *s)
{
	struct plugin_strand *ps = strand_at(s);
	enum hook_carried res;

	while ((res = hook_carry(ps->plugin->hook, ps->worker, take_room, ps)) == CARRIED_NOT)
		pause_a_little();
	/* The worker has ended, and nobody waits for room. */
	if (res == CARRIED_VOID)
		(void)strand_roomy(s);
}

static void release(struct strand *s)
{
	struct plugin_strand *ps = strand_at(s);

	__atomic_sub_fetch(&ps->plugin->leaving, 1, __ATOMIC_RELAXED);
	free(ps->last);
	free(ps);
}

/* ---- on the worker's thread ---- */

/* The end of a message of which nothing was shown, since there was no strand yet. */
static bool was_missed(const struct plugin *p, const struct hook_event *ev)
{
	return ev->point == HOOK_END_OF_DATA && ev->bytes > 0 &&
	       (p->says->events & RINGPOST_ON(RINGPOST_BODY));
}

/* Nothing else ends this: no question is open, and the session's own clocks are stopped. */
static void full_too_long(struct timer *t)
{
	struct plugin_strand *ps = CONTAINER_OF(t, struct plugin_strand, full);

	STAT_INC(ps->core->stats, hook_deadlines);
	hook_complain(ps->core, ps->plugin->hook, HOOK_BODY,
		"message octets not taken before its deadline");
	ps->overdue = true;
	ps->torn_tid = ps->body_tid;
	hook_set_full(ps->core, ps->seat, false);
}

static void make_full(struct plugin_strand *ps, uint64_t tid)
{
	struct hook_core *c = ps->core;

	ps->body_tid = tid;
	timer_set(c->timers, &ps->full,
		ring_now_us(c->ring) / 1000 + ps->plugin->hook->conf->deadline_ms);
	hook_set_full(c, ps->seat, true);
}

static struct plugin_strand *make_strand(struct plugin *p, const struct hook_ask *ask)
{
	uint32_t leaving = __atomic_load_n(&p->leaving, __ATOMIC_RELAXED);
	struct plugin_strand *ps = leaving < ask->core->sessions_max ? malloc(sizeof(*ps)) : NULL;

	if (!ps)
		return NULL;
	*ps = (struct plugin_strand){.s = {.user = &p->helped, .release = release, .room = room},
		.plugin = p,
		.worker = ask->core->worker,
		.core = ask->core,
		.seat = ask->seat,
		.torn_tid = was_missed(p, ask->ev) ? ask->ev->tid : 0,
		.last = malloc(sizeof(*ps->last))};
	if (!ps->last) {
		free(ps);
		return NULL;
	}
	timer_init(&ps->full, full_too_long);
	return ps;
}

/* NULL: no room. */
static struct plugin_strand *strand_of(struct plugin *p, const struct hook_ask *ask)
{
	void **own = hook_own(p->hook, ask);

	if (own && !*own)
		*own = make_strand(p, ask);
	return own ? *own : NULL;
}

static void set_up(struct plugin_job *j, const struct hook_ask *ask, bool question)
{
	j->job = (struct job){.run = run,
		.octets = ask->ev->data.n,
		.question = question,
		.merge = ask->ev->point == HOOK_RESET};
	j->point = ask->ev->point;
	j->silent = false;
}

static struct plugin_job *make_job(const struct hook_ask *ask, bool question)
{
	struct plugin_texts texts;
	struct ringpost_event ev;
	struct plugin_job *j;

	plugin_event(&ev, ask, &texts);
	j = malloc(sizeof(*j) + plugin_event_octets(&ev));
	if (!j)
		return NULL;
	set_up(j, ask, question);
	j->ev = ev;
	plugin_event_keep(&j->ev, j->octets);
	return j;
}

/* The last event is shown whatever happens, without its texts if there is no memory. */
static struct plugin_job *last_job(struct plugin_strand *ps, const struct hook_ask *ask)
{
	struct plugin_job *j = ps->last;
	struct plugin_texts texts;

	ps->last = NULL;
	set_up(j, ask, false);
	plugin_event(&j->ev, ask, &texts);
	plugin_event_keep(&j->ev, NULL);
	return j;
}

static enum hook_reach refuse(const struct plugin *p, const struct hook_ask *ask)
{
	STAT_INC(ask->core->stats, hook_helper_refusals);
	hook_complain(ask->core, p->hook, ask->ev->point, "too much waits for a helper thread");
	return REACH_FAILED;
}

static enum hook_reach put(
	struct plugin_strand *ps, const struct hook_ask *ask, struct plugin_job *j)
{
	if (!hook_suspend(ps->plugin->hook, ask, &j->token)) {
		free(j);
		return REACH_FAILED;
	}
	if (strand_ask(&ps->s, &j->job))
		return REACH_PENDING;
	hook_resume(ask);
	free(j);
	return refuse(ps->plugin, ask);
}

/* A MAIL that the plugin has not asked for waits for the news before it when they are many. */
static enum hook_reach wait_for_news(struct plugin_strand *ps, const struct hook_ask *ask)
{
	struct plugin_job *j = strand_news(&ps->s) < NEWS_MANY ? NULL : malloc(sizeof(*j));

	if (!j)
		return REACH_ANSWERED;
	set_up(j, ask, true);
	j->silent = true;
	return put(ps, ask, j);
}

/* Not by `on-failure`: to go on would make more of what there is too much of. */
static enum hook_reach refuse_mail(struct hook_core *c, struct hook_verdict *v)
{
	STAT_INC(c->stats, hook_helper_refusals);
	v->kind = VERDICT_TEMPFAIL;
	hook_verdict_words(v, 451, "4.3.0", "message inspection is behind, try again later");
	return REACH_ANSWERED;
}

enum hook_reach plugin_help_ask(
	struct plugin *p, const struct hook_ask *ask, struct hook_verdict *v)
{
	struct plugin_strand *ps = strand_of(p, ask);
	struct plugin_job *j;

	if (!ps)
		return refuse(p, ask);
	if (ask->ev->point == HOOK_MAIL && strand_news(&ps->s) >= NEWS_MAX)
		return refuse_mail(ask->core, v);
	if (!(p->says->events & RINGPOST_ON(ask->ev->point)))
		return wait_for_news(ps, ask);
	/* It has not seen all of what it would decide about. */
	if (ask->ev->point == HOOK_END_OF_DATA && ps->torn_tid && ps->torn_tid == ask->ev->tid)
		return REACH_FAILED;
	j = make_job(ask, true);
	return j ? put(ps, ask, j) : REACH_FAILED;
}

static void lose(const struct plugin *p, const struct hook_ask *ask)
{
	STAT_INC(ask->core->stats, hook_helper_losses);
	hook_complain(ask->core, p->hook, ask->ev->point, "news for a helper thread were lost");
}

/* No piece of this message is kept any more; the first one that is lost is told. */
static bool is_torn(struct plugin_strand *ps, const struct hook_ask *ask)
{
	if (ps->torn_tid && ps->torn_tid == ask->ev->tid)
		return true;
	if (!ps->overdue)
		return false;
	lose(ps->plugin, ask);
	ps->torn_tid = ask->ev->tid;
	return true;
}

void plugin_help_tell(struct plugin *p, const struct hook_ask *ask)
{
	struct plugin_strand *ps = strand_of(p, ask);
	bool last = ask->ev->point == HOOK_CLOSE, body = ask->ev->point == HOOK_BODY;
	struct plugin_job *j = NULL;

	/* Nothing to show: a piece without octets, the end of a session that it knows nothing of.
	 */
	if ((body && ask->ev->data.n == 0) || (!ps && last))
		return;
	if (ps && body && is_torn(ps, ask))
		return;
	if (ps && (last || body || strand_news(&ps->s) < NEWS_LOST))
		j = make_job(ask, false);
	if (ps && !j && last)
		j = last_job(ps, ask);
	if (!j) {
		lose(p, ask);
		if (ps && body)
			ps->torn_tid = ask->ev->tid;
		return;
	}
	if (!strand_tell(&ps->s, &j->job))
		free(j);
	else if (body && strand_crowd(&ps->s))
		make_full(ps, ask->ev->tid);
}

void plugin_help_forget(void *own)
{
	struct plugin_strand *ps = own;

	if (ps)
		strand_forget(&ps->s);
}

void plugin_help_leave(void *own)
{
	struct plugin_strand *ps = own;

	timer_stop(ps->core->timers, &ps->full);
	ps->core = NULL;
	ps->seat = NULL;
	__atomic_add_fetch(&ps->plugin->leaving, 1, __ATOMIC_RELAXED);
	strand_leave(&ps->s);
}

/* ---- the pool ---- */

bool plugin_help_open(struct plugin *p)
{
	struct hook_set *set = p->hook->set;

	/* Its threads are started by the first worker: `ringpost check` needs none. */
	if (!set->helpers)
		set->helpers = helpers_new(MAX_OF(1u, set->conf->helpers.threads),
			MAX_OF(1u, set->conf->helpers.queue));
	p->helped.pool = set->helpers;
	set->helpers_users += p->helped.pool != NULL;
	return p->helped.pool != NULL;
}

void plugin_help_close(struct plugin *p)
{
	struct hook_set *set = p->hook->set;

	if (!p->helped.pool)
		return;
	while (!helpers_settle(&p->helped, 1000))
		;
	p->helped.pool = NULL;
	if (--set->helpers_users > 0)
		return;
	helpers_free(set->helpers);
	set->helpers = NULL;
}
