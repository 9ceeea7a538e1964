/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Asking: see hook.h. The hooks of a listener one after the other, what they say put together: the
 * first objection stands, changes add up, and a hook is asked about the event as those before it
 * have changed it. What waits is in call.c.
 *
 * Failure modes: a hook that fails, or changes what cannot be changed there: what its `on-failure`
 * says; no room for what it says: the usual words.
 */
#include "engine/hook/hook_int.h"

#include "engine/smtp/octets.h"
#include "engine/smtp/reply.h"

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
		[VERDICT_DISCARD] = {250, "2.0.0", "message accepted", "hook"},
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

/* ---- changes ---- */

size_t hook_changed_args(const struct hook_edits *edits, const struct smtp_path *was, bool is_rcpt,
	uint8_t *out, size_t max)
{
	struct hook_edit e;
	struct span mailbox = was->mailbox, params = was->params;
	size_t n;

	if (hook_edits_last(edits, EDIT_ADDRESS, &e))
		mailbox = e.value;
	if (hook_edits_last(edits, EDIT_PARAMS, &e))
		params = e.value;
	params = span_trim(params);
	n = (size_t)snprintf((char *)out, max, "%s:<%.*s>%s%.*s", is_rcpt ? "TO" : "FROM",
		(int)mailbox.n, (const char *)mailbox.p, params.n ? " " : "", (int)params.n,
		(const char *)params.p);
	return n < max ? n : 0;
}

#define PATH_EDITS (1u << EDIT_ADDRESS | 1u << EDIT_PARAMS)

/* The event as it is behind the changes made so far. */
struct changed_event {
	struct hook_event ev;
	struct smtp_path path;
	uint8_t args[SMTP_PATH_BYTES_MAX + HOOK_PARAMS_BYTES_MAX];
};

static const struct hook_event *as_changed(
	const struct hook_event *ev, const struct hook_seat *seat, struct changed_event *to)
{
	bool is_rcpt = ev->point == HOOK_RCPT;
	size_t n;

	if (LIKELY(!seat->edits) || !ev->path || !(hook_edits_kinds(seat->edits) & PATH_EDITS))
		return ev;
	n = hook_changed_args(seat->edits, ev->path, is_rcpt, to->args, sizeof(to->args));
	/* Each was judged; both together may still be more than there is room for. */
	if (n == 0 || smtp_path_parse(span_of(to->args, n), is_rcpt, &to->path) != PATH_OK)
		return ev;
	to->ev = *ev;
	to->ev.path = &to->path;
	return &to->ev;
}

static bool only_on_top(const struct hook_edits *edits)
{
	struct hook_edit e;

	for (size_t at = 0; hook_edits_next(edits, &at, &e);)
		if (e.kind == EDIT_HEADER_INSERT && e.index > 0)
			return false;
	return true;
}

/* What v->edits cannot be there; NULL: they can. */
static const char *impossible(
	const struct hook *h, enum hook_point point, const struct hook_edits *e)
{
	uint32_t bad = hook_edits_kinds(e) & ~hook_edits_possible(point, h->conf->mode);

	for (unsigned k = 0; bad && k < EDIT_KIND_COUNT; k++)
		if (bad & 1u << k)
			return hook_edit_word((enum hook_edit_kind)k);
	return point != HOOK_END_OF_DATA && !only_on_top(e) ? hook_edit_word(EDIT_HEADER_INSERT)
							    : NULL;
}

/* Takes the changes out of the verdict. */
static void take_edits(struct hook_core *c, struct hook_seat *seat, const struct hook *h,
	enum hook_point point, struct hook_verdict *v)
{
	struct hook_edits *edits = v->edits;
	const char *bad;
	char line[64];

	v->edits = NULL;
	if (!edits)
		return;
	if (v->kind != VERDICT_PASS) {
		hook_edits_free(edits);
		return;
	}
	bad = impossible(h, point, edits);
	if (!bad && hook_edits_join(&seat->edits, edits))
		return;
	if (bad)
		hook_edits_free(edits);
	snprintf(line, sizeof(line), "%s is not possible here", bad ? bad : "so much change");
	hook_complain(c, h, point, line);
	STAT_INC(c->stats, hook_failures);
	hook_failed_verdict(h, v);
}

/* ---- asking ---- */

/* What is only good for the question that was open. */
static void question_over(struct hook_seat *seat)
{
	seat->deferred = NULL;
	seat->soften = 0;
	seat->feeding = 0;
}

void hook_forget(struct hook_core *c, struct hook_seat *seat)
{
	hook_drop_call(seat);
	hook_edits_free(seat->edits);
	seat->edits = NULL;
	question_over(seat);
}

static void soften(struct hook_verdict *v)
{
	v->kind = VERDICT_TEMPFAIL;
	v->reply = NULL;
	v->code = 0;
	v->enhanced[0] = '\0';
}

static enum hook_said object(struct hook_core *c, struct hook_seat *seat, const struct hook *h,
	struct hook_verdict *v, struct hook_word *word)
{
	if (v->kind == VERDICT_REJECT && seat->soften)
		soften(v);
	word->reply = reply_of(c, seat, h, v);
	word->drop = v->kind == VERDICT_DROP;
	if (v->kind == VERDICT_DISCARD)
		return HOOK_DISCARD;
	STAT_INC(c->stats, hook_refusals);
	return HOOK_NO;
}

static enum hook_said say(struct hook_core *c, struct hook_seat *seat, const struct hook *h,
	enum hook_point point, struct hook_verdict *v, struct hook_word *word)
{
	take_edits(c, seat, h, point, v);
	switch (v->kind) {
	case VERDICT_PASS:
		return HOOK_PASS;
	case VERDICT_DEFER_IF_PASS:
		v->kind = VERDICT_TEMPFAIL;
		if (!seat->deferred)
			seat->deferred = reply_of(c, seat, h, v);
		return HOOK_PASS;
	case VERDICT_DEFER_IF_REJECT:
		seat->soften = 1;
		return HOOK_PASS;
	case VERDICT_DISCARD:
		/* There is no message that could be thrown away. */
		if (point < HOOK_MAIL)
			return HOOK_PASS;
		break;
	default:
		break;
	}
	return object(c, seat, h, v, word);
}

/* The answer that was waited for; *next: where to go on behind it. */
static enum hook_said fetch(struct hook_core *c, struct hook_seat *seat, enum hook_point point,
	uint32_t *next, struct hook_word *word)
{
	struct hook_call *call = seat->call;
	const struct hook *h = call->hook;
	struct hook_verdict v;

	ASSERT(call->point == point);
	if (!call->answered)
		return HOOK_LATER;
	*next = call->next;
	hook_fetch_call(seat, &v);
	return say(c, seat, h, point, &v, word);
}

static enum hook_said ask_one(
	const struct hook_ask *from, struct hook *h, uint32_t next, struct hook_word *word)
{
	struct changed_event changed;
	const struct hook_ask ask = {
		from->core, from->seat, from->lis, as_changed(from->ev, from->seat, &changed)};
	struct hook_verdict v = {0};

	switch (h->class->ask(h, &ask, &v)) {
	case REACH_PENDING:
		ask.seat->call->next = (uint8_t)next;
		return HOOK_LATER;
	case REACH_FAILED:
		STAT_INC(ask.core->stats, hook_failures);
		hook_edits_free(v.edits);
		hook_failed_verdict(h, &v);
		break;
	case REACH_ANSWERED:
		break;
	}
	return say(ask.core, ask.seat, h, ask.ev->point, &v, word);
}

static bool wants(const struct hook *h, enum hook_point point)
{
	return (h->wants & 1u << point) != 0;
}

/* It decides about the message as those before it have left it, and has not seen that yet. */
static bool must_be_fed(const struct hook *h, enum hook_point point)
{
	return point == HOOK_END_OF_DATA && h->conf->mode == HOOK_HOLD_ALL && wants(h, HOOK_BODY);
}

static enum hook_said ask_from(
	const struct hook_ask *ask, uint32_t i, uint32_t fed, struct hook_word *word)
{
	const struct hook_list *list = &ask->core->set->lists[ask->lis->index];
	enum hook_said said = HOOK_PASS;

	for (; said == HOOK_PASS && i < list->count; i++) {
		struct hook *h = list->hooks[i];

		if (!wants(h, ask->ev->point))
			continue;
		if (i + 1 != fed && must_be_fed(h, ask->ev->point)) {
			ask->seat->feeding = (uint8_t)(i + 1);
			return HOOK_FEED;
		}
		said = ask_one(ask, h, i + 1, word);
	}
	return said;
}

enum hook_said hook_ask(struct hook_core *c, struct hook_seat *seat,
	const struct conf_listener *lis, const struct hook_event *ev, struct hook_word *word)
{
	const struct hook_ask ask = {c, seat, lis, ev};
	enum hook_said said = HOOK_PASS;
	uint32_t i = 0, fed = seat->feeding;

	ASSERT(ev->point < HOOK_QUESTIONS);
	*word = (struct hook_word){0};
	if (seat->call)
		said = fetch(c, seat, ev->point, &i, word);
	else if (fed > 0)
		i = fed - 1;
	seat->feeding = 0;
	if (said == HOOK_PASS)
		said = ask_from(&ask, i, fed, word);
	if (said == HOOK_LATER || said == HOOK_FEED)
		return said;
	if (said == HOOK_PASS && seat->deferred) {
		word->reply = seat->deferred;
		STAT_INC(c->stats, hook_refusals);
		said = HOOK_NO;
	}
	question_over(seat);
	if (said != HOOK_PASS) {
		hook_edits_free(seat->edits);
		seat->edits = NULL;
	}
	return said;
}

/* ---- telling ---- */

void hook_tell(struct hook_core *c, struct hook_seat *seat, const struct conf_listener *lis,
	const struct hook_event *ev)
{
	const struct hook_list *list = &c->set->lists[lis->index];
	const struct hook_ask ask = {c, seat, lis, ev};

	ASSERT(ev->point >= HOOK_QUESTIONS);
	for (uint32_t i = 0; i < list->count; i++)
		if (wants(list->hooks[i], ev->point))
			list->hooks[i]->class->tell(list->hooks[i], &ask);
}

void hook_show(struct hook_core *c, struct hook_seat *seat, const struct conf_listener *lis,
	const struct hook_event *ev)
{
	const struct hook_list *list = &c->set->lists[lis->index];
	const struct hook_ask ask = {c, seat, lis, ev};

	ASSERT(ev->point == HOOK_BODY);
	for (uint32_t i = 0; i < list->count; i++) {
		struct hook *h = list->hooks[i];
		bool now = seat->feeding ? seat->feeding == i + 1 : h->conf->mode == HOOK_HOLD_END;

		if (now && wants(h, HOOK_BODY))
			h->class->tell(h, &ask);
	}
}

void hook_set_full(struct hook_core *c, struct hook_seat *seat, bool full)
{
	ASSERT(full || seat->full > 0);
	if (full)
		seat->full++;
	else if (--seat->full == 0)
		c->wake(seat);
}

enum conf_hook_mode hook_mode(const struct hook_core *c, const struct conf_listener *lis)
{
	return c->set->modes[lis->index];
}

/* ---- what a hook keeps for a session ---- */

void **hook_own(const struct hook *h, const struct hook_ask *ask)
{
	struct hook_seat *seat = ask->seat;
	struct hook_core *c = ask->core;

	if (!seat->own) {
		seat->own = slab_get(&c->owns);
		if (!seat->own)
			return NULL;
		memset(seat->own, 0, c->set->hook_count * sizeof(*seat->own));
	}
	return &seat->own[h->index];
}

static void leave_all(struct hook_core *c, void **own)
{
	for (uint32_t i = 0; i < c->set->hook_count; i++) {
		struct hook *h = &c->set->hooks[i];

		if (own[i] && h->class->leave)
			h->class->leave(h, c, own[i]);
	}
}

void hook_leave(struct hook_core *c, struct hook_seat *seat)
{
	hook_forget(c, seat);
	hook_forget_replies(c, seat);
	if (!seat->own)
		return;
	leave_all(c, seat->own);
	slab_put(&c->owns, seat->own);
	seat->own = NULL;
}

/* ---- a worker's share ---- */

static bool begin_all(struct hook_core *c)
{
	for (uint32_t i = 0; i < c->set->hook_count; i++) {
		struct hook *h = &c->set->hooks[i];

		if (h->class->begin && !h->class->begin(h, c, &c->shares[i]))
			return false;
	}
	return true;
}

bool hook_core_init(struct hook_core *c, const struct hook_worker_conf *wc, struct streams *streams,
	struct timers *timers, struct stat_table *stats, struct log_buf *log)
{
	uint32_t n = wc->sessions_max, hooks = MAX_OF(1u, wc->set->hook_count);

	*c = (struct hook_core){.set = wc->set,
		.wants = wc->set->wants,
		.ring = streams->ring,
		.streams = streams,
		.timers = timers,
		.stats = stats,
		.log = log,
		.worker = wc->worker,
		.sessions_max = n,
		.wake = wc->wake};
	c->shares = calloc(hooks, sizeof(*c->shares));
	return c->shares && hook_calls_init(c, n) &&
	       slab_init(&c->replies, "hook replies", sizeof(struct hook_reply), 4 * n) &&
	       slab_init(&c->owns, "hook owns", hooks * sizeof(void *), n) && begin_all(c);
}

bool hook_core_idle(struct hook_core *c)
{
	bool idle = true;

	for (uint32_t i = 0; i < c->set->hook_count; i++) {
		struct hook *h = &c->set->hooks[i];

		if (c->shares[i] && h->class->wind_up)
			idle = h->class->wind_up(h, c->shares[i]) && idle;
	}
	return idle;
}

void hook_core_fini(struct hook_core *c)
{
	for (uint32_t i = 0; i < c->set->hook_count; i++)
		if (c->shares[i])
			c->set->hooks[i].class->end(&c->set->hooks[i], c->shares[i]);
	hook_calls_fini(c);
	slab_fini(&c->owns);
	slab_fini(&c->replies);
	free(c->shares);
}
