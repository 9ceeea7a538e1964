/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See actor.h. Nothing here fails; running out of memory is an assertion.
 */
#include "tests/sim/actor.h"

#include <stdarg.h>

#define FMT_BYTES 1024

/* ---- choices ---- */

size_t actor_cut(struct tape *t, size_t n)
{
	ASSERT(n > 0);
	if (n == 1)
		return 1;
	switch (tape_pick(t, 8)) {
	case 4:
		return 1;
	case 5:
		return 1 + tape_pick(t, (uint32_t)n);
	case 6:
		return n - 1;
	case 7:
		return 1 + tape_pick(t, (uint32_t)MIN_OF(n, (size_t)16));
	default:
		return n;
	}
}

uint32_t actor_whim(struct tape *t, const struct actor_whim *rows, uint32_t count, unsigned manners)
{
	uint32_t left = 255 - tape_pick(t, 256);

	for (uint32_t i = 1; i < count; i++) {
		if (rows[i].manners > manners)
			continue;
		if (left < rows[i].weight)
			return i;
		left -= rows[i].weight;
	}
	return 0;
}

uint64_t actor_nap_us(struct tape *t)
{
	static const uint16_t seconds[16] = {
		1, 1, 2, 2, 3, 4, 6, 10, 15, 20, 31, 70, 125, 185, 305, 640};

	return seconds[tape_pick(t, ARRAY_LEN(seconds))] * 1000000ull;
}

/* ---- text ---- */

void octets_str(struct octets *o, const char *s)
{
	octets_add(o, s, strlen(s));
}

void octets_fmt(struct octets *o, const char *fmt, ...)
{
	char text[FMT_BYTES];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	ASSERT(n >= 0 && (size_t)n < sizeof(text));
	octets_add(o, text, (size_t)n);
}

/* No digits, no 'c' and no 'k': letters cannot be taken for somebody's mark. */
static const char letters[] =
	"the wind moved over yonder hills and none saw it, for days or months, "
	"until rain fell and all things were green again. So it is told. ";

void octets_letters(struct octets *o, uint32_t seed, size_t n)
{
	size_t at = seed % (sizeof(letters) - 1);

	while (n > 0) {
		size_t piece = MIN_OF(n, sizeof(letters) - 1 - at);

		octets_add(o, letters + at, piece);
		n -= piece;
		at = 0;
	}
}

void octets_opaque(struct octets *o, uint32_t seed, size_t n)
{
	static const uint8_t awkward[8] = {'\r', '\n', '.', 0, 0xff, '\r', '\n', ' '};
	uint8_t piece[256];

	while (n > 0) {
		size_t k = MIN_OF(n, sizeof(piece));

		for (size_t i = 0; i < k; i++) {
			seed = seed * 1664525u + 1013904223u;
			piece[i] = (seed >> 28) == 0 ? awkward[seed >> 25 & 7]
						     : (uint8_t)(0x80 | seed >> 20);
		}
		octets_add(o, piece, k);
		n -= k;
	}
}

/* ---- reading ---- */

struct span actor_line(struct span in)
{
	const uint8_t *lf = in.n ? memchr(in.p, '\n', in.n) : NULL;

	return lf ? span_of(in.p, (size_t)(lf - in.p) + 1) : SPAN_NONE;
}

struct span actor_trim(struct span line)
{
	if (line.n && line.p[line.n - 1] == '\n')
		line.n--;
	if (line.n && line.p[line.n - 1] == '\r')
		line.n--;
	return line;
}

struct span actor_word(struct span *rest)
{
	struct span word;

	while (rest->n && rest->p[0] == ' ')
		*rest = span_drop(*rest, 1);
	word = span_of(rest->p, 0);
	while (word.n < rest->n && rest->p[word.n] != ' ')
		word.n++;
	*rest = span_drop(*rest, word.n);
	return word;
}

bool actor_begins(struct span s, const char *word)
{
	struct span w = span_str(word);

	return s.n >= w.n && span_ieq(span_of(s.p, w.n), w);
}

uint64_t actor_number(struct span s)
{
	uint64_t v = 0;

	if (s.n == 0 || s.n > 12)
		return UINT64_MAX;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return UINT64_MAX;
		v = v * 10 + (uint64_t)(s.p[i] - '0');
	}
	return v;
}

/* ---- arrays ---- */

void *actor_grow(void *p, uint32_t count, size_t size)
{
	/* Doubled when full: the capacity follows from the count. */
	if (count != 0 && (count < 8 || (count & (count - 1)) != 0))
		return p;
	p = realloc(p, (count ? 2 * (size_t)count : 8) * size);
	ASSERT(p);
	return p;
}
