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

/* A key of a mapping inside an entry; the mapping, or what stands for it, when it is not there. */
static const struct node *inner_of(const struct loader *l, const char *section, const char *name,
	const char *map, const char *key)
{
	const struct node *m = value_of(l, section, name, map), *n = node_get(m, key);

	return n != NULL ? n : m;
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

static const char *where_of(struct loader *l, struct mark at)
{
	return arena_printf(l->keep, "%s:%u:%u", l->d->name, at.line, at.col);
}

static void finish_listener(struct loader *l, struct conf_listener *ls, uint32_t index)
{
	ls->index = index;
	ls->where = where_of(l, name_of(l, "listeners", ls->name)->at);
	if (ls->certificates != NULL) {
		ls->tls.pairs = ls->certificates->pairs;
		ls->tls.pair_count = ls->certificates->pair_count;
	}
	ls->ehlo.size_max = ls->limits.message;
	/* Clients need not send what cannot be kept. */
	if (keeper(ls) && (ls->ehlo.size_max == 0 || ls->ehlo.size_max > l->c->hold.message))
		ls->ehlo.size_max = l->c->hold.message;
	ls->ehlo.show_starttls = ls->starttls == STARTTLS_PASSTHROUGH;
	if (!ls->clients.any && ls->clients.count == 0 && only_loopback(ls))
		allow_loopback(&ls->clients);
}

static enum tls_demand demand_of(const struct conf_upstream_tls *t)
{
	if (t->mode != CONF_TLS_VERIFY)
		return TLS_DEMAND_NONE;
	return t->policy.pin_count > 0 ? TLS_DEMAND_PIN : TLS_DEMAND_VERIFY;
}

static void finish_upstream(struct loader *l, struct conf_upstream *u, uint32_t index)
{
	u->index = index;
	u->where = where_of(l, name_of(l, "upstreams", u->name)->at);
	u->tls.policy.demand = demand_of(&u->tls);
	if (u->tls.certificate != NULL)
		u->tls.policy.own = u->tls.certificate->pairs[0];
}

static void finish_tls(struct loader *l)
{
	const struct item *i = node_item(l->root, "tls");

	l->c->tls.where =
		i != NULL ? where_of(l, i->key->at) : arena_printf(l->keep, "%s", l->d->name);
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
	h->where = where_of(l, at);
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
		finish_upstream(l, &l->upstreams[i], i);
	for (uint32_t i = 0; i < l->c->hook_count; i++)
		finish_hook(l, &l->hooks[i]);
	for (uint32_t i = 0; i < l->c->listener_count; i++)
		finish_listener(l, &l->listeners[i], i);
	finish_tls(l);
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

/* Keys of a mapping whose `mode` makes nothing of them; what is as it would be anyway does no harm.
 */
static void check_idle(struct loader *l, enum scope s, const void *base, const struct node *map,
	const char *instead)
{
	const struct key *mode = key_find(s, "mode");

	for (size_t i = 0; i < conf_key_count; i++) {
		const struct key *k = &conf_keys[i];
		const struct node *n = k->scope == s && k != mode ? node_get(map, k->name) : NULL;

		if (n != NULL && value_differs(k, base))
			fail_at(l, n, "`%s` is of no use, as `mode` is %s: it can be %s", k->name,
				word_stored(mode, base), instead);
	}
}

static void check_client_certificates(
	struct loader *l, const struct conf_listener *ls, const struct node *map)
{
	const struct node *asked = node_get(map, "client-certificates");
	const struct node *ca = node_get(map, "client-ca");

	if (ls->tls.client_cert != TLS_CLIENT_NONE && ca == NULL)
		fail_at(l, asked,
			"`client-certificates: %s` needs `client-ca`: a file with the CAs whose "
			"certificates count",
			asked->shown);
	if (ls->tls.client_ca != NULL &&
		(asked == NULL || (asked->kind == NODE_SCALAR && strcmp(asked->text, "none") == 0)))
		fail_at(l, ca,
			"`client-ca` is of no use: no client is asked for a certificate, as "
			"`client-certificates` is none");
}

/* Is it what the mapping, or the word in its place, says? Else that was refused already. */
static bool as_written(const struct node *n, const char *mode)
{
	if (n == NULL || n->kind == NODE_MAP || node_null(n))
		return true;
	return n->kind == NODE_SCALAR && strcmp(n->text, mode) == 0;
}

static void check_starttls(struct loader *l, const struct conf_listener *ls)
{
	const struct node *map = value_of(l, "listeners", ls->name, "starttls");
	const struct node *auth = value_of(l, "listeners", ls->name, "auth-in-clear");
	const char *mode = word_stored(key_find(SCOPE_STARTTLS, "mode"), ls);
	bool clear_first = ls->starttls == STARTTLS_OFFER || ls->starttls == STARTTLS_REQUIRE;

	if (ls->starttls < STARTTLS_OFFER)
		check_idle(l, SCOPE_STARTTLS, ls, map, "offer, require or implicit");
	else
		check_client_certificates(l, ls, map);
	if (ls->starttls >= STARTTLS_OFFER && node_get(map, "certificates") == NULL)
		fail_at(l, inner_of(l, "listeners", ls->name, "starttls", "mode"),
			"`%s` needs `certificates`: write `starttls: {mode: %s, certificates: "
			"NAME}`, and that name under `certificates` at the top of the file",
			mode, mode);
	if (!clear_first && ls->clear_auth != CLEAR_AUTH_LOCAL &&
		as_written(inner_of(l, "listeners", ls->name, "starttls", "mode"), mode))
		fail_at(l, auth,
			"`auth-in-clear` is of no use: with `starttls: %s` %s. It is for offer and "
			"require",
			mode,
			ls->starttls == STARTTLS_IMPLICIT ? "nothing is ever in clear"
							  : "AUTH is the server's affair");
}

static void check_listener(struct loader *l, const struct conf_listener *ls)
{
	const struct node *limits = value_of(l, "listeners", ls->name, "limits");
	const struct node *message = limits != NULL ? node_get(limits, "message") : NULL;

	check_open(l, ls);
	check_starttls(l, ls);
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

static bool holds_something(const struct node *n)
{
	return n != NULL && !node_null(n) && (n->kind != NODE_LIST || n->count > 0);
}

static void check_upstream_tls(struct loader *l, const struct conf_upstream *u)
{
	const struct node *map = value_of(l, "upstreams", u->name, "tls");
	const struct node *name = node_get(map, "name"), *pins = node_get(map, "pins");

	if (u->tls.mode == CONF_TLS_OFF) {
		check_idle(l, SCOPE_UPSTREAM_TLS, u, map, "opportunistic, require or verify");
		return;
	}
	if (u->tls.mode == CONF_TLS_VERIFY && name == NULL && !holds_something(pins))
		fail_at(l, inner_of(l, "upstreams", u->name, "tls", "mode"),
			"`verify` needs `name`, the one that the servers' certificate has, or "
			"`pins`");
	if (u->tls.mode != CONF_TLS_VERIFY && u->tls.policy.pin_count > 0)
		fail_at(l, pins, "`pins` are of no use, as `mode` is %s: it can be verify",
			word_stored(key_find(SCOPE_UPSTREAM_TLS, "mode"), u));
	if (u->tls.mode == CONF_TLS_OPPORTUNISTIC && u->tls.implicit)
		fail_at(l, node_get(map, "implicit"),
			"`implicit` cannot be opportunistic: where TLS comes first there is "
			"nothing to fall back to; `mode` can be require or verify");
}

static void check_upstream(struct loader *l, const struct conf_upstream *u)
{
	const struct node *servers = value_of(l, "upstreams", u->name, "servers");
	const struct node *source = value_of(l, "upstreams", u->name, "source");
	bool told = false;

	check_upstream_tls(l, u);
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

/* ---- tickets ---- */

static void check_tickets(struct loader *l)
{
	const struct node *tls = node_get(l->root, "tls");

	if (l->c->tls.ticket_keys != NULL && l->c->tls.ticket_rotate_ms == 0)
		fail_at(l, node_get(tls, "ticket-keys"),
			"`ticket-keys` is of no use, as `ticket-rotate` is 0: there are no "
			"tickets");
}

/* ---- what is there for nothing: only worth saying when nothing is wrong ---- */

static bool refuses_nothing(const struct conf_hook *h)
{
	const struct conf_rules *r = &h->rules;

	return h->type == HOOK_RULES && !r->reject_null_sender && !r->clients.any &&
	       r->sender_count + r->recipient_count + r->ehlo_count + r->clients.count == 0;
}

static void warn_unused_certificates(struct loader *l)
{
	for (uint32_t i = 0; i < l->c->certificate_count; i++)
		if (!l->certificate_used[i])
			diag_warn(l->d, name_of(l, "certificates", l->c->certificates[i].name)->at,
				"no listener and no upstream uses certificates `%s`",
				l->c->certificates[i].name);
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
	check_tickets(l);
	check_hold(l);
	if (l->d->errors == 0) {
		warn_unused(l);
		warn_unused_certificates(l);
	}
}
