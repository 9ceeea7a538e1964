/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A message as header fields and a body: the oracle's own reader and writer, naive, with one
 * allocation for each field. What is a header is written down in engine/smtp/header.h and in
 * docs/SMTP.md; nothing of the engine is used.
 */
#include "tests/sim/oracle_hooks_int.h"

#include "tests/sim/actor.h"

/* ---- octets ---- */

bool ends_crlf(struct span s)
{
	return s.n >= 2 && s.p[s.n - 2] == '\r' && s.p[s.n - 1] == '\n';
}

/* With its CRLF, if it has one. */
struct span cut_crlf(struct span *s)
{
	const uint8_t *at = memmem(s->p, s->n, "\r\n", 2);
	size_t n = at ? (size_t)(at - s->p) + 2 : s->n;
	struct span line = span_of(s->p, n);

	*s = span_drop(*s, n);
	return line;
}

void letter_unstuff(struct span in, struct octets *out)
{
	while (in.n) {
		struct span line = cut_crlf(&in);

		if (line.p[0] == '.')
			line = span_drop(line, 1);
		put(out, line);
	}
}

/* ---- a message as fields and body ---- */

static size_t name_len(struct span s)
{
	size_t n = 0;

	while (n < s.n && s.p[n] > ' ' && s.p[n] < 127 && s.p[n] != ':')
		n++;
	return n;
}

static size_t colon_at(struct span line)
{
	size_t n = name_len(line), c = n;

	while (c < line.n && (line.p[c] == ' ' || line.p[c] == '\t'))
		c++;
	return n && c < line.n && line.p[c] == ':' ? c : 0;
}

void letter_read(struct letter *l, struct span in)
{
	memset(l, 0, sizeof(*l));
	while (in.n) {
		struct span rest = in, line = cut_crlf(&rest);
		bool blank = line.p[0] == ' ' || line.p[0] == '\t';

		if (line.n == 2 && line.p[0] == '\r' && line.p[1] == '\n') {
			l->empty_line = true;
			in = rest;
			break;
		}
		if (blank && l->n > 0) {
			put(&l->field[l->n - 1], line);
		} else if (!blank && colon_at(line)) {
			ASSERT(l->n < FIELDS_MAX);
			put(&l->field[l->n++], line);
		} else {
			break;
		}
		in = rest;
	}
	put(&l->body, in);
}

void letter_free(struct letter *l)
{
	for (uint32_t i = 0; i < l->n; i++)
		octets_free(&l->field[i]);
	octets_free(&l->body);
}

void letter_write(const struct letter *l, struct octets *out)
{
	for (uint32_t i = 0; i < l->n; i++)
		put(out, octets_span(&l->field[i]));
	if (l->empty_line)
		octets_str(out, "\r\n");
	put(out, octets_span(&l->body));
}

static void insert(struct letter *l, uint32_t at, const struct wish_edit *e)
{
	struct octets f = {0};

	at = MIN_OF(at, l->n);
	if (at > 0 && !ends_crlf(octets_span(&l->field[at - 1])))
		octets_str(&l->field[at - 1], "\r\n");
	put(&f, octets_span(&e->name));
	octets_str(&f, ":");
	put(&f, octets_span(&e->value));
	octets_str(&f, "\r\n");
	ASSERT(l->n < FIELDS_MAX);
	memmove(&l->field[at + 1], &l->field[at], (l->n - at) * sizeof(*l->field));
	l->field[at] = f;
	l->n++;
}

static uint32_t find(const struct letter *l, const struct wish_edit *e)
{
	uint32_t index = e->index;

	for (uint32_t i = 0; i < l->n; i++) {
		struct span f = octets_span(&l->field[i]);

		if (span_ieq(span_of(f.p, name_len(f)), octets_span(&e->name)) && --index == 0)
			return i;
	}
	return NONE;
}

static void change(struct letter *l, const struct wish_edit *e)
{
	uint32_t i = find(l, e);
	struct octets f = {0};

	if (i == NONE) {
		insert(l, l->n, e);
		return;
	}
	struct span was = octets_span(&l->field[i]);
	octets_add(&f, was.p, colon_at(was) + 1);
	put(&f, octets_span(&e->value));
	if (ends_crlf(was))
		octets_str(&f, "\r\n");
	octets_free(&l->field[i]);
	l->field[i] = f;
}

static void delete (struct letter *l, const struct wish_edit *e)
{
	uint32_t i = find(l, e);

	if (i == NONE)
		return;
	octets_free(&l->field[i]);
	l->n--;
	memmove(&l->field[i], &l->field[i + 1], (l->n - i) * sizeof(*l->field));
}

/* Fields stand before a body: an empty line must divide them. */
void letter_close(struct letter *l)
{
	if (l->n == 0 || l->empty_line || l->body.n == 0)
		return;
	if (!ends_crlf(octets_span(&l->field[l->n - 1])))
		octets_str(&l->field[l->n - 1], "\r\n");
	l->empty_line = true;
}

static bool of_content(enum hook_edit_kind k)
{
	return k == EDIT_HEADER_INSERT || k == EDIT_HEADER_APPEND || k == EDIT_HEADER_CHANGE ||
	       k == EDIT_HEADER_DELETE || k == EDIT_BODY;
}

/* All that one hook wanted. */
bool letter_edit(struct letter *l, const struct wish *w)
{
	bool body = false, any = false;

	for (uint32_t i = 0; i < w->edit_n; i++) {
		const struct wish_edit *e = &w->edits[i];

		any |= of_content(e->kind);
		if (e->kind == EDIT_HEADER_INSERT)
			insert(l, e->index, e);
		else if (e->kind == EDIT_HEADER_APPEND)
			insert(l, l->n, e);
		else if (e->kind == EDIT_HEADER_CHANGE)
			change(l, e);
		else if (e->kind == EDIT_HEADER_DELETE)
			delete (l, e);
		else if (e->kind == EDIT_BODY) {
			if (!body)
				l->body.n = 0;
			body = true;
			put(&l->body, octets_span(&e->value));
		}
	}
	if (any)
		letter_close(l);
	return any;
}
