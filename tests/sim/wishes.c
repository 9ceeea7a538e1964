/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See wishes.h. Which hook wants what follows from where and how it is asked: whatever is possible
 * at that point in its mode (hook_edits_possible()) comes up. Failure modes, on purpose: no answer,
 * one behind the deadline, a failure; by chance: no memory for what it keeps of a session, and then
 * it is never full.
 */
#include "tests/sim/wishes.h"

#include "tests/sim/actor.h"

#define FULL_MAX_US (3ull * 1000000)
#define LATE_MAX_US (12ull * 1000000) /* some of them behind the deadline */
#define BODY_BYTES_MAX 20000u
#define EDITS_MAX 4u

struct wish_seat {
	struct wish_seat *next;
	struct hook_core *core;
	struct hook_seat *seat;
	bool full;
	uint64_t until_us, completions;
	uint32_t sock; /* of the session; index into record.socks */
	uint64_t tid;
	size_t given; /* octets that it had given when this hook became full */
	size_t came;  /* while it was full; counts if more of that message is shown behind it */
};

void wishes_free(struct wishes *w)
{
	for (uint32_t i = 0; i < w->n; i++) {
		struct wish *x = &w->all[i];

		octets_free(&x->mailbox);
		octets_free(&x->params);
		octets_free(&x->shown);
		for (uint32_t k = 0; k < x->edit_n; k++) {
			octets_free(&x->edits[k].name);
			octets_free(&x->edits[k].value);
		}
		free(x->edits);
	}
	for (uint32_t i = 0; i < w->shown_n; i++)
		octets_free(&w->shown[i].octets);
	free(w->all);
	free(w->shown);
}

static uint32_t place_of(const struct hook *h, const struct conf_listener *lis)
{
	for (uint32_t i = 0; i < lis->hook_count; i++)
		if (lis->hooks[i] == h->conf)
			return i;
	ASSERT(false);
}

static void copy(struct octets *to, struct span from)
{
	octets_add(to, from.n ? from.p : (const uint8_t *)"", from.n);
}

/* ---- what is written down ---- */

static struct wish_shown *shown_of(struct wishes *w, uint64_t sid, uint64_t tid, uint32_t place)
{
	for (uint32_t i = w->shown_n; i-- > 0;) {
		struct wish_shown *s = &w->shown[i];

		if (s->sid == sid && s->tid == tid && s->place == place)
			return s;
	}
	w->shown = sim_room(w->shown, w->shown_n, &w->shown_cap, sizeof(*w->shown));
	w->shown[w->shown_n] = (struct wish_shown){.sid = sid, .tid = tid, .place = place};
	return &w->shown[w->shown_n++];
}

static struct wish *note(struct verdicts *v, const struct hook *h, const struct hook_ask *ask)
{
	struct wishes *w = v->wishes;
	const struct hook_event *ev = ask->ev;
	uint32_t place = place_of(h, ask->lis);
	struct wish *x;

	w->all = sim_room(w->all, w->n, &w->cap, sizeof(*w->all));
	x = &w->all[w->n++];
	*x = (struct wish){.sid = ev->sid,
		.tid = ev->tid,
		.place = place,
		.ev = (uint32_t)v->rec->count,
		.point = ev->point};
	if (ev->client)
		x->client = *ev->client;
	if (ev->path) {
		copy(&x->mailbox, ev->path->mailbox);
		copy(&x->params, ev->path->params);
	}
	if (ev->point == HOOK_END_OF_DATA) {
		struct wish_shown *s = shown_of(w, ev->sid, ev->tid, place);

		s->asked = true;
		copy(&x->shown, octets_span(&s->octets));
	}
	return x;
}

/* ---- changes ---- */

struct making {
	struct verdicts *v;
	struct wish *x;
	const struct hook_ask *ask;
	struct hook_edits *list;
	struct octets name, value;
};

static uint32_t pick(struct making *m, uint32_t n)
{
	return tape_pick(m->v->t, n);
}

static void add(struct making *m, enum hook_edit_kind kind, uint32_t index)
{
	struct wish *x = m->x;
	bool body = kind == EDIT_BODY;
	const struct hook_edit e = {kind, index, octets_span(&m->name), octets_span(&m->value)};

	if (!hook_edits_add(&m->list, &e, x->point == HOOK_RCPT))
		return;
	/* Pieces that follow each other are one body. */
	if (body && x->edit_n && x->edits[x->edit_n - 1].kind == EDIT_BODY) {
		copy(&x->edits[x->edit_n - 1].value, e.value);
		return;
	}
	x->edits = realloc(x->edits, (x->edit_n + 1) * sizeof(*x->edits));
	ASSERT(x->edits);
	struct wish_edit *to = &x->edits[x->edit_n++];
	*to = (struct wish_edit){.kind = kind, .index = index};
	copy(&to->name, e.name);
	copy(&to->value, e.value);
}

static bool is_word(uint8_t c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static void make_address(struct making *m)
{
	struct span was = octets_span(&m->x->mailbox);

	if (m->x->point == HOOK_MAIL && pick(m, 4) == 3)
		return; /* <> */
	octets_fmt(&m->value, "w%u", m->v->wishes->number++);
	if (was.n > 0 && is_word(was.p[0]))
		octets_fmt(&m->value, ".%.*s", (int)was.n, (const char *)was.p);
	else
		octets_str(&m->value, "@new.example");
}

static void make_params(struct making *m)
{
	static const char *const of_mail[] = {"", "BODY=8BITMIME", "SIZE=17 BODY=7BIT"};
	static const char *const of_rcpt[] = {"", "NOTIFY=NEVER", "NOTIFY=FAILURE"};

	octets_str(&m->value, m->x->point == HOOK_RCPT ? of_rcpt[pick(m, 3)] : of_mail[pick(m, 3)]);
}

static void make_name(struct making *m, bool known)
{
	static const char *const names[] = {"Subject", "received", "X-Mark", "TO"};

	if (known)
		octets_str(&m->name, names[pick(m, ARRAY_LEN(names))]);
	else
		octets_fmt(&m->name, "X-W%u", m->v->wishes->number++);
}

static void make_value(struct making *m)
{
	uint32_t n = m->v->wishes->number++;

	switch (pick(m, 4)) {
	case 0:
		octets_fmt(&m->value, " w%u", n);
		break;
	case 1:
		octets_fmt(&m->value, "w%u", n);
		break;
	case 2:
		octets_fmt(&m->value, " w%u\r\n\tand on", n);
		break;
	default:
		octets_fmt(&m->value, " .w%u\r\n .dot", n);
	}
}

static void make_body(struct making *m)
{
	static const char *const ends[] = {"\r\n", "", "\r\n.", "\r\n..\r\n", "\r"};
	uint32_t n = m->v->wishes->number++;

	if (pick(m, 8) == 7)
		return; /* an empty one */
	octets_fmt(&m->value, "%sw%u ", pick(m, 3) == 2 ? "." : "", n);
	octets_letters(&m->value, n, tape_small(m->v->t, BODY_BYTES_MAX));
	octets_fmt(&m->value, "\r\n%s", pick(m, 3) == 2 ? ".\r\n" : "");
	octets_letters(&m->value, n + 1, pick(m, 40));
	octets_str(&m->value, ends[pick(m, ARRAY_LEN(ends))]);
}

/* One of the recipients that hooks were asked about, as it was by then. */
static void make_known_rcpt(struct making *m)
{
	const struct wishes *w = m->v->wishes;
	uint32_t skip = pick(m, 4);

	for (uint32_t i = w->n; i-- > 0;) {
		const struct wish *x = &w->all[i];

		if (x->tid != m->x->tid || x->point != HOOK_RCPT)
			continue;
		m->value.n = 0;
		copy(&m->value, octets_span(&x->mailbox));
		if (skip-- == 0)
			return;
	}
}

static void make_new(struct making *m, char letter, bool rcpt)
{
	if (rcpt || pick(m, 4) != 3)
		octets_fmt(&m->value, "%c%u@new.example", letter, m->v->wishes->number++);
	if (pick(m, 3) == 2)
		octets_str(&m->name, rcpt ? "NOTIFY=NEVER" : "BODY=8BITMIME");
}

static void make_one(struct making *m, enum hook_edit_kind kind)
{
	uint32_t index = 0;

	m->name.n = m->value.n = 0;
	switch (kind) {
	case EDIT_ADDRESS:
		make_address(m);
		break;
	case EDIT_PARAMS:
		make_params(m);
		break;
	case EDIT_HEADER_INSERT:
		index = m->x->point == HOOK_END_OF_DATA ? pick(m, 6) : 0;
		make_name(m, pick(m, 2));
		make_value(m);
		break;
	case EDIT_HEADER_APPEND:
		make_name(m, pick(m, 2));
		make_value(m);
		break;
	case EDIT_HEADER_CHANGE:
		make_value(m);
		/* fallthrough */
	case EDIT_HEADER_DELETE:
		index = 1 + pick(m, 3);
		make_name(m, pick(m, 8) != 7);
		break;
	case EDIT_SENDER:
		make_new(m, 's', false);
		break;
	case EDIT_RCPT_ADD:
		make_new(m, 'a', true);
		break;
	case EDIT_RCPT_DELETE:
		make_known_rcpt(m);
		break;
	default:
		make_body(m);
	}
	add(m, kind, index);
}

static struct hook_edits *make_edits(
	struct verdicts *v, struct hook *h, const struct hook_ask *ask, struct wish *x)
{
	uint32_t can = hook_edits_possible(x->point, h->conf->mode);
	struct making m = {.v = v, .x = x, .ask = ask};

	if (!can)
		return NULL;
	for (uint32_t n = 1 + pick(&m, EDITS_MAX); n > 0; n--) {
		uint32_t kind = pick(&m, EDIT_KIND_COUNT);

		while (!(can & 1u << kind))
			kind = (kind + 1) % EDIT_KIND_COUNT;
		make_one(&m, (enum hook_edit_kind)kind);
	}
	octets_free(&m.name);
	octets_free(&m.value);
	return m.list;
}

/* ---- verdicts ---- */

static void say(
	struct verdicts *v, struct wish *x, enum hook_verdict_kind kind, struct hook_verdict *out)
{
	char text[40];

	x->kind = kind;
	*out = (struct hook_verdict){.kind = kind};
	if (kind == VERDICT_PASS || kind == VERDICT_DEFER_IF_REJECT)
		return;
	snprintf(text, sizeof(text), VERDICT_TEXT "%u", v->made_n);
	hook_verdict_words(out, 0, NULL, text);
	v->made = sim_room(v->made, v->made_n, &v->made_cap, sizeof(*v->made));
	v->made[v->made_n++] = (struct verdict_made){.sid = x->sid,
		.tid = x->tid,
		.point = (uint8_t)x->point,
		.kind = (uint8_t)kind,
		.ev = (uint32_t)v->rec->count};
}

static void decide(struct verdicts *v, struct hook *h, const struct hook_ask *ask, struct wish *x,
	struct hook_verdict *out)
{
	static const enum hook_verdict_kind kinds[] = {VERDICT_REJECT, VERDICT_TEMPFAIL,
		VERDICT_DISCARD, VERDICT_DISCARD, VERDICT_DEFER_IF_PASS, VERDICT_DEFER_IF_REJECT,
		VERDICT_DROP};
	uint32_t what = tape_pick(v->t, 16);
	bool early = x->point < HOOK_MAIL;

	if (what == 15 && x->point != HOOK_CONNECT) {
		uint32_t k = tape_pick(v->t, early ? 2 : ARRAY_LEN(kinds));

		say(v, x, kinds[k], out);
		return;
	}
	say(v, x, VERDICT_PASS, out);
	if (what >= 7)
		out->edits = make_edits(v, h, ask, x);
}

static enum hook_reach put_off(struct verdicts *v, struct hook *h, const struct hook_ask *ask,
	struct wish *x, struct hook_verdict *out)
{
	struct verdict_wait w = {.hook = h};
	uint32_t how = tape_pick(v->t, x->point == HOOK_CONNECT ? 4 : 16);

	if (!hook_suspend(h, ask, &w.token)) {
		x->never = true;
		return REACH_FAILED;
	}
	if (how == 15) {
		x->never = true;
		return REACH_PENDING;
	}
	if (how == 14) {
		hook_resume(ask);
		decide(v, h, ask, x, out);
		return REACH_ANSWERED;
	}
	w.twice = how == 13;
	w.due_us = sim_now_us(v->k) +
		   (how == 12 ? tape_pick(v->t, LATE_MAX_US) : 1 + tape_small(v->t, 255) * 1000ull);
	decide(v, h, ask, x, &w.verdict);
	v->wait = sim_room(v->wait, v->wait_n, &v->wait_cap, sizeof(*v->wait));
	v->wait[v->wait_n++] = w;
	return REACH_PENDING;
}

enum hook_reach wishes_ask(
	struct verdicts *v, struct hook *h, const struct hook_ask *ask, struct hook_verdict *out)
{
	struct wish *x = note(v, h, ask);
	uint32_t how;

	*out = (struct hook_verdict){.kind = VERDICT_PASS};
	if (v->calm)
		return REACH_ANSWERED;
	how = tape_pick(v->t, 32);
	if (how == 31 && x->point != HOOK_CONNECT) {
		x->never = true;
		return REACH_FAILED;
	}
	if (how >= 21)
		return put_off(v, h, ask, x, out);
	decide(v, h, ask, x, out);
	return REACH_ANSWERED;
}

/* ---- what they are shown ---- */

static struct wish_seat *seat_of(struct verdicts *v, struct hook *h, const struct hook_ask *ask)
{
	void **own = hook_own(h, ask);
	struct wish_seat *s;

	if (!own)
		return NULL;
	if (*own)
		return *own;
	s = calloc(1, sizeof(*s));
	ASSERT(s);
	*s = (struct wish_seat){.next = v->wishes->seats, .core = ask->core, .seat = ask->seat};
	v->wishes->seats = s;
	*own = s;
	return s;
}

static uint32_t sock_of(const struct verdicts *v, const struct ring_addr *client)
{
	for (uint32_t i = v->rec->sock_count; i-- > 0;)
		if (!v->rec->socks[i].dialled &&
			memcmp(&v->rec->socks[i].peer.sa, &client->sa, sizeof(client->sa)) == 0)
			return i;
	ASSERT(false);
}

/* What came while a hook of the session was full had to wait. */
static void look_at_held(struct verdicts *v, const struct hook_ask *ask)
{
	for (struct wish_seat *s = v->wishes->seats; s; s = s->next) {
		if (s->seat != ask->seat || s->full)
			continue;
		v->wishes->held_more |= s->tid == ask->ev->tid && s->came > v->wishes->held_max;
		s->came = 0;
	}
}

static bool one_is_full(const struct verdicts *v, const struct hook_ask *ask)
{
	for (const struct wish_seat *s = v->wishes->seats; s; s = s->next)
		if (s->seat == ask->seat && s->full && s->completions != sim_completions(v->k))
			return true;
	return false;
}

static void become_full(struct verdicts *v, struct wish_seat *s, const struct hook_event *ev)
{
	s->full = true;
	s->tid = ev->tid;
	s->sock = sock_of(v, ev->client);
	s->given = v->rec->socks[s->sock].in.n;
	s->completions = sim_completions(v->k);
	s->until_us = sim_now_us(v->k) + 1 + tape_small(v->t, 255) * (FULL_MAX_US / 255);
	hook_set_full(s->core, s->seat, true);
}

/* The first one stays. */
static void met(
	struct verdicts *v, const struct hook_ask *ask, const struct hook *h, const char *what)
{
	char *to = v->wishes->broken;

	if (!to[0])
		snprintf(to, sizeof(v->wishes->broken), "hook %s, transaction %016llx: %s",
			h->conf->name, (unsigned long long)ask->ev->tid, what);
}

static void shown(struct verdicts *v, struct hook *h, const struct hook_ask *ask)
{
	const struct hook_event *ev = ask->ev;
	struct wish_shown *to = shown_of(v->wishes, ev->sid, ev->tid, place_of(h, ask->lis));
	struct wish_seat *s;

	if (to->asked)
		met(v, ask, h, "was shown more of a message behind its end");
	if (ev->data.n == 0)
		met(v, ask, h, "was shown nothing");
	if (one_is_full(v, ask))
		met(v, ask, h, "it was full and was shown more");
	look_at_held(v, ask);
	copy(&to->octets, ev->data);
	if (v->calm || tape_pick(v->t, 16) != 15)
		return;
	s = seat_of(v, h, ask);
	if (s && !s->full)
		become_full(v, s, ev);
}

void wishes_tell(struct verdicts *v, struct hook *h, const struct hook_ask *ask)
{
	if (ask->ev->point == HOOK_BODY)
		shown(v, h, ask);
}

void wishes_leave(struct verdicts *v, struct hook_core *c, void *own)
{
	struct wish_seat **at = &v->wishes->seats;

	while (*at != own)
		at = &(*at)->next;
	*at = (*at)->next;
	free(own);
}

/* ---- taking more ---- */

static bool is_due(const struct verdicts *v, const struct wish_seat *s)
{
	return s->full && (v->calm || s->until_us <= sim_now_us(v->k));
}

bool wishes_due(const struct verdicts *v)
{
	for (const struct wish_seat *s = v->wishes->seats; s; s = s->next)
		if (is_due(v, s))
			return true;
	return false;
}

uint64_t wishes_next_us(const struct verdicts *v)
{
	uint64_t next = UINT64_MAX;

	for (const struct wish_seat *s = v->wishes->seats; s; s = s->next)
		if (s->full)
			next = MIN_OF(next, s->until_us);
	return next;
}

void wishes_take_more(struct verdicts *v)
{
	struct wish_seat *s = v->wishes->seats;

	while (s) {
		if (!is_due(v, s)) {
			s = s->next;
			continue;
		}
		s->full = false;
		s->came = v->rec->socks[s->sock].in.n - s->given;
		hook_set_full(s->core, s->seat, false);
		s = v->wishes->seats; /* the session went on */
	}
}
