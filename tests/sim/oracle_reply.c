/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Replies as a client sees them: their grammar, whose they are (a server's mark, or ringpost's own
 * words), and what must have become of a server's text. A mark decides first: ringpost's own
 * replies have none.
 */
#include "tests/sim/oracle_int.h"

#include "tests/sim/actor.h"

const struct own_text own_texts[OWN_COUNT] = {
#define X(id, code, enhanced, text, word) [OWN_##id] = {code, enhanced, text},
#include "engine/session/replies.def"
#undef X
};

struct span own_words(enum own_reply own, char to[OWN_TEXT_MAX])
{
	const struct own_text *t = &own_texts[own];
	int n = snprintf(to, OWN_TEXT_MAX, "%s%s%s", t->enhanced ? t->enhanced : "",
		t->enhanced ? " " : "", t->text);

	ASSERT(n > 0 && n < OWN_TEXT_MAX);
	return span_of(to, (size_t)n);
}

/* ---- marks ---- */

static bool read_number(struct span *s, uint32_t *out)
{
	size_t n = 0;

	*out = 0;
	for (; n < s->n && n < 9 && s->p[n] >= '0' && s->p[n] <= '9'; n++)
		*out = *out * 10 + (uint32_t)(s->p[n] - '0');
	*s = span_drop(*s, n);
	return n > 0;
}

/* " k<conn>.<serial>" at the end of a line (without its line end). */
uint32_t mark_find(const struct oracle *o, struct span line)
{
	const uint8_t *sp = line.n ? memrchr(line.p, ' ', line.n) : NULL;
	uint32_t conn, serial;

	if (!sp || sp + 1 == line.p + line.n || sp[1] != 'k')
		return NONE;
	struct span s = span_drop(line, (size_t)(sp - line.p) + 2);
	if (!read_number(&s, &conn) || s.n == 0 || s.p[0] != '.')
		return NONE;
	s = span_drop(s, 1);
	if (!read_number(&s, &serial) || s.n)
		return NONE;
	if (conn >= o->srv->conn_count || serial >= o->conns[conn].count)
		return NONE;
	return o->conns[conn].replies[serial];
}

/* ---- one reply ---- */

struct rline {
	struct span text; /* behind code and separator */
	unsigned code;
	bool last, bad;
	size_t n; /* with its line end */
};

/* False: no whole line. */
static bool read_rline(struct span s, struct rline *l)
{
	const uint8_t *lf = s.n ? memchr(s.p, '\n', s.n) : NULL;

	if (!lf)
		return false;
	l->n = (size_t)(lf - s.p) + 1;
	l->bad = l->n < 5 || lf[-1] != '\r';
	l->text = span_of(s.p, l->n - MIN_OF(l->n, 2u));
	l->code = 0;
	for (size_t i = 0; i < 3 && i < l->text.n; i++) {
		if (l->text.p[i] < '0' || l->text.p[i] > '9')
			l->bad = true;
		l->code = l->code * 10 + (unsigned)(l->text.p[i] - '0');
	}
	if (l->bad || l->code < 200 || l->code > 599) {
		l->bad = true;
		return true;
	}
	l->last = l->text.n == 3 || l->text.p[3] == ' ';
	l->bad = !l->last && l->text.p[3] != '-';
	for (size_t i = 0; i < l->text.n; i++)
		l->bad |= l->text.p[i] == 0 || l->text.p[i] == '\r';
	l->text = span_drop(l->text, MIN_OF(l->text.n, 4u));
	return true;
}

static bool is_word_octet(uint8_t c)
{
	c = ascii_lower(c);
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* A detail (server, reason, limit) may follow the text. */
static bool own_find(unsigned code, struct span text, enum own_reply *out)
{
	size_t best = 0;

	for (enum own_reply i = 0; i < OWN_COUNT; i++) {
		char words[OWN_TEXT_MAX];
		struct span t = own_words(i, words);

		if (own_texts[i].code != code || text.n < t.n || t.n <= best)
			continue;
		if (!span_eq(span_of(text.p, t.n), t))
			continue;
		if (text.n > t.n && is_word_octet(text.p[t.n]))
			continue;
		best = t.n;
		*out = i;
	}
	return best > 0;
}

/* What is no reply as a whole may end like one: behind a line that had no end, the last line of
 * what changes its code between its lines is one, and has no mark. */
static uint32_t end_of_garbage(const struct oracle *o, const struct sess *s, struct span whole)
{
	uint32_t conn = s->serial_sock == NONE ? NONE : o->socks[s->serial_sock].conn;
	const struct oconn *c = conn == NONE ? NULL : &o->conns[conn];

	for (uint32_t i = s->serial_next ? s->serial_next - 1 : 0; c && i < c->count; i++) {
		const struct srv_reply *sr = srv_of(o, c->replies[i]);
		struct span t = octets_span(&sr->text);

		if (sr->why == SRV_MALFORMED && t.n > whole.n && t.p[t.n - whole.n - 1] == '\n' &&
			span_eq(span_drop(t, t.n - whole.n), whole))
			return c->replies[i];
	}
	return NONE;
}

/* Of the seeded hook: its number stands at the end. */
static uint32_t verdict_of(struct span line)
{
	static const char failed[] = "message inspection is not available";
	static const char *const usual[] = {"550 5.7.1 refused by policy",
		"450 4.7.1 try again later", "421 4.7.1 closing connection"};
	const uint8_t *at = memmem(line.p, line.n, VERDICT_TEXT, sizeof(VERDICT_TEXT) - 1);
	uint64_t number;

	if (memmem(line.p, line.n, failed, sizeof(failed) - 1))
		return VERDICT_FAILED;
	/* No room for its words: the usual ones. */
	for (size_t i = 0; i < ARRAY_LEN(usual); i++)
		if (span_eq(line, span_str(usual[i])))
			return VERDICT_FAILED;
	if (!at)
		return 0;
	at += sizeof(VERDICT_TEXT) - 1;
	number = actor_number(span_of(at, (size_t)(line.p + line.n - at)));
	return number < VERDICT_FAILED ? (uint32_t)number + 1 : 0;
}

static void classify(const struct oracle *o, const struct sess *s, struct span whole,
	unsigned lines, struct reply *r)
{
	struct rline l = {0};

	if (r->sr != NONE) {
		r->kind = R_MARKED;
		return;
	}
	r->kind = R_UNKNOWN;
	read_rline(whole, &l);
	if (lines != 1)
		return;
	if (s->lis->rule_reply &&
		span_eq(span_of(whole.p, whole.n - 2), span_str(s->lis->rule_reply)))
		r->kind = R_RULE;
	else if ((r->verdict = verdict_of(span_of(whole.p, whole.n - 2))) != 0)
		r->kind = R_RULE;
	else if (own_find(l.code, l.text, &r->own))
		r->kind = R_OWN;
	else if ((r->sr = end_of_garbage(o, s, whole)) != NONE)
		r->kind = R_MARKED;
}

void reply_read(struct oracle *o, struct sess *s, struct reply *r)
{
	struct span out = span_drop(octets_span(&s->rs->out), s->out_at);
	struct rline l = {0};
	unsigned lines = 0;

	memset(r, 0, sizeof(*r));
	r->off = s->out_at;
	r->sr = NONE;
	r->kind = out.n ? R_PART : R_END;
	r->n = (uint32_t)out.n;
	for (size_t at = 0; read_rline(span_drop(out, at), &l); at += l.n) {
		if (r->sr == NONE)
			r->sr = mark_find(o, l.text);
		l.bad |= lines++ > 0 && l.code != r->code;
		r->code = l.code;
		if (!l.bad && !l.last)
			continue;
		r->n = (uint32_t)(at + l.n);
		r->ev = said_ev(o, s->sock, r->off + 1);
		r->end_ev = out_ev(o, s->sock, r->off + r->n);
		r->us = ev_us(o, r->ev);
		if (l.bad)
			r->kind = R_BAD;
		else
			classify(o, s, span_of(out.p, r->n), lines, r);
		return;
	}
}

/* Every line end is CRLF, whatever the server wrote. */
bool reply_same(struct span shown, struct span said)
{
	size_t k = 0;

	for (size_t i = 0; i < said.n; i++) {
		if (said.p[i] == '\n' && (i == 0 || said.p[i - 1] != '\r'))
			if (k >= shown.n || shown.p[k++] != '\r')
				return false;
		if (k >= shown.n || shown.p[k++] != said.p[i])
			return false;
	}
	return k == shown.n;
}

/* ---- the EHLO list ---- */

static struct span cut_line(struct span *s)
{
	const uint8_t *lf = memchr(s->p, '\n', s->n);
	size_t n = lf ? (size_t)(lf - s->p) : s->n;
	struct span line = span_of(s->p, n);

	*s = span_drop(*s, lf ? n + 1 : n);
	if (line.n && line.p[line.n - 1] == '\r')
		line.n--;
	return span_drop(line, MIN_OF(line.n, 4u));
}

static struct span keyword_of(struct span line)
{
	size_t n = 0;

	while (n < line.n && line.p[n] != ' ' && line.p[n] != '=')
		n++;
	return span_of(line.p, n);
}

static bool word_in(const char *words, struct span w)
{
	while (words && *words) {
		size_t n = strcspn(words, " ");

		if (span_ieq(w, span_of(words, n)))
			return true;
		words += n + (words[n] == ' ');
	}
	return false;
}

/* Keywords in CONFIGURATION.md that are never shown, or not to this listener's clients. */
static bool stripped(const struct sess *s, struct span kw)
{
	const struct oracle_listener *lis = s->lis;

	if (word_in("REQUIRETLS BURL ATRN TURN PRDR CHECKPOINT X-EXPS XEXCH50 X-ANONYMOUSTLS", kw))
		return true;
	if (word_in("XCLIENT XFORWARD", kw))
		return !lis->trusted;
	if (word_in("STARTTLS", kw))
		return !lis->starttls_passed;
	if (word_in("CHUNKING BINARYMIME", kw))
		return lis->chunking_stripped;
	/* Secrets do not go in clear. */
	if (word_in("AUTH", kw))
		return auth_hidden(s);
	return word_in(lis->hidden, kw);
}

static uint64_t size_of(struct span line)
{
	uint64_t n = 0;

	for (size_t i = 5; i < line.n && line.p[i] >= '0' && line.p[i] <= '9'; i++)
		n = n * 10 + (uint64_t)(line.p[i] - '0');
	return n;
}

/* What the server offered, in its order. */
struct offer {
	struct span rest;
	bool chunking, sized;
	uint64_t size;
};

/* The next line that must be shown as it is; empty: none. */
static struct span offer_next(const struct sess *s, struct offer *f)
{
	while (f->rest.n) {
		struct span line = cut_line(&f->rest), kw = keyword_of(line);

		if (kw.n == 0 || word_in("PIPELINING SIZE", kw) || stripped(s, kw))
			continue;
		if (word_in("BINARYMIME", kw) && !f->chunking)
			continue;
		return line;
	}
	return SPAN_NONE;
}

static void offer_read(struct span said, struct offer *f)
{
	f->rest = said;
	cut_line(&f->rest);
	for (struct span s = f->rest; s.n;) {
		struct span line = cut_line(&s), kw = keyword_of(line);

		f->chunking |= word_in("CHUNKING", kw);
		if (word_in("SIZE", kw)) {
			f->sized = true;
			f->size = size_of(line);
		}
	}
}

static bool size_right(const struct oracle_listener *lis, const struct offer *f, struct span line)
{
	uint64_t ours = lis->message_max, want = f->size;

	if (ours && (want == 0 || ours < want))
		want = ours;
	return (f->sized || ours) && size_of(line) == want;
}

void ehlo_compare(struct oracle *o, struct sess *s, const struct unit *u, const struct reply *r)
{
	struct span shown = span_of(s->rs->out.p + r->off, r->n);
	struct span said = octets_span(&srv_of(o, r->sr)->text), first = said;
	struct offer f = {0};
	bool offers_tls = s->lis->tls == SIM_STARTTLS && !s->tls;
	unsigned pipelining = 0, sizes = 0, tls = 0;

	offer_read(said, &f);
	if (!span_eq(cut_line(&shown), cut_line(&first)))
		broken(o, I4_REPLIES, s, u->number, said, "the first line of EHLO's reply differs");
	while (shown.n && ok(o)) {
		struct span line = cut_line(&shown), kw = keyword_of(line);

		if (word_in("PIPELINING", kw))
			pipelining++;
		else if (word_in("STARTTLS", kw) && offers_tls)
			tls++;
		else if (word_in("SIZE", kw) && size_right(s->lis, &f, line))
			sizes++;
		else if (kw.n && !span_eq(line, offer_next(s, &f)))
			broken(o, I4_REPLIES, s, u->number, line,
				"a line of EHLO's reply that should not stand there");
	}
	struct span left = offer_next(s, &f);
	if (left.n)
		broken(o, I4_REPLIES, s, u->number, left, "a line is missing in EHLO's reply");
	if (pipelining != 1)
		broken(o, I4_REPLIES, s, u->number, SPAN_NONE, "PIPELINING is shown %u times",
			pipelining);
	if (tls != offers_tls)
		broken(o, I12_TLS, s, u->number, SPAN_NONE, "STARTTLS is shown %u times", tls);
	if (sizes > 1 || (f.sized && sizes == 0))
		broken(o, I4_REPLIES, s, u->number, SPAN_NONE, "SIZE is shown %u times", sizes);
}
