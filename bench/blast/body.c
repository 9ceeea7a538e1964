/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The octets of messages on their way. All messages of one size share what its maker made at start;
 * with --hash each has a head of its own, kept in its slot.
 */
#include "bench/blast/blast_int.h"

static size_t body_bytes(const struct client *c)
{
	return c->head_len + (c->blast->opt.bdat ? c->maker->raw_len : c->maker->wire_len);
}

/* Octets from c->pos on that lie together, at most to c->end. */
static struct span body_piece(const struct client *c, size_t max)
{
	const uint8_t *all = c->blast->opt.bdat ? c->maker->raw : c->maker->wire;
	size_t left = MIN_OF(c->end - c->pos, max);

	if (c->pos < c->head_len)
		return span_of(c->head + c->pos, MIN_OF(left, c->head_len - c->pos));
	return span_of(all + (c->pos - c->head_len), left);
}

/* Nothing more will be asked of this connection: QUIT can go with the end of the body. */
static bool last_on_connection(const struct client *c)
{
	const struct blast *b = c->blast;
	uint64_t each = b->opt.per_connection;

	return (each && c->on_conn >= each) || b->started >= b->total;
}

static void chunk_start(struct client *c)
{
	uint64_t chunk = c->blast->opt.chunk;
	size_t left = body_bytes(c) - c->pos;
	size_t n = chunk ? MIN_OF(chunk, left) : left;

	put_format(c, "BDAT %zu%s\r\n", n, n == left ? " LAST" : "");
	c->end = c->pos + n;
	c->chunks++;
}

static void body_sent(struct client *c)
{
	c->body = false;
	if (c->pipelining && last_on_connection(c))
		talk_quit(c);
}

struct span body_take(struct client *c, size_t max)
{
	struct span piece = SPAN_NONE;

	while (c->body && piece.n == 0) {
		if (c->pos < c->end)
			piece = body_piece(c, max);
		else if (c->end == body_bytes(c))
			body_sent(c);
		else if (c->pipelining)
			chunk_start(c);
		else
			break; /* the next chunk waits for the reply to this one */
	}
	c->pos += piece.n;
	return piece;
}

/* The message's own head is overwritten by the next one's; the rest outlasts all streams. */
static void body_put(struct client *c, struct span piece)
{
	if (c->pos - piece.n < c->head_len || piece.n < LASTING_BYTES)
		stream_put(&c->st, piece);
	else
		stream_put_lasting(&c->st, piece);
}

void body_pump(struct client *c)
{
	if (c->drip)
		return; /* takes them itself */
	while (c->body && stream_backlog(&c->st) <= STREAM_HIGH_BYTES) {
		struct span piece = body_take(c, PIECE_BYTES);

		if (piece.n == 0)
			return;
		body_put(c, piece);
	}
	if (c->body && c->pos == body_bytes(c))
		body_sent(c);
}

void body_next_chunk(struct client *c)
{
	if (c->pos != c->end)
		return;
	chunk_start(c);
	body_pump(c);
}

void body_start(struct client *c)
{
	const struct blast *b = c->blast;

	c->pos = c->end = c->chunks = 0;
	c->head_len = b->opt.hash ? maker_head(c->maker, c->message, c->head) : 0;
	c->body = true;
	if (b->opt.bdat)
		chunk_start(c);
	else
		c->end = body_bytes(c);
	body_pump(c);
}
