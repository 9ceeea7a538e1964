/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The messages that servers took, and the octets that hooks were shown, against what they must be;
 * and the counters.
 */
#include "tests/sim/oracle_hooks_int.h"

#include "tests/sim/actor.h"

/* ---- what servers took ---- */

static void judge_envelope(
	struct hooks *h, struct hmail *m, const struct expected *x, const struct srv_message *got)
{
	if (!m->envelope_known || h->o->srv->conns[got->conn].lied)
		return;
	if (!same_octets(&x->from, &got->from))
		broken(h->o, I2_COMMIT, m->s->s, m->number, octets_span(&got->from),
			"a message was taken with another sender than the hooks have left it");
	else if (!same_octets(&x->to, &got->to))
		broken(h->o, I2_COMMIT, m->s->s, m->number, octets_span(&got->to),
			"a message was taken for other recipients than the hooks have left it");
}

/* NULL: a server may have taken this message. */
static const char *may_not_be_taken(const struct hmail *m)
{
	const struct asked *end = asked_end((struct hmail *)m);
	enum outcome out = end ? asked_outcome(m->s->s->lis, end) : OUT_OPEN;

	if (!m->complete)
		return "its end was not sent";
	if (m->discard || out == OUT_DISCARD || m->told_discard)
		return "it was discarded";
	if (m->chunk_refused)
		return "a part of it was refused";
	if (m->told && !m->told_2xx && !m->in_doubt)
		return "it was refused";
	if (m->tid && out == OUT_NO)
		return "a hook objected to it";
	if (m->tid && out == OUT_OPEN)
		return "not all hooks were asked about it";
	return NULL;
}

/* Which fields came with recipients that nobody knows to be taken is not known; the message itself
 * is all there. */
static bool perhaps_same(const struct hmail *m, const struct srv_message *got)
{
	return !m->envelope_known && !m->s->s->lis->keeps && m->raw.n > 0 &&
	       got->body.n >= m->raw.n &&
	       memmem(got->body.p, got->body.n, m->raw.p, m->raw.n) != NULL;
}

static void taken(struct hooks *h, struct hmail *m, const struct srv_message *got)
{
	const char *no = may_not_be_taken(m);
	struct expected x;

	expected_make(m, &x);
	if (no)
		broken(h->o, I11_VERDICT, m->s->s, m->number, octets_span(&got->body),
			"a message was taken though %s", no);
	else if (m->commits++)
		broken(h->o, I3_ONCE, m->s->s, m->number, SPAN_NONE, "a message was taken twice");
	else if (!m->s->fuzzy && !content_same(m, &x, got) && !perhaps_same(m, got))
		broken(h->o, I2_COMMIT, m->s->s, m->number, octets_span(&got->body),
			"a message was taken with other octets than the hooks have left it; %zu, "
			"not %zu",
			got->body.n, x.body.n);
	else
		judge_envelope(h, m, &x, got);
	expected_free(&x);
}

/* One whose client knows nothing of it; `sure`: the very octets. */
static struct hmail *candidate(struct hsess *hs, const struct srv_message *got, bool sure)
{
	for (uint32_t i = 0; i < hs->mail_n; i++) {
		struct hmail *m = hs->mails[i];
		struct expected x;
		bool same;

		if (m->commits || m->final != NONE || may_not_be_taken(m))
			continue;
		expected_make(m, &x);
		same = sure ? content_same(m, &x, got) : perhaps_same(m, got);
		expected_free(&x);
		if (same)
			return m;
	}
	return NULL;
}

static struct hsess *session_of(struct hooks *h, uint32_t conn)
{
	uint32_t i = h->o->socks[h->o->srv->conns[conn].sock].sess;

	return i == NONE ? NULL : &h->sess[i];
}

static void judge_told(struct hooks *h, struct hmail *m, bool *owned)
{
	const struct srv_reply *r;

	if (m->final == NONE || !m->told_2xx)
		return;
	r = srv_of(h->o, m->final);
	if (r->why != SRV_FINAL || r->message >= h->o->srv->message_count ||
		!h->o->srv->messages[r->message].committed) {
		broken(h->o, I1_ACK, m->s->s, m->number, octets_span(&r->text),
			"2xx to a message, but its server has taken none");
		return;
	}
	if (owned[r->message])
		broken(h->o, I1_ACK, m->s->s, m->number, octets_span(&r->text),
			"two messages were told the same 2xx");
	owned[r->message] = true;
	taken(h, m, &h->o->srv->messages[r->message]);
}

void judge_taken(struct hooks *h)
{
	const struct servers *srv = h->o->srv;
	bool *owned = calloc(srv->message_count + 1, sizeof(*owned));

	ASSERT(owned);
	for (uint32_t i = 0; i < h->o->sess_n && ok(h->o); i++)
		for (uint32_t k = 0; k < h->sess[i].mail_n && ok(h->o); k++)
			judge_told(h, h->sess[i].mails[k], owned);
	for (uint32_t i = 0; i < srv->message_count && ok(h->o); i++) {
		const struct srv_message *got = &srv->messages[i];
		struct hsess *hs = session_of(h, got->conn);
		struct hmail *m = hs ? candidate(hs, got, true) : NULL;

		if (hs && !m)
			m = candidate(hs, got, false);
		if (!got->committed || owned[i] || (hs && hs->fuzzy))
			continue;
		if (m)
			taken(h, m, got);
		else
			broken(h->o, I2_COMMIT, hs ? hs->s : NULL, 0, octets_span(&got->body),
				"server connection %u took a message that no client was told of "
				"and "
				"no hooks have left like this",
				got->conn);
	}
	free(owned);
}

/* ---- envelopes that are said again ---- */

struct span link_octets(const struct oracle *o, const struct srv_reply *sr)
{
	struct span all = octets_span(&o->rec->socks[o->srv->conns[sr->conn].sock].out);

	if (sr->cmd_off > all.n)
		return SPAN_NONE;
	all = span_drop(all, sr->cmd_off);
	return span_of(all.p, MIN_OF(all.n, sr->cmd_n));
}

bool span_begins(struct span s, const char *word)
{
	return actor_begins(s, word);
}

/* A MAIL of ringpost's own, whose reply no client was shown, comes behind RSET. */
static void judge_resets_of(struct hooks *h, const struct hsess *hs, const struct oconn *c)
{
	bool open = false;

	for (uint32_t i = 0; i < c->count && ok(h->o); i++) {
		const struct srv_reply *sr = srv_of(h->o, c->replies[i]);
		struct span cmd = link_octets(h->o, sr);

		if (sr->why == SRV_FINAL || sr->why == SRV_EARLY || span_begins(cmd, "RSET") ||
			span_begins(cmd, "EHLO") || span_begins(cmd, "HELO"))
			open = false;
		if (sr->why != SRV_ANSWER || !span_begins(cmd, "MAIL"))
			continue;
		if (open && !h->told[c->replies[i]] && reply_given(h->o, sr))
			broken(h->o, I11_VERDICT, hs->s, 0, cmd,
				"a changed envelope is said to an upstream that has not forgotten "
				"the "
				"one before");
		open |= sr->code / 100 == 2;
	}
}

void judge_resets(struct hooks *h)
{
	for (uint32_t i = 0; i < h->o->srv->conn_count && ok(h->o); i++) {
		const struct hsess *hs = session_of(h, i);

		/* Of others it is not known what they were to be told. */
		if (hs && !hs->s->silent && !h->o->conns[i].bad)
			judge_resets_of(h, hs, &h->o->conns[i]);
	}
}

/* ---- what hooks were shown ---- */

static struct hmail *mail_of(struct hooks *h, uint64_t tid)
{
	for (uint32_t i = 0; tid && i < h->o->sess_n; i++)
		for (uint32_t k = 0; k < h->sess[i].mail_n; k++)
			if (h->sess[i].mails[k]->tid == tid)
				return h->sess[i].mails[k];
	return NULL;
}

/* Of one that streams past: as it came. Of one that is kept: as the hooks before have left it. */
void judge_shown(struct hooks *h, const struct wish_shown *x)
{
	struct hmail *m = mail_of(h, x->tid);
	struct octets want = {0};
	struct span is = octets_span(&x->octets);
	const struct oracle_hook *hook;

	if (!m || m->s->fuzzy)
		return;
	hook = &m->s->s->lis->hooks[x->place];
	if (!hook->sees)
		return;
	if (hook->keeps)
		(void)content_at(m, asked_end(m), x->place, &want);
	else
		content_plain(m, &want);
	if (x->asked && !m->complete && !(m->bdat && !hook->keeps))
		broken(h->o, I11_VERDICT, m->s->s, m->number, is,
			"hook %u was asked about the end of a message that has none", x->place);
	else if (x->asked ? !span_eq(is, octets_span(&want))
			  : is.n > want.n || (is.n && memcmp(is.p, want.p, is.n) != 0))
		broken(h->o, I11_VERDICT, m->s->s, m->number, is,
			"hook %u was shown something else than the message; %zu octets, not %zu",
			x->place, is.n, want.n);
	octets_free(&want);
}

/* ---- records and counters ---- */

/* Lines that have both words. */
static uint32_t lines_with(struct span log, const char *one, const char *other)
{
	uint32_t n = 0;

	while (log.n) {
		const uint8_t *lf = memchr(log.p, '\n', log.n);
		struct span line = span_of(log.p, lf ? (size_t)(lf - log.p) : log.n);

		n += memmem(line.p, line.n, one, strlen(one)) &&
		     memmem(line.p, line.n, other, strlen(other));
		log = span_drop(log, line.n + (lf != NULL));
	}
	return n;
}

/* What is counted is recorded; and what was changed names its transaction. */
static void judge_records(struct hooks *h)
{
	const struct stat_table *st = h->o->in->stats;
	struct span log = h->o->in->log;
	static const char transaction[] = "ev=transaction";
	uint32_t taken = lines_with(log, transaction, "result=accepted") +
			 lines_with(log, transaction, "result=client-gone");

	if (lines_with(log, "ev=change", "tid=0000000000000000"))
		broken(h->o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"a change is recorded without its transaction");
	else if (lines_with(log, "ev=change", "ev=change") != st->hook_changes)
		broken(h->o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"changes are not recorded as they are counted");
	else if (taken != st->messages_accepted ||
		 lines_with(log, transaction, "result=discarded") != st->messages_discarded)
		broken(h->o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"messages are not recorded as they are counted");
}

void judge_counters(struct hooks *h)
{
	const struct stat_table *st = h->o->in->stats;
	uint64_t discards = 0, accepted = 0;

	for (uint32_t i = 0; i < h->o->sess_n; i++)
		for (uint32_t k = 0; k < h->sess[i].mail_n; k++) {
			const struct hmail *m = h->sess[i].mails[k];

			discards += m->told_discard;
			accepted += m->told_2xx && m->final != NONE;
		}
	if (st->held_now || st->hooks_now || st->sessions_now)
		broken(h->o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"something is counted as being there when all is over");
	else if (st->messages_discarded < discards)
		broken(h->o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"%llu messages were discarded, %llu are counted",
			(unsigned long long)discards, (unsigned long long)st->messages_discarded);
	else if (st->messages_accepted < accepted)
		broken(h->o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"%llu messages were taken, %llu are counted", (unsigned long long)accepted,
			(unsigned long long)st->messages_accepted);
	if (ok(h->o))
		judge_records(h);
}
