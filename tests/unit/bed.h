/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the tests of ring/ share: a ring with streams on it, connected sockets whose far end is a
 * plain descriptor of the test, bounded waiting (turns, not time), seeded random octets. Everything
 * aborts the test on a failure of the machine (no ring, no socket). One bed per test process.
 */
#ifndef TESTS_UNIT_BED_H
#define TESTS_UNIT_BED_H

#include "ring/stream.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BED_TURNS_MAX 60000 /* a stuck test ends here */

/* What every ring of this process goes without: see BED_TEST. */
static uint32_t bed_features_off;

/* One body, three tests: with all that the kernel has, as before 6.17 (no byte cap of a receive),
 * and as before 6.12 (plain receive buffers as well). */
#define BED_TEST(suite, name)                                               \
	static void suite##_##name(void);                                   \
	Test(suite, name)                                                   \
	{                                                                   \
		suite##_##name();                                           \
	}                                                                   \
	Test(suite##_uncapped, name)                                        \
	{                                                                   \
		bed_features_off = RING_FEAT_RECV_CAP;                      \
		suite##_##name();                                           \
	}                                                                   \
	Test(suite##_plain, name)                                           \
	{                                                                   \
		bed_features_off = RING_FEAT_RECV_CAP | RING_FEAT_PBUF_INC; \
		suite##_##name();                                           \
	}                                                                   \
	static void suite##_##name(void)

struct bed {
	struct ring *r;
	struct streams ss;
	unsigned bufs_total;
	int fds_before;
	bool in_call; /* inside a stream_* or move_* call of the test: callbacks are forbidden */
};

/* Waits, turn by turn, until `cond`; `each` runs before every turn (what the peers do). */
#define BED_UNTIL(b, cond, each)                                                \
	do {                                                                    \
		unsigned left_ = BED_TURNS_MAX;                                 \
		while (!(cond)) {                                               \
			each;                                                   \
			bed_turn(b);                                            \
			cr_assert(left_-- > 0, "stuck waiting for: %s", #cond); \
		}                                                               \
	} while (0)

/* An owner's call from the test's own code: nobody may call back from inside it. */
#define BED_CALL(b, call)             \
	do {                          \
		(b)->in_call = true;  \
		call;                 \
		(b)->in_call = false; \
	} while (0)

static inline int bed_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	cr_assert(d != NULL);
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	return n;
}

static inline struct ring_conf bed_conf(void)
{
	struct ring_conf c;

	ring_conf_defaults(&c);
	c.sq_entries = 256;
	c.cq_entries = 4096;
	c.ops_max = 8192;
	c.buf_count = 8;
	c.buf_bytes = 64u << 10;
	c.features_off = bed_features_off;
	return c;
}

static inline void bed_open(struct bed *b, const struct ring_conf *c, uint32_t segs, uint32_t cells)
{
	struct rlimit lim;
	struct ring_barrier why;

	memset(b, 0, sizeof(*b));
	getrlimit(RLIMIT_NOFILE, &lim);
	lim.rlim_cur = MIN_OF(lim.rlim_max, (rlim_t)4096);
	setrlimit(RLIMIT_NOFILE, &lim);
	b->fds_before = bed_fds();
	b->r = ring_open(c, &why);
	cr_assert(b->r != NULL, "no ring: %s", why.what);
	b->bufs_total = ring_bufs_total(b->r);
	cr_assert(streams_init(&b->ss, b->r, segs, cells));
}

static inline void bed_turn(struct bed *b)
{
	ring_turn(b->r, ring_now_us(b->r) + 1000);
	streams_flush(&b->ss);
}

/* Nothing may be left: leases, segs, descriptors. */
static inline void bed_close(struct bed *b)
{
	for (int i = 0; i < 3; i++)
		bed_turn(b);
	cr_assert_eq(b->ss.zc_holds.used, 0);
	cr_assert_eq(ring_bufs_free(b->r), b->bufs_total);
	cr_assert_eq(b->ss.segs.used, 0);
	cr_assert_eq(b->ss.cells.used, 0);
	streams_fini(&b->ss);
	ring_close(b->r);
	cr_assert_eq(bed_fds(), b->fds_before, "descriptors leaked");
}

static inline void fd_nonblock(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static inline struct ring_addr loop_addr(uint16_t port)
{
	struct ring_addr a = {.len = sizeof(struct sockaddr_in)};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};

	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	memcpy(&a.ss, &in, sizeof(in));
	return a;
}

/* A listening loopback socket; *port is filled. */
static inline int tcp_listener(uint16_t *port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct ring_addr a = loop_addr(0);
	struct sockaddr_in in;
	socklen_t len = sizeof(in);

	cr_assert(fd >= 0 && bind(fd, &a.sa, a.len) == 0 && listen(fd, 512) == 0);
	getsockname(fd, (struct sockaddr *)&in, &len);
	*port = ntohs(in.sin_port);
	return fd;
}

/* [0]: for a stream; [1]: the test's, non-blocking. buf > 0: small kernel buffers on both. */
static inline void tcp_pair(int fd[2], int buf)
{
	uint16_t port;
	int lfd = tcp_listener(&port), one = 1;
	struct ring_addr a = loop_addr(port);

	if (buf > 0) {
		setsockopt(lfd, SOL_SOCKET, SO_SNDBUF, &buf, sizeof(buf));
		setsockopt(lfd, SOL_SOCKET, SO_RCVBUF, &buf, sizeof(buf));
	}
	fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert(fd[1] >= 0);
	if (buf > 0) {
		setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &buf, sizeof(buf));
		setsockopt(fd[1], SOL_SOCKET, SO_RCVBUF, &buf, sizeof(buf));
	}
	cr_assert(connect(fd[1], &a.sa, a.len) == 0);
	fd[0] = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	cr_assert(fd[0] >= 0);
	close(lfd);
	for (int i = 0; i < 2; i++) {
		setsockopt(fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		fd_nonblock(fd[i]);
	}
}

static inline void unix_pair(int fd[2], int buf)
{
	cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) == 0);
	for (int i = 0; i < 2 && buf > 0; i++) {
		setsockopt(fd[i], SOL_SOCKET, SO_SNDBUF, &buf, sizeof(buf));
		setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &buf, sizeof(buf));
	}
}

static inline void fd_reset_close(int fd)
{
	struct linger l = {1, 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

/* xorshift64*: the tests' own, seeded, so a failure comes again. */
static inline uint64_t rnd(uint64_t *x)
{
	*x ^= *x >> 12;
	*x ^= *x << 25;
	*x ^= *x >> 27;
	return *x * 0x2545f4914f6cdd1du;
}

static inline void rnd_fill(uint64_t *x, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)(rnd(x) >> 56);
}

/* A growing run of octets. */
struct pile {
	uint8_t *p;
	size_t n, cap;
};

static inline void pile_add(struct pile *v, const void *p, size_t n)
{
	if (v->n + n > v->cap) {
		v->cap = (v->n + n) * 2;
		v->p = realloc(v->p, v->cap);
		cr_assert(v->p != NULL);
	}
	memcpy(v->p + v->n, p, n);
	v->n += n;
}

static inline void pile_free(struct pile *v)
{
	free(v->p);
	*v = (struct pile){0};
}

/* Reads once, at most `max`. Octets, 0 = nothing now, -1 = end, -2 = reset. */
static inline long peer_read(int fd, struct pile *into, size_t max)
{
	static uint8_t tmp[1 << 16];
	ssize_t n = read(fd, tmp, MIN_OF(max, sizeof(tmp)));

	if (n > 0)
		pile_add(into, tmp, (size_t)n);
	if (n == 0)
		return -1;
	if (n < 0)
		return errno == EAGAIN ? 0 : -2;
	return n;
}

/* Writes what fits of `src` from *at on, at most `max`. */
static inline void peer_write(int fd, const uint8_t *src, size_t n, size_t *at, size_t max)
{
	ssize_t k;

	if (*at >= n)
		return;
	k = send(fd, src + *at, MIN_OF(n - *at, max), MSG_NOSIGNAL | MSG_DONTWAIT);
	if (k > 0)
		*at += (size_t)k;
}

#endif
