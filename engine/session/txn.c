/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Mail transactions and their records. A transaction lives from MAIL until nothing names it any
 * more: not the session (which builds it) and no slot (whose reply it waits for). Then its one
 * record is written. What it says was decided last: an accepting or refusing reply, or the way it
 * broke off.
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
	t->id = s->core->next_id++;
	t->refs = 1;
	t->began_us = ring_now_us(s->core->ring);
	t->from_n = copy_text(t->from, sizeof(t->from), from->mailbox);
	t->server = s->server;
	t->result = "aborted";
	t->stage = "mail";
	t->by = "";
	STAT_INC(s->core->stats, transactions);
	return t;
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

/* The oldest name that waits: `to` if it was taken, forgotten if not. */
static void name_answered(struct txn *t, bool taken)
{
	size_t n;

	if (t->rcpt_ok > 0 || t->asked_n == 0)
		return;
	n = t->asked[0];
	if (taken)
		t->to_n = copy_text(t->to, sizeof(t->to), span_of(t->asked + 1, n));
	t->asked_n = (uint16_t)(t->asked_n - 1 - n);
	memmove(t->asked, t->asked + 1 + n, t->asked_n);
}

static void txn_undecide(struct txn *t)
{
	txn_end(t, "aborted", "rcpt", NULL);
	t->by = "";
}

void txn_rcpt_answered(struct txn *t, const struct smtp_reply *r)
{
	bool taken = r->code < 400;

	name_answered(t, taken);
	t->rcpt_pending--;
	if (taken) {
		/* What refused the others no longer decides, unless it is over for another reason. */
		if (t->rcpt_ok++ == 0 && t->s->txn == t)
			txn_undecide(t);
		return;
	}
	t->rcpt_failed++;
	if (t->rcpt_ok == 0)
		txn_decide(t, "rejected", "rcpt", r, NULL);
}

void txn_decide(struct txn *t, const char *result, const char *stage, const struct smtp_reply *r,
	const struct local_reply *local)
{
	t->result = result;
	t->stage = stage;
	t->by = r ? "upstream" : "ringpost";
	t->code = r ? r->code : local->code;
	t->reason = r ? NULL : local->word;
	struct span enhanced = r ? r->enhanced : span_str(local->enhanced);
	struct span text = r ? r->text : span_str(local->text);
	if (r && enhanced.n && text.n > enhanced.n && text.p == enhanced.p)
		text = span_drop(text, enhanced.n + (text.p[enhanced.n] == ' '));
	t->enhanced_n = copy_text(t->enhanced, sizeof(t->enhanced), enhanced);
	t->text_n = copy_text(t->text, sizeof(t->text), text);
}

void txn_end(struct txn *t, const char *result, const char *stage, const char *reason)
{
	t->result = result;
	t->stage = stage;
	t->by = "ringpost";
	t->reason = reason;
	t->code = 0;
	t->enhanced_n = t->text_n = 0;
}

bool txn_committed(const struct session *s, const struct slot *slot)
{
	return s->link && s->link->st.bytes_out >= slot->out_mark;
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
	if (t->result[0] == 'r')
		STAT_INC(st, messages_rejected);
	else if (t->result[0] == 'a' && t->result[1] == 'b')
		STAT_INC(st, messages_aborted);
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

static void record_outcome(struct log_rec *rec, const struct txn *t)
{
	uint64_t now = ring_now_us(t->s->core->ring);

	log_u64(rec, "bytes", t->bytes);
	log_cstr(rec, "body", t->chunked ? "bdat" : t->body_begun ? "data" : "");
	log_cstr(rec, "result", t->result);
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

void txn_unref(struct txn *t)
{
	struct sess_core *c = t->s->core;

	ASSERT(t->refs > 0);
	if (--t->refs > 0)
		return;
	struct hook_event ev = {
		.point = HOOK_TRANSACTION, .client = &t->s->client, .helo = sess_helo(t->s)};
	(void)hook_ask(t->s->lis, &ev);
	count(c->stats, t);
	/* What may have been delivered without anybody having been told is never hidden by a log
	 * level. */
	if (t->result[0] == 'i')
		record(t, LOG_EV_IN_DOUBT);
	record(t, LOG_EV_TRANSACTION);
	stash_clear(&t->early, &c->stashes);
	slab_put(&c->txns, t);
}
