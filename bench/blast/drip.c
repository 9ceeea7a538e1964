/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Slow connections (--slow): their octets, commands included, leave a few at a time on a beat, and
 * what comes is read once a beat. They go lock-step, so one command is waiting at most where the
 * server keeps to the protocol. Each has a struct drip, made at start.
 *
 * They send one message after the other for as long as there is load, and are cut off when it is
 * over: what they were at then is nobody's failure.
 */
#include "bench/blast/blast_int.h"

#define BEAT_MS 100

/* Octets and milliseconds of a beat: so that at least one octet leaves with each. */
static uint64_t beat_ms(const struct blast_options *o)
{
	return MAX_OF(BEAT_MS, 1000 / o->slow_rate);
}

static size_t beat_bytes(const struct blast_options *o)
{
	return MAX_OF(o->slow_rate * BEAT_MS / 1000, 1);
}

static struct span waiting(struct drip *d, size_t max)
{
	return span_of(d->command + d->at, MIN_OF(d->n - d->at, max));
}

void drip_put(struct client *c, struct span data)
{
	struct drip *d = c->drip;

	memmove(d->command, d->command + d->at, d->n - d->at);
	d->n -= d->at;
	d->at = 0;
	if (data.n > sizeof(d->command) - d->n) {
		client_fail(c, "more replies than commands");
		return;
	}
	memcpy(d->command + d->n, data.p, data.n);
	d->n += data.n;
}

/* Of the command first, then of the body. */
static size_t drip_piece(struct client *c, size_t max)
{
	struct drip *d = c->drip;
	struct span piece = waiting(d, max);

	if (piece.n == 0)
		piece = body_take(c, max);
	else
		d->at += piece.n;
	stream_put(&c->st, piece);
	return piece.n;
}

static void drip_send(struct client *c)
{
	size_t left = beat_bytes(&c->blast->opt), n;

	if (!stream_flushed(&c->st))
		return; /* the server is slower still */
	while (left && (n = drip_piece(c, left)) > 0) {
		left -= n;
		client_deadline(c);
	}
}

static void on_beat(struct timer *t)
{
	struct drip *d = CONTAINER_OF(t, struct drip, beat);
	struct client *c = d->client;
	struct blast *b = c->blast;

	timer_set(&b->rig.timers, t, d->beat.at_ms + beat_ms(&b->opt));
	drip_send(c);
	if (c->stage != ST_CLOSE)
		stream_read(&c->st, true);
}

void drip_init(struct drip *d, struct client *c)
{
	d->client = c;
	c->drip = d;
	timer_init(&d->beat, on_beat);
}

void drip_begin(struct client *c)
{
	struct blast *b = c->blast;

	c->drip->at = c->drip->n = 0;
	timer_set(&b->rig.timers, &c->drip->beat, rig_now_ms(&b->rig) + beat_ms(&b->opt));
}

void drip_end(struct client *c)
{
	timer_stop(&c->blast->rig.timers, &c->drip->beat);
}
