/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Upstream -> client: each complete reply meets the oldest command that waits for one. A reply is
 * passed on whole or not at all. Failure modes: a reply nobody asked for, one that cannot be (354
 * to MAIL, 250 to DATA, a 2xx to octets that have not left yet): the link is dropped and what it
 * owes is answered 451, because from there on the two ends no longer agree on what is being said.
 * 421 may come at any time and ends the session (RFC 5321 3.8).
 */
#include "engine/session/session_int.h"

#include "engine/smtp/reply.h"

/* ---- to the client ---- */

void sess_count_error(struct session *s)
{
	const struct conf_listener_limits *max = &s->lis->limits;

	s->errors++;
	s->errors_total++;
	if (s->errors >= (s->core->pressure ? 1 : max->errors) && s->end_when_idle == END_NONE)
		s->end_when_idle = END_ERRORS;
	else if (s->errors > max->soft_errors)
		s->penalty_until_ms = sess_now_ms(s) + max->error_delay_ms;
}

void sess_count_message(struct session *s)
{
	s->messages++;
	s->errors = s->junk = 0;
}

void sess_count_reply(struct session *s, unsigned code)
{
	STAT_INC(s->core->stats, replies);
	/* However long it was waited for: from here on it is the client that is waited for. */
	sess_client_turn(s);
	if (code < 400)
		return;
	if (code < 500)
		STAT_INC(s->core->stats, replies_4xx);
	else
		STAT_INC(s->core->stats, replies_5xx);
	sess_count_error(s);
}

/* Lines of a lax server end with a bare LF; the client gets CRLF. */
static void put_rewritten(struct session *s, struct span raw)
{
	uint8_t *out = s->core->scratch;
	size_t n = 0;

	ASSERT(2 * raw.n <= SCRATCH_BYTES);
	for (size_t i = 0; i < raw.n; i++) {
		if (raw.p[i] == '\n' && (i == 0 || raw.p[i - 1] != '\r'))
			out[n++] = '\r';
		out[n++] = raw.p[i];
	}
	stream_put(&s->cli, span_of(out, n));
}

void sess_put_reply(struct session *s, struct span raw, bool bare_lf)
{
	if (s->client_gone)
		return;
	if (bare_lf)
		put_rewritten(s, raw);
	else
		stream_put(&s->cli, raw);
}

static void forward(struct session *s, const struct smtp_reply *r)
{
	sess_put_reply(s, r->raw, r->bare_lf);
	sess_count_reply(s, r->code);
}

static void bad_reply(struct session *s)
{
	STAT_INC(s->core->stats, upstream_bad_replies);
	sess_drop_link(s, LINK_BAD_REPLY);
}

/* ---- one per kind of slot; false: this reply cannot be ---- */

static bool final_code(const struct smtp_reply *r)
{
	return r->code >= 400 || r->code / 100 == 2;
}

static bool answer_command(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r))
		return false;
	forward(s, r);
	return true;
}

/* XFORWARD, or a verb we do not know: if it was taken, the link knows something that a replacement
 * would not. */
static bool answer_stateful(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	s->bound |= r->code < 400;
	return answer_command(s, slot, r);
}

static void show_extensions(struct session *s, const struct smtp_reply *r)
{
	struct ehlo_policy pol = s->lis->ehlo;
	size_t n;

	pol.trusted = s->trusted;
	secure_extensions(s, &pol);
	n = smtp_ehlo_write(r, &s->caps, &pol, s->core->scratch, SCRATCH_BYTES);
	ASSERT(n > 0);
	if (!s->client_gone)
		stream_put(&s->cli, span_of(s->core->scratch, n));
	sess_count_reply(s, r->code);
}

/* The hello that was said holds from now on. */
static void take_hello(struct session *s)
{
	struct span asked = stash_span(&s->hello_asked);

	if (s->hello_ok) {
		s->hello_n = (uint16_t)asked.n;
		if (asked.n > 0)
			memcpy(s->hello, asked.p, asked.n);
		stash_clear(&s->hello_asked, &s->core->stashes);
	}
	s->hello_ok = true;
	s->hello_ehlo = s->asked_ehlo;
	/* It was not kept, so nobody could repeat it. */
	s->bound |= s->hello_n == 0;
}

static bool answer_hello(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r))
		return false;
	if (r->code != 250) {
		stash_clear(&s->hello_asked, &s->core->stashes);
		if (!s->hello_ok)
			link_hello_refused(s->link);
		forward(s, r);
		return true;
	}
	txn_leave(s, "hello"); /* its record names the hello before */
	take_hello(s);
	memset(&s->caps, 0, sizeof(s->caps));
	if (!s->hello_ehlo) {
		forward(s, r);
		return true;
	}
	smtp_ehlo_read(r, &s->caps);
	show_extensions(s, r);
	return true;
}

static bool answer_mail(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	struct txn *t = slot->txn;

	if (!final_code(r))
		return false;
	if (r->code < 400) {
		t->mail_ok = true;
		t->stage = "rcpt";
		if (t->nested) {
			/* The server took a second MAIL: the first is over for it. */
			txn_leave(s, "superseded");
			s->txn = txn_ref(t);
		}
	} else {
		txn_reject(t, "mail", r, NULL, false);
		if (s->txn == t) {
			body_mail_refused(s);
			txn_leave(s, NULL);
		}
	}
	forward(s, r);
	return true;
}

static bool answer_rcpt(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r))
		return false;
	txn_rcpt_answered(slot->txn, r);
	forward(s, r);
	return true;
}

static bool answer_data(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (r->code < 400 && r->code != 354)
		return false;
	forward(s, r);
	if (r->code != 354) {
		txn_reject(slot->txn, "data", r, NULL, false);
		change_data_undone(s, slot->txn);
		return true;
	}
	/* Also behind a MAIL that was refused: the client sends a lone dot then (RFC 2920 3.1). */
	if (!s->txn)
		s->txn = txn_ref(slot->txn);
	ASSERT(s->txn == slot->txn);
	body_begin(s);
	return true;
}

static bool answer_chunk(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r) || (r->code < 400 && !txn_committed(s, slot)))
		return false;
	if (r->code >= 400)
		txn_reject(slot->txn, "body", r, NULL, false);
	forward(s, r);
	return true;
}

/* A server that takes octets behind a MAIL that it has refused was not told that they are all: its
 * 2xx is no answer to the client's last chunk. */
static bool answer_last_unsaid(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	return r->code >= 400 && answer_chunk(s, slot, r);
}

static bool answer_final(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	bool taken = r->code / 100 == 2;

	/* "The only 2xx to the final dot is the upstream's own": and only to a dot it was given. */
	if (!final_code(r) || (taken && !txn_committed(s, slot)))
		return false;
	if (taken) {
		txn_accept(slot->txn, r, s->client_gone);
		sess_count_message(s);
	} else {
		txn_reject(slot->txn, "final", r, NULL, true);
	}
	forward(s, r);
	if (s->txn == slot->txn)
		txn_leave(s, NULL);
	return true;
}

/* The client is who it has said it is. */
static void take_identity(struct session *s)
{
	stash_clear(&s->auth_name, &s->core->stashes);
	s->auth_name = s->auth_asked;
	s->auth_asked = (struct stash){0};
	memcpy(s->auth_by, s->auth_mech, sizeof(s->auth_by));
}

static bool answer_auth(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (r->code == 334) {
		forward(s, r);
		s->phase = PHASE_AUTH;
		return true;
	}
	if (!final_code(r))
		return false;
	s->auth_code = r->code;
	s->bound |= r->code < 400;
	if (r->code < 400)
		take_identity(s);
	forward(s, r);
	return true;
}

static bool answer_starttls(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r))
		return false;
	if (r->code != 220) {
		forward(s, r);
		return true;
	}
	/* Plain octets on either side of the switch would be read as if TLS had carried them (RFC
	 * 3207 6, CVE-2011-0411 and its mirror image on the reply side). */
	if (link_go_opaque(s->link) || s->inq.bytes || s->line.len) {
		STAT_INC(s->core->stats, starttls_injection);
		sess_say(s, &sess_replies[REPLY_BEHIND_STARTTLS], NULL);
		sess_end(s, END_INJECTION);
		return true;
	}
	s->bound = true;
	txn_leave(s, "starttls");
	sess_tell(s, &(struct hook_event){.point = HOOK_STARTTLS});
	forward(s, r);
	opaque_begin(s);
	return true;
}

static bool answer_xclient(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r))
		return false;
	s->bound |= r->code < 400;
	if (r->code == 220) {
		s->hello_ok = false;
		s->auth_by[0] = '\0'; /* it is another client from here on */
		txn_leave(s, "xclient");
	}
	forward(s, r);
	return true;
}

static bool answer_quit(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r))
		return false;
	forward(s, r);
	sess_end(s, END_QUIT);
	return true;
}

static bool answer_part(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r) || (r->code < 400 && !txn_committed(s, slot)))
		return false;
	if (r->code >= 400)
		chunk_part_refused(s, slot->txn, r);
	return true;
}

/* Of an envelope that was changed: all of it must be taken. */
static bool answer_replay(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (!final_code(r))
		return false;
	if (r->code >= 400)
		hold_envelope_refused(s, r);
	return true;
}

static bool answer_held_data(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	if (r->code < 400 && r->code != 354)
		return false;
	if (r->code == 354) {
		hold_go_ahead(s);
		return true;
	}
	hold_refused(s, r, "data");
	sess_reset_upstream(s);
	return true;
}

static bool answer_discard(struct session *s, struct slot *slot, const struct smtp_reply *r)
{
	return final_code(r);
}

typedef bool answer_fn(struct session *s, struct slot *slot, const struct smtp_reply *r);

static answer_fn *const answers[SLOT_KIND_COUNT] = {
	[SLOT_COMMAND] = answer_command,
	[SLOT_STATEFUL] = answer_stateful,
	[SLOT_HELLO] = answer_hello,
	[SLOT_MAIL] = answer_mail,
	[SLOT_RCPT] = answer_rcpt,
	[SLOT_DATA] = answer_data,
	[SLOT_CHUNK] = answer_chunk,
	[SLOT_LAST_UNSAID] = answer_last_unsaid,
	[SLOT_FINAL] = answer_final,
	[SLOT_AUTH] = answer_auth,
	[SLOT_STARTTLS] = answer_starttls,
	[SLOT_XCLIENT] = answer_xclient,
	[SLOT_QUIT] = answer_quit,
	[SLOT_DISCARD] = answer_discard,
	[SLOT_PART] = answer_part,
	[SLOT_REPLAY] = answer_replay,
	[SLOT_HELD_DATA] = answer_held_data,
};

/* ---- replies that meet no command, or end everything ---- */

static void greeting(struct session *s, const struct smtp_reply *r)
{
	if (r->code != 220 && r->code < 400) {
		bad_reply(s);
		return;
	}
	s->phase = PHASE_COMMAND;
	forward(s, r);
	sess_client_turn(s);
	if (smtp_says_goodbye(r->code))
		sess_end(s, END_UPSTREAM_SAID);
}

/* The server is leaving; the oldest command gets its words, the session ends. */
static void leaving(struct session *s, const struct smtp_reply *r)
{
	struct slot *slot = queue_head(s);

	if (slot && (slot->kind == SLOT_FINAL || slot->kind == SLOT_HELD_DATA))
		txn_reject(slot->txn, "final", r, NULL, true);
	forward(s, r);
	if (slot) {
		ASSERT(!slot->local);
		queue_pop(s);
	}
	sess_end(s, END_UPSTREAM_SAID);
}

static void answer_slot(struct session *s, const struct smtp_reply *r)
{
	struct slot *slot = queue_head(s);

	/* Local replies at the head were emitted before: this one is the upstream's. */
	ASSERT(slot && !slot->local);
	if (!answers[slot->kind](s, slot, r)) {
		bad_reply(s);
		return;
	}
	/* Ending the session empties the queue. */
	if (s->end == END_NONE || s->q_count)
		queue_pop(s);
}

/* The octets of the chunk it answers have all been taken from the client, and the mover has yet to
 * say that they left: with completions of different kinds, that may come behind the answer. */
static bool too_early_to_tell(const struct session *s, const struct smtp_reply *r)
{
	const struct slot *slot = queue_head(s);

	return slot && slot->out_mark == UINT64_MAX && r->code < 400 && s->phase == PHASE_CHUNK &&
	       move_running(s->up) && s->up->left == 0;
}

/* Before the end of a message that was kept has left. */
static void held_early_reply(struct session *s, const struct smtp_reply *r)
{
	STAT_INC(s->core->stats, early_replies);
	if (r->code < 400) {
		bad_reply(s);
		return;
	}
	hold_refused(s, r, "body");
	sess_drop_link(s, LINK_DROPPED);
	if (smtp_says_goodbye(r->code))
		sess_end(s, END_UPSTREAM_SAID);
}

bool sess_on_reply(struct session *s, const struct smtp_reply *r)
{
	/* In the middle of a handshake the client cannot be told anything. */
	if (s->phase == PHASE_TLS || too_early_to_tell(s, r))
		return false;
	if (s->phase == PHASE_GREETING)
		greeting(s, r);
	else if (s->phase == PHASE_BODY && s->q_upstream == 0)
		body_early_reply(s, r);
	else if (hold_sending(s) && s->q_upstream == 0)
		held_early_reply(s, r);
	else if (smtp_says_goodbye(r->code) && !(s->q_count && queue_head(s)->kind == SLOT_DISCARD))
		leaving(s, r);
	else if (s->q_upstream > 0)
		answer_slot(s, r);
	else
		bad_reply(s);
	sess_step(s);
	return true;
}
