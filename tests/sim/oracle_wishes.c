/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Which question to the hooks was about which command, what they have decided together, and what
 * has become of an envelope and of a message by what those that passed wanted.
 */
#include "tests/sim/oracle_hooks_int.h"

#include "tests/sim/actor.h"

/* ---- questions ---- */

static bool asks(const struct oracle_listener *l, uint32_t place, enum hook_point p)
{
	return p != HOOK_END_OF_DATA || l->hooks[place].asked_at_end;
}

enum outcome asked_outcome(const struct oracle_listener *l, const struct asked *a)
{
	bool deferred = false;

	for (uint32_t i = 0; i < l->hook_count; i++) {
		const struct wish *w = a->by[i];

		if (!asks(l, i, a->point))
			continue;
		if (!w)
			return OUT_OPEN;
		if (w->never)
			return OUT_NO;
		switch (w->kind) {
		case VERDICT_REJECT:
		case VERDICT_TEMPFAIL:
		case VERDICT_DROP:
			return OUT_NO;
		case VERDICT_DISCARD:
			return OUT_DISCARD;
		case VERDICT_DEFER_IF_PASS:
			deferred = true;
			break;
		default:
			break;
		}
	}
	return deferred ? OUT_NO : OUT_PASS;
}

/* The questions of a session, in order: a hook that comes again, or before the one that was asked
 * last, is asked about something new. */
void asked_gather(struct hooks *h, struct hsess *hs)
{
	struct asked *a = NULL;
	uint32_t last = 0;

	for (uint32_t i = 0; i < h->w->n; i++) {
		struct wish *w = &h->w->all[i];

		if (w->sid != hs->sid)
			continue;
		if (!a || a->point != w->point || a->tid != w->tid || w->place <= last) {
			hs->asked = actor_grow(hs->asked, hs->asked_n, sizeof(*hs->asked));
			a = &hs->asked[hs->asked_n++];
			*a = (struct asked){.point = w->point, .tid = w->tid};
		}
		a->by[w->place] = w;
		last = w->place;
	}
}

const struct wish *asked_first(const struct asked *a)
{
	for (uint32_t i = 0; i < PLACES_MAX; i++)
		if (a->by[i])
			return a->by[i];
	ASSERT(false);
}

/* The next one about this command that was not met. tid 0: any. */
struct asked *asked_find(struct hsess *hs, enum hook_point p, uint64_t tid, struct span line)
{
	for (uint32_t i = 0; i < hs->asked_n; i++) {
		struct asked *a = &hs->asked[i];
		struct span box = octets_span(&asked_first(a)->mailbox);

		if (a->used || a->point != p || (tid && a->tid != tid))
			continue;
		box = box.n ? box : SPAN_LIT("<>");
		if (line.n && !memmem(line.p, line.n, box.p, box.n))
			continue;
		return a;
	}
	return NULL;
}

/* ---- envelopes ---- */

static void make_line(const char *verb, struct span box, struct span params, struct octets *out)
{
	while (params.n && params.p[params.n - 1] == ' ')
		params.n--;
	while (params.n && params.p[0] == ' ')
		params = span_drop(params, 1);
	octets_fmt(out, "%s:<%.*s>%s%.*s\r\n", verb, (int)box.n, (const char *)box.p,
		params.n ? " " : "", (int)params.n, (const char *)params.p);
}

static void apply_path(const struct wish *w, struct octets *box, struct octets *params, bool *any)
{
	for (uint32_t i = 0; i < w->edit_n; i++) {
		struct octets *to = w->edits[i].kind == EDIT_ADDRESS  ? box
				    : w->edits[i].kind == EDIT_PARAMS ? params
								      : NULL;

		if (!to)
			continue;
		*any = true;
		to->n = 0;
		put(to, octets_span(&w->edits[i].value));
	}
}

/* MAIL or RCPT as the upstream must be told it; the hooks must have been asked about it as those
 * before them had left it. */
void hooked_line(struct hooks *h, struct hsess *hs, const struct unit *u, const struct asked *a,
	struct octets *line, struct octets *box, struct octets *params)
{
	bool any = false;

	if (a) {
		put(box, octets_span(&asked_first(a)->mailbox));
		put(params, octets_span(&asked_first(a)->params));
	}
	for (uint32_t i = 0; a && i < PLACES_MAX; i++) {
		const struct wish *w = a->by[i];

		if (!w)
			continue;
		if (!span_eq(octets_span(&w->mailbox), octets_span(box)))
			broken(h->o, I11_VERDICT, hs->s, u->number, octets_span(&w->mailbox),
				"hook %u was not asked about the address as it was changed", i);
		if (w->kind == VERDICT_PASS)
			apply_path(w, box, params, &any);
	}
	/* What is thrown away is not changed before that. */
	if (any && asked_outcome(hs->s->lis, a) != OUT_DISCARD)
		make_line(u->verb == V_MAIL ? "MAIL FROM" : "RCPT TO", octets_span(box),
			octets_span(params), line);
	else
		put(line, span_of(hs->s->rs->in.p + u->off, u->n));
}

/* What passed: fields on top, and whether it is to be thrown away. */
void hooked_passed(struct hsess *hs, struct hmail *m, const struct asked *a)
{
	enum outcome out = a ? asked_outcome(hs->s->lis, a) : OUT_OPEN;

	for (uint32_t i = 0; out == OUT_PASS && i < PLACES_MAX; i++) {
		const struct wish *w = a->by[i];

		for (uint32_t k = 0; w && w->kind == VERDICT_PASS && k < w->edit_n; k++) {
			struct octets top = {0};

			if (w->edits[k].kind != EDIT_HEADER_INSERT)
				continue;
			put(&top, octets_span(&w->edits[k].name));
			octets_str(&top, ":");
			put(&top, octets_span(&w->edits[k].value));
			octets_str(&top, "\r\n");
			put(&top, octets_span(&m->top));
			octets_free(&m->top);
			m->top = top;
		}
	}
	m->discard |= out == OUT_DISCARD;
}

struct asked *asked_end(struct hmail *m)
{
	struct asked *a = NULL;

	for (uint32_t i = 0; m->tid && i < m->s->asked_n; i++)
		if (m->s->asked[i].point == HOOK_END_OF_DATA && m->s->asked[i].tid == m->tid)
			a = &m->s->asked[i];
	return a;
}

/* ---- the message that a server should have ---- */

void expected_free(struct expected *x)
{
	octets_free(&x->from);
	octets_free(&x->to);
	octets_free(&x->body);
}

void content_plain(const struct hmail *m, struct octets *out)
{
	if (m->bdat)
		put(out, octets_span(&m->raw));
	else
		letter_unstuff(octets_span(&m->raw), out);
}

/* As it is when hook number `place` decides about it; place >= hook_count: when it is sent. False:
 * no octet was changed. */
bool content_at(const struct hmail *m, const struct asked *end, uint32_t place, struct octets *out)
{
	const struct oracle_listener *l = m->s->s->lis;
	struct octets plain = {0};
	struct letter letter;
	bool any = m->top.n > 0;

	content_plain(m, &plain);
	letter_read(&letter, octets_span(&plain));
	octets_free(&plain);
	if (any) {
		struct letter with;

		letter_read(&with, octets_span(&m->top));
		ASSERT(with.n + letter.n <= FIELDS_MAX && with.body.n == 0);
		memmove(&letter.field[with.n], &letter.field[0], letter.n * sizeof(*letter.field));
		memcpy(&letter.field[0], &with.field[0], with.n * sizeof(*letter.field));
		letter.n += with.n;
		letter_close(&letter);
	}
	for (uint32_t i = 0; end && i < MIN_OF(place, l->hook_count); i++)
		if (end->by[i] && end->by[i]->kind == VERDICT_PASS)
			any |= letter_edit(&letter, end->by[i]);
	letter_write(&letter, out);
	letter_free(&letter);
	return any;
}

static void rcpts_copy(const struct hmail *m, struct rcpt **list, uint32_t *n)
{
	*list = calloc(m->rcpt_n + 1, sizeof(**list));
	ASSERT(*list);
	*n = 0;
	for (uint32_t i = 0; i < m->rcpt_n; i++) {
		put(&(*list)[*n].line, octets_span(&m->rcpts[i].line));
		put(&(*list)[(*n)++].mailbox, octets_span(&m->rcpts[i].mailbox));
	}
}

static void rcpt_drop(struct rcpt *list, uint32_t *n, uint32_t i)
{
	octets_free(&list[i].line);
	octets_free(&list[i].mailbox);
	(*n)--;
	memmove(&list[i], &list[i + 1], (*n - i) * sizeof(*list));
}

static void edit_envelope(
	struct rcpt **list, uint32_t *n, const struct wish *w, struct hmail *m, struct expected *x)
{
	for (uint32_t i = 0; i < w->edit_n; i++) {
		const struct wish_edit *e = &w->edits[i];
		struct span value = octets_span(&e->value);

		if (e->kind == EDIT_SENDER) {
			x->from.n = 0;
			if (e->name.n) {
				m->from_params.n = 0;
				put(&m->from_params, octets_span(&e->name));
			}
			make_line("MAIL FROM", value, octets_span(&m->from_params), &x->from);
		} else if (e->kind == EDIT_RCPT_ADD) {
			*list = realloc(*list, (*n + 1) * sizeof(**list));
			ASSERT(*list);
			(*list)[*n] = (struct rcpt){0};
			make_line("RCPT TO", value, octets_span(&e->name), &(*list)[*n].line);
			put(&(*list)[(*n)++].mailbox, value);
		} else if (e->kind == EDIT_RCPT_DELETE) {
			for (uint32_t k = *n; k-- > 0;)
				if (span_ieq(octets_span(&(*list)[k].mailbox), value))
					rcpt_drop(*list, n, k);
		}
	}
}

void expected_make(struct hmail *m, struct expected *x)
{
	const struct oracle_listener *l = m->s->s->lis;
	const struct asked *end = l->keeps ? asked_end(m) : NULL;
	struct rcpt *list;
	struct octets params = {0};
	uint32_t n;

	memset(x, 0, sizeof(*x));
	put(&x->from, octets_span(&m->from));
	rcpts_copy(m, &list, &n);
	put(&params, octets_span(&m->from_params));
	for (uint32_t i = 0; end && i < l->hook_count; i++)
		if (end->by[i] && end->by[i]->kind == VERDICT_PASS)
			edit_envelope(&list, &n, end->by[i], m, x);
	octets_free(&m->from_params);
	m->from_params = params;
	x->nobody = n == 0;
	while (n > 0) {
		put(&x->to, octets_span(&list[0].line));
		rcpt_drop(list, &n, 0);
	}
	free(list);
	if (!l->keeps) {
		/* No octet is touched: the fields stand in front of what came. */
		x->stuffed_as_sent = true;
		for (struct span t = octets_span(&m->top); !m->bdat && t.n;)
			put(&x->body, cut_crlf(&t));
		if (m->bdat)
			put(&x->body, octets_span(&m->top));
		put(&x->body, octets_span(&m->raw));
		return;
	}
	if (content_at(m, end, UINT32_MAX, &x->body))
		return;
	x->body.n = 0;
	x->stuffed_as_sent = true;
	put(&x->body, octets_span(&m->raw));
}

bool content_same(const struct hmail *m, const struct expected *x, const struct srv_message *got)
{
	struct span is = octets_span(&got->body);
	struct octets plain = {0}, want = {0};
	bool same;

	if (m->bdat != got->bdat)
		return false;
	if (m->bdat)
		return span_eq(is, octets_span(&x->body));
	if (is.n < 3)
		return false;
	is.n -= 3;
	if (x->stuffed_as_sent)
		return span_eq(is, octets_span(&x->body));
	put(&want, octets_span(&x->body));
	if (want.n && !ends_crlf(octets_span(&want)))
		octets_str(&want, "\r\n");
	letter_unstuff(is, &plain);
	same = same_octets(&plain, &want);
	octets_free(&plain);
	octets_free(&want);
	return same;
}
