/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The header of a message: see header.h. Two readers of one grammar: a table for octets that come
 * in pieces, and one that has the whole block before it; tests/unit/test_header.c proves that they
 * agree. Nothing is kept beyond the caller's structs, nothing allocated; the only failure is a
 * block that is full.
 */
#include "engine/smtp/header.h"

#include "engine/smtp/octets.h"

static inline bool name_octet(uint8_t c)
{
	return c > ' ' && c < 127 && c != ':';
}

bool header_name_valid(struct span name)
{
	for (size_t i = 0; i < name.n; i++)
		if (!name_octet(name.p[i]))
			return false;
	return name.n > 0;
}

/* ---- in pieces ---- */

static const uint8_t from_line[] = {'F', 'r', 'o', 'm', ' '};

/* The first states count what was seen of from_line: the start of the block, "F" .. "From". */
enum header_state {
	FIRST,
	FROM = 4,
	FROM_BLANKS, /* "From ": an envelope, or a field with blanks before its colon */
	ENVELOPE,
	ENVELOPE_CR,
	BARE, /* start of a line that cannot continue anything */
	LINE, /* ... that can */
	NAME,
	BLANKS, /* between name and colon */
	VALUE,
	VALUE_CR,
	EMPTY_CR, /* CR at the start of a line */
	END,	  /* behind the empty line */
	BODY,	  /* in the body's first line */
	STATE_COUNT
};

enum octet_class { K_OTHER, K_NAME, K_BLANK, K_COLON, K_CR, K_LF, K_COUNT };

static inline enum octet_class class_of(uint8_t c)
{
	if (name_octet(c))
		return K_NAME;
	if (octet_is(c, OCTET_BLANK))
		return K_BLANK;
	return c == ':' ? K_COLON : c == '\r' ? K_CR : c == '\n' ? K_LF : K_OTHER;
}

static const uint8_t table[STATE_COUNT][K_COUNT] = {
	/* clang-format off */
	/*                 other     name      blank        colon     CR           LF */
	[FIRST]        = { BODY,     NAME,     BODY,        BODY,     EMPTY_CR,    BODY },
	[FIRST + 1 ... FROM] =
			 { BODY,     NAME,     BLANKS,      VALUE,    BODY,        BODY },
	[FROM_BLANKS]  = { ENVELOPE, ENVELOPE, FROM_BLANKS, VALUE,    ENVELOPE_CR, ENVELOPE },
	[ENVELOPE]     = { ENVELOPE, ENVELOPE, ENVELOPE,    ENVELOPE, ENVELOPE_CR, ENVELOPE },
	[ENVELOPE_CR]  = { ENVELOPE, ENVELOPE, ENVELOPE,    ENVELOPE, ENVELOPE_CR, BARE },
	[BARE]         = { BODY,     NAME,     BODY,        BODY,     EMPTY_CR,    BODY },
	[LINE]         = { BODY,     NAME,     VALUE,       BODY,     EMPTY_CR,    BODY },
	[NAME]         = { BODY,     NAME,     BLANKS,      VALUE,    BODY,        BODY },
	[BLANKS]       = { BODY,     BODY,     BLANKS,      VALUE,    BODY,        BODY },
	[VALUE]        = { VALUE,    VALUE,    VALUE,       VALUE,    VALUE_CR,    VALUE },
	[VALUE_CR]     = { VALUE,    VALUE,    VALUE,       VALUE,    VALUE_CR,    LINE },
	[EMPTY_CR]     = { BODY,     BODY,     BODY,        BODY,     BODY,        END },
	/* clang-format on */
};

static inline uint8_t next_state(uint8_t state, uint8_t c)
{
	if (state <= FROM && c == from_line[state])
		return (uint8_t)(state + 1);
	return table[state][class_of(c)];
}

/* Octets of an unfinished line that ends so may be the body's. */
static bool is_undecided(uint8_t state)
{
	return (state > FIRST && state <= FROM) || state == NAME || state == BLANKS ||
	       state == EMPTY_CR;
}

size_t header_feed(struct header_scan *s, struct span in, bool *done)
{
	size_t i = 0, line = 0; /* where the line starts; 0 also when it is an earlier piece's */
	uint8_t state = s->state;

	while (i < in.n && state != END && state != BODY) {
		if (state == VALUE || state == ENVELOPE) { /* only a CR makes a difference */
			const uint8_t *cr = memchr(in.p + i, '\r', in.n - i);

			i = cr ? (size_t)(cr - in.p) : in.n;
			if (!cr)
				break;
		}
		state = next_state(state, in.p[i++]);
		if (state == LINE || state == BARE) {
			line = i;
			s->undecided = 0;
		}
	}
	s->state = state;
	*done = state == END || state == BODY;
	if (state == BODY)
		return line;
	s->undecided = is_undecided(state) ? s->undecided + i - line : 0;
	return i;
}

/* ---- as a whole ---- */

/* Length of the line that s starts with, with its CRLF if it has one. */
static size_t line_len(struct span s)
{
	size_t i = 0;

	while (i < s.n) {
		const uint8_t *lf = memchr(s.p + i, '\n', s.n - i);

		if (!lf)
			break;
		i = (size_t)(lf - s.p) + 1;
		if (i > 1 && s.p[i - 2] == '\r')
			return i;
	}
	return s.n;
}

static bool ends_line(struct span s)
{
	return s.n >= 2 && s.p[s.n - 2] == '\r' && s.p[s.n - 1] == '\n';
}

/* The field that s starts with. False: it starts with none. */
static bool read_field(struct span s, struct header_field *out)
{
	size_t name = 0, colon, end;

	while (name < s.n && name_octet(s.p[name]))
		name++;
	colon = name;
	while (colon < s.n && octet_is(s.p[colon], OCTET_BLANK))
		colon++;
	if (name == 0 || colon == s.n || s.p[colon] != ':')
		return false;
	end = line_len(s);
	while (end < s.n && octet_is(s.p[end], OCTET_BLANK))
		end += line_len(span_drop(s, end));
	out->whole = span_of(s.p, end);
	out->name = span_of(s.p, name);
	out->value = span_of(s.p + colon + 1, end - colon - 1);
	if (ends_line(out->value))
		out->value.n -= 2;
	return true;
}

/* The block without an envelope line. */
static struct span skip_envelope(struct span block)
{
	struct header_field f;

	if (block.n < sizeof(from_line) || memcmp(block.p, from_line, sizeof(from_line)) != 0 ||
		read_field(block, &f))
		return block;
	return span_drop(block, line_len(block));
}

bool header_next(struct span *rest, struct header_field *out)
{
	*rest = skip_envelope(*rest);
	if (!read_field(*rest, out))
		return false;
	*rest = span_drop(*rest, out->whole.n);
	return true;
}

/* ---- changes ---- */

/* Makes a gap of `n` octets where `old` ones were; NULL when it does not fit. */
static uint8_t *make_gap(struct header_block *b, size_t at, size_t old, size_t n)
{
	ASSERT(b->n <= b->max && at + old <= b->n);
	if (n > b->max - (b->n - old))
		return NULL;
	if (b->n > at + old)
		memmove(b->p + at + n, b->p + at + old, b->n - at - old);
	b->n = b->n - old + n;
	return b->p + at;
}

static uint8_t *put(uint8_t *to, struct span s)
{
	if (s.n > 0)
		memcpy(to, s.p, s.n);
	return to + s.n;
}

bool header_insert(struct header_block *b, uint32_t index, struct span name, struct span value)
{
	struct span rest = skip_envelope(span_of(b->p, b->n)), lead = SPAN_NONE;
	struct header_field f;
	size_t at, n = name.n + 1 + value.n + 2;
	uint8_t *to;

	ASSERT(header_name_valid(name));
	while (index > 0 && header_next(&rest, &f))
		index--;
	at = b->n - rest.n;
	if (at > 0 && !ends_line(span_of(b->p, at)))
		lead = SPAN_LIT("\r\n");
	to = make_gap(b, at, 0, lead.n + n);
	if (!to)
		return false;
	to = put(put(to, lead), name);
	*to++ = ':';
	put(put(to, value), SPAN_LIT("\r\n"));
	return true;
}

bool header_append(struct header_block *b, struct span name, struct span value)
{
	return header_insert(b, UINT32_MAX, name, value);
}

/* The index-th field of that name, from 1. */
static bool find(
	const struct header_block *b, uint32_t index, struct span name, struct header_field *out)
{
	struct span rest = span_of(b->p, b->n);

	ASSERT(index > 0);
	while (header_next(&rest, out))
		if (span_ieq(out->name, name) && --index == 0)
			return true;
	return false;
}

bool header_change(struct header_block *b, uint32_t index, struct span name, struct span value)
{
	struct header_field f;
	uint8_t *to;

	if (!find(b, index, name, &f))
		return header_append(b, name, value);
	to = make_gap(b, (size_t)(f.value.p - b->p), f.value.n, value.n);
	if (to)
		put(to, value);
	return to != NULL;
}

void header_delete(struct header_block *b, uint32_t index, struct span name)
{
	struct header_field f;

	if (find(b, index, name, &f))
		make_gap(b, (size_t)(f.whole.p - b->p), f.whole.n, 0);
}
