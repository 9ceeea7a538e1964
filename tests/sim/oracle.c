/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The judge of a world. First the record is indexed: when which octet crossed, which server's
 * connection is whose, which reply has which mark. Then every session is read (oracle_read.c), then
 * what the servers took is compared with what the clients gave and were told, then the operator's
 * view (oracle_log.c). It stops at the first violation.
 *
 * A link belongs to the session that was shown a reply of its server; else to the one whose mark is
 * in what was written to it. A link without either is nobody's: it can only be a cause.
 */
#include "tests/sim/oracle_int.h"

#include <ctype.h>
#include <stdarg.h>

#define SHOWN_OCTETS 60u
#define MARK_BYTES 4096u /* a client's mark stands early in what it says */

/* ---- verdict ---- */

static size_t put_octets(char *to, size_t room, struct span s)
{
	size_t n = 0;

	for (size_t i = 0; i < MIN_OF(s.n, SHOWN_OCTETS) && n + 8 < room; i++) {
		uint8_t c = s.p[i];

		if (c == '\r' || c == '\n')
			n += (size_t)snprintf(to + n, room - n, c == '\r' ? "\\r" : "\\n");
		else if (c < 0x20 || c >= 0x7f || c == '\\' || c == '\'')
			n += (size_t)snprintf(to + n, room - n, "\\x%02x", c);
		else
			to[n++] = (char)c;
	}
	to[n] = 0;
	return n;
}

void broken(struct oracle *o, enum invariant i, const struct sess *s, uint32_t number,
	struct span got, const char *fmt, ...)
{
	char *t = o->v->text;
	size_t room = sizeof(o->v->text), n = 0;
	va_list ap;

	if (!ok(o))
		return;
	o->v->broken = i;
	if (s)
		n = (size_t)snprintf(
			t, room, "client %u (socket %u) command %u: ", s->rs->who, s->sock, number);
	va_start(ap, fmt);
	n += (size_t)vsnprintf(t + n, room - n, fmt, ap);
	va_end(ap);
	if (got.n == 0 || n + 16 > room)
		return;
	n += (size_t)snprintf(t + n, room - n, ": '");
	n += put_octets(t + n, room - n - 4, got);
	snprintf(t + n, room - n, got.n > SHOWN_OCTETS ? "'.." : "'");
}

/* ---- events ---- */

/* The event with which octet number `end` (from 1) had crossed. */
uint32_t ev_of(const struct ev_end *e, uint32_t n, uint32_t end)
{
	uint32_t lo = 0, hi = n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (e[mid].end >= end)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo < n ? e[lo].ev : NONE;
}

static uint32_t octets_before(const struct ev_end *e, uint32_t n, uint32_t ev)
{
	uint32_t lo = 0, hi = n;

	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (e[mid].ev >= ev)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo ? e[lo - 1].end : 0;
}

uint32_t in_ev(const struct oracle *o, uint32_t sock, uint32_t end)
{
	return ev_of(o->socks[sock].in, o->socks[sock].in_n, end);
}

uint32_t out_ev(const struct oracle *o, uint32_t sock, uint32_t end)
{
	return ev_of(o->socks[sock].out, o->socks[sock].out_n, end);
}

/* What waits in a send was decided when the send began. */
uint32_t said_ev(const struct oracle *o, uint32_t sock, uint32_t end)
{
	const struct osock *k = &o->socks[sock];

	return MIN_OF(out_ev(o, sock, end), ev_of(k->offer, k->offer_n, end));
}

uint32_t in_before(const struct oracle *o, uint32_t sock, uint32_t ev)
{
	return octets_before(o->socks[sock].in, o->socks[sock].in_n, ev);
}

uint32_t out_before(const struct oracle *o, uint32_t sock, uint32_t ev)
{
	return octets_before(o->socks[sock].out, o->socks[sock].out_n, ev);
}

static void *make(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size);

	ASSERT(p);
	return p;
}

static void first_of(uint32_t *at, uint32_t ev)
{
	*at = MIN_OF(*at, ev);
}

/* Events that are not octets. */
static void note_event(struct osock *k, const struct rec_event *e, uint32_t ev)
{
	switch ((enum rec_kind)e->kind) {
	case REC_DIAL:
		first_of(&k->dial_ev, ev);
		k->dial_us = e->us;
		break;
	case REC_OPEN:
		first_of(&k->open_ev, ev);
		break;
	case REC_CLOSE:
		first_of(&k->close_ev, ev);
		break;
	case REC_IN_END:
		first_of(&k->in_end_ev, ev);
		first_of(&k->loss_ev, ev);
		break;
	case REC_DIAL_FAILED:
	case REC_OUT_ERR:
	case REC_FAR_SHUT:
	case REC_FAR_CLOSE:
	case REC_FAR_RESET:
	case REC_NET_DEAD:
		first_of(&k->loss_ev, ev);
		break;
	default:
		break;
	}
}

/* A send that is begun anew, after one that took less, may reach less far: sorted all the same. */
static void add_offer(struct osock *k, struct ev_end end)
{
	if (k->offer_n == 0 || k->offer[k->offer_n - 1].end < end.end)
		k->offer[k->offer_n++] = end;
}

/* Octets that were given; with TLS the input may end with them. */
static void take_in(const struct record *r, struct osock *k, uint32_t sock, struct ev_end end)
{
	k->in[k->in_n++] = end;
	if (r->socks[sock].end_ev != end.ev || end.ev == 0)
		return;
	first_of(&k->in_end_ev, end.ev);
	first_of(&k->loss_ev, end.ev);
}

static void index_events(struct oracle *o)
{
	const struct record *r = o->rec;
	struct ev_end *next;

	o->socks = make(r->sock_count, sizeof(*o->socks));
	o->ends = next = make(r->count, sizeof(*o->ends));
	for (size_t i = 0; i < r->count; i++) {
		const struct rec_event *e = &r->events[i];

		if (e->sock < r->sock_count && e->kind == REC_IN)
			o->socks[e->sock].in_n++;
		if (e->sock < r->sock_count && e->kind == REC_OUT)
			o->socks[e->sock].out_n++;
		if (e->sock < r->sock_count && e->kind == REC_OFFER)
			o->socks[e->sock].offer_n++;
	}
	for (uint32_t i = 0; i < r->sock_count; i++) {
		struct osock *k = &o->socks[i];

		k->in = next;
		k->out = next + k->in_n;
		k->offer = k->out + k->out_n;
		next += k->in_n + k->out_n + k->offer_n;
		k->in_n = k->out_n = k->offer_n = 0;
		k->dial_ev = k->open_ev = k->close_ev = k->loss_ev = k->in_end_ev = NONE;
		k->conn = k->sess = NONE;
	}
	for (size_t i = 0; i < r->count; i++) {
		const struct rec_event *e = &r->events[i];
		struct osock *k = e->sock < r->sock_count ? &o->socks[e->sock] : NULL;
		struct ev_end end = {e->off + e->n, (uint32_t)i};

		if (k && e->kind == REC_IN)
			take_in(r, k, e->sock, end);
		else if (k && e->kind == REC_OUT)
			k->out[k->out_n++] = end;
		else if (k && e->kind == REC_OFFER)
			add_offer(k, end);
		else if (k)
			note_event(k, e, (uint32_t)i);
		else if (e->kind == REC_FAR_RESET || e->kind == REC_NET_DEAD)
			o->unborn_dead++;
	}
}

/* ---- servers ---- */

static void index_servers(struct oracle *o)
{
	const struct servers *srv = o->srv;
	uint32_t *next;

	o->conns = make(srv->conn_count, sizeof(*o->conns));
	o->by_serial = next = make(srv->reply_count, sizeof(*o->by_serial));
	for (uint32_t i = 0; i < srv->reply_count; i++)
		o->conns[srv->replies[i].conn].count++;
	for (uint32_t i = 0; i < srv->conn_count; i++) {
		struct oconn *c = &o->conns[i];

		c->replies = next;
		next += c->count;
		c->count = 0;
		c->lie_from = UINT32_MAX;
		c->bad = srv->conns[i].lied;
		if (srv->conns[i].sock < o->rec->sock_count)
			o->socks[srv->conns[i].sock].conn = i;
	}
	for (uint32_t i = 0; i < srv->reply_count; i++) {
		const struct srv_reply *r = &srv->replies[i];
		struct oconn *c = &o->conns[r->conn];

		ASSERT(r->serial == c->count);
		c->replies[c->count++] = i;
		c->bad |= r->why == SRV_LEAVING || r->why == SRV_LIE || r->why == SRV_MALFORMED;
		if (r->why == SRV_LIE || r->why == SRV_MALFORMED)
			c->lie_from = MIN_OF(c->lie_from, r->serial);
	}
	/* One whose only lie is an EHLO list unlike that of the others is bad as a replacement, but
	 * each of its replies is one to what it names. */
}

/* ---- whose link ---- */

static void find_sessions(struct oracle *o)
{
	const struct record *r = o->rec;

	o->sess = make(r->sock_count, sizeof(*o->sess));
	for (uint32_t i = 0; i < r->sock_count; i++) {
		if (r->socks[i].dialled)
			continue;
		struct sess *s = &o->sess[o->sess_n];

		s->self = o->sess_n++;
		s->sock = i;
		s->rs = &r->socks[i];
		ASSERT(s->rs->listener < o->in->listener_count);
		s->lis = &o->in->listeners[s->rs->listener];
		o->socks[i].sess = s->self;
	}
}

static void claim(struct oracle *o, struct sess *s, uint32_t sr)
{
	struct osock *k = &o->socks[o->srv->conns[srv_of(o, sr)->conn].sock];

	if (k->sess != NONE && k->sess != s->self)
		broken(o, I5_MIXED, s, 0, octets_span(&srv_of(o, sr)->text),
			"a reply of a server of client %u", o->sess[k->sess].rs->who);
	k->sess = s->self;
}

/* Every mark in what the client was told. */
static void claim_by_replies(struct oracle *o, struct sess *s)
{
	struct span out = octets_span(&s->rs->out);

	while (out.n && ok(o)) {
		const uint8_t *lf = memchr(out.p, '\n', out.n);
		size_t n = lf ? (size_t)(lf - out.p) : out.n;
		uint32_t sr = n ? mark_find(o, span_of(out.p, n - (out.p[n - 1] == '\r'))) : NONE;

		if (sr != NONE)
			claim(o, s, sr);
		out = span_drop(out, lf ? n + 1 : n);
	}
}

static void claim_by_octets(struct oracle *o, uint32_t sock)
{
	const struct osock *k = &o->socks[sock];
	struct span out = octets_span(&o->rec->socks[sock].out);
	uint32_t who = foreign_mark(span_of(out.p, MIN_OF(out.n, MARK_BYTES)), NONE);

	for (uint32_t i = 0; i < o->sess_n && who != NONE; i++) {
		const struct osock *c = &o->socks[o->sess[i].sock];

		if (o->sess[i].rs->who == who && c->open_ev < k->dial_ev &&
			c->close_ev > k->dial_ev)
			o->socks[sock].sess = i;
	}
}

static bool served_by(const struct oracle_listener *l, uint32_t server)
{
	return server >= l->first_server && server - l->first_server < l->server_count;
}

/* Lists of links, in the order in which they were dialled. */
static void list_links(struct oracle *o)
{
	const struct record *r = o->rec;
	uint32_t *next = o->links;

	for (uint32_t i = 0; i < r->sock_count; i++)
		if (r->socks[i].dialled && o->socks[i].sess != NONE)
			o->sess[o->socks[i].sess].link_n++;
	for (uint32_t i = 0; i < o->sess_n; i++) {
		o->sess[i].links = next;
		next += o->sess[i].link_n;
		o->sess[i].link_n = 0;
	}
	o->strays = next;
	for (uint32_t i = 0; i < r->sock_count; i++) {
		if (!r->socks[i].dialled)
			continue;
		if (o->socks[i].sess == NONE) {
			o->strays[o->stray_n++] = i;
			continue;
		}
		struct sess *s = &o->sess[o->socks[i].sess];
		s->links[s->link_n++] = i;
		if (!served_by(s->lis, r->socks[i].who))
			broken(o, I5_MIXED, s, 0, SPAN_NONE,
				"it was given server %u, which is not of its upstream",
				r->socks[i].who);
	}
}

static void assign_links(struct oracle *o)
{
	o->links = make(o->rec->sock_count, sizeof(*o->links));
	for (uint32_t i = 0; i < o->sess_n && ok(o); i++)
		claim_by_replies(o, &o->sess[i]);
	for (uint32_t i = 0; i < o->rec->sock_count; i++)
		if (o->rec->socks[i].dialled && o->socks[i].sess == NONE)
			claim_by_octets(o, i);
	list_links(o);
}

/* ---- messages ---- */

static struct omsg *message_at(struct oracle *o, uint32_t sock, uint32_t end)
{
	for (uint32_t i = 0; i < o->msg_n; i++)
		if (o->msgs[i].full && o->msgs[i].sock == sock && o->msgs[i].end_off == end)
			return &o->msgs[i];
	return NULL;
}

static bool has_address(struct span lines, const char *word)
{
	char needle[300];

	if (!word)
		return false;
	snprintf(needle, sizeof(needle), "<%s>", word);
	return span_has(lines, needle);
}

static bool holds(struct span all, struct span part)
{
	return part.n && memmem(all.p, all.n, part.p, part.n);
}

static void judge_commit(struct oracle *o, const struct srv_message *m)
{
	uint32_t sock = o->srv->conns[m->conn].sock, owner = o->socks[sock].sess;
	const struct sess *s = owner == NONE ? NULL : &o->sess[owner];
	struct omsg *w = message_at(o, sock, m->end_off);
	struct span from = octets_span(&m->from), to = octets_span(&m->to);

	/* Behind a STARTTLS that a lie answered what crosses is nobody's: the server need not know
	 * of it. */
	if (s && s->opaque && !w && sock == s->links[s->cur] && m->end_off > s->at &&
		o->srv->conns[m->conn].lied)
		return;
	/* A lie that nobody was told can begin a body (354): the octets are the client's all the
	 * same, with their end. */
	if (s && !w && !m->bdat && o->srv->conns[m->conn].lied &&
		holds(octets_span(&s->rs->in), octets_span(&m->body)))
		return;
	if (s && (has_address(from, s->lis->bad_sender) || has_address(to, s->lis->bad_recipient)))
		broken(o, I11_VERDICT, s, 0, from,
			"a message was taken whose envelope a rule refuses");
	else if (!w)
		broken(o, I2_COMMIT, s, 0, octets_span(&m->body),
			"server connection %u took a message that no client had sent to its end",
			m->conn);
	else if (w->commits++)
		broken(o, I3_ONCE, s, w->number, SPAN_NONE, "a message was taken twice");
	else if (!w->complete)
		broken(o, I2_COMMIT, s, w->number, SPAN_NONE,
			"a message was taken whose end the client had not sent");
	else if (!span_eq(octets_span(&m->body), w->want))
		broken(o, I2_COMMIT, s, w->number, octets_span(&m->body),
			"a message was taken with another body than the client sent");
	/* Behind a lie nobody knows which recipient a reply was for. */
	else if (w->known && !o->srv->conns[m->conn].lied && !span_eq(from, octets_span(&w->from)))
		broken(o, I2_COMMIT, s, w->number, from,
			"a message was taken with another sender than the client was told");
	else if (w->known && !o->srv->conns[m->conn].lied && !span_eq(to, octets_span(&w->to)))
		broken(o, I2_COMMIT, s, w->number, to,
			"a message was taken for other recipients than the client was told");
}

/* 2xx was told. */
static void judge_told(struct oracle *o, const struct omsg *w)
{
	const struct sess *s = &o->sess[w->sess];
	const struct srv_reply *r = srv_of(o, w->final);

	if (reply_lies(o, r)) {
		/* The server said so, and the end must have been on its way to it. Where chunks
		 * end is not always known behind a lie. */
		if (w->full && !w->bdat && said_ev(o, w->sock, w->end_off) >= w->told_ev)
			broken(o, I1_ACK, s, w->number, SPAN_NONE,
				"2xx to a message before its end was sent");
		return;
	}
	if (r->why != SRV_FINAL || r->message >= o->srv->message_count)
		broken(o, I1_ACK, s, w->number, octets_span(&r->text),
			"2xx to a message, but the server said it to something else");
	else if (!o->srv->messages[r->message].committed || w->commits != 1)
		broken(o, I1_ACK, s, w->number, SPAN_NONE,
			"2xx to a message that was taken %u times", w->commits);
}

static void judge_messages(struct oracle *o)
{
	for (uint32_t i = 0; i < o->srv->message_count && ok(o); i++)
		if (o->srv->messages[i].committed)
			judge_commit(o, &o->srv->messages[i]);
	for (uint32_t i = 0; i < o->msg_n && ok(o); i++)
		if (o->msgs[i].told && o->msgs[i].final != NONE &&
			srv_of(o, o->msgs[i].final)->code / 100 == 2)
			judge_told(o, &o->msgs[i]);
}

/* ---- what is held of replies ---- */

static void judge_replies_held(struct oracle *o, const struct sess *s, uint32_t sock)
{
	const struct osock *k = &o->socks[sock], *c = &o->socks[s->sock];
	uint32_t shown_before = out_before(o, s->sock, k->dial_ev);

	if (o->rec->socks[sock].in.n <= o->in->held_max)
		return;
	for (uint32_t i = 0; i < k->in_n && k->in[i].ev < c->loss_ev; i++) {
		uint32_t shown = out_before(o, s->sock, k->in[i].ev) - shown_before;

		if (k->in[i].end > shown && k->in[i].end - shown > o->in->held_max) {
			broken(o, I6_BOUND, s, s->number, SPAN_NONE,
				"%u octets of a server are held, the bound is %u",
				k->in[i].end - shown, o->in->held_max);
			return;
		}
	}
}

/* ---- all of it ---- */

static void judge(struct oracle *o)
{
	index_events(o);
	find_sessions(o);
	index_servers(o);
	assign_links(o);
	if (o->in->hooked && ok(o))
		judge_hooked(o);
	for (uint32_t i = 0; i < o->sess_n && ok(o); i++) {
		if (!o->in->hooked)
			read_session(o, &o->sess[i]);
		for (uint32_t k = 0; k < o->sess[i].link_n && ok(o); k++)
			judge_replies_held(o, &o->sess[i], o->sess[i].links[k]);
	}
	if (ok(o) && !o->in->hooked)
		judge_messages(o);
	if (ok(o) && o->in->raw)
		judge_tls(o, o->in->raw);
	if (ok(o) && !o->in->hooked)
		judge_log(o);
}

static void forget(struct oracle *o)
{
	for (uint32_t i = 0; i < o->sess_n; i++) {
		octets_free(&o->sess[i].from);
		octets_free(&o->sess[i].to);
		octets_free(&o->sess[i].chunks);
		free(o->sess[i].pending);
	}
	for (uint32_t i = 0; i < o->msg_n; i++) {
		octets_free(&o->msgs[i].from);
		octets_free(&o->msgs[i].to);
		octets_free(&o->msgs[i].body);
	}
	octets_free(&o->scratch);
	free(o->socks);
	free(o->conns);
	free(o->ends);
	free(o->by_serial);
	free(o->links);
	free(o->sess);
	free(o->msgs);
}

void oracle_judge(const struct oracle_in *in, struct verdict *out)
{
	struct oracle o = {.in = in, .rec = in->rec, .srv = in->servers, .v = out};

	memset(out, 0, sizeof(*out));
	judge(&o);
	forget(&o);
}
