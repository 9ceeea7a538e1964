/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What no single key can know: two listeners on one address, a server that is ourselves, an open
 * proxy, bounds that leave room for nothing, names that nobody uses; and the fields that follow
 * from several keys.
 *
 * The checks run on whatever was read, also after errors, so they take nothing for granted but that
 * counts and arrays agree. Places come from the tree, by name.
 */
#include "engine/conf/conf_int.h"

#include "ring/listen.h"

#include <ifaddrs.h>
#include <netinet/in.h>

/* ---- places ---- */

static const struct node *entry(const struct loader *l, const char *section, const char *name)
{
	return node_get(node_get(l->root, section), name);
}

static const struct node *value_of(
	const struct loader *l, const char *section, const char *name, const char *key)
{
	const struct node *e = entry(l, section, name);

	return e != NULL ? node_get(e, key) : NULL;
}

static const struct node *name_of(const struct loader *l, const char *section, const char *name)
{
	return node_item(node_get(l->root, section), name)->key;
}

static const struct node *nth(const struct node *n, uint32_t index)
{
	const struct item *i;

	if (n->kind == NODE_SCALAR)
		return n;
	for (i = n->first; index > 0; index--)
		i = i->next;
	return i->value;
}

static const struct node *bind_place(
	const struct loader *l, const struct conf_listener *ls, uint32_t i)
{
	return nth(value_of(l, "listeners", ls->name, "bind"), i);
}

/* ---- fields that follow from several keys ---- */

static const struct conf_cidr loopback[] = {
	{.family = AF_INET, .bits = 8, .addr = {127}},
	{.family = AF_INET6, .bits = 128, .addr = {[15] = 1}},
};

static bool only_loopback(const struct conf_listener *ls)
{
	for (uint32_t i = 0; i < ls->bind_count; i++)
		if (!addr_is_loopback(&ls->bind[i]))
			return false;
	return true;
}

/* Nobody but loopback can reach a loopback listener: without a list it serves all of this host. */
static void allow_loopback(struct conf_nets *nets)
{
	nets->v = loopback;
	nets->count = ARRAY_LEN(loopback);
}

/* The hook for which its messages are kept; NULL: none. */
static const struct conf_hook *keeper(const struct conf_listener *ls)
{
	for (uint32_t i = 0; i < ls->hook_count; i++)
		if (ls->hooks[i]->mode == HOOK_HOLD_ALL)
			return ls->hooks[i];
	return NULL;
}

static void finish_listener(struct loader *l, struct conf_listener *ls, uint32_t index)
{
	ls->index = index;
	ls->ehlo.size_max = ls->limits.message;
	/* Clients need not send what cannot be kept. */
	if (keeper(ls) && (ls->ehlo.size_max == 0 || ls->ehlo.size_max > l->c->hold.message))
		ls->ehlo.size_max = l->c->hold.message;
	ls->ehlo.show_starttls = ls->starttls == STARTTLS_PASSTHROUGH;
	if (!ls->clients.any && ls->clients.count == 0 && only_loopback(ls))
		allow_loopback(&ls->clients);
}

static enum conf_hook_mode mode_of(const struct conf_hook *h)
{
	switch (h->type) {
	case HOOK_RULES:
		return HOOK_STREAM;
	case HOOK_POLICY:
		return h->events >> CONF_END_OF_DATA & 1 ? HOOK_HOLD_END : HOOK_STREAM;
	default:
		return h->mode;
	}
}

static void finish_hook(struct loader *l, struct conf_hook *h)
{
	const char *kind = h->type == HOOK_RULES ? "rule" : "hook";
	struct mark at = name_of(l, "hooks", h->name)->at;
	struct local_reply *reply = &h->rules.reply;

	h->word = arena_printf(l->keep, "%s:%s", kind, h->name);
	h->where = arena_printf(l->keep, "%s:%u:%u", l->d->name, at.line, at.col);
	h->mode = mode_of(h);
	if (h->type != HOOK_RULES)
		return;
	reply->word = h->word;
	if (reply->enhanced == NULL)
		reply->enhanced = arena_printf(l->keep, "%u.7.1", (unsigned)reply->code / 100);
}

void conf_finish(struct loader *l)
{
	for (uint32_t i = 0; i < l->c->upstream_count; i++)
		l->upstreams[i].index = i;
	for (uint32_t i = 0; i < l->c->hook_count; i++)
		finish_hook(l, &l->hooks[i]);
	for (uint32_t i = 0; i < l->c->listener_count; i++)
		finish_listener(l, &l->listeners[i], i);
}

/* ---- listeners ---- */

static void check_open(struct loader *l, const struct conf_listener *ls)
{
	if (value_of(l, "listeners", ls->name, "clients") != NULL)
		return;
	for (uint32_t i = 0; i < ls->bind_count; i++) {
		const struct node *at = bind_place(l, ls, i);

		if (addr_is_loopback(&ls->bind[i]))
			continue;
		fail_at(l, at,
			"`%s` can be reached from other hosts, but `%s` has no `clients`: anybody "
			"could "
			"send mail through it. Name the networks that may connect (`clients: "
			"[10.0.0.0/8]`, or `clients: any` if everybody is meant), or listen on a "
			"loopback address",
			at->shown, ls->name);
		return;
	}
}

/* What its clients are promised, and what can be kept. */
static void check_kept(struct loader *l, const struct conf_listener *ls, const struct node *message)
{
	const struct conf_hook *h = keeper(ls);
	char buf[VALUE_TEXT_BYTES];

	if (h != NULL && ls->limits.message > l->c->hold.message)
		diag_warn(l->d, message->at,
			"messages above %s are refused all the same: hook `%s` has them kept, and "
			"that is the `message` of `hold`",
			size_text(l->c->hold.message, buf), h->name);
}

static void check_listener(struct loader *l, const struct conf_listener *ls)
{
	const struct node *limits = value_of(l, "listeners", ls->name, "limits");
	const struct node *message = limits != NULL ? node_get(limits, "message") : NULL;

	check_open(l, ls);
	if (message != NULL)
		check_kept(l, ls, message);
	if (ls->trusted.any)
		fail_at(l, nth(value_of(l, "listeners", ls->name, "trusted"), 0),
			"`trusted: any` would let everybody pretend to be somebody else (XCLIENT): "
			"list the networks");
	if (message != NULL && ls->limits.message > 0 && ls->limits.message < 65536)
		diag_warn(l->d, message->at,
			"messages below 64k are refused: RFC 5321 4.5.3.1.7 wants 64k at least");
}

/* Would the second bind() fail, or take the first one's connections? IPV6_V6ONLY is set. */
static bool overlap(const struct ring_addr *a, const struct ring_addr *b)
{
	/* Port 0: the kernel gives each one of its own. */
	if (a->sa.sa_family != AF_UNIX && addr_port(a) == 0)
		return false;
	if (a->sa.sa_family != b->sa.sa_family || a->sa.sa_family == AF_UNIX)
		return addr_equal(a, b);
	return addr_port(a) == addr_port(b) &&
	       (addr_is_wildcard(a) || addr_is_wildcard(b) || addr_equal(a, b));
}

/* One bind against all that come before it in the order of the snapshot. */
static void check_bind(struct loader *l, uint32_t li, uint32_t bi)
{
	const struct conf_listener *ls = &l->listeners[li];
	const struct node *at = bind_place(l, ls, bi);

	for (uint32_t i = 0; i <= li; i++) {
		const struct conf_listener *other = &l->listeners[i];
		uint32_t end = i == li ? bi : other->bind_count;

		for (uint32_t j = 0; j < end; j++) {
			const struct node *first;

			if (!overlap(&ls->bind[bi], &other->bind[j]))
				continue;
			first = bind_place(l, other, j);
			fail_at(l, at, "`%s` is taken: listener `%s` has `%s` in line %u",
				at->shown, other->name, first->shown, first->at.line);
			return;
		}
	}
}

/* ---- upstreams ---- */

/* Is it an address of this host? Only asked when a listener has the same port on a wildcard. */
static bool own_address(const struct ring_addr *a)
{
	struct ifaddrs *all, *i;
	bool found = false;

	if (getifaddrs(&all) != 0)
		return false;
	for (i = all; i != NULL && !found; i = i->ifa_next) {
		const struct sockaddr *sa = i->ifa_addr;

		if (sa == NULL || sa->sa_family != a->sa.sa_family)
			continue;
		if (sa->sa_family == AF_INET)
			found = memcmp(&((const struct sockaddr_in *)(const void *)sa)->sin_addr,
					&((const struct sockaddr_in *)(const void *)&a->ss)
						 ->sin_addr,
					4) == 0;
		else if (sa->sa_family == AF_INET6)
			found = memcmp(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr,
					&((const struct sockaddr_in6 *)(const void *)&a->ss)
						 ->sin6_addr,
					16) == 0;
	}
	freeifaddrs(all);
	return found;
}

static bool is_ours(const struct ring_addr *server, const struct ring_addr *bind)
{
	if (addr_equal(server, bind))
		return true;
	return addr_is_wildcard(bind) && overlap(server, bind) &&
	       (addr_is_loopback(server) || own_address(server));
}

static void check_loop(struct loader *l, const struct conf_server *s, const struct node *at,
	const char *consequence)
{
	for (uint32_t i = 0; i < l->c->listener_count; i++) {
		const struct conf_listener *ls = &l->listeners[i];

		for (uint32_t j = 0; j < ls->bind_count; j++) {
			if (!is_ours(&s->addr, &ls->bind[j]))
				continue;
			fail_at(l, at, "`%s` is where listener `%s` listens (line %u): %s",
				at->shown, ls->name, bind_place(l, ls, j)->at.line, consequence);
			return;
		}
	}
}

static void check_upstream(struct loader *l, const struct conf_upstream *u)
{
	const struct node *servers = value_of(l, "upstreams", u->name, "servers");
	const struct node *source = value_of(l, "upstreams", u->name, "source");
	bool told = false;

	for (uint32_t i = 0; i < u->server_count; i++) {
		const struct conf_server *s = &u->servers[i];
		sa_family_t family = s->addr.sa.sa_family;

		check_loop(l, s, nth(servers, i), "mail would go round in a circle");
		if (told || u->source == NULL || family == AF_UNIX ||
			family == u->source->sa.sa_family)
			continue;
		told = true;
		fail_at(l, source, "`source` is IPv%c, server `%s` is IPv%c",
			family == AF_INET ? '6' : '4', s->text, family == AF_INET ? '4' : '6');
	}
}

/* ---- hooks ---- */

static void check_rules(struct loader *l, const struct conf_hook *h)
{
	const struct conf_rules *r = &h->rules;
	const struct node *reply = value_of(l, "hooks", h->name, "reply");
	const struct node *enhanced = reply != NULL ? node_get(reply, "enhanced") : NULL;

	if (r->reply.code / 100 != r->reply.enhanced[0] - '0' && reply != NULL)
		fail_at(l, enhanced != NULL ? enhanced : reply,
			"the enhanced code %s and the code %u are not of one class",
			r->reply.enhanced, r->reply.code);
}

static void check_hook(struct loader *l, const struct conf_hook *h)
{
	if (h->type == HOOK_RULES)
		check_rules(l, h);
	/* Unset when it was refused. */
	if (h->endpoint.text != NULL)
		check_loop(l, &h->endpoint, value_of(l, "hooks", h->name, "endpoint"),
			"ringpost would ask itself");
}

/* ---- messages that are kept ---- */

/* A hook of mode hold-all, used or not; NULL: none. */
static const struct conf_hook *first_keeper(const struct loader *l)
{
	for (uint32_t i = 0; i < l->c->hook_count; i++)
		if (l->hooks[i].mode == HOOK_HOLD_ALL)
			return &l->hooks[i];
	return NULL;
}

/* The first of two keys of `hold` that is written; with defaults alone it is the hook's fault. */
static const struct node *hold_place(
	const struct loader *l, const char *first, const char *second, const struct conf_hook *h)
{
	const struct node *hold = node_get(l->root, "hold");
	const struct node *one = hold != NULL ? node_get(hold, first) : NULL;
	const struct node *two = hold != NULL ? node_get(hold, second) : NULL;

	if (one != NULL || two != NULL)
		return one != NULL ? one : two;
	ASSERT(h != NULL); /* a default that contradicts another */
	return value_of(l, "hooks", h->name, "mode");
}

static const char *shared(const struct loader *l, uint32_t workers)
{
	return workers > 1 ? arena_printf(l->tmp, ", in the share of each of %u workers", workers)
			   : "";
}

/* A message is kept by one worker, and each has its share of memory and disk; where nothing is kept
 * only what no number of workers could mend is wrong. Two spills: one would leave nothing to write
 * a file from. */
static void check_hold(struct loader *l)
{
	const struct conf *c = l->c;
	const struct conf_hook *h = first_keeper(l);
	uint32_t workers = h != NULL ? MAX_OF(c->cpu_count, 1u) : 1;
	char a[VALUE_TEXT_BYTES], b[VALUE_TEXT_BYTES];

	if (c->hold.memory / workers / 2 < c->hold.spill)
		fail_at(l, hold_place(l, "memory", "spill", h),
			"the `memory` of `hold` (%s) is too little: there must be room for twice "
			"the `spill` (%s)%s",
			size_text(c->hold.memory, a), size_text(c->hold.spill, b),
			shared(l, workers));
	if (c->hold.message > c->hold.spill + c->hold.disk / workers)
		fail_at(l, hold_place(l, "message", "disk", h),
			"a `message` of %s could never be kept: what is beyond its `spill` must "
			"find room in the `disk` of `hold` (%s)%s",
			size_text(c->hold.message, a), size_text(c->hold.disk, b),
			shared(l, workers));
}

/* ---- what is there for nothing: only worth saying when nothing is wrong ---- */

static bool refuses_nothing(const struct conf_hook *h)
{
	const struct conf_rules *r = &h->rules;

	return h->type == HOOK_RULES && !r->reject_null_sender && !r->clients.any &&
	       r->sender_count + r->recipient_count + r->ehlo_count + r->clients.count == 0;
}

static void warn_unused(struct loader *l)
{
	for (uint32_t i = 0; i < l->c->upstream_count; i++)
		if (!l->upstream_used[i])
			diag_warn(l->d, name_of(l, "upstreams", l->upstreams[i].name)->at,
				"no listener uses upstream `%s`", l->upstreams[i].name);
	for (uint32_t i = 0; i < l->c->hook_count; i++) {
		struct mark at = name_of(l, "hooks", l->hooks[i].name)->at;

		if (!l->hook_used[i])
			diag_warn(l->d, at, "no listener uses hook `%s`", l->hooks[i].name);
		if (refuses_nothing(&l->hooks[i]))
			diag_warn(l->d, at, "hook `%s` refuses nothing", l->hooks[i].name);
	}
}

void conf_check(struct loader *l)
{
	for (uint32_t i = 0; i < l->c->listener_count; i++) {
		check_listener(l, &l->listeners[i]);
		for (uint32_t j = 0; j < l->listeners[i].bind_count; j++)
			check_bind(l, i, j);
	}
	for (uint32_t i = 0; i < l->c->upstream_count; i++)
		check_upstream(l, &l->upstreams[i]);
	for (uint32_t i = 0; i < l->c->hook_count; i++)
		check_hook(l, &l->hooks[i]);
	check_hold(l);
	if (l->d->errors == 0)
		warn_unused(l);
}
