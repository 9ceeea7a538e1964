/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/stream.h on real sockets: order, gathering, back-pressure, slow and stopped and vanished
 * peers, parking, every way to close, calls from inside every callback. Each test ends with nothing
 * leased, staged or open (bed_close).
 */
#include "tests/unit/node.h"

static struct bed bed;
static struct tally ta, tb;
static uint64_t seed = 0x9e3779b97f4a7c15u;

static void open_bed(void)
{
	struct ring_conf c = bed_conf();

	bed_open(&bed, &c, 8192, 2048);
}

static void turns(unsigned n)
{
	while (n-- > 0)
		bed_turn(&bed);
}

static void close_node(struct node *n)
{
	struct tally *t = n->t;

	BED_CALL(&bed, stream_close(&n->s));
	BED_UNTIL(&bed, t->closes == 1, (void)0);
	pile_free(&t->in);
}

static uint8_t *random_octets(size_t n)
{
	uint8_t *p = malloc(n);

	cr_assert(p != NULL);
	rnd_fill(&seed, p, n);
	return p;
}

static void assert_same(const struct pile *got, const uint8_t *want, size_t n)
{
	cr_assert_eq(got->n, n, "%zu octets instead of %zu", got->n, n);
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(got->p[i], want[i], "octet %zu differs", i);
}

/* ---- sending ---- */

BED_TEST(stream, one_turn_is_one_send)
{
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 0);
	n = node_adopt(&bed, &ta, fd[0]);
	for (int i = 0; i < 30; i++)
		stream_put(
			&n->s, SPAN_LIT("250 2.1.5 Recipient address is fine, go on please\r\n"));
	cr_assert_eq(ring_stats(bed.r)->sends_now, 0);
	bed_turn(&bed);
	cr_assert_eq(ring_stats(bed.r)->sends_now, 1);
	cr_assert_eq(ring_stats(bed.r)->sends_ring, 0);
	BED_UNTIL(&bed, got.n == 30 * 51, peer_read(fd[1], &got, 9999));
	cr_assert_eq(n->s.bytes_out, got.n);
	close_node(n);
	cr_assert_eq(ta.drains, 0);
	close(fd[1]);
	pile_free(&got);
	bed_close(&bed);
}

BED_TEST(stream, ring_sends_are_gathered_and_never_two)
{
	struct pile got = {0};
	uint8_t *want = random_octets(400000);
	struct node *n;
	int fd[2];
	size_t at = 0;

	open_bed();
	bed.ss.ring_sends = true;
	tcp_pair(fd, 4096);
	n = node_adopt(&bed, &ta, fd[0]);
	while (at < 400000 || got.n < 400000) {
		size_t limit = rnd(&seed) % 900 + 1;
		size_t k = MIN_OF(limit, 400000 - at);

		if (at < 400000 && stream_backlog(&n->s) < STREAM_HIGH_BYTES) {
			stream_put(&n->s, span_of(want + at, k));
			at += k;
			if (rnd(&seed) % 4)
				continue;
		}
		bed_turn(&bed);
		peer_read(fd[1], &got, 20000);
	}
	assert_same(&got, want, 400000);
	cr_assert_eq(ring_stats(bed.r)->sends_now, 0);
	close_node(n);
	close(fd[1]);
	pile_free(&got);
	free(want);
	bed_close(&bed);
}

BED_TEST(stream, a_peer_that_reads_one_octet_at_a_time)
{
	enum { N = 30000 };
	struct pile got = {0};
	uint8_t *want = random_octets(N);
	struct node *n;
	int fd[2];

	open_bed();
	unix_pair(fd, 2048);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_put(&n->s, span_of(want, N / 2));
	bed_turn(&bed);
	cr_assert(ring_op_armed(&n->s.send_op), "the socket was to be full");
	stream_put(&n->s, span_of(want + N / 2, N - N / 2));
	BED_UNTIL(&bed, got.n == N, {
		for (unsigned i = 0; i < 50; i++)
			peer_read(fd[1], &got, 1);
	});
	assert_same(&got, want, N);
	BED_UNTIL(&bed, stream_flushed(&n->s), (void)0);
	cr_assert(ta.drains >= 1);
	close_node(n);
	close(fd[1]);
	pile_free(&got);
	free(want);
	bed_close(&bed);
}

BED_TEST(stream, lasting_octets_go_in_order_and_uncopied)
{
	enum { N = 400000 };
	struct pile got = {0};
	uint8_t *want = random_octets(N);
	struct node *n;
	int fd[2];
	size_t at = 0;

	open_bed();
	tcp_pair(fd, 4096);
	n = node_adopt(&bed, &ta, fd[0]);
	while (at < N || got.n < N) {
		size_t limit = rnd(&seed) % 60000 + 1;
		size_t k = MIN_OF(limit, N - at);

		if (at < N && stream_backlog(&n->s) < STREAM_HIGH_BYTES) {
			if (rnd(&seed) % 2)
				stream_put_lasting(&n->s, span_of(want + at, k));
			else /* also into what room a piece before has left */
				stream_put(&n->s, span_of(want + at, k = MIN_OF(k, 300)));
			at += k;
			if (rnd(&seed) % 4)
				continue;
		}
		bed_turn(&bed);
		peer_read(fd[1], &got, 20000);
	}
	assert_same(&got, want, N);
	stream_put_lasting(&n->s, span_of(want, N));
	cr_assert_eq(bed.ss.cells.used, 0, "copied");
	cr_assert_eq(bed.ss.segs.used, 1);
	close_node(n); /* drops it */
	close(fd[1]);
	pile_free(&got);
	free(want);
	bed_close(&bed);
}

/* They are read until on_closed(), whatever happens before, and never after it. */
BED_TEST(stream, lasting_octets_of_a_close_in_mid_send)
{
	uint8_t *want = random_octets(1 << 20);
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	unix_pair(fd, 4096);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_put_lasting(&n->s, span_of(want, 1 << 20));
	bed_turn(&bed);
	cr_assert(ring_op_armed(&n->s.send_op), "the socket was to be full");
	stream_put_lasting(&n->s, span_of(want, 5000));
	close_node(n);
	memset(want, 0, 1 << 20);
	free(want);
	while (peer_read(fd[1], &got, 1 << 16) > 0)
		;
	cr_assert_lt(got.n, 1u << 20);
	close(fd[1]);
	pile_free(&got);
	bed_close(&bed);
}

/* A relay in which own octets are put between pieces of what arrives: order is everything. */
static struct pile expected;
static unsigned mixes;

static void mix(struct node *n, struct span data, int32_t buf)
{
	struct stream *to = &n->to->s;

	while (data.n > 0) {
		size_t limit = rnd(&seed) % (rnd(&seed) % 3 ? 20000 : 700) + 1;
		size_t k = MIN_OF(data.n, limit);

		if (rnd(&seed) % 4 == 0) {
			uint8_t own[700];
			size_t m = rnd(&seed) % sizeof(own);

			rnd_fill(&seed, own, m);
			stream_put(to, span_of(own, m));
			pile_add(&expected, own, m);
		}
		stream_pass(to, span_of(data.p, k), rnd(&seed) % 8 ? buf : -1);
		pile_add(&expected, data.p, k);
		data = span_drop(data, k);
		mixes++;
	}
	if (stream_backlog(to) > STREAM_HIGH_BYTES)
		stream_read(&n->s, false);
}

static void relay_in_order(bool tcp, int small, uint32_t features_off, unsigned bufs)
{
	enum { N = 3000000 };
	struct ring_conf c = bed_conf();
	struct pile got = {0};
	uint8_t *src = random_octets(N);
	struct node *a, *b;
	int fa[2], fb[2];
	size_t at = 0;

	c.features_off |= features_off;
	c.buf_count = bufs;
	if (features_off & RING_FEAT_PBUF_INC)
		c.buf_bytes = 16384;
	bed_open(&bed, &c, 8192, 2048);
	if (tcp) {
		tcp_pair(fa, 0);
		tcp_pair(fb, small);
	} else {
		unix_pair(fa, 0);
		unix_pair(fb, small);
	}
	a = node_adopt(&bed, &ta, fa[0]);
	b = node_adopt(&bed, &tb, fb[0]);
	node_relay(a, b);
	a->bytes = mix;
	BED_UNTIL(&bed, at == N && a->s.bytes_in == N && got.n == expected.n, {
		peer_write(fa[1], src, N, &at, rnd(&seed) % 50000 + 1);
		peer_read(fb[1], &got, rnd(&seed) % 60000 + 1);
	});
	assert_same(&got, expected.p, expected.n);
	cr_assert(mixes > 300, "%u pieces", mixes);
	cr_assert_eq(b->s.bytes_out, expected.n);
	cr_assert(tb.drains > 0, "no back-pressure in this test");
	close_node(a);
	close_node(b);
	close(fa[1]);
	close(fb[1]);
	pile_free(&got);
	pile_free(&expected);
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, order_of_random_puts_and_passes_tcp)
{
	relay_in_order(true, 8192, 0, 8);
}

BED_TEST(stream, order_of_random_puts_and_passes_unix)
{
	relay_in_order(false, 4096, 0, 8);
}

BED_TEST(stream, order_with_plain_buffers)
{
	relay_in_order(true, 8192, RING_FEAT_PBUF_INC, 8);
}

BED_TEST(stream, order_without_the_receive_cap)
{
	relay_in_order(true, 8192, RING_FEAT_RECV_CAP, 4);
}

BED_TEST(stream, order_on_a_starved_pool)
{
	relay_in_order(true, 8192, RING_FEAT_PBUF_INC | RING_FEAT_RECV_CAP, 2);
}

BED_TEST(stream, a_peer_that_stops_reading)
{
	struct pile got = {0};
	uint8_t *src = random_octets(8 << 20);
	struct node *a, *b;
	int fa[2], fb[2];
	size_t at = 0, before;

	open_bed();
	tcp_pair(fa, 0);
	tcp_pair(fb, 16384);
	a = node_adopt(&bed, &ta, fa[0]);
	b = node_adopt(&bed, &tb, fb[0]);
	node_relay(a, b);
	for (unsigned still = 0; still < 50;) {
		before = at;
		peer_write(fa[1], src, 8 << 20, &at, 8 << 20);
		bed_turn(&bed);
		still = at == before ? still + 1 : 0;
	}
	before = a->s.bytes_in;
	/* Stopped at the high mark, and not down to the low one since. */
	cr_assert(stream_backlog(&b->s) > STREAM_LOW_BYTES);
	cr_assert(stream_backlog(&b->s) < STREAM_HIGH_BYTES + (512u << 10), "no bound");
	cr_assert(stream_quiet(&a->s));
	unsigned drains = tb.drains;
	for (int i = 0; i < 50; i++) {
		peer_write(fa[1], src, 8 << 20, &at, 8 << 20);
		bed_turn(&bed);
	}
	cr_assert_eq(a->s.bytes_in, before, "it went on reading");
	/* A slow reader does not keep the pool. */
	cr_assert(ring_bufs_free(bed.r) * 2 >= bed.bufs_total);
	BED_UNTIL(&bed, tb.drains > drains, peer_read(fb[1], &got, 65536));
	BED_UNTIL(&bed, got.n == 8 << 20, {
		peer_write(fa[1], src, 8 << 20, &at, 8 << 20);
		peer_read(fb[1], &got, 65536);
	});
	assert_same(&got, src, 8 << 20);
	close_node(a);
	close_node(b);
	close(fa[1]);
	close(fb[1]);
	pile_free(&got);
	free(src);
	bed_close(&bed);
}

/* The owner reads the backlog after staging; having seen it high, it must surely hear of the end of
 * it, also when one push takes everything. */
BED_TEST(stream, drained_follows_every_high_mark)
{
	uint8_t *src = random_octets(200000);
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	unix_pair(fd, 1 << 20);
	n = node_adopt(&bed, &ta, fd[0]);
	for (unsigned round = 1; round <= 5; round++) {
		BED_CALL(&bed, stream_put(&n->s, span_of(src, 100000)));
		cr_assert(stream_backlog(&n->s) > STREAM_HIGH_BYTES);
		BED_CALL(&bed, stream_pass(&n->s, span_of(src, 9000), -1)); /* hot: all goes out */
		BED_UNTIL(&bed, ta.drains == round, peer_read(fd[1], &got, 65536));
		turns(3);
		cr_assert_eq(ta.drains, round);
	}
	BED_UNTIL(&bed, got.n == 5 * 109000, peer_read(fd[1], &got, 65536));
	/* Small things on a free socket need no telling ... */
	stream_put(&n->s, SPAN_LIT("x"));
	turns(3);
	cr_assert_eq(ta.drains, 5);
	/* ... unless asked for. */
	stream_put(&n->s, SPAN_LIT("x"));
	stream_tell_flushed(&n->s);
	turns(3);
	cr_assert_eq(ta.drains, 6);
	close_node(n);
	close(fd[1]);
	pile_free(&got);
	free(src);
	bed_close(&bed);
}

/* Octets staged behind a send in flight, more than the low mark, that all go out when it completes.
 */
BED_TEST(stream, drained_when_the_rest_leaves_in_one_push)
{
	uint8_t *src = random_octets(300000);
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	unix_pair(fd, 1 << 17);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_put(&n->s, span_of(src, 300000));
	turns(2);
	cr_assert(ring_op_armed(&n->s.send_op));
	cr_assert_eq(n->s.out_bytes, n->s.sending_bytes);
	stream_put(&n->s, span_of(src, 70000));
	unsigned before = ta.drains;
	while (peer_read(fd[1], &got, 65536) > 0)
		;
	BED_UNTIL(&bed, stream_flushed(&n->s), while (peer_read(fd[1], &got, 65536) > 0));
	turns(2);
	cr_assert(ta.drains > before);
	close_node(n);
	close(fd[1]);
	pile_free(&got);
	free(src);
	bed_close(&bed);
}

/* Closed while a failure waits to be told and a send is still in the kernel. */
BED_TEST(stream, closed_with_a_report_due_and_a_send_in_flight)
{
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(1 << 20);
	struct node *n;
	int fd[2];

	bed_open(&bed, &c, 8, 2);
	unix_pair(fd, 4096);
	n = node_adopt(&bed, &ta, fd[0]);
	BED_CALL(&bed, stream_put(&n->s, span_of(src, 1 << 20)));
	cr_assert(n->s.broken && ring_op_armed(&n->s.send_op));
	close_node(n);
	cr_assert_eq(ta.breaks, 0);
	close(fd[1]);
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, a_full_slab_breaks_the_stream_instead_of_losing_octets)
{
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(1 << 20);
	struct pile got = {0};
	struct node *n;
	int fd[2];

	bed_open(&bed, &c, 8, 2);
	unix_pair(fd, 4096);
	n = node_adopt(&bed, &ta, fd[0]);
	BED_CALL(&bed, stream_put(&n->s, span_of(src, 1 << 20)));
	cr_assert(n->s.broken);
	cr_assert_eq(ta.breaks, 0);
	BED_UNTIL(&bed, ta.breaks == 1, (void)0);
	cr_assert_eq(ta.break_res, RING_NOMEM);
	BED_CALL(&bed, stream_put(&n->s, SPAN_LIT("more")));
	BED_UNTIL(&bed, !ring_op_armed(&n->s.send_op), peer_read(fd[1], &got, 65536));
	turns(3);
	cr_assert(got.n <= 1 << 20 && memcmp(got.p, src, got.n) == 0);
	close_node(n);
	close(fd[1]);
	pile_free(&got);
	free(src);
	bed_close(&bed);
}

/* ---- failures ---- */

static void reset_in_mid_send(bool in_flight)
{
	uint8_t *src = random_octets(1 << 20);
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 8192);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_read(&n->s, true);
	if (in_flight) {
		stream_put(&n->s, span_of(src, 1 << 20));
		turns(3);
		cr_assert(ring_op_armed(&n->s.send_op));
	}
	fd_reset_close(fd[1]);
	if (!in_flight) {
		turns(3);
		BED_CALL(&bed, stream_pass(&n->s, span_of(src, 20000), -1));
		cr_assert_eq(ta.breaks, 0);
	}
	BED_UNTIL(&bed, ta.breaks == 1 && ta.ends == 1, (void)0);
	cr_assert(ta.break_res == RING_RESET || ta.break_res == RING_PIPE);
	cr_assert(ta.end_res == RING_RESET || ta.end_res == RING_EOF);
	BED_CALL(&bed, stream_put(&n->s, span_of(src, 20000)));
	cr_assert_eq(stream_backlog(&n->s), 0);
	turns(3);
	cr_assert_eq(ta.breaks, 1);
	cr_assert_eq(ta.ends, 1);
	close_node(n);
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, reset_with_a_send_in_flight)
{
	reset_in_mid_send(true);
}

BED_TEST(stream, reset_found_while_staging)
{
	reset_in_mid_send(false);
}

BED_TEST(stream, end_of_input_leaves_output_alone)
{
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 0);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_read(&n->s, true);
	cr_assert_eq(write(fd[1], "QUIT\r\n", 6), 6);
	shutdown(fd[1], SHUT_WR);
	BED_UNTIL(&bed, ta.ends == 1, (void)0);
	cr_assert_eq(ta.end_res, RING_EOF);
	cr_assert_eq(ta.in.n, 6);
	stream_read(&n->s, false);
	stream_read(&n->s, true);
	stream_put(&n->s, SPAN_LIT("221 bye\r\n"));
	BED_CALL(&bed, stream_finish(&n->s));
	BED_UNTIL(&bed, peer_read(fd[1], &got, 100) == -1, (void)0);
	cr_assert_eq(got.n, 9);
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ta.ends, 1);
	close(fd[1]);
	pile_free(&got);
	pile_free(&ta.in);
	bed_close(&bed);
}

/* ---- receiving ---- */

BED_TEST(stream, reading_off_and_on)
{
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 0);
	n = node_adopt(&bed, &ta, fd[0]);
	cr_assert(stream_quiet(&n->s));
	stream_read(&n->s, true);
	BED_CALL(&bed, stream_read(&n->s, false));
	BED_UNTIL(&bed, ta.quiets == 1, (void)0);
	cr_assert_eq(write(fd[1], "abc", 3), 3);
	turns(5);
	cr_assert_eq(ta.in.n, 0);
	stream_read(&n->s, true);
	BED_UNTIL(&bed, ta.in.n == 3, (void)0);
	/* Off and on again while the cancel is on its way: no on_quiet, nothing lost. */
	for (int i = 0; i < 20; i++) {
		BED_CALL(&bed, stream_read(&n->s, false));
		BED_CALL(&bed, stream_read(&n->s, true));
		cr_assert_eq(write(fd[1], "d", 1), 1);
		if (i % 3 == 0)
			bed_turn(&bed);
	}
	BED_UNTIL(&bed, ta.in.n == 23, (void)0);
	cr_assert_eq(ta.quiets, 1);
	/* Off with nothing armed is told as well. */
	BED_CALL(&bed, stream_read(&n->s, false));
	BED_UNTIL(&bed, ta.quiets == 2, (void)0);
	BED_CALL(&bed, stream_read(&n->s, false));
	turns(3);
	cr_assert_eq(ta.quiets, 2);
	cr_assert_eq(ta.ends, 0);
	close_node(n);
	close(fd[1]);
	bed_close(&bed);
}

static struct node *dozing_node(int fd[2])
{
	struct node *n;

	tcp_pair(fd, 0);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_read(&n->s, true);
	bed_turn(&bed);
	BED_CALL(&bed, stream_doze(&n->s));
	BED_CALL(&bed, stream_doze(&n->s));
	BED_UNTIL(&bed, !n->s.cancelling, (void)0);
	return n;
}

static uint64_t receives(void)
{
	return ring_stats(bed.r)->rearms;
}

BED_TEST(stream, a_dozing_stream_has_no_receive_until_something_comes)
{
	struct node *n;
	int fd[2];

	open_bed();
	n = dozing_node(fd);
	cr_assert_eq(receives(), 1);
	cr_assert_eq(ring_stats(bed.r)->cancels, 1);
	for (size_t i = 0; i < 3; i++) {
		cr_assert_eq(write(fd[1], "abc", 3), 3);
		BED_UNTIL(&bed, ta.in.n == 3 * (i + 1), (void)0);
		cr_assert_eq(receives(), 2 + i);
		BED_CALL(&bed, stream_doze(&n->s));
		BED_UNTIL(&bed, !n->s.cancelling, (void)0);
	}
	cr_assert_eq(receives(), 4);
	close(fd[1]);
	BED_UNTIL(&bed, ta.ends == 1, (void)0);
	cr_assert_eq(ta.end_res, RING_EOF);
	cr_assert_eq(ta.quiets, 0);
	BED_CALL(&bed, stream_doze(&n->s));
	close_node(n);
	bed_close(&bed);
}

BED_TEST(stream, a_dozing_stream_can_be_told_not_to_read)
{
	struct node *n;
	int fd[2];

	open_bed();
	n = dozing_node(fd);
	BED_CALL(&bed, stream_read(&n->s, false));
	BED_UNTIL(&bed, ta.quiets == 1, (void)0);
	BED_CALL(&bed, stream_doze(&n->s)); /* nothing to doze with */
	cr_assert_eq(write(fd[1], "abc", 3), 3);
	turns(5);
	cr_assert_eq(ta.in.n, 0);
	stream_read(&n->s, true);
	BED_UNTIL(&bed, ta.in.n == 3, (void)0);
	cr_assert_eq(receives(), 2);
	close_node(n);
	close(fd[1]);
	bed_close(&bed);
}

BED_TEST(stream, dozing_while_octets_come_loses_nothing)
{
	enum { N = 500 };
	struct node *n;
	int fd[2];

	open_bed();
	n = dozing_node(fd);
	for (unsigned i = 0; i < N; i++) {
		cr_assert_eq(write(fd[1], "d", 1), 1);
		if (i % 3 == 0)
			bed_turn(&bed);
		BED_CALL(&bed, stream_doze(&n->s));
		if (i % 5 == 0)
			bed_turn(&bed);
	}
	BED_UNTIL(&bed, ta.in.n == N, (void)0);
	close_node(n);
	close(fd[1]);
	bed_close(&bed);
}

BED_TEST(stream, dozing_streams_send_and_close)
{
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	n = dozing_node(fd);
	stream_put(&n->s, SPAN_LIT("hello"));
	BED_UNTIL(&bed, got.n == 5, peer_read(fd[1], &got, 99));
	cr_assert_eq(receives(), 1);
	close_node(n); /* while the poll is armed */
	close(fd[1]);
	n = dozing_node(fd);
	fd_reset_close(fd[1]);
	BED_UNTIL(&bed, ta.ends == 1, (void)0);
	cr_assert_eq(ta.end_res, RING_RESET);
	close_node(n);
	pile_free(&got);
	bed_close(&bed);
}

static void toggle(struct node *n, struct span data, int32_t buf)
{
	pile_add(&n->t->in, data.p, data.n);
	stream_read(&n->s, false);
	if (rnd(&seed) % 2)
		stream_read(&n->s, true);
}

static void on_again(struct node *n, const char *what)
{
	if (strcmp(what, "quiet") == 0)
		stream_read(&n->s, true);
}

BED_TEST(stream, toggling_inside_callbacks_loses_nothing)
{
	enum { N = 2000000 };
	uint8_t *src = random_octets(N);
	struct node *n;
	int fd[2];
	size_t at = 0;

	open_bed();
	tcp_pair(fd, 0);
	n = node_adopt(&bed, &ta, fd[0]);
	n->bytes = toggle;
	n->hook = on_again;
	stream_read(&n->s, true);
	BED_UNTIL(&bed, at == N && ta.in.n == N, peer_write(fd[1], src, N, &at, 20000));
	assert_same(&ta.in, src, N);
	cr_assert(ta.quiets > 5);
	n->hook = NULL;
	close_node(n);
	close(fd[1]);
	free(src);
	bed_close(&bed);
}

/* 200 relays on four buffers: receives end for want of one, park, go on in turn; nothing is lost.
 */
static void starve(uint32_t features_off)
{
	enum { PAIRS = 200, N = 200000 };
	static struct tally in_t[PAIRS], out_t[PAIRS];
	static struct node *in[PAIRS], *out[PAIRS];
	static int fa[PAIRS][2], fb[PAIRS][2];
	static struct pile got[PAIRS];
	static size_t at[PAIRS];
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(N + PAIRS);
	unsigned done = 0, parked = 0;

	c.buf_count = 4;
	c.buf_bytes = 16384;
	c.features_off |= features_off;
	bed_open(&bed, &c, 16384, 8192);
	for (unsigned i = 0; i < PAIRS; i++) {
		unix_pair(fa[i], 0);
		unix_pair(fb[i], 0);
		in[i] = node_adopt(&bed, &in_t[i], fa[i][0]);
		out[i] = node_adopt(&bed, &out_t[i], fb[i][0]);
		node_relay(in[i], out[i]);
	}
	BED_UNTIL(&bed, done == PAIRS, {
		done = 0;
		for (unsigned i = 0; i < PAIRS; i++) {
			/* Each another run of octets, so a mix-up shows. */
			peer_write(fa[i][1], src + i, N, &at[i], 70000);
			if (rnd(&seed) % 2)
				peer_read(fb[i][1], &got[i], 65536);
			done += got[i].n == N;
		}
		parked += !list_empty(&bed.ss.parked);
	});
	for (unsigned i = 0; i < PAIRS; i++) {
		assert_same(&got[i], src + i, N);
		pile_free(&got[i]);
		stream_close(&in[i]->s);
		stream_close(&out[i]->s);
	}
	cr_assert(ring_stats(bed.r)->nobufs > 0, "the pool was never dry");
	cr_assert(parked > 0);
	/* No spinning: each failed receive waited for a turn with buffers. */
	cr_assert(ring_stats(bed.r)->nobufs < ring_stats(bed.r)->rearms);
	for (unsigned i = 0; i < PAIRS; i++) {
		BED_UNTIL(&bed, in_t[i].closes == 1 && out_t[i].closes == 1, (void)0);
		close(fa[i][1]);
		close(fb[i][1]);
	}
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, two_hundred_on_four_buffers)
{
	starve(0);
}

BED_TEST(stream, two_hundred_on_four_plain_buffers_without_cap)
{
	starve(RING_FEAT_PBUF_INC | RING_FEAT_RECV_CAP);
}

/* All receives were armed while the cells were free. Then one after the other brings what it has,
 * for a socket that takes nothing: there is room for all of them. */
BED_TEST(stream, late_bursts_find_room)
{
	enum { PAIRS = 64, N = 400000, CELLS = 2500 };
	static struct tally in_t[PAIRS], out_t[PAIRS];
	static struct node *in[PAIRS], *out[PAIRS];
	static int fa[PAIRS][2], fb[PAIRS][2];
	static struct pile got[PAIRS];
	static size_t at[PAIRS];
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(N + PAIRS);

	bed_open(&bed, &c, 16384, 8192);
	/* Where nothing caps a receive, it is what the sockets hold. */
	if (ring_features(bed.r) & RING_FEAT_RECV_CAP) {
		bed.ss.cells.count_max = CELLS;
		bed.ss.segs.count_max = CELLS + 8 * PAIRS;
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		unix_pair(fa[i], 0);
		unix_pair(fb[i], 2048);
		in[i] = node_adopt(&bed, &in_t[i], fa[i][0]);
		out[i] = node_adopt(&bed, &out_t[i], fb[i][0]);
		node_relay(in[i], out[i]);
	}
	turns(2);
	for (unsigned i = 0; i < PAIRS; i++) {
		peer_write(fa[i][1], src + i, N, &at[i], N);
		turns(2);
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		BED_UNTIL(
			&bed, stream_quiet(&in[i]->s), peer_write(fa[i][1], src + i, N, &at[i], N));
		cr_assert_eq(
			out_t[i].breaks, 0, "pair %u: %s", i, ring_res_word(out_t[i].break_res));
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		BED_UNTIL(&bed, got[i].n == N, {
			peer_write(fa[i][1], src + i, N, &at[i], N);
			peer_read(fb[i][1], &got[i], 65536);
		});
		assert_same(&got[i], src + i, N);
		pile_free(&got[i]);
		stream_close(&in[i]->s);
		stream_close(&out[i]->s);
		BED_UNTIL(&bed, in_t[i].closes == 1 && out_t[i].closes == 1, (void)0);
		close(fa[i][1]);
		close(fb[i][1]);
	}
	free(src);
	bed_close(&bed);
}

/* Fifty peers that never read hold what they can of four buffers (half of the pool and the buffer
 * that is being filled, or copies). Fifty others go on: theirs is the rest, and nothing waits. */
static void slow_and_fast(bool tcp, uint32_t cells, size_t piece)
{
	enum { PAIRS = 100, N = 300000 };
	static struct tally in_t[PAIRS], out_t[PAIRS];
	static struct node *in[PAIRS], *out[PAIRS];
	static int fa[PAIRS][2], fb[PAIRS][2];
	static struct pile got[PAIRS];
	static size_t at[PAIRS];
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(N + PAIRS);
	unsigned done = 0;

	c.buf_count = 4;
	c.buf_bytes = 16384;
	bed_open(&bed, &c, 16384, cells);
	for (unsigned i = 0; i < PAIRS; i++) {
		(tcp ? tcp_pair : unix_pair)(fa[i], 8192);
		(tcp ? tcp_pair : unix_pair)(fb[i], 8192);
		in[i] = node_adopt(&bed, &in_t[i], fa[i][0]);
		out[i] = node_adopt(&bed, &out_t[i], fb[i][0]);
		node_relay(in[i], out[i]);
	}
	BED_UNTIL(&bed, done == PAIRS / 2, {
		done = 0;
		for (unsigned i = 0; i < PAIRS; i++) {
			peer_write(fa[i][1], src + i, N, &at[i], piece);
			if (i % 2 == 0)
				continue;
			peer_read(fb[i][1], &got[i], 65536);
			done += got[i].n == N;
		}
	});
	cr_assert(ring_bufs_free(bed.r) > 0);
	for (unsigned i = 0; i < PAIRS; i++) {
		if (i % 2 != 0)
			assert_same(&got[i], src + i, N);
		pile_free(&got[i]);
		stream_close(&in[i]->s);
		stream_close(&out[i]->s);
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		BED_UNTIL(&bed, in_t[i].closes == 1 && out_t[i].closes == 1, (void)0);
		close(fa[i][1]);
		close(fb[i][1]);
	}
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, slow_readers_do_not_stop_fast_ones_tcp)
{
	slow_and_fast(true, 8192, 70000);
}

BED_TEST(stream, slow_readers_do_not_stop_fast_ones_unix)
{
	slow_and_fast(false, 8192, 70000);
}

BED_TEST(stream, slow_readers_do_not_stop_fast_ones_small_pieces)
{
	slow_and_fast(false, 8192, 700);
}

/* The same, and too few cells to copy what the slow ones hold. */
BED_TEST(stream, slow_readers_do_not_stop_fast_ones_few_cells)
{
	slow_and_fast(false, 16, 70000);
}

/* One slow peer on a pool of two. */
BED_TEST(stream, a_slow_reader_leaves_one_of_two_buffers)
{
	struct ring_conf c = bed_conf();
	struct node *n[2];
	static uint8_t junk[1 << 20];
	int fa[2], fb[2];
	size_t at = 0;

	c.buf_count = 2;
	c.buf_bytes = 8192;
	bed_open(&bed, &c, 512, 256);
	unix_pair(fa, 0);
	unix_pair(fb, 4096);
	n[0] = node_adopt(&bed, &ta, fa[0]);
	n[1] = node_adopt(&bed, &tb, fb[0]);
	node_relay(n[0], n[1]);
	BED_UNTIL(&bed, stream_backlog(&n[1]->s) > STREAM_HIGH_BYTES,
		peer_write(fa[1], junk, sizeof(junk), &at, 3000));
	turns(5);
	cr_assert(ring_bufs_free(bed.r) > 0);
	close_node(n[0]);
	close_node(n[1]);
	close(fa[1]);
	close(fb[1]);
	bed_close(&bed);
}

/* The pool is dry because the owner keeps all of it: a parked stream waits, and can be turned off,
 * closed or finished while it does. */
static uint16_t kept[64];
static unsigned kept_count;

static void keep_all(struct node *n, struct span data, int32_t buf)
{
	ring_buf_keep(bed.r, (uint16_t)buf);
	kept[kept_count++] = (uint16_t)buf;
}

BED_TEST(stream, parked_streams_wait_and_can_be_closed)
{
	struct ring_conf c = bed_conf();
	struct node *hog, *n[4];
	struct tally t[4];
	int fh[2], fd[4][2];
	static uint8_t junk[1 << 16];
	size_t at = 0;

	c.features_off |= RING_FEAT_PBUF_INC;
	c.buf_count = 4;
	c.buf_bytes = 4096;
	bed_open(&bed, &c, 256, 64);
	unix_pair(fh, 0);
	hog = node_adopt(&bed, &ta, fh[0]);
	hog->bytes = keep_all;
	stream_read(&hog->s, true);
	BED_UNTIL(&bed, kept_count == bed.bufs_total && list_linked(&hog->s.parked_node),
		peer_write(fh[1], junk, sizeof(junk), &at, 65536));
	for (unsigned i = 0; i < 4; i++) {
		unix_pair(fd[i], 0);
		n[i] = node_adopt(&bed, &t[i], fd[i][0]);
		stream_read(&n[i]->s, true);
		cr_assert_eq(write(fd[i][1], "hello", 5), 5);
	}
	BED_UNTIL(&bed, list_linked(&n[3]->s.parked_node), (void)0);
	uint64_t rearms = ring_stats(bed.r)->rearms;
	turns(20);
	cr_assert_eq(ring_stats(bed.r)->rearms, rearms, "it spins");
	cr_assert_not(stream_quiet(&n[0]->s));
	BED_CALL(&bed, stream_read(&n[0]->s, false));
	cr_assert(stream_quiet(&n[0]->s));
	BED_UNTIL(&bed, t[0].quiets == 1, (void)0);
	close_node(n[1]);
	BED_CALL(&bed, stream_finish(&n[2]->s));
	BED_UNTIL(&bed, t[2].closes == 1, (void)0);
	BED_CALL(&bed, stream_close(&hog->s));
	while (kept_count > 0)
		ring_buf_drop(bed.r, kept[--kept_count]);
	stream_read(&n[0]->s, true);
	BED_UNTIL(&bed, t[0].in.n == 5 && t[3].in.n == 5 && ta.closes == 1, (void)0);
	close_node(n[0]);
	close_node(n[3]);
	close(fh[1]);
	for (unsigned i = 0; i < 4; i++)
		close(fd[i][1]);
	bed_close(&bed);
}

/* ---- closing ---- */

BED_TEST(stream, close_with_everything_armed)
{
	uint8_t *src = random_octets(1 << 20);
	struct pile got = {0};
	struct node *n;
	int fd[2];
	long last;

	open_bed();
	tcp_pair(fd, 8192);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_read(&n->s, true);
	stream_put(&n->s, span_of(src, 1 << 20));
	turns(3);
	cr_assert(ring_op_armed(&n->s.recv_op) && ring_op_armed(&n->s.send_op));
	stream_put(&n->s, span_of(src, 5000));
	BED_CALL(&bed, stream_close(&n->s));
	BED_CALL(&bed, stream_close(&n->s));
	BED_CALL(&bed, stream_put(&n->s, span_of(src, 5000)));
	BED_CALL(&bed, stream_read(&n->s, true));
	BED_CALL(&bed, stream_finish(&n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	/* A FIN, and before it only octets that belong there. */
	BED_UNTIL(&bed, (last = peer_read(fd[1], &got, 65536)) < 0, (void)0);
	cr_assert_eq(last, -1);
	cr_assert(got.n < 1 << 20 && memcmp(got.p, src, got.n) == 0);
	close(fd[1]);
	pile_free(&got);
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, finish_sends_everything_first)
{
	uint8_t *src = random_octets(300000);
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 8192);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_read(&n->s, true);
	stream_put(&n->s, span_of(src, 300000));
	BED_CALL(&bed, stream_finish(&n->s));
	turns(10);
	cr_assert_eq(ta.closes, 0);
	BED_UNTIL(&bed, peer_read(fd[1], &got, 10000) == -1, (void)0);
	assert_same(&got, src, 300000);
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ta.drains, 0);
	cr_assert_eq(ta.bytes_out, 300000);
	close(fd[1]);
	pile_free(&got);
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, finish_on_a_peer_that_resets)
{
	uint8_t *src = random_octets(300000);
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 8192);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_put(&n->s, span_of(src, 300000));
	BED_CALL(&bed, stream_finish(&n->s));
	turns(3);
	fd_reset_close(fd[1]);
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert(ta.was_broken);
	cr_assert_eq(ta.breaks, 0);
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, close_ends_a_finish_that_never_would)
{
	uint8_t *src = random_octets(300000);
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 8192);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_put(&n->s, span_of(src, 300000));
	stream_finish(&n->s);
	turns(3);
	close_node(n);
	close(fd[1]);
	free(src);
	bed_close(&bed);
}

BED_TEST(stream, reset_is_seen_as_one)
{
	struct pile got = {0};
	struct node *n;
	int fd[2];
	long last;

	open_bed();
	tcp_pair(fd, 0);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_read(&n->s, true);
	turns(1);
	BED_CALL(&bed, stream_reset(&n->s));
	BED_UNTIL(&bed, (last = peer_read(fd[1], &got, 10)) < 0, (void)0);
	cr_assert_eq(last, -2);
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	close(fd[1]);
	bed_close(&bed);
}

BED_TEST(stream, pins_hold_the_descriptor)
{
	struct pile got = {0};
	struct node *n;
	int fd[2];

	open_bed();
	tcp_pair(fd, 0);
	n = node_adopt(&bed, &ta, fd[0]);
	stream_pin(&n->s);
	stream_pin(&n->s);
	stream_close(&n->s);
	turns(5);
	stream_unpin(&n->s);
	turns(5);
	cr_assert_eq(ta.closes, 0);
	cr_assert_eq(peer_read(fd[1], &got, 1), 0);
	BED_CALL(&bed, stream_unpin(&n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	BED_UNTIL(&bed, peer_read(fd[1], &got, 1) == -1, (void)0);
	close(fd[1]);
	bed_close(&bed);
}

/* Whatever an owner closes, resets or finishes, in whichever callback, it gets on_closed() once. */
static const char *close_in;
static unsigned close_how;

static void close_inside(struct node *n, const char *what)
{
	if (strcmp(what, close_in) != 0)
		return;
	switch (close_how) {
	case 0:
		stream_close(&n->s);
		break;
	case 1:
		stream_finish(&n->s);
		break;
	case 2:
		stream_reset(&n->s);
		break;
	default:
		stream_put(&n->s, SPAN_LIT("last words"));
		stream_read(&n->s, false);
		stream_finish(&n->s);
	}
}

/* Makes `what` happen on n. */
static void provoke(struct node *n, int peer, const char *what, uint8_t *src)
{
	static struct pile got;
	size_t at = 0;

	stream_read(&n->s, true);
	if (strcmp(what, "bytes") == 0)
		BED_UNTIL(&bed, n->t->closes, peer_write(peer, src, 300000, &at, 65536));
	else if (strcmp(what, "end") == 0)
		shutdown(peer, SHUT_WR);
	else if (strcmp(what, "quiet") == 0)
		stream_read(&n->s, false);
	else
		stream_put(&n->s, span_of(src, 300000));
	if (strcmp(what, "broken") == 0) {
		turns(2);
		shutdown(peer, SHUT_RD);
		close(peer);
		peer = -1;
	}
	struct tally *t = n->t;
	BED_UNTIL(&bed, t->closes == 1, (void)(peer >= 0 && peer_read(peer, &got, 65536)));
	if (peer >= 0)
		close(peer);
	pile_free(&got);
}

BED_TEST(stream, closing_in_every_callback)
{
	static const char *const where[] = {"bytes", "end", "quiet", "drained", "broken"};
	uint8_t *src = random_octets(300000);

	open_bed();
	for (unsigned i = 0; i < ARRAY_LEN(where) * 8; i++) {
		struct node *n;
		int fd[2];

		close_in = where[i / 8];
		close_how = i % 4;
		if (i % 8 < 4)
			tcp_pair(fd, 8192);
		else
			unix_pair(fd, 8192);
		n = node_adopt(&bed, &ta, fd[0]);
		n->hook = close_inside;
		struct tally *t = n->t;
		if (strcmp(close_in, "bytes") == 0) {
			cr_assert_eq(write(fd[1], "x", 1), 1);
			stream_read(&n->s, true);
			BED_UNTIL(&bed, t->closes == 1, (void)0);
			close(fd[1]);
		} else {
			provoke(n, fd[1], close_in, src);
		}
		pile_free(&t->in);
	}
	free(src);
	bed_close(&bed);
}

/* One stream closes the other from its callback while the other has completions waiting. */
static struct node *victim;

static void close_other(struct node *n, const char *what)
{
	if (strcmp(what, "bytes") == 0 && victim != NULL) {
		stream_close(&victim->s);
		victim = NULL;
	}
}

BED_TEST(stream, closing_another_with_completions_waiting)
{
	open_bed();
	for (int i = 0; i < 100; i++) {
		struct node *a, *b;
		int fa[2], fb[2];

		unix_pair(fa, 0);
		unix_pair(fb, 0);
		a = node_adopt(&bed, &ta, fa[0]);
		b = node_adopt(&bed, &tb, fb[0]);
		victim = i % 2 ? a : b;
		(i % 2 ? b : a)->hook = close_other;
		stream_read(&a->s, true);
		stream_read(&b->s, true);
		turns(1);
		cr_assert_eq(write(fa[1], "a", 1) + write(fb[1], "b", 1), 2);
		BED_UNTIL(&bed, ta.closes + tb.closes == 1, (void)0);
		close_node(i % 2 ? b : a);
		pile_free(&ta.in);
		pile_free(&tb.in);
		close(fa[1]);
		close(fb[1]);
	}
	bed_close(&bed);
}

/* ---- dialling ---- */

static int dial(struct ring_addr *a)
{
	uint16_t port;
	int lfd = tcp_listener(&port);

	*a = loop_addr(port);
	return lfd;
}

static struct node *dialled(const struct ring_addr *a)
{
	struct node *n = node_new(&bed, &ta);

	bed.in_call = true;
	cr_assert_eq(stream_dial(&n->s, &bed.ss, &node_events, a, NULL), RING_OK);
	bed.in_call = false;
	return n;
}

BED_TEST(stream, dial_sends_what_was_staged_before)
{
	struct pile got = {0};
	struct ring_addr a;
	struct node *n;
	int lfd, fd;

	open_bed();
	lfd = dial(&a);
	n = dialled(&a);
	stream_read(&n->s, true);
	stream_put(&n->s, SPAN_LIT("EHLO x\r\n"));
	BED_UNTIL(&bed, ta.connects == 1, (void)0);
	cr_assert_eq(ta.connect_res, RING_OK);
	fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	BED_UNTIL(&bed, got.n == 8, peer_read(fd, &got, 100));
	cr_assert_eq(write(fd, "250 x\r\n", 7), 7);
	BED_UNTIL(&bed, ta.in.n == 7, (void)0);
	close_node(n);
	close(fd);
	close(lfd);
	pile_free(&got);
	bed_close(&bed);
}

BED_TEST(stream, dial_refused)
{
	struct ring_addr a;
	struct node *n;

	open_bed();
	close(dial(&a));
	n = dialled(&a);
	stream_read(&n->s, true);
	stream_put(&n->s, SPAN_LIT("EHLO x\r\n"));
	BED_UNTIL(&bed, ta.connects == 1, (void)0);
	cr_assert_eq(ta.connect_res, RING_REFUSED);
	turns(3);
	cr_assert_eq(ta.breaks + ta.ends + ta.closes, 0);
	close_node(n);
	bed_close(&bed);
}

BED_TEST(stream, dial_without_a_socket_file)
{
	struct ring_addr a = {.len = sizeof(sa_family_t) + 14};
	struct node *n;

	open_bed();
	a.ss.ss_family = AF_UNIX;
	memcpy((char *)&a.ss + sizeof(sa_family_t), "/nonexistent/x", 14);
	n = dialled(&a);
	BED_UNTIL(&bed, ta.connects == 1, (void)0);
	cr_assert_eq(ta.connect_res, RING_NOENT);
	close_node(n);
	bed_close(&bed);
}

BED_TEST(stream, dial_fails_at_once)
{
	struct ring_addr a = {.len = sizeof(sa_family_t)};
	struct node *n;

	open_bed();
	n = node_new(&bed, &ta);
	a.ss.ss_family = 99;
	cr_assert_eq(stream_dial(&n->s, &bed.ss, &node_events, &a, NULL), RING_AFNOSUPPORT);
	cr_assert(n->s.closed);
	stream_put(&n->s, SPAN_LIT("x"));
	stream_read(&n->s, true);
	stream_close(&n->s);
	stream_reset(&n->s);
	turns(3);
	cr_assert_eq(ta.closes, 0);
	free(n);
	bed_close(&bed);
}

BED_TEST(stream, close_and_finish_while_dialling)
{
	struct pile got = {0};
	struct ring_addr a;
	struct node *n;
	int lfd, fd;

	open_bed();
	lfd = dial(&a);
	n = dialled(&a);
	close_node(n);
	n = dialled(&a);
	bed_turn(&bed);
	if (ta.closes == 0 && ta.connects == 0)
		close_node(n);
	else
		close_node(n);
	n = dialled(&a);
	stream_put(&n->s, SPAN_LIT("QUIT\r\n"));
	BED_CALL(&bed, stream_finish(&n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ta.connects, 0);
	/* The last of the three connections carries the octets. */
	while (got.n == 0 && (fd = accept(lfd, NULL, NULL)) >= 0) {
		while (peer_read(fd, &got, 100) > 0)
			;
		close(fd);
	}
	cr_assert_eq(got.n, 6);
	close(lfd);
	pile_free(&got);
	bed_close(&bed);
}

/* ---- calls made at the end of the turn ---- */

static unsigned deferred_runs;
static struct deferred deferred_one;

static void deferred_run(struct deferred *d)
{
	cr_assert_eq(d, &deferred_one);
	cr_assert_not(list_linked(&d->node));
	if (++deferred_runs < 3)
		streams_defer(&bed.ss, d);
}

BED_TEST(stream, deferred_calls_run_once_each)
{
	open_bed();
	deferred_init(&deferred_one, deferred_run);
	streams_defer(&bed.ss, &deferred_one);
	streams_defer(&bed.ss, &deferred_one);
	cr_assert_eq(deferred_runs, 0);
	streams_flush(&bed.ss);
	cr_assert_eq(deferred_runs, 3);
	streams_defer(&bed.ss, &deferred_one);
	list_remove(&deferred_one.node);
	streams_flush(&bed.ss);
	cr_assert_eq(deferred_runs, 3);
	bed_close(&bed);
}

/* ---- everything at once, seeded ---- */

struct chaos {
	struct tally t[2];
	struct node *n[2];
	int peer[2];
	size_t at[2];
};

static void chaos_open(struct chaos *c)
{
	int fa[2], fb[2];

	if (rnd(&seed) % 2) {
		tcp_pair(fa, rnd(&seed) % 2 ? 8192 : 0);
		tcp_pair(fb, rnd(&seed) % 2 ? 8192 : 0);
	} else {
		unix_pair(fa, 0);
		unix_pair(fb, 0);
	}
	c->n[0] = node_adopt(&bed, &c->t[0], fa[0]);
	c->n[1] = node_adopt(&bed, &c->t[1], fb[0]);
	c->peer[0] = fa[1];
	c->peer[1] = fb[1];
	c->at[0] = c->at[1] = 0;
	node_relay(c->n[0], c->n[1]);
	node_relay(c->n[1], c->n[0]);
}

static void chaos_close(struct chaos *c, unsigned i)
{
	struct stream *s = &c->n[i]->s;

	/* The other side must not relay to one that is going to be freed. */
	c->n[i]->to = NULL;
	c->n[i]->back = NULL;
	switch (rnd(&seed) % 3) {
	case 0:
		BED_CALL(&bed, stream_close(s));
		break;
	case 1:
		BED_CALL(&bed, stream_reset(s));
		break;
	default:
		BED_CALL(&bed, stream_finish(s));
	}
}

static void chaos_step(struct chaos *c, const uint8_t *src)
{
	static struct pile sink;
	unsigned i = rnd(&seed) % 2;

	sink.n = 0;
	switch (rnd(&seed) % 40) {
	case 0:
		if (c->peer[i] >= 0) {
			fd_reset_close(c->peer[i]);
			c->peer[i] = -1;
		}
		break;
	case 1:
		if (c->peer[i] >= 0)
			shutdown(c->peer[i], SHUT_WR);
		break;
	case 2:
	case 3:
	case 4:
	case 5:
		stream_read(&c->n[i]->s, rnd(&seed) % 2);
		break;
	case 6:
	case 7:
		stream_doze(&c->n[i]->s);
		break;
	default:
		if (c->peer[i] >= 0) {
			peer_write(c->peer[i], src, 1 << 20, &c->at[i], rnd(&seed) % 100000);
			peer_read(c->peer[!i], &sink, rnd(&seed) % 65536);
		}
	}
}

BED_TEST(stream, chaos_leaves_nothing_behind)
{
	enum { SETS = 24, ROUNDS = 12 };
	static struct chaos c[SETS];
	struct ring_conf conf = bed_conf();
	uint8_t *src = random_octets(1 << 20);

	conf.buf_count = 4;
	conf.buf_bytes = 32768;
	bed_open(&bed, &conf, 4096, 1024);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < SETS; i++)
			chaos_open(&c[i]);
		for (unsigned step = 0; step < 60; step++) {
			for (unsigned i = 0; i < SETS; i++)
				chaos_step(&c[i], src);
			bed_turn(&bed);
		}
		for (unsigned i = 0; i < SETS; i++)
			for (unsigned k = 0; k < 2; k++)
				chaos_close(&c[i], k);
		for (unsigned i = 0; i < SETS; i++)
			for (unsigned k = 0; k < 2; k++)
				if (c[i].peer[k] >= 0)
					close(c[i].peer[k]);
		for (unsigned i = 0; i < SETS; i++) {
			BED_UNTIL(&bed, c[i].t[0].closes == 1 && c[i].t[1].closes == 1, (void)0);
			cr_assert(c[i].t[0].ends <= 1 && c[i].t[1].ends <= 1);
			cr_assert(c[i].t[0].breaks <= 1 && c[i].t[1].breaks <= 1);
		}
	}
	free(src);
	bed_close(&bed);
}
