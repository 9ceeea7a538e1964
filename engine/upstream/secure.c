/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TLS of a link (RFC 3207, 8314). By STARTTLS:
 *
 *	EHLO name   -> STARTTLS in the list?   LINK_TLS_HELLO
 *	STARTTLS    -> 220                     LINK_TLS_START
 *	the turn ends, and nothing has come    LINK_TLS_DUE
 *	handshake                              LINK_TLS_SHAKE
 *
 * Nothing that was learnt before the handshake counts behind it. A server does not speak first in
 * TLS, so what it sends before our first octets have left is from somebody who wants it to be read
 * as if TLS had carried it: the link is lost (LINK_INJECTION), whatever the mode is.
 *
 * Failure modes. STARTTLS is not offered, or refused: `opportunistic` goes on in clear, else
 * LINK_TLS_MISSING. The handshake fails, or the server goes away on STARTTLS: `opportunistic` dials
 * the same server again in clear, else LINK_TLS_FAILED. From the first octet (`implicit`) a failure
 * is a server that cannot be reached. No memory of ours is no reason to go on in clear.
 */
#include "engine/upstream/link_int.h"

#define TIMEOUT_WORD "tls-timeout"

static bool opportunistic(const struct link *l)
{
	return l->up->tls.mode == CONF_TLS_OPPORTUNISTIC;
}

/* Told once per server and change, as its being down is. */
static void note_server(struct link *l, const char *failure)
{
	bool *known = &l->core->states[l->up->index].tls_failed[l->server - l->up->servers];

	if (*known != (failure != NULL))
		link_log(l, failure ? "tls-failed" : "tls-ok", failure);
	*known = failure != NULL;
}

/* ---- how it fails ---- */

static void no_memory(struct link *l)
{
	if (l->state == LINK_TLS)
		link_dial_failed(l, RING_NOMEM);
	else
		link_lose(l, LINK_NO_MEMORY);
}

static void failed(struct link *l, const char *word)
{
	STAT_INC(l->core->stats, tls_upstream_failed);
	l->why_tls = word;
	if (l->state == LINK_TLS) {
		link_dial_failed(l, RING_PROTO);
		return;
	}
	note_server(l, word);
	if (!opportunistic(l)) {
		link_lose(l, LINK_TLS_FAILED);
		return;
	}
	STAT_INC(l->core->stats, tls_upstream_fallbacks);
	link_dial_plain(l);
}

/* `told`: by a list without STARTTLS, or by its refusal; not by a hello that was refused as such.
 */
static void missing(struct link *l, bool told)
{
	if (told || !opportunistic(l)) {
		STAT_INC(l->core->stats, tls_upstream_missing);
		note_server(l, link_end_word(LINK_TLS_MISSING));
	}
	if (!opportunistic(l)) {
		link_lose(l, LINK_TLS_MISSING);
		return;
	}
	l->secured = true;
	link_go_on(l);
}

static const char *why_word(const struct link *l, enum ring_res why)
{
	if (l->tls && tls_why(l->tls) != TLS_WHY_NONE)
		return tls_why_word(tls_why(l->tls));
	return why == RING_EOF ? tls_why_word(TLS_WHY_TRUNCATED) : ring_res_word(why);
}

bool link_tls_ended(struct link *l, enum ring_res why)
{
	switch ((enum link_state)l->state) {
	case LINK_TLS_START:
	case LINK_TLS_DUE:
	case LINK_TLS:
	case LINK_TLS_SHAKE:
		if (why == RING_NOMEM || (l->tls && tls_why(l->tls) == TLS_WHY_MEMORY))
			no_memory(l);
		else
			failed(l, why_word(l, why));
		return true;
	default:
		return false;
	}
}

void link_tls_broken(struct link *l)
{
	l->why_tls = why_word(l, RING_PROTO);
	link_lose(l, LINK_TLS_FAILED);
}

/* ---- the handshake ---- */

/* Of this server, in all upstreams; not 0. */
static uint64_t resume_key(const struct link *l)
{
	return ((uint64_t)l->up->index + 1) << 32 | (uint64_t)(l->server - l->up->servers);
}

static void shake(struct link *l, enum link_state state)
{
	const struct conf_upstream *up = l->up;
	struct tls_policy *policy = l->core->policies[up->index];

	ASSERT(policy && !l->tls);
	l->state = (uint8_t)state;
	l->tls = tls_connect(l->core->tls, policy, up->tls.name, resume_key(l));
	if (!l->tls) {
		no_memory(l);
		return;
	}
	stream_set_filter(&l->st, tls_filter(l->tls));
	/* Of all of it, whatever trickles. */
	l->deadline_ms = 0;
	link_set_deadline(l, link_now_ms(l) + up->timeouts.tls);
	tls_start(l->tls);
}

void link_tls_implicit(struct link *l)
{
	shake(l, LINK_TLS);
}

void link_tls_opened(struct link *l)
{
	struct tls_facts f;

	tls_facts(l->tls, &f);
	STAT_INC(l->core->stats, tls_upstream_handshakes);
	if (f.resumed)
		STAT_INC(l->core->stats, tls_upstream_resumed);
	l->secured = true;
	memset(&l->caps, 0, sizeof(l->caps));
	if (l->state == LINK_TLS) {
		link_reached(l);
		return;
	}
	ASSERT(l->state == LINK_TLS_SHAKE && l->in.len == 0);
	note_server(l, NULL);
	link_go_on(l);
}

bool link_tls_timer(struct link *l, bool late)
{
	/* Behind what this turn has received, and in front of what the next one will. */
	if (l->state == LINK_TLS_DUE) {
		shake(l, LINK_TLS_SHAKE);
		return true;
	}
	if (!late ||
		(l->state != LINK_TLS && l->state != LINK_TLS_SHAKE && l->state != LINK_TLS_START))
		return false;
	failed(l, TIMEOUT_WORD);
	return true;
}

/* ---- the way to it ---- */

void link_secure(struct link *l, struct span hello)
{
	ASSERT(!l->secured && hello.n > 4);
	/* Of a HELO too: only EHLO is answered by a list. */
	stream_put(&l->st, SPAN_LIT("EHLO"));
	stream_put(&l->st, span_drop(hello, 4));
	l->state = LINK_TLS_HELLO;
	stream_read(&l->st, true);
	link_await(l, l->up->timeouts.reply);
}

/* A reply to what the kernel was not given yet. */
static bool too_early(const struct link *l)
{
	return !l->st.broken && stream_maybe_out(&l->st) < link_out_mark(l);
}

static void hello_answered(struct link *l, const struct smtp_reply *r)
{
	struct ehlo_caps caps = {0};

	if (r->code == 250)
		smtp_ehlo_read(r, &caps);
	if (!caps_has(&caps, EXT_STARTTLS)) {
		missing(l, r->code == 250);
		return;
	}
	stream_put(&l->st, SPAN_LIT("STARTTLS\r\n"));
	l->state = LINK_TLS_START;
	link_await(l, l->up->timeouts.reply);
}

void link_tls_reply(struct link *l, const struct smtp_reply *r, bool behind)
{
	if (behind || too_early(l)) {
		link_lose(l, LINK_INJECTION);
		return;
	}
	/* It is leaving: that says nothing of TLS. */
	if (smtp_says_goodbye(r->code)) {
		link_lose(l, LINK_EOF);
		return;
	}
	if (l->state == LINK_TLS_HELLO) {
		hello_answered(l, r);
		return;
	}
	if (r->code != 220) {
		missing(l, true);
		return;
	}
	l->state = LINK_TLS_DUE;
	link_await(l, 0);
	timer_set(l->core->timers, &l->timer, 0);
}

struct tls *link_take_tls(struct link *l)
{
	struct tls *t = link_encrypted(l) ? l->tls : NULL;

	if (t)
		l->tls = NULL;
	return t;
}
