/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See record.h. The transcript names a session's socket after its client ("c0") and a link after
 * its server and its number there ("s1.0"). "->" is what ringpost was given, "<-" what it gave.
 */
#include "tests/sim/kernel.h"

#define LINE_OCTETS 160u

static const char *const kind_words[REC_KIND_COUNT] = {
#define X(id, word) [id] = word,
	REC_KINDS(X)
#undef X
};

/* ---- growing ---- */

static void *grow(void *p, size_t need, size_t *cap, size_t item, size_t least)
{
	if (need <= *cap)
		return p;
	*cap = MAX_OF(need, MAX_OF(least, *cap * 2));
	p = realloc(p, *cap * item);
	ASSERT(p);
	return p;
}

void octets_add(struct octets *o, const void *p, size_t n)
{
	if (n == 0)
		return;
	o->p = grow(o->p, o->n + n, &o->cap, 1, 512);
	memcpy(o->p + o->n, p, n);
	o->n += n;
}

void octets_free(struct octets *o)
{
	free(o->p);
	*o = (struct octets){0};
}

void record_init(struct record *r)
{
	*r = (struct record){.hash = 0x243f6a8885a308d3u};
}

void record_free(struct record *r)
{
	for (uint32_t i = 0; i < r->sock_count; i++) {
		octets_free(&r->socks[i].in);
		octets_free(&r->socks[i].out);
		free(r->socks[i].veil);
	}
	free(r->socks);
	free(r->events);
	*r = (struct record){0};
}

uint32_t record_sock(struct record *r)
{
	size_t cap = r->sock_cap;

	r->socks = grow(r->socks, r->sock_count + 1u, &cap, sizeof(*r->socks), 8);
	r->sock_cap = (uint32_t)cap;
	r->socks[r->sock_count] = (struct rec_sock){0};
	return r->sock_count++;
}

/* ---- the hash ---- */

static void mix(struct record *r, uint64_t v)
{
	uint64_t h = (r->hash ^ v) * 0x9e3779b97f4a7c15u;

	r->hash = h ^ h >> 29;
}

void record_mix(struct record *r, const void *p, size_t n)
{
	const uint8_t *at = p;
	uint64_t v;

	mix(r, n);
	for (; n >= sizeof(v); n -= sizeof(v), at += sizeof(v)) {
		memcpy(&v, at, sizeof(v));
		mix(r, v);
	}
	for (v = 0; n > 0; n--, at++)
		v = v << 8 | *at;
	mix(r, v);
}

/* ---- events ---- */

void record_event(struct record *r, uint64_t us, uint32_t sock, enum rec_kind kind,
	enum ring_res res, uint32_t off, uint32_t n)
{
	r->events = grow(r->events, r->count + 1, &r->cap, sizeof(*r->events), 256);
	r->events[r->count++] = (struct rec_event){
		.us = us,
		.sock = sock,
		.off = off,
		.n = n,
		.kind = (uint8_t)kind,
		.res = (uint8_t)res,
	};
	mix(r, us);
	mix(r, (uint64_t)sock << 16 | (uint64_t)kind << 8 | (uint64_t)res);
	mix(r, (uint64_t)off << 32 | n);
}

void record_octets(
	struct record *r, uint64_t us, uint32_t sock, enum rec_kind kind, struct span data)
{
	struct rec_sock *s = &r->socks[sock];
	struct octets *o = kind == REC_IN ? &s->in : &s->out;

	ASSERT(sock < r->sock_count && (kind == REC_IN || kind == REC_OUT));
	if (data.n == 0)
		return;
	*(kind == REC_IN ? &s->last_in_us : &s->last_out_us) = us;
	record_event(r, us, sock, kind, RING_OK, (uint32_t)o->n, (uint32_t)data.n);
	octets_add(o, data.p, data.n);
	record_mix(r, data.p, data.n);
}

/* ---- the transcript ---- */

static void print_octet(uint8_t c, FILE *out)
{
	static const char plain[] = "\r\n\t\"\\", escaped[] = "rnt\"\\";
	const char *at = c ? strchr(plain, c) : NULL;

	if (at)
		fprintf(out, "\\%c", escaped[at - plain]);
	else if (c >= 0x20 && c < 0x7f)
		fputc(c, out);
	else
		fprintf(out, "\\x%02x", c);
}

/* A long one keeps its beginning and its end. */
static void print_octets(struct span s, FILE *out)
{
	size_t head = s.n > LINE_OCTETS ? LINE_OCTETS - 40 : s.n;

	fputc('"', out);
	for (size_t i = 0; i < head; i++)
		print_octet(s.p[i], out);
	if (head < s.n) {
		fprintf(out, "\"...%zu more...\"", s.n - head - 40);
		for (size_t i = s.n - 40; i < s.n; i++)
			print_octet(s.p[i], out);
	}
	fprintf(out, "\" (%zu)", s.n);
}

static void print_name(const struct record *r, uint32_t sock, FILE *out)
{
	const struct rec_sock *s = &r->socks[sock];
	char name[32];
	uint32_t before = 0;

	for (uint32_t i = 0; i < sock; i++)
		before += r->socks[i].dialled == s->dialled && r->socks[i].who == s->who;
	if (!s->dialled && before == 0)
		snprintf(name, sizeof(name), "c%u", s->who);
	else if (s->dialled && s->who == UINT32_MAX)
		snprintf(name, sizeof(name), "s?.%u", before);
	else
		snprintf(name, sizeof(name), "%c%u.%u", s->dialled ? 's' : 'c', s->who, before);
	fprintf(out, "%-6s", name);
}

static bool worth_a_line(const struct rec_event *e)
{
	return e->kind != REC_FAR_IN && e->kind != REC_FAR_OUT;
}

static void print_event(const struct record *r, const struct rec_event *e, FILE *out)
{
	const struct rec_sock *s = e->sock == REC_NO_SOCK ? NULL : &r->socks[e->sock];

	fprintf(out, "%12.3f ", (double)e->us / 1000.0);
	if (s != NULL)
		print_name(r, e->sock, out);
	else
		fputs("      ", out);
	if (s != NULL && (e->kind == REC_IN || e->kind == REC_OUT)) {
		const struct octets *o = e->kind == REC_IN ? &s->in : &s->out;

		fputs(e->kind == REC_IN ? "-> " : "<- ", out);
		print_octets(span_of(o->p + e->off, e->n), out);
	} else if (e->kind == REC_FAULT) {
		fprintf(out, "** fault %s",
			e->n < SIM_FAULT_COUNT ? sim_fault_words[e->n] : "unknown");
	} else {
		fprintf(out, "== %s", kind_words[e->kind]);
		if (e->res != RING_OK)
			fprintf(out, " (%s)", ring_res_word(e->res));
	}
	fputc('\n', out);
}

void record_print(const struct record *r, FILE *out)
{
	for (size_t i = 0; i < r->count; i++)
		if (worth_a_line(&r->events[i]))
			print_event(r, &r->events[i], out);
}
