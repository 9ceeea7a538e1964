/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TLS of a session: the client's leg, and what a session has to know of the upstream's (which the
 * link secures by itself, engine/upstream/secure.c).
 *
 *	STARTTLS    220, and PHASE_TLS from then on. What comes before the 220 has left was not said
 *	            by somebody who has read it: END_INJECTION. The first octets behind it begin the
 *	            handshake, and the filter is set with them.
 *	implicit    PHASE_TLS from the accept on; nothing is read before the hooks have let the
 *	            client in, and the upstream is dialled when the handshake is done.
 *
 * In PHASE_TLS nothing is said to the client: words of the upstream wait. Behind the handshake the
 * session begins anew (RFC 3207 4.2): what was said in clear may have been somebody else's.
 *
 * Failure modes: the handshake fails (END_TLS, `cause` says why), takes too long (END_TLS_TIMEOUT);
 * no room for it is 454 instead of the 220. Never a plain word where TLS is to be.
 */
#include "engine/session/command.h"

#include "ring/listen.h"

/* ---- what is allowed now ---- */

static bool ours(const struct session *s)
{
	return s->lis->starttls == STARTTLS_OFFER || s->lis->starttls == STARTTLS_REQUIRE;
}

bool secure_hello_due(const struct session *s)
{
	if (s->hello_ok)
		return false;
	/* The hello that was said before TLS is forgotten here, but not by the upstream. */
	if (s->cli_tls && ours(s) &&
		!s->bound) /* bound: behind XCLIENT; the hello in TLS was there */
		return true;
	/* With a hello the link is secured. From the first octet it is without. */
	return s->lis->upstream->tls.mode != CONF_TLS_OFF && !s->lis->upstream->tls.implicit &&
	       !link_usable(s->link);
}

const struct local_reply *secure_objection(struct session *s, enum smtp_verb v)
{
	if (smtp_verb_flags(v) & SMTP_F_EARLY)
		return NULL;
	if (s->lis->starttls == STARTTLS_REQUIRE && !s->cli_tls) {
		STAT_INC(s->core->stats, tls_required_refusals);
		return &sess_replies[REPLY_NEED_TLS];
	}
	return secure_hello_due(s) ? &sess_replies[REPLY_NEED_HELLO] : NULL;
}

static bool clear_auth_allowed(enum conf_clear_auth rule, const struct ring_addr *peer)
{
	return rule == CLEAR_AUTH_ON || (rule == CLEAR_AUTH_LOCAL && addr_is_loopback(peer));
}

/* Where neither side has anything to do with TLS, AUTH passes as if there were none. */
static bool link_auth_allowed(const struct session *s)
{
	const struct conf_upstream_tls *tls = &s->lis->upstream->tls;
	bool no_tls = tls->mode == CONF_TLS_OFF && s->lis->starttls < STARTTLS_OFFER;

	if (!link_usable(s->link) || link_encrypted(s->link))
		return true;
	if (no_tls && tls->clear_auth == CLEAR_AUTH_LOCAL)
		return true;
	return clear_auth_allowed(tls->clear_auth, &s->link->server->addr);
}

static bool auth_allowed(const struct session *s)
{
	if (ours(s) && !s->cli_tls && !clear_auth_allowed(s->lis->clear_auth, &s->client))
		return false;
	return link_auth_allowed(s);
}

const struct local_reply *secure_auth_objection(struct session *s)
{
	if (auth_allowed(s))
		return NULL;
	STAT_INC(s->core->stats, clear_auth_refusals);
	return &sess_replies[REPLY_CLEAR_AUTH];
}

void secure_extensions(const struct session *s, struct ehlo_policy *pol)
{
	pol->own_starttls = ours(s) && !s->cli_tls;
	pol->hide_auth = !auth_allowed(s);
}

/* ---- the client's leg: into it ---- */

static bool make_tls(struct session *s)
{
	struct tls_site *site;

	ASSERT(s->core->sites && !s->tls);
	site = s->core->sites[s->lis->index];
	ASSERT(site);
	s->tls = tls_accept(&s->core->tls, site);
	return s->tls != NULL;
}

/* Why there is no handshake now; REPLY_COUNT: there can be one. */
static enum reply_id starttls_objection(const struct session *s, const struct command *c)
{
	if (s->cli_tls)
		return REPLY_TLS_ALREADY;
	if (s->bound)
		return REPLY_TLS_BOUND;
	if (!s->hello_ok)
		return REPLY_NEED_HELLO;
	if (c->cmd.args.n > 0)
		return REPLY_BAD_PARAM;
	return REPLY_COUNT;
}

static void go_ahead(struct session *s)
{
	const struct local_reply *r = &sess_replies[REPLY_TLS_READY];

	if (s->txn) {
		txn_leave(s, "starttls");
		sess_reset_upstream(s);
	}
	cmd_tell(s, HOOK_STARTTLS);
	STAT_INC(s->core->stats, commands_local);
	sess_say(s, r, NULL);
	sess_count_reply(s, r->code); /* and the clock of the handshake begins */
	s->opaque_mark = s->cli.bytes_out + stream_backlog(&s->cli);
	s->phase = PHASE_TLS;
}

enum outcome secure_on_starttls(struct session *s, const struct command *c)
{
	enum reply_id no = starttls_objection(s, c);

	if (no != REPLY_COUNT)
		return cmd_refuse(s, no);
	/* The last word in clear: what the client still waits for leaves before it, so that nothing
	 * but the 220 is lost when somebody does not wait for that. */
	if (queue_owes(s) || !stream_flushed(&s->cli)) {
		stream_tell_flushed(&s->cli);
		return LATER;
	}
	if (!make_tls(s))
		return cmd_refuse(s, REPLY_TLS_NO_ROOM);
	go_ahead(s);
	return DONE;
}

bool secure_implicit(const struct session *s)
{
	return s->lis->starttls == STARTTLS_IMPLICIT;
}

void secure_let_in(struct session *s)
{
	if (!make_tls(s)) {
		sess_client_gone(s, END_MEMORY);
		return;
	}
	stream_set_filter(&s->cli, tls_filter(s->tls));
	s->client_since_ms = sess_now_ms(s);
}

size_t secure_take(struct session *s, struct span in)
{
	if (stream_maybe_out(&s->cli) < s->opaque_mark) {
		STAT_INC(s->core->stats, starttls_injection);
		sess_client_gone(s, END_INJECTION); /* nor does the 220 leave any more */
		return in.n;
	}
	stream_set_filter(&s->cli, tls_filter(s->tls));
	stream_feed_filter(&s->cli, in);
	return in.n;
}

/* ---- behind the handshake ---- */

static void forget(struct session *s)
{
	s->hello_ok = s->hello_ehlo = false;
	s->hello_n = 0;
	stash_clear(&s->hello_asked, &s->core->stashes);
	stash_clear(&s->auth_asked, &s->core->stashes);
	memset(&s->caps, 0, sizeof(s->caps));
}

void secure_opened(struct session *s)
{
	struct tls_facts f;

	ASSERT(s->phase == PHASE_TLS);
	tls_facts(s->tls, &f);
	STAT_INC(s->core->stats, tls_handshakes);
	if (f.resumed)
		STAT_INC(s->core->stats, tls_resumed);
	s->cli_tls = true;
	forget(s);
	s->phase = secure_implicit(s) ? PHASE_GREETING : PHASE_COMMAND;
	sess_client_turn(s);
	if (secure_implicit(s))
		sess_open_first_link(s);
}

/* ---- how it ends ---- */

static const char *why_word(const struct session *s, enum ring_res why)
{
	enum tls_why w = s->tls ? tls_why(s->tls) : TLS_WHY_NONE;

	if (w != TLS_WHY_NONE)
		return tls_why_word(w);
	return why == RING_EOF ? tls_why_word(TLS_WHY_TRUNCATED) : ring_res_word(why);
}

/* A client that ends without a word that it ends may have been cut off by somebody else. */
static void note_end(struct session *s, enum ring_res why)
{
	if (why == RING_PROTO)
		s->cause = why_word(s, why);
	if (why != RING_EOF || tls_said_end(s->tls))
		return;
	STAT_INC(s->core->stats, tls_truncated);
	s->cause = why_word(s, why);
}

enum sess_end secure_client_lost(struct session *s, enum ring_res why)
{
	if (s->end == END_NONE && s->phase == PHASE_TLS) {
		s->cause = why_word(s, why);
		if (why == RING_NOMEM || (s->tls && tls_why(s->tls) == TLS_WHY_MEMORY))
			return END_MEMORY;
		STAT_INC(s->core->stats, tls_failed);
		return END_TLS;
	}
	if (s->end == END_NONE && s->cli_tls)
		note_end(s, why);
	return why == RING_NOMEM ? END_MEMORY : END_CLIENT_RESET;
}

void secure_too_slow(struct session *s)
{
	STAT_INC(s->core->stats, tls_timeouts);
	sess_client_gone(s, END_TLS_TIMEOUT);
}

/* ---- the upstream's leg ---- */

void secure_link_for(struct session *s, struct span hello)
{
	if (link_up(s->link) && !link_usable(s->link))
		link_secure(s->link, hello);
}

void secure_link_lost(struct session *s, enum link_end why)
{
	const struct link *l = s->link;

	if (why == LINK_TLS_FAILED || why == LINK_TLS_MISSING || why == LINK_INJECTION)
		s->cause = why == LINK_TLS_FAILED && l->why_tls ? l->why_tls : link_end_word(why);
	else if (link_securing(l))
		s->cause = link_end_word(why);
	s->hello_denied = link_securing(l);
}

void secure_deny_hello(struct session *s)
{
	const struct local_reply *r = &sess_replies[REPLY_UPSTREAM_TLS];

	/* Without a link nothing is due from it, and our own replies have left. */
	ASSERT(s->q_count == 0);
	s->hello_denied = false;
	STAT_INC(s->core->stats, commands_local);
	sess_say(s, r, s->cause);
	sess_count_reply(s, r->code);
}

/* What was told of the links before it does not hold for this one. */
void secure_link_ready(struct session *s)
{
	if (!link_usable(s->link))
		return;
	s->cause = NULL;
	if (link_encrypted(s->link) || !s->up_tls)
		return;
	tls_release(s->up_tls);
	s->up_tls = NULL;
}

/* Of the last link that had TLS, for the record. */
void secure_keep_facts(struct session *s)
{
	struct tls *t = s->link ? link_take_tls(s->link) : NULL;

	if (!t)
		return;
	if (s->up_tls)
		tls_release(s->up_tls);
	s->up_tls = t;
}

/* ---- the record ---- */

static void record_client(const struct session *s, struct log_rec *rec)
{
	struct tls_facts f;

	tls_facts(s->tls, &f);
	log_cstr(rec, "tls", f.version);
	log_cstr(rec, "tls_cipher", f.cipher);
	if (f.resumed)
		log_bool(rec, "tls_resumed", true);
	if (f.sni[0])
		log_cstr(rec, "tls_sni", f.sni);
	if (!f.certified)
		return;
	log_cstr(rec, "tls_subject", f.subject);
	log_bool(rec, "tls_verified", f.verified);
}

static void record_upstream(const struct session *s, struct log_rec *rec)
{
	struct tls_facts f;

	tls_facts(s->up_tls, &f);
	log_cstr(rec, "upstream_tls", f.version);
	log_cstr(rec, "upstream_tls_cipher", f.cipher);
	log_bool(rec, "upstream_tls_verified", f.verified);
	if (f.resumed)
		log_bool(rec, "upstream_tls_resumed", true);
}

void secure_record(const struct session *s, struct log_rec *rec)
{
	if (s->cli_tls)
		record_client(s, rec);
	if (s->up_tls)
		record_upstream(s, rec);
}

void secure_free(struct session *s)
{
	if (s->tls)
		tls_release(s->tls);
	if (s->up_tls)
		tls_release(s->up_tls);
}
