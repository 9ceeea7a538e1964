/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The judge of sessions whose hooks see, change, discard and keep messages: docs/SMTP.md, "What
 * hooks change". It reads what the clients said and were told, what the servers took, the records
 * and counters, and what the hooks have written down themselves (wishes.h); nothing else.
 *
 * A session is read command by command, each with its one reply; a question to the hooks belongs to
 * the command it was about. What becomes of a message follows: its envelope and its octets with the
 * changes of those hooks that passed it, made by a reader and writer of header fields of its own.
 * A server may have taken just that, once, and only if no hook objected and the client was told so,
 * or was told nothing.
 *
 * It is coarser than oracle_read.c where causes are concerned: any refusal that ringpost may give
 * is one here. The clients and servers of these worlds are not hostile.
 */
#include "tests/sim/oracle_hooks_int.h"

#include "ring/listen.h"
#include "tests/sim/actor.h"

/* ---- reading a session ---- */

static struct hmail *new_mail(struct hsess *hs, const struct unit *u)
{
	struct hmail *m = calloc(1, sizeof(*m));

	ASSERT(m);
	m->s = hs;
	m->number = u->number;
	m->final = NONE;
	hs->mails = actor_grow(hs->mails, hs->mail_n, sizeof(*hs->mails));
	hs->mails[hs->mail_n++] = m;
	return m;
}

/* One of this session's servers said it, in its turn. */
static void is_whose(struct hooks *h, struct hsess *hs, const struct unit *u, const struct reply *r)
{
	const struct srv_reply *sr = srv_of(h->o, r->sr);
	struct span shown = span_of(hs->s->rs->out.p + r->off, r->n);

	if (sr->conn == hs->conn && sr->serial < hs->serial)
		broken(h->o, I4_REPLIES, hs->s, u->number, shown,
			"a reply comes twice, or too late");
	h->told[r->sr] = true;
	hs->conn = sr->conn;
	hs->serial = sr->serial + 1;
	if (u->verb != V_EHLO && !reply_same(shown, octets_span(&sr->text)))
		broken(h->o, I4_REPLIES, hs->s, u->number, shown,
			"a server's reply is not as it was said");
}

static bool ends_session(const struct reply *r)
{
	if (r->kind == R_MARKED || r->kind == R_RULE)
		return r->code == 421 || r->code == 521;
	return r->kind == R_OWN && (own_ends(r->own, false) || own_ends(r->own, true));
}

/* It answers just this. `line`: as the upstream was to be told. */
static void is_about(struct hooks *h, struct hsess *hs, const struct unit *u, const struct reply *r,
	struct span line)
{
	const struct srv_reply *sr = srv_of(h->o, r->sr);
	struct span said = link_octets(h->o, sr);
	bool good;

	if (sr->why == SRV_LEAVING || sr->why == SRV_GREETING)
		return;
	/* It can leave while the envelope is said again, or is taken back. */
	if ((u->kind == U_BODY || u->verb == V_BDAT) && ends_session(r))
		good = true;
	else if (u->kind == U_BODY)
		good = span_begins(said, "DATA");
	else if (u->verb == V_BDAT)
		good = span_begins(said, "BDAT ");
	else
		good = span_eq(said, line);
	if (!good)
		broken(h->o, I4_REPLIES, hs->s, u->number, said, "a server was not asked this");
}

/* The next MAIL finds an upstream that has forgotten what came before. */
static void envelope_is_empty(
	struct hooks *h, struct hsess *hs, const struct unit *u, const struct srv_reply *sr)
{
	const struct oconn *c = &h->o->conns[sr->conn];

	if (c->bad || !hs->ended_here)
		return;
	for (uint32_t i = sr->serial; i-- > 0;) {
		const struct srv_reply *was = srv_of(h->o, c->replies[i]);
		struct span cmd = link_octets(h->o, was);

		/* What a server makes of chunks that it has refused is its own affair. */
		if (was->why == SRV_FINAL || was->why == SRV_EARLY || was->why == SRV_GREETING ||
			span_begins(cmd, "RSET") || span_begins(cmd, "EHLO") ||
			span_begins(cmd, "HELO"))
			return;
		if (!span_begins(cmd, "MAIL") || was->code / 100 != 2)
			continue;
		broken(h->o, I11_VERDICT, hs->s, u->number, cmd,
			"MAIL to an upstream that still has the envelope of a message that was "
			"over");
		return;
	}
}

/* A verdict that was told must have been given, about this. */
static void is_said(struct hooks *h, struct hsess *hs, const struct unit *u, const struct reply *r,
	uint64_t tid)
{
	static const unsigned codes[] = {[VERDICT_REJECT] = 550,
		[VERDICT_TEMPFAIL] = 450,
		[VERDICT_DROP] = 421,
		[VERDICT_DISCARD] = 250,
		[VERDICT_DEFER_IF_PASS] = 450};
	const struct verdicts *v = h->o->in->verdicts;
	const struct verdict_made *m;
	struct span shown = span_of(hs->s->rs->out.p + r->off, r->n);

	if (r->verdict == VERDICT_FAILED)
		return;
	if (r->verdict == 0 || r->verdict > v->made_n) {
		broken(h->o, I11_VERDICT, hs->s, u->number, shown, "nobody has said this");
		return;
	}
	m = &v->made[r->verdict - 1];
	/* VERDICT_DEFER_IF_REJECT of one before it. */
	bool softened = m->kind == VERDICT_REJECT && r->code == 450;

	if (m->ev > r->ev || m->sid != hs->sid || (codes[m->kind] != r->code && !softened))
		broken(h->o, I11_VERDICT, hs->s, u->number, shown, "a verdict on something else");
	else if (tid && m->tid != tid)
		broken(h->o, I11_VERDICT, hs->s, u->number, shown,
			"a verdict on another transaction");
}

static bool is_2xx(const struct reply *r)
{
	return r->code / 100 == 2;
}

/* It passed, so all hooks were asked and none objected. */
static void must_have_passed(struct hooks *h, struct hsess *hs, const struct unit *u,
	const struct asked *a, const char *what)
{
	enum outcome out = a ? asked_outcome(hs->s->lis, a) : OUT_OPEN;

	if (out == OUT_OPEN)
		broken(h->o, I11_VERDICT, hs->s, u->number, SPAN_NONE,
			"%s went on though not all hooks were asked", what);
	else if (out == OUT_NO)
		broken(h->o, I11_VERDICT, hs->s, u->number, SPAN_NONE,
			"%s went on though a hook objected", what);
}

/* ringpost's own words that are no refusal have their places. */
static void own_is_allowed(
	struct hooks *h, struct hsess *hs, const struct unit *u, const struct reply *r)
{
	const struct oracle_listener *l = hs->s->lis;
	bool keeps = l->keeps || (hs->cur && hs->cur->discard);
	bool good = r->code >= 400;

	if (r->own == OWN_REPLY_DONE)
		good = u->verb == V_RSET || u->verb == V_NOOP;
	else if (r->own == OWN_REPLY_BYE)
		good = u->verb == V_QUIT;
	else if (r->own == OWN_REPLY_CHUNK)
		good = u->verb == V_BDAT && !u->last && keeps;
	else if (r->own == OWN_REPLY_GO_AHEAD)
		good = u->verb == V_DATA && keeps;
	else if (r->own == OWN_REPLY_NOBODY)
		good = u->kind == U_BODY || (u->verb == V_BDAT && u->last);
	if (!good)
		broken(h->o, I4_REPLIES, hs->s, u->number, span_of(hs->s->rs->out.p + r->off, r->n),
			"it may not be said here");
}

/* ---- commands ---- */

struct hturn {
	struct hooks *h;
	struct hsess *hs;
	const struct unit *u;
	const struct reply *r; /* NULL: nobody was told */
	bool passed;	       /* a server was asked, and has answered; or nobody knows */
};

/* It may have gone, and nobody was told what became of it. */
static bool unknown(const struct hturn *t)
{
	return !t->r || (t->r->kind == R_OWN && t->r->own == OWN_REPLY_LOST);
}

/* Own replies to MAIL that are given without asking the hooks. */
static bool not_asked(const struct reply *r)
{
	if (!r || r->kind != R_OWN)
		return false;
	return r->own != OWN_REPLY_LOST && r->own != OWN_REPLY_NO_TXN &&
	       r->own != OWN_REPLY_CHANGED_LONG && r->own != OWN_REPLY_CHANGED_MUCH;
}

static void turn_mail(struct hturn *t)
{
	struct hsess *hs = t->hs;
	struct asked *a = not_asked(t->r) ? NULL
					  : asked_find(hs, HOOK_MAIL, 0,
						    span_of(hs->s->rs->in.p + t->u->off, t->u->n));
	struct octets line = {0}, box = {0}, params = {0};
	struct hmail *m;

	if (a)
		a->used = true;
	hooked_line(t->h, hs, t->u, a, &line, &box, &params);
	if (t->r && t->r->kind == R_RULE)
		is_said(t->h, hs, t->u, t->r, a ? a->tid : 0);
	if (t->r && t->passed) {
		must_have_passed(t->h, hs, t->u, a, "MAIL");
		is_about(t->h, hs, t->u, t->r, octets_span(&line));
		if (ok(t->h->o))
			envelope_is_empty(t->h, hs, t->u, srv_of(t->h->o, t->r->sr));
	}
	hs->ended_here = false;
	/* A second one, and with the link only that was lost: the first needs none any more. */
	bool stays = t->r && unknown(t) && hs->cur && hs->cur->discard && hs->cur->begun;

	/* Which of the two goes on is not known. */
	hs->fuzzy |= !t->r && hs->cur;
	if (!stays && (unknown(t) || (t->passed && is_2xx(t->r)))) {
		m = new_mail(hs, t->u);
		m->tid = a ? a->tid : 0;
		m->from = line;
		m->from_params = params;
		m->envelope_known = !unknown(t);
		hooked_passed(hs, m, a);
		hs->cur = m;
	} else {
		octets_free(&line);
		octets_free(&params);
		/* One whose MAIL was lost is not there any more. */
		if (!stays && hs->cur && !hs->cur->envelope_known)
			hs->cur = NULL;
	}
	octets_free(&box);
}

static void turn_rcpt(struct hturn *t)
{
	struct hsess *hs = t->hs;
	struct hmail *m = hs->cur;
	struct asked *a = NULL;
	struct octets line = {0}, box = {0}, params = {0};

	if (m && (unknown(t) || t->passed || t->r->kind == R_RULE))
		a = asked_find(
			hs, HOOK_RCPT, m->tid, span_of(hs->s->rs->in.p + t->u->off, t->u->n));
	if (a)
		a->used = true;
	hooked_line(t->h, hs, t->u, a, &line, &box, &params);
	if (t->r && t->r->kind == R_RULE)
		is_said(t->h, hs, t->u, t->r, m ? m->tid : 0);
	if (t->r && t->passed && m) {
		must_have_passed(t->h, hs, t->u, a, "RCPT");
		is_about(t->h, hs, t->u, t->r, octets_span(&line));
	}
	if (m && unknown(t))
		m->envelope_known = false;
	if (m && a && (unknown(t) || t->passed))
		hooked_passed(hs, m, a);
	if (m && t->r && t->passed && is_2xx(t->r)) {
		m->rcpts = actor_grow(m->rcpts, m->rcpt_n, sizeof(*m->rcpts));
		m->rcpts[m->rcpt_n++] = (struct rcpt){line, box};
	} else {
		octets_free(&line);
		octets_free(&box);
	}
	octets_free(&params);
}

/* No chunk can come there; the transaction, if there is one, goes on. */
static bool out_of_place(const struct reply *r)
{
	if (!r || r->kind != R_OWN)
		return false;
	return r->own == OWN_REPLY_NEED_MAIL || r->own == OWN_REPLY_NEED_RCPT ||
	       r->own == OWN_REPLY_NO_RCPT || r->own == OWN_REPLY_REFUSED_VERB;
}

/* The first word of the message itself: DATA, or the first BDAT. What the hooks have passed holds
 * even when it is refused then; but the fields that they wanted at DATA are asked for again at the
 * next one. */
static void turn_begins(struct hturn *t)
{
	struct hsess *hs = t->hs;
	struct hmail *m = hs->cur;
	bool refused = t->r && t->r->code >= 400;
	struct asked *a;

	if (!m || m->begun || (t->u->verb == V_BDAT && out_of_place(t->r)))
		return;
	a = asked_find(hs, HOOK_DATA, m->tid, SPAN_NONE);
	/* Not about this one. */
	if (a && t->r && asked_first(a)->ev > t->r->ev)
		a = NULL;
	if (a)
		a->used = true;
	if (t->r && !refused)
		must_have_passed(t->h, hs, t->u, a, "a message");
	/* One chunk may be the first and the last: then it can be the end that was refused. */
	if (refused && t->r->kind == R_RULE && (t->u->verb == V_DATA || !asked_end(m)))
		return;
	if (refused && t->u->verb == V_DATA) {
		struct octets top = m->top;

		m->top = (struct octets){0};
		hooked_passed(hs, m, a);
		octets_free(&m->top);
		m->top = top;
	} else {
		hooked_passed(hs, m, a);
	}
	m->begun = !refused || (t->u->verb == V_BDAT && a);
}

static void turn_data(struct hturn *t)
{
	struct hsess *hs = t->hs;

	turn_begins(t);
	if (!t->r)
		return;
	if (t->r->kind == R_RULE)
		is_said(t->h, hs, t->u, t->r, hs->cur ? hs->cur->tid : 0);
	if (!t->passed)
		return;
	is_about(t->h, hs, t->u, t->r, span_of(hs->s->rs->in.p + t->u->off, t->u->n));
	if (t->r->code == 354 && hs->cur && (hs->cur->discard || hs->s->lis->keeps))
		broken(t->h->o, I11_VERDICT, hs->s, t->u->number, SPAN_NONE,
			"the upstream's 354 for a message that is %s",
			hs->cur->discard ? "discarded" : "kept");
}

/* Who ended it: behind DATA that was refused, and behind words of ours, the upstream still has the
 * envelope. */
static bool ended_here(const struct hooks *h, const struct reply *r)
{
	if (r && r->kind == R_MARKED)
		return srv_of(h->o, r->sr)->why == SRV_ANSWER &&
		       span_begins(link_octets(h->o, srv_of(h->o, r->sr)), "DATA");
	return r &&
	       (r->kind == R_RULE || (r->own != OWN_REPLY_LOST && r->own != OWN_REPLY_IN_DOUBT));
}

/* The client was told what became of its message. */
static void told_final(struct hturn *t, struct hmail *m)
{
	struct hsess *hs = t->hs;
	const struct reply *r = t->r;
	struct asked *end = asked_end(m);
	enum outcome out = end ? asked_outcome(hs->s->lis, end) : OUT_OPEN;
	struct span shown;

	hs->ended_here = ended_here(t->h, r);
	if (!r)
		return;
	shown = span_of(hs->s->rs->out.p + r->off, r->n);
	m->told = true;
	m->told_2xx = is_2xx(r);
	m->in_doubt = r->kind == R_OWN && r->own == OWN_REPLY_IN_DOUBT;
	if (r->kind == R_MARKED) {
		m->final = r->sr;
		return;
	}
	if (r->kind == R_RULE)
		is_said(t->h, hs, t->u, r, m->tid);
	if (!m->told_2xx)
		return;
	m->told_discard = true;
	if (m->discard || out == OUT_DISCARD)
		return;
	if (r->kind == R_OWN && r->own == OWN_REPLY_NOBODY && out == OUT_PASS) {
		struct expected x;
		bool nobody;

		expected_make(m, &x);
		nobody = x.nobody;
		expected_free(&x);
		if (nobody)
			return;
	}
	broken(t->h->o, I1_ACK, hs->s, m->number, shown,
		"2xx to a message that nobody took and nobody discarded");
}

static void turn_bdat(struct hturn *t)
{
	struct hsess *hs = t->hs;
	struct hmail *m = hs->cur;
	const struct unit *u = t->u;

	turn_begins(t);
	if (t->r && t->passed)
		is_about(t->h, hs, u, t->r, SPAN_NONE);
	if (t->r && t->r->kind == R_RULE)
		is_said(t->h, hs, u, t->r, m ? m->tid : 0);
	if (!m || out_of_place(t->r))
		return;
	m->bdat = true;
	octets_add(&m->raw, hs->s->rs->in.p + u->off + u->n, u->chunk);
	if (t->r && t->passed && !u->last && is_2xx(t->r) && (m->discard || hs->s->lis->keeps))
		broken(t->h->o, I11_VERDICT, hs->s, u->number, SPAN_NONE,
			"the upstream has octets of a message that is kept or discarded");
	/* A link that is lost before it has answered has the octets all the same. What a server
	 * makes of chunks that it has refused is its own affair, if the client goes on with others.
	 */
	if (t->r && !u->last && !is_2xx(t->r)) {
		hs->fuzzy |= t->passed;
		m->chunk_refused |= t->r->kind == R_RULE ||
				    (t->r->kind == R_OWN && t->r->own != OWN_REPLY_LOST);
	}
	if (!u->last)
		return;
	m->complete = u->whole;
	hs->cur = NULL;
	told_final(t, m);
}

static void turn_other(struct hturn *t)
{
	const struct unit *u = t->u;
	struct hsess *hs = t->hs;
	bool hello = u->verb == V_EHLO || u->verb == V_HELO;

	if (t->r && t->passed)
		is_about(t->h, hs, u, t->r, span_of(hs->s->rs->in.p + u->off, u->n));
	if (t->r && t->r->kind == R_RULE)
		is_said(t->h, hs, u, t->r, 0);
	if (u->verb == V_RSET || (hello && (!t->r || is_2xx(t->r))))
		hs->cur = NULL;
}

static void turn(struct hturn *t)
{
	if (t->u->verb == V_MAIL)
		turn_mail(t);
	else if (t->u->verb == V_RCPT)
		turn_rcpt(t);
	else if (t->u->verb == V_DATA)
		turn_data(t);
	else if (t->u->verb == V_BDAT)
		turn_bdat(t);
	else
		turn_other(t);
}

/* ---- units ---- */

/* Of replies that end the session: those that answer the command they stand behind. The others can
 * come while that and what follows it is under way. */
static bool is_for(const struct hooks *h, const struct reply *r)
{
	if (r->kind == R_MARKED)
		return srv_of(h->o, r->sr)->why != SRV_LEAVING;
	return r->kind == R_RULE;
}

/* The reply to a unit; false: there is none any more, or it ended the session. */
static bool reply_to(struct hooks *h, struct hsess *hs, const struct unit *u, struct reply *r)
{
	struct sess *s = hs->s;
	struct span shown;

	if (s->silent)
		return false;
	reply_read(h->o, s, r);
	if (r->kind == R_END || r->kind == R_PART) {
		s->silent = true;
		if (u->whole)
			s->unanswered = u->number ? u->number : 1;
		return false;
	}
	/* What has come and waits is no silence. */
	if (u->whole && r->kind == R_OWN && r->own == OWN_REPLY_SILENT && !h->o->in->pressure &&
		in_before(h->o, s->sock, r->ev) == u->off + u->n + u->chunk)
		broken(h->o, I4_REPLIES, s, u->number, SPAN_NONE, "the command has no reply");
	shown = span_of(s->rs->out.p + r->off, r->n);
	s->out_at = r->off + r->n;
	if (r->kind == R_BAD || r->kind == R_UNKNOWN)
		broken(h->o, I4_REPLIES, s, u->number, shown, "nobody's reply");
	if (r->kind == R_MARKED)
		is_whose(h, hs, u, r);
	if (ends_session(r)) {
		s->ended = true;
		/* Nothing behind a command that a hook has dropped the session for was read. */
		s->over = r->kind == R_RULE;
		if (s->out_at < s->rs->out.n)
			broken(h->o, I4_REPLIES, s, u->number, shown,
				"octets behind the reply that ended the session");
	}
	s->silent = s->ended;
	return ok(h->o) && (!s->ended || is_for(h, r));
}

static void read_body(struct hooks *h, struct hsess *hs, uint32_t number)
{
	struct sess *s = hs->s;
	struct span in = octets_span(&s->rs->in);
	struct unit u = {.kind = U_BODY, .number = number, .off = s->in_at};
	uint32_t end = body_end(in, s->in_at);
	struct hmail *m = hs->cur;
	struct reply r;

	u.whole = end > 0;
	u.n = (end ? end : (uint32_t)in.n) - s->in_at;
	s->in_at += u.n;
	hs->cur = NULL;
	if (m) {
		octets_add(&m->raw, in.p + u.off, u.whole ? u.n - 3 : u.n);
		m->complete = u.whole;
	}
	if (!u.whole) {
		if (reply_to(h, hs, &u, &r) && !s->ended)
			broken(h->o, I4_REPLIES, s, number, SPAN_NONE,
				"a reply in the middle of a message");
		s->over = true;
		return;
	}
	if (!reply_to(h, hs, &u, &r))
		return;
	struct hturn t = {h, hs, &u, &r, r.kind == R_MARKED};
	if (r.kind == R_OWN && !s->ended)
		own_is_allowed(h, hs, &u, &r);
	if (r.kind == R_MARKED)
		is_about(h, hs, &u, &r, SPAN_NONE);
	if (m)
		told_final(&t, m);
}

static void read_line(struct hooks *h, struct hsess *hs)
{
	struct sess *s = hs->s;
	struct span in = octets_span(&s->rs->in);
	struct unit u = {.kind = U_LINE, .number = ++s->number};
	struct reply r;
	bool told;

	if (!smtp_read_line(in, s->in_at, &u)) {
		u.kind = U_PART;
		s->over = true;
		/* What is too long need not have come to its end. */
		if (reply_to(h, hs, &u, &r) && !s->ended && u.n < s->lis->command_line_max)
			broken(h->o, I4_REPLIES, s, s->number, SPAN_NONE, "a reply too many");
		return;
	}
	smtp_read_command(s->lis, &u);
	u.whole = true;
	if (smtp_is_bdat(&u) && u.sized) {
		uint64_t there = in.n - u.off - u.n;

		u.whole = u.size <= there;
		u.chunk = (uint32_t)MIN_OF(u.size, there);
	}
	if (u.too_long || u.bare_lf || u.control || (u.verb == V_BDAT && !u.sized))
		u.verb = V_NONE;
	s->in_at = u.off + u.n + u.chunk;
	told = reply_to(h, hs, &u, &r);
	if (!ok(h->o))
		return;
	struct hturn t = {h, hs, &u, told ? &r : NULL, !told || r.kind == R_MARKED};
	turn(&t);
	if (told && r.kind == R_OWN && !s->ended)
		own_is_allowed(h, hs, &u, &r);
	if (u.verb == V_QUIT && told && r.code == 221)
		s->over = true;
	else if (ok(h->o) && u.verb == V_DATA && (told ? r.code == 354 : s->silent))
		read_body(h, hs, u.number);
}

static void read_session_hooked(struct hooks *h, struct hsess *hs)
{
	struct unit u = {.kind = U_END, .verb = V_NONE};
	struct sess *s = hs->s;
	struct reply r;

	hs->conn = NONE;
	s->serial_sock = NONE;
	(void)reply_to(h, hs, &u, &r);
	while (ok(h->o) && !s->over)
		read_line(h, hs);
	s->cut = session_cut(h->o, s);
	if (ok(h->o) && s->unanswered && !s->cut && !s->ended && !s->rs->in_end)
		broken(h->o, I4_REPLIES, s, s->unanswered, SPAN_NONE, "the command has no reply");
	if (ok(h->o) && !s->silent && s->out_at < s->rs->out.n) {
		reply_read(h->o, s, &r);
		if (r.kind != R_END && r.kind != R_PART && !ends_session(&r))
			broken(h->o, I4_REPLIES, s, s->number,
				span_drop(octets_span(&s->rs->out), s->out_at), "a reply too many");
	}
}

/* ---- all of it ---- */

static void name_session(struct hooks *h, struct hsess *hs)
{
	char a[ADDR_TEXT_BYTES], b[ADDR_TEXT_BYTES];

	addr_text(&hs->s->rs->peer, a);
	for (uint32_t i = 0; i < h->w->n; i++) {
		const struct wish *w = &h->w->all[i];

		if (w->point != HOOK_CONNECT || strcmp(addr_text(&w->client, b), a) != 0)
			continue;
		hs->sid = w->sid;
		asked_gather(h, hs);
		return;
	}
}

static void forget_mail(struct hmail *m)
{
	for (uint32_t i = 0; i < m->rcpt_n; i++) {
		octets_free(&m->rcpts[i].line);
		octets_free(&m->rcpts[i].mailbox);
	}
	free(m->rcpts);
	octets_free(&m->from);
	octets_free(&m->from_params);
	octets_free(&m->top);
	octets_free(&m->raw);
	free(m);
}

static void forget(struct hooks *h)
{
	for (uint32_t i = 0; i < h->o->sess_n; i++) {
		for (uint32_t k = 0; k < h->sess[i].mail_n; k++)
			forget_mail(h->sess[i].mails[k]);
		free(h->sess[i].mails);
		free(h->sess[i].asked);
	}
	free(h->sess);
	free(h->told);
}

void judge_hooked(struct oracle *o)
{
	struct hooks h = {.o = o, .w = o->in->verdicts->wishes};

	h.sess = calloc(o->sess_n + 1, sizeof(*h.sess));
	h.told = calloc(o->srv->reply_count + 1, sizeof(*h.told));
	ASSERT(h.sess && h.told);
	for (uint32_t i = 0; i < o->sess_n && ok(o); i++) {
		h.sess[i].s = &o->sess[i];
		name_session(&h, &h.sess[i]);
		read_session_hooked(&h, &h.sess[i]);
	}
	if (ok(o) && h.w->broken[0])
		broken(o, I11_VERDICT, NULL, 0, SPAN_NONE, "%s", h.w->broken);
	if (ok(o) && h.w->held_more)
		broken(o, I6_BOUND, NULL, 0, SPAN_NONE,
			"more than %u octets came for a hook that was full", h.w->held_max);
	if (ok(o))
		judge_taken(&h);
	if (ok(o))
		judge_resets(&h);
	for (uint32_t i = 0; i < h.w->shown_n && ok(o); i++)
		judge_shown(&h, &h.w->shown[i]);
	if (ok(o) && !o->in->killed)
		judge_counters(&h);
	forget(&h);
}
