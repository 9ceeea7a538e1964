/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reads one session: what the client wrote and what it was told, side by side. A command, its one
 * reply, the state that follows from both, the next command. When the replies come to their end
 * (the client was gone, or the session was ended) the rest is read from what the servers answered,
 * so that every octet on the links can still be explained.
 */
#include "tests/sim/oracle_int.h"

#define LINGER_US 2000000u /* so long the last reply may take */

static struct span in_of(const struct sess *s, uint32_t off, uint32_t n)
{
	return span_of(s->rs->in.p + off, n);
}

/* ---- units ---- */

static void unit_times(const struct oracle *o, const struct sess *s, struct unit *u)
{
	u->line_ev = in_ev(o, s->sock, u->off + u->n);
	u->ev = in_ev(o, s->sock, u->off + u->n + u->chunk);
	u->us = ev_us(o, u->line_ev);
}

static void read_body(struct oracle *o, struct sess *s, struct unit *u)
{
	struct span in = octets_span(&s->rs->in);
	uint32_t end = body_end(in, s->in_at);

	u->kind = U_BODY;
	u->off = s->in_at;
	u->whole = end > 0;
	u->n = (end ? end : (uint32_t)in.n) - s->in_at;
	u->verb = V_NONE;
	u->ev = in_ev(o, s->sock, u->off + u->n);
	/* Silence is counted from when DATA was there. */
	u->line_ev = in_ev(o, s->sock, s->in_at);
	u->us = ev_us(o, u->line_ev);
}

static void read_unit(struct oracle *o, struct sess *s, struct unit *u)
{
	struct span in = octets_span(&s->rs->in);

	memset(u, 0, sizeof(*u));
	u->number = s->number;
	u->whole = true;
	if (s->phase == PHASE_BODY) {
		read_body(o, s, u);
		return;
	}
	u->number++;
	u->kind = s->phase == PHASE_AUTH ? U_AUTH : U_LINE;
	if (!smtp_read_line(in, s->in_at, u)) {
		u->kind = u->n ? U_PART : U_END;
		u->verb = V_NONE;
		unit_times(o, s, u);
		return;
	}
	if (u->kind == U_AUTH)
		smtp_read_auth_line(u);
	else
		smtp_read_command(s->lis, u);
	if (smtp_is_bdat(u) && u->sized) {
		uint64_t there = in.n - u->off - u->n;

		u->whole = u->size <= there;
		u->chunk = (uint32_t)MIN_OF(u->size, there);
		s->chunk_open = u->chunk < u->size;
	}
	unit_times(o, s, u);
}

static struct span unit_text(const struct sess *s, const struct unit *u)
{
	return in_of(s, u->off, u->n + u->chunk);
}

static bool is_sync(const struct unit *u)
{
	return u->kind == U_AUTH || u->verb == V_EHLO || u->verb == V_HELO || u->verb == V_DATA ||
	       u->verb == V_AUTH || u->verb == V_STARTTLS || u->verb == V_QUIT;
}

/* ---- messages ---- */

static uint32_t new_message(struct oracle *o, struct sess *s, const struct unit *u)
{
	if (o->msg_n == o->msg_cap) {
		o->msg_cap = o->msg_cap ? o->msg_cap * 2 : 16;
		o->msgs = realloc(o->msgs, o->msg_cap * sizeof(*o->msgs));
		ASSERT(o->msgs);
	}
	struct omsg *m = &o->msgs[o->msg_n];

	memset(m, 0, sizeof(*m));
	m->sess = s->self;
	m->number = u->number;
	m->known = s->mail == YES && !s->fuzzy && !s->silent;
	m->final = NONE;
	m->given_ev = NONE;
	octets_add(&m->from, s->from.p, s->from.n);
	octets_add(&m->to, s->to.p, s->to.n);
	return o->msg_n++;
}

static uint32_t bdat_message(struct oracle *o, struct sess *s, const struct unit *u)
{
	uint32_t i = new_message(o, s, u);
	struct omsg *m = &o->msgs[i];

	m->bdat = true;
	m->complete = u->whole;
	m->given_ev = u->ev;
	octets_add(&m->body, s->chunks.p, s->chunks.n);
	m->want = octets_span(&m->body);
	return i;
}

static void clear_transaction(struct sess *s)
{
	s->mail = NO;
	s->refused_ev = 0;
	s->rcpt_passed = s->rcpt_taken = s->rcpt_seen = 0;
	s->chunk_seen = s->too_big = s->lost = s->fuzzy = false;
	s->bdat_bytes = 0;
	s->from.n = s->to.n = s->chunks.n = 0;
}

/* Its envelope and chunks stay known: the end of its message may be on its way. */
static void lose_transaction(struct sess *s)
{
	s->lost |= s->mail != NO || s->refused_ev != 0;
	s->mail = NO;
	s->refused_ev = 0;
}

/* Told 2xx: what is counted per message begins anew. */
static void message_taken(struct sess *s, const struct reply *r)
{
	s->junk_then = s->junk;
	s->taken_ev = r->ev;
	s->taken_off = r->off + r->n;
	s->junk = 0;
}

/* ---- what follows from a command and its reply ---- */

struct turn {
	struct oracle *o;
	struct sess *s;
	const struct unit *u;
	const struct reply *r;
	bool passed, taken; /* the server answered; with 2xx */
	bool lost;	    /* 451: the link was lost */
	uint32_t sock;	    /* of the link that answered */
	uint32_t ev;	    /* when the engine had the answer */
};

/* A server that knows its verbs by a space reads another verb: what it took is open. */
static bool odd_blank(const struct unit *u)
{
	return u->arg.n > 0 && u->arg.p[0] != ' ';
}

static void on_mail(struct turn *t)
{
	struct sess *s = t->s;

	if (t->taken) {
		bool nested = s->mail != NO;

		clear_transaction(s);
		s->mail = YES;
		/* A server that takes a second MAIL may keep recipients. */
		s->fuzzy = nested || odd_blank(t->u);
		s->mail_sock = t->sock;
		octets_add(&s->from, s->rs->in.p + t->u->off, t->u->n);
	} else if (t->lost) {
		clear_transaction(s);
		s->lost = true;
		octets_add(&s->from, s->rs->in.p + t->u->off, t->u->n);
	} else if (s->mail == NO) {
		/* What was lost, or too large, is still there to be told of. */
		bool lost = s->lost, too_big = s->too_big;

		clear_transaction(s);
		s->lost = lost;
		s->too_big = too_big;
		s->refused_ev = t->passed ? t->ev : 0;
	} else if (!t->passed) {
		s->mail = MAYBE; /* which of the two is meant by what follows is not documented */
	}
}

static void on_rcpt(struct turn *t)
{
	struct sess *s = t->s;

	s->rcpt_seen++;
	if (t->lost) {
		s->rcpt_passed++; /* it may have been on its way */
		lose_transaction(s);
	}
	if (!t->passed)
		return;
	s->rcpt_passed++;
	if (!t->taken)
		return;
	s->rcpt_taken++;
	s->fuzzy |= odd_blank(t->u);
	octets_add(&s->to, s->rs->in.p + t->u->off, t->u->n);
	if (s->rcpt_taken > s->lis->recipients_max)
		broken(t->o, I11_VERDICT, s, t->u->number, unit_text(s, t->u),
			"recipient %u, the limit is %u", s->rcpt_taken, s->lis->recipients_max);
}

static void on_data(struct turn *t)
{
	struct sess *s = t->s;

	if (t->lost)
		lose_transaction(s);
	if (t->passed && t->r->code == 354) {
		s->body_off = s->line_at;
		s->body_msg = new_message(t->o, s, t->u);
		s->phase = PHASE_BODY;
	} else if (t->taken && s->mail == YES) {
		s->mail = MAYBE; /* nobody knows what 2xx to DATA means */
	}
}

/* The rest of the transaction meets the same reply, and the server is told to forget it. */
static bool given_up_between_chunks(const struct reply *r)
{
	return (r->kind == R_RULE && r->verdict) ||
	       (r->kind == R_OWN && r->own == OWN_REPLY_TOO_BIG);
}

static void on_bdat(struct turn *t)
{
	struct sess *s = t->s;

	if (t->lost || (t->passed && t->u->last)) {
		t->lost ? lose_transaction(s) : clear_transaction(s);
		if (t->taken)
			message_taken(s, t->r);
	} else if (t->passed && !t->taken) {
		/* What was refused, and that by no lie, is no part of the message, should the
		 * server take one after all; it may also have forgotten the transaction. */
		if (!reply_lies(t->o, srv_of(t->o, t->r->sr)))
			s->chunks.n -= MIN_OF(s->chunks.n, (size_t)t->u->chunk);
		s->fuzzy = true;
		s->mail = s->mail == YES ? MAYBE : s->mail;
	} else if (!t->passed && given_up_between_chunks(t->r)) {
		if (t->r->kind == R_RULE)
			s->late_resets++;
		else
			s->resets += !s->too_big;
		s->own_us = t->r->us;
		clear_transaction(s);
		s->too_big = true;
	}
}

static void on_reset(struct turn *t)
{
	bool own_ok = !t->passed && t->r->kind == R_OWN && t->r->own == OWN_REPLY_DONE;

	if (t->taken || own_ok)
		clear_transaction(t->s);
	else if (t->lost)
		lose_transaction(t->s);
	else if (t->passed && t->s->mail == YES)
		t->s->mail = MAYBE;
}

static void on_hello(struct turn *t)
{
	struct sess *s = t->s;
	bool ehlo = t->u->verb == V_EHLO;

	if (t->lost)
		lose_transaction(s);
	/* RFC 5321 4.1.1.1: 250 accepts a hello. Another 2xx changes nothing that was shown, and
	 * what the server thinks of the transaction is not known. */
	if (t->taken && t->r->code != 250 && s->mail == YES)
		s->mail = MAYBE;
	if (!t->taken || t->r->code != 250)
		return;
	clear_transaction(s);
	s->hello_due = false;
	s->hello = in_of(s, t->u->off, t->u->n);
	struct span list = t->r->kind == R_VIRTUAL ? octets_span(&srv_of(t->o, t->r->sr)->text)
						   : span_of(s->rs->out.p + t->r->off, t->r->n);
	s->chunking = ehlo && !s->lis->chunking_stripped && span_has(list, "CHUNKING") ? YES : NO;
}

static void on_other(struct turn *t)
{
	struct sess *s = t->s;

	if (t->lost)
		lose_transaction(s);
	if (!t->taken)
		return;
	s->sticky |= t->u->verb == V_XCLIENT || t->u->verb == V_XFORWARD || t->u->verb == V_OTHER ||
		     t->u->verb == V_AUTH || t->u->kind == U_AUTH;
	if (t->u->verb == V_XCLIENT && t->r->code == 220) {
		clear_transaction(s);
		s->chunking = MAYBE;
	}
}

static void on_auth(struct turn *t)
{
	t->s->phase = t->passed && t->r->code == 334 ? PHASE_AUTH : PHASE_COMMAND;
	on_other(t);
}

static void apply(struct turn *t)
{
	static void (*const on[V_NONE + 1])(struct turn *) = {
		[V_HELO] = on_hello,
		[V_EHLO] = on_hello,
		[V_MAIL] = on_mail,
		[V_RCPT] = on_rcpt,
		[V_DATA] = on_data,
		[V_BDAT] = on_bdat,
		[V_RSET] = on_reset,
		[V_AUTH] = on_auth,
		[V_NONE] = on_auth,
	};

	if (on[t->u->verb])
		on[t->u->verb](t);
	else
		on_other(t);
	if (t->u->verb < V_MAIL || t->u->verb > V_BDAT)
		t->s->junk++;
}

/* ---- a reply that a server made ---- */

static bool belongs(struct oracle *o, struct sess *s, const struct reply *r, uint32_t number)
{
	const struct srv_reply *sr = srv_of(o, r->sr);
	uint32_t sock = o->srv->conns[sr->conn].sock;
	struct span shown = span_of(s->rs->out.p + r->off, r->n);

	if (o->socks[sock].sess != s->self)
		broken(o, I5_MIXED, s, number, shown, "the reply of another session's server");
	else if (!reply_lies(o, sr) && (!reply_given(o, sr) || in_ev(o, sock, sr->out_end) > r->ev))
		broken(o, I4_REPLIES, s, number, shown,
			"a reply that the server had not said whole when the client was told");
	else if (sock == s->serial_sock && sr->serial + reply_lies(o, sr) < s->serial_next)
		broken(o, I4_REPLIES, s, number, shown,
			"the server's reply %u comes again, or too late", sr->serial);
	s->serial_sock = sock;
	s->serial_next = sr->serial + 1;
	return ok(o);
}

/* Two replies that a server ran together into one line read as one: what is shown must still be
 * what it said. */
static bool said_by_liar(const struct oracle *o, const struct srv_reply *sr, struct span shown)
{
	const struct octets *in = &o->rec->socks[o->srv->conns[sr->conn].sock].in;
	const uint8_t *cr = memchr(shown.p, '\r', shown.n);

	return reply_lies(o, sr) && memmem(in->p, in->n, shown.p, (size_t)(cr - shown.p));
}

static void same_text(struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	struct span shown = span_of(s->rs->out.p + r->off, r->n);
	const struct srv_reply *sr = srv_of(o, r->sr);

	if (u->verb == V_EHLO && r->code == 250 && !reply_lies(o, sr))
		ehlo_compare(o, s, u, r);
	else if (u->verb == V_EHLO && r->code == 250)
		return; /* whatever a liar listed */
	else if (!reply_same(shown, octets_span(&sr->text)) && !said_by_liar(o, sr, shown))
		broken(o, I4_REPLIES, s, u->number, shown, "not what the server said, whole");
}

/* 354 answers DATA, 334 goes on with AUTH; no other 3xx is ever asked for. */
static bool class_fits(const struct unit *u, unsigned code)
{
	if (code / 100 != 3)
		return true;
	if (u->verb == V_DATA)
		return code == 354;
	return code == 334 && (u->verb == V_AUTH || u->kind == U_AUTH);
}

static struct pass pass_of(struct sess *s, const struct unit *u)
{
	return (struct pass){
		.text = unit_text(s, u), .msg = NONE, .whole = u->whole, .number = u->number};
}

/* A chunk that may have gone to the server is part of the message. */
static void take_chunk(struct oracle *o, struct sess *s, const struct unit *u, struct pass *p)
{
	if (u->verb != V_BDAT || !u->sized)
		return;
	s->chunk_seen = true;
	s->bdat_bytes += u->size;
	octets_add(&s->chunks, s->rs->in.p + u->off + u->n, u->chunk);
	if (u->last)
		p->msg = bdat_message(o, s, u);
}

static void check_passing(struct oracle *o, struct sess *s, const struct unit *u, uint32_t sock)
{
	const char *why = may_not_pass(o, s, u);
	bool in_mail = u->verb == V_RCPT || u->verb == V_DATA || u->verb == V_BDAT;

	if (why)
		broken(o, I11_VERDICT, s, u->number, unit_text(s, u),
			"a command went to the server though %s", why);
	else if (in_mail && s->mail == YES && sock != s->mail_sock)
		broken(o, I11_VERDICT, s, u->number, unit_text(s, u),
			"a command went to a server that does not know its MAIL");
}

static void told_message(struct oracle *o, uint32_t msg, const struct reply *r, bool own)
{
	if (msg == NONE)
		return;
	struct omsg *m = &o->msgs[msg];

	m->told = r->kind != R_VIRTUAL;
	m->told_own = own;
	m->told_ev = r->ev;
	m->final = own ? NONE : r->sr;
}

/* The command stands on the link where the server read it: that is whose reply this is. What a
 * server says after a lie is read in order instead. */
static void place_answered(struct oracle *o, struct sess *s, const struct unit *u,
	const struct reply *r, struct pass *p)
{
	const struct srv_reply *sr = srv_of(o, r->sr);
	uint32_t sock = o->srv->conns[sr->conn].sock;

	if (reply_lies(o, sr) || !u->whole) {
		links_enter(o, s, sock);
		uint32_t off = ok(o) ? links_try(o, s, p, false) : NONE;
		if (off != NONE)
			links_place(o, s, p, sock, off);
		else if (ok(o))
			links_pending(o, s, p);
	} else if (sr->why == SRV_GREETING || sr->cmd_n != u->n ||
		   (sr->why == SRV_EARLY && u->verb != V_BDAT)) {
		broken(o, I4_REPLIES, s, u->number, unit_text(s, u),
			"the reply k%u.%u is none to this command", sr->conn, sr->serial);
	} else {
		/* A server that gave up in the middle of a chunk need not have got the rest. */
		if (sr->why == SRV_EARLY && o->rec->socks[sock].out.n < sr->cmd_off + p->text.n)
			p->whole = false;
		links_place(o, s, p, sock, sr->cmd_off);
	}
}

static void answered(struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	const struct srv_reply *sr = srv_of(o, r->sr);
	uint32_t sock = o->srv->conns[sr->conn].sock;
	struct pass p = pass_of(s, u);

	if (!class_fits(u, r->code))
		broken(o, I4_REPLIES, s, u->number, unit_text(s, u),
			"a reply %u that nothing asked for", r->code);
	if (ok(o))
		check_passing(o, s, u, sock);
	if (!ok(o))
		return;
	take_chunk(o, s, u, &p);
	place_answered(o, s, u, r, &p);
	if (s->mail != NO && sock != s->mail_sock)
		lose_transaction(s); /* the link was replaced: this one does not know of it */
	told_message(o, p.msg, r, false);
	struct turn t = {.o = o,
		.s = s,
		.u = u,
		.r = r,
		.passed = true,
		.taken = r->code / 100 == 2,
		.sock = sock,
		.ev = in_ev(o, sock, sr->out_end)};
	if (ok(o))
		apply(&t);
}

/* ---- a reply of ringpost's own ---- */

static bool says_lost(const struct reply *r)
{
	return r->kind == R_OWN && (r->own == OWN_REPLY_LOST || r->own == OWN_REPLY_IN_DOUBT);
}

static void check_own(struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	const char *needs = own_not_allowed(o, s, u, r);
	struct span shown = span_of(s->rs->out.p + r->off, r->n);
	bool message = u->kind == U_BODY || (u->verb == V_BDAT && u->last);

	if (needs)
		broken(o, message && r->code / 100 == 2 ? I1_ACK : I4_REPLIES, s, u->number, shown,
			"ringpost's own reply to '%.40s' needs %s",
			u->kind == U_BODY ? "(body)" : (const char *)o->scratch.p, needs);
	if (r->kind == R_OWN)
		o->told[r->own]++;
	else
		o->told_rule += !r->verdict;
	/* Another loss than the one before, which had taken what was open then. */
	if (says_lost(r) && u->us > s->loss_us)
		s->loss_us = r->us;
}

/* ringpost says `*`, and nobody is told what the server says to that. */
static void cancel_auth(struct sess *s, const struct reply *r)
{
	s->stars++;
	s->own_us = r->us;
}

static void refused_here(
	struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	struct pass p = pass_of(s, u);
	struct turn t = {.o = o, .s = s, .u = u, .r = r, .lost = says_lost(r)};

	if (t.lost) {
		take_chunk(o, s, u, &p);
		links_pending(o, s, &p);
		told_message(o, p.msg, r, true);
	} else {
		links_refused(s, unit_text(s, u));
		if (u->kind == U_AUTH)
			cancel_auth(s, r);
	}
	apply(&t);
}

/* ---- bodies ---- */

static void body_differs(struct oracle *o, struct sess *s, const struct omsg *m, bool taken)
{
	uint32_t sock = s->links[s->cur], n = 0;
	struct span out = span_drop(octets_span(&o->rec->socks[sock].out), s->at);

	while (n < out.n && n < m->want.n && out.p[n] == m->want.p[n])
		n++;
	struct span rest = span_drop(out, n > 8 ? n - 8 : 0);
	uint32_t who = foreign_mark(span_of(rest.p, MIN_OF(rest.n, 300u)), s->rs->who);
	if (who != NONE)
		broken(o, I5_MIXED, s, m->number, rest, "octets of client %u in a body of its",
			who);
	else if (taken)
		broken(o, I1_ACK, s, m->number, rest,
			"2xx, but of the body's %zu octets only %u left as they should", m->want.n,
			n);
	else
		broken(o, I2_COMMIT, s, m->number, rest,
			"a body left that the client did not send, from octet %u on", n);
}

/* Finds the body behind DATA on its link. `all`: it must stand there to its end. */
static void place_body(
	struct oracle *o, struct sess *s, const struct unit *u, bool may_end, bool all, bool taken)
{
	struct omsg *m = &o->msgs[s->body_msg];
	uint32_t sock = s->links[s->cur], start = s->at;
	uint32_t there = (uint32_t)o->rec->socks[sock].out.n - start;
	struct pass p = {.msg = s->body_msg,
		.whole = u->whole && may_end,
		.body = true,
		.number = u->number};

	if (s->lis->newlines == NEWLINES_NORMALIZE) {
		body_normalize(in_of(s, u->off, u->n), u->whole, &m->body);
		m->want = octets_span(&m->body);
	} else {
		m->want = in_of(s, u->off, u->n);
	}
	m->complete = u->whole;
	m->given_ev = u->ev;
	p.text = m->want;
	bool same = p.whole && there >= m->want.n &&
		    memcmp(o->rec->socks[sock].out.p + start, m->want.p, m->want.n) == 0;
	if (same) {
		links_place(o, s, &p, sock, start);
	} else if (all) {
		body_differs(o, s, m, taken);
	} else if (u->whole && !may_end && there >= m->want.n) {
		broken(o, I11_VERDICT, s, u->number, SPAN_NONE,
			"a body that ringpost refused went to the server with its end");
	} else if (there && !links_part(o, s, &p)) {
		body_differs(o, s, m, taken);
	}
	/* What is thrown away, behind a refusal, is not held. */
	if (ok(o) && same)
		body_bound(o, s, u->off, u->off + u->n, sock, start);
}

static void body_of_liar(struct oracle *o, struct sess *s, const struct unit *u)
{
	struct omsg *m = &o->msgs[s->body_msg];

	m->complete = u->whole;
	m->given_ev = u->ev;
	if (s->lis->newlines == NEWLINES_NORMALIZE)
		body_normalize(in_of(s, u->off, u->n), u->whole, &m->body);
	m->want = s->lis->newlines == NEWLINES_NORMALIZE ? octets_span(&m->body)
							 : in_of(s, u->off, u->n);
	links_pending(o, s,
		&(struct pass){.text = m->want,
			.msg = s->body_msg,
			.whole = u->whole,
			.body = true,
			.number = u->number});
	links_try(o, s, &(struct pass){.msg = NONE}, false);
}

/* Was DATA found where the server read it, right before the cursor? */
static bool body_is_next(const struct sess *s)
{
	return s->pend_at == s->pend_n && s->line_at == s->body_off && s->at > s->line_at;
}

static void end_of_body(struct sess *s, const struct unit *u, bool lost)
{
	s->phase = PHASE_COMMAND;
	s->in_at = u->off + u->n;
	lost ? lose_transaction(s) : clear_transaction(s);
}

static void body_told(struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	const struct srv_reply *sr = r->kind == R_MARKED ? srv_of(o, r->sr) : NULL;
	bool final = sr && !reply_lies(o, sr) && sr->why == SRV_FINAL;
	bool taken = final && r->code / 100 == 2;
	bool early = sr && sr->why == SRV_EARLY;
	uint32_t msg = s->body_msg;

	if (!u->whole || r->ev <= u->ev)
		broken(o, I4_REPLIES, s, u->number, span_of(s->rs->out.p + r->off, r->n),
			"a reply to a message before its end");
	else if (!sr)
		check_own(o, s, u, r);
	else if (!reply_lies(o, sr) && ((!final && !early) || sr->cmd_off != s->body_off))
		broken(o, I4_REPLIES, s, u->number, span_of(s->rs->out.p + r->off, r->n),
			"the reply k%u.%u is none to this message", sr->conn, sr->serial);
	else if (r->code / 100 == 3)
		broken(o, I4_REPLIES, s, u->number, SPAN_NONE, "3xx to a message");
	if (!ok(o))
		return;
	if (body_is_next(s))
		place_body(o, s, u, sr || says_lost(r), final, taken);
	else
		body_of_liar(o, s, u);
	told_message(o, msg, r, !sr);
	s->dropped |= early || (!sr && !says_lost(r));
	if (r->code / 100 == 2)
		message_taken(s, r);
	end_of_body(s, u, says_lost(r));
}

/* ---- STARTTLS ---- */

static bool is_prefix(struct span part, struct span whole)
{
	return part.n <= whole.n && (part.n == 0 || memcmp(part.p, whole.p, part.n) == 0);
}

static void went_opaque(
	struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	const struct srv_reply *sr = srv_of(o, r->sr);
	uint32_t sock = o->srv->conns[sr->conn].sock, behind = u->off + u->n;
	const struct osock *k = &o->socks[sock];
	const struct rec_sock *link = &o->rec->socks[sock];
	bool passed = link->out.n > s->at;

	s->over = true;
	s->opaque = true;
	o->opaque_n++;
	s->out_at = (uint32_t)s->rs->out.n;
	if (reply_lies(o, sr))
		return;
	if (in_before(o, s->sock, in_ev(o, sock, sr->out_end)) > behind)
		broken(o, I12_TLS, s, u->number, unit_text(s, u),
			"octets stood behind STARTTLS when its 220 came, and the session went on");
	else if (passed && in_before(o, s->sock, said_ev(o, s->sock, r->off + r->n)) > behind)
		broken(o, I12_TLS, s, u->number, unit_text(s, u),
			"octets from before the client had its 220 went to the server");
	for (uint32_t i = 0; i < k->in_n && ok(o); i++)
		if (k->in[i].end > sr->out_end && (i == 0 || k->in[i - 1].end < sr->out_end))
			broken(o, I12_TLS, s, u->number, SPAN_NONE,
				"octets stood behind the 220 in one piece, and the session went "
				"on");
	if (ok(o) && !is_prefix(span_drop(octets_span(&link->out), s->at),
			     span_drop(octets_span(&s->rs->in), behind)))
		broken(o, I12_TLS, s, u->number, span_drop(octets_span(&link->out), s->at),
			"behind STARTTLS the server was given what the client did not send");
	if (ok(o) && !is_prefix(span_drop(octets_span(&s->rs->out), r->off + r->n),
			     span_drop(octets_span(&link->in), sr->out_end)))
		broken(o, I12_TLS, s, u->number, span_drop(octets_span(&s->rs->out), r->off + r->n),
			"behind STARTTLS the client was given what the server did not send");
}

/* What was learnt in clear counts no more; a transaction that was open is left. */
static void went_secure(struct sess *s)
{
	s->late_resets += s->mail != NO;
	clear_transaction(s);
	s->chunking = NO;
	s->tls = s->hello_due = true;
	/* It never came to that: what is there is no command, and nothing is owed. */
	s->rushed |= !s->rs->veiled;
	s->over |= !s->rs->veiled;
}

/* ---- the end ---- */

static bool lied(const struct oracle *o, uint32_t sock)
{
	uint32_t conn = o->socks[sock].conn;

	return conn != NONE && o->srv->conns[conn].lied;
}

bool struck_between(
	const struct oracle *o, enum sim_fault f, uint32_t from, uint32_t to, uint64_t since_us)
{
	if (o->rec->faults[f] == 0)
		return false;
	for (uint32_t i = from; i < to && i < o->rec->count; i++)
		if (o->rec->events[i].kind == REC_FAULT && o->rec->events[i].n == f &&
			o->rec->events[i].us >= since_us)
			return true;
	return false;
}

/* A pool was empty shortly before: there may be no memory left even for saying so. */
static bool out_of_memory(const struct oracle *o, const struct sess *s)
{
	const struct osock *k = &o->socks[s->sock];
	uint64_t end = s->rs->close_us;

	return struck_between(
		o, FAULT_FULL_SLAB, k->open_ev, k->close_ev, end > LINGER_US ? end - LINGER_US : 0);
}

/* When two seconds were left it had not read what there was; or the core slept through them. */
static bool does_not_read(const struct oracle *o, const struct sess *s)
{
	const struct rec_sock *rs = s->rs;
	const struct osock *k = &o->socks[s->sock];
	uint64_t then = rs->close_us > LINGER_US ? rs->close_us - LINGER_US + CLOCK_US : 0;
	uint64_t late = then > LATE_US ? then - LATE_US : 0; /* may have held it back till then */
	const struct record *rec = wire_of(o);
	uint32_t given = 0, read = 0;

	for (uint32_t i = k->open_ev; i < k->close_ev && o->rec->events[i].us <= then; i++) {
		const struct rec_event *e = &rec->events[i];

		if (e->sock == s->sock && e->kind == REC_OUT)
			given += e->n;
		if (e->sock == s->sock && e->kind == REC_FAR_IN)
			read += e->n;
	}
	return given > read || struck_between(o, FAULT_LATE, k->open_ev, k->close_ev, late) ||
	       struck_between(o, FAULT_CLOCK_JUMPS, k->open_ev, k->close_ev,
		       then > 2 * LINGER_US ? then - 2 * LINGER_US : 0);
}

bool session_cut(const struct oracle *o, const struct sess *s)
{
	const struct rec_sock *rs = s->rs;

	/* The connection was dead, or the world ended before it did. */
	return rs->out_err || rs->net_dead || rs->far_reset ||
	       (rs->in_end && rs->in_end_res != RING_EOF) || !rs->closed || o->in->killed ||
	       does_not_read(o, s) || out_of_memory(o, s);
}

/* Who is refused at once gets one send; a kernel that does not take all of it is not waited for.
 * And who was gone before it was accepted gets nothing. */
static bool turned_away(const struct oracle *o, const struct sess *s)
{
	static const enum own_reply at_once[] = {
		OWN_REPLY_NOT_ALLOWED, OWN_REPLY_PER_CLIENT, OWN_REPLY_FULL, OWN_REPLY_DRAINING};
	const uint64_t *faults = o->rec->faults;
	const struct rec_sock *rs = s->rs;
	struct span out = octets_span(&rs->out);
	char text[128];

	if (s->greeted || s->link_n || rs->close_us != rs->open_us)
		return false;
	if (out.n == 0 && (rs->far_reset || rs->net_dead || o->unborn_dead))
		return true;
	if (faults[FAULT_SEND_AGAIN] == 0 && faults[FAULT_SHORT_SEND] == 0)
		return false;
	for (size_t i = 0; i < ARRAY_LEN(at_once); i++) {
		snprintf(text, sizeof(text), "%u %s %s\r\n", own_texts[at_once[i]].code,
			own_texts[at_once[i]].enhanced, own_texts[at_once[i]].text);
		if (is_prefix(out, span_str(text)))
			return true;
	}
	return false;
}

static void finish(struct oracle *o, struct sess *s)
{
	const struct rec_sock *rs = s->rs;

	links_finish(o, s);
	if (s->ended && s->out_at < rs->out.n)
		broken(o, I4_REPLIES, s, s->number, span_drop(octets_span(&rs->out), s->out_at),
			"octets behind the reply that ended the session");
	s->away = turned_away(o, s);
	s->cut = s->away || s->rushed || session_cut(o, s);
	/* A client that ends in the middle of a body is gone: nothing is owed to it any more. A 354
	 * that was a lie begins one as well. */
	s->cut |= rs->in_end && (s->unanswered_in_body || (s->link_n && lied(o, s->links[s->cur])));
	if (s->cut || !ok(o) || s->ended || s->opaque || s->refused)
		return;
	if (s->out_at < rs->out.n)
		broken(o, I4_REPLIES, s, s->number, span_drop(octets_span(&rs->out), s->out_at),
			"half a reply at the end of what the client was told");
	else if (s->unanswered && !s->quit)
		broken(o, I4_REPLIES, s, s->unanswered, SPAN_NONE, "the command has no reply");
	else if (!rs->in_end && !s->quit && rs->closed)
		broken(o, I4_REPLIES, s, s->number, SPAN_NONE, "the session ended without a word");
}

/* ---- without replies ---- */

static uint32_t answer_at(const struct oracle *o, const struct sess *s, uint32_t off, bool body)
{
	uint32_t conn = o->socks[s->links[s->cur]].conn;

	if (conn == NONE)
		return NONE;
	const struct oconn *c = &o->conns[conn];
	for (uint32_t i = 0; i < c->count && i < c->lie_from; i++) {
		const struct srv_reply *sr = srv_of(o, c->replies[i]);
		bool final = sr->why == SRV_FINAL || sr->why == SRV_EARLY;

		if (sr->cmd_off != off || sr->why == SRV_GREETING || sr->why == SRV_LEAVING)
			continue;
		if (body != final && body)
			continue;
		if (!body && sr->why == SRV_EARLY)
			continue;
		if (reply_given(o, sr))
			return c->replies[i];
	}
	return NONE;
}

static void unknown_fate(struct sess *s, const struct unit *u)
{
	if (u->verb == V_MAIL) {
		clear_transaction(s);
		s->mail = MAYBE;
		octets_add(&s->from, s->rs->in.p + u->off, u->n);
	} else if (u->verb == V_BDAT && u->last) {
		clear_transaction(s);
	} else if (u->verb == V_RCPT) {
		s->rcpt_passed++;
		s->rcpt_seen++;
	}
}

/* Nothing behind such a command is read before its reply. If its link was lost it had one, which
 * nobody was told, and reading went on. */
static void stop_at_sync(struct oracle *o, struct sess *s, const struct unit *u)
{
	const struct osock *k = s->link_n ? &o->socks[s->links[s->cur]] : NULL;
	bool lost = s->link_n && (s->cur + 1 < s->link_n || k->loss_ev != NONE);

	if (!is_sync(u))
		return;
	s->over = !lost || s->blind;
	s->phase = PHASE_COMMAND;
	if (lost)
		lose_transaction(s);
}

/* Refused, and nobody was told; the server may still have been told to forget something. */
static void silently_refused(struct sess *s, const struct unit *u)
{
	links_refused(s, unit_text(s, u));
	s->over |= smtp_is_bdat(u) && !u->sized;
	if (u->kind == U_AUTH) {
		s->stars++;
		s->phase = PHASE_COMMAND;
	} else if (smtp_is_bdat(u) && s->mail != NO && s->chunking != NO) {
		s->resets++;
	}
}

static void silent_line(struct oracle *o, struct sess *s, const struct unit *u)
{
	struct pass p = pass_of(s, u);
	struct reply r = {.kind = R_VIRTUAL, .sr = NONE, .ev = NONE};

	/* What followed a MAIL whose link was lost may have been on its way with it; and a second
	 * MAIL that found no memory leaves the first one open. */
	bool later = u->verb == V_RCPT || u->verb == V_DATA || u->verb == V_BDAT;
	bool open = s->lost || ((s->mail == NO || s->rcpt_passed == 0) && out_of_memory(o, s));
	if (may_not_pass(o, s, u) && !(later && open)) {
		silently_refused(s, u);
		return;
	}
	take_chunk(o, s, u, &p);
	uint32_t off = u->whole ? links_try(o, s, &p, true) : NONE;
	if (!ok(o))
		return;
	if (off == NONE) {
		/* Not there: it may have been refused for what is not known here. */
		links_pending(o, s, &p);
		unknown_fate(s, u);
		s->late_resets += smtp_is_bdat(u) && o->in->verdicts && o->in->verdicts->failures;
		s->phase = PHASE_COMMAND;
		return;
	}
	links_place(o, s, &p, s->links[s->cur], off);
	r.sr = answer_at(o, s, off, false);
	s->blind = r.sr == NONE && is_sync(u) && lied(o, s->links[s->cur]);
	/* Behind 421 nothing is done any more, but it may have been on its way. */
	if (r.sr == NONE || srv_of(o, r.sr)->code == 421 || srv_of(o, r.sr)->code == 521 ||
		!ok(o)) {
		unknown_fate(s, u);
		stop_at_sync(o, s, u);
		return;
	}
	const struct srv_reply *sr = srv_of(o, r.sr);
	r.code = sr->code;
	told_message(o, p.msg, &r, false);
	struct turn t = {.o = o,
		.s = s,
		.u = u,
		.r = &r,
		.passed = true,
		.taken = sr->code / 100 == 2,
		.sock = s->links[s->cur],
		.ev = in_ev(o, s->links[s->cur], sr->out_end)};
	apply(&t);
	s->over |= u->verb == V_QUIT;
	if (u->verb == V_STARTTLS && sr->code == 220) {
		s->over = true;
		if (o->rec->socks[s->links[s->cur]].out.n > s->at)
			broken(o, I12_TLS, s, u->number, SPAN_NONE,
				"octets went on behind STARTTLS though the client had no 220");
	}
}

static void silent_body(struct oracle *o, struct sess *s, const struct unit *u)
{
	uint32_t msg = s->body_msg;

	s->unanswered_in_body |= !u->whole;
	if (body_is_next(s))
		place_body(o, s, u, true, false, false);
	else
		body_of_liar(o, s, u);
	if (!ok(o))
		return;
	if (s->body_off != NONE && s->link_n)
		o->msgs[msg].final = answer_at(o, s, s->body_off, true);
	end_of_body(s, u, false);
}

static void silent_step(struct oracle *o, struct sess *s, const struct unit *u)
{
	if (u->kind == U_END || u->kind == U_PART) {
		s->stars += s->phase == PHASE_AUTH && u->n >= AUTH_LINE_MAX;
		s->over = true;
		return;
	}
	/* A client that has ended cannot go on with a body or an exchange: whether the server is
	 * waited for then is not documented. */
	bool moot = s->rs->in_end && (u->verb == V_DATA || u->verb == V_AUTH || u->kind == U_AUTH);
	if (u->whole && !s->unanswered && !s->ended && !moot)
		s->unanswered = u->number ? u->number : 1;
	s->number = u->number;
	s->left_over |= s->ended;
	/* What stands behind it, or that nothing can, ends the session without a word. */
	s->rushed |= u->verb == V_STARTTLS && s->lis->tls == SIM_STARTTLS &&
		     (s->rs->in.n > u->off + u->n || s->rs->in_end);
	if (u->kind == U_BODY) {
		silent_body(o, s, u);
		return;
	}
	s->unanswered_in_body |= !u->whole;
	s->in_at = u->off + u->n + u->chunk;
	silent_line(o, s, u);
}

/* ---- step by step ---- */

/* A reply that ends the session; whatever it answers, nothing follows it. */
static bool is_end(const struct reply *r)
{
	if (r->kind == R_MARKED)
		return r->code == 421 || r->code == 521;
	/* A hook that drops. */
	if (r->kind == R_RULE)
		return r->code == 421;
	return r->kind == R_OWN && own_ends(r->own, false);
}

static void session_ends(
	struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	s->out_at = r->off + r->n;
	s->ended = true;
	s->silent = true;
	if (r->kind == R_MARKED) {
		if (belongs(o, s, r, u->number)) {
			same_text(o, s, u, r);
			links_enter(o, s, o->srv->conns[srv_of(o, r->sr)->conn].sock);
		}
	} else {
		check_own(o, s, u, r);
	}
	if (r->kind == R_OWN && r->own == OWN_REPLY_BAD_BDAT)
		s->over = true;
	if (r->kind == R_MARKED && u->kind == U_BODY && ok(o)) {
		told_message(o, s->body_msg, r, false);
		s->body_off = NONE;
	}
}

static void told_line(struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	s->number = u->number;
	s->in_at = u->off + u->n + u->chunk;
	s->long_line = u->too_long;
	s->errors += r->code >= 400;
	/* What is too long is refused as soon as it is, a chunk may be answered before its end. */
	uint32_t due = u->verb == V_BDAT ? u->line_ev : u->ev;
	if (r->kind == R_OWN && (r->own == OWN_REPLY_TOO_LONG || r->own == OWN_REPLY_AUTH_TOO_LONG))
		due = in_ev(o, s->sock, u->off + MIN_OF(u->n, s->lis->command_line_max));
	if (r->ev <= due) {
		broken(o, I4_REPLIES, s, u->number, unit_text(s, u),
			"it was answered before it was complete");
		return;
	}
	if (r->kind == R_MARKED) {
		if (!belongs(o, s, r, u->number))
			return;
		same_text(o, s, u, r);
		if (ok(o))
			answered(o, s, u, r);
	} else {
		check_own(o, s, u, r);
		if (ok(o))
			refused_here(o, s, u, r);
	}
	if (!ok(o))
		return;
	if (u->verb == V_QUIT && r->kind == R_MARKED) {
		/* What follows another reply to QUIT than 221 is not documented: the end, or not.
		 */
		s->quit = true;
		s->over = s->ended = r->code == 221;
	} else if (u->verb == V_STARTTLS && r->kind == R_MARKED && r->code == 220) {
		went_opaque(o, s, u, r);
	} else if (r->kind == R_OWN && r->own == OWN_REPLY_TLS_READY) {
		went_secure(s);
	}
}

/* The rest of a line that is too long already need not be there. */
static bool told_part(struct oracle *o, struct sess *s, struct unit *u, const struct reply *r)
{
	uint32_t max = s->phase == PHASE_AUTH ? AUTH_LINE_MAX : s->lis->command_line_max;

	if (u->kind != U_PART || u->n < max || r->kind != R_OWN ||
		(r->own != OWN_REPLY_TOO_LONG && r->own != OWN_REPLY_AUTH_TOO_LONG))
		return false;
	o->told[r->own]++;
	s->errors++;
	s->in_at = (uint32_t)s->rs->in.n;
	s->long_line = true;
	if (s->phase == PHASE_AUTH)
		cancel_auth(s, r);
	s->phase = PHASE_COMMAND;
	return true;
}

static void told_step(struct oracle *o, struct sess *s, struct unit *u, const struct reply *r)
{
	struct span shown = span_of(s->rs->out.p + r->off, r->n);

	o->scratch.n = 0;
	octets_add(&o->scratch, u->line.p, MIN_OF(u->line.n, 40u));
	octets_add(&o->scratch, "", 1);
	if (is_end(r)) {
		session_ends(o, s, u, r);
		return;
	}
	s->out_at = r->off + r->n;
	if (r->kind == R_BAD)
		broken(o, I4_REPLIES, s, u->number, shown, "not a reply");
	else if (r->kind == R_UNKNOWN)
		broken(o, I4_REPLIES, s, u->number, shown, "nobody's reply");
	else if (told_part(o, s, u, r))
		return;
	else if (u->kind == U_END || u->kind == U_PART)
		broken(o, I4_REPLIES, s, u->number, shown, "a reply too many");
	else if (u->kind != U_BODY)
		told_line(o, s, u, r);
	else if (r->kind != R_MARKED || belongs(o, s, r, u->number)) {
		if (r->kind == R_MARKED)
			same_text(o, s, u, r);
		s->errors += r->code >= 400;
		if (ok(o))
			body_told(o, s, u, r);
	}
	if (ok(o) && s->errors > s->lis->errors_max + 256)
		broken(o, I4_REPLIES, s, u->number, SPAN_NONE, "%u error replies, the limit is %u",
			s->errors, s->lis->errors_max);
}

static bool at_connect(enum own_reply own)
{
	return own == OWN_REPLY_NOT_ALLOWED || own == OWN_REPLY_PER_CLIENT || own == OWN_REPLY_FULL;
}

/* The first reply: the server's greeting, or one line and the end. */
static void read_greeting(struct oracle *o, struct sess *s)
{
	struct unit u = {.kind = U_END, .verb = V_NONE};
	struct reply r;

	reply_read(o, s, &r);
	s->silent = r.kind == R_END || r.kind == R_PART;
	/* A greeting that was on its way to a client that is gone lets commands pass all the same.
	 */
	if (s->silent)
		return;
	struct span shown = span_of(s->rs->out.p + r.off, r.n);
	u.us = s->rs->open_us;
	if (r.kind == R_OWN && own_ends(r.own, true)) {
		s->refused = at_connect(r.own);
		s->unsure = r.own == OWN_REPLY_FULL && o->rec->faults[FAULT_FULL_SLAB];
		session_ends(o, s, &u, &r);
		s->over = true;
		return;
	}
	s->greeted = true;
	if (r.kind != R_MARKED)
		broken(o, I4_REPLIES, s, 0, shown, "the first reply is no greeting");
	else if (is_end(&r))
		session_ends(o, s, &u, &r);
	else if (belongs(o, s, &r, 0)) {
		same_text(o, s, &u, &r);
		s->out_at = r.off + r.n;
		links_enter(o, s, o->srv->conns[srv_of(o, r.sr)->conn].sock);
		if (ok(o) && (r.code / 100 == 3 || (srv_of(o, r.sr)->why != SRV_GREETING &&
							   !reply_lies(o, srv_of(o, r.sr)))))
			broken(o, I4_REPLIES, s, 0, shown, "the first reply is no greeting");
	}
	s->errors += r.code >= 400;
}

void read_session(struct oracle *o, struct sess *s)
{
	struct unit u;
	struct reply r;

	s->body_off = NONE;
	s->serial_sock = NONE;
	s->tls = s->lis->tls == SIM_IMPLICIT;
	read_greeting(o, s);
	while (!s->over && ok(o)) {
		read_unit(o, s, &u);
		if (!s->silent) {
			reply_read(o, s, &r);
			s->silent = r.kind == R_END || r.kind == R_PART;
		}
		if (s->silent)
			silent_step(o, s, &u);
		else
			told_step(o, s, &u, &r);
	}
	if (ok(o))
		finish(o, s);
}
