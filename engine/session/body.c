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
#define SLOW_BODY_RATE 500     /* octets a second */
#define EOD_BYTES 3	       /* ".CRLF" ends the message and is not part of it */
#define LOOK_BYTES (64u << 10) /* behind so many, hooks and spools may have had enough */

static const struct move_events body_move_events;

/* ---- DATA ---- */

/* Of a body: all of it, or a chunk. */
static void part_begins(struct session *s)
{
	s->txn->part_bytes = s->txn->bytes;
	s->txn->part_waited_us = stream_waited_us(&s->cli);
}

static void begin(struct session *s, enum body_fate fate, const struct local_reply *reply)
{
	scan_init(&s->txn->scan, s->lis->bare_newlines);
	s->txn->body_begun = true;
	s->txn->body_us = ring_now_us(s->core->ring);
	part_begins(s);
	s->phase = PHASE_BODY;
	s->fate = (uint8_t)fate;
	s->body_reply = reply;
	sess_client_turn(s);
}

/* A field's name may begin with a dot. */
static void put_fields(struct stream *to, struct span fields)
{
	struct dots dots = {0};

	while (fields.n > 0) {
		struct span run;
		bool dot;
		size_t used = dots_stuff(&dots, fields, &run, &dot);

		if (dot)
			stream_put(to, SPAN_LIT("."));
		stream_put(to, run);
		fields = span_drop(fields, used);
	}
}

void body_begin(struct session *s)
{
	struct stash *headers = &s->txn->headers;

	begin(s, BODY_PASS, NULL);
	put_fields(&s->link->st, stash_span(headers));
	stash_clear(headers, &s->core->stashes);
}

void body_discard(struct session *s)
{
	queue_local(s, &sess_replies[REPLY_GO_AHEAD]);
	begin(s, BODY_SWALLOW, s->txn->discard);
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

/* All of a message that nobody gets is here. */
static void discarded(struct session *s)
{
	struct txn *t = s->txn;

	txn_discard(t, t->stage, t->discard);
	sess_count_message(s);
}

/* What the upstream has said in mid-message, or else `r`. */
static void answer_end(struct session *s, const struct txn *t, const struct local_reply *r)
{
	unsigned code = t->code;

	if (t->early.len == 0) {
		queue_local(s, r);
		return;
	}
	sess_put_reply(s, stash_span(&t->early), t->early_bare_lf);
	sess_count_reply(s, code);
	if (smtp_says_goodbye(code))
		sess_end(s, END_UPSTREAM_SAID);
}

static void finish_swallowed(struct session *s)
{
	struct txn *t = s->txn;

	/* DATA is waited for, so nothing stands before this reply. */
	ASSERT(s->q_count == 0);
	if (t->discard && s->body_reply == t->discard)
		discarded(s);
	s->phase = PHASE_COMMAND;
	s->txn = NULL;
	sess_client_turn(s);
	answer_end(s, t, s->body_reply);
	/* When it is still there it was told the envelope only. */
	sess_reset_upstream(s);
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
	s->chunk_left = s->up ? s->up->left : 0; /* an empty chunk has no move */
	if (s->chunk_left == 0)
		chunk_done(s);
}

static void start_swallowing(struct session *s, const struct local_reply *r)
{
	if (s->txn)
		hold_drop(s->txn);
	s->fate = BODY_SWALLOW;
	s->body_reply = r;
}

void body_refuse(struct session *s, const struct local_reply *r)
{
	bool sent = s->fate == BODY_PASS;

	txn_reject(s->txn, "body", NULL, r, true);
	start_swallowing(s, r);
	if (sent)
		sess_drop_link(s, LINK_DROPPED);
}

void body_link_lost(struct session *s)
{
	if (s->phase == PHASE_HELD) {
		hold_link_lost(s);
	} else if (s->phase == PHASE_BODY && s->fate != BODY_SWALLOW) {
		txn_abort(s->txn, "body", s->lost_word);
		start_swallowing(s, &sess_replies[REPLY_LOST]);
	} else if (s->phase == PHASE_CHUNK && s->fate == BODY_KEEP) {
		start_swallowing(s, &sess_replies[REPLY_LOST]);
	} else if (s->phase == PHASE_CHUNK && s->fate == BODY_PASS) {
		s->fate = BODY_SWALLOW; /* answered in its slot */
		if (move_running(s->up))
			move_stop(s->up);
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
	uint64_t max = hold_message_max(s);

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

static const struct local_reply *keep(struct session *s, const struct scan_step *step)
{
	const struct local_reply *no = NULL;

	if (step->lead_cr)
		no = hold_add(s, SPAN_LIT("\r"));
	if (!no && step->pass.n)
		no = hold_add(s, step->pass);
	if (!no && step->tail.n)
		no = hold_add(s, step->tail);
	return no;
}

/* A CR at the end of a piece is shown with the next: it may turn out to be one of the end's. */
static void show_piece(struct session *s, struct span piece)
{
	struct txn *t = s->txn;

	if (piece.n == 0)
		return;
	if (t->cr_unseen)
		sess_show_stuffed(s, &t->dots, SPAN_LIT("\r"));
	t->cr_unseen = piece.p[piece.n - 1] == '\r';
	piece.n -= t->cr_unseen;
	sess_show_stuffed(s, &t->dots, piece);
}

/* To the hooks that see it as it comes. */
static void show(struct session *s, const struct scan_step *step)
{
	/* Of the end, only its LF has come with this step. */
	if (step->end == SCAN_DONE && s->end_held == 1)
		s->txn->cr_unseen = false;
	if (step->lead_cr)
		show_piece(s, SPAN_LIT("\r"));
	show_piece(s, step->pass);
	show_piece(s, step->tail);
	if (step->end == SCAN_DONE && s->txn->cr_unseen)
		sess_show_stuffed(s, &s->txn->dots, SPAN_LIT("\r"));
}

/* ---- the end of the data, and the verdict on it ---- */

/* Takes what of ".CRLF" is in this step out of it; the rest has left with an earlier one: the dot
 * at most, as a CR at the end of a piece waits in the scanner (but for `bare-newlines: pass`, whose
 * servers are strict). Without its LF it is no end to them. */
static void hold_end_octets(struct session *s, struct scan_step *step)
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

	if (s->txn->chunked)
		stream_put(&s->link->st, SPAN_LIT("BDAT 0 LAST\r\n"));
	else
		stream_put(&s->link->st, span_of(end + EOD_BYTES - s->end_held, s->end_held));
	s->end_held = 0;
	finish_passed(s);
}

/* All chunks are with the upstream, which waits for the last: it can still be told to forget them.
 */
static void chunks_end(struct session *s, const struct local_reply *r)
{
	s->end_held = 0;
	s->phase = PHASE_COMMAND;
	sess_client_turn(s);
	answer_end(s, s->txn, r);
	sess_reset_upstream(s);
	txn_leave(s, NULL);
}

static void end_refused(struct session *s, const struct local_reply *no)
{
	if (s->txn->chunked) {
		txn_reject(s->txn, "body", NULL, no, true);
		chunks_end(s, no);
		return;
	}
	s->end_held = 0;
	body_refuse(s, no);
	finish_swallowed(s);
}

/* As if it had been refused, but for what the client hears. */
static void end_discarded(struct session *s, const struct local_reply *r)
{
	s->txn->discard = r;
	if (s->txn->chunked) {
		discarded(s);
		chunks_end(s, r);
		return;
	}
	s->end_held = 0;
	start_swallowing(s, r);
	sess_drop_link(s, LINK_DROPPED);
	finish_swallowed(s);
}

static enum hook_said ask_about_end(struct session *s, struct hook_word *word)
{
	return sess_ask(s, &(struct hook_event){.point = HOOK_END_OF_DATA}, word);
}

/* Everything but the end has been passed. */
static void end_judged(struct session *s, enum hook_said said, const struct hook_word *word)
{
	switch (said) {
	case HOOK_PASS:
		end_goes(s);
		break;
	case HOOK_NO:
		end_refused(s, word->reply);
		break;
	case HOOK_DISCARD:
		end_discarded(s, word->reply);
		break;
	case HOOK_LATER:
		break;
	case HOOK_FEED:
		ASSERT(false); /* only of messages that are kept: hold.c */
	}
}

/* All of it is here. What of the end came with an earlier piece is in the spool. */
static void all_kept(struct session *s)
{
	uint64_t n = hold_bytes(s) - (uint64_t)(EOD_BYTES - s->end_held);

	s->end_held = 0;
	hold_judge(s, n);
	hold_settle(s);
}

static void keep_failed(struct session *s, const struct local_reply *no, bool done)
{
	s->end_held = 0;
	body_refuse(s, no);
	if (done)
		finish_swallowed(s);
}

void body_settle_end(struct session *s)
{
	struct hook_word word;

	if (s->fate == BODY_PASS) {
		end_judged(s, ask_about_end(s, &word), &word);
		return;
	}
	/* The upstream was lost, or has refused it meanwhile: no verdict is needed any more. */
	hook_forget(&s->core->hooks, &s->seat);
	if (s->txn->chunked) {
		chunks_end(s, s->body_reply);
		return;
	}
	s->end_held = 0;
	finish_swallowed(s);
}

void body_mail_refused(struct session *s)
{
	queue_own_part(s, s->txn);
	if (!s->end_held)
		return;
	hook_forget(&s->core->hooks, &s->seat);
	s->end_held = 0;
	s->phase = PHASE_COMMAND;
	sess_client_turn(s);
}

void chunk_part_refused(struct session *s, struct txn *t, const struct smtp_reply *r)
{
	/* The hooks have refused it already, and the client was told. */
	if (t->settled)
		return;
	txn_reject(t, "body", r, NULL, true);
	sess_put_reply(s, r->raw, r->bare_lf);
	sess_count_reply(s, r->code);
	/* They have passed it: whatever the server makes of "BDAT 0 LAST" now. */
	queue_disown_final(s, t);
	/* In mid-chunk: the rest has to go where it was announced. */
	if (s->txn == t && s->phase == PHASE_CHUNK)
		return;
	/* The client's next MAIL may stand behind "BDAT 0 LAST". */
	if (s->txn && s->txn != t)
		return;
	sess_reset_upstream(s);
	if (!s->txn)
		return;
	hook_forget(&s->core->hooks, &s->seat);
	s->end_held = 0;
	s->phase = PHASE_COMMAND;
	txn_leave(s, NULL);
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

void body_keep(struct session *s)
{
	queue_local(s, &sess_replies[REPLY_GO_AHEAD]);
	begin(s, BODY_KEEP, NULL);
}

void body_sent(struct session *s)
{
	finish_passed(s);
}

/* Somebody who is to get it has enough for now. */
static bool must_wait(const struct session *s)
{
	return hook_full(&s->seat) || (s->fate == BODY_KEEP && hold_full(s));
}

static bool shown(const struct session *s)
{
	return hook_wanted(&s->core->hooks, s->lis, HOOK_BODY);
}

/* A receive brings more at once than those should have waiting who cannot go as fast. What they do
 * not get now waits as input. */
static struct span next_look(const struct session *s, struct span in)
{
	if (s->fate == BODY_KEEP || shown(s))
		in.n = MIN_OF(in.n, (size_t)LOOK_BYTES);
	return in;
}

static void keep_step(struct session *s, struct scan_step *step)
{
	bool done = step->end == SCAN_DONE;
	const struct local_reply *no;

	if (done)
		hold_end_octets(s, step);
	if (shown(s))
		show(s, step);
	no = keep(s, step);
	if (no)
		keep_failed(s, no, done);
	else if (done)
		all_kept(s);
}

/* The step with the end in it. What the hooks allow at once leaves whole, in one segment; else all
 * but the end leaves, and that waits. */
static void pass_last(struct session *s, const struct scan_step *whole, int32_t buf)
{
	struct scan_step step = *whole;
	struct hook_word word;
	enum hook_said said;

	hold_end_octets(s, &step);
	if (shown(s))
		show(s, &step);
	said = ask_about_end(s, &word);
	if (said == HOOK_PASS) {
		s->end_held = 0;
		pass(s, whole, buf);
		finish_passed(s);
		return;
	}
	if (said == HOOK_LATER)
		pass(s, &step, buf);
	end_judged(s, said, &word);
}

static void pass_step(struct session *s, struct scan_step *step, int32_t buf)
{
	bool done = step->end == SCAN_DONE;

	if (done && (shown(s) || hook_wanted(&s->core->hooks, s->lis, HOOK_END_OF_DATA))) {
		pass_last(s, step, buf);
		return;
	}
	if (shown(s))
		show(s, step);
	pass(s, step, buf);
	if (done)
		finish_passed(s);
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
		if (must_wait(s))
			break;
		scan_feed(&s->txn->scan, next_look(s, span_drop(in, at)), &step);
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
		if (s->fate == BODY_KEEP)
			keep_step(s, &step);
		else
			pass_step(s, &step, buf);
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
	if (s->phase == PHASE_CHUNK && s->fate == BODY_PASS && move_running(s->up) &&
		move_maybe_done(s->up))
		mark_chunk(s);
}

/* The octets of the last chunk have gone: its end waits for the hooks. */
static void part_done(struct session *s)
{
	s->chunk_part = false;
	/* MAIL was refused meanwhile. */
	if (!s->txn) {
		mark_chunk(s);
		return;
	}
	if (s->txn->settled && s->txn->outcome == TXN_REJECTED) {
		/* By the upstream, before it had all of it; the client was told. */
		sess_reset_upstream(s);
		txn_leave(s, NULL);
		return;
	}
	queue_release_tail(s);
	s->phase = PHASE_BODY;
	s->end_held = 1;
	body_settle_end(s);
}

static void chunk_done(struct session *s)
{
	const struct local_reply *reply = s->body_reply;
	bool discards = s->txn && s->txn->discard && reply == s->txn->discard;

	s->phase = PHASE_COMMAND;
	sess_client_turn(s);
	if (s->fate == BODY_PASS && s->chunk_part)
		part_done(s);
	else if (s->fate == BODY_PASS)
		mark_chunk(s);
	else if (reply)
		queue_local(s, reply);
	if (discards) {
		discarded(s);
		sess_reset_upstream(s);
	}
	if (s->fate == BODY_KEEP && s->chunk_last) {
		hold_judge(s, hold_bytes(s));
		hold_settle(s);
	} else if (s->fate == BODY_SWALLOW && s->chunk_last) {
		txn_leave(s, NULL);
	}
}

/* Plain octets of a message that is kept. */
static size_t keep_chunk(struct session *s, struct span in)
{
	size_t n = MIN_OF(in.n, s->chunk_left);
	const struct local_reply *no;

	if (must_wait(s))
		return 0;
	in = span_of(in.p, n);
	if (shown(s))
		sess_show(s, in);
	no = hold_add(s, in);
	if (no) {
		s->txn->refused = no;
		txn_reject(s->txn, "body", NULL, no, true);
		start_swallowing(s, no);
		sess_reset_upstream(s);
	}
	s->chunk_left -= n;
	s->txn->bytes += n;
	sess_client_turn(s);
	if (s->chunk_left == 0)
		chunk_done(s);
	return n;
}

/* Octets that hooks want to see must come by. */
static enum mover mover_for(const struct session *s)
{
	return shown(s) ? MOVER_COPY : s->lis->upstream->mover;
}

static void start_move(struct session *s, struct move **m, enum mover way, struct stream *from,
	struct stream *to, uint64_t n)
{
	if (!*m) {
		struct sess_move *sm = slab_get(&s->core->moves);

		ASSERT(sm); /* there are two for each session */
		sm->s = s;
		*m = &sm->move;
	}
	move_start(*m, &body_move_events, way, from, to, n);
}

void chunk_begin(
	struct session *s, uint64_t n, enum body_fate fate, const struct local_reply *reply)
{
	s->phase = PHASE_CHUNK;
	s->fate = (uint8_t)fate;
	s->body_reply = reply;
	s->chunk_left = n;
	if (s->txn)
		part_begins(s);
	if (n == 0)
		chunk_done(s);
	else if (fate == BODY_PASS)
		start_move(s, &s->up, mover_for(s), &s->cli, &s->link->st, n);
	sess_client_turn(s);
}

static size_t swallow_chunk(struct session *s, struct span in)
{
	size_t n = MIN_OF(in.n, s->chunk_left);

	/* A mover that is being stopped still reads the socket: what comes after it is counted
	 * then. */
	if (move_running(s->up))
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
	if (s->fate == BODY_KEEP)
		return keep_chunk(s, next_look(s, in));
	if (must_wait(s))
		return 0;
	size_t n = move_bytes(s->up, next_look(s, in), buf);

	if (s->txn) {
		s->txn->bytes += n;
		if (shown(s))
			sess_show(s, span_of(in.p, n));
	}
	sess_client_turn(s);
	if (!move_running(s->up))
		chunk_done(s);
	return n;
}

/* ---- movers ---- */

static struct session *move_session(struct move *m, bool *is_up)
{
	struct session *s = CONTAINER_OF(m, struct sess_move, move)->s;

	*is_up = m == s->up;
	return s;
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
	start_move(s, &s->down, way, &s->link->st, &s->cli, MOVE_OPAQUE);
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
	start_move(s, &s->up, s->lis->upstream->mover, &s->cli, &s->link->st, MOVE_OPAQUE);
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
	return move_running(s->up) ? move_bytes(s->up, in, buf) : in.n;
}
