/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See verdicts.h. Failure modes, on purpose: no answer, a second answer, one behind the deadline.
 * At CONNECT it may wait but does not object: who is turned away at the door has no session whose
 * replies could be read.
 */
#include "tests/sim/verdicts.h"

#include "tests/sim/actor.h"
#include "tests/sim/wishes.h"

#define WAITS_MAX_US (12ull * 1000000) /* some of them behind the deadline */

static struct verdicts *current;

void verdicts_use(struct verdicts *v)
{
	current = v;
}

void verdicts_init(struct verdicts *v, struct sim_kernel *k, struct tape *t,
	const struct record *rec, bool busy)
{
	*v = (struct verdicts){.k = k, .t = t, .rec = rec, .busy = busy};
	v->wishes = calloc(1, sizeof(*v->wishes));
	ASSERT(v->wishes);
}

void verdicts_free(struct verdicts *v)
{
	for (uint32_t i = 0; i < v->wait_n; i++)
		hook_edits_free(v->wait[i].verdict.edits);
	wishes_free(v->wishes);
	free(v->wishes);
	free(v->made);
	free(v->wait);
}

/* ---- making them ---- */

static void object(struct verdicts *v, const struct hook_ask *ask, enum hook_verdict_kind kind,
	struct hook_verdict *out)
{
	char text[40];

	*out = (struct hook_verdict){.kind = kind};
	if (kind == VERDICT_PASS)
		return;
	v->failures++;
	snprintf(text, sizeof(text), VERDICT_TEXT "%u", v->made_n);
	hook_verdict_words(out, 0, NULL, text);
	v->made = sim_room(v->made, v->made_n, &v->made_cap, sizeof(*v->made));
	v->made[v->made_n++] = (struct verdict_made){.sid = ask->ev->sid,
		.point = (uint8_t)ask->ev->point,
		.kind = (uint8_t)kind,
		.ev = v->rec->count};
}

static enum hook_verdict_kind choose(struct verdicts *v, const struct hook_ask *ask)
{
	static const uint8_t kinds[8] = {
		[4] = VERDICT_REJECT, VERDICT_REJECT, VERDICT_TEMPFAIL, VERDICT_DROP};

	if (ask->ev->point == HOOK_CONNECT)
		return VERDICT_PASS;
	return (enum hook_verdict_kind)kinds[tape_pick(v->t, ARRAY_LEN(kinds))];
}

static enum hook_reach put_off(
	struct verdicts *v, struct hook *h, const struct hook_ask *ask, struct hook_verdict *out)
{
	struct verdict_wait w = {.hook = h};
	uint32_t how = tape_pick(v->t, ask->ev->point == HOOK_CONNECT ? 4 : 8);

	if (!hook_suspend(h, ask, &w.token)) {
		v->failures++;
		return REACH_FAILED;
	}
	if (how == 7) {
		v->failures++;
		return REACH_PENDING; /* never */
	}
	if (how == 6) {
		hook_resume(ask);
		out->kind = VERDICT_PASS;
		return REACH_ANSWERED;
	}
	w.twice = how == 5;
	w.due_us = sim_now_us(v->k) +
		   (how == 4 ? tape_pick(v->t, WAITS_MAX_US) : 1 + tape_small(v->t, 255) * 1000ull);
	/* The deadline may be over before it is due, or before it was delivered. */
	v->failures++;
	object(v, ask, choose(v, ask), &w.verdict);
	v->wait = sim_room(v->wait, v->wait_n, &v->wait_cap, sizeof(*v->wait));
	v->wait[v->wait_n++] = w;
	return REACH_PENDING;
}

/* ---- the hook ---- */

/* The one that only objects sees no message: the worlds it is in are read octet by octet. */
static bool is_seeded(const struct hook *h)
{
	return strcmp(h->conf->name, "seeded") == 0;
}

static bool open_it(struct hook *h, char *why, size_t why_max)
{
	/* Of the others, those whose names say so see none, either. */
	bool blind = is_seeded(h) || strncmp(h->conf->name, "change", 6) == 0;

	h->wants = (1u << HOOK_POINT_COUNT) - 1;
	if (blind)
		h->wants &= ~(1u << HOOK_BODY);
	return true;
}

static enum hook_reach ask_seeded(
	struct verdicts *v, struct hook *h, const struct hook_ask *ask, struct hook_verdict *out)
{
	uint32_t what;

	if (!v->busy || v->calm)
		return REACH_ANSWERED;
	what = tape_pick(v->t, 32);
	if (what >= 27)
		return put_off(v, h, ask, out);
	if (what == 26 && ask->ev->point != HOOK_CONNECT) {
		v->failures++;
		return REACH_FAILED;
	}
	if (what == 25) {
		object(v, ask, choose(v, ask), out);
		v->said += out->kind != VERDICT_PASS;
	}
	return REACH_ANSWERED;
}

static enum hook_reach ask_it(struct hook *h, const struct hook_ask *ask, struct hook_verdict *out)
{
	struct verdicts *v = current;

	if (!v)
		return REACH_ANSWERED;
	return is_seeded(h) ? ask_seeded(v, h, ask, out) : wishes_ask(v, h, ask, out);
}

static void tell_it(struct hook *h, const struct hook_ask *ask)
{
	if (current && !is_seeded(h))
		wishes_tell(current, h, ask);
}

static void leave_it(struct hook *h, struct hook_core *c, void *own)
{
	wishes_leave(current, c, own);
}

static void close_it(struct hook *h)
{
}

const struct hook_class hook_plugin_class = {.may_wait = true,
	.open = open_it,
	.close = close_it,
	.ask = ask_it,
	.tell = tell_it,
	.leave = leave_it};

/* No world has a script. */
const struct hook_class hook_lua_class = {.may_wait = true};

/* ---- answering ---- */

static bool due(const struct verdicts *v, const struct verdict_wait *w)
{
	return v->calm || w->due_us <= sim_now_us(v->k);
}

bool verdicts_step(struct verdicts *v)
{
	for (uint32_t i = 0; i < v->wait_n; i++) {
		struct verdict_wait w = v->wait[i];

		if (!due(v, &w))
			continue;
		v->wait[i] = v->wait[--v->wait_n];
		v->said += w.verdict.kind != VERDICT_PASS;
		for (int n = 0; n <= w.twice; n++)
			if (hook_answer(w.hook, &w.token, &w.verdict) == CARRIED)
				w.verdict.edits = NULL;
		hook_edits_free(w.verdict.edits);
		return true;
	}
	return false;
}

uint64_t verdicts_next_us(const struct verdicts *v)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < v->wait_n; i++)
		next = MIN_OF(next, v->wait[i].due_us);
	return next;
}

void verdicts_calm(struct verdicts *v)
{
	v->calm = true;
}
