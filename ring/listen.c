/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Addresses as text, and listening sockets. Plain system calls at start; pure otherwise.
 * RFC 3986 3.2.2 brackets for IPv6; unix(7) for the two kinds of Unix names.
 *
 * Failure modes: text that is no address is false; a refused socket is its reason.
 */
#include "ring/listen.h"
#include "ring/ring_int.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct sockaddr_in *in4(const struct ring_addr *a)
{
	return (struct sockaddr_in *)(uintptr_t)&a->ss;
}

static struct sockaddr_in6 *in6(const struct ring_addr *a)
{
	return (struct sockaddr_in6 *)(uintptr_t)&a->ss;
}

static struct sockaddr_un *un(const struct ring_addr *a)
{
	return (struct sockaddr_un *)(uintptr_t)&a->ss;
}

/* ---- text ---- */

static bool port_parse(struct span s, uint16_t *out)
{
	unsigned v = 0;

	if (s.n == 0 || s.n > 5)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (s.p[i] - '0');
	}
	*out = htons((uint16_t)v);
	return v <= UINT16_MAX;
}

static bool unix_parse(struct span path, struct ring_addr *out)
{
	struct sockaddr_un *u = un(out);
	size_t head = offsetof(struct sockaddr_un, sun_path);
	bool abstract = path.n > 0 && path.p[0] == '@';

	/* An abstract name is its bytes; a file name has a NUL behind it. */
	if (path.n == 0 || path.n + !abstract > sizeof(u->sun_path) || (abstract && path.n == 1) ||
		memchr(path.p, 0, path.n))
		return false;
	u->sun_family = AF_UNIX;
	memcpy(u->sun_path, path.p, path.n);
	if (abstract)
		u->sun_path[0] = 0;
	out->len = (socklen_t)(head + path.n + !abstract);
	return true;
}

static bool ipv6_parse(char *host, uint16_t port, struct ring_addr *out)
{
	struct sockaddr_in6 *a = in6(out);
	char *scope = strchr(host, '%');

	if (scope) {
		*scope = 0;
		a->sin6_scope_id = if_nametoindex(scope + 1);
		if (a->sin6_scope_id == 0)
			return false;
	}
	a->sin6_family = AF_INET6;
	a->sin6_port = port;
	out->len = sizeof(*a);
	return inet_pton(AF_INET6, host, &a->sin6_addr) == 1;
}

static bool ipv4_parse(const char *host, uint16_t port, struct ring_addr *out)
{
	struct sockaddr_in *a = in4(out);

	a->sin_family = AF_INET;
	a->sin_port = port;
	out->len = sizeof(*a);
	return inet_pton(AF_INET, host, &a->sin_addr) == 1;
}

bool addr_parse(struct span text, struct ring_addr *out)
{
	const struct span head = SPAN_LIT("unix:");
	char host[INET6_ADDRSTRLEN + 1 + IF_NAMESIZE];
	size_t colon = text.n;
	uint16_t port;
	bool bracket = text.n > 0 && text.p[0] == '[';
	struct span h;

	memset(out, 0, sizeof(*out));
	if (text.n > head.n && span_eq(span_of(text.p, head.n), head))
		return unix_parse(span_drop(text, head.n), out);
	while (colon > 0 && text.p[colon - 1] != ':')
		colon--;
	if (colon == 0 || !port_parse(span_drop(text, colon), &port))
		return false;
	h = span_of(text.p, colon - 1);
	if (bracket) {
		if (h.n < 2 || h.p[h.n - 1] != ']')
			return false;
		h = span_of(h.p + 1, h.n - 2);
	}
	if (h.n >= sizeof(host) || memchr(h.p, 0, h.n))
		return false;
	memcpy(host, h.p, h.n);
	host[h.n] = 0;
	return bracket ? ipv6_parse(host, port, out) : ipv4_parse(host, port, out);
}

/* The name of a Unix socket as bytes: a file's without its NUL, an abstract one's with its first.
 */
static struct span unix_name(const struct ring_addr *a)
{
	const struct sockaddr_un *u = un(a);
	size_t head = offsetof(struct sockaddr_un, sun_path);
	size_t n = a->len > head ? a->len - head : 0;

	return span_of(u->sun_path, n && u->sun_path[0] ? strnlen(u->sun_path, n) : n);
}

static void unix_text(const struct ring_addr *a, char *buf)
{
	struct span s = unix_name(a);
	size_t at = 5;

	memcpy(buf, "unix:", at);
	for (size_t i = 0; i < s.n; i++)
		buf[at++] = s.p[i] ? (char)s.p[i] : '@';
	buf[at] = 0;
}

static char *put_decimal(char *to, unsigned v)
{
	char digits[10];
	unsigned n = 0;

	do
		digits[n++] = (char)('0' + v % 10);
	while (v /= 10);
	while (n > 0)
		*to++ = digits[--n];
	return to;
}

char *addr_put_v4(char *to, const uint8_t *octets)
{
	for (unsigned i = 0; i < 4; i++) {
		if (i > 0)
			*to++ = '.';
		to = put_decimal(to, octets[i]);
	}
	return to;
}

/* Once for each record in the log: no printf. */
static void v4_text(const struct ring_addr *a, char *buf)
{
	buf = addr_put_v4(buf, (const uint8_t *)&in4(a)->sin_addr);
	*buf++ = ':';
	*put_decimal(buf, addr_port(a)) = 0;
}

char *addr_text(const struct ring_addr *a, char *buf)
{
	char host[INET6_ADDRSTRLEN] = "?", scope[IF_NAMESIZE] = "";

	switch (a->sa.sa_family) {
	case AF_UNIX:
		unix_text(a, buf);
		break;
	case AF_INET:
		v4_text(a, buf);
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &in6(a)->sin6_addr, host, sizeof(host));
		if (in6(a)->sin6_scope_id)
			if_indextoname(in6(a)->sin6_scope_id, scope);
		snprintf(buf, ADDR_TEXT_BYTES, "[%s%s%s]:%u", host, scope[0] ? "%" : "", scope,
			addr_port(a));
		break;
	default:
		snprintf(buf, ADDR_TEXT_BYTES, "none");
	}
	return buf;
}

/* ---- questions ---- */

bool addr_equal(const struct ring_addr *a, const struct ring_addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family || addr_port(a) != addr_port(b))
		return false;
	switch (a->sa.sa_family) {
	case AF_INET:
		return in4(a)->sin_addr.s_addr == in4(b)->sin_addr.s_addr;
	case AF_INET6:
		return memcmp(&in6(a)->sin6_addr, &in6(b)->sin6_addr, 16) == 0 &&
		       in6(a)->sin6_scope_id == in6(b)->sin6_scope_id;
	case AF_UNIX:
		return span_eq(unix_name(a), unix_name(b));
	}
	return false;
}

bool addr_is_loopback(const struct ring_addr *a)
{
	const struct in6_addr *v6 = &in6(a)->sin6_addr;

	switch (a->sa.sa_family) {
	case AF_INET:
		return ntohl(in4(a)->sin_addr.s_addr) >> 24 == 127;
	case AF_INET6:
		return IN6_IS_ADDR_LOOPBACK(v6) ||
		       (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
	case AF_UNIX:
		return true;
	}
	return false;
}

bool addr_is_wildcard(const struct ring_addr *a)
{
	const struct in6_addr *v6 = &in6(a)->sin6_addr;
	static const uint8_t none[4];

	switch (a->sa.sa_family) {
	case AF_INET:
		return in4(a)->sin_addr.s_addr == INADDR_ANY;
	case AF_INET6:
		return IN6_IS_ADDR_UNSPECIFIED(v6) ||
		       (IN6_IS_ADDR_V4MAPPED(v6) && memcmp(v6->s6_addr + 12, none, 4) == 0);
	}
	return false;
}

uint16_t addr_port(const struct ring_addr *a)
{
	switch (a->sa.sa_family) {
	case AF_INET:
		return ntohs(in4(a)->sin_port);
	case AF_INET6:
		return ntohs(in6(a)->sin6_port);
	}
	return 0;
}

/* ---- listening ---- */

/* A socket file nobody answers on any more is in the way of bind(2); a live one, or a file of
 * another kind, is left alone and bind says EADDRINUSE. */
static void remove_stale(const struct ring_addr *a)
{
	const char *path = un(a)->sun_path;
	struct stat st;
	int fd;

	if (path[0] == 0 || lstat(path, &st) != 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = fd_socket_raw(AF_UNIX, SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (fd_connect_raw(fd, &a->sa, a->len) != 0 && errno == ECONNREFUSED)
		unlink(path);
	fd_close_raw(fd);
}

static void set(int fd, int level, int name)
{
	int one = 1;

	setsockopt(fd, level, name, &one, sizeof(one));
}

static void set_options(int fd, int family, bool reuseport)
{
	if (family == AF_UNIX)
		return;
	set(fd, SOL_SOCKET, SO_REUSEADDR);
	if (reuseport)
		set(fd, SOL_SOCKET, SO_REUSEPORT);
	set(fd, IPPROTO_TCP, TCP_NODELAY);
	if (family == AF_INET6)
		set(fd, IPPROTO_IPV6, IPV6_V6ONLY);
}

enum ring_res listen_open(
	const struct ring_addr *a, int backlog, bool reuseport, struct ring_fd *out)
{
	int family = a->sa.sa_family;
	int fd = fd_socket_raw(family, SOCK_NONBLOCK);

	*out = RING_FD_NONE;
	if (fd < 0)
		return ring_res_of(errno);
	set_options(fd, family, reuseport);
	if (family == AF_UNIX)
		remove_stale(a);
	if (fd_bind_raw(fd, &a->sa, a->len) != 0 || fd_listen_raw(fd, backlog) != 0) {
		enum ring_res res = ring_res_of(errno);

		fd_close_raw(fd);
		return res;
	}
	/* As with a port: who may connect is decided by clients: and by the directory, not by the
	 * umask. */
	if (family == AF_UNIX && un(a)->sun_path[0] != 0)
		(void)chmod(un(a)->sun_path, 0666);
	out->v = fd;
	return RING_OK;
}

void listen_close(struct ring_fd *fd)
{
	if (ring_fd_ok(*fd))
		fd_close_raw(fd->v);
	*fd = RING_FD_NONE;
}

void listen_addr(struct ring_fd fd, struct ring_addr *out)
{
	memset(out, 0, sizeof(*out));
	out->len = sizeof(out->ss);
	if (getsockname(fd.v, &out->sa, &out->len) != 0)
		out->len = 0;
}
