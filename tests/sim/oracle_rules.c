/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What ringpost may say of its own, and what it may pass, given the command and what is known of
 * the session: docs/SMTP.md as a table. A reply that needs a cause (a lost link, silence, a full
 * pool) is allowed only when the record shows one. Each allowance is a place where a defect hides,
 * so each says why it cannot be narrower.
 */
#include "tests/sim/oracle_int.h"

#include <arpa/inet.h>

/* What a command may take under pressure, from when its turn began. */
#define PRESSURE_US 10000000u
#define PRESSURE_LOOK_US 5000000u /* and so often a body is looked at */

/* ---- causes ---- */

static bool struck(const struct oracle *o, enum sim_fault f)
{
	return o->rec->faults[f] > 0;
}

/* A replacement that did not greet, or refused the hello, is not like the link before it. */
static bool refuses_hello(const struct oracle *o, uint32_t conn)
{
	const struct oconn *c = &o->conns[conn];

	for (uint32_t i = 0; i < c->count && i < 2; i++) {
		const struct srv_reply *r = srv_of(o, c->replies[i]);

		if (r->why == SRV_GREETING ? r->code != 220 : r->cmd_off == 0 && r->code >= 400)
			return true;
	}
	return false;
}

static bool sock_trouble(const struct oracle *o, uint32_t sock, uint32_t ev, bool replacement)
{
	const struct osock *k = &o->socks[sock];
	const struct rec_sock *rs = &o->rec->socks[sock];

	/* A link that never opened was given up or refused. What a server said that is no answer
	 * has no time in the record: it counts from the beginning. */
	return k->loss_ev < ev || rs->stuck || !rs->open ||
	       (k->conn != NONE &&
		       (o->conns[k->conn].bad || (replacement && refuses_hello(o, k->conn))));
}

static bool was_long(const struct sess *s, uint64_t since_us, uint64_t us)
{
	return us >= since_us && us - since_us + CLOCK_US > s->lis->shortest_ms * 1000;
}

/* A link that this session depends on was lost before `ev`, or could not be had. Links before the
 * one that gave the last reply do not count any more; links of no known session (nobody said
 * anything on them) may have been tried for this one while it lived. */
bool link_trouble(const struct oracle *o, const struct sess *s, uint32_t ev)
{
	const struct osock *self = &o->socks[s->sock];

	for (uint32_t i = s->cur; i < s->link_n; i++)
		if (sock_trouble(o, s->links[i], ev, i > 0))
			return true;
	for (uint32_t i = 0; i < o->stray_n; i++) {
		const struct osock *k = &o->socks[o->strays[i]];

		if (k->dial_ev > self->open_ev && k->dial_ev < ev &&
			sock_trouble(o, o->strays[i], ev, true))
			return true;
	}
	/* The RSET or `*` that ringpost says itself can go unanswered as well. */
	return struck(o, FAULT_FULL_SLAB) || struck(o, FAULT_SOCKET_FAILS) ||
	       (s->own_us && was_long(s, s->own_us, ev_us(o, ev)));
}

/* An upstream that is silent: no time limit can be over before the shortest of them, counted from
 * when the command was complete. What was open at the same moment goes with it. */
static bool upstream_silent(const struct sess *s, const struct unit *u, const struct reply *r)
{
	return was_long(s, u->us, r->us) || (s->loss_us && u->us <= s->loss_us);
}

/* What the client had sent by then was there to be read, and was not read before `ev`. A lost
 * wake-up is nobody's fault, what a dead network holds never came, what is late may be under way
 * still, and a core that slept meanwhile had no chance. */
static bool unread(const struct oracle *o, const struct sess *s, uint64_t sent_us, uint32_t ev)
{
	uint64_t sent = 0;

	if (s->rs->stuck || s->rs->net_dead || s->rs->far_reset)
		return false;
	for (uint32_t i = 0; i < ev; i++) {
		const struct rec_event *e = &o->rec->events[i];

		if (e->us <= sent_us && e->kind == REC_FAR_OUT && e->sock == s->sock)
			sent += e->n;
		if (e->us >= sent_us && e->kind == REC_FAULT && e->n == FAULT_CLOCK_JUMPS)
			return false;
		if (e->us + LATE_US >= sent_us && e->kind == REC_FAULT && e->n == FAULT_LATE &&
			e->sock == s->sock)
			return false;
	}
	return sent > in_before(o, s->sock, ev);
}

/* When the reply that ends at `off` may have been staged: with what was held back or not taken
 * shortly before it left. */
static uint64_t staged_us(const struct oracle *o, const struct sess *s, uint32_t off)
{
	uint32_t ev = said_ev(o, s->sock, off);
	uint64_t us = ev_us(o, ev);

	for (uint32_t i = ev; i-- > 0 && o->rec->events[i].us + LATE_US > us;) {
		const struct rec_event *e = &o->rec->events[i];

		if (e->sock == s->sock && (e->kind == REC_OFFER || e->kind == REC_FAULT))
			us = e->us;
	}
	return us;
}

/* In a body and a chunk every octet counts. Elsewhere the limit is for a whole line: it is counted
 * from when it became the client's turn, with the last thing it gave whole or the last reply it
 * got, whichever was later. */
static bool client_silent(
	const struct oracle *o, const struct sess *s, const struct unit *u, const struct reply *r)
{
	uint32_t given = in_before(o, s->sock, r->ev);
	/* Under pressure a slow body ends the session also while commands before it wait, and when
	 * its chunk has been answered before its end. */
	bool slow = o->in->pressure && (given > u->off + u->n || s->chunk_open);
	bool octets = u->kind == U_BODY || !u->whole || slow;

	/* Behind a chunk that was answered before its end nothing has begun: its octets count. Not
	 * those of a line. */
	if (!octets && s->long_line && (u->off > given || s->rs->in.p[u->off - 1] != '\n'))
		given = 0;
	else if (!octets)
		given = MIN_OF(given, u->off);
	uint64_t since = given ? ev_us(o, in_ev(o, s->sock, given)) : s->rs->open_us;

	if (!octets && r->off)
		since = MAX_OF(since, staged_us(o, s, r->off));
	/* Pressure has a limit of its own for commands, and a body that is too slow gives octets
	 * all the time. */
	bool pressed = o->in->pressure && (octets || r->us + CLOCK_US > since + PRESSURE_US);
	/* A body that trickles may have gone on in the moment it was judged, but not long before.
	 */
	if (pressed && octets)
		since = MIN_OF(since, r->us - MIN_OF(r->us, PRESSURE_LOOK_US));
	return (pressed || was_long(s, since, r->us)) && !unread(o, s, since, r->ev);
}

/* Sessions that were there at `ev`; one whose client is gone may still have its link. */
static uint32_t sessions_at(const struct oracle *o, const struct sess *self, uint32_t ev)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < o->sess_n; i++) {
		const struct sess *s = &o->sess[i];
		bool open = o->socks[s->sock].close_ev > ev;

		for (uint32_t k = 0; k < s->link_n; k++)
			open |= o->socks[s->links[k]].close_ev > ev;
		n += s != self && open && o->socks[s->sock].open_ev < ev;
	}
	return n;
}

/* ---- ringpost's own replies ---- */

struct said {
	struct oracle *o;
	struct sess *s;
	const struct unit *u;
	const struct reply *r;
};

static bool is_mail_verb(const struct unit *u)
{
	return u->kind == U_LINE && (u->verb == V_RCPT || u->verb == V_DATA || u->verb == V_BDAT);
}

static bool is_message(const struct unit *u)
{
	return u->kind == U_BODY || (u->kind == U_LINE && u->verb == V_BDAT && u->last);
}

static bool trouble(const struct said *x)
{
	return link_trouble(x->o, x->s, x->r->ev);
}

static bool link_gone(const struct said *x)
{
	return x->s->dropped || trouble(x) || x->s->loss_us;
}

static bool may_not_allowed(const struct said *x)
{
	const struct sockaddr_in *a = (const void *)&x->s->rs->peer.sa;

	return !x->s->greeted && x->s->lis->only_10_1 && a->sin_family == AF_INET &&
	       ntohl(a->sin_addr.s_addr) >> 16 != (10u << 8 | 1);
}

static bool may_per_client(const struct said *x)
{
	return !x->s->greeted && x->o->in->admission_refused;
}

static bool may_full(const struct said *x)
{
	return !x->s->greeted &&
	       (x->o->in->admission_refused || struck(x->o, FAULT_FULL_SLAB) ||
		       (x->o->in->sessions_max &&
			       sessions_at(x->o, x->s, x->r->ev) >= x->o->in->sessions_max));
}

/* A transaction that is open and whose link lives is waited for. */
static bool may_drain(const struct said *x)
{
	return x->o->in->drained && (x->s->mail != YES || x->o->in->killed || link_gone(x));
}

/* A server whose handshake takes too long is one that cannot be reached. */
static bool may_unreachable(const struct said *x)
{
	return trouble(x) ||
	       (x->s->lis->link_tls == SIM_IMPLICIT && was_long(x->s, x->s->rs->open_us, x->r->us));
}

static bool may_no_greeting(const struct said *x)
{
	return !x->s->greeted && (trouble(x) || was_long(x->s, x->s->rs->open_us, x->r->us));
}

/* After AUTH and the like a link cannot be replaced, whoever dropped it. */
static bool may_lost_end(const struct said *x)
{
	return trouble(x) || (x->s->sticky && (x->s->dropped || x->s->loss_us)) ||
	       upstream_silent(x->s, x->u, x->r);
}

/* A command that is complete is not silence, unless something half stands behind it. */
static bool may_silent(const struct said *x)
{
	bool whole = x->u->kind == U_LINE || x->u->kind == U_AUTH || x->u->kind == U_BODY;

	whole = whole && x->u->whole;
	/* Under pressure a body that was too slow has had its chance when its end comes. */
	if (whole && x->u->kind == U_BODY && x->o->in->pressure &&
		ev_us(x->o, x->u->ev) == x->r->us)
		return true;
	if (whole && in_before(x->o, x->s->sock, x->r->ev) == x->u->off + x->u->n + x->u->chunk)
		return false;
	return client_silent(x->o, x->s, x->u, x->r);
}

/* Errors that `junk` commands make, with those that came before `ev` and wait for their reply. */
static uint32_t junk_errors(const struct said *x, uint32_t junk, uint32_t ev)
{
	const struct sess *s = x->s;
	uint32_t max = s->lis->junk_max ? s->lis->junk_max : 100, ahead = 0;
	const uint8_t *p = s->rs->in.p + s->in_at;
	const uint8_t *end = s->rs->in.p + in_before(x->o, s->sock, ev);

	while (p < end && ahead < s->lis->pipeline && (p = memchr(p, '\n', (size_t)(end - p)))) {
		ahead++;
		p++;
	}
	return junk + ahead > max ? junk + ahead - max : 0;
}

/* Junk counts when it comes, as much as may be on its way, not when it is answered. What came
 * behind a message and before its reply still counts with what came before it; then the session
 * ends among the replies to that. */
static bool may_many_errors(const struct said *x)
{
	const struct sess *s = x->s;
	uint32_t junk = junk_errors(x, s->junk, x->r->ev);

	if (s->taken_off && x->u->off + x->u->n <= in_before(x->o, s->sock, s->taken_ev))
		junk = MAX_OF(junk, junk_errors(x, s->junk_then, s->taken_ev));
	return x->o->in->pressure || s->errors + junk >= s->lis->errors_max;
}

static bool may_no_memory(const struct said *x)
{
	return struck(x->o, FAULT_FULL_SLAB);
}

static bool may_too_long(const struct said *x)
{
	return x->u->too_long;
}

static bool may_auth_too_long(const struct said *x)
{
	return x->u->too_long && (x->u->kind == U_AUTH || x->u->verb == V_AUTH);
}

static bool may_bare_lf(const struct said *x)
{
	return x->u->bare_lf;
}

static bool may_bad_octets(const struct said *x)
{
	return x->u->control;
}

static bool may_no_verb(const struct said *x)
{
	return x->u->odd_verb;
}

bool verb_refused(const struct sess *s, const struct unit *u)
{
	switch (u->verb) {
	case V_XCLIENT:
	case V_XFORWARD:
		return !s->lis->trusted;
	case V_ATRN:
	case V_TURN:
	case V_BURL:
	case V_XEXCH50:
	case V_LHLO:
		return true;
	case V_STARTTLS:
		return !s->lis->starttls_passed;
	default:
		return false;
	}
}

static bool may_refused_verb(const struct said *x)
{
	if (x->u->verb == V_STARTTLS && x->s->lis->tls != SIM_CLEAR)
		return false;
	return verb_refused(x->s, x->u) || (x->u->verb == V_BDAT && x->s->chunking != YES);
}

static bool may_bad_sender(const struct said *x)
{
	return (x->u->verb == V_MAIL && !smtp_clean_path(x->u)) || x->u->odd_verb;
}

static bool may_bad_recipient(const struct said *x)
{
	return (x->u->verb == V_RCPT && !smtp_clean_path(x->u)) || x->u->odd_verb;
}

/* Where a path ends that cannot be read is not documented, so what of it are parameters neither. */
static bool may_bad_param(const struct said *x)
{
	/* An AUTH line that is none is refused as well, which SMTP.md does not say. */
	if (x->u->verb == V_AUTH)
		return !smtp_clean_auth(x->u);
	return (x->u->verb == V_MAIL || x->u->verb == V_RCPT) &&
	       (!smtp_clean_params(x->u) || !smtp_clean_path(x->u));
}

static bool body_too_big(const struct said *x)
{
	struct span b = span_of(x->s->rs->in.p + x->u->off, x->u->n);
	uint64_t n = body_size(b, false);

	if (x->s->lis->newlines == NEWLINES_NORMALIZE) {
		body_normalize(b, true, &x->o->scratch);
		n = MAX_OF(n, body_size(octets_span(&x->o->scratch), false));
	}
	return n > x->s->lis->message_max;
}

static bool may_too_big(const struct said *x)
{
	uint64_t max = x->s->lis->message_max;

	if (max == 0)
		return false;
	if (x->u->kind == U_BODY)
		return x->u->whole && body_too_big(x);
	if (x->u->verb == V_MAIL)
		return x->u->sized && x->u->size > max;
	return x->s->too_big ? is_mail_verb(x->u)
			     : x->u->verb == V_BDAT && x->s->bdat_bytes + x->u->size > max;
}

static bool may_need_mail(const struct said *x)
{
	return is_mail_verb(x->u) && (x->s->mail != YES || x->s->lost || trouble(x));
}

static bool may_need_rcpt(const struct said *x)
{
	return (x->u->verb == V_DATA || x->u->verb == V_BDAT) && x->s->rcpt_taken == 0;
}

static bool may_no_rcpt(const struct said *x)
{
	return may_need_rcpt(x) && x->s->rcpt_seen > 0;
}

static bool may_many_rcpt(const struct said *x)
{
	return x->u->verb == V_RCPT && x->s->rcpt_passed >= x->s->lis->recipients_max;
}

static bool may_not_both(const struct said *x)
{
	return x->u->verb == V_DATA && x->s->chunk_seen;
}

/* What is no command line is refused as such, and its octets are commands. */
static bool may_bad_bdat(const struct said *x)
{
	/* How large a number can be read is not documented. */
	return smtp_is_bdat(x->u) && (!x->u->sized || x->u->size > UINT32_MAX);
}

static bool may_no_txn(const struct said *x)
{
	return x->u->verb == V_MAIL && struck(x->o, FAULT_FULL_SLAB);
}

/* The rest of a transaction whose link was lost may be told so as well. */
static bool may_lost(const struct said *x)
{
	return trouble(x) || upstream_silent(x->s, x->u, x->r) ||
	       (x->s->lost && is_mail_verb(x->u));
}

/* The other end of the socket has not read all that left for it by `ev`. */
static bool reads_not(const struct oracle *o, uint32_t sock, uint32_t ev)
{
	uint64_t left = 0;

	for (uint32_t i = o->socks[sock].open_ev; i < ev; i++) {
		const struct rec_event *e = &wire_of(o)->events[i];

		if (e->sock == sock && e->kind == REC_OUT)
			left += e->n;
		if (e->sock == sock && e->kind == REC_FAR_IN)
			left -= e->n;
	}
	return left > 0;
}

/* The server has had all of the message, and all that was said to it since, for as long as it may
 * take to answer: giving up before that makes duplicates. One that does not read what follows (the
 * next message, say, that a mover carries) is under another limit. */
static bool final_silence(const struct said *x)
{
	uint32_t sock = x->s->link_n ? x->s->links[x->s->cur] : REC_NO_SOCK;
	const struct rec_sock *link = x->s->link_n ? &x->o->rec->socks[sock] : NULL;

	if (!link || link->offered > link->out.n || x->s->loss_us ||
		reads_not(x->o, sock, x->r->ev))
		return true;
	return x->r->us + CLOCK_US >= x->u->us + x->s->lis->final_ms * 1000;
}

static bool may_in_doubt(const struct said *x)
{
	if (!is_message(x->u) || !may_lost(x))
		return false;
	return trouble(x) || final_silence(x);
}

static bool may_lookalike(const struct said *x)
{
	return x->u->kind == U_BODY && x->u->whole &&
	       body_refusable(
		       x->s->lis, span_of(x->s->rs->in.p + x->u->off, x->u->n), &x->o->scratch);
}

static bool may_behind_starttls(const struct said *x)
{
	return x->u->verb == V_STARTTLS;
}

static bool offers_tls(const struct said *x)
{
	return x->u->verb == V_STARTTLS && x->s->lis->tls == SIM_STARTTLS && !x->s->tls;
}

static bool may_tls_ready(const struct said *x)
{
	return offers_tls(x);
}

static bool may_tls_no_room(const struct said *x)
{
	return offers_tls(x) && struck(x->o, FAULT_FULL_SLAB);
}

static bool may_tls_already(const struct said *x)
{
	return x->u->verb == V_STARTTLS && x->s->tls;
}

static bool may_tls_bound(const struct said *x)
{
	return offers_tls(x) && x->s->sticky;
}

/* Verbs that go without the TLS that the listener requires. */
static bool goes_in_clear(const struct unit *u)
{
	switch (u->verb) {
	case V_HELO:
	case V_EHLO:
	case V_RSET:
	case V_NOOP:
	case V_QUIT:
	case V_STARTTLS:
		return u->kind == U_LINE;
	default:
		return false;
	}
}

static bool tls_is_due(const struct sess *s, const struct unit *u)
{
	return s->lis->tls_required && !s->tls && !goes_in_clear(u);
}

static bool may_need_tls(const struct said *x)
{
	return tls_is_due(x->s, x->u) || (x->s->lis->tls_required && !x->s->tls && x->u->odd_verb);
}

/* Before the link is what its upstream wants, or before TLS may begin. */
static bool may_need_hello(const struct said *x)
{
	return x->s->lis->link_tls == SIM_STARTTLS || x->s->tls || offers_tls(x);
}

/* Secrets do not go in clear where there is TLS at all: not the client's leg, and not the server's.
 */
bool auth_hidden(const struct sess *s)
{
	if (s->lis->tls == SIM_CLEAR && s->lis->link_tls == SIM_CLEAR)
		return false;
	return (s->lis->tls == SIM_STARTTLS && !s->tls) || s->lis->link_tls == SIM_CLEAR;
}

static bool may_clear_auth(const struct said *x)
{
	return x->u->verb == V_AUTH && auth_hidden(x->s);
}

static bool may_upstream_tls(const struct said *x)
{
	return (x->u->verb == V_EHLO || x->u->verb == V_HELO) &&
	       x->s->lis->link_tls == SIM_STARTTLS &&
	       (trouble(x) || upstream_silent(x->s, x->u, x->r));
}

static bool may_bye(const struct said *x)
{
	return x->u->verb == V_QUIT && (link_gone(x) || upstream_silent(x->s, x->u, x->r));
}

/* By us as well where the server is not to be asked: before a hello that counts. */
static bool may_done(const struct said *x)
{
	return (x->u->verb == V_RSET || x->u->verb == V_NOOP) &&
	       (link_gone(x) || may_need_hello(x));
}

/* The hooks of the sessions that are read here change nothing: oracle_hooks.c judges the others. */
static bool may_hooks_change(const struct said *x)
{
	return false;
}

enum { ENDS = 1, GREETS = 2 };

/* In the order of the table of replies. ENDS: nothing follows. GREETS: may be the first reply. */
static const struct {
	bool (*may)(const struct said *x);
	unsigned flags;
	const char *needs;
} own_rules[OWN_COUNT] = {
	[OWN_REPLY_NOT_ALLOWED] = {may_not_allowed, ENDS | GREETS, "a network that is not served"},
	[OWN_REPLY_PER_CLIENT] = {may_per_client, ENDS | GREETS, "a refused admission"},
	[OWN_REPLY_FULL] = {may_full, ENDS | GREETS, "as many sessions as allowed"},
	[OWN_REPLY_DRAINING] = {may_drain, ENDS | GREETS, "a drain, and no open transaction"},
	[OWN_REPLY_UNREACHABLE] = {may_unreachable, ENDS | GREETS, "a connect that failed"},
	[OWN_REPLY_NO_GREETING] = {may_no_greeting, ENDS | GREETS, "a link without a greeting"},
	[OWN_REPLY_LOST_END] = {may_lost_end, ENDS | GREETS, "a link that was lost"},
	[OWN_REPLY_SILENT] = {may_silent, ENDS | GREETS, "a silent client"},
	[OWN_REPLY_MANY_ERRORS] = {may_many_errors, ENDS, "as many error replies"},
	[OWN_REPLY_NO_MEMORY] = {may_no_memory, ENDS | GREETS, "an exhausted pool"},
	[OWN_REPLY_TOO_LONG] = {may_too_long, 0, "a line that is too long"},
	[OWN_REPLY_AUTH_TOO_LONG] = {may_auth_too_long, 0, "a line of AUTH that is too long"},
	[OWN_REPLY_BARE_LF] = {may_bare_lf, 0, "a bare LF"},
	[OWN_REPLY_BAD_OCTETS] = {may_bad_octets, 0, "a control octet"},
	[OWN_REPLY_NO_VERB] = {may_no_verb, 0, "a line without a verb"},
	[OWN_REPLY_REFUSED_VERB] = {may_refused_verb, 0, "a verb that is not passed"},
	[OWN_REPLY_BAD_SENDER] = {may_bad_sender, 0, "a sender that cannot be read"},
	[OWN_REPLY_BAD_RECIPIENT] = {may_bad_recipient, 0, "a recipient that cannot be read"},
	[OWN_REPLY_BAD_PARAM] = {may_bad_param, 0, "a parameter that cannot be read"},
	[OWN_REPLY_TOO_BIG] = {may_too_big, 0, "a message above the limit"},
	[OWN_REPLY_GO_AHEAD] = {may_hooks_change, 0, "a message that is kept or discarded"},
	[OWN_REPLY_CHUNK] = {may_hooks_change, 0, "a message that is kept or discarded"},
	[OWN_REPLY_CHANGED_LONG] = {may_hooks_change, 0, "a changed command"},
	[OWN_REPLY_CHANGED_MUCH] = {may_hooks_change, 0, "added header fields"},
	[OWN_REPLY_HOLD_FULL] = {may_hooks_change, 0, "a message that is kept"},
	[OWN_REPLY_HOLD_FAILED] = {may_hooks_change, 0, "a message that is kept"},
	[OWN_REPLY_HEADER] = {may_hooks_change, 0, "a changed header"},
	[OWN_REPLY_ENVELOPE] = {may_hooks_change, 0, "a changed envelope"},
	[OWN_REPLY_NOBODY] = {may_hooks_change, 0, "a message without recipients"},
	[OWN_REPLY_NEED_MAIL] = {may_need_mail, 0, "no accepted MAIL"},
	[OWN_REPLY_NEED_RCPT] = {may_need_rcpt, 0, "no accepted RCPT"},
	[OWN_REPLY_NO_RCPT] = {may_no_rcpt, 0, "every RCPT refused"},
	[OWN_REPLY_MANY_RCPT] = {may_many_rcpt, 0, "as many recipients"},
	[OWN_REPLY_NOT_BOTH] = {may_not_both, 0, "DATA behind BDAT"},
	[OWN_REPLY_BAD_BDAT] = {may_bad_bdat, ENDS, "a BDAT without a size"},
	[OWN_REPLY_NO_TXN] = {may_no_txn, 0, "an exhausted pool"},
	[OWN_REPLY_LOST] = {may_lost, 0, "a link that was lost"},
	[OWN_REPLY_IN_DOUBT] = {may_in_doubt, 0, "a link that was lost behind the end"},
	[OWN_REPLY_LOOKALIKE] = {may_lookalike, 0, "line ends that are refused"},
	[OWN_REPLY_BEHIND_STARTTLS] = {may_behind_starttls, ENDS, "octets behind STARTTLS"},
	[OWN_REPLY_TLS_READY] = {may_tls_ready, 0, "a STARTTLS that is offered"},
	[OWN_REPLY_TLS_NO_ROOM] = {may_tls_no_room, 0, "an exhausted pool"},
	[OWN_REPLY_TLS_ALREADY] = {may_tls_already, 0, "TLS that is there"},
	[OWN_REPLY_TLS_BOUND] = {may_tls_bound, 0, "an AUTH before"},
	[OWN_REPLY_NEED_TLS] = {may_need_tls, 0, "TLS that is missing"},
	[OWN_REPLY_NEED_HELLO] = {may_need_hello, 0, "a hello that is missing"},
	[OWN_REPLY_CLEAR_AUTH] = {may_clear_auth, 0, "AUTH in clear"},
	[OWN_REPLY_UPSTREAM_TLS] = {may_upstream_tls, 0, "a server without TLS"},
	[OWN_REPLY_BYE] = {may_bye, ENDS, "QUIT without a link"},
	[OWN_REPLY_DONE] = {may_done, 0, "RSET or NOOP without a link"},
};

bool own_ends(enum own_reply own, bool greeting)
{
	return own_rules[own].flags & (greeting ? GREETS : ENDS);
}

static bool rule_word(const struct sess *s, const struct unit *u)
{
	const struct oracle_listener *l = s->lis;

	return (u->verb == V_MAIL && span_has(u->arg, l->bad_sender)) ||
	       (u->verb == V_RCPT && span_has(u->arg, l->bad_recipient)) ||
	       ((u->verb == V_HELO || u->verb == V_EHLO) && span_has(u->arg, l->bad_ehlo));
}

/* What a hook said about the end of a message, or before its first octet, is repeated to all that
 * still belongs to it. */
static bool about(enum hook_point point, const struct unit *u)
{
	switch (point) {
	case HOOK_EHLO:
		return u->verb == V_EHLO || u->verb == V_HELO;
	case HOOK_AUTH:
		return u->verb == V_AUTH;
	case HOOK_MAIL:
		return u->verb == V_MAIL;
	case HOOK_RCPT:
		return u->verb == V_RCPT;
	case HOOK_DATA:
	case HOOK_END_OF_DATA:
		return is_mail_verb(u) || u->kind == U_BODY;
	default:
		return false;
	}
}

static const char *verdict_not_said(
	const struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	static const unsigned codes[] = {[VERDICT_PASS] = 0,
		[VERDICT_REJECT] = 550,
		[VERDICT_TEMPFAIL] = 450,
		[VERDICT_DROP] = 421};
	struct verdicts *v = o->in->verdicts;

	if (!v)
		return "a hook";
	if (r->verdict == VERDICT_FAILED)
		return v->failures ? NULL : "a hook that failed";
	if (r->verdict > v->made_n)
		return "a verdict";
	struct verdict_made *m = &v->made[r->verdict - 1];
	if (m->ev > r->ev || codes[m->kind] != r->code)
		return "a verdict like it, before it";
	if (s->sid && m->sid != s->sid)
		return "a verdict on its own session";
	s->sid = m->sid;
	if (m->told && m->point < HOOK_DATA)
		return "a verdict that was not used before";
	m->told = true;
	return about((enum hook_point)m->point, u) ? NULL : "a verdict about it";
}

const char *own_not_allowed(
	struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	struct said x = {o, s, u, r};

	if (r->kind == R_RULE && r->verdict)
		return verdict_not_said(o, s, u, r);
	if (r->kind == R_RULE)
		return rule_word(s, u) ? NULL : "a word that a rule refuses";
	return own_rules[r->own].may(&x) ? NULL : own_rules[r->own].needs;
}

/* ---- what may be passed ---- */

/* The very address or name, spelled plainly: it must be refused. */
static bool rule_must(const struct sess *s, const struct unit *u)
{
	const struct oracle_listener *l = s->lis;
	struct span a = smtp_address(u->arg);

	if (u->verb == V_MAIL)
		return l->bad_sender && span_ieq(a, span_str(l->bad_sender));
	if (u->verb == V_RCPT)
		return l->bad_recipient && span_ieq(a, span_str(l->bad_recipient));
	if ((u->verb != V_HELO && u->verb != V_EHLO) || !l->bad_ehlo || u->arg.n == 0)
		return false;
	return span_ieq(span_drop(u->arg, 1), span_str(l->bad_ehlo));
}

/* A MAIL that the server refused was on its way when this line came: so is this line. */
static bool on_its_way(const struct sess *s, const struct unit *u)
{
	return s->refused_ev && u->line_ev < s->refused_ev;
}

static const char *mail_verb_may_not_pass(const struct sess *s, const struct unit *u)
{
	uint64_t max = s->lis->message_max;

	if (s->mail == NO && !on_its_way(s, u))
		return "there is no MAIL that was accepted or is on its way";
	if (u->verb == V_RCPT)
		return NULL;
	if (s->rcpt_passed == 0)
		return "no RCPT was passed";
	if (u->verb == V_DATA)
		return s->chunk_seen ? "BDAT came before" : NULL;
	if (!u->sized)
		return "its size cannot be read";
	if (s->chunking == NO)
		return "CHUNKING was not shown";
	return s->too_big || (max && s->bdat_bytes + u->size > max) ? "it is above the limit"
								    : NULL;
}

/* NULL: the line may go to the server. */
const char *may_not_pass(const struct oracle *o, const struct sess *s, const struct unit *u)
{
	uint64_t max = s->lis->message_max;

	if (u->too_long || u->bare_lf || u->control || u->no_verb)
		return "no command line";
	if (u->kind == U_AUTH)
		return NULL;
	if (verb_refused(s, u))
		return "a verb that is never passed";
	if (tls_is_due(s, u))
		return "TLS has to come before it";
	if (s->hello_due && !goes_in_clear(u))
		return "what was said in clear does not count, and nothing was said since";
	if (u->verb == V_AUTH && auth_hidden(s))
		return "AUTH has come in clear";
	if (rule_must(s, u))
		return "a rule refuses it";
	if ((u->verb == V_MAIL || u->verb == V_RCPT) && smtp_no_path(u))
		return "no address to be read";
	if (u->verb == V_MAIL && max && u->sized && u->size > max)
		return "the size it declares is above the limit";
	return is_mail_verb(u) ? mail_verb_may_not_pass(s, u) : NULL;
}
