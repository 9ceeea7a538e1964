/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every octet that ringpost wrote to a server is explained: the client's commands as they were
 * written, each at most once, in order; on a replacement first the hello that was accepted last;
 * and ringpost's own RSET and `*` where the document names them.
 *
 * A command that a server answered is known to stand at the offset the server read it from. The
 * others (their link was lost, nobody was told) may stand there, in order, or not at all, the last
 * one in part: they wait in `pending` until the next known one, or the end of the link.
 */
#include "tests/sim/oracle_int.h"

#define LOOK_BYTES 300u /* of an octet that nothing explains, for the mark of another client */

static struct span link_octets(const struct oracle *o, uint32_t sock)
{
	return octets_span(&o->rec->socks[sock].out);
}

static uint32_t cur_sock(const struct sess *s)
{
	return s->links[s->cur];
}

/* A client's mark: "c<n>m<m>", or "c<n>." of its name. */
uint32_t foreign_mark(struct span s, uint32_t who)
{
	for (size_t i = 0; i + 2 < s.n; i++) {
		uint32_t n = 0;
		size_t k = i + 1;

		if (s.p[i] != 'c' || (i && (ascii_lower(s.p[i - 1]) >= 'a' || s.p[i - 1] == '.')))
			continue;
		while (k < s.n && k < i + 6 && s.p[k] >= '0' && s.p[k] <= '9')
			n = n * 10 + (uint32_t)(s.p[k++] - '0');
		if (k == i + 1 || k + 1 >= s.n)
			continue;
		bool mark = (s.p[k] == 'm' && s.p[k + 1] >= '0' && s.p[k + 1] <= '9') ||
			    (s.p[k] == '.' && s.p[k + 1] == 'e');
		if (mark && n != who)
			return n;
	}
	return NONE;
}

void links_refused(struct sess *s, struct span text)
{
	s->gone[s->gone_n++ % ARRAY_LEN(s->gone)] = text;
}

static bool begins(struct span s, struct span with)
{
	return with.n && s.n >= with.n && memcmp(s.p, with.p, with.n) == 0;
}

static void unexplained(struct oracle *o, struct sess *s, uint32_t number, const char *what)
{
	struct span rest = span_drop(link_octets(o, cur_sock(s)), s->at);
	uint32_t who = foreign_mark(span_of(rest.p, MIN_OF(rest.n, LOOK_BYTES)), s->rs->who);

	if (who != NONE) {
		broken(o, I5_MIXED, s, number, rest, "octets of client %u on a link of its", who);
		return;
	}
	for (uint32_t i = 0; i < MIN_OF(s->gone_n, ARRAY_LEN(s->gone)); i++)
		if (begins(rest, s->gone[i])) {
			broken(o, I11_VERDICT, s, number, rest,
				"a command that ringpost refused itself went to the server");
			return;
		}
	broken(o, I4_REPLIES, s, number, rest, "%s, at octet %u of link %u", what, s->at,
		cur_sock(s));
}

/* ---- one pass at one place ---- */

enum fit { FIT_NOT, FIT_PART, FIT_WHOLE };

static enum fit fits(
	const struct oracle *o, const struct sess *s, uint32_t to, const struct pass *p)
{
	struct span out = link_octets(o, cur_sock(s));
	uint32_t room = to - s->at;

	if (p->whole && p->text.n <= room)
		return begins(span_drop(out, s->at), p->text) ? FIT_WHOLE : FIT_NOT;
	if (to != out.n || room > p->text.n || room == 0)
		return FIT_NOT;
	return memcmp(out.p + s->at, p->text.p, room) == 0 ? FIT_PART : FIT_NOT;
}

/* It stands at s->at, `n` octets of it. */
static void consume(struct oracle *o, struct sess *s, const struct pass *p, uint32_t n)
{
	uint32_t from = s->at;

	s->at += n;
	if (!p->body)
		s->line_at = from;
	if (p->msg == NONE)
		return;
	struct omsg *m = &o->msgs[p->msg];
	m->sock = cur_sock(s);
	if (m->full)
		broken(o, I3_ONCE, s, m->number, SPAN_NONE, "a message was passed twice");
	m->full = p->whole && n == p->text.n;
	m->last_off = s->line_at;
	m->due_off = from + (uint32_t)p->text.n;
	m->end_off = s->at;
	if (p->body)
		body_passed(o, s, m, from, p->text, n, p->whole);
}

static bool own_word(struct sess *s, struct span rest, uint32_t *due, struct span word)
{
	if (*due == 0 || !begins(rest, word))
		return false;
	--*due;
	s->at += (uint32_t)word.n;
	return true;
}

/* The last piece of ringpost's own word may be cut by the end of the link. */
static bool own_part(const struct sess *s, struct span rest, uint32_t due, struct span word)
{
	return due && rest.n < word.n && memcmp(rest.p, word.p, rest.n) == 0 && s->at > 0;
}

static bool take_from(struct oracle *o, struct sess *s, uint32_t to, uint32_t end)
{
	for (uint32_t i = s->pend_at; i < MIN_OF(end, s->pend_n); i++) {
		enum fit f = fits(o, s, to, &s->pending[i]);

		if (f == FIT_NOT)
			continue;
		s->pend_at = i + 1;
		consume(o, s, &s->pending[i],
			f == FIT_WHOLE ? (uint32_t)s->pending[i].text.n : to - s->at);
		return true;
	}
	return false;
}

static bool own_word(struct sess *s, struct span rest, uint32_t *due, struct span word);

/* The next that waits, or one behind it when those before it did not pass. A RSET that may be
 * ringpost's own is that rather than the client's of much later. */
static bool take_pending(struct oracle *o, struct sess *s, uint32_t to)
{
	struct span rest = link_octets(o, cur_sock(s));

	rest = span_of(rest.p + s->at, to - s->at);
	return take_from(o, s, to, s->pend_at + 1) ||
	       own_word(s, rest, &s->late_resets, SPAN_LIT("RSET\r\n")) ||
	       take_from(o, s, to, s->pend_n);
}

static bool take_hello(struct oracle *o, struct sess *s, uint32_t to)
{
	struct span rest = span_drop(link_octets(o, cur_sock(s)), s->at);
	bool first = s->cur == 0 || s->at != 0;

	if (first || s->hello.n == 0)
		return false;
	if (begins(rest, s->hello) && s->hello.n <= to)
		s->at = (uint32_t)s->hello.n;
	else if (rest.n < s->hello.n && memcmp(rest.p, s->hello.p, rest.n) == 0)
		s->at = to;
	else
		return false;
	return true;
}

/* Explains the octets of the current link up to `to`. */
static void fill_gap(struct oracle *o, struct sess *s, uint32_t to, uint32_t number)
{
	while (s->at < to && ok(o)) {
		struct span rest = link_octets(o, cur_sock(s));

		rest = span_of(rest.p + s->at, to - s->at);
		if (take_hello(o, s, to) || take_pending(o, s, to))
			continue;
		if (own_word(s, rest, &s->resets, SPAN_LIT("RSET\r\n")) ||
			own_word(s, rest, &s->stars, SPAN_LIT("*\r\n")))
			continue;
		if (to == link_octets(o, cur_sock(s)).n &&
			(own_part(s, rest, s->resets + s->late_resets, SPAN_LIT("RSET\r\n")) ||
				own_part(s, rest, s->stars, SPAN_LIT("*\r\n"))))
			return;
		unexplained(o, s, number, "the server was given octets that no command explains");
	}
}

/* ---- from link to link ---- */

static uint32_t link_number(const struct sess *s, uint32_t sock)
{
	for (uint32_t i = 0; i < s->link_n; i++)
		if (s->links[i] == sock)
			return i;
	return NONE;
}

static void next_link(struct oracle *o, struct sess *s)
{
	fill_gap(o, s, (uint32_t)link_octets(o, cur_sock(s)).n, s->number);
	s->cur++;
	s->at = s->line_at = s->resets = s->stars = 0;
}

void links_enter(struct oracle *o, struct sess *s, uint32_t sock)
{
	uint32_t k = link_number(s, sock);

	if (k == NONE || k < s->cur) {
		broken(o, I4_REPLIES, s, s->number, SPAN_NONE,
			"a reply of link %u, which was replaced before", sock);
		return;
	}
	if (k > s->cur && s->sticky)
		broken(o, I4_REPLIES, s, s->number, SPAN_NONE,
			"a link was replaced though the server knew more than its hello");
	while (s->cur < k && ok(o)) {
		next_link(o, s);
		s->dropped = false;
	}
}

/* Takes what is there of it, when that is all there is to the end of the link. */
bool links_part(struct oracle *o, struct sess *s, const struct pass *p)
{
	uint32_t all = (uint32_t)link_octets(o, cur_sock(s)).n;

	if (fits(o, s, all, p) != FIT_PART)
		return false;
	consume(o, s, p, all - s->at);
	return true;
}

void links_place(
	struct oracle *o, struct sess *s, const struct pass *p, uint32_t sock, uint32_t off)
{
	links_enter(o, s, sock);
	if (!ok(o))
		return;
	bool hello = s->cur > 0 && s->at == 0 && s->hello.n && off > 0;
	if (s->cur > 0 && s->at == 0 && s->hello.n && off == 0 &&
		(ascii_lower(p->text.p[0]) != 'e' && ascii_lower(p->text.p[0]) != 'h'))
		broken(o, I4_REPLIES, s, p->number, p->text,
			"a new link was not told the hello of the old one");
	if (hello && !take_hello(o, s, off))
		unexplained(o, s, p->number, "a new link was told something else than the hello");
	fill_gap(o, s, off, p->number);
	if (!ok(o))
		return;
	if (s->at > off)
		broken(o, I4_REPLIES, s, p->number, p->text,
			"the reply belongs to an earlier command, at %u of link %u, not to the one "
			"at "
			"%u",
			off, sock, s->at);
	else if (p->whole ? fits(o, s, off + (uint32_t)p->text.n, p) != FIT_WHOLE
			  : !links_part(o, s, p))
		unexplained(
			o, s, p->number, "the reply belongs to something else than this command");
	else if (p->whole)
		consume(o, s, p, (uint32_t)p->text.n);
	s->pend_at = s->pend_n = 0;
}

void links_pending(struct oracle *o, struct sess *s, const struct pass *p)
{
	if (s->pend_n == s->pend_cap) {
		s->pend_cap = s->pend_cap ? s->pend_cap * 2 : 16;
		s->pending = realloc(s->pending, s->pend_cap * sizeof(*s->pending));
		ASSERT(s->pending);
	}
	s->pending[s->pend_n++] = *p;
}

/* Where the first waiting ones stand is decided only when something must stand behind them. What
 * does not stand on a link that was replaced may stand on the next one (`onward`). */
uint32_t links_try(struct oracle *o, struct sess *s, const struct pass *p, bool onward)
{
	while (ok(o) && s->link_n) {
		struct span out = link_octets(o, cur_sock(s));
		uint32_t all = (uint32_t)out.n;

		if (s->at == all && (!onward || s->cur + 1 == s->link_n))
			return NONE;
		if (s->at == all)
			next_link(o, s);
		else if (take_hello(o, s, all))
			continue;
		else if (take_pending(o, s, all))
			continue;
		/* Ringpost's own rather than this one, which would give up those that wait: they
		 * came before it, and may stand on the next link. */
		else if (onward && s->pend_at < s->pend_n &&
			 own_word(s, span_drop(out, s->at), &s->resets, SPAN_LIT("RSET\r\n")))
			continue;
		else if (fits(o, s, all, p) == FIT_WHOLE)
			return s->at;
		else if (!own_word(s, span_drop(out, s->at), &s->resets, SPAN_LIT("RSET\r\n")) &&
			 !own_word(s, span_drop(out, s->at), &s->stars, SPAN_LIT("*\r\n")))
			break;
	}
	return NONE;
}

void links_finish(struct oracle *o, struct sess *s)
{
	if (s->opaque || s->blind || s->link_n == 0)
		return;
	while (ok(o) && s->cur + 1 < s->link_n)
		next_link(o, s);
	if (ok(o))
		fill_gap(o, s, (uint32_t)link_octets(o, cur_sock(s)).n, s->number);
}
