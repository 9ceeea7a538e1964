/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The configuration: conf_load_text, conf_dump, conf_free. Claimed, for any text:
 *  - it is taken, or refused with at least one message that names an error; never both, never
 *    neither;
 *  - what is printed is lines of printable text, whatever controls the file holds;
 *  - what was taken dumps as a text that is taken as well, means the same, and dumps the same;
 *  - loading is a function of the text: a second time gives the same messages.
 * Input: the file. Texts with ${file:} are left out: what they mean lies outside of the input.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/conf/conf.h"

struct memory {
	char *p; /* owns */
	size_t n;
	FILE *f;
};

static void memory_open(struct memory *m)
{
	m->p = NULL;
	m->f = open_memstream(&m->p, &m->n);
	ASSERT(m->f);
}

static struct span memory_close(struct memory *m)
{
	ASSERT(fclose(m->f) == 0);
	return span_of(m->p, m->n);
}

/* Loads; the messages come in *said. */
static struct conf *load(struct span text, struct memory *said)
{
	struct conf *c;

	memory_open(said);
	c = conf_load_text("fuzz.yaml", (const char *)text.p, text.n, said->f);
	memory_close(said);
	return c;
}

static struct span dump(const struct conf *c, struct memory *m)
{
	memory_open(m);
	conf_dump(c, m->f);
	return memory_close(m);
}

static void check_messages(const struct conf *c, const struct memory *said)
{
	static struct grammar error = GRAMMAR(": error: ");
	static struct grammar controls = GRAMMAR("[\x01-\x09\x0b-\x1f\x7f]");
	struct span text = span_of(said->p, said->n);

	ASSERT((c == NULL) == grammar_has(&error, text));
	ASSERT(!grammar_has(&controls, text) && !memchr(said->p, 0, said->n));
	ASSERT(said->n == 0 || said->p[said->n - 1] == '\n');
}

/* ---- do two snapshots mean the same? ---- */

static void same_text(const char *a, const char *b)
{
	ASSERT((a == NULL) == (b == NULL) && (a == NULL || strcmp(a, b) == 0));
}

static void same_addr(const struct ring_addr *a, const struct ring_addr *b)
{
	ASSERT((a == NULL) == (b == NULL));
	ASSERT(a == NULL || (a->len == b->len && memcmp(&a->ss, &b->ss, a->len) == 0));
}

static void same_nets(const struct conf_nets *a, const struct conf_nets *b)
{
	ASSERT(a->any == b->any && a->count == b->count);
	ASSERT(a->count == 0 || memcmp(a->v, b->v, a->count * sizeof(a->v[0])) == 0);
}

static void same_patterns(
	const struct conf_pattern *a, uint32_t n, const struct conf_pattern *b, uint32_t m)
{
	ASSERT(n == m);
	for (uint32_t i = 0; i < n; i++)
		ASSERT(a[i].kind == b[i].kind && span_eq(a[i].local, b[i].local) &&
			span_eq(a[i].domain, b[i].domain));
}

static void same_ehlo(const struct ehlo_policy *a, const struct ehlo_policy *b)
{
	ASSERT(memcmp(a->policy, b->policy, sizeof(a->policy)) == 0);
	ASSERT(a->show_starttls == b->show_starttls && a->size_max == b->size_max);
	ASSERT(a->named_count == b->named_count);
	for (unsigned i = 0; i < a->named_count; i++)
		ASSERT(a->named[i].policy == b->named[i].policy &&
			span_eq(a->named[i].keyword, b->named[i].keyword));
}

/* The window of a rate that is off means nothing. */
static void same_limits(struct conf_listener_limits a, struct conf_listener_limits b)
{
	ASSERT(a.per_client_sessions == b.per_client_sessions);
	ASSERT(a.per_client_rate == b.per_client_rate);
	ASSERT(a.per_client_rate == 0 || a.rate_window_ms == b.rate_window_ms);
	ASSERT(a.recipients == b.recipients && a.message == b.message);
	ASSERT(a.errors == b.errors && a.soft_errors == b.soft_errors);
	ASSERT(a.error_delay_ms == b.error_delay_ms && a.junk == b.junk);
	ASSERT(a.command_line == b.command_line && a.pipeline == b.pipeline);
}

static void same_listener(const struct conf_listener *a, const struct conf_listener *b)
{
	same_text(a->name, b->name);
	ASSERT(a->bind_count == b->bind_count && a->hook_count == b->hook_count);
	for (uint32_t i = 0; i < a->bind_count; i++)
		same_addr(&a->bind[i], &b->bind[i]);
	for (uint32_t i = 0; i < a->hook_count; i++)
		same_text(a->hooks[i]->name, b->hooks[i]->name);
	same_nets(&a->clients, &b->clients);
	same_nets(&a->trusted, &b->trusted);
	same_ehlo(&a->ehlo, &b->ehlo);
	ASSERT(a->starttls == b->starttls && a->bare_newlines == b->bare_newlines);
	ASSERT(memcmp(&a->timeouts, &b->timeouts, sizeof(a->timeouts)) == 0);
	same_limits(a->limits, b->limits);
	ASSERT(a->upstream->index == b->upstream->index && a->index == b->index);
}

static void same_upstream(const struct conf_upstream *a, const struct conf_upstream *b)
{
	same_text(a->name, b->name);
	ASSERT(a->server_count == b->server_count);
	for (uint32_t i = 0; i < a->server_count; i++) {
		same_addr(&a->servers[i].addr, &b->servers[i].addr);
		same_text(a->servers[i].text, b->servers[i].text);
	}
	ASSERT(memcmp(&a->timeouts, &b->timeouts, sizeof(a->timeouts)) == 0);
	ASSERT(a->retry_down_ms == b->retry_down_ms && a->mover == b->mover);
	same_addr(a->source, b->source);
}

static void same_rules(const struct conf_rules *r, const struct conf_rules *s)
{
	ASSERT(r->reject_null_sender == s->reject_null_sender);
	same_patterns(r->senders, r->sender_count, s->senders, s->sender_count);
	same_patterns(r->recipients, r->recipient_count, s->recipients, s->recipient_count);
	same_patterns(r->ehlo, r->ehlo_count, s->ehlo, s->ehlo_count);
	same_nets(&r->clients, &s->clients);
	ASSERT(r->reply.code == s->reply.code);
	same_text(r->reply.enhanced, s->reply.enhanced);
	same_text(r->reply.text, s->reply.text);
}

static void same_server(const struct conf_hook *a, const struct conf_hook *b)
{
	same_addr(&a->endpoint.addr, &b->endpoint.addr);
	same_text(a->endpoint.text, b->endpoint.text);
	ASSERT(a->connections == b->connections && a->queue == b->queue);
	ASSERT(a->connect_ms == b->connect_ms);
	if (a->type == HOOK_POLICY) {
		ASSERT(a->events == b->events && a->events != 0);
		ASSERT(a->idle_ms == b->idle_ms && a->ttl_ms == b->ttl_ms);
		same_text(a->policy_context, b->policy_context);
	} else {
		ASSERT(a->content_deadline_ms == b->content_deadline_ms);
		ASSERT(a->quarantine == b->quarantine);
		same_text(a->daemon_name, b->daemon_name);
	}
}

static void same_hook(const struct conf_hook *a, const struct conf_hook *b)
{
	same_text(a->name, b->name);
	ASSERT(a->type == b->type && a->mode == b->mode);
	ASSERT(a->on_failure == b->on_failure && a->deadline_ms == b->deadline_ms);
	if (a->type == HOOK_RULES) {
		same_rules(&a->rules, &b->rules);
	} else if (a->type == HOOK_POLICY || a->type == HOOK_MILTER) {
		same_server(a, b);
	} else {
		same_text(a->file, b->file);
		ASSERT(a->budget == b->budget && a->memory_bytes == b->memory_bytes);
		ASSERT(a->option_count == b->option_count);
		for (uint32_t i = 0; i < a->option_count; i++) {
			same_text(a->options[i].name, b->options[i].name);
			same_text(a->options[i].value, b->options[i].value);
		}
	}
}

static void same_conf(const struct conf *a, const struct conf *b)
{
	ASSERT(a->cpu_count == b->cpu_count && a->pinned == b->pinned);
	ASSERT(memcmp(a->cpus, b->cpus, a->cpu_count * sizeof(a->cpus[0])) == 0);
	same_text(a->user, b->user);
	same_text(a->log.path, b->log.path);
	ASSERT(a->log.format == b->log.format && a->log.level == b->log.level);
	ASSERT(a->limits.sessions == b->limits.sessions && a->limits.memory == b->limits.memory);
	ASSERT(a->limits.accept_backlog == b->limits.accept_backlog);
	ASSERT(a->limits.pressure == b->limits.pressure);
	ASSERT(a->shutdown_grace_ms == b->shutdown_grace_ms);
	ASSERT(a->hold.memory == b->hold.memory && a->hold.disk == b->hold.disk);
	ASSERT(a->hold.spill == b->hold.spill && a->hold.message == b->hold.message);
	same_text(a->hold.directory, b->hold.directory);
	ASSERT(memcmp(&a->helpers, &b->helpers, sizeof(a->helpers)) == 0);
	ASSERT(a->listener_count == b->listener_count && a->hook_count == b->hook_count);
	ASSERT(a->upstream_count == b->upstream_count);
	for (uint32_t i = 0; i < a->listener_count; i++)
		same_listener(&a->listeners[i], &b->listeners[i]);
	for (uint32_t i = 0; i < a->upstream_count; i++)
		same_upstream(&a->upstreams[i], &b->upstreams[i]);
	for (uint32_t i = 0; i < a->hook_count; i++)
		same_hook(&a->hooks[i], &b->hooks[i]);
}

static void check_dump(const struct conf *c)
{
	struct memory first, second, said;
	struct span text = dump(c, &first);
	struct conf *again = load(text, &said);

	if (!again)
		fprintf(stderr, "%s%s", first.p, said.p);
	ASSERT(again);
	same_conf(c, again);
	dump(again, &second);
	if (first.n != second.n || memcmp(first.p, second.p, first.n) != 0)
		fprintf(stderr, "%s----\n%s", first.p, second.p);
	ASSERT(first.n == second.n && memcmp(first.p, second.p, first.n) == 0);
	conf_free(again);
	free(first.p);
	free(second.p);
	free(said.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span text = span_of(p, n);
	struct memory said, more;
	struct conf *c, *again;

	if (n > 0 && memmem(p, n, "${file:", 7))
		return 0;
	setenv("FUZZ", "25", 1);
	c = load(text, &said);
	again = load(text, &more);
	ASSERT((c == NULL) == (again == NULL));
	ASSERT(said.n == more.n && memcmp(said.p, more.p, said.n) == 0);
	check_messages(c, &said);
	if (c)
		check_dump(c);
	conf_free(c);
	conf_free(again);
	free(said.p);
	free(more.p);
	return 0;
}
