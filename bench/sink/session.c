/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One session: its input (lines, bodies, what waits in the stash), its timer, its end.
 *
 * A delay holds the whole session: the command (or the end of the message) waits unread in the
 * stash and what comes behind it too. A client that sends more than the stash holds meanwhile gets
 * 421. An idle session owns its struct, a descriptor and an armed receive; nothing else. A
 * session's trouble ends that session and is counted.
 */
#include "bench/sink/sink_int.h"

/* A line that passed its limit: answered once, the rest of it thrown away. */
static size_t skip_long_line(struct sess *s, struct span in)
{
	const uint8_t *lf = memchr(in.p, '\n', in.n);

	if (!lf)
		return in.n;
	s->skip_line = false;
	return (size_t)(lf - in.p) + 1;
}

/* One line. Octets used; 0: not complete, or held by a delay. */
static size_t eat_line(struct sess *s, struct span in)
{
	size_t next = 0, max = s->phase == PH_AUTH ? SMTP_AUTH_BYTES_MAX : SMTP_COMMAND_BYTES_MAX;
	struct span line;

	if (s->skip_line)
		return skip_long_line(s, in);
	switch (smtp_line(in, &s->seen, max, &line, &next)) {
	case LINE_MORE:
		return 0;
	case LINE_BARE_LF:
		REFUSE(s, "500 5.5.2 lines end with CRLF");
		break;
	case LINE_LONG:
		REFUSE(s, "500 5.5.2 line too long");
		s->skip_line = true;
		return skip_long_line(s, in);
	case LINE_OK:
		if (s->phase == PH_AUTH)
			command_auth_line(s, line);
		else if (!command(s, line))
			return 0;
		break;
	}
	s->sink->n.commands++;
	/* Who was not offered PIPELINING may not send on, and nobody may before a 354. */
	if (next < in.n &&
		(s->phase == PH_DATA || (!s->sink->offer_pipelining && s->phase == PH_COMMAND)))
		s->sink->n.early_input++;
	return next;
}

/* Uses what it can; the rest belongs into the stash. */
static size_t eat(struct sess *s, struct span in)
{
	size_t at = 0, n = 1;

	while (!s->paused && !s->over && n) {
		struct span rest = span_drop(in, at);

		switch ((enum phase)s->phase) {
		case PH_CHUNK_END:
			chunk_end(s);
			continue;
		case PH_END:
			message_end(s);
			continue;
		case PH_GREETING:
		case PH_TLS:
			return at;
		default:
			break;
		}
		if (rest.n == 0)
			break;
		if (s->phase == PH_DATA)
			n = data_eat(s, rest);
		else if (s->phase == PH_CHUNK)
			n = chunk_eat(s, rest);
		else
			n = eat_line(s, rest);
		at += n;
	}
	return at;
}

static void keep_input(struct sess *s, struct span rest)
{
	if (rest.n == 0 || s->over)
		return;
	if (!stash_add(&s->stash, &s->sink->rig.stashes, rest)) {
		s->sink->n.overloads++;
		SAY(s, "421 4.3.1 too much at once");
		finish(s);
	}
}

static void eat_stash(struct sess *s)
{
	if (s->stash.len) {
		size_t used = eat(s, stash_span(&s->stash));

		stash_drop(&s->stash, &s->sink->rig.stashes, used);
	} else {
		eat(s, SPAN_NONE);
	}
}

/* Backlog, or a delay: no more input for now. */
static void mind_reading(struct sess *s)
{
	if (s->over || s->eof)
		return;
	s->choked = s->choked || stream_backlog(&s->st) > STREAM_HIGH_BYTES;
	stream_read(&s->st, !s->choked && !(s->paused && s->stash.len));
}

/* An unfinished line waits: complete it with as little copying as there is. */
static struct span finish_stashed_line(struct sess *s, struct span data)
{
	const uint8_t *lf = memchr(data.p, '\n', data.n);
	size_t n = lf ? (size_t)(lf - data.p) + 1 : data.n;

	keep_input(s, span_of(data.p, n));
	eat_stash(s);
	return span_drop(data, n);
}

static void on_bytes(struct stream *st, struct span data, int32_t buf)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->active_ms = rig_now_ms(&s->sink->rig);
	while (s->stash.len && !s->paused && !s->over && data.n)
		data = finish_stashed_line(s, data);
	if (s->stash.len == 0 && !s->over)
		data = span_drop(data, eat(s, data));
	keep_input(s, data);
	secure_answer(s);
	mind_reading(s);
}

static void greet(struct sess *s)
{
	enum said said = rule_answer(s, AT_GREETING, span_str(s->sink->greeting));

	if (said == SAID_WAIT)
		return;
	s->phase = PH_COMMAND;
	s->greeted = said == SAID_YES;
}

static void resume(struct sess *s)
{
	s->paused = false;
	s->waited = true;
	if (s->phase == PH_GREETING)
		greet(s);
	eat_stash(s);
	secure_answer(s);
	if (!s->paused && !s->over) {
		if (s->eof)
			finish(s);
		else
			timer_set(&s->sink->rig.timers, &s->timer,
				rig_now_ms(&s->sink->rig) + s->sink->timeout_us / 1000);
	}
	mind_reading(s);
}

/* ---- a session's life ---- */

static void on_session_timer(struct timer *t)
{
	struct sess *s = CONTAINER_OF(t, struct sess, timer);
	struct sink *k = s->sink;
	uint64_t due = s->active_ms + k->timeout_us / 1000;

	if (s->paused) {
		s->active_ms = rig_now_ms(&k->rig);
		resume(s);
	} else if (due > rig_now_ms(&k->rig)) {
		timer_set(&k->rig.timers, t, due);
	} else if (s->over) {
		stream_close(&s->st); /* the last reply is not being read */
	} else {
		k->n.timeouts++;
		SAY(s, "421 4.4.2 too long silent");
		finish(s);
		timer_set(&k->rig.timers, t, rig_now_ms(&k->rig) + 1000);
	}
}

static void on_end(struct stream *st, enum ring_res why)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->eof = true;
	if (s->tls)
		secure_over(s, why);
	else if (why != RING_EOF)
		s->sink->n.resets++;
	if (why != RING_EOF) {
		s->over = true;
		stream_close(st);
	} else if (!s->paused) {
		finish(s); /* commands that were complete have their replies */
	}
}

static void on_open(struct stream *st)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	secure_opened(s);
	s->phase = s->sink->tls ? PH_GREETING : PH_COMMAND;
	if (s->phase == PH_GREETING)
		greet(s);
	mind_reading(s);
}

static void on_drained(struct stream *st)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->choked = false;
	mind_reading(s);
}

static void on_broken(struct stream *st, enum ring_res why)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);

	s->sink->n.resets++;
	s->over = true;
	stream_close(st);
}

static void on_closed(struct stream *st)
{
	struct sess *s = CONTAINER_OF(st, struct sess, st);
	struct sink *k = s->sink;

	if (s->mail)
		k->n.aborted++;
	if (s->tls)
		tls_release(s->tls);
	keep_free(s->keep);
	stash_clear(&s->stash, &k->rig.stashes);
	timer_stop(&k->rig.timers, &s->timer);
	list_remove(&s->node);
	k->n.open--;
	slab_put(&k->slab, s);
}

static const struct stream_events session_events = {
	.on_bytes = on_bytes,
	.on_end = on_end,
	.on_drained = on_drained,
	.on_broken = on_broken,
	.on_open = on_open,
	.on_closed = on_closed,
};

void session_open(struct sink *k, struct ring_fd fd)
{
	struct sess *s = slab_get(&k->slab);

	if (!s) {
		k->n.overloads++;
		ring_close_fd(k->rig.ring, &fd);
		return;
	}
	memset(s, 0, sizeof(*s));
	s->sink = k;
	s->number = ++k->n.sessions;
	s->active_ms = rig_now_ms(&k->rig);
	list_init(&s->node);
	list_push_back(&k->sessions, &s->node);
	timer_init(&s->timer, on_session_timer);
	k->n.open++;
	stream_adopt(&s->st, &k->rig.streams, &session_events, fd);
	timer_set(&k->rig.timers, &s->timer, s->active_ms + k->timeout_us / 1000);
	if (k->tls)
		secure_begin(s);
	else
		greet(s);
	mind_reading(s);
}
