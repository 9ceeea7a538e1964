/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See setup.h. Each listener has an upstream of its own, so that a server of the record belongs to
 * one listener. Short time limits are for worlds in which somebody is silent; the defaults are in
 * use as well, virtual time costs nothing. Networks are all or nothing, but for one listener that
 * serves 10.1.0.0/16 alone.
 */
#include "tests/sim/setup.h"

#include "tests/sim/verdicts.h"
#include "tests/sim/veil.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Descriptors of the certificate and its key, for whoever opens files by their names. */
#define CERT_FD 190
#define KEY_FD 191
#define CERT "/proc/self/fd/190"
#define KEY "/proc/self/fd/191"

static const char text[] =
	"certificates: {test: {chain: " CERT ", key: " KEY "}}\n"
	"log: {format: logfmt, level: info}\n"
	"workers: 1\n"
	"hold: {memory: 1m, spill: 16k, disk: 300k, message: 200k}\n"
	"hooks:\n"
	"  words:\n"
	"    type: rules\n"
	"    reject-senders: [" SETUP_BAD_SENDER "]\n"
	"    reject-recipients: [" SETUP_BAD_RECIPIENT "]\n"
	"    reject-ehlo: [" SETUP_BAD_EHLO "]\n"
	"    reply: \"" SETUP_RULE_REPLY "\"\n"
	"  seeded: {type: plugin, file: /seeded, deadline: " VERDICTS_DEADLINE_S "}\n"
	"  see1: {type: plugin, file: /see1, deadline: " VERDICTS_DEADLINE_S "}\n"
	"  see2: {type: plugin, file: /see2, deadline: " VERDICTS_DEADLINE_S "}\n"
	"  change1: {type: plugin, file: /change1, deadline: " VERDICTS_DEADLINE_S "}\n"
	"  change2: {type: plugin, file: /change2, deadline: " VERDICTS_DEADLINE_S "}\n"
	"  keep1: {type: plugin, mode: hold-all, file: /keep1, deadline: " VERDICTS_DEADLINE_S "}\n"
	"  keep2: {type: plugin, mode: hold-all, file: /keep2, deadline: " VERDICTS_DEADLINE_S "}\n"
	"  stream1: {type: plugin, mode: stream, file: /stream1, deadline: " VERDICTS_DEADLINE_S
	"}\n"
	"listeners:\n"
	"  plain: {bind: 127.0.0.1:2501, clients: any, hooks: [seeded], upstream: plain}\n"
	"  rules:\n"
	"    {bind: 127.0.0.1:2502, clients: any, hooks: [words], bare-newlines: reject,\n"
	"     trusted: 10.0.0.0/8, upstream: copy}\n"
	"  strict:\n"
	"    bind: 127.0.0.1:2503\n"
	"    clients: any\n"
	"    bare-newlines: normalize\n"
	"    hooks: [seeded]\n"
	"    extensions: {CHUNKING: strip, DSN: strip}\n"
	"    limits: {recipients: 100, message: 64k, errors: 4, soft-errors: 2, junk: 3,\n"
	"             command-line: 512, pipeline: 3}\n"
	"    upstream: splice\n"
	"  tls: {bind: 127.0.0.1:2504, clients: any, starttls: passthrough, upstream: "
	"ring-splice}\n"
	"  quick:\n"
	"    bind: 127.0.0.1:2505\n"
	"    clients: any\n"
	"    hooks: [words, seeded]\n"
	"    starttls: passthrough\n"
	"    timeouts: {command: 5s, data: 3s, send: 2s}\n"
	"    limits: {pipeline: 20, error-delay: 2s, soft-errors: 1}\n"
	"    upstream: quick\n"
	"  zero: {bind: 127.0.0.1:2506, clients: any, hooks: [seeded], bare-newlines: pass, "
	"upstream: zero}\n"
	"  sized:\n"
	"    bind: 127.0.0.1:2507\n"
	"    clients: 10.1.0.0/16\n"
	"    limits: {message: 70k, pipeline: 1}\n"
	"    upstream: sized\n"
	"  tls-splice: {bind: 127.0.0.1:2508, clients: any, starttls: passthrough, upstream: tls}\n"
	/* From here on the hooks see, change, discard and keep messages. */
	"  " SETUP_FIRST_HOOKED
	": {bind: 127.0.0.1:2509, clients: any, hooks: [see1, see2], upstream: seen}\n"
	"  changed: {bind: 127.0.0.1:2510, clients: any, hooks: [change1, change2],\n"
	"            limits: {pipeline: 4}, upstream: changed}\n"
	"  kept: {bind: 127.0.0.1:2511, clients: any, hooks: [keep1, keep2], upstream: kept}\n"
	"  all: {bind: 127.0.0.1:2512, clients: any, hooks: [see1, change1, keep1, stream1, "
	"keep2],\n"
	"        upstream: all}\n"
	/* From here on with TLS: each way on either leg. */
	"  " SETUP_FIRST_TLS
	": {bind: 127.0.0.1:2513, clients: any, starttls: {mode: implicit, certificates: test},\n"
	"       hooks: [seeded], upstream: t1}\n"
	"  t2: {bind: 127.0.0.1:2514, clients: any, starttls: {mode: implicit, certificates: "
	"test},\n"
	"       upstream: t2}\n"
	"  t3: {bind: 127.0.0.1:2515, clients: any, starttls: {mode: implicit, certificates: "
	"test},\n"
	"       timeouts: {tls: 5s, command: 20s}, upstream: t3}\n"
	"  t4: {bind: 127.0.0.1:2516, clients: any, starttls: {mode: require, certificates: "
	"test},\n"
	"       hooks: [words, seeded], upstream: t4}\n"
	"  t5: {bind: 127.0.0.1:2517, clients: any, starttls: {mode: require, certificates: "
	"test},\n"
	"       upstream: t5}\n"
	"  t6: {bind: 127.0.0.1:2518, clients: any, starttls: {mode: require, certificates: "
	"test},\n"
	"       upstream: t6}\n"
	"  t7: {bind: 127.0.0.1:2519, clients: any, starttls: {mode: offer, certificates: test},\n"
	"       upstream: t7}\n"
	"  t8: {bind: 127.0.0.1:2520, clients: any, starttls: {mode: offer, certificates: test},\n"
	"       upstream: t8}\n"
	"  t9: {bind: 127.0.0.1:2521, clients: any, upstream: t9}\n"
	"  t10: {bind: 127.0.0.1:2522, clients: any, upstream: t10}\n"
	"upstreams:\n"
	"  plain: {servers: 10.2.0.1:25}\n"
	"  copy: {servers: [10.2.1.1:25, 10.2.1.2:25], mover: copy}\n"
	"  splice: {servers: [10.2.2.1:25, 10.2.2.2:25, 10.2.2.3:25], mover: splice}\n"
	"  ring-splice: {servers: 10.2.3.1:25, mover: ring-splice}\n"
	"  quick:\n"
	"    servers: [10.2.4.1:25, 10.2.4.2:25]\n"
	"    timeouts: {connect: 1s, greeting: 2s, reply: 2s, data-init: 2s, final-reply: 10m, "
	"send: 2s}\n"
	"    retry-down: 1s\n"
	"    mover: splice\n"
	"  zero: {servers: 10.2.5.1:25, mover: zero-copy}\n"
	"  sized: {servers: [10.2.6.1:25, 10.2.6.2:25], mover: zero-copy}\n"
	"  tls: {servers: 10.2.7.1:25, mover: splice}\n"
	"  seen: {servers: 10.2.8.1:25, mover: splice}\n"
	"  changed: {servers: [10.2.9.1:25, 10.2.9.2:25], mover: zero-copy}\n"
	"  kept: {servers: [10.2.10.1:25, 10.2.10.2:25]}\n"
	"  all: {servers: 10.2.11.1:25}\n"
	"  t1: {servers: 10.2.12.1:25}\n"
	"  t2: {servers: [10.2.13.1:25, 10.2.13.2:25], tls: {mode: require, implicit: on, ca: " CERT
	"}}\n"
	"  t3: {servers: [10.2.14.1:25, 10.2.14.2:25], tls: {mode: require, ca: " CERT
	"}, mover: splice}\n"
	"  t4: {servers: 10.2.15.1:25, mover: splice}\n"
	"  t5: {servers: 10.2.16.1:25, tls: {mode: require, implicit: on, ca: " CERT "}}\n"
	"  t6: {servers: 10.2.17.1:25, tls: {mode: require, ca: " CERT "}}\n"
	"  t7: {servers: [10.2.18.1:25, 10.2.18.2:25]}\n"
	"  t8: {servers: [10.2.19.1:25, 10.2.19.2:25], tls: {mode: require, ca: " CERT "}}\n"
	"  t9: {servers: [10.2.20.1:25, 10.2.20.2:25], tls: {mode: require, implicit: on, ca: " CERT
	"},\n"
	"       timeouts: {tls: 5s}}\n"
	"  t10: {servers: 10.2.21.1:25, tls: {mode: require, ca: " CERT "}}\n";

static bool with_tls(const struct conf_listener *l)
{
	return l->starttls >= STARTTLS_OFFER;
}

static bool u_with_tls(const struct conf_listener *l)
{
	return l->upstream->tls.mode != CONF_TLS_OFF;
}

static uint64_t shortest_ms(const struct conf_listener *l)
{
	const struct conf_listener_timeouts *t = &l->timeouts;
	const struct conf_upstream_timeouts *u = &l->upstream->timeouts;
	const uint32_t all[] = {t->command, t->data, t->send, u->connect, u->greeting, u->reply,
		u->data_init, u->final_reply, u->send, with_tls(l) ? t->tls : UINT32_MAX,
		u_with_tls(l) ? u->tls : UINT32_MAX};
	uint32_t least = UINT32_MAX;

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		least = MIN_OF(least, all[i]);
	return least;
}

static bool has_rules(const struct conf_listener *l)
{
	for (uint32_t i = 0; i < l->hook_count; i++)
		if (l->hooks[i]->type == HOOK_RULES)
			return true;
	return false;
}

static enum sim_tls tls_of(const struct conf_upstream *u)
{
	if (u->tls.mode == CONF_TLS_OFF)
		return SIM_CLEAR;
	return u->tls.implicit ? SIM_IMPLICIT : SIM_STARTTLS;
}

static void describe(const struct conf_listener *l, struct oracle_listener *o)
{
	static const int newlines[] = {[SCAN_GUARD] = NEWLINES_GUARD,
		[SCAN_REJECT] = NEWLINES_REJECT,
		[SCAN_NORMALIZE] = NEWLINES_NORMALIZE,
		[SCAN_PASS] = NEWLINES_PASS};

	o->newlines = newlines[l->bare_newlines];
	o->message_max = l->limits.message;
	o->recipients_max = l->limits.recipients;
	o->errors_max = l->limits.errors;
	o->command_line_max = l->limits.command_line;
	o->pipeline = l->limits.pipeline;
	o->starttls_passed = l->starttls == STARTTLS_PASSTHROUGH;
	o->tls = l->starttls == STARTTLS_IMPLICIT ? SIM_IMPLICIT
		 : l->starttls >= STARTTLS_OFFER  ? SIM_STARTTLS
						  : SIM_CLEAR;
	o->tls_required = l->starttls == STARTTLS_REQUIRE;
	o->link_tls = tls_of(l->upstream);
	o->trusted = l->trusted.count > 0;
	o->only_10_1 = !l->clients.any;
	o->chunking_stripped = l->ehlo.policy[EXT_CHUNKING] == EXT_STRIP;
	o->hidden = l->ehlo.policy[EXT_DSN] == EXT_STRIP ? "DSN" : NULL;
	o->junk_max = l->limits.junk;
	o->shortest_ms = shortest_ms(l);
	o->final_ms = l->upstream->timeouts.final_reply;
	o->hook_count = l->hook_count;
	ASSERT(l->hook_count <= ARRAY_LEN(o->hooks));
	for (uint32_t i = 0; i < l->hook_count; i++) {
		enum conf_hook_mode mode = l->hooks[i]->mode;

		o->hooks[i] = (struct oracle_hook){.asked_at_end = mode != HOOK_STREAM,
			.keeps = mode == HOOK_HOLD_ALL,
			.sees = mode != HOOK_STREAM && strncmp(l->hooks[i]->name, "change", 6)};
		o->keeps |= mode == HOOK_HOLD_ALL;
	}
	if (!has_rules(l))
		return;
	o->bad_sender = SETUP_BAD_SENDER;
	o->bad_recipient = SETUP_BAD_RECIPIENT;
	o->bad_ehlo = SETUP_BAD_EHLO;
	o->rule_reply = SETUP_RULE_REPLY;
}

static void number_servers(struct setup *s)
{
	const struct conf *c = s->conf;

	for (uint32_t i = 0; i < c->listener_count; i++)
		s->server_count += c->listeners[i].upstream->server_count;
	s->servers = calloc(s->server_count, sizeof(*s->servers));
	s->server_tls = calloc(s->server_count, 1);
	ASSERT(s->servers && s->server_tls);
	uint32_t n = 0;
	for (uint32_t i = 0; i < c->listener_count; i++) {
		const struct conf_upstream *up = c->listeners[i].upstream;

		s->listeners[i].first_server = n;
		s->listeners[i].server_count = up->server_count;
		for (uint32_t k = 0; k < up->server_count; k++) {
			s->server_tls[n] = (uint8_t)tls_of(up);
			s->servers[n++] = up->servers[k].addr;
		}
	}
}

/* ---- TLS ---- */

/* A file of this process alone, at that descriptor. */
static void put_file(int at, const char *what)
{
	int fd = memfd_create("ringpost-sim", 0);
	size_t n = strlen(what);
	bool ok = fd >= 0 && write(fd, what, n) == (ssize_t)n && fchmod(fd, 0600) == 0 &&
		  dup2(fd, at) == at;

	ASSERT(ok);
	close(fd);
}

static void make_material(struct setup *s)
{
	struct tls_material *m = &s->material;
	const struct conf *c = s->conf;
	struct tls_error e = {0};
	bool ok = tls_library_init(&e);

	m->site_count = c->listener_count;
	m->policy_count = c->upstream_count;
	m->sites = calloc(m->site_count, sizeof(*m->sites));
	m->policies = calloc(m->policy_count, sizeof(*m->policies));
	ASSERT(m->sites && m->policies);
	for (uint32_t i = 0; ok && i < m->site_count; i++)
		if (c->listeners[i].starttls >= STARTTLS_OFFER)
			ok = (m->sites[i] = tls_site_new(&c->listeners[i].tls, NULL, NULL, &e)) !=
			     NULL;
	for (uint32_t i = 0; ok && i < m->policy_count; i++)
		if (c->upstreams[i].tls.mode != CONF_TLS_OFF)
			ok = (m->policies[i] = tls_policy_new(
				      &c->upstreams[i].tls.policy, NULL, &e)) != NULL;
	if (!ok)
		fprintf(stderr, "setup.c: %s\n", e.text);
	ASSERT(ok);
}

static void make(struct setup *s)
{
	put_file(CERT_FD, veil_cert);
	put_file(KEY_FD, veil_key);

	s->conf = conf_load_text("setup.c", text, sizeof(text) - 1, stderr);
	ASSERT(s->conf);
	s->listeners = calloc(s->conf->listener_count, sizeof(*s->listeners));
	ASSERT(s->listeners);
	for (uint32_t i = 0; i < s->conf->listener_count; i++) {
		describe(&s->conf->listeners[i], &s->listeners[i]);
		if (strcmp(s->conf->listeners[i].name, SETUP_FIRST_HOOKED) == 0)
			s->plain_count = i;
		if (strcmp(s->conf->listeners[i].name, SETUP_FIRST_TLS) == 0)
			s->tls_first = i;
	}
	number_servers(s);
	make_material(s);
}

const struct setup *setup_get(void)
{
	static struct setup s;

	if (!s.conf)
		make(&s);
	return &s;
}
