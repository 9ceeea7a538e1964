/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * An owner of a stream for the tests: heap memory that is freed in on_closed() (so the sanitizer
 * sees any later touch), everything that happened written down, and switches for what it does in
 * each callback.
 */
#ifndef TESTS_UNIT_NODE_H
#define TESTS_UNIT_NODE_H

#include "tests/unit/bed.h"

struct tally {
	struct pile in;
	unsigned connects, ends, quiets, drains, breaks, opens, closes;
	enum ring_res connect_res, end_res, break_res;
	uint64_t bytes_in, bytes_out; /* at on_closed() */
	bool was_broken;
};

struct node {
	struct stream s;
	struct bed *b;
	struct tally *t;   /* outlives the node */
	struct node *to;   /* relay what arrives, with back-pressure; NULL = keep it in t->in */
	struct node *back; /* who relays to this one */
	/* Called first in each callback, with its name. */
	void (*hook)(struct node *n, const char *what);
	/* Instead of relaying or keeping. */
	void (*bytes)(struct node *n, struct span data, int32_t buf);
};

static inline struct node *node_of(struct stream *s)
{
	return CONTAINER_OF(s, struct node, s);
}

static inline void node_note(struct node *n, const char *what)
{
	cr_assert_not(n->b->in_call, "%s from inside a call of the owner", what);
	cr_assert_eq(n->t->closes, 0, "%s after on_closed", what);
	if (n->s.closing || n->s.finishing)
		cr_assert(strcmp(what, "closed") == 0, "%s after close or finish", what);
	if (n->hook != NULL)
		n->hook(n, what);
}

static inline void node_connect(struct stream *s, enum ring_res res)
{
	struct node *n = node_of(s);

	n->t->connects++;
	n->t->connect_res = res;
	node_note(n, "connect");
}

static inline void node_bytes(struct stream *s, struct span data, int32_t buf)
{
	struct node *n = node_of(s);

	cr_assert(data.n > 0);
	if (n->bytes != NULL) {
		n->bytes(n, data, buf);
	} else if (n->to != NULL) {
		stream_pass(&n->to->s, data, buf);
		if (stream_backlog(&n->to->s) > STREAM_HIGH_BYTES)
			stream_read(s, false);
	} else {
		pile_add(&n->t->in, data.p, data.n);
	}
	node_note(n, "bytes");
}

static inline void node_end(struct stream *s, enum ring_res why)
{
	struct node *n = node_of(s);

	n->t->ends++;
	n->t->end_res = why;
	node_note(n, "end");
}

static inline void node_quiet(struct stream *s)
{
	struct node *n = node_of(s);

	cr_assert(stream_quiet(s));
	n->t->quiets++;
	node_note(n, "quiet");
}

static inline void node_drained(struct stream *s)
{
	struct node *n = node_of(s);

	cr_assert(stream_backlog(s) <= STREAM_LOW_BYTES);
	n->t->drains++;
	if (n->back != NULL)
		stream_read(&n->back->s, true);
	node_note(n, "drained");
}

static inline void node_broken(struct stream *s, enum ring_res why)
{
	struct node *n = node_of(s);

	n->t->breaks++;
	n->t->break_res = why;
	node_note(n, "broken");
}

static inline void node_open(struct stream *s)
{
	struct node *n = node_of(s);

	cr_assert(s->filter != NULL && s->filter->open);
	n->t->opens++;
	node_note(n, "open");
}

static inline void node_closed(struct stream *s)
{
	struct node *n = node_of(s);
	struct tally *t = n->t;

	node_note(n, "closed");
	t->bytes_in = s->bytes_in;
	t->bytes_out = s->bytes_out;
	t->was_broken = s->broken;
	t->closes++;
	memset(n, 0xa5, sizeof(*n));
	free(n);
}

static const struct stream_events node_events = {
	.on_connect = node_connect,
	.on_bytes = node_bytes,
	.on_end = node_end,
	.on_quiet = node_quiet,
	.on_drained = node_drained,
	.on_broken = node_broken,
	.on_open = node_open,
	.on_closed = node_closed,
};

static inline struct node *node_new(struct bed *b, struct tally *t)
{
	struct node *n = calloc(1, sizeof(*n));

	cr_assert(n != NULL);
	*t = (struct tally){0};
	n->b = b;
	n->t = t;
	return n;
}

static inline struct node *node_adopt(struct bed *b, struct tally *t, int fd)
{
	struct node *n = node_new(b, t);

	stream_adopt(&n->s, &b->ss, &node_events, (struct ring_fd){fd});
	return n;
}

/* Everything `from` receives goes to `to`. */
static inline void node_relay(struct node *from, struct node *to)
{
	from->to = to;
	to->back = from;
	stream_read(&from->s, true);
}

#endif
