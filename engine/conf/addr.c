/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Addresses and networks: what to listen on, where to connect, who may. Names are not looked up in
 * this room (that would make a file's validity depend on the network): an address is a literal.
 *
 * An IPv4-mapped IPv6 address is IPv4 (RFC 4291 2.5.5.2), a client on a Unix socket counts as
 * 127.0.0.1: both are who they are whatever the listener's family.
 */
#include "engine/conf/conf_int.h"

#include "ring/listen.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/un.h>

/* ---- networks ---- */

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

static void unmap(struct conf_cidr *c)
{
	if (c->family != AF_INET6 || c->bits < 96 ||
		memcmp(c->addr, mapped_prefix, sizeof(mapped_prefix)) != 0)
		return;
	memmove(c->addr, c->addr + 12, 4);
	memset(c->addr + 4, 0, 12);
	c->family = AF_INET;
	c->bits = (uint8_t)(c->bits - 96);
}

static unsigned bits_max(const struct conf_cidr *c)
{
	return c->family == AF_INET ? 32 : 128;
}

/* Clears the host bits; true when there were any. */
static bool mask_host_bits(struct conf_cidr *c)
{
	bool any = false;

	for (unsigned i = 0; i < bits_max(c) / 8; i++) {
		unsigned left = c->bits > i * 8 ? MIN_OF(c->bits - i * 8, 8u) : 0;
		uint8_t mask = (uint8_t)(0xff00 >> left);

		any |= (c->addr[i] & (uint8_t)~mask) != 0;
		c->addr[i] &= mask;
	}
	return any;
}

static const char *cidr_text(const struct conf_cidr *c, char *buf, size_t n)
{
	char addr[INET6_ADDRSTRLEN];

	inet_ntop(c->family, c->addr, addr, sizeof(addr));
	if (c->bits == bits_max(c))
		snprintf(buf, n, "%s", addr);
	else
		snprintf(buf, n, "%s/%u", addr, c->bits);
	return buf;
}

/* "10.0.0.0/8", "::1"; the host bits are left as written. */
static bool cidr_parse(struct arena *tmp, const char *text, struct conf_cidr *out)
{
	const char *slash = strchr(text, '/');
	const char *addr = slash != NULL ? arena_text(tmp, text, (size_t)(slash - text)) : text;
	unsigned bits = 0;

	memset(out, 0, sizeof(*out));
	out->family = strchr(addr, ':') != NULL ? AF_INET6 : AF_INET;
	if (inet_pton(out->family, addr, out->addr) != 1)
		return false;
	out->bits = (uint8_t)bits_max(out);
	if (slash == NULL)
		return true;
	if (strlen(slash + 1) < 1 || strlen(slash + 1) > 3 ||
		strspn(slash + 1, "0123456789") != strlen(slash + 1))
		return false;
	for (const char *p = slash + 1; *p != 0; p++)
		bits = bits * 10 + (unsigned)(*p - '0');
	if (bits > bits_max(out))
		return false;
	out->bits = (uint8_t)bits;
	return true;
}

static bool set_net(
	struct loader *l, const struct key *k, const struct node *n, struct conf_cidr *out)
{
	char buf[INET6_ADDRSTRLEN + 4];

	if (!cidr_parse(l->tmp, n->text, out))
		return fail_at(l, n, "`%s` cannot be `%s`: a network is %s", k->name, n->shown,
			"10.0.0.0/8, 2001:db8::/32 or 192.0.2.1");
	unmap(out);
	if (out->bits == 0)
		return fail_at(l, n, "`%s` is everybody: write `any` if that is meant", n->shown);
	if (mask_host_bits(out))
		return fail_at(l, n, "`%s` has bits set behind its prefix, did you mean `%s`?",
			n->shown, cidr_text(out, buf, sizeof(buf)));
	return true;
}

bool set_nets(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_nets *nets = field(k, base);
	struct conf_cidr *v;
	struct values in;
	bool good = true;

	if (!many_values(l, k, n, &in))
		return false;
	v = arena_alloc(l->keep, (in.count + 1) * sizeof(*v));
	*nets = (struct conf_nets){.v = v};
	for (uint32_t i = 0; i < in.count; i++) {
		if (strcmp(in.v[i]->text, "any") != 0) {
			good &= set_net(l, k, in.v[i], &v[nets->count]);
			nets->count += good;
		} else if (in.count > 1)
			good = fail_at(l, in.v[i], "`any` stands alone, not in a list");
		else
			nets->any = true;
	}
	return good;
}

void put_nets(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_nets *nets = field_const(k, base);
	char buf[INET6_ADDRSTRLEN + 4];

	if (nets->any) {
		fputs("any\n", out);
		return;
	}
	put_list_start(out, nets->count);
	for (uint32_t i = 0; i < nets->count; i++)
		put_list_item(out, i, nets->count, indent,
			span_str(cidr_text(&nets->v[i], buf, sizeof(buf))));
	put_list_end(out, nets->count);
}

static bool cidr_of_addr(const struct ring_addr *a, struct conf_cidr *out)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)&a->ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&a->ss;

	memset(out, 0, sizeof(*out));
	switch (a->sa.sa_family) {
	case AF_INET:
		memcpy(out->addr, &in->sin_addr, 4);
		break;
	case AF_INET6:
		memcpy(out->addr, &in6->sin6_addr, 16);
		break;
	case AF_UNIX:
		memcpy(out->addr, (const uint8_t[]){127, 0, 0, 1}, 4);
		break;
	default:
		return false;
	}
	out->family = a->sa.sa_family == AF_INET6 ? AF_INET6 : AF_INET;
	out->bits = (uint8_t)bits_max(out);
	unmap(out);
	return true;
}

static bool cidr_has(const struct conf_cidr *net, const struct conf_cidr *host)
{
	unsigned whole = net->bits / 8, rest = net->bits % 8;

	if (net->family != host->family || memcmp(net->addr, host->addr, whole) != 0)
		return false;
	return rest == 0 || (net->addr[whole] ^ host->addr[whole]) >> (8 - rest) == 0;
}

bool conf_nets_match(const struct conf_nets *n, const struct ring_addr *a)
{
	struct conf_cidr host;

	if (n->any)
		return true;
	if (!cidr_of_addr(a, &host))
		return false;
	for (uint32_t i = 0; i < n->count; i++)
		if (cidr_has(&n->v[i], &host))
			return true;
	return false;
}

/* ---- socket addresses ---- */

/* "host:25" or "host": an operator who hopes for DNS deserves to be told. */
static bool looks_like_name(const char *p)
{
	bool letter = false;

	if (strncmp(p, "unix:", 5) == 0)
		return false;
	for (; *p != 0 && *p != ':'; p++) {
		if (strchr("0123456789.-_", *p) == NULL &&
			(ascii_lower((uint8_t)*p) < 'a' || ascii_lower((uint8_t)*p) > 'z'))
			return false;
		letter |= ascii_lower((uint8_t)*p) >= 'a';
	}
	return letter;
}

/* 0 to 65535 in decimal behind the last colon, as far as can be seen. */
static bool without_port(const char *p)
{
	uint8_t addr[16];

	return inet_pton(AF_INET, p, addr) == 1 || inet_pton(AF_INET6, p, addr) == 1 ||
	       (p[0] == '[' && p[strlen(p) - 1] == ']');
}

static bool set_addr(
	struct loader *l, const struct key *k, const struct node *n, struct ring_addr *out)
{
	struct conf_cidr c;

	bool bare = strchr(n->text, ':') != NULL && n->text[0] != '[';

	if (n->len > 0 && without_port(n->text))
		return fail_at(l, n, "`%s` has no port: write `%s%s%s:%s`", n->shown,
			bare ? "[" : "", n->shown, bare ? "]" : "",
			k->type == TYPE_ENDPOINT ? "PORT" : "25");
	if (looks_like_name(n->text))
		return fail_at(l, n,
			"`%s` is a name; this version of ringpost does not look names up: write "
			"an address such as %s",
			n->shown, conf_types[k->type].written);
	if (!text_clean(span_of(n->text, n->len)) || !addr_parse(span_of(n->text, n->len), out))
		return fail_at(l, n, "`%s` cannot be `%s`: write %s", k->name, n->shown,
			conf_types[k->type].written);
	if (out->sa.sa_family == AF_UNIX)
		return true;
	if (out->sa.sa_family == AF_INET6 && cidr_of_addr(out, &c) && c.family == AF_INET)
		return fail_at(l, n, "`%s` is an IPv4 address in IPv6 clothes: write it as IPv4",
			n->shown);
	return true;
}

bool set_bind(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_listener *ls = base;
	struct ring_addr *v;
	struct values in;
	bool good = true;

	if (!many_values(l, k, n, &in))
		return false;
	v = arena_alloc(l->keep, (in.count + 1) * sizeof(*v));
	for (uint32_t i = 0; i < in.count; i++)
		good &= set_addr(l, k, in.v[i], &v[i]);
	/* All or nothing: the checks across keys go by the number of the value. */
	ls->bind = v;
	ls->bind_count = good ? in.count : 0;
	return good;
}

void put_bind(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_listener *ls = base;
	char buf[ADDR_TEXT_BYTES];

	put_list_start(out, ls->bind_count);
	for (uint32_t i = 0; i < ls->bind_count; i++)
		put_list_item(
			out, i, ls->bind_count, indent, span_str(addr_text(&ls->bind[i], buf)));
	put_list_end(out, ls->bind_count);
}

/* Somewhere to connect to. */
static bool set_server(
	struct loader *l, const struct key *k, const struct node *n, struct conf_server *out)
{
	char buf[ADDR_TEXT_BYTES];

	if (!set_addr(l, k, n, &out->addr))
		return false;
	/* Where we listen, port 0 asks the kernel for one. */
	if (out->addr.sa.sa_family != AF_UNIX && addr_port(&out->addr) == 0)
		return fail_at(l, n, "`%s`: port 0 is none", n->shown);
	if (addr_is_wildcard(&out->addr))
		return fail_at(l, n, "`%s` is not an address one can connect to", n->shown);
	addr_text(&out->addr, buf);
	out->text = arena_text(l->keep, buf, strlen(buf));
	return true;
}

bool set_servers(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_upstream *u = base;
	struct conf_server *v;
	struct values in;
	bool good = true;

	if (!many_values(l, k, n, &in))
		return false;
	if (in.count > CONF_SERVERS_MAX)
		return fail_at(l, n, "more than %u servers", CONF_SERVERS_MAX);
	v = arena_alloc(l->keep, (in.count + 1) * sizeof(*v));
	for (uint32_t i = 0; i < in.count; i++)
		good &= set_server(l, k, in.v[i], &v[i]);
	u->servers = v;
	u->server_count = good ? in.count : 0;
	return good;
}

void put_servers(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_upstream *u = base;

	put_list_start(out, u->server_count);
	for (uint32_t i = 0; i < u->server_count; i++)
		put_list_item(out, i, u->server_count, indent, span_str(u->servers[i].text));
	put_list_end(out, u->server_count);
}

bool set_endpoint(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_server server = {.text = NULL};

	if (!one_value(l, k, n) || !set_server(l, k, n, &server))
		return false;
	*(struct conf_server *)field(k, base) = server;
	return true;
}

void put_endpoint(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_server *server = field_const(k, base);

	put_quoted(out, server->text, strlen(server->text));
	fputc('\n', out);
}

bool set_source(struct loader *l, const struct key *k, void *base, const struct node *n)
{
	struct conf_upstream *u = base;
	struct ring_addr *a;
	struct conf_cidr c;

	if (!one_value(l, k, n))
		return false;
	if (strchr(n->text, '/') != NULL || !cidr_parse(l->tmp, n->text, &c))
		return fail_at(l, n, "`%s` cannot be `%s`: write an address without a port, %s",
			k->name, n->shown, conf_types[k->type].written);
	unmap(&c);
	a = arena_alloc(l->keep, sizeof(*a));
	a->ss.ss_family = c.family;
	if (c.family == AF_INET) {
		memcpy(&((struct sockaddr_in *)(void *)&a->ss)->sin_addr, c.addr, 4);
		a->len = sizeof(struct sockaddr_in);
	} else {
		memcpy(&((struct sockaddr_in6 *)(void *)&a->ss)->sin6_addr, c.addr, 16);
		a->len = sizeof(struct sockaddr_in6);
	}
	if (addr_is_wildcard(a))
		return fail_at(l, n, "`%s` is every address: leave `source` out", n->shown);
	u->source = a;
	return true;
}

void put_source(FILE *out, const struct key *k, const void *base, int indent)
{
	const struct conf_upstream *u = base;
	char buf[INET6_ADDRSTRLEN + 4];
	struct conf_cidr c;

	cidr_of_addr(u->source, &c);
	fprintf(out, "\"%s\"\n", cidr_text(&c, buf, sizeof(buf)));
}
