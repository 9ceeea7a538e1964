/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Mail transactions and their records. A transaction lives from MAIL until nothing names it any
 * more: not the session (which builds it) and no slot (whose reply it waits for). Then its one
 * record is written. A rejection of some recipients is provisional: one that is taken, or the final
 * reply, decides anew. Everything else stands once it is said.
 */
#include "engine/session/session_int.h"

#include "ring/listen.h"

static uint8_t copy_text(uint8_t *to, size_t max, struct span from)
{
	size_t n = MIN_OF(from.n, max);

	if (n > 0)
		memcpy(to, from.p, n);
	return (uint8_t)n;
}

struct txn *txn_new(struct session *s, const struct smtp_path *from)
{
	struct txn *t = slab_get(&s->core->txns);

	if (!t)
		return NULL;
	memset(t, 0, offsetof(struct txn, asked));
	t->s = s;
	t->id = s->mail_id ? s->mail_id : s->core->next_id++;
	s->mail_id = 0;
	t->refs = 1;
	t->began_us = ring_now_us(s->core->ring);
	t->from_n = copy_text(t->from, sizeof(t->from), from->mailbox);
	t->server = s->server;
	t->stage = "mail";
	t->by = "";
	STAT_INC(s->core->stats, transactions);
	return t;
}

void txn_sender(struct txn *t, struct span mailbox)
{
	t->from_n = copy_text(t->from, sizeof(t->from), mailbox);
}

struct txn *txn_ref(struct txn *t)
{
	t->refs++;
	return t;
}

void txn_rcpt_asked(struct txn *t, const struct smtp_path *to)
{
	size_t n = MIN_OF(to->mailbox.n, (size_t)UINT8_MAX);

	t->rcpt_pending++;
	if (t->rcpt_ok > 0 || t->asked_n + 1 + n > sizeof(t->asked))
		return;
	t->asked[t->asked_n] = copy_text(t->asked + t->asked_n + 1, n, to->mailbox);
	t->asked_n = (uint16_t)(t->asked_n + 1 + n);
}

/* A recipient that was refused is named as long as none was taken. */
void txn_rcpt_refused(struct txn *t, const struct smtp_path *to)
{
	if (t->to_n == 0)
		t->to_n = copy_text(t->to, sizeof(t->to), to->mailbox);
}

/* The oldest name that waits becomes `to` if it was taken, or if there is no other. */
static void name_answered(struct txn *t, bool taken)
{
	size_t n;

	if (t->rcpt_ok > 0 || t->asked_n == 0)
		return;
	n = t->asked[0];
	if (taken || t->to_n == 0)
		t->to_n = copy_text(t->to, sizeof(t->to), span_of(t->asked + 1, n));
	t->asked_n = (uint16_t)(t->asked_n - 1 - n);
	memmove(t->asked, t->asked + 1 + n, t->asked_n);
}

void txn_rcpt_answered(struct txn *t, const struct smtp_reply *r)
{
	bool taken = r->code < 400;

	name_answered(t, taken);
	env_answered(&t->env, taken);
	t->rcpt_pending--;
	if (!taken) {
		t->rcpt_failed++;
		if (t->rcpt_ok == 0)
			txn_reject(t, "rcpt", r, NULL, false);
		return;
	}
	if (t->rcpt_ok++ == 0 && !t->settled) {
		/* What refused the others no longer decides. */
		t->outcome = TXN_OPEN;
		t->code = 0;
		t->by = "";
		t->reason = NULL;
	}
}

struct span txn_only_rcpt(const struct txn *t)
{
	if (t->rcpt_ok == 1 && t->rcpt_pending == 0)
		return span_of(t->to, t->to_n);
	if (t->rcpt_ok == 0 && t->rcpt_pending == 1 && t->asked_n > 0)
		return span_of(t->asked + 1, t->asked[0]);
	return SPAN_NONE;
}

/* ---- outcomes ---- */

static bool decide(struct txn *t, enum txn_outcome outcome, const char *stage, bool settled)
{
	if (t->settled)
		return false;
	t->outcome = (uint8_t)outcome;
	t->stage = stage;
	t->settled = settled;
	t->code = 0;
	t->enhanced_n = t->text_n = 0;
	return true;
}

static void note_reply(struct txn *t, const struct smtp_reply *r)
{
	struct span text = r->text;

	if (r->enhanced.n && text.p == r->enhanced.p && text.n > r->enhanced.n)
		text = span_drop(text, r->enhanced.n + (text.p[r->enhanced.n] == ' '));
	t->by = "upstream";
	t->reason = NULL;
	t->code = r->code;
	t->enhanced_n = copy_text(t->enhanced, sizeof(t->enhanced), r->enhanced);
	t->text_n = copy_text(t->text, sizeof(t->text), text);
}

static void note_local(struct txn *t, const struct local_reply *r)
{
	t->by = "ringpost";
	t->reason = r->word;
	t->code = r->code;
	t->enhanced_n = copy_text(t->enhanced, sizeof(t->enhanced), span_str(r->enhanced));
	t->text_n = copy_text(t->text, sizeof(t->text), span_str(r->text));
}

void txn_reject(struct txn *t, const char *stage, const struct smtp_reply *r,
	const struct local_reply *local, bool settled)
{
	if (!decide(t, TXN_REJECTED, stage, settled))
		return;
	if (r)
		note_reply(t, r);
	else
		note_local(t, local);
}

void txn_accept(struct txn *t, const struct smtp_reply *r, bool client_gone)
{
	if (decide(t, client_gone ? TXN_CLIENT_GONE : TXN_ACCEPTED, "final", true))
		note_reply(t, r);
}

void txn_discard(struct txn *t, const char *stage, const struct local_reply *r)
{
	if (decide(t, TXN_DISCARDED, stage, true))
		note_local(t, r);
}

void txn_abort(struct txn *t, const char *stage, const char *reason)
{
	if (t->outcome == TXN_REJECTED || !decide(t, TXN_ABORTED, stage, true))
		return;
	t->by = "ringpost";
	t->reason = reason;
}

void txn_in_doubt(struct txn *t, const char *reason)
{
	if (!decide(t, TXN_IN_DOUBT, "final", true))
		return;
	t->by = "ringpost";
	t->reason = reason;
}

void txn_leave(struct session *s, const char *reason)
{
	struct txn *t = s->txn;

	if (!t)
		return;
	s->txn = NULL;
	/* With a final reply under way it is not over, it is only no longer being built. */
	if (t->dot_us == 0)
		txn_abort(t, t->stage, reason);
	txn_unref(t);
}

bool txn_committed(const struct session *s, const struct slot *slot)
{
	if (!s->link)
		return false;
	if (slot->out_mark == UINT64_MAX)
		return move_running(s->up) && move_maybe_done(s->up);
	return stream_maybe_out(&s->link->st) >= slot->out_mark;
}

/* ---- the record ---- */

static void count(struct stat_table *st, const struct txn *t)
{
	STAT_ADD(st, body_bytes, t->bytes);
	STAT_ADD(st, bare_lf, t->scan.bare_lf);
	STAT_ADD(st, bare_cr, t->scan.bare_cr);
	STAT_ADD(st, nul_octets, t->scan.nul);
	STAT_ADD(st, recipients_accepted, t->rcpt_ok);
	STAT_ADD(st, recipients_rejected, t->rcpt_failed + t->rcpt_local);
	switch ((enum txn_outcome)t->outcome) {
	case TXN_OPEN:
	case TXN_ABORTED:
		STAT_INC(st, messages_aborted);
		break;
	case TXN_ACCEPTED:
		STAT_INC(st, messages_accepted);
		break;
	case TXN_CLIENT_GONE:
		STAT_INC(st, messages_accepted);
		STAT_INC(st, messages_client_gone);
		break;
	case TXN_REJECTED:
		STAT_INC(st, messages_rejected);
		break;
	case TXN_DISCARDED:
		STAT_INC(st, messages_discarded);
		break;
	case TXN_IN_DOUBT:
		STAT_INC(st, messages_in_doubt);
		break;
	}
}

static void record_envelope(struct log_rec *rec, const struct txn *t)
{
	const struct session *s = t->s;
	char client[ADDR_TEXT_BYTES];

	log_id(rec, "sid", s->id);
	log_id(rec, "tid", t->id);
	log_cstr(rec, "listener", s->lis->name);
	log_cstr(rec, "upstream", s->lis->upstream->name);
	log_cstr(rec, "server", t->server ? t->server->text : NULL);
	log_cstr(rec, "client", addr_text(&s->client, client));
	log_str(rec, "helo", sess_helo(s));
	log_str(rec, "from", span_of(t->from, t->from_n));
	log_str(rec, "to", span_of(t->to, t->to_n));
	log_u64(rec, "rcpts", t->rcpt_ok);
	log_u64(rec, "rcpts_refused", t->rcpt_failed + t->rcpt_local);
}

static const char *const outcome_words[] = {
#define X(id, word) word,
	TXN_OUTCOMES(X)
#undef X
};

static void record_outcome(struct log_rec *rec, const struct txn *t)
{
	uint64_t now = ring_now_us(t->s->core->ring);

	log_u64(rec, "bytes", t->bytes);
	log_cstr(rec, "body", t->chunked ? "bdat" : t->body_begun ? "data" : "");
	log_cstr(rec, "result", outcome_words[t->outcome]);
	log_cstr(rec, "stage", t->stage);
	if (t->code) {
		log_u64(rec, "code", t->code);
		log_str(rec, "enhanced", span_of(t->enhanced, t->enhanced_n));
		log_str(rec, "text", span_of(t->text, t->text_n));
	}
	log_cstr(rec, "by", t->by);
	log_cstr(rec, "reason", t->reason);
	if (t->scan.bare_lf)
		log_u64(rec, "bare_lf", t->scan.bare_lf);
	if (t->scan.bare_cr)
		log_u64(rec, "bare_cr", t->scan.bare_cr);
	if (t->scan.nul)
		log_u64(rec, "nul", t->scan.nul);
	if (t->body_us)
		log_ms(rec, "ms_envelope", t->body_us - t->began_us);
	if (t->dot_us) {
		log_ms(rec, "ms_body", t->dot_us - t->body_us);
		log_ms(rec, "ms_final", now - t->dot_us);
	}
	log_ms(rec, "ms_total", now - t->began_us);
}

static void record(struct txn *t, enum log_event ev)
{
	struct sess_core *c = t->s->core;
	struct log_rec rec;

	if (!log_begin(&rec, c->log, ev, ring_wall_us(c->ring)))
		return;
	record_envelope(&rec, t);
	record_outcome(&rec, t);
	log_end(&rec, c->stats);
}

static const enum hook_outcome hook_outcomes[] = {
	[TXN_OPEN] = HOOK_ABORTED,
	[TXN_ACCEPTED] = HOOK_ACCEPTED,
	[TXN_REJECTED] = HOOK_REJECTED,
	[TXN_DISCARDED] = HOOK_DISCARDED,
	[TXN_ABORTED] = HOOK_ABORTED,
	[TXN_IN_DOUBT] = HOOK_IN_DOUBT,
	[TXN_CLIENT_GONE] = HOOK_CLIENT_GONE,
};

void txn_unref(struct txn *t)
{
	struct sess_core *c = t->s->core;

	ASSERT(t->refs > 0);
	if (--t->refs > 0)
		return;
	sess_tell(t->s, &(struct hook_event){.point = HOOK_TRANSACTION,
				.tid = t->id,
				.recipients = t->rcpt_ok,
				.bytes = t->bytes,
				.outcome = hook_outcomes[t->outcome],
				.code = t->code});
	count(c->stats, t);
	/* What may have been delivered without anybody having been told is never hidden by a log
	 * level. */
	if (t->outcome == TXN_IN_DOUBT)
		record(t, LOG_EV_IN_DOUBT);
	record(t, LOG_EV_TRANSACTION);
	stash_clear(&t->early, &c->stashes);
	stash_clear(&t->headers, &c->stashes);
	hold_drop(t);
	env_free(&t->env);
	slab_put(&c->txns, t);
}
