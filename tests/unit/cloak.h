/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A small protocol of records for the tests of ring/filter.h, as a filter (struct cloak) and as the
 * far end of a socket (struct far), which speaks it on a plain descriptor. It has what TLS has: an
 * exchange before the first octet of the owner, records that mean nothing until they are whole and
 * that count themselves, a question that has to be answered out of turn, last words, a refusal.
 *
 *   kind (1), length (2, high octet first), sum of the data (1), data, each octet changed by its
 *   place and by the number of the record in its direction
 *
 * The filter asserts what the stream owes it, and writes down where in its wire octets the owner's
 * octets end, so that the stream's counting can be checked octet by octet.
 */
#ifndef TESTS_UNIT_CLOAK_H
#define TESTS_UNIT_CLOAK_H

#include "tests/unit/node.h"

#define CLOAK_HEAD 4
#define CLOAK_DATA_MAX 65535

enum cloak_kind {
	CLOAK_HELLO = 'H',
	CLOAK_DATA = 'D',
	CLOAK_BYE = 'B',
	CLOAK_NO = 'N',
	CLOAK_ASK = 'Q',
	CLOAK_ANSWER = 'A', /* with what was asked */
};

/* ---- records ---- */

static inline uint8_t cloak_key(uint32_t number, size_t i)
{
	return (uint8_t)(number * 37u + i * 11u + 0x5a);
}

static inline uint8_t cloak_sum(const uint8_t *p, size_t n)
{
	unsigned sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += p[i] + 1u;
	return (uint8_t)sum;
}

/* Returns its length. */
static inline size_t cloak_make(
	uint8_t *out, uint32_t number, enum cloak_kind kind, struct span data)
{
	cr_assert(data.n <= CLOAK_DATA_MAX);
	out[0] = (uint8_t)kind;
	out[1] = (uint8_t)(data.n >> 8);
	out[2] = (uint8_t)data.n;
	out[3] = cloak_sum(data.p, data.n);
	for (size_t i = 0; i < data.n; i++)
		out[CLOAK_HEAD + i] = data.p[i] ^ cloak_key(number, i);
	return CLOAK_HEAD + data.n;
}

struct cloak_in {
	uint32_t number;
	size_t n;
	uint8_t rec[CLOAK_HEAD + CLOAK_DATA_MAX];
};

static inline size_t cloak_wants(const struct cloak_in *in)
{
	if (in->n < CLOAK_HEAD)
		return CLOAK_HEAD - in->n;
	return CLOAK_HEAD + (size_t)(in->rec[1] << 8 | in->rec[2]) - in->n;
}

/* 1: a record is whole, *data is in it; 0: more is needed; -1: it is none. */
static inline int cloak_take(
	struct cloak_in *in, struct span *wire, enum cloak_kind *kind, struct span *data)
{
	size_t n;

	while (in->n < CLOAK_HEAD || cloak_wants(in) > 0) {
		if (wire->n == 0)
			return 0;
		n = MIN_OF(wire->n, cloak_wants(in));
		memcpy(in->rec + in->n, wire->p, n);
		in->n += n;
		*wire = span_drop(*wire, n);
	}
	*kind = (enum cloak_kind)in->rec[0];
	*data = span_of(in->rec + CLOAK_HEAD, in->n - CLOAK_HEAD);
	for (size_t i = 0; i < data->n; i++)
		in->rec[CLOAK_HEAD + i] ^= cloak_key(in->number, i);
	in->number++;
	in->n = 0;
	return memchr("HDBNQA", *kind, 6) && cloak_sum(data->p, data->n) == in->rec[3] ? 1 : -1;
}

/* ---- the filter ---- */

struct cloak_mark {
	uint64_t wire, plain; /* so much of the one carries so much of the other */
};

/* Outlives the filter. */
struct cloak_tally {
	unsigned seals, finishes, gones;
	uint64_t wire, plain; /* emitted, and sealed in it */
	struct cloak_mark *marks;
	unsigned mark_count;
	/* What it is to do. */
	unsigned fail_at; /* this call of to_wire() fails, counted from 1; 0: none */
	bool refuse;	  /* says no to a hello */
	bool scribble;	  /* to_wire() emits until there is no room, and then looks at its piece */
	size_t part;	  /* octets that are emitted at once; 0: all */
};

struct cloak {
	struct stream_filter f;
	struct cloak_tally *t;
	bool asks_first; /* the client's side */
	uint32_t number;
	struct cloak_in in;
};

static inline struct cloak *cloak_of(struct stream_filter *f)
{
	return CONTAINER_OF(f, struct cloak, f);
}

static inline void cloak_emit(struct cloak *c, struct span wire)
{
	size_t part = c->t->part ? c->t->part : SIZE_MAX;

	c->t->wire += wire.n;
	while (wire.n > 0) {
		size_t n = MIN_OF(wire.n, part);

		filter_emit(&c->f, span_of(wire.p, n));
		wire = span_drop(wire, n);
	}
}

static inline void cloak_say(struct cloak *c, enum cloak_kind kind, struct span data)
{
	static uint8_t rec[CLOAK_HEAD + CLOAK_DATA_MAX];

	cloak_emit(c, span_of(rec, cloak_make(rec, c->number++, kind, data)));
}

static inline void cloak_refuse(struct cloak *c)
{
	cloak_say(c, CLOAK_NO, span_of(NULL, 0));
	filter_over(&c->f, RING_PROTO);
}

static inline void cloak_greeted(struct cloak *c)
{
	if (c->f.open || c->t->refuse) {
		cloak_refuse(c);
		return;
	}
	if (!c->asks_first)
		cloak_say(c, CLOAK_HELLO, span_of(NULL, 0));
	filter_open(&c->f);
}

static inline void cloak_got(struct cloak *c, enum cloak_kind kind, struct span data)
{
	switch (kind) {
	case CLOAK_HELLO:
		cloak_greeted(c);
		break;
	case CLOAK_DATA:
		if (!c->f.open)
			cloak_refuse(c);
		else if (data.n > 0)
			filter_deliver(&c->f, data);
		break;
	case CLOAK_BYE:
		filter_over(&c->f, RING_EOF);
		break;
	case CLOAK_NO:
		filter_over(&c->f, RING_PROTO);
		break;
	case CLOAK_ASK:
		cloak_say(c, CLOAK_ANSWER, data);
		break;
	case CLOAK_ANSWER:
		break;
	}
}

static inline void cloak_from_wire(struct stream_filter *f, struct span wire)
{
	struct cloak *c = cloak_of(f);
	enum cloak_kind kind;
	struct span data;

	cr_assert(wire.n > 0 && filter_listens(f));
	while (filter_listens(f)) {
		int what = cloak_take(&c->in, &wire, &kind, &data);

		if (what == 0)
			return;
		if (what > 0)
			cloak_got(c, kind, data);
		else
			cloak_refuse(c);
	}
}

static inline void cloak_mark(struct cloak_tally *t)
{
	t->marks = realloc(t->marks, (t->mark_count + 1) * sizeof(*t->marks));
	cr_assert(t->marks != NULL);
	t->marks[t->mark_count++] = (struct cloak_mark){t->wire, t->plain};
}

static inline bool cloak_scribble(struct cloak *c, struct span plain)
{
	static uint8_t was[FILTER_PIECE_BYTES], junk[1000];

	memcpy(was, plain.p, plain.n);
	for (unsigned i = 0; !c->f.s->broken; i++) {
		cr_assert(i < 1000, "there is no bound");
		filter_emit(&c->f, span_of(junk, sizeof(junk)));
	}
	cr_assert(memcmp(was, plain.p, plain.n) == 0);
	return true;
}

static inline bool cloak_to_wire(struct stream_filter *f, struct span plain)
{
	struct cloak *c = cloak_of(f);

	cr_assert(plain.n > 0 && plain.n <= FILTER_PIECE_BYTES);
	cr_assert(f->open && !f->finished && !f->s->broken && !f->s->closing);
	cr_assert(!ring_op_armed(&f->s->send_op), "sealed while a send is in flight");
	c->t->seals++;
	if (c->t->seals == c->t->fail_at)
		return false;
	if (c->t->scribble)
		return cloak_scribble(c, plain);
	cloak_say(c, CLOAK_DATA, plain);
	c->t->plain += plain.n;
	cloak_mark(c->t);
	return true;
}

static inline void cloak_finish(struct stream_filter *f)
{
	struct cloak *c = cloak_of(f);

	cr_assert_eq(c->t->finishes, 0, "finished twice");
	cr_assert(stream_flushed(f->s) && !f->s->broken && !f->s->closing);
	c->t->finishes++;
	cloak_say(c, CLOAK_BYE, span_of(NULL, 0));
}

static inline void cloak_gone(struct stream_filter *f)
{
	struct cloak *c = cloak_of(f);

	cr_assert(f->s->closed && list_empty(&f->wire));
	cr_assert_eq(c->t->gones, 0, "gone twice");
	c->t->gones++;
	memset(c, 0xa5, sizeof(*c));
	free(c);
}

static const struct stream_filter_kind cloak_kind = {
	.from_wire = cloak_from_wire,
	.to_wire = cloak_to_wire,
	.finish = cloak_finish,
	.gone = cloak_gone,
};

/* Belongs to the stream from here on; *t is as the caller made it. */
static inline struct cloak *cloak_on(struct stream *s, struct cloak_tally *t, bool asks_first)
{
	struct cloak *c = calloc(1, sizeof(*c));

	cr_assert(c != NULL);
	c->f.kind = &cloak_kind;
	c->t = t;
	c->asks_first = asks_first;
	stream_set_filter(s, &c->f);
	return c;
}

/* Octets of the owner that are out when so many wire octets are. */
static inline uint64_t cloak_out_by(const struct cloak_tally *t, uint64_t wire)
{
	uint64_t plain = 0;

	for (unsigned i = 0; i < t->mark_count && t->marks[i].wire <= wire; i++)
		plain = t->marks[i].plain;
	return plain;
}

/* ---- the far end ---- */

struct far {
	int fd;
	struct pile plain; /* what came in records */
	struct pile clear; /* ... before them: so much is wanted */
	size_t clear_left;
	struct pile out; /* to be written */
	size_t out_at;
	unsigned hellos, datas, byes, nos, answers;
	bool bad, eof, reset;
	bool late; /* something came behind last words or a refusal */
	uint32_t number;
	struct cloak_in in;
};

static inline struct far *far_new(int fd)
{
	struct far *r = calloc(1, sizeof(*r));

	cr_assert(r != NULL);
	r->fd = fd;
	return r;
}

static inline void far_free(struct far *r)
{
	if (r->fd >= 0)
		close(r->fd);
	pile_free(&r->plain);
	pile_free(&r->clear);
	pile_free(&r->out);
	free(r);
}

static inline void far_say(struct far *r, enum cloak_kind kind, const void *p, size_t n)
{
	static uint8_t rec[CLOAK_HEAD + CLOAK_DATA_MAX];

	pile_add(&r->out, rec, cloak_make(rec, r->number++, kind, span_of(p, n)));
}

/* A record that was changed on its way. */
static inline void far_garble(struct far *r)
{
	far_say(r, CLOAK_DATA, "garbled", 7);
	r->out.p[r->out.n - 3] ^= 1;
}

static inline void far_write(struct far *r, size_t max)
{
	peer_write(r->fd, r->out.p, r->out.n, &r->out_at, max);
}

static inline void far_got(struct far *r, enum cloak_kind kind, struct span data)
{
	r->late |= r->byes + r->nos > 0;
	switch (kind) {
	case CLOAK_HELLO:
		r->hellos++;
		break;
	case CLOAK_DATA:
		r->datas++;
		pile_add(&r->plain, data.p, data.n);
		break;
	case CLOAK_BYE:
		r->byes++;
		break;
	case CLOAK_NO:
		r->nos++;
		break;
	case CLOAK_ANSWER:
		r->answers++;
		break;
	default:
		r->bad = true;
	}
}

/* As peer_read(), understood. */
static inline long far_read(struct far *r, size_t max)
{
	static struct pile got;
	enum cloak_kind kind;
	struct span wire, data;
	long n;
	int what;

	if (r->eof || r->reset)
		return r->eof ? -1 : -2;
	got.n = 0;
	n = peer_read(r->fd, &got, max);
	r->eof = n == -1;
	r->reset = n == -2;
	wire = span_of(got.p, got.n);
	if (r->clear_left > 0 && wire.n > 0) {
		size_t k = MIN_OF(wire.n, r->clear_left);

		pile_add(&r->clear, wire.p, k);
		r->clear_left -= k;
		wire = span_drop(wire, k);
	}
	while (!r->bad && (what = cloak_take(&r->in, &wire, &kind, &data)) != 0) {
		r->bad = what < 0;
		if (!r->bad)
			far_got(r, kind, data);
	}
	return n;
}

#endif
