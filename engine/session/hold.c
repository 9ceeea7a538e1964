/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Messages that are kept until the hooks have spoken (mode hold-all). The envelope goes to the
 * upstream as it comes; DATA and BDAT do not: ringpost answers them, keeps the octets, and asks the
 * hooks. What passes is then sent, changed as they wanted, and the upstream's reply to it is the
 * client's: nothing is acknowledged before. What does not pass costs the upstream an RSET.
 *
 *	KEEPING   octets of the client come in (PHASE_BODY, PHASE_CHUNK)
 *	JUDGED    the hooks are asked
 *	FEEDING   one of them is shown the message as it is by now, and asked again
 *	ENVELOPE  another sender, other recipients: the upstream is told, each must be taken
 *	ASKED     DATA was said, 354 is due
 *	SENDING   the message goes up; behind its end it is a transaction like any other
 *
 * From JUDGED on the session is in PHASE_HELD: the client's next commands wait.
 *
 * Octets are kept as they came: dot-stuffed by DATA, plain by BDAT. A header that is changed is
 * copied to memory, plain; a body that is replaced is another spool, plain.
 *
 * Failure modes: no room (452 at the end of the message, counted), a file that fails (451), an
 * envelope or a header that cannot be changed as it should (451), the upstream lost (451).
 */
#include "engine/session/session_int.h"

#include "engine/smtp/dots.h"
#include "engine/smtp/header.h"
#include "engine/smtp/octets.h"
#include "ring/spool.h"

#define HEADER_ROOM 4096	    /* of a header's memory beyond what is in it */
#define HEADER_BYTES_MAX (1u << 20) /* with what hooks have added */
#define SHOWN_AT_ONCE (1u << 20)    /* then other sessions have their turn */

enum held_stage {
	HELD_KEEPING,
	HELD_JUDGED,
	HELD_FEEDING,
	HELD_ENVELOPE,
	HELD_ASKED,
	HELD_SENDING
};

struct held {
	struct session *s;
	struct spool *spool;	    /* the message as it came */
	struct spool *other;	    /* a body that takes the place of its own; NULL: none */
	uint64_t n;		    /* octets of the message in `spool` */
	uint64_t body_at;	    /* in `spool`, while there is a header of its own */
	struct header_block header; /* changed; p NULL: as it came */
	uint64_t at;		    /* how far it was shown, or sent */
	size_t said_at;		    /* ENVELOPE: how far */
	struct dots dots;	    /* of what is shown, or sent */
	struct scan made;	    /* of `other` as it is going to be sent by DATA */
	uint8_t stage;		    /* enum held_stage */
	bool stuffed;		    /* the spool is */
	bool said_all;		    /* ENVELOPE: no line is left to say */
	struct timer timer;	    /* the next piece, when a whole turn was taken by this one */
};

static const struct spool_events spool_events;

static bool any_holds(const struct conf *conf)
{
	for (uint32_t i = 0; i < conf->hook_count; i++)
		if (conf->hooks[i].mode == HOOK_HOLD_ALL)
			return true;
	return false;
}

bool hold_core_init(struct sess_core *c, const struct conf *conf, const struct sess_core_conf *cc)
{
	uint32_t workers = MAX_OF(cc->workers, 1u);
	uint32_t n = any_holds(conf) ? cc->sessions_max : 1;
	/* A body that a hook made is one more. */
	const struct spools_conf sc = {.memory_bytes = conf->hold.memory / workers,
		.disk_bytes = conf->hold.disk / workers,
		.spill_bytes = conf->hold.spill,
		.directory = conf->hold.directory,
		.spools_max = 2 * n};

	c->hold_message_max = conf->hold.message;
	return spools_init(&c->spools, &sc, &c->streams) &&
	       slab_init(&c->helds, "held messages", sizeof(struct held), n);
}

bool hold_wanted(const struct session *s)
{
	return hook_mode(&s->core->hooks, s->lis) == HOOK_HOLD_ALL;
}

uint64_t hold_message_max(const struct session *s)
{
	uint64_t max = s->lis->limits.message, hold = s->core->hold_message_max;

	if (!hold_wanted(s) || hold == 0)
		return max;
	return max ? MIN_OF(max, hold) : hold;
}

/* ---- keeping ---- */

static void more(struct timer *t)
{
	sess_step(CONTAINER_OF(t, struct held, timer)->s);
}

bool hold_begin(struct session *s, bool stuffed)
{
	struct held *h = slab_get(&s->core->helds);

	if (!h)
		return false;
	*h = (struct held){.s = s, .stuffed = stuffed};
	timer_init(&h->timer, more);
	h->spool = spool_new(&s->core->spools, &spool_events, s);
	if (!h->spool) {
		slab_put(&s->core->helds, h);
		return false;
	}
	s->txn->held = h;
	STAT_INC(s->core->stats, held_now);
	STAT_INC(s->core->stats, messages_held);
	return true;
}

void hold_drop(struct txn *t)
{
	struct sess_core *c = t->s->core;
	struct held *h = t->held;

	if (!h)
		return;
	t->held = NULL;
	timer_stop(&c->timers, &h->timer);
	spool_drop(h->spool);
	if (h->other)
		spool_drop(h->other);
	free(h->header.p);
	STAT_DEC(c->stats, held_now);
	slab_put(&c->helds, h);
}

static void spool_event(void *who)
{
	sess_step(who);
}

static const struct spool_events spool_events = {.on_room = spool_event, .on_ready = spool_event};

static const struct local_reply *why_not(struct session *s, enum spool_res res)
{
	if (res == SPOOL_FULL) {
		STAT_INC(s->core->stats, limit_hold);
		return &sess_replies[REPLY_HOLD_FULL];
	}
	STAT_INC(s->core->stats, hold_failures);
	return &sess_replies[REPLY_HOLD_FAILED];
}

const struct local_reply *hold_no_room(struct session *s)
{
	return why_not(s, SPOOL_FULL);
}

const struct local_reply *hold_add(struct session *s, struct span data)
{
	enum spool_res res = spool_add(s->txn->held->spool, data);

	if (res == SPOOL_OK)
		return NULL;
	return why_not(s, res);
}

uint64_t hold_bytes(const struct session *s)
{
	return spool_bytes(s->txn->held->spool);
}

bool hold_full(const struct session *s)
{
	return spool_full(s->txn->held->spool) && spool_state(s->txn->held->spool) == SPOOL_OK;
}

/* ---- the message as it is by now ---- */

static uint64_t own_header(const struct held *h)
{
	return h->header.p ? h->header.n : 0;
}

static uint64_t total(const struct held *h)
{
	return own_header(h) + (h->other ? spool_bytes(h->other) : h->n - h->body_at);
}

/* The octets from h->at on that lie in a row. False: at the end, or they are still being read. */
static bool next(struct held *h, struct span *out, bool *stuffed)
{
	uint64_t header = own_header(h);
	struct spool *from = h->other ? h->other : h->spool;
	uint64_t base = h->other ? 0 : h->body_at;

	*stuffed = false;
	if (h->at >= total(h))
		return false;
	if (h->at < header) {
		*out = span_of(h->header.p + h->at, h->header.n - h->at);
		return true;
	}
	if (!spool_read(from, base + (h->at - header), out))
		return false;
	out->n = MIN_OF(out->n, total(h) - h->at);
	*stuffed = h->stuffed && !h->other;
	return true;
}

static bool broken(const struct held *h)
{
	return spool_state(h->spool) == SPOOL_FAILED ||
	       (h->other && spool_state(h->other) != SPOOL_OK);
}

static void rewind_it(struct held *h, enum held_stage stage)
{
	h->at = 0;
	h->dots = (struct dots){0};
	h->stage = (uint8_t)stage;
}

/* ---- changing the header ---- */

static bool header_room(struct header_block *b, size_t more)
{
	size_t max = b->n + more + HEADER_ROOM;
	uint8_t *p;

	if (b->n + more <= b->max)
		return true;
	if (max > HEADER_BYTES_MAX || !(p = realloc(b->p, max)))
		return false;
	b->p = p;
	b->max = max;
	return true;
}

/* Where in the spool the octet stands that is the `plain`-th without stuffing; a dot that was
 * stuffed in front of it belongs to it. */
static uint64_t raw_offset(struct held *h, uint64_t plain)
{
	struct dots dots = {0};
	uint64_t at = 0, seen = 0;
	struct span in, run;

	while (seen < plain && spool_read(h->spool, at, &in)) {
		size_t used = in.n;

		run = in;
		if (h->stuffed)
			used = dots_strip(&dots, in, &run);
		if (seen + run.n >= plain)
			return at + (used - run.n) + (plain - seen);
		seen += run.n;
		at += used;
	}
	return at;
}

/* Copies the header, plain, to memory. False: it does not end where it should. */
static bool open_header(struct held *h)
{
	uint64_t front = MIN_OF(spool_front(h->spool), h->n), at = 0;
	struct header_scan scan = {0};
	struct dots dots = {0};
	struct header_block b = {.max = (size_t)front + HEADER_ROOM};
	bool done = false;

	if (h->header.p)
		return true;
	b.p = malloc(b.max);
	while (b.p && at < front && !done) {
		struct span in, run;
		size_t used, of_header;

		if (!spool_read(h->spool, at, &in))
			break;
		in.n = MIN_OF(in.n, front - at);
		run = in;
		used = h->stuffed ? dots_strip(&dots, in, &run) : in.n;
		of_header = header_feed(&scan, run, &done);
		memcpy(b.p + b.n, run.p, of_header);
		b.n += of_header;
		at += used - (run.n - of_header);
	}
	if (!b.p || !(done || at == h->n)) {
		free(b.p);
		return false;
	}
	/* The beginning of a line that turned out to be the body's, and a dot that was stuffed in
	 * front of it. */
	b.n -= scan.undecided;
	h->header = b;
	h->body_at = raw_offset(h, b.n);
	return true;
}

static bool header_closed(const struct header_block *b)
{
	return b->n >= 4 ? memcmp(b->p + b->n - 4, "\r\n\r\n", 4) == 0
			 : b->n == 2 && memcmp(b->p, "\r\n", 2) == 0;
}

/* A body that no empty line stood before gets one, now that fields stand before it: its first line
 * would be read as one of theirs. */
static bool close_header(struct held *h)
{
	struct header_block *b = &h->header;
	bool body = h->other ? spool_bytes(h->other) > 0 : h->body_at < h->n;

	if (!b->p || b->n == 0 || !body)
		return true;
	/* Its last line's end is missing as well where no body of its own came behind it. */
	while (!header_closed(b)) {
		if (!header_room(b, 2))
			return false;
		memcpy(b->p + b->n, "\r\n", 2);
		b->n += 2;
	}
	return true;
}

#define FIELD_OVERHEAD 8 /* colon, CRLF, an empty line's CRLF, and some */

static bool edit_header(struct held *h, const struct hook_edit *e)
{
	struct header_block *b = &h->header;

	if (!open_header(h) || !header_room(b, e->name.n + e->value.n + FIELD_OVERHEAD))
		return false;
	switch (e->kind) {
	case EDIT_HEADER_INSERT:
		return header_insert(b, e->index, e->name, e->value);
	case EDIT_HEADER_APPEND:
		return header_append(b, e->name, e->value);
	case EDIT_HEADER_CHANGE:
		return header_change(b, e->index, e->name, e->value);
	default:
		header_delete(b, e->index, e->name);
		return true;
	}
}

/* What hooks wanted on top before the message came. */
static bool put_on_top(struct held *h, struct stash *fields)
{
	struct header_block *b = &h->header;

	if (fields->len == 0)
		return true;
	if (!open_header(h) || !header_room(b, fields->len))
		return false;
	memmove(b->p + fields->len, b->p, b->n);
	memcpy(b->p, stash_span(fields).p, fields->len);
	b->n += fields->len;
	stash_clear(fields, &h->s->core->stashes);
	return close_header(h);
}

/* ---- changes ---- */

static const struct local_reply *unless(bool done)
{
	return done ? NULL : &sess_replies[REPLY_HEADER];
}

/* Octets of a body that a hook made. False: a lax server could take them for the end. */
static bool harmless(struct held *h, struct span in)
{
	while (in.n > 0) {
		struct scan_step step;

		scan_feed(&h->made, in, &step);
		if (step.end != SCAN_MORE)
			return false;
		in = span_drop(in, step.used);
	}
	return true;
}

static bool harmless_stuffed(struct held *h, struct span in)
{
	bool good = true;

	while (good && in.n > 0) {
		struct span run;
		bool dot = false;
		size_t used = dots_stuff(&h->dots, in, &run, &dot);

		good = (!dot || harmless(h, SPAN_LIT("."))) && harmless(h, run);
		in = span_drop(in, used);
	}
	return good;
}

/* What a hook made is no safer than what a client sends (`bare-newlines`). Nothing of it is
 * rewritten. */
static void made_begins(struct held *h)
{
	enum scan_mode mode = h->s->lis->bare_newlines;

	scan_init(&h->made, mode == SCAN_NORMALIZE ? SCAN_GUARD : mode);
	h->dots = (struct dots){0};
}

static const struct local_reply *refused_lookalike(struct session *s)
{
	STAT_INC(s->core->stats, smuggling_refused);
	return &sess_replies[REPLY_LOOKALIKE];
}

static const struct local_reply *edit_body(struct held *h, const struct hook_edit *e, bool first)
{
	enum spool_res res = SPOOL_FULL;

	if (!open_header(h))
		return unless(false);
	if (first)
		made_begins(h);
	if (h->stuffed && !harmless_stuffed(h, e->value))
		return refused_lookalike(h->s);
	if (first) {
		if (h->other)
			spool_drop(h->other);
		h->other = spool_new(&h->s->core->spools, &spool_events, h->s);
	}
	if (h->other)
		res = spool_add(h->other, e->value);
	return res == SPOOL_OK ? NULL : why_not(h->s, res);
}

static const struct local_reply *apply_one(struct held *h, const struct hook_edit *e, bool *body)
{
	struct envelope *env = &h->s->txn->env;
	bool first = !*body;

	switch (e->kind) {
	case EDIT_SENDER:
		txn_sender(h->s->txn, e->value);
		return unless(env_sender(env, e->value, e->name));
	case EDIT_RCPT_ADD:
		return unless(env_rcpt(env, e->value, e->name));
	case EDIT_RCPT_DELETE:
		if (env_delete(env, e->value))
			change_record(h->s, e);
		return NULL;
	case EDIT_BODY:
		*body = true;
		return edit_body(h, e, first);
	default:
		return unless(edit_header(h, e));
	}
}

/* NULL: all of it was done; else what the client is told instead. */
static const struct local_reply *apply(struct held *h, struct hook_edits *edits)
{
	const struct local_reply *no = NULL;
	struct hook_edit e;
	bool body = false;

	for (size_t at = 0; !no && edits && hook_edits_next(edits, &at, &e);) {
		no = apply_one(h, &e, &body);
		if (!no && e.kind != EDIT_RCPT_DELETE)
			change_record(h->s, &e);
	}
	hook_edits_free(edits);
	/* The CRLF that put_end() adds makes a line of what is left. */
	if (!no && body && h->stuffed && !dots_line_done(&h->dots) &&
		!harmless(h, SPAN_LIT("\r\n")))
		no = refused_lookalike(h->s);
	return no ? no : unless(close_header(h));
}

/* ---- how it can end ---- */

static void leave(struct session *s)
{
	struct txn *t = s->txn;

	hook_forget(&s->core->hooks, &s->seat);
	s->phase = PHASE_COMMAND;
	s->txn = NULL;
	sess_client_turn(s);
	txn_unref(t);
}

static void refuse(struct session *s, const struct local_reply *r)
{
	txn_reject(s->txn, "body", NULL, r, true);
	queue_local(s, r);
	sess_reset_upstream(s);
	leave(s);
}

static void discard(struct session *s, const struct local_reply *r)
{
	s->txn->discard = r;
	txn_discard(s->txn, "body", r);
	sess_count_message(s);
	queue_local(s, r);
	sess_reset_upstream(s);
	leave(s);
}

/* In mid-message: the upstream cannot be told but by losing it. */
static void give_up(struct session *s, const struct local_reply *r)
{
	txn_reject(s->txn, "body", NULL, r, true);
	queue_local(s, r);
	leave(s);
	sess_drop_link(s, LINK_DROPPED);
}

void hold_link_lost(struct session *s)
{
	txn_abort(s->txn, "body", s->lost_word);
	queue_local(s, &sess_replies[REPLY_LOST]);
	leave(s);
}

/* ---- judging ---- */

void hold_judge(struct session *s, uint64_t n)
{
	struct held *h = s->txn->held;

	h->n = n;
	h->stage = HELD_JUDGED;
	s->phase = PHASE_HELD;
	if (!put_on_top(h, &s->txn->headers))
		refuse(s, &sess_replies[REPLY_HEADER]);
}

static void passed(struct session *s, struct held *h)
{
	struct envelope *env = &s->txn->env;

	if (env_rcpts(env) == 0) {
		discard(s, &sess_replies[REPLY_NOBODY]);
		return;
	}
	if (env->again)
		sess_reset_upstream(s);
	h->said_at = 0;
	h->said_all = false;
	h->stage = HELD_ENVELOPE;
}

/* True: there is more to do now. */
static bool judge(struct session *s, struct held *h)
{
	struct hook_word word;
	enum hook_said said = sess_ask(s, &(struct hook_event){.point = HOOK_END_OF_DATA}, &word);
	const struct local_reply *no;

	switch (said) {
	case HOOK_LATER:
		return false;
	case HOOK_NO:
		refuse(s, word.reply);
		return false;
	case HOOK_DISCARD:
		discard(s, word.reply);
		return false;
	case HOOK_PASS:
	case HOOK_FEED:
		break;
	}
	no = apply(h, hook_take_edits(&s->seat));
	if (no) {
		refuse(s, no);
		return false;
	}
	if (said == HOOK_PASS)
		passed(s, h);
	else
		rewind_it(h, HELD_FEEDING);
	return s->phase == PHASE_HELD;
}

static bool feed(struct session *s, struct held *h)
{
	struct span run;
	bool stuffed;
	uint64_t stop = h->at + SHOWN_AT_ONCE;

	while (!hook_full(&s->seat) && h->at < stop && next(h, &run, &stuffed)) {
		if (stuffed)
			sess_show_stuffed(s, &h->dots, run);
		else
			sess_show(s, run);
		h->at += run.n;
	}
	if (broken(h)) {
		refuse(s, why_not(s, SPOOL_FAILED));
		return false;
	}
	if (h->at >= stop)
		timer_set(&s->core->timers, &h->timer, sess_now_ms(s));
	if (h->at < total(h) || hook_full(&s->seat))
		return false;
	h->stage = HELD_JUDGED;
	return true;
}

/* ---- sending ---- */

static bool lock_step(const struct session *s)
{
	return s->q_upstream > 0 && !caps_has(&s->caps, EXT_PIPELINING);
}

static bool say_envelope(struct session *s, struct held *h)
{
	const struct envelope *env = &s->txn->env;
	struct span line;

	while (!h->said_all && !lock_step(s) && !queue_full(s)) {
		h->said_all = !env_to_say(env, &h->said_at, &line);
		if (!h->said_all) {
			stream_put(&s->link->st, line);
			queue_upstream(s, SLOT_REPLAY, false, s->txn);
		}
	}
	/* RSET is answered by then, too. */
	if (!h->said_all || s->q_upstream > 0)
		return false;
	rewind_it(h, HELD_SENDING);
	if (h->stuffed) {
		stream_put(&s->link->st, SPAN_LIT("DATA\r\n"));
		queue_upstream(s, SLOT_HELD_DATA, false, s->txn);
		h->stage = HELD_ASKED;
	} else {
		char bdat[64];
		int n = snprintf(
			bdat, sizeof(bdat), "BDAT %llu LAST\r\n", (unsigned long long)total(h));

		stream_put(&s->link->st, span_of(bdat, (size_t)n));
	}
	return h->stage == HELD_SENDING;
}

void hold_envelope_refused(struct session *s, const struct smtp_reply *r)
{
	if (s->phase != PHASE_HELD || !s->txn->held || s->txn->held->stage != HELD_ENVELOPE)
		return; /* not the first one */
	txn_reject(s->txn, "rcpt", r, NULL, true);
	queue_local(s, &sess_replies[REPLY_ENVELOPE]);
	sess_reset_upstream(s);
	leave(s);
}

/* The upstream's word on a message that it has not seen all of. */
void hold_refused(struct session *s, const struct smtp_reply *r, const char *stage)
{
	txn_reject(s->txn, stage, r, NULL, true);
	sess_put_reply(s, r->raw, r->bare_lf);
	sess_count_reply(s, r->code);
	leave(s);
}

void hold_go_ahead(struct session *s)
{
	rewind_it(s->txn->held, HELD_SENDING);
}

bool hold_sending(const struct session *s)
{
	return s->phase == PHASE_HELD && s->txn->held->stage == HELD_SENDING;
}

static void put(struct session *s, struct held *h, struct span in, bool stuffed)
{
	struct stream *to = &s->link->st;

	if (stuffed || !h->stuffed) {
		stream_put(to, in);
		return;
	}
	while (in.n > 0) {
		struct span run;
		bool dot = false;
		size_t used = dots_stuff(&h->dots, in, &run, &dot);

		if (dot)
			stream_put(to, SPAN_LIT("."));
		stream_put(to, run);
		in = span_drop(in, used);
	}
}

/* What came by DATA ends with a whole line, or is empty; what a hook made may not. */
static void put_end(struct session *s, struct held *h)
{
	if (!h->stuffed)
		return;
	if ((h->other || h->body_at == h->n) && !dots_line_done(&h->dots))
		stream_put(&s->link->st, SPAN_LIT("\r\n"));
	stream_put(&s->link->st, SPAN_LIT(".\r\n"));
}

static void send_it(struct session *s, struct held *h)
{
	struct span run;
	bool stuffed;

	while (stream_backlog(&s->link->st) <= STREAM_HIGH_BYTES && next(h, &run, &stuffed)) {
		put(s, h, run, stuffed);
		h->at += run.n;
	}
	if (broken(h)) {
		give_up(s, why_not(s, SPOOL_FAILED));
		return;
	}
	if (h->at < total(h))
		return;
	put_end(s, h);
	hold_drop(s->txn);
	body_sent(s);
}

void hold_settle(struct session *s)
{
	struct held *h;
	bool again = true;

	/* hold_judge() may have refused it. */
	if (s->phase != PHASE_HELD)
		return;
	h = s->txn->held;
	while (again && s->phase == PHASE_HELD) {
		switch ((enum held_stage)h->stage) {
		case HELD_JUDGED:
			again = judge(s, h);
			break;
		case HELD_FEEDING:
			again = feed(s, h);
			break;
		case HELD_ENVELOPE:
			again = say_envelope(s, h);
			break;
		case HELD_SENDING:
			send_it(s, h);
			again = false;
			break;
		case HELD_ASKED:
			again = false;
			break;
		case HELD_KEEPING:
			ASSERT(false);
		}
	}
}
