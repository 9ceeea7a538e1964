/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See verdicts.h. Failure modes, on purpose: no answer, a second answer, one behind the deadline.
 * At CONNECT it may wait but does not object: who is turned away at the door has no session whose
 * replies could be read.
 */
#include "tests/sim/verdicts.h"

#include "tests/sim/actor.h"

#define WAITS_MAX_US (12ull * 1000000) /* some of them behind the deadline */

struct verdict_wait {
	const struct hook *hook;
	struct hook_token token;
	struct hook_verdict verdict;
	uint64_t due_us;
	bool twice;
};

static struct verdicts *current;

void verdicts_use(struct verdicts *v)
{
	current = v;
}

void verdicts_init(struct verdicts *v, struct sim_kernel *k, struct tape *t,
	const struct record *rec, bool busy)
{
	*v = (struct verdicts){.k = k, .t = t, .rec = rec, .busy = busy};
}

void verdicts_free(struct verdicts *v)
{
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

static bool open_it(struct hook *h, char *why, size_t why_max)
{
	h->wants = (1u << HOOK_POINT_COUNT) - 1;
	return true;
}

static enum hook_reach ask_it(struct hook *h, const struct hook_ask *ask, struct hook_verdict *out)
{
	struct verdicts *v = current;
	uint32_t what;

	if (!v || !v->busy || v->calm)
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

static void tell_it(struct hook *h, const struct hook_ask *ask)
{
}

static void close_it(struct hook *h)
{
}

const struct hook_class hook_plugin_class = {true, open_it, close_it, ask_it, tell_it};

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
			(void)hook_answer(w.hook, &w.token, &w.verdict);
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
