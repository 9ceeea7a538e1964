/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The io_uring hazards U1 to U25 of the design on the real kernel, each shown to be handled by
 * ring/, or the reason why it cannot occur against ring.h.
 *
 *  U1  close does not cancel             u01_*
 *  U2  late completion of a reused slot  u02_*
 *  U3  multishot ends silently           u03_*
 *  U4  ENOBUFS storm                     u04_*; parking and fairness: test_stream.c
 *  U5  completion queue overflow         u05_*
 *  U6  submission queue full             u06_*
 *  U7  zero-copy notifications           u07_*
 *  U8  two sends in flight               one level up: stream.h sends one at a time (test_stream.c)
 *  U9  cancelled send, count unknown     u09_* (the ring reports what it knows); a broken direction
 *                                        never sends again: test_stream.c
 *  U10 linked timeouts                   not used: one wait limit per turn, ring/timer.h above
 *  U11 links and CQE_SKIP                not used
 *  U12 splice blocks a worker thread     u12_*
 *  U13 direct descriptor table full      not used: plain descriptors only
 *  U14 EMFILE ends accept                u14_*
 *  U15 no progress outside enter         u15_*
 *  U16 fork                              u16_*
 *  U17 signals                           u17_*
 *  U18 locked memory                     test_feat.c, memlock_*
 *  U19 storm of cross-core wake-ups      u19_* (an eventfd, not MSG_RING)
 *  U20 idle shown as iowait              u20_*
 *  U21 provided-ring tail                u21_*; there is no call that returns a buffer from another
 *                                        thread
 *  U22 incremental buffers               u22_*; bundles and recvmsg are not used
 *  U23 READ on sockets                   not used: RECV only; READ reads the bell's eventfd
 *  U24 hang in enter on old kernels      outside the process: supervisor (docs), kernel floor
 *  U25 SO_REUSEPORT                      u25_*; the order of closing at a drain: engine/core
 */
#include "ringtest.h"

#include "ring/feat.h"
#include "ring/ring_int.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

static void raise_nofile(void)
{
	struct rlimit l;

	getrlimit(RLIMIT_NOFILE, &l);
	l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
}

/* ---- U1 ---- */

Test(hazards, u01_close_with_an_armed_recv_is_caught, .signal = SIGABRT)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	tcp_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	ring_turn(r, 0);
	ring_close_fd(r, &s);
}

Test(hazards, u01_close_right_after_cancel_is_caught, .signal = SIGABRT)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	tcp_pair(&s, &peer);
	ring_poll(r, &k->op, s, POLLIN);
	ring_turn(r, 0);
	ring_cancel(r, &k->op);
	ring_close_fd(r, &s);
}

/* Three operations on one socket: cancel all, count all, close: the peer has its FIN at once. */
Test(hazards, u01_cancel_count_close_gives_fin)
{
	struct ring *r = open_with(NULL);
	struct rec *k[3] = {rec_new(r), rec_new(r), rec_new(r)};
	static uint8_t big[8u << 20];
	struct iovec v = {big, sizeof(big)};
	struct ring_fd s;
	int peer;
	unsigned ends = 0;
	ssize_t n;

	tcp_pair(&s, &peer);
	ring_recv(r, &k[0]->op, s, 0);
	ring_poll(r, &k[1]->op, s, POLLPRI);
	ring_send(r, &k[2]->op, s, &v, 1);
	turn_now(r);
	for (int i = 0; i < 3; i++)
		ring_cancel(r, &k[i]->op);
	while (ends < 3) {
		ring_turn(r, UINT64_MAX);
		ends = k[0]->ends + k[1]->ends + k[2]->ends;
	}
	cr_assert_eq(ends, 3);
	ring_close_fd(r, &s);
	while ((n = recv(peer, big, sizeof(big), 0)) > 0)
		;
	cr_assert_eq(n, 0);
	close(peer);
	for (int i = 0; i < 3; i++)
		rec_free(k[i]);
	ring_close(r);
}

/* ---- U2 ---- */

static struct io_uring_sqe *forge(struct ring *r, uint64_t user_data)
{
	struct io_uring_sqe *s = ring_sqe(r);

	s->opcode = IORING_OP_NOP;
	s->fd = -1;
	s->user_data = user_data;
	return s;
}

Test(hazards, u02_stale_completion_is_dropped)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r), *k2 = rec_new(r);
	struct ring_fd s;
	uint64_t old;
	uint32_t slot;
	int peer;

	unix_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	slot = k->op.slot;
	old = ring_user_data(r, slot);
	cancel_and_wait(r, k);
	ring_recv(r, &k2->op, s, 0);
	cr_assert_eq(k2->op.slot, slot, "the slot is used again");
	forge(r, old);					   /* another generation */
	forge(r, (uint64_t)(slot + 77) << 40 | KIND_RECV); /* a slot never used */
	forge(r, 0xffffffffffffffffu);
	forge(r, KIND_RECV); /* slot 0 is nobody's */
	turn_now(r);
	cr_assert_eq(ring_stats(r)->stale, 4);
	cr_assert_eq(k->dones, 1);
	cr_assert_eq(k2->dones, 0);
	cr_assert_eq(send(peer, "x", 1, 0), 1);
	TURN_UNTIL(r, k2->n == 1);
	cancel_and_wait(r, k2);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	rec_free(k2);
	ring_close(r);
}

/* What a stale completion carries does not leak: here the socket of an accept. The kernel's NOP
 * answers with a number of ours where it can (IORING_NOP_INJECT_RESULT, 6.11). */
static void answer_with(struct io_uring_sqe *nop, uint32_t res)
{
	nop->rw_flags = 1; /* nop_flags: IORING_NOP_INJECT_RESULT */
	nop->len = res;
}

Test(hazards, u02_stale_accept_is_closed)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	unix_pair(&s, &peer);
	answer_with(ring_arm(r, &k->op, KIND_POLL, IORING_OP_NOP, s.v, NULL), 4711);
	TURN_UNTIL(r, k->ends == 1);
	if (k->last.n != 4711)
		cr_skip_test("this kernel's NOP does not inject results");
	answer_with(forge(r, KIND_ACCEPT), (uint32_t)s.v);
	turn_now(r);
	cr_assert_eq(ring_stats(r)->stale, 1);
	cr_assert_lt(fcntl(s.v, F_GETFD), 0);
	cr_assert(peer_sees_eof(peer));
	close(peer);
	rec_free(k);
	ring_close(r);
}

/* The descriptor's number comes back at once for another peer: each gets its own octets. */
Test(hazards, u02_reused_descriptor_number)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r), *k2 = rec_new(r);
	struct ring_fd s, s2;
	int peer, peer2, number;

	tcp_pair(&s, &peer);
	number = s.v;
	ring_recv(r, &k->op, s, 0);
	turn_now(r);
	cancel_and_wait(r, k);
	tcp_pair(&s2, &peer2);
	ring_close_fd(r, &s);
	cr_assert_eq(dup3(s2.v, number, O_CLOEXEC), number);
	close(s2.v);
	s2.v = number;
	ring_recv(r, &k2->op, s2, 0);
	(void)!send(peer, "OLD", 3, MSG_NOSIGNAL);
	cr_assert_eq(send(peer2, "NEW", 3, 0), 3);
	TURN_UNTIL(r, k2->n == 3);
	cr_assert_eq(memcmp(k2->data, "NEW", 3), 0);
	cr_assert_eq(k->n, 0);
	cancel_and_wait(r, k2);
	ring_close_fd(r, &s2);
	close(peer);
	close(peer2);
	rec_free(k);
	rec_free(k2);
	ring_close(r);
}

/* ---- U3 ---- */

/* The receive ends with octets and RING_OK; only `more` says so. */
Test(hazards, u03_rearm_is_decided_by_more)
{
	static uint8_t out[100000];
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	unsigned arms = 0;
	int peer;

	if (!(ring_features(r) & RING_FEAT_RECV_CAP))
		cr_skip_test("needs the byte cap to make a multishot end with octets");
	fill_pattern(out, sizeof(out), 11);
	unix_pair(&s, &peer);
	cr_assert_eq(send(peer, out, sizeof(out), 0), (ssize_t)sizeof(out));
	close(peer);
	while (k->end_res != RING_EOF) {
		if (!ring_op_armed(&k->op)) {
			ring_recv(r, &k->op, s, 10000);
			arms++;
		}
		ring_turn(r, UINT64_MAX);
		cr_assert(k->last.more == ring_op_armed(&k->op));
	}
	/* Less than twice the cap each time, then the end. */
	cr_assert_geq(arms, 3);
	cr_assert_eq(k->n, sizeof(out));
	cr_assert_eq(memcmp(k->data, out, sizeof(out)), 0);
	ring_close_fd(r, &s);
	rec_free(k);
	ring_close(r);
}

/* ---- U4 ---- */

static void four_buffers(struct ring_conf *c)
{
	c->buf_count = 4;
	c->buf_bytes = 4096;
}

static void four_buffers_plain(struct ring_conf *c)
{
	four_buffers(c);
	c->features_off = RING_FEAT_PBUF_INC;
}

/* 64 senders, 4 buffers, all of them leased at first: every receive ends once with NOBUFS, then
 * nothing happens until leases are dropped; then everything arrives. */
static void check_dry_pool(void (*change)(struct ring_conf *))
{
	enum { N = 64, EACH = 20000 };
	static uint8_t out[N][EACH];
	struct ring *r = open_with(change);
	static struct rec *k[N];
	static struct ring_fd s[N];
	static int peer[N];
	uint64_t nobufs;
	unsigned done = 0, turns = 0;

	for (int i = 0; i < N; i++) {
		k[i] = rec_new(r);
		k[i]->keep = UINT32_MAX;
		unix_pair(&s[i], &peer[i]);
		fill_pattern(out[i], EACH, (uint32_t)i * 977);
		cr_assert_eq(send(peer[i], out[i], EACH, 0), EACH);
		shutdown(peer[i], SHUT_WR);
		ring_recv(r, &k[i]->op, s[i], 0);
	}
	TURN_UNTIL(r, ring_stats(r)->nobufs == N);
	cr_assert_eq(ring_bufs_free(r), 0);
	nobufs = ring_stats(r)->nobufs;
	for (int i = 0; i < 5; i++)
		ring_turn(r, ring_now_us(r) + 1000);
	cr_assert_eq(ring_stats(r)->nobufs, nobufs);
	cr_assert_eq(ring_stats(r)->rearms, N);
	for (int i = 0; i < N; i++) {
		k[i]->keep = 0;
		rec_drop_kept(k[i]);
	}
	cr_assert_eq(ring_bufs_free(r), 4);
	for (unsigned next = 0; done < N; turns++) {
		/* As many as there are buffers, in turn, as the owner of a parked list would. */
		for (unsigned i = 0, budget = ring_bufs_free(r); i < N && budget; i++) {
			unsigned j = (next + i) % N;

			if (ring_op_armed(&k[j]->op) || k[j]->end_res == RING_EOF)
				continue;
			ring_recv(r, &k[j]->op, s[j], 0);
			budget--;
		}
		next += 4;
		ring_turn(r, UINT64_MAX);
		done = 0;
		for (int i = 0; i < N; i++)
			done += k[i]->end_res == RING_EOF;
		cr_assert_lt(turns, 100000);
	}
	for (int i = 0; i < N; i++) {
		cr_assert_eq(k[i]->n, EACH);
		cr_assert_eq(memcmp(k[i]->data, out[i], EACH), 0);
		ring_close_fd(r, &s[i]);
		close(peer[i]);
		rec_free(k[i]);
	}
	cr_assert_eq(ring_bufs_free(r), 4);
	ring_close(r);
}

Test(hazards, u04_dry_pool_incremental)
{
	check_dry_pool(four_buffers);
}

Test(hazards, u04_dry_pool_plain)
{
	check_dry_pool(four_buffers_plain);
}

/* ---- U5 ---- */

static void tiny_queues(struct ring_conf *c)
{
	c->sq_entries = 8;
	c->cq_entries = 16;
	c->buf_count = 64;
	c->buf_bytes = 1024;
}

Test(hazards, u05_overflow_loses_nothing)
{
	enum { N = 100, EACH = 2500 };
	static uint8_t out[EACH];
	struct ring *r = open_with(tiny_queues);
	static struct rec *k[N];
	static struct ring_fd s[N];
	static int peer[N];
	unsigned done = 0;

	fill_pattern(out, EACH, 5);
	for (int i = 0; i < N; i++) {
		k[i] = rec_new(r);
		unix_pair(&s[i], &peer[i]);
		cr_assert_eq(send(peer[i], out, EACH, 0), EACH);
		shutdown(peer[i], SHUT_WR);
	}
	while (done < N) {
		for (int i = 0; i < N; i++)
			if (!ring_op_armed(&k[i]->op) && k[i]->end_res != RING_EOF)
				ring_recv(r, &k[i]->op, s[i], 0);
		ring_turn(r, UINT64_MAX);
		done = 0;
		for (int i = 0; i < N; i++)
			done += k[i]->end_res == RING_EOF;
	}
	cr_assert_gt(ring_stats(r)->overflows, 0);
	cr_assert_eq(ring_stats(r)->recv_bytes, N * EACH);
	for (int i = 0; i < N; i++) {
		cr_assert_eq(k[i]->n, EACH);
		cr_assert_eq(memcmp(k[i]->data, out, EACH), 0);
		ring_close_fd(r, &s[i]);
		close(peer[i]);
		rec_free(k[i]);
	}
	ring_close(r);
}

/* ---- U6 ---- */

static void sq_of_four(struct ring_conf *c)
{
	c->sq_entries = 4;
}

Test(hazards, u06_full_submission_queue)
{
	enum { N = 100 };
	struct ring *r = open_with(sq_of_four);
	static struct rec *k[N], *p[N];
	static struct ring_fd s[N];
	static int peer[N];
	struct iovec v[2] = {{"ab", 2}, {"cd", 2}};
	char in[8];

	for (int i = 0; i < N; i++) {
		k[i] = rec_new(r);
		p[i] = rec_new(r);
		unix_pair(&s[i], &peer[i]);
		ring_recv(r, &p[i]->op, s[i], 0);
		ring_send(r, &k[i]->op, s[i], v, 2);
	}
	for (int i = 0; i < N; i++)
		ring_cancel(r, &p[i]->op);
	for (int i = 0; i < N; i++) {
		TURN_UNTIL(r, k[i]->ends == 1 && p[i]->ends == 1);
		cr_assert_eq(k[i]->last.n, 4);
		cr_assert_eq(p[i]->end_res, RING_CANCELED);
		cr_assert_eq(recv(peer[i], in, sizeof(in), MSG_DONTWAIT), 4);
		ring_close_fd(r, &s[i]);
		close(peer[i]);
		rec_free(k[i]);
		rec_free(p[i]);
	}
	ring_close(r);
}

/* The queue is full when a gathered send asks for its place: what the kernel reads at the next
 * submission is still that send's own. */
Test(hazards, u06_gathered_sends_stay_apart)
{
	enum { N = 64, LEN = 8 };
	struct ring *r = open_with(sq_of_four);
	static struct rec *k[N];
	static struct ring_fd s[N];
	static char out[N][LEN];
	static int peer[N];

	for (int i = 0; i < N; i++) {
		struct iovec v[2] = {{out[i], LEN / 2}, {out[i] + LEN / 2, LEN / 2}};

		k[i] = rec_new(r);
		memset(out[i], '0' + i, LEN);
		unix_pair(&s[i], &peer[i]);
		ring_send(r, &k[i]->op, s[i], v, 2);
	}
	for (int i = 0; i < N; i++) {
		char in[LEN] = {0};

		TURN_UNTIL(r, k[i]->ends == 1);
		cr_assert_eq(k[i]->last.n, LEN);
		cr_assert_eq(recv(peer[i], in, LEN, MSG_DONTWAIT), LEN);
		cr_assert_eq(memcmp(in, out[i], LEN), 0, "octets of another send for %d", i);
		ring_close_fd(r, &s[i]);
		close(peer[i]);
		rec_free(k[i]);
	}
	ring_close(r);
}

/* ---- U7 ---- */

static void eight_zc(struct ring_conf *c)
{
	c->zc_count = 8;
	c->zc_bytes = 256u << 10;
}

/* A peer that does not read pins buffers: the count comes first (more), the buffer's release last
 * and once; after a reset all of them are back. */
Test(hazards, u07_zero_copy_releases_once)
{
	struct ring *r = open_with(eight_zc);
	struct rec *k[8];
	struct ring_zcbuf b[8];
	struct ring_fd s, p;
	int peer;
	unsigned used = 0;

	if (!(ring_features(r) & RING_FEAT_SEND_ZC) || !ring_zc_get(r, &b[0]))
		cr_skip_test("no zero-copy send here");
	ring_zc_put(r, &b[0]);
	tcp_pair(&s, &peer);
	for (; used < 8; used++) {
		k[used] = rec_new(r);
		cr_assert(ring_zc_get(r, &b[used]));
		memset(b[used].p, 'a', b[used].bytes);
		ring_zc_send(r, &k[used]->op, s, &b[used], 0, b[used].bytes);
		ring_turn(r, 0);
		ring_turn(r, ring_now_us(r) + 20000);
		if (k[used]->dones == 0) { /* the socket is full */
			used++;
			break;
		}
		cr_assert_eq(k[used]->last.res, RING_OK);
	}
	ring_cancel(r, &k[used - 1]->op);
	ring_turn(r, 0);
	p.v = peer;
	ring_linger_reset(r, p);
	ring_close_fd(r, &p);
	for (unsigned i = 0; i < used; i++) {
		TURN_UNTIL(r, k[i]->ends == 1);
		cr_assert_leq(k[i]->dones, 2);
		if (k[i]->dones == 2)
			cr_assert_eq(k[i]->last.n, 0, "the count comes with the first");
		ring_zc_put(r, &b[i]);
		rec_free(k[i]);
	}
	cr_assert_eq(ring_stats(r)->zc_sends, used);
	cr_assert_eq(ring_stats(r)->stale, 0, "nothing comes after the end");
	ring_close_fd(r, &s);
	ring_close(r); /* asserts that every buffer is back */
}

/* After its count a send is done with the descriptor: that may be closed under a peer that never
 * reads, and a reset brings the buffer back though the peer stays. */
Test(hazards, u07_a_counted_send_lets_the_descriptor_go)
{
	struct ring *r = open_with(eight_zc);
	struct rec *k = rec_new(r);
	struct ring_zcbuf b;
	struct ring_fd s;
	int peer, small = 4096;

	if (!(ring_features(r) & RING_FEAT_SEND_ZC) || !ring_zc_get(r, &b))
		cr_skip_test("no zero-copy send here");
	tcp_pair(&s, &peer);
	setsockopt(peer, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	memset(b.p, 'a', b.bytes);
	ring_zc_send(r, &k->op, s, &b, 0, b.bytes);
	TURN_UNTIL(r, k->dones == 1);
	cr_assert_eq(k->last.n, b.bytes);
	cr_assert(k->last.more, "the peer was not to take it all");
	ring_linger_reset(r, s);
	ring_close_fd(r, &s);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->dones, 2);
	ring_zc_put(r, &b);
	close(peer);
	rec_free(k);
	ring_close(r);
}

/* Registered buffers need locked memory; sends from them are not charged again (only sends from
 * other memory are), so registering is where -ENOMEM comes. */
static int zc_without_memory(void *arg)
{
	struct ring_conf c;
	struct ring_barrier why;
	struct ring_zcbuf b;
	struct rlimit l;
	struct ring *r;
	bool ok;

	ring_conf_defaults(&c);
	l.rlim_cur = l.rlim_max = feat_memlock_needed(&c) + (64u << 10);
	eight_zc(&c);
	if (setrlimit(RLIMIT_MEMLOCK, &l) || setresuid(61010, 61010, 61010))
		return 1;
	r = ring_open(&c, &why);
	if (!r)
		return 2;
	ok = !ring_zc_get(r, &b) && ring_stats(r)->zc_fallbacks == 1;
	ring_close(r);
	return ok ? 0 : 3;
}

Test(hazards, u07_no_locked_memory_means_no_buffers)
{
	pid_t p;
	int st;

	if (getuid() != 0)
		cr_skip_test("needs root to become another user");
	p = fork();
	if (p == 0)
		_exit(zc_without_memory(NULL));
	cr_assert_eq(waitpid(p, &st, 0), p);
	cr_assert_eq(st, 0);
}

/* ---- U9 ---- */

/* A send taken back in the middle ends once; when it tells a count, the peer has exactly that. */
Test(hazards, u09_cancelled_send_tells_the_truth)
{
	static uint8_t out[16u << 20], in[16u << 20];
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct iovec v[2] = {{out, sizeof(out) / 2}, {out + sizeof(out) / 2, sizeof(out) / 2}};
	struct ring_fd s;
	size_t got = 0;
	ssize_t n;
	int peer;

	fill_pattern(out, sizeof(out), 9);
	tcp_pair(&s, &peer);
	ring_send(r, &k->op, s, v, 2);
	turn_now(r);
	cr_assert_eq(k->dones, 0);
	cancel_and_wait(r, k);
	cr_assert_eq(k->dones, 1);
	ring_close_fd(r, &s);
	while ((n = recv(peer, in + got, sizeof(in) - got, 0)) > 0)
		got += (size_t)n;
	cr_assert_lt(got, sizeof(out));
	if (k->end_res == RING_OK)
		cr_assert_eq(k->last.n, got);
	else
		cr_assert_eq(k->end_res, RING_CANCELED);
	cr_assert_eq(memcmp(in, out, got), 0);
	close(peer);
	rec_free(k);
	ring_close(r);
}

/* ---- U12 ---- */

static void many_pipes(struct ring_conf *c)
{
	c->pipe_count_max = 65;
	c->pipe_bytes = 64u << 10;
}

/* 64 splices of silent sockets hold up nobody: they end with AGAIN, the one with octets moves. */
Test(hazards, u12_idle_splices_do_not_wait)
{
	enum { N = 65 };
	struct ring *r = open_with(many_pipes);
	struct ring_pipe *p[N];
	struct rec *k[N], *o = rec_new(r);
	struct ring_fd s[N], out;
	int peer[N], dst;
	char in[8];

	tcp_pair(&out, &dst);
	for (int i = 0; i < N; i++) {
		unix_pair(&s[i], &peer[i]);
		k[i] = rec_new(r);
		p[i] = ring_pipe_get(r);
		cr_assert_not_null(p[i]);
		if (i == N - 1)
			cr_assert_eq(send(peer[i], "hello", 5, 0), 5);
		ring_splice_in_op(r, &k[i]->op, s[i], p[i], 65536);
	}
	for (int i = 0; i < N; i++) {
		TURN_UNTIL(r, k[i]->ends == 1);
		cr_assert_eq(k[i]->end_res, i == N - 1 ? RING_OK : RING_AGAIN);
	}
	cr_assert_eq(k[N - 1]->last.n, 5);
	cr_assert_eq(ring_pipe_bytes(p[N - 1]), 5);
	ring_splice_out_op(r, &o->op, p[N - 1], out, 5);
	TURN_UNTIL(r, o->ends == 1);
	cr_assert_eq(o->last.n, 5);
	cr_assert_eq(ring_pipe_bytes(p[N - 1]), 0);
	cr_assert_eq(recv(dst, in, sizeof(in), 0), 5);
	close(peer[0]);
	ring_splice_in_op(r, &k[0]->op, s[0], p[0], 100);
	TURN_UNTIL(r, k[0]->ends == 2);
	cr_assert(k[0]->end_res == RING_OK && k[0]->last.n == 0, "end of input");
	for (int i = 0; i < N; i++) {
		ring_pipe_put(r, p[i]);
		ring_close_fd(r, &s[i]);
		if (i)
			close(peer[i]);
		rec_free(k[i]);
	}
	ring_close_fd(r, &out);
	close(dst);
	rec_free(o);
	ring_close(r);
}

/* ---- U14 ---- */

/* No descriptor left: accept ends, the client waits in the backlog and is served later. */
Test(hazards, u14_accept_survives_emfile)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_addr a = {0};
	struct ring_fd l = listener(&a, false);
	struct rlimit lim, low;
	int client, reserve;

	client = socket(AF_INET, SOCK_STREAM, 0);
	reserve = dup(client);
	getrlimit(RLIMIT_NOFILE, &lim);
	low = lim;
	low.rlim_cur =
		(rlim_t)reserve + 1; /* the kernel notes the limit when the accept is armed */
	setrlimit(RLIMIT_NOFILE, &low);
	while (dup(client) >= 0)
		;
	ring_accept(r, &k->op, l);
	turn_now(r);
	cr_assert_eq(connect(client, &a.sa, a.len), 0);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->end_res, RING_MFILE);
	cr_assert(peer_sees_nothing(client), "the client is not turned away");
	ring_accept(r, &k->op, l); /* too early: ends again, does not spin */
	TURN_UNTIL(r, k->ends == 2);
	close(reserve);
	ring_accept(r, &k->op, l);
	TURN_UNTIL(r, k->fd_count == 1);
	setrlimit(RLIMIT_NOFILE, &lim);
	cancel_and_wait(r, k);
	ring_close_fd(r, &k->fds[0]);
	cr_assert(peer_sees_eof(client));
	listen_close(&l);
	rec_free(k);
	ring_close(r);
}

/* ---- U15 ---- */

Test(hazards, u15_every_turn_enters)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	uint64_t before;
	int peer;

	unix_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	ring_turn(r, 0);
	before = ring_stats(r)->enters;
	cr_assert_eq(send(peer, "x", 1, 0), 1);
	ring_turn(r, 0); /* nothing to submit, nothing to wait for: still gets its events */
	cr_assert_eq(ring_stats(r)->enters, before + 1);
	cr_assert_eq(k->n, 1);
	/* Past deadlines do not wait either. */
	ring_turn(r, 1);
	cr_assert_eq(ring_stats(r)->enters, before + 2);
	cancel_and_wait(r, k);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

/* ---- U16 ---- */

Test(hazards, u16_a_child_cannot_touch_the_ring)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer, st;
	pid_t p;

	unix_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	ring_turn(r, 0);
	p = fork();
	if (p == 0) {
		dup2(open("/dev/null", O_WRONLY), 2);
		signal(SIGSEGV, SIG_DFL);
		/* The SQEs are shared memory: what a child writes there, we would submit. */
		*(volatile uint8_t *)&r->u.sq.sqes[r->sq_tail & *r->u.sq.kring_mask].opcode = 0;
		_exit(0);
	}
	cr_assert_eq(waitpid(p, &st, 0), p);
	cr_assert(!(WIFEXITED(st) && WEXITSTATUS(st) == 0), "the child reached the ring");
	cr_assert_eq(send(peer, "x", 1, 0), 1);
	TURN_UNTIL(r, k->n == 1);
	turn_now(r);
	cr_assert_eq(ring_stats(r)->stale, 0);
	cancel_and_wait(r, k);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

/* ---- U17 ---- */

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	alarms++;
}

Test(hazards, u17_signals_end_the_wait_and_nothing_else)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct sigaction sa = {.sa_handler = on_alarm};
	struct itimerval every = {{0, 2000}, {0, 2000}};
	struct itimerval off = {{0, 0}, {0, 0}};
	struct ring_fd s;
	int peer;

	unix_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	while (alarms < 10)
		ring_turn(r, UINT64_MAX); /* comes back though nothing completes */
	cr_assert_eq(k->dones, 0);
	for (size_t i = 0; i < 200; i++) {
		cr_assert_eq(send(peer, "x", 1, 0), 1);
		TURN_UNTIL(r, k->n == i + 1);
	}
	setitimer(ITIMER_REAL, &off, NULL);
	cr_assert(ring_op_armed(&k->op));
	cancel_and_wait(r, k);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

/* ---- U19 ---- */

enum { RINGERS = 4, RINGS = 20000 };

struct storm {
	struct ring_bell *bell;
	uint64_t posted; /* atomic */
	uint64_t seen;
	unsigned rung;
};

static void *storm_thread(void *arg)
{
	struct storm *m = arg;

	for (unsigned i = 0; i < RINGS; i++) {
		__atomic_fetch_add(&m->posted, 1, __ATOMIC_RELEASE);
		ring_bell_ring(m->bell);
	}
	return NULL;
}

static void storm_rung(void *arg)
{
	struct storm *m = arg;

	m->rung++;
	m->seen = __atomic_load_n(&m->posted, __ATOMIC_ACQUIRE);
}

Test(hazards, u19_bell_storm)
{
	struct ring *r = open_with(tiny_queues);
	struct storm m = {0};
	pthread_t t[RINGERS];

	m.bell = ring_bell_open(r, storm_rung, &m);
	for (int i = 0; i < RINGERS; i++)
		pthread_create(&t[i], NULL, storm_thread, &m);
	TURN_UNTIL(r, m.seen == RINGERS * RINGS);
	for (int i = 0; i < RINGERS; i++)
		pthread_join(t[i], NULL);
	turn_now(r);
	cr_assert_leq(m.rung, RINGERS * RINGS);
	ring_bell_close(r, m.bell);
	ring_close(r);
}

/* ---- U20 ---- */

Test(hazards, u20_idle_wait_is_not_iowait)
{
	struct ring *r = open_with(NULL);

	cr_assert_eq(!!(r->enter_flags & URING_ENTER_NO_IOWAIT),
		!!(ring_features(r) & RING_FEAT_NO_IOWAIT));
	ring_turn(r, ring_now_us(r) + 1000); /* and the kernel takes the flag */
	ring_close(r);
}

/* ---- U21, U22 ---- */

static void sixteen_plain(struct ring_conf *c)
{
	c->buf_count = 16;
	c->buf_bytes = 1024;
	c->features_off = RING_FEAT_PBUF_INC;
}

/* Buffers come back in another order than they were given out, many rounds of the ring's tail. */
Test(hazards, u21_buffers_return_in_any_order)
{
	struct ring *r = open_with(sixteen_plain);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	uint8_t out[1024];
	int peer;

	unix_pair(&s, &peer);
	for (unsigned round = 0; round < 200; round++) {
		size_t before = k->n;

		if (!ring_op_armed(&k->op))
			ring_recv(r, &k->op, s, 0);
		k->keep = 15;
		for (unsigned i = 0; i < 15; i++) {
			fill_pattern(out, sizeof(out), round * 16 + i);
			cr_assert_eq(send(peer, out, sizeof(out), 0), (ssize_t)sizeof(out));
			TURN_UNTIL(r, k->n == before + (i + 1) * sizeof(out));
			cr_assert_eq(
				memcmp(k->data + before + i * sizeof(out), out, sizeof(out)), 0);
		}
		cr_assert_eq(k->kept_count, 15);
		cr_assert_eq(ring_bufs_free(r), 1);
		for (unsigned i = 0; i < 15; i++) { /* 0, 7, 14, 6, ... */
			unsigned j = i * 7 % 15;

			ring_buf_drop(r, k->kept[j]);
		}
		k->kept_count = 0;
		cr_assert_eq(ring_bufs_free(r), 16);
	}
	cancel_and_wait(r, k);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

static void shared_group(struct ring_conf *c)
{
	c->buf_count = 16;
	c->buf_bytes = 16u << 10; /* small: buffers turn over often and end in mid-receive */
}

/* 1,000 sockets on one group, pieces of uneven size, some buffers leased for a while. */
Test(hazards, u22_a_thousand_sockets_share_incremental_buffers)
{
	enum { N = 1000, EACH = 6000 };
	static uint8_t out[EACH + N];
	struct ring *r = open_with(shared_group);
	static struct rec *k[N];
	static struct ring_fd s[N];
	static int peer[N];
	static unsigned sent[N];
	unsigned left = N;

	if (!(ring_features(r) & RING_FEAT_PBUF_INC))
		cr_skip_test("no RING_FEAT_PBUF_INC here");
	raise_nofile();
	fill_pattern(out, sizeof(out), 22);
	for (int i = 0; i < N; i++) {
		k[i] = rec_new(r);
		unix_pair(&s[i], &peer[i]);
		ring_recv(r, &k[i]->op, s[i], 0);
	}
	for (unsigned round = 0; left; round++) {
		left = 0;
		for (unsigned i = 0; i < N; i++) {
			size_t some = 1 + ring_random(r) % 900;
			size_t n = MIN_OF(some, EACH - sent[i]);

			if (n && ring_random(r) % 3)
				sent[i] += (unsigned)send(peer[i], out + i + sent[i], n, 0);
			k[i]->keep = round % 8 == 0 && i % 128 == 0;
			if (round % 8 == 4)
				rec_drop_kept(k[i]);
		}
		ring_turn(r, 0);
		for (unsigned i = 0; i < N; i++) {
			if (!ring_op_armed(&k[i]->op) && ring_bufs_free(r))
				ring_recv(r, &k[i]->op, s[i], 0);
			left += k[i]->n < EACH;
		}
	}
	for (unsigned i = 0; i < N; i++) {
		rec_drop_kept(k[i]);
		cr_assert_eq(k[i]->n, EACH);
		cr_assert_eq(memcmp(k[i]->data, out + i, EACH), 0);
		if (ring_op_armed(&k[i]->op))
			cancel_and_wait(r, k[i]);
		ring_close_fd(r, &s[i]);
		close(peer[i]);
		rec_free(k[i]);
	}
	ring_close(r);
}

/* ---- U25 ---- */

/* Two listeners of one group: every queued client is accepted by one of them, and a listener is
 * closed only after its accept has ended and its queue is empty. */
Test(hazards, u25_reuseport_group_serves_everyone)
{
	enum { N = 60 };
	struct ring *r = open_with(NULL);
	struct rec *k[2] = {rec_new(r), rec_new(r)};
	struct ring_addr a = {0};
	struct ring_fd l[2];
	int client[N];

	l[0] = listener(&a, true);
	l[1] = listener(&a, true);
	for (int i = 0; i < N; i++) {
		client[i] = socket(AF_INET, SOCK_STREAM, 0);
		cr_assert_eq(connect(client[i], &a.sa, a.len), 0);
	}
	ring_accept(r, &k[0]->op, l[0]);
	ring_accept(r, &k[1]->op, l[1]);
	TURN_UNTIL(r, k[0]->fd_count + k[1]->fd_count == N);
	cr_assert(k[0]->fd_count && k[1]->fd_count);
	cancel_and_wait(r, k[0]);
	listen_close(&l[0]);
	for (int i = 0; i < N; i++)
		cr_assert(peer_sees_nothing(client[i]), "nobody was reset");
	cancel_and_wait(r, k[1]);
	listen_close(&l[1]);
	for (int j = 0; j < 2; j++) {
		while (k[j]->fd_count)
			ring_close_fd(r, &k[j]->fds[--k[j]->fd_count]);
		rec_free(k[j]);
	}
	for (int i = 0; i < N; i++)
		close(client[i]);
	ring_close(r);
}
