/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The header of a message: all of engine/smtp/header.h. The reference reads line by line with
 * regular expressions. Claimed, for any octets:
 *  - the block is the same whole, in pieces and octet by octet, and where the reference has its
 * end;
 *  - its fields are the reference's, and what is between and behind them is the envelope and the
 *    empty line and nothing else;
 *  - a change makes the block that is put together anew from those fields, in just enough room; in
 *    one octet less it is refused and nothing has changed.
 * Input: octet 0 modulo 4 which change, octet 1 its index, octet 2 which name, octet 3 the size of
 * pieces; the rest is the message.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/header.h"

#include <strings.h>

#define FIELDS_MAX 4096

static struct grammar g_field = GRAMMAR("^[!-9;-~]+[ \t]*:");
static struct grammar g_name = GRAMMAR("^[!-9;-~]+$");
static struct grammar g_half = GRAMMAR("^([!-9;-~]+[ \t]*|\r)$");

struct message {
	size_t block, envelope, empty;
	bool done;
	unsigned count;
	struct span fields[FIELDS_MAX]; /* whole */
};

/* ---- the reference ---- */

static bool begins(struct span s, const char *text)
{
	return s.n >= strlen(text) && memcmp(s.p, text, strlen(text)) == 0;
}

static bool ends(struct span s, const char *text)
{
	return s.n >= strlen(text) && memcmp(s.p + s.n - strlen(text), text, strlen(text)) == 0;
}

static struct span first_line(struct span s)
{
	const uint8_t *end = s.n > 0 ? memmem(s.p, s.n, "\r\n", 2) : NULL;

	return span_of(s.p, end ? (size_t)(end - s.p) + 2 : s.n);
}

static void read_message(struct span w, struct message *m)
{
	m->block = m->envelope = m->empty = m->count = 0;
	m->done = false;
	while (m->block < w.n && m->count < FIELDS_MAX) {
		struct span line = first_line(span_drop(w, m->block));

		if (span_eq(line, SPAN_LIT("\r\n"))) {
			m->block += 2;
			m->empty = 2;
			m->done = true;
			return;
		}
		if (grammar_has(&g_field, line)) {
			m->fields[m->count++] = line;
		} else if (m->count > 0 && (line.p[0] == ' ' || line.p[0] == '\t')) {
			m->fields[m->count - 1].n += line.n;
		} else if (m->block == 0 && begins(line, "From ")) {
			m->envelope = line.n;
		} else {
			m->done = ends(line, "\r\n") || !grammar_has(&g_half, line);
			return;
		}
		m->block += line.n;
	}
}

/* ---- reading ---- */

static void check_feed(struct span w, size_t size, const struct message *m)
{
	struct header_scan s = {0};
	size_t sum = 0;
	bool done = false;

	for (size_t at = 0, n; at < w.n; at += n) {
		struct span in;

		n = MIN_OF(w.n - at, size);
		in = exact_copy(span_of(w.p + at, n));
		sum += header_feed(&s, in, &done);
		exact_free(in);
	}
	ASSERT(sum - s.undecided == m->block && done == m->done);
}

static void check_fields(struct span block, const struct message *m)
{
	struct span rest = block;
	struct header_field f;

	for (unsigned i = 0; i < m->count; i++) {
		size_t colon;

		ASSERT(header_next(&rest, &f));
		ASSERT(f.whole.p == m->fields[i].p && f.whole.n == m->fields[i].n);
		ASSERT(f.name.p == f.whole.p && grammar_has(&g_name, f.name));
		ASSERT(header_name_valid(f.name) && lies_in(f.value, f.whole));
		colon = (size_t)(f.value.p - f.whole.p) - 1;
		ASSERT(f.whole.p[colon] == ':' && !memchr(f.whole.p, ':', colon));
		ASSERT(f.whole.n == colon + 1 + f.value.n + (ends(f.whole, "\r\n") ? 2 : 0));
	}
	ASSERT(!header_next(&rest, &f) && rest.n == m->empty);
	ASSERT(rest.p + rest.n == block.p + block.n);
}

/* ---- changes ---- */

enum change { INSERT, APPEND, CHANGE, DELETE, CHANGE_COUNT };

struct wish {
	enum change what;
	uint32_t index;
	struct span name, value;
};

struct text {
	uint8_t *p;
	size_t n;
};

static void join(struct text *t, struct span s)
{
	if (s.n > 0)
		memcpy(t->p + t->n, s.p, s.n);
	t->n += s.n;
}

static void join_field(struct text *t, const struct wish *w)
{
	if (t->n > 0 && !ends(span_of(t->p, t->n), "\r\n"))
		join(t, SPAN_LIT("\r\n"));
	join(t, w->name);
	join(t, SPAN_LIT(":"));
	join(t, w->value);
	join(t, SPAN_LIT("\r\n"));
}

static void join_changed(struct text *t, struct span field, struct span value)
{
	const uint8_t *colon = memchr(field.p, ':', field.n);

	join(t, span_of(field.p, (size_t)(colon - field.p) + 1));
	join(t, value);
	if (ends(field, "\r\n"))
		join(t, SPAN_LIT("\r\n"));
}

static bool is_called(struct span field, struct span name)
{
	if (field.n <= name.n || strncasecmp((const char *)field.p, (const char *)name.p, name.n))
		return false;
	field = span_drop(field, name.n);
	return field.p[0] == ':' || field.p[0] == ' ' || field.p[0] == '\t';
}

static void rebuild(
	struct span block, const struct message *m, const struct wish *w, struct text *t)
{
	uint32_t left = w->index;
	bool made = false;

	join(t, span_of(block.p, m->envelope));
	for (unsigned i = 0; i < m->count; i++) {
		bool it = w->what >= CHANGE && is_called(m->fields[i], w->name) && --left == 0;

		if (w->what == INSERT && i == w->index) {
			join_field(t, w);
			made = true;
		}
		if (it && w->what == CHANGE) {
			join_changed(t, m->fields[i], w->value);
			made = true;
		} else if (!it) {
			join(t, m->fields[i]);
		}
	}
	if (!made && w->what != DELETE)
		join_field(t, w);
	join(t, span_of(block.p + block.n - m->empty, m->empty));
}

static bool apply(struct header_block *b, const struct wish *w)
{
	switch (w->what) {
	case INSERT:
		return header_insert(b, w->index, w->name, w->value);
	case APPEND:
		return header_append(b, w->name, w->value);
	case CHANGE:
		return header_change(b, w->index, w->name, w->value);
	default:
		header_delete(b, w->index, w->name);
		return true;
	}
}

/* The block and `max` octets of room, in a block of memory of just that. */
static void check_change(
	struct span block, const struct wish *w, const struct text *want, size_t max, bool fits)
{
	uint8_t *p = malloc(max > 0 ? max : 1);
	struct header_block b = {p, block.n, max};

	ASSERT(p);
	if (block.n > 0)
		memcpy(p, block.p, block.n);
	ASSERT(apply(&b, w) == fits);
	if (fits)
		ASSERT(b.n == want->n && (b.n == 0 || memcmp(p, want->p, b.n) == 0));
	else
		ASSERT(b.n == block.n && (b.n == 0 || memcmp(p, block.p, b.n) == 0));
	free(p);
}

static void check_changes(struct span block, const struct message *m, const struct wish *w)
{
	struct text want = {malloc(block.n + 64), 0};

	ASSERT(want.p);
	rebuild(block, m, w, &want);
	check_change(block, w, &want, MAX_OF(want.n, block.n), true);
	if (want.n > block.n)
		check_change(block, w, &want, want.n - 1, false);
	free(want.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char *const names[] = {"A", "subject", "FROM", "X-Long-Name"};
	static const char *const values[] = {" v", "", " v\r\n\tw", ":"};
	static struct message m;
	struct span in = span_of(p, n), message, block;
	struct wish w = {.what = take_octet(&in) % CHANGE_COUNT};
	uint8_t name, size;

	w.index = take_octet(&in) + (w.what >= CHANGE);
	name = take_octet(&in);
	size = take_octet(&in);
	w.name = span_str(names[name % ARRAY_LEN(names)]);
	w.value = span_str(values[name / 16 % ARRAY_LEN(values)]);
	message = exact_copy(in);
	read_message(message, &m);
	if (m.count < FIELDS_MAX) {
		check_feed(message, MAX_OF(message.n, 1), &m);
		check_feed(message, 1, &m);
		check_feed(message, (size_t)size + 1, &m);
		block = span_of(message.p, m.block);
		check_fields(block, &m);
		check_changes(block, &m, &w);
	}
	exact_free(message);
	return 0;
}
