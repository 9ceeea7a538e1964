/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The operator's view: records in the log and counters, compared with what happened. Each message
 * that was in doubt has its record and no other has one; each message that was taken has one
 * record; what the counters say of records and sessions is what is there.
 */
#include "tests/sim/oracle_int.h"

#include <arpa/inet.h>

struct line {
	struct span ev, from, result, by, client, code, rcpts, tls;
	uint32_t sess; /* by its address, or NONE */
	bool used;
};

struct book {
	struct oracle *o;
	struct line *lines; /* owns */
	uint32_t n, cap;
	uint32_t sessions, refused, transactions, doubts;
	uint32_t results[5]; /* by enum result */
};

enum result { RES_ACCEPTED, RES_REJECTED, RES_ABORTED, RES_IN_DOUBT, RES_CLIENT_GONE };
static const char *const result_words[] = {
	"accepted", "rejected", "aborted", "in-doubt", "client-gone"};

/* ---- reading logfmt ---- */

/* The next key=value of a line; quotes are taken off, escapes stay. */
static bool next_field(struct span *l, struct span *key, struct span *value)
{
	while (l->n && l->p[0] == ' ')
		*l = span_drop(*l, 1);
	const uint8_t *eq = l->n ? memchr(l->p, '=', l->n) : NULL;
	if (!eq)
		return false;
	*key = span_of(l->p, (size_t)(eq - l->p));
	*l = span_drop(*l, key->n + 1);
	bool quoted = l->n && l->p[0] == '"';
	size_t n = quoted;
	while (n < l->n && l->p[n] != (quoted ? '"' : ' '))
		n += quoted && l->p[n] == '\\' ? 2 : 1;
	n = MIN_OF(n, l->n);
	*value = span_of(l->p + quoted, n - quoted);
	*l = span_drop(*l, MIN_OF(n + quoted, l->n));
	return true;
}

static void read_line(struct span text, struct line *l)
{
	struct span key, value;

	memset(l, 0, sizeof(*l));
	while (next_field(&text, &key, &value)) {
		const struct {
			const char *key;
			struct span *to;
		} want[] = {{"ev", &l->ev}, {"from", &l->from}, {"result", &l->result},
			{"by", &l->by}, {"client", &l->client}, {"code", &l->code},
			{"rcpts", &l->rcpts}, {"tls", &l->tls}};

		for (size_t i = 0; i < ARRAY_LEN(want); i++)
			if (span_eq(key, span_str(want[i].key)))
				*want[i].to = value;
	}
}

static bool is(struct span s, const char *word)
{
	return span_eq(s, span_str(word));
}

static uint32_t session_of(const struct oracle *o, struct span client)
{
	char ip[INET_ADDRSTRLEN], text[40];

	for (uint32_t i = 0; i < o->sess_n; i++) {
		const struct sockaddr_in *a = (const void *)&o->sess[i].rs->peer.sa;

		if (a->sin_family != AF_INET || !inet_ntop(AF_INET, &a->sin_addr, ip, sizeof(ip)))
			continue;
		snprintf(text, sizeof(text), "%s:%u", ip, ntohs(a->sin_port));
		if (is(client, text))
			return i;
	}
	return NONE;
}

static void book_line(struct book *b, struct span text)
{
	struct line l;

	read_line(text, &l);
	b->sessions += is(l.ev, "session");
	b->refused += is(l.ev, "refused");
	b->doubts += is(l.ev, "in-doubt");
	if (is(l.ev, "transaction")) {
		b->transactions++;
		for (unsigned i = 0; i < ARRAY_LEN(result_words); i++)
			b->results[i] += is(l.result, result_words[i]);
	} else if (!is(l.ev, "in-doubt") && !is(l.ev, "session")) {
		return;
	}
	l.sess = session_of(b->o, l.client);
	if (b->n == b->cap) {
		b->cap = b->cap ? b->cap * 2 : 64;
		b->lines = realloc(b->lines, b->cap * sizeof(*b->lines));
		ASSERT(b->lines);
	}
	b->lines[b->n++] = l;
}

static void read_log(struct book *b)
{
	struct span log = b->o->in->log;

	while (log.n) {
		const uint8_t *lf = memchr(log.p, '\n', log.n);
		size_t n = lf ? (size_t)(lf - log.p) : log.n;

		book_line(b, span_of(log.p, n));
		log = span_drop(log, lf ? n + 1 : n);
	}
}

/* ---- a record and its message ---- */

/* "c3m2": which client, which of its messages. False: none in it. */
static bool read_mark(struct span s, uint32_t *who, uint32_t *which)
{
	for (size_t i = 0; i + 3 < s.n; i++) {
		size_t k = i + 1;

		if (s.p[i] != 'c' || (i && s.p[i - 1] != '<'))
			continue;
		for (*who = 0; k < s.n && s.p[k] >= '0' && s.p[k] <= '9'; k++)
			*who = *who * 10 + (uint32_t)(s.p[k] - '0');
		if (k == i + 1 || k + 1 >= s.n || s.p[k++] != 'm')
			continue;
		size_t digits = k;
		for (*which = 0; k < s.n && s.p[k] >= '0' && s.p[k] <= '9'; k++)
			*which = *which * 10 + (uint32_t)(s.p[k] - '0');
		if (k > digits)
			return true;
	}
	return false;
}

static bool is_of(const struct line *l, const struct omsg *m)
{
	uint32_t a, b, x, y;
	bool left = read_mark(l->from, &a, &b), right = read_mark(octets_span(&m->from), &x, &y);

	if (l->sess != NONE && l->sess != m->sess)
		return false;
	if (m->from.n == 0) /* a server took it without a MAIL, or nobody knows which */
		return true;
	return left == right && (!left || (a == x && b == y));
}

/* ---- what became of a message ---- */

struct fate {
	enum doubt doubt, taken;
};

static void find_final(const struct oracle *o, struct omsg *m)
{
	uint32_t conn = o->socks[m->sock].conn;

	if (conn == NONE || !m->full || m->final != NONE)
		return;
	const struct oconn *c = &o->conns[conn];
	for (uint32_t i = 0; i < c->count; i++) {
		const struct srv_reply *r = srv_of(o, c->replies[i]);

		if ((r->why == SRV_FINAL || r->why == SRV_EARLY) && r->cmd_off == m->last_off)
			m->final = c->replies[i];
	}
}

/* 421 came whole behind the end of the message: it counts as an answer, or as the loss. */
static bool left_after(const struct oracle *o, const struct omsg *m)
{
	const struct oconn *c = &o->conns[o->socks[m->sock].conn];

	for (uint32_t i = 0; i < c->count; i++) {
		const struct srv_reply *r = srv_of(o, c->replies[i]);

		if (r->code == 421 && reply_given(o, r))
			return true;
	}
	return false;
}

static bool under_way(const struct rec_sock *rs, const struct omsg *m)
{
	return rs->out_err || (rs->offered > rs->out.n && rs->offered >= m->due_off);
}

/* The link was lost while a send that carried the end was under way: how much of it the kernel
 * takes is not known then. A link on which nothing but the hello has left may be anybody's who was
 * there. */
static bool may_have_left(const struct oracle *o, const struct sess *s, const struct omsg *m)
{
	for (uint32_t i = 0; i < s->link_n && m->complete; i++) {
		bool here = m->due_off == 0 || s->links[i] == m->sock;

		if (here && under_way(&o->rec->socks[s->links[i]], m))
			return true;
	}
	for (uint32_t i = 0; i < o->stray_n && m->complete && m->due_off == 0; i++)
		if (o->socks[o->strays[i]].dial_ev > o->socks[s->sock].open_ev &&
			under_way(&o->rec->socks[o->strays[i]], m))
			return true;
	return false;
}

static bool served_by_liar(const struct oracle *o, const struct sess *s)
{
	for (uint32_t i = 0; i < s->link_n; i++) {
		uint32_t c = o->socks[s->links[i]].conn;

		if (c != NONE && o->srv->conns[c].lied)
			return true;
	}
	return false;
}

static struct fate fate_of(const struct oracle *o, struct omsg *m)
{
	const struct sess *s = &o->sess[m->sess];
	struct fate f = {DOUBT_NO, DOUBT_NO};

	find_final(o, m);
	uint32_t conn = m->full ? o->socks[m->sock].conn : NONE;
	/* A server that lied: its octets do not say what they answer. */
	if ((conn == NONE && m->full) || served_by_liar(o, s)) {
		f.doubt = f.taken = DOUBT_MAY;
		return f;
	}
	if (!m->full) {
		f.doubt = may_have_left(o, s, m) ? DOUBT_MAY : DOUBT_NO;
		return f;
	}
	const struct osock *k = &o->socks[m->sock];
	const struct srv_reply *r = m->final == NONE ? NULL : srv_of(o, m->final);
	if (r && reply_given(o, r)) {
		/* It may have come when the link was given up already, or there was no memory for
		 * the piece it came with. */
		bool given_up = m->told_own || o->in->killed ||
				struck_between(o, FAULT_FULL_SLAB, in_ev(o, m->sock, r->out_end),
					k->close_ev, 0);
		enum doubt sure = given_up ? DOUBT_MAY : DOUBT_MUST;

		if (r->code / 100 == 2)
			f.taken = sure;
		f.doubt = sure == DOUBT_MUST ? DOUBT_NO : DOUBT_MAY;
		return f;
	}
	bool sure = !left_after(o, m) && s->rs->closed && k->close_ev != NONE &&
		    out_ev(o, m->sock, m->end_off) < k->loss_ev;
	f.doubt = sure ? DOUBT_MUST : DOUBT_MAY;
	return f;
}

static bool has_mark(const struct omsg *m)
{
	uint32_t who, which;

	return read_mark(octets_span(&m->from), &who, &which);
}

/* The record of message `i`, if it is there and nobody else's. */
static const struct line *find_record(
	struct book *b, uint32_t i, bool (*wanted)(const struct line *))
{
	for (uint32_t k = 0; k < b->n; k++) {
		struct line *l = &b->lines[k];

		if (l->used || !wanted(l) || !is_of(l, &b->o->msgs[i]))
			continue;
		l->used = true;
		return l;
	}
	return NULL;
}

static uint32_t lines_of(const struct octets *o)
{
	uint32_t n = 0;

	for (size_t i = 0; i < o->n; i++)
		n += o->p[i] == '\n';
	return n;
}

/* What the record of a message that was taken says of it. Behind a lie nobody knows which reply was
 * whose. */
static void check_record(struct oracle *o, const struct omsg *m, const struct line *l)
{
	const struct srv_reply *r = m->final == NONE ? NULL : srv_of(o, m->final);
	char code[16], rcpts[16];

	/* Without a sender any record of the session may be its. */
	if (!r || !m->known || !has_mark(m) || o->srv->conns[r->conn].lied || l->code.n == 0)
		return;
	snprintf(code, sizeof(code), "%u", r->code);
	snprintf(rcpts, sizeof(rcpts), "%u", lines_of(&m->to));
	if (!is(l->code, code) || !is(l->rcpts, rcpts))
		broken(o, I9_COUNTERS, &o->sess[m->sess], m->number, l->from,
			"the record has another code or number of recipients than %s, %s", code,
			rcpts);
}

/* Every message that must have one finds its record, no record is left without a message. A message
 * whose sender names it can have one record only, so those choose first. */
static void pair_records(
	struct book *b, const struct fate *fates, bool doubt, bool (*wanted)(const struct line *))
{
	static const struct {
		bool named;
		enum doubt d;
	} rounds[] = {
		{true, DOUBT_MUST}, {true, DOUBT_MAY}, {false, DOUBT_MUST}, {false, DOUBT_MAY}};
	struct oracle *o = b->o;
	enum invariant inv = doubt ? I10_DOUBT : I9_COUNTERS;
	const char *what = doubt ? "in doubt" : "taken";

	for (size_t r = 0; r < ARRAY_LEN(rounds); r++)
		for (uint32_t i = 0; i < o->msg_n && ok(o); i++) {
			const struct omsg *m = &o->msgs[i];
			enum doubt d = doubt ? fates[i].doubt : fates[i].taken;

			if (d != rounds[r].d || has_mark(m) != rounds[r].named)
				continue;
			const struct line *l = find_record(b, i, wanted);
			if (l && !doubt && d == DOUBT_MUST)
				check_record(o, m, l);
			if (!l && d == DOUBT_MUST)
				broken(o, inv, &o->sess[m->sess], m->number, octets_span(&m->from),
					"a message that was %s has no such record", what);
		}
	for (uint32_t k = 0; k < b->n && ok(o); k++)
		/* Behind a lie that nobody was told the reader does not know what was a message. */
		if (wanted(&b->lines[k]) && !b->lines[k].used &&
			(b->lines[k].sess == NONE ||
				!served_by_liar(o, &o->sess[b->lines[k].sess])))
			broken(o, inv, NULL, 0, b->lines[k].from,
				"a record says that a message was %s, but none was", what);
	for (uint32_t k = 0; k < b->n; k++)
		b->lines[k].used = false;
}

static bool is_doubt(const struct line *l)
{
	return is(l->ev, "in-doubt");
}

static bool is_taken(const struct line *l)
{
	return is(l->ev, "transaction") &&
	       (is(l->result, "accepted") || is(l->result, "client-gone"));
}

static void judge_fates(struct book *b)
{
	struct oracle *o = b->o;
	struct fate *fates = calloc(o->msg_n + 1, sizeof(*fates));

	ASSERT(fates);
	for (uint32_t i = 0; i < o->msg_n; i++)
		fates[i] = fate_of(o, &o->msgs[i]);
	pair_records(b, fates, true, is_doubt);
	if (ok(o))
		pair_records(b, fates, false, is_taken);
	for (uint32_t k = 0; k < b->n && ok(o); k++)
		if (is_taken(&b->lines[k]) && !is(b->lines[k].by, "upstream"))
			broken(o, I9_COUNTERS, NULL, 0, b->lines[k].from,
				"a record says that ringpost itself took a message");
	free(fates);
}

/* ---- counters ---- */

static void same(
	struct oracle *o, const char *name, uint64_t counter, uint64_t want, const char *of)
{
	if (counter != want)
		broken(o, I9_COUNTERS, NULL, 0, SPAN_NONE, "counter %s is %llu, but %llu %s", name,
			(unsigned long long)counter, (unsigned long long)want, of);
}

static void judge_records(struct book *b)
{
	const struct stat_table *st = b->o->in->stats;
	const struct {
		const char *name;
		uint64_t counter, want;
		const char *of;
	} rows[] = {
		{"sessions", st->sessions, b->sessions, "session records"},
		{"sessions_refused", st->sessions_refused, b->refused, "records of refusals"},
		{"transactions", st->transactions, b->transactions, "transaction records"},
		{"messages_accepted", st->messages_accepted,
			b->results[RES_ACCEPTED] + b->results[RES_CLIENT_GONE],
			"records accepted and client-gone"},
		{"messages_rejected", st->messages_rejected, b->results[RES_REJECTED],
			"records rejected"},
		{"messages_aborted", st->messages_aborted, b->results[RES_ABORTED],
			"records aborted"},
		{"messages_in_doubt", st->messages_in_doubt, b->results[RES_IN_DOUBT],
			"records in-doubt"},
		{"messages_client_gone", st->messages_client_gone, b->results[RES_CLIENT_GONE],
			"records client-gone"},
		{"messages_in_doubt", st->messages_in_doubt, b->doubts, "events in-doubt"},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		same(b->o, rows[i].name, rows[i].counter, rows[i].want, rows[i].of);
}

/* Every session that a server greeted has its one record. */
/* Of a session that the client said something in, or was told something in, behind a handshake. */
static void judge_tls_fields(struct oracle *o, const struct sess *s, const struct line *l)
{
	bool used = s->rs->veiled && s->tls &&
		    (s->lis->tls == SIM_IMPLICIT ? s->greeted : !s->hello_due);

	if (used && !is(l->tls, "TLSv1.3"))
		broken(o, I9_COUNTERS, s, 0, l->tls, "the session's record does not say TLSv1.3");
	else if (l->tls.n > 0 && !s->rs->veiled)
		broken(o, I9_COUNTERS, s, 0, l->tls, "the session's record speaks of TLS");
}

static void judge_session_records(struct book *b)
{
	struct oracle *o = b->o;

	for (uint32_t i = 0; i < o->sess_n && ok(o); i++) {
		const struct sess *s = &o->sess[i];
		uint32_t n = 0;

		for (uint32_t k = 0; k < b->n; k++) {
			if (!is(b->lines[k].ev, "session") || b->lines[k].sess != i)
				continue;
			n++;
			judge_tls_fields(o, s, &b->lines[k]);
		}
		if (s->greeted && s->rs->closed && n != 1)
			broken(o, I9_COUNTERS, s, 0, SPAN_NONE, "%u session records", n);
	}
}

/* What every client was told is counted; where connections broke, more may be. */
static void counted(
	struct oracle *o, const char *name, uint64_t counter, uint64_t least, uint64_t most)
{
	if (counter < least || counter > most)
		broken(o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"counter %s is %llu, but clients were told so %llu times", name,
			(unsigned long long)counter, (unsigned long long)least);
}

static void judge_told(struct oracle *o)
{
	const struct stat_table *st = o->in->stats;
	const uint32_t *told = o->told;
	uint64_t cut = 0, unsure = 0, injected = 0;

	/* What a server lies in clear before TLS counts as well, whichever reply it stands behind.
	 */
	for (uint32_t i = 0; o->in->raw && i < o->in->raw->sock_count; i++) {
		const struct rec_veil *k = o->in->raw->socks[i].veil;
		uint32_t conn = o->socks[i].conn;

		injected += k && (k->injected || (conn != NONE && o->srv->conns[conn].lied));
	}

	for (uint32_t i = 0; i < o->sess_n; i++) {
		cut += o->sess[i].cut || o->sess[i].rs->in_end || o->sess[i].unanswered_in_body ||
		       o->sess[i].left_over;
		unsure += o->sess[i].unsure;
	}
	const struct {
		const char *name;
		uint64_t counter, told;
	} once[] =
		{
			{"upstream_unreachable", st->upstream_unreachable,
				told[OWN_REPLY_UNREACHABLE]},
			{"limit_errors", st->limit_errors, told[OWN_REPLY_MANY_ERRORS]},
			{"starttls_injection", st->starttls_injection,
				told[OWN_REPLY_BEHIND_STARTTLS]},
			{"refused_clients", st->refused_clients, told[OWN_REPLY_NOT_ALLOWED]},
			{"refused_per_client", st->refused_per_client, told[OWN_REPLY_PER_CLIENT]},
			{"starttls_passed", st->starttls_passed, o->opaque_n},
		},
	  often[] = {
		  {"rule_rejects", st->rule_rejects, o->told_rule},
		  {"limit_recipients", st->limit_recipients, told[OWN_REPLY_MANY_RCPT]},
		  {"smuggling_refused", st->smuggling_refused, told[OWN_REPLY_LOOKALIKE]},
	  };

	for (size_t i = 0; i < ARRAY_LEN(once); i++)
		counted(o, once[i].name, once[i].counter, once[i].told,
			once[i].told + cut + injected);
	for (size_t i = 0; i < ARRAY_LEN(often); i++)
		counted(o, often[i].name, often[i].counter, often[i].told,
			cut ? UINT64_MAX : often[i].told);
	/* No pool may be left to say so, either. */
	counted(o, "limit_memory", st->limit_memory, told[OWN_REPLY_NO_MEMORY],
		told[OWN_REPLY_NO_MEMORY] + cut + o->rec->faults[FAULT_FULL_SLAB]);
	counted(o, "refused_full", st->refused_full, told[OWN_REPLY_FULL] - unsure,
		told[OWN_REPLY_FULL] + cut);
}

/* Objections that reach their session are said, but for those whose command was decided meanwhile
 * without them: not many of them. Where an answer came too late, or none did, it is not known
 * which. */
static void judge_verdicts(struct oracle *o)
{
	const struct stat_table *st = o->in->stats;

	if (!o->in->verdicts || st->hook_late_answers || st->hook_deadlines || st->hook_failures)
		return;
	uint64_t said = o->in->verdicts->said;
	counted(o, "hook_refusals", st->hook_refusals - st->rule_rejects, said > 4 ? said / 2 : 0,
		said);
}

static void judge_connections(struct oracle *o)
{
	const struct stat_table *st = o->in->stats;
	uint64_t greeted = 0, refused = 0, away = 0, lost, opened = 0, used = 0;

	for (uint32_t i = 0; i < o->sess_n; i++) {
		greeted += o->sess[i].greeted;
		away += o->sess[i].away;
		refused += o->sess[i].refused && !o->sess[i].unsure;
	}
	for (uint32_t i = 0; i < o->rec->sock_count; i++) {
		const struct rec_sock *k = &o->rec->socks[i];

		opened += k->dialled && k->open;
		used += k->dialled && (k->in.n || k->out.n);
	}
	/* Accepted sockets without a peer, or without memory for them, may be neither. */
	lost = away + o->rec->faults[FAULT_FULL_SLAB];
	if (st->sessions < greeted || st->sessions > o->sess_n - refused)
		broken(o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"counter sessions is %llu, but %llu were greeted, %u accepted",
			(unsigned long long)st->sessions, (unsigned long long)greeted, o->sess_n);
	if (st->sessions_refused < refused || st->sessions + st->sessions_refused > o->sess_n ||
		st->sessions + st->sessions_refused + lost < o->sess_n)
		broken(o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"counters sessions %llu and sessions_refused %llu do not make %u accepted",
			(unsigned long long)st->sessions, (unsigned long long)st->sessions_refused,
			o->sess_n);
	if (st->links > opened || st->links < used)
		broken(o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"counter links is %llu, but %llu were opened and %llu used",
			(unsigned long long)st->links, (unsigned long long)opened,
			(unsigned long long)used);
	same(o, "sessions_refused", st->sessions_refused,
		st->refused_clients + st->refused_per_client + st->refused_full +
			st->refused_draining + st->refused_rule,
		"reasons");
	same(o, "sessions_now", st->sessions_now, 0, "are left");
	same(o, "links_now", st->links_now, 0, "are left");
}

void judge_log(struct oracle *o)
{
	struct book b = {.o = o};

	judge_verdicts(o);
	judge_connections(o);
	judge_told(o);
	/* Records were dropped, and counted: what is left proves nothing. */
	if (o->in->stats->log_dropped || !ok(o))
		return;
	read_log(&b);
	judge_records(&b);
	if (ok(o))
		judge_session_records(&b);
	if (ok(o))
		judge_fates(&b);
	free(b.lines);
}
