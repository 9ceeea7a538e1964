/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Built-in rules: see rules.h. They answer at once and cannot fail. A mailbox's local part is
 * compared without regard to ASCII case and with its quotes taken off: no sender should pass a list
 * by writing "Spam"@ or SPAM@ for spam@ (RFC 5321 2.4 calls the local part case-sensitive, servers
 * treat it otherwise).
 */
#include "engine/hook/rules.h"

#include "engine/hook/hook_int.h"

/* The next octet of a local part as it is meant: quotes dropped, quoted pairs resolved. */
static bool local_next(struct span *s, uint8_t *c)
{
	while (s->n > 0 && s->p[0] == '"')
		*s = span_drop(*s, 1);
	if (s->n > 1 && s->p[0] == '\\')
		*s = span_drop(*s, 1);
	if (s->n == 0)
		return false;
	*c = ascii_lower(s->p[0]);
	*s = span_drop(*s, 1);
	return true;
}

static bool local_equal(struct span pattern, struct span local)
{
	uint8_t a = 0, b = 0;

	for (;;) {
		bool more_a = local_next(&pattern, &a), more_b = local_next(&local, &b);

		if (more_a != more_b)
			return false;
		if (!more_a)
			return true;
		if (a != b)
			return false;
	}
}

/* A trailing dot names the same host (RFC 1035). */
static struct span without_dot(struct span domain)
{
	while (domain.n > 0 && domain.p[domain.n - 1] == '.')
		domain.n--;
	return domain;
}

static bool below(struct span domain, struct span parent)
{
	if (domain.n <= parent.n + 1)
		return false;
	size_t cut = domain.n - parent.n;
	return domain.p[cut - 1] == '.' && span_ieq(span_drop(domain, cut), parent);
}

static bool domain_matches(const struct conf_pattern *p, struct span domain)
{
	domain = without_dot(domain);
	return p->kind == PAT_SUBDOMAINS ? below(domain, p->domain) : span_ieq(domain, p->domain);
}

bool rules_path_matches(
	const struct conf_pattern *list, uint32_t count, const struct smtp_path *path)
{
	if (path->null)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (domain_matches(&list[i], path->domain) &&
			(list[i].kind != PAT_EXACT || local_equal(list[i].local, path->local)))
			return true;
	return false;
}

static bool name_matches(const struct conf_pattern *list, uint32_t count, struct span name)
{
	for (uint32_t i = 0; i < count; i++)
		if (domain_matches(&list[i], name))
			return true;
	return false;
}

bool rules_match(const struct conf_rules *r, const struct hook_event *ev)
{
	switch (ev->point) {
	case HOOK_CONNECT:
		return conf_nets_match(&r->clients, ev->client);
	case HOOK_EHLO:
		return name_matches(r->ehlo, r->ehlo_count, ev->helo);
	case HOOK_MAIL:
		return (ev->path->null && r->reject_null_sender) ||
		       rules_path_matches(r->senders, r->sender_count, ev->path);
	case HOOK_RCPT:
		return rules_path_matches(r->recipients, r->recipient_count, ev->path);
	default:
		return false;
	}
}

/* ---- the kind of hook ---- */

static bool rules_open(struct hook *h, char *why, size_t why_max)
{
	const struct conf_rules *r = &h->conf->rules;

	if (r->clients.any || r->clients.count > 0)
		h->wants |= 1u << HOOK_CONNECT;
	if (r->ehlo_count > 0)
		h->wants |= 1u << HOOK_EHLO;
	if (r->sender_count > 0 || r->reject_null_sender)
		h->wants |= 1u << HOOK_MAIL;
	if (r->recipient_count > 0)
		h->wants |= 1u << HOOK_RCPT;
	return true;
}

static void rules_close(struct hook *h)
{
}

static enum hook_reach rules_ask(struct hook *h, const struct hook_ask *ask, struct hook_verdict *v)
{
	const struct conf_rules *r = &h->conf->rules;

	if (rules_match(r, ask->ev)) {
		v->kind = r->reply.code < 500 ? VERDICT_TEMPFAIL : VERDICT_REJECT;
		v->reply = &r->reply;
		STAT_INC(ask->core->stats, rule_rejects);
	}
	return REACH_ANSWERED;
}

const struct hook_class hook_rules_class = {
	.open = rules_open, .close = rules_close, .ask = rules_ask};
