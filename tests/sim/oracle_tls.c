/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What crossed in clear where TLS was to come, and how TLS ended. It looks at the octets as they
 * were, not at the view without TLS (see.h) that the other judges read.
 */
#include "tests/sim/oracle_int.h"

/* ---- links: nothing in clear but EHLO, STARTTLS, QUIT ---- */

static bool is_hello(struct span line)
{
	return line.n > 7 && memcmp(line.p, "EHLO ", 5) == 0 && line.p[line.n - 2] == '\r';
}

static struct span first_line(struct span s)
{
	const uint8_t *lf = s.n ? memchr(s.p, '\n', s.n) : NULL;

	return lf ? span_of(s.p, (size_t)(lf - s.p) + 1) : s;
}

static bool begins(struct span whole, const char *word)
{
	size_t n = MIN_OF(whole.n, strlen(word));

	return memcmp(whole.p, word, n) == 0;
}

static void judge_clear_words(struct oracle *o, const struct rec_sock *raw)
{
	struct span said = span_of(raw->out.p, MIN_OF(raw->out.n, (size_t)raw->veil->out_clear));
	struct span hello = first_line(said), rest = span_drop(said, hello.n), line;

	if (said.n == 0 || begins(said, "QUIT\r\n"))
		return;
	line = first_line(rest);
	if (rest.n == 0 ? begins(said, "EHLO ") : is_hello(hello)) {
		bool starttls = rest.n > 0 && begins(rest, "STARTTLS\r\n");

		/* A server that died on its 220 gets the beginning of a handshake. */
		starttls = starttls && (rest.n <= 10 || rest.p[10] == 22);
		if (rest.n == 0 || starttls || begins(rest, "QUIT\r\n"))
			return;
	}
	broken(o, I12_TLS, NULL, 0, rest.n ? line : said,
		"in clear to a server that has TLS, where it is required");
}

/* What stands in clear behind STARTTLS, or behind its 220, is from somebody else. */
static void judge_injection(
	struct oracle *o, const struct rec_sock *raw, const struct rec_sock *seen)
{
	size_t clear = raw->dialled ? 0 : MIN_OF(raw->out.n, (size_t)raw->veil->out_clear);

	if (raw->veil->injected && seen->out.n > clear)
		broken(o, I12_TLS, NULL, 0, span_drop(octets_span(&seen->out), clear),
			"octets in clear stood behind STARTTLS, and TLS went on");
}

/* ---- nothing but records ---- */

#define RECORD_BYTES_MAX (16384u + 256u)

/* What ringpost says behind the clear part is records, whole ones but for the last. */
static void judge_framing(struct oracle *o, const struct rec_sock *raw)
{
	struct span s = octets_span(&raw->out);

	s = span_drop(s, MIN_OF(s.n, (size_t)raw->veil->out_clear));
	while (s.n > 0 && ok(o)) {
		size_t n = s.n >= 5 ? 5 + (size_t)(s.p[3] << 8 | s.p[4]) : s.n;

		if (s.p[0] < 20 || s.p[0] > 23 || (s.n > 1 && s.p[1] != 3) ||
			n > 5 + RECORD_BYTES_MAX)
			broken(o, I12_TLS, NULL, 0, s, "what left in TLS is no record");
		s = span_drop(s, MIN_OF(n, s.n));
	}
}

/* ---- the end ---- */

/* Whoever is told by a FIN that no more comes was told so in TLS before; and so is one that had its
 * last word and did nothing to the connection before it was closed. */
static void judge_goodbye(struct oracle *o, const struct sess *s, const struct rec_sock *raw,
	const struct rec_sock *seen)
{
	const struct osock *k = &o->socks[s->sock];
	bool had_all = s->ended && s->out_at == seen->out.n && seen->offered == seen->out.n;
	bool closed = raw->closed && k->close_ev < k->loss_ev && had_all && !raw->net_dead;

	if (!seen->veiled || seen->said_end || raw->out_err || raw->veil->fouled ||
		o->rec->faults[FAULT_FULL_SLAB])
		return;
	if (raw->shut || closed)
		broken(o, I12_TLS, s, s->number, SPAN_NONE,
			"the session ended in good order, but without close_notify");
}

/* Clients that were cut off without close_notify are counted: at least those that had not been told
 * that it is over. */
static void judge_truncated(struct oracle *o)
{
	uint64_t least = 0, most = 0, counter = o->in->stats->tls_truncated;

	for (uint32_t i = 0; i < o->sess_n; i++) {
		const struct sess *s = &o->sess[i];
		const struct rec_sock *k = s->rs;
		bool cut = k->veiled && k->in_end && k->in_end_res == RING_EOF && !k->far_said_end;

		most += cut;
		least += cut && s->greeted && !s->ended && !s->quit && !k->net_dead &&
			 !k->out_err && s->lis->tls == SIM_IMPLICIT && !o->in->drained;
	}
	if (counter < least || counter > most)
		broken(o, I9_COUNTERS, NULL, 0, SPAN_NONE,
			"counter tls_truncated is %llu, but %llu to %llu clients were cut off",
			(unsigned long long)counter, (unsigned long long)least,
			(unsigned long long)most);
}

void judge_tls(struct oracle *o, const struct record *raw)
{
	for (uint32_t i = 0; i < raw->sock_count && ok(o); i++) {
		const struct rec_sock *k = &raw->socks[i];

		if (!k->veil)
			continue;
		judge_framing(o, k);
		if (ok(o))
			judge_injection(o, k, &o->rec->socks[i]);
		if (ok(o) && k->dialled && k->veil->out_clear > 0)
			judge_clear_words(o, k);
	}
	if (ok(o) && !o->rec->faults[FAULT_FULL_SLAB])
		judge_truncated(o);
	for (uint32_t i = 0; i < o->sess_n && ok(o); i++) {
		const struct sess *s = &o->sess[i];

		if (raw->socks[s->sock].veil)
			judge_goodbye(o, s, &raw->socks[s->sock], &o->rec->socks[s->sock]);
	}
}
