/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TLS of the sink's sessions (--starttls, --tls): one certificate, tickets, so that sessions can be
 * resumed. RFC 3207: what was said in clear is forgotten, and nothing may lie behind STARTTLS: who
 * sends ahead of the reply is refused and dropped (counted: early_input). A handshake that fails
 * ends the session and is counted (tls_failed).
 */
#include "bench/sink/sink_int.h"

#define ROTATE_S (12 * 3600) /* of a ticket's key; no sink lives that long */

__attribute__((noreturn)) static void cannot(struct sink *k, const struct tls_error *e)
{
	fprintf(stderr, PROGRAM ": %s%s%s\n", e->file ? e->file : "", e->file ? ": " : "", e->text);
	secure_stop(k);
	exit(RIG_EXIT_UNAVAILABLE);
}

void secure_start(struct sink *k, uint32_t connections)
{
	const struct tls_pair pair = {.chain = k->tls_cert, .key = k->tls_key};
	const struct tls_site_conf c = {.pairs = &pair, .pair_count = 1, .min = TLS_1_2};
	struct tls_error e;

	if (!k->starttls && !k->tls)
		return;
	rig_open_tls(&k->rig, PROGRAM, connections);
	k->keys = tls_keys_new(NULL, ROTATE_S, &e);
	if (!k->keys)
		cannot(k, &e);
	k->site = tls_site_new(&c, k->keys, NULL, &e);
	if (!k->site)
		cannot(k, &e);
}

void secure_stop(struct sink *k)
{
	tls_site_unref(k->site);
	if (k->keys)
		tls_keys_free(k->keys);
}

void secure_begin(struct sess *s)
{
	struct sink *k = s->sink;

	s->phase = PH_TLS;
	s->tls = tls_accept(&k->rig.tls, k->site);
	if (s->tls) {
		stream_set_filter(&s->st, tls_filter(s->tls));
		return;
	}
	k->n.overloads++;
	s->over = true;
	stream_close(&s->st);
}

void secure_answer(struct sess *s)
{
	if (s->phase != PH_TLS || s->tls || s->paused || s->over)
		return;
	if (s->stash.len) {
		s->sink->n.early_input++;
		REFUSE(s, "501 5.5.1 nothing may follow STARTTLS");
		finish(s);
		return;
	}
	switch (rule_answer(s, AT_STARTTLS, SPAN_LIT("220 2.0.0 ready to start TLS\r\n"))) {
	case SAID_WAIT:
		break;
	case SAID_NO:
		s->phase = PH_COMMAND;
		break;
	case SAID_YES:
		secure_begin(s);
	}
}

void secure_opened(struct sess *s)
{
	struct counters *n = &s->sink->n;
	struct tls_facts f;

	tls_facts(s->tls, &f);
	n->tls_handshakes++;
	n->tls_resumed += f.resumed;
	s->secure = true;
	s->helo = s->authed = false;
	message_reset(s);
}

void secure_over(struct sess *s, enum ring_res why)
{
	struct counters *n = &s->sink->n;

	if (why == RING_PROTO)
		n->tls_failed++;
	else if (why == RING_EOF)
		n->tls_truncated += !tls_said_end(s->tls);
	else
		n->resets++;
}
