/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See lua_match.h. A pattern is read as it is matched: an item (one octet, a class, a set) with
 * what may stand behind it, then the rest by recursion where there is something to come back to, in
 * a loop where there is not.
 */
#include "engine/hook/lua/lua_match.h"

#include <ctype.h>

#define DEPTH_MAX 200
#define SET_OCTETS_PER_STEP 8
#define COMPARED_PER_STEP 16

static const char stopped[] = "";

static const uint8_t *try_at(struct match *m, const uint8_t *s, const uint8_t *p);

static bool spend(struct match *m, size_t steps)
{
	while (m->left < steps) {
		uint32_t got = m->problem ? 0 : m->more(m->arg);

		if (got == 0) {
			if (!m->problem)
				m->problem = stopped;
			m->left = 0;
			return false;
		}
		m->left += got;
	}
	m->left -= (uint32_t)steps;
	return true;
}

static const uint8_t *bad(struct match *m, const char *problem)
{
	if (!m->problem)
		m->problem = problem;
	return NULL;
}

static const uint8_t *subject_end(const struct match *m)
{
	return m->subject.p + m->subject.n;
}

static const uint8_t *pattern_end(const struct match *m)
{
	return m->pattern.p + m->pattern.n;
}

/* ---- one octet ---- */

static bool class_has(uint8_t class, uint8_t c)
{
	bool in;

	switch (ascii_lower(class)) {
	case 'a':
		in = isalpha(c);
		break;
	case 'c':
		in = iscntrl(c);
		break;
	case 'd':
		in = isdigit(c);
		break;
	case 'g':
		in = isgraph(c);
		break;
	case 'l':
		in = islower(c);
		break;
	case 'p':
		in = ispunct(c);
		break;
	case 's':
		in = isspace(c);
		break;
	case 'u':
		in = isupper(c);
		break;
	case 'w':
		in = isalnum(c);
		break;
	case 'x':
		in = isxdigit(c);
		break;
	default:
		return class == c;
	}
	return class >= 'A' && class <= 'Z' ? !in : in;
}

/* Behind the item that begins at p; NULL: it has no end. */
static const uint8_t *item_end(struct match *m, const uint8_t *p)
{
	const uint8_t *end = pattern_end(m);
	uint8_t first = *p++;

	if (first == '%') {
		if (p == end)
			return bad(m, "malformed pattern (ends with '%')");
		return p + 1;
	}
	if (first != '[')
		return p;
	if (p < end && *p == '^')
		p++;
	/* A bracket that comes first is a member. */
	do {
		if (p == end)
			return bad(m, "malformed pattern (missing ']')");
		if (*p++ == '%') {
			if (p == end)
				return bad(m, "malformed pattern (missing ']')");
			p++;
		}
	} while (p == end || *p != ']');
	return p + 1;
}

/* p: the bracket that opens; last: the one that closes. */
static bool set_has(const uint8_t *p, const uint8_t *last, uint8_t c)
{
	bool member = true;

	p++;
	if (*p == '^') {
		member = false;
		p++;
	}
	for (; p < last; p++) {
		if (*p == '%') {
			p++;
			if (class_has(*p, c))
				return member;
		} else if (p + 2 < last && p[1] == '-') {
			if (p[0] <= c && c <= p[2])
				return member;
			p += 2;
		} else if (*p == c) {
			return member;
		}
	}
	return !member;
}

/* Does the item at p, which ends at `end`, match the octet at s? False at the end of the subject,
 * and when there are no steps left. */
static bool one(struct match *m, const uint8_t *s, const uint8_t *p, const uint8_t *end)
{
	if (!spend(m, 1 + (size_t)(end - p) / SET_OCTETS_PER_STEP) || s == subject_end(m))
		return false;
	switch (*p) {
	case '.':
		return true;
	case '%':
		return class_has(p[1], *s);
	case '[':
		return set_has(p, end - 1, *s);
	default:
		return *p == *s;
	}
}

/* ---- repetition ---- */

static const uint8_t *longest_first(
	struct match *m, const uint8_t *s, const uint8_t *p, const uint8_t *rest)
{
	ptrdiff_t n = 0;

	while (one(m, s + n, p, rest - 1))
		n++;
	for (; n >= 0 && !m->problem; n--) {
		const uint8_t *end = try_at(m, s + n, rest);

		if (end)
			return end;
	}
	return NULL;
}

static const uint8_t *shortest_first(
	struct match *m, const uint8_t *s, const uint8_t *p, const uint8_t *rest)
{
	for (;;) {
		const uint8_t *end = try_at(m, s, rest);

		if (end || m->problem)
			return end;
		if (!one(m, s, p, rest - 1))
			return NULL;
		s++;
	}
}

/* ---- captures ---- */

static const uint8_t *open_capture(struct match *m, const uint8_t *s, const uint8_t *p, ptrdiff_t n)
{
	const uint8_t *end;

	if (m->captures == MATCH_CAPTURES_MAX)
		return bad(m, "too many captures");
	m->capture[m->captures].at = s;
	m->capture[m->captures].n = n;
	m->captures++;
	end = try_at(m, s, p);
	if (!end)
		m->captures--;
	return end;
}

static const uint8_t *close_capture(struct match *m, const uint8_t *s, const uint8_t *p)
{
	uint32_t i = m->captures;
	const uint8_t *end;

	while (i > 0 && m->capture[i - 1].n != MATCH_OPEN)
		i--;
	if (i == 0)
		return bad(m, "invalid pattern capture");
	i--;
	m->capture[i].n = s - m->capture[i].at;
	end = try_at(m, s, p);
	if (!end)
		m->capture[i].n = MATCH_OPEN;
	return end;
}

/* %1 to %9: what that capture has caught, again. */
static const uint8_t *again(struct match *m, const uint8_t *s, uint8_t digit)
{
	uint32_t i = (uint32_t)(digit - '1');
	size_t n;

	if (digit == '0' || i >= m->captures || m->capture[i].n == MATCH_OPEN)
		return bad(m, "invalid capture index in pattern");
	/* Of a position there is nothing to repeat; the library compares with a length that no
	 * subject has. */
	if (m->capture[i].n == MATCH_POSITION)
		return NULL;
	n = (size_t)m->capture[i].n;
	if (!spend(m, n / COMPARED_PER_STEP + 1) || (size_t)(subject_end(m) - s) < n ||
		memcmp(m->capture[i].at, s, n) != 0)
		return NULL;
	return s + n;
}

/* ---- %b and %f ---- */

/* p: the two octets. */
static const uint8_t *balanced(struct match *m, const uint8_t *s, const uint8_t *p)
{
	const uint8_t *end = subject_end(m);
	size_t open = 1;

	if (pattern_end(m) - p < 2)
		return bad(m, "malformed pattern (missing arguments to '%b')");
	if (s == end || *s != p[0])
		return NULL;
	while (++s < end && spend(m, 1)) {
		if (*s == p[1]) {
			if (--open == 0)
				return s + 1;
		} else if (*s == p[0]) {
			open++;
		}
	}
	return NULL;
}

/* A place where a set begins to be true. p: behind %f; *rest: behind the set. */
static bool frontier(struct match *m, const uint8_t *s, const uint8_t *p, const uint8_t **rest)
{
	uint8_t before = s == m->subject.p ? 0 : s[-1];
	uint8_t here = s == subject_end(m) ? 0 : *s;

	if (p == pattern_end(m) || *p != '[')
		return bad(m, "missing '[' after '%f' in pattern") != NULL;
	*rest = item_end(m, p);
	return *rest && spend(m, 2 + (size_t)(*rest - p) / SET_OCTETS_PER_STEP) &&
	       !set_has(p, *rest - 1, before) && set_has(p, *rest - 1, here);
}

/* ---- all of it ---- */

/* An item at *p, with what stands behind it. True: go on at *s and *p; false: *s is what was found
 * (NULL: nothing). */
static bool item(struct match *m, const uint8_t **s, const uint8_t **p)
{
	const uint8_t *end = item_end(m, *p), *found;

	if (!end) {
		*s = NULL;
		return false;
	}
	switch (end < pattern_end(m) ? *end : 0) {
	case '?':
		if (one(m, *s, *p, end) && (found = try_at(m, *s + 1, end + 1))) {
			*s = found;
			return false;
		}
		*p = end + 1;
		return true;
	case '+':
		found = one(m, *s, *p, end) ? longest_first(m, *s + 1, *p, end + 1) : NULL;
		break;
	case '*':
		found = longest_first(m, *s, *p, end + 1);
		break;
	case '-':
		found = shortest_first(m, *s, *p, end + 1);
		break;
	default:
		if (one(m, *s, *p, end)) {
			(*s)++;
			*p = end;
			return true;
		}
		found = NULL;
	}
	*s = found;
	return false;
}

/* An escape that is no class: %b, %f, %1. As item(). */
static bool escape(struct match *m, const uint8_t **s, const uint8_t **p)
{
	const uint8_t *at = *p + 1;

	if (*at == 'b') {
		*s = balanced(m, *s, at + 1);
		*p += 4;
	} else if (*at == 'f') {
		if (!frontier(m, *s, at + 1, p))
			*s = NULL;
	} else {
		*s = again(m, *s, *at);
		*p += 2;
	}
	return *s != NULL;
}

static bool is_escape(const struct match *m, const uint8_t *p)
{
	return *p == '%' && p + 1 < pattern_end(m) &&
	       (p[1] == 'b' || p[1] == 'f' || (p[1] >= '0' && p[1] <= '9'));
}

/* One piece of the pattern; as item(). */
static bool piece(struct match *m, const uint8_t **s, const uint8_t **p)
{
	const uint8_t *end = pattern_end(m);

	if (**p == '(') {
		bool here = *p + 1 < end && (*p)[1] == ')';

		*s = here ? open_capture(m, *s, *p + 2, MATCH_POSITION)
			  : open_capture(m, *s, *p + 1, MATCH_OPEN);
		return false;
	}
	if (**p == ')') {
		*s = close_capture(m, *s, *p + 1);
		return false;
	}
	if (**p == '$' && *p + 1 == end) {
		if (*s != subject_end(m))
			*s = NULL;
		return false;
	}
	return is_escape(m, *p) ? escape(m, s, p) : item(m, s, p);
}

static const uint8_t *try_at(struct match *m, const uint8_t *s, const uint8_t *p)
{
	if (m->depth == DEPTH_MAX)
		return bad(m, "pattern too complex");
	if (!spend(m, 1))
		return NULL;
	m->depth++;
	while (p != pattern_end(m) && piece(m, &s, &p))
		;
	m->depth--;
	return m->problem ? NULL : s;
}

enum match_res match_at(struct match *m, const uint8_t *at, const uint8_t **end)
{
	m->captures = 0;
	m->depth = 0;
	m->problem = NULL;
	*end = try_at(m, at, m->pattern.p);
	if (m->problem)
		return m->problem == stopped ? MATCH_STOPPED : MATCH_BAD;
	return *end ? MATCH_YES : MATCH_NO;
}

enum match_res match_from(struct match *m, bool anchored, const uint8_t **at, const uint8_t **end)
{
	for (;; (*at)++) {
		enum match_res res = match_at(m, *at, end);

		if (res != MATCH_NO || anchored || *at == subject_end(m))
			return res;
	}
}

bool match_is_plain(struct span pattern)
{
	for (size_t i = 0; i < pattern.n; i++)
		if (pattern.p[i] != '\0' && strchr("^$*+?.([%-", pattern.p[i]))
			return false;
	return true;
}
