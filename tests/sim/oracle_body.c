/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The oracle's own reading of DATA bodies: where one truly ends, what `normalize` makes of it, what
 * a lax server could take for an end, how large it is. It sees the whole body at once and looks
 * both ways; nothing here knows of pieces. Linear in the octets.
 */
#include "tests/sim/oracle_int.h"

/* The octets before `off` are the CRLF of DATA's own line: a dot right at the start counts. */
uint32_t body_end(struct span in, uint32_t off)
{
	const uint8_t *p;

	ASSERT(off >= 2);
	p = memmem(in.p + off - 2, in.n - (off - 2), "\r\n.\r\n", 5);
	return p ? (uint32_t)(p - in.p) + 5 : 0;
}

static bool bare_lf_at(struct span b, size_t i)
{
	return b.p[i] == '\n' && (i == 0 || b.p[i - 1] != '\r');
}

static bool strict_start(struct span b, size_t i)
{
	return i == 0 || (i >= 2 && b.p[i - 2] == '\r' && b.p[i - 1] == '\n');
}

/* A bare LF becomes CRLF, a bare CR a space. A dot that so comes to the start of a line is doubled.
 * A dot at the start of a line whose only content it is, before a bare LF, goes: a strict reader
 * takes it away as well, and CRLF.CRLF must not come of it. */
static void normalize_one(struct span b, size_t i, struct octets *out)
{
	uint8_t c = b.p[i];
	bool last = i + 1 == b.n;

	if (c == '\r')
		octets_add(out, last || b.p[i + 1] == '\n' ? "\r" : " ", 1);
	else if (c == '\n' && bare_lf_at(b, i))
		octets_add(out, "\r\n", 2);
	else if (c == '.' && strict_start(b, i) && !last && b.p[i + 1] == '\n')
		return;
	else if (c == '.' && i > 0 && bare_lf_at(b, i - 1))
		octets_add(out, "..", 2);
	else
		octets_add(out, &c, 1);
}

/* Of a body that is not whole, what its last octets become is open: they are left out. */
void body_normalize(struct span b, bool whole, struct octets *out)
{
	size_t n = b.n;

	out->n = 0;
	if (!whole && n && b.p[n - 1] == '\r')
		n--;
	else if (!whole && n && b.p[n - 1] == '.' && strict_start(b, n - 1))
		n--;
	for (size_t i = 0; i < n;) {
		size_t plain = i;

		while (plain < n && b.p[plain] != '\r' && b.p[plain] != '\n' && b.p[plain] != '.')
			plain++;
		octets_add(out, b.p + i, plain - i);
		i = plain;
		if (i < n)
			normalize_one(b, i++, out);
	}
}

static bool is_eol(uint8_t c)
{
	return c == '\r' || c == '\n';
}

size_t body_lookalike(struct span b, size_t end, bool with_nul_only)
{
	const uint8_t *p = b.p;

	for (size_t at = 0; at < b.n; at++) {
		p = memchr(b.p + at, '.', b.n - at);
		if (!p)
			return SIZE_MAX;
		at = (size_t)(p - b.p);
		size_t before = at, behind = at + 1;
		while (before > 0 && b.p[before - 1] == 0)
			before--;
		while (behind < b.n && b.p[behind] == 0)
			behind++;
		bool start = before == 0 || is_eol(b.p[before - 1]);
		bool nul = before < at || behind > at + 1;
		if (start && behind < b.n && is_eol(b.p[behind]) && at != end &&
			(nul || !with_nul_only))
			return behind;
	}
	return SIZE_MAX;
}

/* `more_is_lf`: the octet that would follow is LF, so a CR at the end is no bare one. */
size_t body_bare(struct span b, bool more_is_lf)
{
	for (size_t i = 0; i < b.n; i++) {
		if (bare_lf_at(b, i))
			return i;
		if (b.p[i] == '\r' && (i + 1 < b.n ? b.p[i + 1] != '\n' : !more_is_lf))
			return i;
	}
	return SIZE_MAX;
}

/* The body, with its end, has something that `bare-newlines` refuses. */
bool body_refusable(const struct oracle_listener *lis, struct span b, struct octets *tmp)
{
	if (lis->newlines == NEWLINES_GUARD)
		return body_lookalike(b, b.n - 3, false) != SIZE_MAX;
	if (lis->newlines == NEWLINES_REJECT)
		return body_lookalike(b, b.n - 3, false) != SIZE_MAX ||
		       body_bare(b, false) != SIZE_MAX;
	if (lis->newlines == NEWLINES_NORMALIZE) {
		body_normalize(b, true, tmp);
		return body_lookalike(octets_span(tmp), tmp->n - 3, true) != SIZE_MAX ||
		       body_lookalike(b, b.n - 3, true) != SIZE_MAX;
	}
	return false;
}

/* Octets of the message: without the dot that ends it; `unstuffed`: nor those that stuffing adds.
 */
uint64_t body_size(struct span b, bool unstuffed)
{
	uint64_t n = b.n - 3;

	for (size_t i = 0; unstuffed && i + 3 < b.n; i++)
		n -= b.p[i] == '.' && strict_start(b, i);
	return n;
}

/* What has left toward the server of a body must hold nothing that `bare-newlines` keeps back. */
void body_passed(struct oracle *o, struct sess *s, struct omsg *m, uint32_t start, struct span want,
	uint32_t n, bool whole)
{
	struct span left = span_of(o->rec->socks[m->sock].out.p + start, n);
	size_t end = whole ? want.n - 3 : SIZE_MAX, at;

	if (s->lis->newlines == NEWLINES_PASS)
		return;
	at = body_lookalike(left, end, false);
	if (at != SIZE_MAX) {
		broken(o, I11_VERDICT, s, m->number, span_drop(left, at > 8 ? at - 8 : 0),
			"what a lax server takes for an end of data left toward the server, at %zu "
			"of "
			"the body",
			at);
		return;
	}
	if (s->lis->newlines == NEWLINES_GUARD)
		return;
	at = body_bare(left, n < want.n && want.p[n] == '\n');
	if (at != SIZE_MAX)
		broken(o, I11_VERDICT, s, m->number, span_drop(left, at > 8 ? at - 8 : 0),
			"a bare CR or LF left toward the server, at %zu of the body", at);
}

/* Walks both sides of a body in the order of time. Octets [in_from, in_to) of the client go out
 * from out_from on, while the link lives. Normalizing only adds octets, so it hides nothing but as
 * much as it adds. */
void body_bound(struct oracle *o, struct sess *s, uint32_t in_from, uint32_t in_to, uint32_t sock,
	uint32_t out_from)
{
	const struct osock *a = &o->socks[s->sock], *b = &o->socks[sock];
	uint32_t k = 0, out = 0;

	for (uint32_t i = 0; i < a->in_n && in_to - in_from > o->in->held_max; i++) {
		if (a->in[i].end <= in_from)
			continue;
		if (a->in[i].ev > b->loss_ev || a->in[i].ev > b->close_ev)
			return;
		while (k < b->out_n && b->out[k].ev < a->in[i].ev)
			out = b->out[k++].end;
		uint32_t taken = MIN_OF(a->in[i].end, in_to) - in_from;
		uint32_t passed = out > out_from ? out - out_from : 0;
		if (taken > passed && taken - passed > o->in->held_max) {
			broken(o, I6_BOUND, s, s->number, SPAN_NONE,
				"%u octets of a body are held, the bound is %u", taken - passed,
				o->in->held_max);
			return;
		}
		if (a->in[i].end >= in_to)
			return;
	}
}
