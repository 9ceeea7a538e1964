/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See sources.h. An address is its octets in network order, which count like digits.
 */
#include "bench/lib/sources.h"

#include <netinet/in.h>

#define ONE_BYTES 100 /* of one address in text, more than any has */

struct octets {
	uint8_t *p;
	unsigned n;
};

static struct octets octets_of(struct ring_addr *a)
{
	if (a->sa.sa_family == AF_INET)
		return (struct octets){(uint8_t *)&((struct sockaddr_in *)&a->ss)->sin_addr, 4};
	return (struct octets){(uint8_t *)&((struct sockaddr_in6 *)&a->ss)->sin6_addr, 16};
}

/* False: it went round. */
static bool octets_add(struct octets o, uint64_t by)
{
	for (unsigned i = o.n; i > 0 && by; i--) {
		by += o.p[i - 1];
		o.p[i - 1] = (uint8_t)by;
		by >>= 8;
	}
	return by == 0;
}

/* to - from, and no more than UINT64_MAX; false: less than 0. */
static bool octets_distance(struct octets from, struct octets to, uint64_t *out)
{
	bool huge = false;

	if (from.n != to.n || memcmp(from.p, to.p, from.n) > 0)
		return false;
	*out = 0;
	/* Digits may be negative on the way; the sum is not, modulo 2^64. */
	for (unsigned i = 0; i < from.n; i++) {
		huge = huge || (i < from.n - 8u && from.n > 8 && from.p[i] != to.p[i]);
		*out = (*out << 8) + to.p[i] - from.p[i];
	}
	if (huge)
		*out = UINT64_MAX;
	return true;
}

static bool parse_one(struct span text, struct ring_addr *out)
{
	char full[ONE_BYTES + 8];
	bool v6 = text.n && memchr(text.p, ':', text.n) != NULL;

	if (text.n == 0 || text.n > ONE_BYTES)
		return false;
	snprintf(full, sizeof(full), v6 ? "[%.*s]:0" : "%.*s:0", (int)text.n, (const char *)text.p);
	return addr_parse(span_str(full), out) && out->sa.sa_family != AF_UNIX;
}

static bool parse_bits(struct span text, unsigned max, unsigned *out)
{
	unsigned v = 0;

	if (text.n == 0 || text.n > 3)
		return false;
	for (size_t i = 0; i < text.n; i++) {
		if (text.p[i] < '0' || text.p[i] > '9')
			return false;
		v = v * 10 + text.p[i] - '0';
	}
	*out = v;
	return v <= max;
}

/* Clears all but the first `bits`. */
static void octets_mask(struct octets o, unsigned bits)
{
	for (unsigned i = 0; i < o.n; i++) {
		unsigned keep = bits > 8 * i ? MIN_OF(bits - 8 * i, 8) : 0;

		o.p[i] &= (uint8_t)(0xff00 >> keep);
	}
}

static bool read_prefix(struct source_range *r, struct span bits_text)
{
	struct octets o = octets_of(&r->first);
	unsigned bits;

	if (!parse_bits(bits_text, 8 * o.n, &bits) || 8 * o.n - bits > 24)
		return false;
	octets_mask(o, bits);
	r->count = 1ull << (8 * o.n - bits);
	if (o.n == 4 && r->count > 2) {
		(void)octets_add(o, 1);
		r->count -= 2;
	}
	return true;
}

static bool read_range(struct source_range *r, struct span last_text)
{
	struct ring_addr last;
	uint64_t steps;

	if (!parse_one(last_text, &last) ||
		!octets_distance(octets_of(&r->first), octets_of(&last), &steps))
		return false;
	r->count = steps + 1;
	return steps < SOURCES_RANGE_MAX;
}

static bool read_element(struct source_range *r, struct span text)
{
	static const char marks[] = "/-";

	for (size_t k = 0; k + 1 < sizeof(marks); k++) {
		const uint8_t *at = memchr(text.p, marks[k], text.n);

		if (!at)
			continue;
		size_t n = (size_t)(at - text.p);
		struct span rest = span_drop(text, n + 1);

		if (!parse_one(span_of(text.p, n), &r->first))
			return false;
		return marks[k] == '/' ? read_prefix(r, rest) : read_range(r, rest);
	}
	r->count = 1;
	return parse_one(text, &r->first);
}

bool sources_add(struct sources *s, const char *text)
{
	do {
		size_t n = strcspn(text, ",");
		struct source_range *r = &s->range[s->ranges];

		if (s->ranges == SOURCES_MAX || n == 0 || !read_element(r, span_of(text, n)))
			return false;
		s->ranges++;
		s->count += r->count;
		text += n + (text[n] == ',');
	} while (*text);
	return true;
}

void sources_at(const struct sources *s, uint64_t i, struct ring_addr *out)
{
	const struct source_range *r = s->range;

	ASSERT(s->count > 0);
	for (i %= s->count; i >= r->count; r++)
		i -= r->count;
	*out = r->first;
	bool fits = octets_add(octets_of(out), i);
	ASSERT(fits);
}
