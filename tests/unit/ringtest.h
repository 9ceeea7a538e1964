/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What test_ring.c and test_hazards.c share: socket pairs, an operation that records what happened
 * to it, and turning the ring until something is true (bounded, so that a lost completion fails
 * a test instead of hanging it).
 */
#ifndef TESTS_UNIT_RINGTEST_H
#define TESTS_UNIT_RINGTEST_H

#include <criterion/criterion.h>

#include "ring/listen.h"
#include "ring/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#define PATIENCE_US 20000000u

static inline struct ring *open_with(void (*change)(struct ring_conf *c))
{
	struct ring_conf c;
	struct ring_barrier why = {{0}, {0}};
	struct ring *r;

	ring_conf_defaults(&c);
	if (change)
		change(&c);
	r = ring_open(&c, &why);
	cr_assert_not_null(r, "%s: %s", why.what, why.fix);
	return r;
}

/* Turns until `cond` holds. */
#define TURN_UNTIL(r, cond)                                     \
	do {                                                    \
		uint64_t limit_ = ring_now_us(r) + PATIENCE_US; \
		while (!(cond) && ring_now_us(r) < limit_)      \
			ring_turn((r), limit_);                 \
		cr_assert((cond), "never came true: " #cond);   \
	} while (0)

/* Everything that is due now, and once more. */
static inline void turn_now(struct ring *r)
{
	ring_turn(r, 0);
	ring_turn(r, 0);
}

struct rec {
	struct ring_op op;
	struct ring *r;
	unsigned dones, ends; /* completions; those with more == false */
	struct ring_done last;
	enum ring_res end_res;
	uint8_t *data; /* received octets, appended; owned */
	size_t n, cap;
	unsigned keep; /* lease the buffers of this many completions */
	uint16_t kept[4096];
	unsigned kept_count;
	struct ring_fd fds[64]; /* accepted */
	unsigned fd_count;
	uint32_t poll_mask;
};

static inline void rec_done(struct ring_op *op, const struct ring_done *d)
{
	struct rec *k = CONTAINER_OF(op, struct rec, op);

	k->dones++;
	k->last = *d;
	if (!d->more) {
		k->ends++;
		k->end_res = d->res;
	}
	if (d->data.n) {
		while (k->n + d->data.n > k->cap) {
			k->cap = k->cap ? 2 * k->cap : 65536;
			k->data = realloc(k->data, k->cap);
		}
		memcpy(k->data + k->n, d->data.p, d->data.n);
		k->n += d->data.n;
	}
	if (d->buf_held && k->keep) {
		k->keep--;
		ring_buf_keep(k->r, d->buf);
		k->kept[k->kept_count++] = d->buf;
	}
	if (ring_fd_ok(d->fd))
		k->fds[k->fd_count++] = d->fd;
}

static inline struct rec *rec_new(struct ring *r)
{
	struct rec *k = calloc(1, sizeof(*k));

	k->r = r;
	k->op.done = rec_done;
	return k;
}

static inline void rec_free(struct rec *k)
{
	cr_assert(!ring_op_armed(&k->op));
	free(k->data);
	free(k);
}

static inline void rec_drop_kept(struct rec *k)
{
	while (k->kept_count)
		ring_buf_drop(k->r, k->kept[--k->kept_count]);
}

static inline struct ring_addr loopback(void)
{
	struct ring_addr a;

	cr_assert(addr_parse(SPAN_LIT("127.0.0.1:0"), &a));
	return a;
}

/* A listener on a free port of 127.0.0.1; *a is where. */
static inline struct ring_fd listener(struct ring_addr *a, bool reuseport)
{
	struct ring_fd fd;

	if (addr_port(a) == 0)
		*a = loopback();
	cr_assert_eq(listen_open(a, 1024, reuseport, &fd), RING_OK);
	cr_assert_eq(ring_local_addr(NULL, fd, a), RING_OK);
	return fd;
}

/* A connected TCP pair: ours (non-blocking, for the ring) and the peer's (blocking). */
static inline void tcp_pair(struct ring_fd *ours, int *peer)
{
	struct ring_addr a = {0};
	struct ring_fd l = listener(&a, false);
	struct pollfd p = {l.v, POLLIN, 0};

	*peer = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(*peer, &a.sa, a.len), 0);
	cr_assert_eq(poll(&p, 1, 10000), 1);
	ours->v = accept4(l.v, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	cr_assert(ring_fd_ok(*ours));
	listen_close(&l);
}

static inline void unix_pair(struct ring_fd *ours, int *peer)
{
	int fd[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	fcntl(fd[0], F_SETFL, O_NONBLOCK);
	ours->v = fd[0];
	*peer = fd[1];
}

/* True when the peer sees end of input within the patience of the test. */
static inline bool peer_sees_eof(int peer)
{
	struct pollfd p = {peer, POLLIN, 0};
	char c;

	return poll(&p, 1, 10000) == 1 && recv(peer, &c, 1, MSG_DONTWAIT) == 0;
}

static inline bool peer_sees_nothing(int peer)
{
	char c;

	return recv(peer, &c, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

/* Octets whose place in the stream can be told. */
static inline void fill_pattern(uint8_t *p, size_t n, uint32_t seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
}

/* Takes the operation back and waits for its end. */
static inline void cancel_and_wait(struct ring *r, struct rec *k)
{
	ring_cancel(r, &k->op);
	TURN_UNTIL(r, !ring_op_armed(&k->op));
}

#endif
