/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * TLS of blast's connections (--starttls, --tls): what is demanded of the server, a handshake, what
 * is counted of it. One policy for all, made at start. What fails costs the connection its message,
 * as any failure does.
 */
#include "bench/blast/blast_int.h"

/* Connections that resume each other's sessions are few, so that there is one for each: a core
 * keeps some for a key, and 1024 in all. */
#define RESUME_KEYS 128

void secure_start(struct blast *b)
{
	const struct blast_options *o = &b->opt;
	struct tls_policy_conf c = {
		.demand = o->tls_insecure ? TLS_DEMAND_NONE : TLS_DEMAND_VERIFY,
		.ca = o->tls_ca,
		.min = o->tls_version,
		.no_later = o->tls_version_given,
	};
	struct tls_error e;

	if (!secured(o))
		return;
	rig_open_tls(&b->rig, PROGRAM, (uint32_t)b->client_count);
	b->policy = tls_policy_new(&c, NULL, &e);
	if (b->policy)
		return;
	fprintf(stderr, PROGRAM ": %s%s%s\n", e.file ? e.file : "", e.file ? ": " : "", e.text);
	exit(RIG_EXIT_UNAVAILABLE);
}

void secure_stop(struct blast *b)
{
	tls_policy_unref(b->policy);
}

void secure_begin(struct client *c)
{
	struct blast *b = c->blast;
	const struct blast_options *o = &b->opt;

	c->tls = tls_connect(&b->rig.tls, b->policy, o->tls_name,
		o->tls_resume ? 1 + (uint64_t)(c - b->clients) % RESUME_KEYS : 0);
	if (!c->tls) {
		client_fail(c, "no room for TLS");
		return;
	}
	c->shake_us = now_us(b);
	client_enter(c, ST_HANDSHAKE);
	stream_set_filter(&c->st, tls_filter(c->tls));
	tls_start(c->tls);
}

void secure_opened(struct client *c)
{
	struct blast *b = c->blast;
	struct tally *t = client_tally(c);
	struct tls_facts f;

	tls_facts(c->tls, &f);
	c->secure = true;
	t->handshakes++;
	t->resumed += f.resumed;
	hist_add(&t->handshake, now_us(b) - c->shake_us);
	if (b->tls_version[0] == '\0') {
		snprintf(b->tls_version, sizeof(b->tls_version), "%s", f.version);
		snprintf(b->tls_cipher, sizeof(b->tls_cipher), "%s", f.cipher);
	}
}

const char *secure_why(const struct client *c, enum ring_res why)
{
	if (c->tls && why == RING_PROTO)
		return tls_why_word(tls_why(c->tls));
	return why == RING_EOF ? "closed by the server" : ring_res_word(why);
}

void secure_end(struct client *c)
{
	if (c->tls)
		tls_release(c->tls);
	c->tls = NULL;
	c->secure = false;
}
