/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What goes to a filter: the steps that a session owes it, in the order of enum milter_step, each
 * with its macros in front. The next one goes when the answer to the one before has come; a step
 * that the filter declined, or does not answer, costs no wait.
 *
 * The message goes field by field and in chunks as large as the protocol has them. What came of it
 * and cannot be sent yet waits here; the mail session is told at MILTER_FULL_BYTES to bring no
 * more. What was sent and did not leave is the stream's: no more than one packet is given to it on
 * top of STREAM_LOW_BYTES.
 *
 * Failure modes: a header block or a field too large for the protocol, no memory: milter_fail(). A
 * filter that owes an answer to a step of the message, or does not read, while no question is open:
 * the connection's own timer.
 */
#include "engine/hook/milter/milter_int.h"

#define CONTENT_STEPS \
	(MILTER_OWES(MILTER_AT_HEADER) | MILTER_OWES(MILTER_AT_EOH) | MILTER_OWES(MILTER_AT_BODY))

#define NO_MEMORY "no memory for the message"

/* ---- the message ---- */

static size_t content_waits(const struct milter_content *c)
{
	return c->body.n - c->body.at + c->header.n - c->header.at;
}

static void judge_room(struct milter_session *s)
{
	struct milter_content *c = &s->content;
	size_t waits = content_waits(c);

	if (!c->full && waits > MILTER_FULL_BYTES) {
		c->full = true;
		/* It was not told yet that there is room again: then there never was none. */
		if (list_linked(&s->room.node))
			list_remove(&s->room.node);
		else
			hook_set_full(s->share->core, s->seat, true);
	} else if (c->full && waits < MILTER_ROOM_BYTES) {
		c->full = false;
		streams_defer(s->share->core->streams, &s->room);
	}
}

static bool add_body(struct milter_session *s, struct span octets)
{
	return !(s->owed & MILTER_OWES(MILTER_AT_BODY)) || milter_buf_add(&s->content.body, octets);
}

/* The header is all there. What its last line was is known only now. */
static bool header_ends(struct milter_session *s)
{
	struct milter_content *c = &s->content;
	struct span block = milter_buf_span(&c->header);
	size_t n = block.n - MIN_OF(block.n, c->scan.undecided);

	c->header_done = true;
	c->header.n = c->header.at + n;
	return add_body(s, span_drop(block, n));
}

static const char *add_content(struct milter_session *s, struct span octets)
{
	struct milter_content *c = &s->content;
	bool done = false;
	size_t n = 0;

	if (!c->header_done) {
		n = header_feed(&c->scan, octets, &done);
		if (!milter_buf_add(&c->header, span_of(octets.p, n)))
			return NO_MEMORY;
		/* Nothing has left of it yet: fields go when all are there. */
		if (c->header.n > MILTER_HEADER_BYTES_MAX)
			return "the header of the message is too long";
		if (done && !header_ends(s))
			return NO_MEMORY;
	}
	return add_body(s, span_drop(octets, n)) ? NULL : NO_MEMORY;
}

static void begin_content(struct milter_session *s)
{
	if (s->content.begun)
		return;
	s->content.begun = true;
	s->owed |= CONTENT_STEPS;
	if (!milter_wants(&s->conn->neg, MILTER_AT_BODY))
		s->owed &= ~MILTER_OWES(MILTER_AT_BODY);
}

void milter_content_add(struct milter_session *s, struct span octets)
{
	const char *bad;

	begin_content(s);
	bad = add_content(s, octets);
	if (bad)
		milter_fail(s, bad);
	else
		judge_room(s);
}

void milter_content_end(struct milter_session *s)
{
	begin_content(s);
	if (!s->content.header_done && !header_ends(s)) {
		milter_fail(s, NO_MEMORY);
		return;
	}
	s->content.ended = true;
	s->owed |= MILTER_OWES(MILTER_AT_EOB);
}

void milter_content_drop(struct milter_session *s)
{
	struct milter_content *c = &s->content;

	milter_buf_free(&c->header);
	milter_buf_free(&c->body);
	judge_room(s);
	*c = (struct milter_content){0};
}

/* ---- the steps ---- */

enum did {
	DID_PACKET, /* one is in the buffer */
	DID_STEP,   /* the step needs no more packets */
	DID_WAIT,   /* for octets of the message */
	DID_FAIL    /* no packet can hold it */
};

static enum did packet(bool fits)
{
	return fits ? DID_PACKET : DID_FAIL;
}

static struct span word(const struct milter_session *s, enum milter_word w)
{
	return milter_buf_span(&s->words[w]);
}

/* Nobody's name is looked up: as Sendmail has it for clients without one. */
static enum did put_connect(struct milter_session *s, struct milter_out *o)
{
	char room[80];

	return packet(milter_put_connect(o, milter_client_name(s, room, sizeof(room)), &s->client));
}

static enum did put_helo(struct milter_session *s, struct milter_out *o)
{
	return packet(milter_put_helo(o, word(s, WORD_HELO)));
}

static enum did put_mail(struct milter_session *s, struct milter_out *o)
{
	return packet(milter_put_mail(o, word(s, WORD_SENDER), word(s, WORD_SENDER_PARAMS)));
}

static enum did put_rcpt(struct milter_session *s, struct milter_out *o)
{
	return packet(milter_put_rcpt(o, word(s, WORD_RCPT), word(s, WORD_RCPT_PARAMS)));
}

static enum did put_data(struct milter_session *s, struct milter_out *o)
{
	s->data_told = true;
	return packet(milter_put(o, MILTER_C_DATA));
}

static enum did put_field(struct milter_session *s, struct milter_out *o)
{
	struct milter_content *c = &s->content;
	struct span rest = milter_buf_span(&c->header);
	struct header_field f;
	size_t all = rest.n;
	bool fits;

	if (!c->header_done)
		return DID_WAIT;
	if (!milter_wants(&s->conn->neg, MILTER_AT_HEADER) || !header_next(&rest, &f)) {
		milter_buf_free(&c->header);
		return DID_STEP;
	}
	fits = milter_put_header(o, &s->conn->neg, f.name, f.value);
	milter_buf_take(&c->header, all - rest.n);
	return packet(fits);
}

static enum did put_eoh(struct milter_session *s, struct milter_out *o)
{
	return packet(milter_put(o, MILTER_C_EOH));
}

/* Only the packet's head is in the buffer; milter_go_on() puts the octets behind it. */
static enum did put_chunk(struct milter_session *s, struct milter_out *o)
{
	size_t n = milter_buf_span(&s->content.body).n;

	if (n == 0 && s->content.ended)
		return DID_STEP;
	if (n < MILTER_DATA_BYTES_MAX && !s->content.ended)
		return DID_WAIT;
	return packet(milter_put_body_head(o, MIN_OF(n, (size_t)MILTER_DATA_BYTES_MAX)));
}

static enum did put_end(struct milter_session *s, struct milter_out *o)
{
	return packet(milter_put(o, MILTER_C_EOB));
}

/* `many`: the step is a run of packets, and put() says when it is over. */
static const struct step_row {
	enum did (*put)(struct milter_session *s, struct milter_out *o);
	bool many;
} rows[MILTER_STEP_COUNT] = {
	[MILTER_AT_CONNECT] = {put_connect, false},
	[MILTER_AT_HELO] = {put_helo, false},
	[MILTER_AT_MAIL] = {put_mail, false},
	[MILTER_AT_RCPT] = {put_rcpt, false},
	[MILTER_AT_DATA] = {put_data, false},
	[MILTER_AT_HEADER] = {put_field, true},
	[MILTER_AT_EOH] = {put_eoh, false},
	[MILTER_AT_BODY] = {put_chunk, true},
	[MILTER_AT_EOB] = {put_end, false},
};

/* ---- going on ---- */

static enum milter_step next_step(const struct milter_session *s)
{
	return (enum milter_step)__builtin_ctz(s->owed);
}

static bool may_send(struct milter_session *s)
{
	struct milter_conn *k = s->conn;

	if (!k || k->state != MILTER_UP || k->waits || s->owed == 0)
		return false;
	if (!(s->owed & CONTENT_STEPS) || stream_backlog(&k->st) < STREAM_LOW_BYTES)
		return true;
	stream_tell_flushed(&k->st);
	return false;
}

static void send_packets(
	struct milter_session *s, enum milter_step step, const struct milter_out *o)
{
	struct milter_conn *k = s->conn;
	struct span body = milter_buf_span(&s->content.body);

	stream_put(&k->st, span_of(o->p, o->n));
	if (step == MILTER_AT_BODY) {
		body.n = MIN_OF(body.n, (size_t)MILTER_DATA_BYTES_MAX);
		stream_put(&k->st, body);
		milter_buf_take(&s->content.body, body.n);
	}
	k->waits = milter_replies(&k->neg, step);
	k->step = step;
}

/* One step, or one packet of it. False: nothing more can be sent now. */
static bool send_next(struct milter_session *s)
{
	enum milter_step step = next_step(s);
	const struct step_row *row = &rows[step];
	struct milter_out o = {.p = s->share->scratch, .max = sizeof(s->share->scratch)};
	/* Macros go whether the filter wants the step or not: Postfix does it so. */
	bool macros = !row->many && milter_macros(s, step, &o);
	enum did did = DID_STEP;
	char line[96];

	if (macros) {
		stream_put(&s->conn->st, span_of(o.p, o.n));
		o.n = 0;
	}
	if (row->many || milter_wants(&s->conn->neg, step))
		did = row->put(s, &o);
	if (did == DID_WAIT)
		return false;
	if (did == DID_FAIL) {
		snprintf(line, sizeof(line), "%s is too long for the protocol",
			milter_step_name(step));
		milter_fail(s, line);
		return false;
	}
	if (did == DID_STEP || !row->many)
		s->owed &= ~MILTER_OWES(step);
	if (did == DID_PACKET)
		send_packets(s, step, &o);
	return true;
}

/* No question is open, or one whose time is for the end of the message: the filter's answers to
 * what comes before have a deadline of their own. */
static void watch(struct milter_session *s)
{
	struct milter_conn *k = s->conn;
	struct timers *timers = s->share->core->timers;
	bool content, owes;

	if (!k || k->state != MILTER_UP || k->st.broken)
		return;
	content = s->content.begun && !(k->waits && k->step == MILTER_AT_EOB);
	owes = k->waits || !stream_flushed(&k->st);
	if (!content || !owes)
		timer_stop(timers, &k->timer);
	else if (!timer_armed(&k->timer))
		timer_set(timers, &k->timer,
			ring_now_us(s->share->core->ring) / 1000 + s->share->h->conf->deadline_ms);
}

void milter_go_on(struct milter_session *s)
{
	while (may_send(s) && send_next(s))
		;
	judge_room(s);
	watch(s);
	if (s->question == QUESTION_OPEN && s->conn && s->conn->state == MILTER_UP &&
		!s->conn->waits && s->owed == 0)
		s->question = QUESTION_ANSWERED;
}

/* ---- the end of a message ---- */

void milter_message_over(struct milter_session *s)
{
	struct milter_conn *k = s->conn;
	struct milter_out o = {.p = s->share->scratch, .max = sizeof(s->share->scratch)};
	bool fits = milter_put(&o, MILTER_C_ABORT);

	ASSERT(fits);
	s->data_told = false;
	if (s->message == MESSAGE_NONE)
		return;
	s->message = MESSAGE_NONE;
	milter_content_drop(s);
	hook_edits_free(s->edits);
	s->edits = NULL;
	s->quarantined = false;
	s->new_body_bytes = 0;
	s->owed = 0;
	/* Its answer, should it come, would be taken for that to the next step. */
	if (k && k->waits)
		milter_part(s, false);
	else if (k && k->state == MILTER_UP)
		stream_put(&k->st, span_of(o.p, o.n));
}
