/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Message octets. DATA: every octet passes the scanner; what may leave is sent from the buffer it
 * arrived in. BDAT and what follows STARTTLS: counted or opaque, so a mover carries it.
 *
 * A DATA body cannot be taken back once it has begun: to refuse it, the link is dropped without
 * the dot (a server discards an unfinished message, RFC 5321 4.1.1.4), the rest is swallowed up to
 * the true end, and only then the client hears why. A BDAT body is framed: RSET takes it back and
 * the link stays.
 */
#include "engine/session/session_int.h"

#define SLOW_BODY_GRACE_S 10
#define SLOW_BODY_RATE 500 /* octets a second */
#define EOD_BYTES 3	   /* ".CRLF" ends the message and is not part of it */

static const struct move_events body_move_events;

/* ---- DATA ---- */

/* Of a body: all of it, or a chunk. */
static void part_begins(struct session *s)
{
	s->txn->part_bytes = s->txn->bytes;
	s->txn->part_waited_us = stream_waited_us(&s->cli);
}

void body_begin(struct session *s)
{
	scan_init(&s->txn->scan, s->lis->bare_newlines);
	s->txn->body_begun = true;
	s->txn->body_us = ring_now_us(s->core->ring);
	part_begins(s);
	s->phase = PHASE_BODY;
	s->fate = BODY_PASS;
	s->body_reply = NULL;
	sess_client_turn(s);
}

/* The dot has been staged: the reply it is due goes into the queue with the transaction. */
static void finish_passed(struct session *s)
{
	struct txn *t = s->txn;

	t->dot_us = ring_now_us(s->core->ring);
	queue_upstream(s, SLOT_FINAL, false, t);
	s->txn = NULL;
	s->phase = PHASE_COMMAND;
	txn_unref(t);
}

static void finish_swallowed(struct session *s)
{
	struct txn *t = s->txn;

	s->phase = PHASE_COMMAND;
	s->txn = NULL;
	sess_client_turn(s);
	/* DATA is waited for, so nothing stands before this reply. */
	ASSERT(s->q_count == 0);
	if (t->early.len > 0) {
		sess_put_reply(s, stash_span(&t->early), t->early_bare_lf);
		sess_count_reply(s, t->code);
		if (smtp_says_goodbye(t->code))
			sess_end(s, END_UPSTREAM_SAID);
	} else {
		queue_local(s, s->body_reply);
	}
	txn_unref(t);
}

static size_t swallow(struct session *s, struct span in)
{
	bool done = false;
	size_t used = scan_swallow(&s->txn->scan, in, &done);

	s->txn->bytes += used;
	if (done) {
		s->txn->bytes -= EOD_BYTES;
		finish_swallowed(s);
	}
	return used;
}

static void chunk_done(struct session *s);

/* The mover has let go of the client: what it had not taken is swallowed. */
static void swallow_left(struct session *s)
{
	s->chunk_left = s->up.left;
	if (s->chunk_left == 0)
		chunk_done(s);
}

static void start_swallowing(struct session *s, const struct local_reply *r)
{
	s->fate = BODY_SWALLOW;
	s->body_reply = r;
}

void body_refuse(struct session *s, const struct local_reply *r)
{
	txn_reject(s->txn, "body", NULL, r, true);
	start_swallowing(s, r);
	sess_drop_link(s, LINK_DROPPED);
}

void body_link_lost(struct session *s)
{
	if (s->phase == PHASE_BODY && s->fate == BODY_PASS) {
		txn_abort(s->txn, "body", s->lost_word);
		start_swallowing(s, &sess_replies[REPLY_LOST]);
	} else if (s->phase == PHASE_CHUNK && s->fate == BODY_PASS) {
		s->fate = BODY_SWALLOW;
		if (move_running(&s->up))
			move_stop(&s->up);
		else
			swallow_left(s);
	}
}

void body_early_reply(struct session *s, const struct smtp_reply *r)
{
	STAT_INC(s->core->stats, early_replies);
	/* A server that takes a message it has not seen the end of, or asks for another, is not to
	 * be believed. */
	if (r->code < 400 || !stash_add(&s->txn->early, &s->core->stashes, r->raw)) {
		STAT_INC(s->core->stats, upstream_bad_replies);
		sess_drop_link(s, LINK_BAD_REPLY);
		return;
	}
	s->txn->early_bare_lf = r->bare_lf;
	txn_reject(s->txn, "body", r, NULL, true);
	start_swallowing(s, NULL);
	sess_drop_link(s, LINK_DROPPED);
}

/* What forbids the piece about to leave; NULL when nothing does. */
static const struct local_reply *objection(struct session *s, const struct scan_step *step)
{
	uint64_t max = s->lis->limits.message;

	if (step->end == SCAN_STOPPED) {
		STAT_INC(s->core->stats, smuggling_refused);
		return &sess_replies[REPLY_LOOKALIKE];
	}
	/* Until the end is seen its octets cannot be told from the message's. */
	if (max && s->txn->bytes > max + EOD_BYTES) {
		STAT_INC(s->core->stats, size_refused);
		return &sess_replies[REPLY_TOO_BIG];
	}
	return NULL;
}

static void pass(struct session *s, const struct scan_step *step, int32_t buf)
{
	struct stream *to = &s->link->st;

	if (step->lead_cr)
		stream_put(to, SPAN_LIT("\r"));
	if (step->pass.n)
		stream_pass(to, step->pass, buf);
	if (step->tail.n)
		stream_put(to, step->tail);
}

/* ---- the end of the data, and the verdict on it ---- */

/* Takes what of ".CRLF" is in this step out of it; the rest has left with an earlier one: the dot
 * at most, as a CR at the end of a piece waits in the scanner (but for `bare-newlines: pass`, whose
 * servers are strict). Without its LF it is no end to them. */
static void hold_end(struct session *s, struct scan_step *step)
{
	if (step->tail.n) {
		s->end_held = (uint8_t)step->tail.n;
		step->tail = SPAN_NONE;
		return;
	}
	s->end_held = (uint8_t)MIN_OF(step->pass.n, (size_t)EOD_BYTES);
	step->pass.n -= s->end_held;
	/* A CR that waited is one of the end's when no more than its LF is new. */
	if (step->lead_cr && s->end_held == 1) {
		step->lead_cr = false;
		s->end_held = 2;
	}
	ASSERT(s->end_held >= 1 && s->end_held <= EOD_BYTES);
}

static void end_goes(struct session *s)
{
	static const char end[] = ".\r\n";

	stream_put(&s->link->st, span_of(end + EOD_BYTES - s->end_held, s->end_held));
	s->end_held = 0;
	finish_passed(s);
}

static void end_refused(struct session *s, const struct local_reply *no)
{
	s->end_held = 0;
	body_refuse(s, no);
	finish_swallowed(s);
}

/* Everything but the end has been passed. */
static void ask_about_end(struct session *s)
{
	const struct local_reply *no;

	switch (sess_ask(s, &(struct hook_event){.point = HOOK_END_OF_DATA}, &no)) {
	case HOOK_PASS:
		end_goes(s);
		break;
	case HOOK_NO:
		end_refused(s, no);
		break;
	case HOOK_LATER:
		break;
	}
}

void body_settle_end(struct session *s)
{
	if (s->fate == BODY_PASS) {
		ask_about_end(s);
		return;
	}
	/* The upstream was lost, or has refused it meanwhile: no verdict is needed any more. */
	hook_forget_call(&s->core->hooks, &s->seat);
	s->end_held = 0;
	finish_swallowed(s);
}

/* Postfix's smtpd_min_data_rate figure: under pressure a body that trickles gives up its place. The
 * time in which the upstream did not take it is not the client's. */
bool body_too_slow(const struct session *s)
{
	const struct txn *t = s->txn;
	uint64_t secs;

	if (!s->core->pressure || !t || s->end_held ||
		(s->phase != PHASE_BODY && s->phase != PHASE_CHUNK))
		return false;
	/* The octets of a chunk that is thrown away are counted nowhere. */
	if (s->phase == PHASE_CHUNK && s->fate == BODY_SWALLOW)
		return false;
	secs = (stream_waited_us(&s->cli) - t->part_waited_us) / 1000000;
	return secs >= SLOW_BODY_GRACE_S && (t->bytes - t->part_bytes) / secs < SLOW_BODY_RATE;
}

size_t body_take(struct session *s, struct span in, int32_t buf)
{
	size_t at = 0;

	while (s->phase == PHASE_BODY && !s->end_held && at < in.n) {
		struct scan_step step;
		const struct local_reply *no;

		if (s->fate == BODY_SWALLOW) {
			at += swallow(s, span_drop(in, at));
			continue;
		}
		scan_feed(&s->txn->scan, span_drop(in, at), &step);
		at += step.used;
		s->txn->bytes += step.used;
		no = objection(s, &step);
		if (step.end == SCAN_DONE)
			s->txn->bytes -= EOD_BYTES;
		if (no) {
			body_refuse(s, no);
			if (step.end == SCAN_DONE)
				finish_swallowed(s);
			continue;
		}
		bool asked = step.end == SCAN_DONE &&
			     hook_wanted(&s->core->hooks, s->lis, HOOK_END_OF_DATA);

		if (asked)
			hold_end(s, &step);
		pass(s, &step, buf);
		if (asked)
			ask_about_end(s);
		else if (step.end == SCAN_DONE)
			finish_passed(s);
	}
	sess_client_turn(s);
	return at;
}

/* ---- BDAT ---- */

static void mark_chunk(struct session *s)
{
	queue_release_tail(s);
	if (s->chunk_last && s->txn) {
		struct txn *t = s->txn;

		t->dot_us = ring_now_us(s->core->ring);
		s->txn = NULL;
		txn_unref(t);
	}
}

void chunk_leave(struct session *s)
{
	if (s->phase == PHASE_CHUNK && s->fate == BODY_PASS && move_running(&s->up) &&
		move_maybe_done(&s->up))
		mark_chunk(s);
}

static void chunk_done(struct session *s)
{
	s->phase = PHASE_COMMAND;
	sess_client_turn(s);
	if (s->fate == BODY_PASS)
		mark_chunk(s);
}

void chunk_begin(struct session *s, uint64_t n, enum body_fate fate)
{
	s->phase = PHASE_CHUNK;
	s->fate = (uint8_t)fate;
	s->chunk_left = n;
	if (s->txn)
		part_begins(s);
	if (n == 0)
		chunk_done(s);
	else if (fate == BODY_PASS)
		move_start(&s->up, &body_move_events, s->lis->upstream->mover, &s->cli,
			&s->link->st, n);
	sess_client_turn(s);
}

static size_t swallow_chunk(struct session *s, struct span in)
{
	size_t n = MIN_OF(in.n, s->chunk_left);

	/* A mover that is being stopped still reads the socket: what comes after it is counted
	 * then. */
	if (move_running(&s->up))
		return 0;
	s->chunk_left -= n;
	sess_client_turn(s);
	if (s->chunk_left == 0)
		chunk_done(s);
	return n;
}

size_t chunk_take(struct session *s, struct span in, int32_t buf)
{
	if (s->fate == BODY_SWALLOW)
		return swallow_chunk(s, in);
	size_t n = move_bytes(&s->up, in, buf);

	if (s->txn)
		s->txn->bytes += n;
	sess_client_turn(s);
	if (!move_running(&s->up))
		chunk_done(s);
	return n;
}

/* ---- movers ---- */

static struct session *move_session(struct move *m, bool *is_up)
{
	/* Both moves are embedded; `from` tells which one it is. */
	struct session *s = CONTAINER_OF(m, struct session, up);

	*is_up = m->from == &s->cli;
	return *is_up ? s : CONTAINER_OF(m, struct session, down);
}

static void moved(struct move *m, uint64_t n)
{
	bool is_up;
	struct session *s = move_session(m, &is_up);

	if (s->phase == PHASE_CHUNK && s->txn)
		s->txn->bytes += n;
	sess_client_turn(s);
}

static void opaque_over(struct session *s, bool is_up)
{
	if (is_up)
		s->up_ended = true;
	else
		s->down_ended = true;
}

static void move_over(struct move *m, enum ring_res why, bool at_to)
{
	bool is_up;
	struct session *s = move_session(m, &is_up);

	if (s->phase == PHASE_OPAQUE) {
		opaque_over(s, is_up);
	} else if (s->phase == PHASE_CHUNK && s->fate == BODY_SWALLOW) {
		swallow_left(s);
	} else if (s->phase == PHASE_CHUNK && why == RING_OK) {
		chunk_done(s);
	} else if (s->phase == PHASE_CHUNK && at_to) {
		sess_drop_link(s, LINK_RESET); /* and with it body_link_lost() */
	} else if (s->phase == PHASE_CHUNK) {
		sess_client_gone(s, why == RING_EOF ? END_CLIENT_EOF : END_CLIENT_RESET);
	}
	sess_step(s);
}

static const struct move_events body_move_events = {.on_progress = moved, .on_end = move_over};

/* ---- behind STARTTLS ---- */

void opaque_begin(struct session *s)
{
	enum mover way = s->lis->upstream->mover;

	s->phase = PHASE_OPAQUE;
	s->opaque_mark = s->cli.bytes_out + stream_backlog(&s->cli);
	STAT_INC(s->core->stats, starttls_passed);
	move_start(&s->down, &body_move_events, way, &s->link->st, &s->cli, MOVE_OPAQUE);
	sess_client_turn(s);
}

void opaque_open(struct session *s)
{
	if (s->up_open || s->up_ended)
		return;
	if (stream_maybe_out(&s->cli) < s->opaque_mark) {
		s->up_ended |= s->client_eof;
		return;
	}
	s->up_open = true;
	move_start(&s->up, &body_move_events, s->lis->upstream->mover, &s->cli, &s->link->st,
		MOVE_OPAQUE);
}

/* What came before the 220 had left was not said by somebody who had read it: it would be taken for
 * the beginning of the handshake (RFC 3207 4.1, 6). */
size_t opaque_take(struct session *s, struct span in, int32_t buf)
{
	sess_client_turn(s);
	opaque_open(s);
	if (!s->up_open) {
		STAT_INC(s->core->stats, starttls_injection);
		sess_end(s, END_INJECTION);
		return in.n;
	}
	return move_running(&s->up) ? move_bytes(&s->up, in, buf) : in.n;
}
