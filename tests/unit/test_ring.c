/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring.h on the real kernel: what each call promises. The hazards have a file of their own
 * (test_hazards.c).
 */
#include "ringtest.h"

#include "ring/ring_int.h"

#include <netinet/tcp.h>
#include <pthread.h>

/* ---- turn, clock, results ---- */

Test(ring, results_have_words)
{
	cr_assert_str_eq(ring_res_word(RING_REFUSED), "ECONNREFUSED");
	cr_assert_eq(ring_res_of(0), RING_OK);
	cr_assert_eq(ring_res_of(EAGAIN), RING_AGAIN);
	cr_assert_eq(ring_res_of(EINTR), RING_CANCELED);
	cr_assert_eq(ring_res_of(EXDEV), RING_IO);
	for (int i = 0; i < RING_RES_COUNT; i++)
		cr_assert(ring_res_word(i)[0] && ring_res_text(i)[0]);
}

Test(ring, clock_moves_only_in_turns)
{
	struct ring *r = open_with(NULL);
	uint64_t t0 = ring_now_us(r), until = t0 + 30000;

	usleep(2000);
	cr_assert_eq(ring_now_us(r), t0);
	while (ring_now_us(r) < until)
		ring_turn(r, until);
	cr_assert_geq(ring_wall_us(r), 1600000000000000u);
	cr_assert_neq(ring_random(r), ring_random(r));
	cr_assert_gt(ring_stats(r)->enters, 0);
	ring_close(r);
}

/* ---- accept, connect ---- */

static void check_accept(const char *where, bool nodelay)
{
	struct ring *r = open_with(NULL);
	struct rec *acc = rec_new(r), *con = rec_new(r);
	struct ring_addr a, peer, mine;
	struct ring_fd l, c;
	int v = 0;
	socklen_t vn = sizeof(v);

	cr_assert(addr_parse(span_str(where), &a));
	cr_assert_eq(listen_open(&a, 16, false, &l), RING_OK);
	cr_assert_eq(ring_local_addr(r, l, &a), RING_OK);
	ring_accept(r, &acc->op, l);
	cr_assert_eq(ring_socket(r, &a, NULL, &c), RING_OK);
	ring_connect(r, &con->op, c, &a);
	cr_assert_eq(con->dones, 0);
	TURN_UNTIL(r, con->ends == 1 && acc->fd_count == 1);
	cr_assert_eq(con->end_res, RING_OK);
	cr_assert(acc->last.more);
	cr_assert_eq(ring_peer_addr(r, c, &peer), RING_OK);
	cr_assert(addr_equal(&peer, &a));
	if (nodelay) {
		cr_assert_eq(ring_peer_addr(r, acc->fds[0], &peer), RING_OK);
		cr_assert_eq(ring_local_addr(r, c, &mine), RING_OK);
		cr_assert(addr_equal(&peer, &mine));
		cr_assert_eq(getsockopt(acc->fds[0].v, IPPROTO_TCP, TCP_NODELAY, &v, &vn), 0);
		cr_assert_eq(v, 1);
		cr_assert_eq(getsockopt(c.v, IPPROTO_TCP, TCP_NODELAY, &v, &vn), 0);
		cr_assert_eq(v, 1);
	}
	cr_assert(fcntl(acc->fds[0].v, F_GETFL) & O_NONBLOCK);
	cr_assert(fcntl(acc->fds[0].v, F_GETFD) & FD_CLOEXEC);
	cr_assert_eq(ring_stats(r)->accepts, 1);
	cr_assert_eq(ring_stats(r)->connects, 1);
	cancel_and_wait(r, acc);
	cr_assert_eq(acc->end_res, RING_CANCELED);
	ring_close_fd(r, &acc->fds[0]);
	ring_close_fd(r, &c);
	cr_assert(!ring_fd_ok(c));
	listen_close(&l);
	rec_free(acc);
	rec_free(con);
	ring_close(r);
}

Test(ring, accept_and_connect_ipv4)
{
	check_accept("127.0.0.1:0", true);
}

Test(ring, accept_and_connect_ipv6)
{
	check_accept("[::1]:0", true);
}

Test(ring, accept_and_connect_unix)
{
	check_accept("unix:@ringpost-test-ring", false);
}

Test(ring, connect_failures_are_results)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_addr a = {0}, none;
	struct ring_fd l = listener(&a, false), c;

	listen_close(&l); /* nobody there any more */
	cr_assert_eq(ring_socket(r, &a, NULL, &c), RING_OK);
	ring_connect(r, &k->op, c, &a);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->end_res, RING_REFUSED);
	ring_close_fd(r, &c);

	cr_assert(addr_parse(SPAN_LIT("unix:/nonexistent/socket"), &none));
	cr_assert_eq(ring_socket(r, &none, NULL, &c), RING_OK);
	ring_connect(r, &k->op, c, &none);
	TURN_UNTIL(r, k->ends == 2);
	cr_assert_eq(k->end_res, RING_NOENT);
	ring_close_fd(r, &c);
	rec_free(k);
	ring_close(r);
}

Test(ring, socket_binds_to_a_source)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_addr a = {0}, src, mine;
	struct ring_fd l = listener(&a, false), c;

	cr_assert(addr_parse(SPAN_LIT("127.0.0.9:0"), &src));
	cr_assert_eq(ring_socket(r, &a, &src, &c), RING_OK);
	cr_assert_eq(ring_local_addr(r, c, &mine), RING_OK);
	cr_assert_eq(addr_port(&mine), 0, "a port was reserved before the connect");
	ring_connect(r, &k->op, c, &a);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->end_res, RING_OK);
	cr_assert_eq(ring_local_addr(r, c, &mine), RING_OK);
	cr_assert_eq(memcmp(&((struct sockaddr_in *)&mine.ss)->sin_addr,
			     &((struct sockaddr_in *)&src.ss)->sin_addr, 4),
		0);
	ring_close_fd(r, &c);
	cr_assert(addr_parse(SPAN_LIT("192.0.2.1:0"), &src));
	cr_assert_eq(ring_socket(r, &a, &src, &c), RING_ADDRNOTAVAIL);
	cr_assert(!ring_fd_ok(c));
	listen_close(&l);
	rec_free(k);
	ring_close(r);
}

/* ---- receive ---- */

static void plain(struct ring_conf *c)
{
	c->features_off = RING_FEAT_PBUF_INC;
}

static void no_defer(struct ring_conf *c)
{
	c->features_off = RING_FEAT_DEFER | RING_FEAT_REG_FD | RING_FEAT_NO_IOWAIT;
}

static void check_recv(void (*change)(struct ring_conf *))
{
	struct ring *r = open_with(change);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	tcp_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	turn_now(r);
	cr_assert_eq(k->dones, 0);
	cr_assert_eq(send(peer, "EHLO a\r\n", 8, 0), 8);
	TURN_UNTIL(r, k->n == 8);
	cr_assert(k->last.more && k->last.buf_held);
	cr_assert_eq(memcmp(k->data, "EHLO a\r\n", 8), 0);
	cr_assert_eq(send(peer, "QUIT\r\n", 6, 0), 6);
	shutdown(peer, SHUT_WR);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->end_res, RING_EOF);
	cr_assert(!k->last.buf_held);
	cr_assert_eq(k->n, 14);
	cr_assert_eq(memcmp(k->data + 8, "QUIT\r\n", 6), 0);
	cr_assert_eq(ring_stats(r)->recv_bytes, 14);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

Test(ring, recv_incremental)
{
	check_recv(NULL);
}

Test(ring, recv_plain)
{
	check_recv(plain);
}

Test(ring, recv_without_defer)
{
	check_recv(no_defer);
}

Test(ring, recv_reset)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s, ours;
	int peer;

	tcp_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	turn_now(r);
	ours.v = peer;
	ring_linger_reset(r, ours);
	ring_close_fd(r, &ours);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->end_res, RING_RESET);
	ring_close_fd(r, &s);
	rec_free(k);
	ring_close(r);
}

/* The piece that reaches the cap ends the receive; what is left comes with the next one. */
Test(ring, recv_cap)
{
	static uint8_t out[400000];
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	if (!(ring_features(r) & RING_FEAT_RECV_CAP))
		cr_skip_test("no RING_FEAT_RECV_CAP here");
	fill_pattern(out, sizeof(out), 1);
	unix_pair(&s, &peer);
	ring_recv(r, &k->op, s, 16384);
	cr_assert_eq(send(peer, out, 8000, 0), 8000);
	TURN_UNTIL(r, k->n == 8000);
	turn_now(r);
	cr_assert(ring_op_armed(&k->op), "below the cap it stays armed");
	cr_assert_eq(send(peer, out + 8000, 9000, 0), 9000);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->n, 17000);
	cr_assert(k->end_res == RING_OK);
	k->n = k->ends = 0;

	size_t sent = (size_t)send(peer, out, sizeof(out), MSG_DONTWAIT);
	cr_assert_gt(sent, 4 * 16384);
	for (size_t before = 0; before < sent; before = k->n) {
		ring_recv(r, &k->op, s, 16384);
		TURN_UNTIL(r, k->ends || k->n == sent);
		turn_now(r);
		cr_assert_lt(k->n - before, 2 * 16384);
		cr_assert(k->n - before >= 16384 || k->n == sent);
		cr_assert(!k->ends || k->end_res == RING_OK);
		k->ends = 0;
	}
	if (ring_op_armed(&k->op))
		cancel_and_wait(r, k);
	cr_assert_eq(memcmp(k->data, out, sent), 0);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

Test(ring, pool_shapes)
{
	struct ring_conf c;
	unsigned count, bytes;
	struct ring *r;

	ring_conf_defaults(&c);
	bufs_shape(&c, true, &count, &bytes);
	cr_assert(count == 16 && bytes == 256u << 10);
	bufs_shape(&c, false, &count, &bytes);
	cr_assert(count == 256 && bytes == 16u << 10, "%u x %u", count, bytes);
	c.buf_count = 16384;
	bufs_shape(&c, false, &count, &bytes);
	cr_assert(count == 32768 && bytes == 16u << 10);
	c.buf_count = 64;
	c.buf_bytes = 4096;
	bufs_shape(&c, false, &count, &bytes);
	cr_assert(count == 64 && bytes == 4096);
	r = open_with(plain);
	cr_assert_eq(ring_bufs_total(r), 256);
	cr_assert_eq(ring_bufs_free(r), 256);
	cr_assert(!(ring_features(r) & RING_FEAT_PBUF_INC));
	ring_close(r);
}

static void two_small(struct ring_conf *c)
{
	c->buf_count = 2;
	c->buf_bytes = 4096;
}

static void two_small_plain(struct ring_conf *c)
{
	two_small(c);
	c->features_off = RING_FEAT_PBUF_INC;
}

/* A lease keeps the octets in place and the buffer away from the kernel until it is dropped. */
static void check_lease(void (*change)(struct ring_conf *))
{
	static uint8_t out[4096];
	struct ring *r = open_with(change);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	const uint8_t *held;
	int peer;

	fill_pattern(out, sizeof(out), 7);
	unix_pair(&s, &peer);
	k->keep = 1;
	ring_recv(r, &k->op, s, 0);
	cr_assert_eq(send(peer, out, sizeof(out), 0), (ssize_t)sizeof(out));
	TURN_UNTIL(r, k->n == sizeof(out));
	held = k->last.data.p;
	cr_assert_eq(ring_bufs_free(r), 1);
	for (int i = 0; i < 8; i++) { /* the other buffer goes round */
		cr_assert_eq(send(peer, "x", 1, 0), 1);
		TURN_UNTIL(r, k->n == sizeof(out) + (size_t)i + 1);
	}
	cr_assert_eq(memcmp(held, out, sizeof(out)), 0);
	ring_buf_keep(r, k->kept[0]);
	ring_buf_drop(r, k->kept[0]);
	cr_assert_eq(ring_bufs_free(r), 1);
	ring_buf_drop(r, k->kept[0]);
	cr_assert_eq(ring_bufs_free(r), 2);
	cancel_and_wait(r, k);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

Test(ring, lease_incremental)
{
	check_lease(two_small);
}

Test(ring, lease_plain)
{
	check_lease(two_small_plain);
}

Test(ring, drop_too_many_is_caught, .signal = SIGABRT)
{
	struct ring *r = open_with(NULL);

	ring_buf_drop(r, 0);
}

/* ---- send ---- */

Test(ring, send_gathers_and_copies_the_iovec)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct iovec v[3] = {{"250-a\r\n", 7}, {"250 b\r\n", 7}, {"221 c\r\n", 7}};
	struct ring_fd s;
	char in[32] = {0};
	int peer;

	tcp_pair(&s, &peer);
	ring_send(r, &k->op, s, v, 3);
	memset(v, 0, sizeof(v));
	cr_assert_eq(k->dones, 0);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->last.n, 21);
	cr_assert_eq(recv(peer, in, sizeof(in), 0), 21);
	cr_assert_str_eq(in, "250-a\r\n250 b\r\n221 c\r\n");
	v[0] = (struct iovec){"QUIT\r\n", 6};
	ring_send(r, &k->op, s, v, 1);
	TURN_UNTIL(r, k->ends == 2);
	cr_assert_eq(recv(peer, in, sizeof(in), 0), 6);
	cr_assert_eq(ring_stats(r)->sends_ring, 2);
	cr_assert_eq(ring_stats(r)->send_bytes, 27);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

static void *read_slowly(void *arg)
{
	int fd = *(int *)arg;
	static uint8_t in[4u << 20];
	size_t got = 0;
	ssize_t n;

	while (got < sizeof(in) && (n = recv(fd, in + got, 50000, 0)) > 0)
		got += (size_t)n;
	return got == sizeof(in) ? in : NULL;
}

/* All or an error: one completion though the socket took it in many pieces. */
Test(ring, send_all)
{
	static uint8_t out[4u << 20];
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct iovec v[4];
	struct ring_fd s;
	pthread_t t;
	void *in;
	int peer;

	fill_pattern(out, sizeof(out), 3);
	for (int i = 0; i < 4; i++)
		v[i] = (struct iovec){out + ((size_t)i << 20), 1u << 20};
	tcp_pair(&s, &peer);
	pthread_create(&t, NULL, read_slowly, &peer);
	ring_send(r, &k->op, s, v, 4);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert_eq(k->dones, 1);
	cr_assert_eq(k->last.n, sizeof(out));
	pthread_join(t, &in);
	cr_assert_not_null(in);
	cr_assert_eq(memcmp(in, out, sizeof(out)), 0);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

Test(ring, send_now)
{
	static uint8_t big[1u << 20];
	struct ring *r = open_with(NULL);
	struct iovec v[2] = {{"a", 1}, {"bc", 2}};
	enum ring_res res;
	struct ring_fd s;
	char in[8];
	int peer;

	unix_pair(&s, &peer);
	cr_assert_eq(ring_send_now(r, s, v, 2, &res), 3);
	cr_assert_eq(res, RING_OK);
	cr_assert_eq(recv(peer, in, sizeof(in), 0), 3);
	v[0] = (struct iovec){big, sizeof(big)};
	while (ring_send_now(r, s, v, 1, &res) > 0)
		;
	cr_assert_eq(res, RING_AGAIN);
	close(peer);
	cr_assert_eq(ring_send_now(r, s, v, 1, &res), 0);
	cr_assert_eq(res, RING_PIPE); /* and no SIGPIPE */
	ring_close_fd(r, &s);
	ring_close(r);
}

/* More gathered sends in one turn than the arena of iovecs holds. */
Test(ring, send_arena_turns_over)
{
	enum { N = 100 };
	struct ring *r = open_with(NULL);
	static struct rec *k[N];
	static struct ring_fd s[N];
	static int peer[N];
	struct iovec v[RING_IOV_MAX];
	char in[RING_IOV_MAX], digits[] = "0123456789";

	for (int i = 0; i < N; i++) {
		for (unsigned j = 0; j < RING_IOV_MAX; j++)
			v[j] = (struct iovec){digits + (i + j) % 7, 1};
		unix_pair(&s[i], &peer[i]);
		k[i] = rec_new(r);
		ring_send(r, &k[i]->op, s[i], v, RING_IOV_MAX);
	}
	for (int i = 0; i < N; i++) {
		TURN_UNTIL(r, k[i]->ends == 1);
		cr_assert_eq(recv(peer[i], in, sizeof(in), 0), (ssize_t)sizeof(in));
		for (unsigned j = 0; j < RING_IOV_MAX; j++)
			cr_assert_eq(in[j], digits[(i + j) % 7]);
		ring_close_fd(r, &s[i]);
		close(peer[i]);
		rec_free(k[i]);
	}
	ring_close(r);
}

/* ---- poll, cancel, shut ---- */

Test(ring, poll_reports_the_mask)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	unix_pair(&s, &peer);
	ring_poll(r, &k->op, s, POLLIN);
	turn_now(r);
	cr_assert_eq(k->dones, 0);
	cr_assert_eq(send(peer, "x", 1, 0), 1);
	TURN_UNTIL(r, k->ends == 1);
	cr_assert(k->last.n & POLLIN);
	ring_poll(r, &k->op, s, POLLOUT);
	TURN_UNTIL(r, k->ends == 2);
	cr_assert_eq(k->last.n, POLLOUT);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

Test(ring, cancel_before_submit_and_twice)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	unix_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	ring_cancel(r, &k->op); /* same submission */
	ring_cancel(r, &k->op);
	TURN_UNTIL(r, k->ends == 1);
	turn_now(r);
	cr_assert_eq(k->end_res, RING_CANCELED);
	cr_assert_eq(k->dones, 1);
	ring_cancel(r, &k->op); /* not armed: nothing */
	turn_now(r);
	cr_assert_eq(ring_stats(r)->stale, 0);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

Test(ring, shut_sends_fin_and_still_reads)
{
	struct ring *r = open_with(NULL);
	struct rec *k = rec_new(r);
	struct ring_fd s;
	int peer;

	tcp_pair(&s, &peer);
	ring_recv(r, &k->op, s, 0);
	turn_now(r);
	ring_shut(r, s);
	cr_assert(peer_sees_eof(peer));
	cr_assert_eq(send(peer, "late", 4, 0), 4);
	TURN_UNTIL(r, k->n == 4);
	cancel_and_wait(r, k);
	ring_close_fd(r, &s);
	close(peer);
	rec_free(k);
	ring_close(r);
}

/* done() may close the descriptor, free its operation and arm another one. */
struct chain {
	struct ring_op op;
	struct ring *r;
	struct ring_fd fd;
	struct rec *next;
	struct ring_fd next_fd;
};

static void chain_done(struct ring_op *op, const struct ring_done *d)
{
	struct chain *c = CONTAINER_OF(op, struct chain, op);

	cr_assert(!d->more);
	ring_close_fd(c->r, &c->fd);
	ring_recv(c->r, &c->next->op, c->next_fd, 0);
	memset(c, 0xa5, sizeof(*c));
	free(c);
}

Test(ring, done_may_free_and_arm)
{
	struct ring *r = open_with(NULL);
	struct chain *c = calloc(1, sizeof(*c));
	struct rec *k = rec_new(r);
	int p1, p2;

	c->op.done = chain_done;
	c->r = r;
	c->next = k;
	unix_pair(&c->fd, &p1);
	unix_pair(&c->next_fd, &p2);
	struct ring_fd s2 = c->next_fd;
	ring_poll(r, &c->op, c->fd, POLLIN);
	cr_assert_eq(send(p1, "x", 1, 0), 1);
	cr_assert_eq(send(p2, "yz", 2, 0), 2);
	TURN_UNTIL(r, k->n == 2);
	cancel_and_wait(r, k);
	ring_close_fd(r, &s2);
	close(p1);
	close(p2);
	rec_free(k);
	ring_close(r);
}

/* ---- pipes ---- */

static void few_pipes(struct ring_conf *c)
{
	c->pipe_count_max = 2;
	c->pipe_bytes = 256u << 10;
}

Test(ring, pipes_are_pooled)
{
	struct ring *r = open_with(few_pipes);
	struct ring_pipe *a = ring_pipe_get(r), *b = ring_pipe_get(r);
	enum ring_res res;
	struct ring_fd s;
	int peer, fd_a;

	cr_assert(a && b && a != b);
	cr_assert_null(ring_pipe_get(r));
	cr_assert_eq(ring_pipe_room(a), 256u << 10);
	fd_a = a->rd;
	ring_pipe_put(r, a);
	cr_assert_eq(ring_pipe_get(r), a);
	cr_assert_eq(a->rd, fd_a, "an empty pipe is kept");
	unix_pair(&s, &peer);
	cr_assert_eq(send(peer, "secret", 6, 0), 6);
	cr_assert_eq(ring_splice_in(r, s, a, 100, &res), 6);
	cr_assert_eq(ring_pipe_bytes(a), 6);
	ring_pipe_put(r, a);
	a = ring_pipe_get(r);
	cr_assert_not_null(a);
	cr_assert_eq(ring_pipe_bytes(a), 0, "what was left inside is gone");
	cr_assert_eq(ring_splice_out(r, a, s, 100, &res), 0);
	cr_assert_eq(res, RING_AGAIN);
	ring_pipe_put(r, b);
	cr_assert_eq(send(peer, "more", 4, 0), 4);
	cr_assert_eq(ring_splice_in(r, s, a, 100, &res), 4);
	ring_pipe_put(r, a);
	cr_assert_eq(ring_pipe_get(r), b, "a made one comes before one that must be made");
	ring_pipe_put(r, b);
	ring_close_fd(r, &s);
	close(peer);
	ring_close(r);
}

static void no_pipes(struct ring_conf *c)
{
	c->pipe_count_max = 0;
}

Test(ring, pipes_can_be_off)
{
	struct ring *r = open_with(no_pipes);

	cr_assert_null(ring_pipe_get(r));
	ring_close(r);
}

Test(ring, splice_now_moves_and_tells)
{
	struct ring *r = open_with(few_pipes);
	struct ring_pipe *p = ring_pipe_get(r);
	enum ring_res res;
	struct ring_fd in, out;
	int src, dst;
	char got[16] = {0};

	tcp_pair(&in, &src);
	tcp_pair(&out, &dst);
	cr_assert_eq(ring_splice_in(r, in, p, 100, &res), 0);
	cr_assert_eq(res, RING_AGAIN);
	cr_assert_eq(send(src, "0123456789", 10, 0), 10);
	struct pollfd w = {in.v, POLLIN, 0};
	cr_assert_eq(poll(&w, 1, 10000), 1);
	cr_assert_eq(ring_splice_in(r, in, p, 6, &res), 6);
	cr_assert_eq(ring_splice_in(r, in, p, 100, &res), 4);
	cr_assert_eq(ring_splice_out(r, p, out, 10, &res), 10);
	cr_assert_eq(ring_pipe_bytes(p), 0);
	cr_assert_eq(recv(dst, got, sizeof(got), 0), 10);
	cr_assert_str_eq(got, "0123456789");
	shutdown(src, SHUT_WR);
	cr_assert_eq(poll(&w, 1, 10000), 1);
	cr_assert_eq(ring_splice_in(r, in, p, 100, &res), 0);
	cr_assert_eq(res, RING_EOF);
	cr_assert_eq(ring_stats(r)->splices, 5);
	ring_pipe_put(r, p);
	ring_close_fd(r, &in);
	ring_close_fd(r, &out);
	close(src);
	close(dst);
	ring_close(r);
}

/* The peer is gone: an error, not SIGPIPE. */
Test(ring, splice_to_a_closed_peer)
{
	struct ring *r = open_with(few_pipes);
	struct ring_pipe *p = ring_pipe_get(r);
	enum ring_res res;
	struct ring_fd in, out;
	int src, dst;

	unix_pair(&in, &src);
	unix_pair(&out, &dst);
	cr_assert_eq(send(src, "abc", 3, 0), 3);
	cr_assert_eq(ring_splice_in(r, in, p, 100, &res), 3);
	close(dst);
	cr_assert_eq(ring_splice_out(r, p, out, 3, &res), 0);
	cr_assert_eq(res, RING_PIPE);
	ring_pipe_put(r, p);
	ring_close_fd(r, &in);
	ring_close_fd(r, &out);
	close(src);
	ring_close(r);
}

/* ---- zero-copy ---- */

static void four_zc(struct ring_conf *c)
{
	c->zc_count = 4;
	c->zc_bytes = 64u << 10;
}

Test(ring, zc_buffers_are_counted)
{
	struct ring *r = open_with(four_zc);
	struct ring_zcbuf b[4], more;

	if (!(ring_features(r) & RING_FEAT_SEND_ZC))
		cr_skip_test("no RING_FEAT_SEND_ZC here");
	for (int i = 0; i < 4; i++) {
		cr_assert(ring_zc_get(r, &b[i]));
		memset(b[i].p, i, b[i].bytes);
	}
	cr_assert(!ring_zc_get(r, &more));
	for (int i = 0; i < 4; i++) {
		cr_assert_eq(b[i].p[0], i);
		ring_zc_put(r, &b[i]);
	}
	ring_close(r);
}

Test(ring, zc_moves_octets)
{
	static uint8_t out[40000], got[40000];
	struct ring *r = open_with(four_zc);
	struct rec *in = rec_new(r), *snd = rec_new(r);
	struct ring_zcbuf b;
	struct ring_fd a, z;
	int src, dst;

	if (!ring_zc_get(r, &b))
		cr_skip_test("no registered buffers here");
	fill_pattern(out, sizeof(out), 5);
	unix_pair(&a, &src);
	tcp_pair(&z, &dst);
	cr_assert_eq(send(src, out, sizeof(out), 0), (ssize_t)sizeof(out));
	ring_zc_recv(r, &in->op, a, &b, b.bytes);
	TURN_UNTIL(r, in->ends == 1);
	cr_assert_eq(in->last.data.p, b.p);
	cr_assert_eq(in->n, sizeof(out));
	ring_zc_send(r, &snd->op, z, &b, 100, sizeof(out) - 100);
	TURN_UNTIL(r, snd->ends == 1);
	cr_assert_eq(snd->dones, 2, "the count, then the release");
	cr_assert_eq(ring_stats(r)->zc_sends, 1);
	cr_assert_eq(ring_stats(r)->send_bytes, sizeof(out) - 100);
	cr_assert_eq(recv(dst, got, sizeof(out) - 100, MSG_WAITALL), (ssize_t)sizeof(out) - 100);
	cr_assert_eq(memcmp(got, out + 100, sizeof(out) - 100), 0);
	shutdown(src, SHUT_WR);
	ring_zc_recv(r, &in->op, a, &b, b.bytes);
	TURN_UNTIL(r, in->ends == 2);
	cr_assert_eq(in->end_res, RING_EOF);
	ring_zc_put(r, &b);
	ring_close_fd(r, &a);
	ring_close_fd(r, &z);
	close(src);
	close(dst);
	rec_free(in);
	rec_free(snd);
	ring_close(r);
}

/* ---- bell ---- */

struct counted {
	struct ring *r;
	struct ring_bell *bell;
	unsigned rung;
	bool close_it;
};

static void on_rung(void *arg)
{
	struct counted *c = arg;

	c->rung++;
	if (c->close_it)
		ring_bell_close(c->r, c->bell);
}

static void *ring_once(void *arg)
{
	ring_bell_ring(arg);
	return NULL;
}

Test(ring, bell_wakes_from_another_thread)
{
	struct counted c = {.r = open_with(NULL)};
	pthread_t t;

	c.bell = ring_bell_open(c.r, on_rung, &c);
	cr_assert_not_null(c.bell);
	turn_now(c.r);
	cr_assert_eq(c.rung, 0);
	pthread_create(&t, NULL, ring_once, c.bell);
	TURN_UNTIL(c.r, c.rung == 1);
	pthread_join(t, NULL);
	ring_bell_close(c.r, c.bell);
	ring_close(c.r); /* waits for the bell's read */
}

Test(ring, bell_may_close_itself)
{
	struct counted c = {.r = open_with(NULL), .close_it = true};

	c.bell = ring_bell_open(c.r, on_rung, &c);
	ring_bell_ring(c.bell);
	ring_bell_ring(c.bell); /* counts as one */
	TURN_UNTIL(c.r, c.rung == 1);
	turn_now(c.r);
	cr_assert_eq(c.rung, 1);
	ring_close(c.r);
}

/* ---- two cores ---- */

/* A connection to oneself, one octet, and both ends closed, many times: the other thread's ring
 * gets the same descriptor numbers in between. Nothing for ThreadSanitizer to find. */
static void *one_core(void *arg)
{
	struct ring *r = open_with(NULL);
	struct rec *acc = rec_new(r), *con = rec_new(r), *in = rec_new(r);
	struct iovec v = {"x", 1};
	struct ring_addr a = {0};
	struct ring_fd l = listener(&a, false), c;
	enum ring_res res;

	ring_accept(r, &acc->op, l);
	for (size_t i = 0; i < 200; i++) {
		cr_assert_eq(ring_socket(r, &a, NULL, &c), RING_OK);
		ring_connect(r, &con->op, c, &a);
		TURN_UNTIL(r, con->ends == i + 1 && acc->fd_count == 1);
		ring_recv(r, &in->op, acc->fds[0], 0);
		cr_assert_eq(ring_send_now(r, c, &v, 1, &res), 1);
		TURN_UNTIL(r, in->n == i + 1);
		ring_close_fd(r, &c);
		TURN_UNTIL(r, !ring_op_armed(&in->op));
		ring_close_fd(r, &acc->fds[--acc->fd_count]);
	}
	cancel_and_wait(r, acc);
	listen_close(&l);
	rec_free(acc);
	rec_free(con);
	rec_free(in);
	ring_close(r);
	return NULL;
}

Test(ring, two_cores_do_not_meet)
{
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, one_core, NULL);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
}
