/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The last act of every event: take as much input as may be taken, then derive from the state what
 * follows: whether each side is read, which clock runs, whether the session is over. Nothing here
 * remembers a decision; the same state settles the same way.
 *
 * Failure modes: somebody stands still (the client, or an upstream that does not take what is there
 * for it), the staging memory is full. One timer per session serves all clocks; it may fire early
 * and is then set again.
 */
#include "engine/session/session_int.h"

#define INQ_PAUSE_BYTES (16u << 10) /* waiting input that stops reading */
#define PRESSURE_COMMAND_MS 10000u
#define PRESSURE_LOOK_MS 5000u /* at the rate of a body, whether anything comes or not */
#define LINGER_MS 2000
#define DOZE_MS 5000u /* of silence: see stream_doze() */

void sess_client_turn(struct session *s)
{
	/* A handshake has one deadline, whatever trickles. */
	if (s->phase != PHASE_TLS)
		s->client_since_ms = sess_now_ms(s);
}

/* ---- taking input ---- */

/* True while the next command must wait. */
static bool stalled(const struct session *s)
{
	const struct link *l = s->link;

	if (queue_sync(s) || queue_full(s) || s->end_when_idle != END_NONE)
		return true;
	if (hook_waits(&s->seat) && !hook_answered(&s->seat))
		return true;
	if (s->penalty_until_ms > sess_now_ms(s) || stream_backlog(&s->cli) > STREAM_HIGH_BYTES)
		return true;
	if (!l)
		return false;
	/* Behind a server without PIPELINING, one at a time (RFC 2920 3.1). */
	return stream_backlog(&l->st) > STREAM_HIGH_BYTES ||
	       (s->q_upstream > 0 && !caps_has(&s->caps, EXT_PIPELINING));
}

/* One command, or one piece of a body; octets used. */
static size_t take(struct session *s, struct span in, int32_t buf)
{
	switch ((enum sess_phase)s->phase) {
	case PHASE_COMMAND:
		return stalled(s) ? 0 : sess_take_commands(s, in);
	case PHASE_BODY:
		return body_take(s, in, buf);
	case PHASE_CHUNK:
		return chunk_take(s, in, buf);
	case PHASE_AUTH:
		return sess_take_auth_line(s, in);
	case PHASE_OPAQUE:
		return opaque_take(s, in, buf);
	case PHASE_TLS:
		return secure_take(s, in);
	case PHASE_GREETING:
	case PHASE_HELD:
		return 0;
	case PHASE_ENDING:
		return in.n;
	}
	ASSERT(false);
}

static size_t take_all(struct session *s, struct span in, int32_t buf)
{
	size_t at = 0;

	while (at < in.n) {
		size_t n = take(s, span_drop(in, at), buf);

		queue_emit_local(s);
		if (n == 0)
			break;
		at += n;
	}
	return at;
}

void sess_input(struct session *s, struct span data, int32_t buf)
{
	size_t used = 0;

	if (s->inq.bytes == 0 && !s->line_waits)
		used = take_all(s, data, buf);
	if (s->end == END_NONE && used < data.n &&
		!inq_add(&s->inq, &s->core->streams.cells, span_drop(data, used)))
		sess_end(s, END_MEMORY);
}

static void take_waiting(struct session *s)
{
	queue_emit_local(s);
	if (s->line_waits && s->phase == PHASE_COMMAND && !stalled(s)) {
		(void)sess_take_commands(s, SPAN_LIT(""));
		queue_emit_local(s);
	}
	while (s->inq.bytes > 0) {
		size_t used = take_all(s, inq_front(&s->inq), -1);

		/* Ending the session empties the queue of waiting input itself. */
		if (used == 0 || s->inq.bytes == 0)
			break;
		inq_drop(&s->inq, &s->core->streams.cells, used);
	}
}

/* ---- settling: what follows from the state ---- */

/* One direction is over: its end goes on to the other side, behind all its octets. */
static void pass_end(struct stream *to, bool *told)
{
	if (*told)
		return;
	*told = stream_shut(to); /* else on_drained() comes */
}

static bool input_over(const struct session *s)
{
	return s->client_eof && s->inq.bytes == 0 && !s->line_waits;
}

/* The client has closed its side and all it sent was taken. */
static void settle_eof(struct session *s)
{
	/* An AUTH exchange waits for a line that cannot come. */
	bool midway = s->phase == PHASE_BODY || s->phase == PHASE_CHUNK || s->phase == PHASE_AUTH;

	/* One that has said all it has to say may wait for a verdict with its side closed. */
	if (!input_over(s) || s->phase == PHASE_OPAQUE || s->phase == PHASE_HELD || s->end_held ||
		s->connecting)
		return;
	if (midway)
		sess_client_gone(s, END_CLIENT_EOF);
	else if (!queue_owes(s))
		sess_end(s, END_CLIENT_EOF);
}

static void settle_idle(struct session *s)
{
	if (s->core->draining && s->end_when_idle == END_NONE && !s->txn &&
		(s->phase == PHASE_COMMAND || s->phase == PHASE_GREETING))
		s->end_when_idle = END_DRAINING;
	/* Beyond the error limit only a message that may have been taken is still worth an answer.
	 */
	bool idle = s->end_when_idle == END_ERRORS ? !queue_has_final(s) : !queue_owes(s);

	if (s->end_when_idle != END_NONE && idle &&
		(s->phase == PHASE_COMMAND || s->phase == PHASE_GREETING)) {
		/* A draining session whose client has begun a transaction meanwhile goes on. */
		if (s->end_when_idle == END_DRAINING && s->txn)
			s->end_when_idle = END_NONE;
		else
			sess_end(s, (enum sess_end)s->end_when_idle);
	}
}

/* Going down: a client in its handshake that no upstream knows of has nothing to lose. */
static void settle_handshake(struct session *s)
{
	if (s->phase == PHASE_TLS && s->core->draining && !s->link)
		sess_client_gone(s, END_DRAINING);
}

static void settle_opaque(struct session *s)
{
	if (s->phase != PHASE_OPAQUE)
		return;
	opaque_open(s);
	if (s->up_ended)
		pass_end(&s->link->st, &s->up_told);
	if (s->down_ended)
		pass_end(&s->cli, &s->down_told);
	if (s->up_told && s->down_told)
		sess_end(s, END_OPAQUE);
}

/* The mover reads the descriptor itself, or is about to. */
static bool move_reads(const struct move *m)
{
	return move_running(m) && m->took;
}

/* The hooks have not let it in, so nobody is there for its first octets yet. */
static bool handshake_waits(const struct session *s)
{
	return s->phase == PHASE_TLS && s->connecting;
}

/* Room on the other side, with hysteresis: `reading` is how it is now. */
static bool room(const struct stream *to, bool reading)
{
	return stream_backlog(to) <= (reading ? STREAM_HIGH_BYTES : STREAM_LOW_BYTES);
}

static void settle_reading(struct session *s)
{
	struct link *l = s->link;
	bool reading = s->cli.want_read;

	if (!move_reads(s->up))
		stream_read(&s->cli, !s->client_eof && !handshake_waits(s) &&
					     s->inq.bytes < INQ_PAUSE_BYTES &&
					     (!l || l->state < LINK_UP || room(&l->st, reading)));
	if (l && link_may_pause(l) && !move_reads(s->down))
		stream_read(&l->st, !l->held && room(&s->cli, l->st.want_read));
}

/* The upstream does not take what is there for it. */
static bool upstream_blocked(const struct session *s)
{
	if (!s->link || !link_up(s->link))
		return false;
	return !stream_flushed(&s->link->st) || (move_running(s->up) && move_holds(s->up));
}

/* How long the phase may stand still: because of the client, or, in a body that the upstream does
 * not take, because of the upstream. 0: nothing is waited for. */
static uint32_t phase_patience_ms(const struct session *s)
{
	const struct conf_listener_timeouts *t = &s->lis->timeouts;

	switch ((enum sess_phase)s->phase) {
	case PHASE_COMMAND:
	case PHASE_AUTH:
		if (upstream_blocked(s))
			return s->lis->upstream->timeouts.send;
		/* What has come and waits, for a reply, a link or because of our own delay, is no
		 * silence. */
		if (s->q_count > 0 || (s->link && !link_up(s->link)) || s->inq.bytes > 0 ||
			s->line_waits)
			return 0;
		return s->core->pressure ? MIN_OF(t->command, PRESSURE_COMMAND_MS) : t->command;
	case PHASE_BODY:
	case PHASE_CHUNK:
		/* Somebody else takes his time. */
		if (s->end_held || hook_full(&s->seat))
			return 0;
		return upstream_blocked(s) ? s->lis->upstream->timeouts.send : t->data;
	case PHASE_HELD:
		return upstream_blocked(s) ? s->lis->upstream->timeouts.send : 0;
	case PHASE_OPAQUE:
		return t->command;
	case PHASE_TLS:
		if (handshake_waits(s))
			return 0;
		return s->core->pressure ? MIN_OF(t->tls, PRESSURE_COMMAND_MS) : t->tls;
	case PHASE_ENDING:
		if (s->lingering)
			return s->down_told ? LINGER_MS : 0;
		/* What a mover lent to the kernel may still wait for the client's acknowledgement.
		 */
		return s->client_open ? t->send : 0;
	case PHASE_GREETING:
		return 0;
	}
	ASSERT(false);
}

/* The same, and a client that does not read. What was just staged leaves at the end of the turn and
 * is no sign of that yet, so the longer of two clocks must not hide the shorter. */
static uint32_t client_patience_ms(const struct session *s)
{
	uint32_t phase, send = s->lis->timeouts.send;

	if (s->client_gone)
		return 0; /* its stream closes by itself */
	phase = phase_patience_ms(s);
	if (stream_flushed(&s->cli))
		return phase;
	return phase ? MIN_OF(phase, send) : send;
}

/* Everybody has said what was to be said: the client may be silent for long. */
static bool resting(const struct session *s)
{
	return (s->phase == PHASE_COMMAND || s->phase == PHASE_OPAQUE) && !s->client_gone &&
	       !upstream_blocked(s) && phase_patience_ms(s) != 0;
}

static void settle_doze(struct session *s)
{
	if (!resting(s) || sess_now_ms(s) < s->client_since_ms + DOZE_MS)
		return;
	stream_doze(&s->cli);
	if (s->link)
		stream_doze(&s->link->st);
}

static uint64_t client_deadline_ms(struct session *s)
{
	uint32_t patience = client_patience_ms(s);
	uint64_t at = patience ? s->client_since_ms + patience : UINT64_MAX, now = sess_now_ms(s);

	/* A mover works without events of ours: whether the upstream has stopped taking is looked
	 * at now and then. */
	if (s->phase == PHASE_CHUNK || upstream_blocked(s))
		at = MIN_OF(at, now + s->lis->upstream->timeouts.send);
	if (s->core->pressure && (s->phase == PHASE_BODY || s->phase == PHASE_CHUNK))
		at = MIN_OF(at, now + PRESSURE_LOOK_MS);
	if (s->penalty_until_ms > now)
		at = MIN_OF(at, s->penalty_until_ms);
	if (s->client_since_ms + DOZE_MS > now && resting(s))
		at = MIN_OF(at, s->client_since_ms + DOZE_MS);
	return at;
}

/* Octets taken by either kernel: a side that reads slowly is not a side that does not read. */
static uint64_t progress(const struct session *s)
{
	return s->cli.bytes_out + (s->link ? s->link->st.bytes_out : 0);
}

/* The timer may fire early and be set again; it is moved only when it would fire late. */
static void settle_timer(struct session *s)
{
	if (progress(s) != s->seen_out) {
		s->seen_out = progress(s);
		if (!stream_flushed(&s->cli) || upstream_blocked(s))
			sess_client_turn(s);
	}
	uint64_t at = client_deadline_ms(s);

	if (at != UINT64_MAX && (!timer_armed(&s->timer) || s->timer.at_ms > at))
		timer_set(&s->core->timers, &s->timer, at);
}

/* Closing while the client is still sending would reset the connection and take our last words with
 * it (RFC 1122 4.2.2.13): say that no more comes, and listen on for a moment. */
static void linger(struct session *s)
{
	if (!s->lingering || !s->client_open)
		return;
	if (s->client_eof || s->client_gone) {
		s->lingering = false;
		stream_finish(&s->cli);
		return;
	}
	if (!s->down_told) {
		pass_end(&s->cli, &s->down_told);
		sess_client_turn(s);
	}
	stream_read(&s->cli, true);
}

bool sess_over(const struct session *s)
{
	return !s->client_open && !s->link && !move_running(s->up) && !move_running(s->down);
}

/* Nobody is there any more and the last reply came: the link can go. */
static void settle_ended(struct session *s)
{
	queue_emit_local(s);
	if (!s->link)
		queue_clear(s);
	else if (!queue_has_committed(s))
		sess_finish_link(s);
	linger(s);
	/* Freed from the timer: the caller may still be inside an event of the session. */
	if (sess_over(s))
		timer_set(&s->core->timers, &s->timer, 0);
	else
		settle_timer(s);
}

void sess_step(struct session *s)
{
	if (s->link && s->link->held && s->phase != PHASE_CHUNK && s->phase != PHASE_TLS) {
		/* It answers the chunk that has just left, or came in the middle of a handshake,
		 * and comes back here. */
		link_resume(s->link);
		return;
	}
	if (s->end == END_NONE && s->connecting)
		sess_settle_connect(s);
	if (s->end == END_NONE && s->end_held)
		body_settle_end(s);
	if (s->end == END_NONE && s->phase == PHASE_HELD)
		hold_settle(s);
	if (s->end == END_NONE)
		take_waiting(s);
	if (s->end == END_NONE && body_too_slow(s))
		sess_end(s, END_CLIENT_SLOW);
	if (s->end == END_NONE)
		settle_eof(s);
	if (s->end == END_NONE)
		settle_idle(s);
	if (s->end == END_NONE)
		settle_handshake(s);
	if (s->end == END_NONE)
		settle_opaque(s);
	if (s->end != END_NONE) {
		settle_ended(s);
		return;
	}
	settle_reading(s);
	settle_doze(s);
	settle_timer(s);
	/* Nothing is queued, no question is open (what a hook has said to it may still be the
	 * answer), and what is being built neither was refused nor is thrown away. */
	if (s->seat.said && s->q_count == 0 && !s->seat.deferred && !hook_waits(&s->seat) &&
		(!s->txn || (!s->txn->refused && !s->txn->discard && s->phase != PHASE_BODY &&
				    s->phase != PHASE_HELD)) &&
		!s->discard)
		hook_forget_replies(&s->core->hooks, &s->seat);
}

static void stood_still(struct session *s)
{
	if (s->end != END_NONE) {
		sess_client_gone(s, (enum sess_end)s->end);
	} else if (s->phase == PHASE_TLS) {
		secure_too_slow(s);
	} else if (!stream_flushed(&s->cli)) {
		sess_client_gone(s, END_CLIENT_SILENT);
	} else if (upstream_blocked(s)) {
		STAT_INC(s->core->stats, timeouts_upstream);
		sess_drop_link(s, LINK_TIMEOUT);
		sess_client_turn(s);
	} else if (queue_has_committed(s)) {
		/* An earlier message may have been taken: its reply is worth waiting for. */
		sess_client_turn(s);
	} else {
		STAT_INC(s->core->stats, timeouts_client);
		sess_end(s, END_CLIENT_SILENT);
	}
}

void sess_timer(struct timer *t)
{
	struct session *s = CONTAINER_OF(t, struct session, timer);
	uint32_t patience;

	if (sess_over(s)) {
		sess_free(s);
		return;
	}
	patience = client_patience_ms(s);
	if (patience != 0 && s->client_since_ms + patience <= sess_now_ms(s) &&
		progress(s) == s->seen_out)
		stood_still(s);
	sess_step(s);
}
