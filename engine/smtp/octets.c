/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Octet classes (RFC 5321 4.1.2, RFC 3461 4) and small readers. Pure; false means "does not read".
 */
#include "engine/smtp/octets.h"

/* clang-format off */
#define XV (OCTET_XCHAR | OCTET_VALUE)
#define SPECIAL XV                       /* printable, of no other class */
#define ATOM (XV | OCTET_ATEXT)
#define NUMBER (ATOM | OCTET_DIGIT | OCTET_HEX | OCTET_KEYWORD)
#define LETTER (ATOM | OCTET_ALPHA | OCTET_KEYWORD)

const uint8_t octet_bits[256] = {
	['\t'] = OCTET_BLANK, [' '] = OCTET_BLANK,
	['0' ... '9'] = NUMBER,
	['A' ... 'F'] = LETTER | OCTET_HEX, ['G' ... 'Z'] = LETTER,
	['a' ... 'f'] = LETTER | OCTET_HEX, ['g' ... 'z'] = LETTER,
	['-'] = ATOM | OCTET_KEYWORD,
	['!'] = ATOM, ['#'] = ATOM, ['$'] = ATOM, ['%'] = ATOM, ['&'] = ATOM, ['\''] = ATOM,
	['*'] = ATOM, ['/'] = ATOM, ['?'] = ATOM, ['^'] = ATOM, ['_'] = ATOM, ['`'] = ATOM,
	['{'] = ATOM, ['|'] = ATOM, ['}'] = ATOM, ['~'] = ATOM,
	['+'] = OCTET_ATEXT | OCTET_VALUE,   /* xtext's escape */
	['='] = ATOM, /* RFC 5321 and 3461 leave it out of values; real senders (SRS in ORCPT) do not, and servers take it */
	['"'] = SPECIAL, ['('] = SPECIAL, [')'] = SPECIAL, [','] = SPECIAL, ['.'] = SPECIAL,
	[':'] = SPECIAL, [';'] = SPECIAL, ['<'] = SPECIAL, ['>'] = SPECIAL, ['@'] = SPECIAL,
	['['] = SPECIAL, ['\\'] = SPECIAL, [']'] = SPECIAL,
	[128 ... 255] = OCTET_ATEXT | OCTET_VALUE,
};
/* clang-format on */

bool span_all(struct span s, unsigned bits)
{
	for (size_t i = 0; i < s.n; i++)
		if (!octet_is(s.p[i], bits))
			return false;
	return true;
}

struct span span_trim(struct span s)
{
	while (s.n > 0 && octet_is(s.p[0], OCTET_BLANK))
		s = span_drop(s, 1);
	while (s.n > 0 && octet_is(s.p[s.n - 1], OCTET_BLANK))
		s.n--;
	return s;
}

struct span span_take_word(struct span *rest)
{
	struct span s = *rest;
	size_t n = 0;

	while (s.n > 0 && octet_is(s.p[0], OCTET_BLANK))
		s = span_drop(s, 1);
	while (n < s.n && !octet_is(s.p[n], OCTET_BLANK))
		n++;
	*rest = n > 0 ? span_drop(s, n) : s;
	return span_of(s.p, n);
}

bool span_number(struct span s, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	*out = 0;
	if (s.n == 0 || s.n > 20 || !span_all(s, OCTET_DIGIT))
		return false;
	for (size_t i = 0; i < s.n; i++)
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
			__builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
			return false;
	if (v > max)
		return false;
	*out = v;
	return true;
}

struct span span_split(struct span s, uint8_t c, struct span *rest)
{
	const uint8_t *at = s.n > 0 ? memchr(s.p, c, s.n) : NULL;
	size_t n;

	if (!at) {
		*rest = SPAN_NONE;
		return s;
	}
	n = (size_t)(at - s.p);
	*rest = span_drop(s, n + 1);
	return span_of(s.p, n);
}
