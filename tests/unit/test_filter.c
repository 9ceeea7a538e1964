/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/filter.h on real sockets, with the filter of cloak.h: each sentence of the contract, the
 * counting of plain and wire octets at every point of a send, and every order in which a stream
 * with a filter can end. Each test ends with nothing leased, staged or open (bed_close).
 */
#include "tests/unit/cloak.h"

#include "ring/mover.h"

#define WIRE_AHEAD_BYTES (64u << 10)

static struct bed bed;
static struct tally ta, tb;
static struct cloak_tally ca, cb;
static uint64_t seed = 0x853c49e6748fea9bu;

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

/* A stream with a filter that waits for a hello, and its far end; both sides of the same socket. */
struct pair {
	struct node *n;
	struct far *r;
	struct tally *t;
	struct cloak_tally *c;
	uint64_t sent_before; /* wire octets of the ring when it began */
	uint64_t maybe;	      /* stream_maybe_out() the last time */
	uint64_t clear;	      /* octets that were staged before the filter came */
};

static uint64_t ring_sent(void)
{
	return ring_stats(bed.r)->send_bytes;
}

static struct pair begin_on(int fd[2], struct tally *t, struct cloak_tally *c)
{
	struct pair p = {.t = t, .c = c};

	*c = (struct cloak_tally){0};
	p.n = node_adopt(&bed, t, fd[0]);
	p.r = far_new(fd[1]);
	p.sent_before = ring_sent();
	return p;
}

enum { UNIX, TCP };

static struct pair begin(int kind, int small)
{
	struct pair p;
	int fd[2];

	if (kind == TCP)
		tcp_pair(fd, small);
	else
		unix_pair(fd, small);
	p = begin_on(fd, &ta, &ca);
	cloak_on(&p.n->s, &ca, false);
	stream_read(&p.n->s, true);
	return p;
}

static void greet(struct pair *p)
{
	far_say(p->r, CLOAK_HELLO, NULL, 0);
	BED_UNTIL(&bed, p->r->hellos == 1 && p->t->opens == 1, {
		far_write(p->r, SIZE_MAX);
		far_read(p->r, 100);
	});
}

/* Open, and nothing was said yet. */
static struct pair met(int kind, int small)
{
	struct pair p = begin(kind, small);

	greet(&p);
	cr_assert(stream_flushed(&p.n->s));
	return p;
}

/* What is left of it. */
static void end_all(struct pair *p)
{
	if (p->t->closes == 0)
		BED_CALL(&bed, stream_close(&p->n->s));
	BED_UNTIL(&bed, p->t->closes == 1, (void)0);
	cr_assert_eq(p->c->gones, 1);
	cr_assert_not(p->r->bad, "the far end met what is no record");
	cr_assert_not(p->r->late, "something behind the last words");
	far_free(p->r);
	pile_free(&p->t->in);
	free(p->c->marks);
}

static void end_test(struct pair *p)
{
	end_all(p);
	bed_close(&bed);
}

static void far_read_all(struct pair *p)
{
	while (far_read(p->r, SIZE_MAX) > 0)
		;
}

static void until_eof(struct pair *p)
{
	BED_UNTIL(&bed, p->r->eof || p->r->reset, far_read(p->r, SIZE_MAX));
}

/* The books of the only stream of the bed, of which `staged` octets were staged in all. */
static uint64_t out_by(const struct pair *p, uint64_t sent)
{
	if (sent < p->clear)
		return sent;
	return p->clear + cloak_out_by(p->c, sent - p->clear);
}

static void check_books(struct pair *p, uint64_t staged)
{
	const struct stream *s = &p->n->s;
	uint64_t sent = ring_sent() - p->sent_before;
	uint64_t maybe = stream_maybe_out(s);

	cr_assert_eq(s->bytes_out, out_by(p, sent));
	cr_assert_eq(s->bytes_out + stream_backlog(s), staged);
	cr_assert_eq(s->filter->wire_bytes, p->clear + p->c->wire - sent);
	cr_assert_eq(s->filter->sealed, p->clear + p->c->plain - s->bytes_out);
	if (ring_op_armed(&s->send_op))
		sent += s->sending_bytes;
	cr_assert_eq(maybe, out_by(p, sent));
	cr_assert(maybe >= p->maybe, "what may be out cannot come back");
	p->maybe = maybe;
	cr_assert(p->clear > 0 ||
		  s->filter->wire_bytes <= WIRE_AHEAD_BYTES + FILTER_PIECE_WIRE_BYTES);
	cr_assert_eq(stream_flushed(s), stream_backlog(s) == 0 && s->filter->wire_bytes == 0);
}

/* ---- before it opens ---- */

BED_TEST(filter, nothing_leaves_before_it_opens)
{
	struct pair p;

	open_bed();
	p = begin(UNIX, 0);
	BED_CALL(&bed, stream_put(&p.n->s, SPAN_LIT("220 hello\r\n")));
	turns(5);
	far_read(p.r, 100);
	cr_assert(p.r->datas + p.r->hellos == 0);
	cr_assert_eq(stream_backlog(&p.n->s), 11);
	cr_assert_eq(p.n->s.bytes_out, 0);
	cr_assert_not(stream_flushed(&p.n->s));
	cr_assert_eq(ca.seals, 0);
	cr_assert_eq(ta.opens, 0);
	greet(&p);
	BED_UNTIL(&bed, p.r->plain.n == 11, far_read(p.r, 100));
	cr_assert_eq(ta.opens, 1);
	cr_assert_eq(p.n->s.bytes_out, 11);
	cr_assert_eq(p.n->s.bytes_in, 0, "a handshake is no input of the owner's");
	cr_assert(stream_flushed(&p.n->s));
	end_test(&p);
}

static void say_when_open(struct node *n, const char *what)
{
	if (strcmp(what, "open") == 0)
		stream_put(&n->s, SPAN_LIT("220 hello\r\n"));
}

BED_TEST(filter, what_is_staged_when_it_opens_leaves_with_its_hello)
{
	struct pair p;
	uint64_t sends;

	open_bed();
	p = begin(TCP, 0);
	p.n->hook = say_when_open;
	sends = ring_stats(bed.r)->sends_now;
	greet(&p);
	BED_UNTIL(&bed, p.r->plain.n == 11, far_read(p.r, 100));
	cr_assert_eq(ring_stats(bed.r)->sends_now, sends + 1);
	end_test(&p);
}

BED_TEST(filter, a_hot_piece_before_it_opens_waits_and_pins_nothing)
{
	enum { N = 200000 };
	uint8_t *src = random_octets(N);
	struct node *from;
	struct pair p;
	int fd[2];
	size_t at = 0;

	open_bed();
	p = begin(UNIX, 1 << 20);
	unix_pair(fd, 0);
	from = node_adopt(&bed, &tb, fd[0]);
	node_relay(from, p.n);
	p.n->back = from;
	BED_UNTIL(&bed, at == N && from->s.bytes_in == N, {
		peer_write(fd[1], src, N, &at, N);
		stream_read(&from->s, true); /* whatever the backlog */
	});
	cr_assert_eq(stream_backlog(&p.n->s), N);
	cr_assert_eq(ring_bufs_free(bed.r), bed.bufs_total, "leased for as long as the peer likes");
	greet(&p);
	BED_UNTIL(&bed, p.r->plain.n == N, far_read(p.r, SIZE_MAX));
	assert_same(&p.r->plain, src, N);
	BED_CALL(&bed, stream_close(&from->s));
	BED_UNTIL(&bed, tb.closes == 1, (void)0);
	close(fd[1]);
	free(src);
	end_test(&p);
}

BED_TEST(filter, the_side_that_dials_speaks_first)
{
	uint16_t port;
	int lfd = tcp_listener(&port);
	struct pair p = {.t = &ta, .c = &ca};
	struct ring_addr to = loop_addr(port);
	struct cloak *c;

	close(lfd);
	open_bed();
	lfd = tcp_listener(&port);
	to = loop_addr(port);
	p.n = node_new(&bed, &ta);
	cr_assert_eq(stream_dial(&p.n->s, &bed.ss, &node_events, &to, NULL), RING_OK);
	c = cloak_on(&p.n->s, &ca, true);
	BED_CALL(&bed, cloak_say(c, CLOAK_HELLO, span_of(NULL, 0)));
	BED_CALL(&bed, stream_put(&p.n->s, SPAN_LIT("EHLO x\r\n")));
	BED_CALL(&bed, stream_read(&p.n->s, true));
	BED_UNTIL(&bed, ta.connects == 1, (void)0);
	p.r = far_new(accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
	close(lfd);
	BED_UNTIL(&bed, p.r->hellos == 1, far_read(p.r, 100));
	turns(3);
	cr_assert_eq(ca.seals, 0);
	far_say(p.r, CLOAK_HELLO, NULL, 0);
	far_say(p.r, CLOAK_DATA, "220 x\r\n", 7);
	BED_UNTIL(&bed, p.r->plain.n == 8 && ta.in.n == 7, {
		far_write(p.r, SIZE_MAX);
		far_read(p.r, 100);
	});
	cr_assert_eq(ta.opens, 1);
	end_test(&p);
}

BED_TEST(filter, a_dial_that_fails_takes_the_filter_along)
{
	uint16_t port;
	int lfd;
	struct ring_addr to;
	struct pair p = {.t = &ta, .c = &ca};
	struct cloak *c;

	open_bed();
	lfd = tcp_listener(&port);
	to = loop_addr(port);
	close(lfd);
	p.r = far_new(-1);
	p.n = node_new(&bed, &ta);
	cr_assert_eq(stream_dial(&p.n->s, &bed.ss, &node_events, &to, NULL), RING_OK);
	c = cloak_on(&p.n->s, &ca, true);
	cloak_say(c, CLOAK_HELLO, span_of(NULL, 0));
	stream_put(&p.n->s, SPAN_LIT("EHLO x\r\n"));
	BED_UNTIL(&bed, ta.connects == 1, (void)0);
	cr_assert_neq(ta.connect_res, RING_OK);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	end_all(&p);
	cr_assert_eq(ca.finishes, 0);
	bed_close(&bed);
}

BED_TEST(filter, a_handshake_that_is_refused)
{
	struct pair p;

	open_bed();
	p = begin(UNIX, 0);
	ca.refuse = true;
	BED_CALL(&bed, stream_put(&p.n->s, SPAN_LIT("220 never\r\n")));
	far_say(p.r, CLOAK_HELLO, NULL, 0);
	BED_UNTIL(&bed, p.r->nos == 1, {
		far_write(p.r, SIZE_MAX);
		far_read(p.r, 100);
	});
	cr_assert_eq(ta.ends, 1);
	cr_assert_eq(ta.end_res, RING_PROTO);
	turns(3);
	far_read_all(&p);
	cr_assert_eq(ta.opens + ta.breaks + p.r->datas, 0);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	BED_CALL(&bed, stream_finish(&p.n->s));
	until_eof(&p);
	cr_assert_eq(ca.finishes, 0, "nothing is said behind the refusal");
	end_test(&p);
}

/* ---- both ways ---- */

static struct pile expected;

static void echo(struct node *n, struct span data, int32_t buf)
{
	cr_assert_eq(buf, -1);
	pile_add(&n->t->in, data.p, data.n);
	if (data.n % 3 == 0)
		stream_put(&n->s, data);
	else
		stream_pass(&n->s, data, buf);
}

BED_TEST(filter, octets_go_both_ways_in_any_cut)
{
	struct pair p;

	open_bed();
	p = met(UNIX, 0);
	p.n->bytes = echo;
	for (unsigned i = 0; i < 200; i++) {
		uint8_t some[20000];
		size_t n = rnd(&seed) % (i % 10 ? 900 : sizeof(some)) + 1;

		rnd_fill(&seed, some, n);
		pile_add(&expected, some, n);
		far_say(p.r, CLOAK_DATA, some, n);
	}
	far_say(p.r, CLOAK_DATA, NULL, 0);
	BED_UNTIL(&bed, p.r->plain.n == expected.n, {
		far_write(p.r, rnd(&seed) % 900 + 1);
		far_read(p.r, rnd(&seed) % 1200 + 1);
	});
	assert_same(&ta.in, expected.p, expected.n);
	assert_same(&p.r->plain, expected.p, expected.n);
	cr_assert_eq(p.n->s.bytes_in, expected.n);
	cr_assert_eq(p.n->s.bytes_out, expected.n);
	pile_free(&expected);
	end_test(&p);
}

/* Own octets between pieces of what arrives; order is everything. */
static void mix(struct node *n, struct span data, int32_t buf)
{
	static const char lasting[] = "250 2.0.0 this one lasts for ever\r\n";
	struct stream *to = &n->to->s;

	while (data.n > 0) {
		size_t limit = rnd(&seed) % (rnd(&seed) % 3 ? 20000 : 700) + 1;
		size_t k = MIN_OF(data.n, limit);
		uint8_t own[700];
		size_t m = rnd(&seed) % sizeof(own);

		switch (rnd(&seed) % 6) {
		case 0:
			rnd_fill(&seed, own, m);
			stream_put(to, span_of(own, m));
			pile_add(&expected, own, m);
			break;
		case 1:
			stream_put_lasting(to, SPAN_LIT("250 2.0.0 this one lasts for ever\r\n"));
			pile_add(&expected, lasting, sizeof(lasting) - 1);
			break;
		default:
			break;
		}
		stream_pass(to, span_of(data.p, k), rnd(&seed) % 8 ? buf : -1);
		pile_add(&expected, data.p, k);
		data = span_drop(data, k);
	}
	if (stream_backlog(to) > STREAM_HIGH_BYTES)
		stream_read(&n->s, false);
}

/* From a stream, with or without a filter, to one with a filter. */
static void relay(bool cloaked, int kind, int small, unsigned bufs, bool ring_sends)
{
	enum { N = 2000000 };
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(N);
	struct pair from, to;
	int fd[2];

	c.buf_count = bufs;
	if (bufs < 4)
		c.buf_bytes = 16384;
	bed_open(&bed, &c, 8192, 2048);
	bed.ss.ring_sends = ring_sends;
	to = met(kind, small);
	unix_pair(fd, 0);
	from = begin_on(fd, &tb, &cb);
	if (cloaked) {
		cloak_on(&from.n->s, &cb, false);
		stream_read(&from.n->s, true);
		greet(&from);
		for (size_t at = 0, n; at < N; at += n) {
			n = MIN_OF((size_t)(rnd(&seed) % 30000 + 1), N - at);
			far_say(from.r, CLOAK_DATA, src + at, n);
		}
	} else {
		pile_add(&from.r->out, src, N);
		cb.gones = 1;
	}
	node_relay(from.n, to.n);
	from.n->bytes = mix;
	BED_UNTIL(&bed, from.n->s.bytes_in == N && to.r->plain.n == expected.n, {
		far_write(from.r, rnd(&seed) % 50000 + 1);
		far_read(to.r, rnd(&seed) % 60000 + 1);
		cr_assert(to.n->s.filter->wire_bytes <= WIRE_AHEAD_BYTES + FILTER_PIECE_WIRE_BYTES);
	});
	assert_same(&to.r->plain, expected.p, expected.n);
	cr_assert_eq(to.n->s.bytes_out, expected.n);
	cr_assert(ta.drains > 0, "no back-pressure in this test");
	pile_free(&expected);
	free(src);
	end_all(&from);
	end_test(&to);
}

BED_TEST(filter, order_of_random_puts_and_passes_tcp)
{
	relay(false, TCP, 8192, 8, false);
}

BED_TEST(filter, order_of_random_puts_and_passes_unix)
{
	relay(false, UNIX, 4096, 8, false);
}

BED_TEST(filter, order_on_a_starved_pool)
{
	relay(false, TCP, 8192, 2, false);
}

BED_TEST(filter, order_from_filter_to_filter)
{
	relay(true, TCP, 8192, 8, false);
}

BED_TEST(filter, order_with_sends_of_the_ring)
{
	relay(true, UNIX, 16384, 8, true);
}

/* ---- pieces and sends ---- */

BED_TEST(filter, a_turn_is_one_record_and_one_send)
{
	struct pair p;
	uint64_t sends;

	open_bed();
	p = met(TCP, 0);
	sends = ring_stats(bed.r)->sends_now;
	for (int i = 0; i < 30; i++)
		stream_put(
			&p.n->s, SPAN_LIT("250 2.1.5 Recipient address is fine, go on please\r\n"));
	cr_assert_eq(ca.seals, 0, "as late as possible");
	bed_turn(&bed);
	cr_assert_eq(ca.seals, 1);
	cr_assert_eq(ring_stats(bed.r)->sends_now, sends + 1);
	BED_UNTIL(&bed, p.r->plain.n == 30 * 51, far_read(p.r, 9999));
	cr_assert_eq(p.r->datas, 1);
	end_test(&p);
}

BED_TEST(filter, much_is_cut_into_full_pieces)
{
	enum { N = 100000 };
	uint8_t *src = random_octets(N);
	struct pair p;

	open_bed();
	p = met(UNIX, 0);
	for (size_t at = 0; at < N; at += 1000)
		stream_put(&p.n->s, span_of(src + at, 1000));
	BED_UNTIL(&bed, p.r->plain.n == N, far_read(p.r, SIZE_MAX));
	assert_same(&p.r->plain, src, N);
	cr_assert_eq(ca.seals, (N + FILTER_PIECE_BYTES - 1) / FILTER_PIECE_BYTES);
	for (unsigned i = 0; i + 1 < ca.mark_count; i++)
		cr_assert_eq(ca.marks[i].plain, (i + 1) * FILTER_PIECE_BYTES);
	free(src);
	end_test(&p);
}

BED_TEST(filter, a_hot_piece_leaves_from_inside_the_call)
{
	uint8_t *src = random_octets(20000);
	struct pair p;
	uint64_t sends;

	open_bed();
	p = met(UNIX, 1 << 20);
	sends = ring_stats(bed.r)->sends_now;
	BED_CALL(&bed, stream_pass(&p.n->s, span_of(src, 20000), -1));
	cr_assert_eq(ring_stats(bed.r)->sends_now, sends + 1);
	cr_assert_eq(ca.seals, 2);
	far_read_all(&p);
	assert_same(&p.r->plain, src, 20000);
	free(src);
	end_test(&p);
}

/* Emitted octet by octet or in lumps: what the far end reads is the same. */
BED_TEST(filter, the_way_of_emitting_does_not_matter)
{
	static const size_t parts[] = {1, 7, 449, 4095, 4096, 5000};
	uint8_t *src = random_octets(70000);

	open_bed();
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		struct pair p = met(UNIX, 8192);

		ca.part = parts[i];
		stream_put(&p.n->s, span_of(src, 70000));
		BED_UNTIL(&bed, p.r->plain.n == 70000, {
			far_read(p.r, 3000);
			check_books(&p, 70000);
		});
		assert_same(&p.r->plain, src, 70000);
		end_all(&p);
	}
	free(src);
	bed_close(&bed);
}

/* ---- counting ---- */

static void slow_peer(bool ring_sends, size_t at_once)
{
	enum { N = 600000 };
	uint8_t *src = random_octets(N);
	struct pair p;
	unsigned in_flight = 0;
	size_t staged = 0;

	open_bed();
	p = met(UNIX, 4096);
	bed.ss.ring_sends = ring_sends;
	BED_UNTIL(&bed, p.r->plain.n == N, {
		if (staged < N && stream_backlog(&p.n->s) < 200000) {
			size_t limit = rnd(&seed) % 90000 + 1;
			size_t k = MIN_OF(limit, N - staged);

			stream_put_lasting(&p.n->s, span_of(src + staged, k));
			staged += k;
		}
		far_read(p.r, rnd(&seed) % at_once + 1);
		in_flight += ring_op_armed(&p.n->s.send_op);
		check_books(&p, staged);
		cr_assert(bed.ss.cells.used <= 24, "a slow peer keeps %u cells",
			(unsigned)bed.ss.cells.used);
	});
	assert_same(&p.r->plain, src, N);
	turns(2);
	check_books(&p, N);
	cr_assert(in_flight > 100);
	cr_assert(ta.drains > 0);
	free(src);
	end_test(&p);
}

BED_TEST(filter, the_books_of_a_slow_peer)
{
	slow_peer(false, 3000);
}

BED_TEST(filter, the_books_of_a_slow_peer_with_sends_of_the_ring)
{
	slow_peer(true, 9000);
}

/* In the middle of a record: nobody can read a part of it. */
BED_TEST(filter, a_part_of_a_record_is_not_out)
{
	uint8_t *src = random_octets(FILTER_PIECE_BYTES);
	struct pair p;

	open_bed();
	p = met(UNIX, 4096);
	stream_put(&p.n->s, span_of(src, FILTER_PIECE_BYTES));
	bed_turn(&bed);
	cr_assert(ring_op_armed(&p.n->s.send_op));
	cr_assert(ring_sent() > p.sent_before + 100, "nothing was taken");
	cr_assert_eq(p.n->s.bytes_out, 0);
	cr_assert_eq(stream_backlog(&p.n->s), FILTER_PIECE_BYTES);
	cr_assert_eq(stream_maybe_out(&p.n->s), FILTER_PIECE_BYTES);
	BED_CALL(&bed, stream_close(&p.n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ta.bytes_out, 0);
	until_eof(&p);
	cr_assert_eq(p.r->datas, 0);
	free(src);
	end_test(&p);
}

BED_TEST(filter, drained_follows_every_high_mark)
{
	uint8_t *src = random_octets(100000);
	struct pair p;

	open_bed();
	p = met(UNIX, 1 << 20);
	for (unsigned round = 1; round <= 4; round++) {
		BED_CALL(&bed, stream_put(&p.n->s, span_of(src, 100000)));
		cr_assert(stream_backlog(&p.n->s) > STREAM_HIGH_BYTES);
		BED_UNTIL(&bed, ta.drains == round, far_read(p.r, 65536));
		turns(3);
		cr_assert_eq(ta.drains, round);
	}
	/* Small things on a free socket need no telling, unless asked for. */
	stream_put(&p.n->s, SPAN_LIT("x"));
	turns(3);
	cr_assert_eq(ta.drains, 4);
	stream_put(&p.n->s, SPAN_LIT("x"));
	stream_tell_flushed(&p.n->s);
	turns(3);
	cr_assert_eq(ta.drains, 5);
	free(src);
	end_test(&p);
}

/* ---- a filter that comes later ---- */

static struct node *lender;

static void pass_on(struct node *n, struct span data, int32_t buf)
{
	stream_pass(&n->to->s, data, buf);
}

/* `clear` octets: some leased, some lasting, some copied, the first of them in flight. */
static struct pair begin_late(int kind, int small, const uint8_t *src, size_t leased, size_t rest)
{
	struct pair p;
	int fd[2], lend[2];
	size_t at = 0;

	if (kind == TCP)
		tcp_pair(fd, small);
	else
		unix_pair(fd, small);
	p = begin_on(fd, &ta, &ca);
	unix_pair(lend, 1 << 20);
	lender = node_adopt(&bed, &tb, lend[0]);
	node_relay(lender, p.n);
	lender->bytes = pass_on;
	BED_UNTIL(&bed, lender->s.bytes_in == leased, peer_write(lend[1], src, leased, &at, 4000));
	close(lend[1]);
	stream_put_lasting(&p.n->s, span_of(src + leased, rest / 2));
	stream_put(&p.n->s, span_of(src + leased + rest / 2, 100));
	turns(3);
	cr_assert(ring_op_armed(&p.n->s.send_op), "the socket was to be full");
	/* Where nothing was leased: behind the octets that the send reads, in the same seg. */
	stream_put(&p.n->s, span_of(src + leased + rest / 2 + 100, rest - rest / 2 - 100));
	p.clear = p.r->clear_left = leased + rest;
	cloak_on(&p.n->s, &ca, false);
	stream_read(&p.n->s, true);
	return p;
}

static void lender_gone(void)
{
	BED_CALL(&bed, stream_close(&lender->s));
	BED_UNTIL(&bed, tb.closes == 1, (void)0);
}

BED_TEST(filter, what_was_staged_before_leaves_as_it_is)
{
	enum { LEASED = 30000, REST = 40000, LATER = 50000 };
	uint8_t *src = random_octets(LEASED + REST + LATER);
	size_t staged = LEASED + REST;
	struct pair p;

	open_bed();
	p = begin_late(UNIX, 4096, src, LEASED, REST);
	check_books(&p, staged);
	far_say(p.r, CLOAK_HELLO, NULL, 0);
	BED_UNTIL(&bed, p.r->plain.n == LATER, {
		if (staged == LEASED + REST && p.r->clear.n > 20000) {
			stream_put(&p.n->s, span_of(src + staged, LATER));
			staged += LATER;
		}
		far_write(p.r, 1);
		far_read(p.r, rnd(&seed) % 700 + 1);
		check_books(&p, staged);
	});
	assert_same(&p.r->clear, src, LEASED + REST);
	assert_same(&p.r->plain, src + LEASED + REST, LATER);
	cr_assert_eq(p.r->hellos, 1);
	free(src);
	lender_gone();
	end_test(&p);
}

static void feed_on(struct node *n, struct span data, int32_t buf)
{
	if (n->s.filter != NULL) {
		pile_add(&n->t->in, data.p, data.n);
		return;
	}
	cloak_on(&n->s, &ca, false);
	stream_feed_filter(&n->s, data);
}

BED_TEST(filter, octets_that_the_owner_had_first_are_fed_to_it)
{
	struct pair p;
	int fd[2];

	open_bed();
	unix_pair(fd, 0);
	p = begin_on(fd, &ta, &ca);
	p.n->bytes = feed_on;
	stream_read(&p.n->s, true);
	far_say(p.r, CLOAK_HELLO, NULL, 0);
	far_say(p.r, CLOAK_DATA, "one", 3);
	far_write(p.r, SIZE_MAX);
	far_say(p.r, CLOAK_DATA, "two", 3);
	BED_UNTIL(&bed, ta.in.n == 6, far_write(p.r, SIZE_MAX));
	cr_assert_eq(ta.opens, 1);
	cr_assert_eq(p.n->s.bytes_in, 6);
	end_test(&p);
}

BED_TEST(filter, closed_with_a_send_from_before_in_flight)
{
	uint8_t *src = random_octets(40000);
	struct pair p;

	open_bed();
	p = begin_late(UNIX, 4096, src, 10000, 20000);
	BED_CALL(&bed, stream_close(&p.n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ta.bytes_out, ring_sent() - p.sent_before, "what never left is counted");
	until_eof(&p);
	cr_assert_eq(p.r->clear.n, ta.bytes_out);
	cr_assert_eq(ca.finishes, 0);
	free(src);
	lender_gone();
	end_test(&p);
}

/* The send in flight ends whole; what was put behind it, in the same seg, was dropped. */
BED_TEST(filter, broken_with_a_send_from_before_in_flight)
{
	uint8_t *src = random_octets(20200);
	struct pair p;

	open_bed();
	p = begin_late(UNIX, 4096, src, 0, 20200);
	far_garble(p.r);
	BED_UNTIL(&bed, ta.ends == 1, far_write(p.r, SIZE_MAX));
	cr_assert_eq(ta.end_res, RING_PROTO);
	BED_UNTIL(&bed, !ring_op_armed(&p.n->s.send_op), far_read(p.r, 3000));
	cr_assert_eq(p.n->s.bytes_out, ring_sent() - p.sent_before, "what never left is counted");
	cr_assert_eq(p.n->s.bytes_out, 20200 / 2 + 100);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	free(src);
	lender_gone();
	end_test(&p);
}

/* ---- failures ---- */

static void seal_fails(bool hot)
{
	uint8_t *src = random_octets(100000);
	struct pair p;

	open_bed();
	p = met(UNIX, 1 << 20);
	ca.fail_at = 3;
	if (hot)
		BED_CALL(&bed, stream_pass(&p.n->s, span_of(src, 100000), -1));
	else
		BED_CALL(&bed, stream_put(&p.n->s, span_of(src, 100000)));
	cr_assert_eq(ta.breaks, 0);
	BED_UNTIL(&bed, ta.breaks == 1, (void)0);
	cr_assert_eq(ta.break_res, RING_PROTO);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	cr_assert_eq(p.n->s.filter->wire_bytes, 0);
	BED_CALL(&bed, stream_put(&p.n->s, SPAN_LIT("more")));
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	/* The input has not failed. */
	far_say(p.r, CLOAK_ASK, "now?", 4);
	far_say(p.r, CLOAK_DATA, "here", 4);
	BED_UNTIL(&bed, ta.in.n == 4, far_write(p.r, SIZE_MAX));
	turns(3);
	far_read_all(&p);
	cr_assert_eq(p.r->plain.n + p.r->answers, 0);
	cr_assert_eq(ta.breaks, 1);
	BED_CALL(&bed, stream_finish(&p.n->s));
	until_eof(&p);
	cr_assert_eq(ca.finishes, 0);
	free(src);
	end_test(&p);
}

BED_TEST(filter, sealing_fails_at_the_end_of_a_turn)
{
	seal_fails(false);
}

BED_TEST(filter, sealing_fails_in_a_hot_call)
{
	seal_fails(true);
}

BED_TEST(filter, sealing_fails_behind_a_send_in_flight)
{
	uint8_t *src = random_octets(300000);
	struct pair p;

	open_bed();
	p = met(UNIX, 4096);
	ca.fail_at = 9;
	stream_put(&p.n->s, span_of(src, 300000));
	BED_UNTIL(&bed, ta.breaks == 1, far_read(p.r, 5000));
	cr_assert_eq(ta.break_res, RING_PROTO);
	turns(3);
	far_read_all(&p);
	cr_assert_eq(p.r->plain.n, p.n->s.bytes_out);
	cr_assert(memcmp(p.r->plain.p, src, p.r->plain.n) == 0);
	free(src);
	end_test(&p);
}

/* The piece is there until to_wire() has returned, whatever becomes of the stream meanwhile. */
BED_TEST(filter, no_room_while_sealing)
{
	struct pair p;

	open_bed();
	p = met(UNIX, 0);
	ca.scribble = true;
	BED_CALL(&bed, stream_put(&p.n->s, SPAN_LIT("250 ok\r\n")));
	BED_UNTIL(&bed, ta.breaks == 1, (void)0);
	cr_assert_eq(ta.break_res, RING_NOMEM);
	cr_assert_eq(p.n->s.filter->wire_bytes, 0);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	end_test(&p);
}

BED_TEST(filter, no_seg_left_breaks_the_stream)
{
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(FILTER_PIECE_BYTES);
	struct pair p;

	bed_open(&bed, &c, 30, 8);
	p = met(UNIX, 0);
	BED_CALL(&bed, stream_put_lasting(&p.n->s, span_of(src, FILTER_PIECE_BYTES)));
	BED_UNTIL(&bed, ta.breaks == 1, (void)0);
	cr_assert_eq(ta.break_res, RING_NOMEM);
	far_read_all(&p);
	cr_assert_eq(p.r->datas, 0);
	free(src);
	end_test(&p);
}

/* Cells are for larger copies; where others have them all, there are segs. */
BED_TEST(filter, without_a_cell_there_are_segs)
{
	enum { CELLS = 16 };
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(FILTER_PIECE_BYTES);
	void *cells[CELLS];
	struct pair p;

	bed_open(&bed, &c, 120, CELLS);
	p = met(UNIX, 1 << 20);
	for (unsigned i = 0; i < CELLS; i++)
		cells[i] = slab_get(&bed.ss.cells);
	stream_put(&p.n->s, SPAN_LIT("250 ok\r\n"));
	BED_UNTIL(&bed, p.r->plain.n == 8, far_read(p.r, 100));
	stream_put(&p.n->s, span_of(src, FILTER_PIECE_BYTES));
	BED_UNTIL(&bed, p.r->plain.n == 8 + FILTER_PIECE_BYTES, far_read(p.r, SIZE_MAX));
	cr_assert_eq(ta.breaks, 0);
	for (unsigned i = 0; i < CELLS; i++)
		slab_put(&bed.ss.cells, cells[i]);
	free(src);
	end_test(&p);
}

/* A peer that has much answered and reads nothing does not get all of the memory. */
BED_TEST(filter, answers_that_nobody_reads_have_a_bound)
{
	uint8_t some[1000] = {0};
	struct pair p;
	uint32_t most = 0;

	open_bed();
	p = met(UNIX, 4096);
	BED_UNTIL(&bed, ta.breaks == 1, {
		for (unsigned i = 0; i < 10; i++)
			far_say(p.r, CLOAK_ASK, some, rnd(&seed) % sizeof(some));
		far_write(p.r, SIZE_MAX);
		most = MAX_OF(most, p.n->s.filter->wire_bytes);
		cr_assert(p.r->out.n < 10 << 20, "no bound");
	});
	cr_assert_eq(ta.break_res, RING_NOMEM);
	cr_assert(most <= FILTER_WIRE_BYTES_MAX && most > FILTER_WIRE_BYTES_MAX / 2);
	cr_assert_eq(bed.ss.segs.refused + bed.ss.cells.refused, 0);
	end_test(&p);
}

/* One that reads them may ask for as long as it likes. */
BED_TEST(filter, answers_go_out_of_turn)
{
	uint8_t *src = random_octets(200000);
	struct pair p;

	open_bed();
	p = met(UNIX, 8192);
	stream_put(&p.n->s, span_of(src, 200000));
	for (unsigned i = 0; i < 3000; i++)
		far_say(p.r, CLOAK_ASK, "and now?", 8);
	BED_UNTIL(&bed, p.r->answers == 3000 && p.r->plain.n == 200000, {
		far_write(p.r, rnd(&seed) % 1000);
		far_read(p.r, rnd(&seed) % 9000);
	});
	assert_same(&p.r->plain, src, 200000);
	cr_assert_eq(ta.breaks, 0);
	free(src);
	end_test(&p);
}

/* ---- the end of input ---- */

BED_TEST(filter, the_peer_says_that_it_ends)
{
	struct pair p;

	open_bed();
	p = met(TCP, 0);
	far_say(p.r, CLOAK_DATA, "QUIT\r\n", 6);
	far_say(p.r, CLOAK_BYE, NULL, 0);
	far_say(p.r, CLOAK_DATA, "beyond", 6);
	BED_UNTIL(&bed, ta.ends == 1, far_write(p.r, SIZE_MAX));
	cr_assert_eq(ta.end_res, RING_EOF);
	cr_assert_eq(ta.in.n, 6);
	/* Nothing is received any more, nor told. */
	turns(3);
	cr_assert_not(ring_op_armed(&p.n->s.recv_op));
	far_say(p.r, CLOAK_DATA, "more", 4);
	far_write(p.r, SIZE_MAX);
	turns(3);
	cr_assert_eq(ta.in.n, 6);
	stream_read(&p.n->s, false);
	stream_read(&p.n->s, true);
	/* The other direction goes on. */
	stream_put(&p.n->s, SPAN_LIT("221 bye\r\n"));
	BED_UNTIL(&bed, p.r->plain.n == 9, far_read(p.r, 100));
	cr_assert_eq(ta.ends, 1);
	cr_assert_eq(ta.breaks, 0);
	end_test(&p);
	cr_assert_eq(ca.finishes, 1);
}

static void answer_all(struct node *n, struct span data, int32_t buf)
{
	pile_add(&n->t->in, data.p, data.n);
	stream_put(&n->s, SPAN_LIT("250 dropped\r\n"));
}

BED_TEST(filter, the_peer_breaks_the_rules)
{
	struct pair p;

	open_bed();
	p = met(UNIX, 0);
	p.n->bytes = answer_all;
	far_say(p.r, CLOAK_DATA, "NOOP\r\n", 6);
	far_garble(p.r);
	far_say(p.r, CLOAK_DATA, "more", 4);
	BED_UNTIL(&bed, ta.ends == 1, far_write(p.r, SIZE_MAX));
	cr_assert_eq(ta.end_res, RING_PROTO);
	turns(3);
	far_read_all(&p);
	cr_assert_eq(p.r->nos, 1, "the reason does not leave");
	cr_assert_eq(p.r->plain.n, 0, "something behind the failure");
	cr_assert_eq(ta.in.n, 6);
	cr_assert_eq(ta.breaks, 0);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	BED_CALL(&bed, stream_put(&p.n->s, SPAN_LIT("more")));
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	cr_assert_not(ring_op_armed(&p.n->s.recv_op));
	BED_CALL(&bed, stream_finish(&p.n->s));
	until_eof(&p);
	cr_assert_eq(ca.finishes, 0);
	end_test(&p);
}

BED_TEST(filter, the_peer_breaks_the_rules_while_a_send_is_in_flight)
{
	uint8_t *src = random_octets(300000);
	struct pair p;
	uint64_t maybe;

	open_bed();
	p = met(UNIX, 4096);
	stream_put(&p.n->s, span_of(src, 300000));
	bed_turn(&bed);
	cr_assert(ring_op_armed(&p.n->s.send_op));
	maybe = stream_maybe_out(&p.n->s);
	far_garble(p.r);
	BED_UNTIL(&bed, ta.ends == 1, far_write(p.r, SIZE_MAX));
	cr_assert_eq(ta.end_res, RING_PROTO);
	cr_assert_eq(stream_backlog(&p.n->s), maybe - p.n->s.bytes_out);
	BED_UNTIL(&bed, !ring_op_armed(&p.n->s.send_op), far_read(p.r, SIZE_MAX));
	turns(3);
	far_read_all(&p);
	cr_assert_eq(p.n->s.bytes_out, maybe);
	cr_assert_eq(p.r->plain.n, maybe);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	cr_assert_eq(p.r->nos + ta.breaks, 0);
	free(src);
	end_test(&p);
}

/* A cut: the input ends, and the filter never said so. */
BED_TEST(filter, an_end_without_last_words)
{
	struct pair p;

	open_bed();
	p = met(TCP, 0);
	far_say(p.r, CLOAK_DATA, "MAIL FROM:<a@b>", 15);
	cr_assert_eq(send(p.r->fd, p.r->out.p + p.r->out_at, 10, MSG_NOSIGNAL), 10);
	turns(3);
	cr_assert_eq(ta.in.n, 0, "a part of a record means nothing");
	shutdown(p.r->fd, SHUT_WR);
	BED_UNTIL(&bed, ta.ends == 1, (void)0);
	cr_assert_eq(ta.end_res, RING_EOF);
	cr_assert_not(p.n->s.filter->over);
	cr_assert_eq(ta.in.n, 0);
	end_test(&p);
}

/* ---- reading ---- */

BED_TEST(filter, dozing_in_the_middle_of_a_record)
{
	struct pair p;
	size_t n;

	open_bed();
	p = met(TCP, 0);
	for (unsigned i = 0; i < 100; i++) {
		far_say(p.r, CLOAK_DATA, "0123456789", 10);
		n = rnd(&seed) % 14;
		far_write(p.r, n);
		turns(1);
		BED_CALL(&bed, stream_doze(&p.n->s));
		if (i % 2)
			BED_UNTIL(&bed, !p.n->s.cancelling, (void)0);
	}
	BED_UNTIL(&bed, ta.in.n == 1000, far_write(p.r, 100));
	BED_CALL(&bed, stream_doze(&p.n->s));
	stream_put(&p.n->s, SPAN_LIT("x"));
	BED_UNTIL(&bed, p.r->plain.n == 1, far_read(p.r, 100));
	end_test(&p);
}

static void off_at_once(struct node *n, struct span data, int32_t buf)
{
	pile_add(&n->t->in, data.p, data.n);
	stream_read(&n->s, false);
}

BED_TEST(filter, reading_off_in_the_middle_of_a_piece)
{
	struct pair p;
	size_t held;

	open_bed();
	p = met(UNIX, 0);
	p.n->bytes = off_at_once;
	for (unsigned i = 0; i < 5; i++)
		far_say(p.r, CLOAK_DATA, "0123456789", 10);
	far_write(p.r, 5 * 14 - 5); /* not all of the last one */
	BED_UNTIL(&bed, ta.quiets == 1, (void)0);
	held = ta.in.n;
	cr_assert_eq(held, 40, "what has been received is told");
	far_write(p.r, SIZE_MAX);
	turns(5);
	cr_assert_eq(ta.in.n, held);
	stream_read(&p.n->s, true);
	BED_UNTIL(&bed, ta.quiets == 2, (void)0);
	cr_assert_eq(ta.in.n, 50);
	end_test(&p);
}

/* ---- ends ---- */

static void finished_with(size_t staged, int small)
{
	uint8_t *src = random_octets(staged + 1);
	struct pair p;

	open_bed();
	p = met(UNIX, small);
	stream_put(&p.n->s, span_of(src, staged));
	BED_CALL(&bed, stream_finish(&p.n->s));
	BED_CALL(&bed, stream_finish(&p.n->s));
	BED_CALL(&bed, stream_put(&p.n->s, SPAN_LIT("nothing any more")));
	BED_UNTIL(&bed, p.r->eof, far_read(p.r, 3000));
	assert_same(&p.r->plain, src, staged);
	cr_assert_eq(p.r->byes, 1);
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ta.bytes_out, staged);
	cr_assert_not(ta.was_broken);
	free(src);
	end_test(&p);
}

BED_TEST(filter, finish_says_the_last_words)
{
	finished_with(0, 0);
}

BED_TEST(filter, finish_sends_everything_first)
{
	finished_with(500, 0);
}

BED_TEST(filter, finish_sends_everything_first_to_a_slow_peer)
{
	finished_with(300000, 4096);
}

/* Reading has stopped, so it would never open. */
BED_TEST(filter, finish_before_it_opens)
{
	struct pair p;

	open_bed();
	for (int staged = 0; staged < 2; staged++) {
		p = begin(UNIX, 0);
		if (staged)
			stream_put(&p.n->s, SPAN_LIT("220 never\r\n"));
		BED_CALL(&bed, stream_finish(&p.n->s));
		until_eof(&p);
		cr_assert_eq(p.r->byes, 1);
		cr_assert_eq(p.r->plain.n, 0);
		end_all(&p);
		cr_assert_eq(ta.bytes_out, 0);
	}
	bed_close(&bed);
}

BED_TEST(filter, finish_while_dialling)
{
	uint16_t port;
	int lfd;
	struct pair p = {.t = &ta, .c = &ca};
	struct ring_addr to;
	struct cloak *c;

	open_bed();
	lfd = tcp_listener(&port);
	to = loop_addr(port);
	p.n = node_new(&bed, &ta);
	cr_assert_eq(stream_dial(&p.n->s, &bed.ss, &node_events, &to, NULL), RING_OK);
	c = cloak_on(&p.n->s, &ca, true);
	cloak_say(c, CLOAK_HELLO, span_of(NULL, 0));
	stream_put(&p.n->s, SPAN_LIT("EHLO x\r\n"));
	BED_CALL(&bed, stream_finish(&p.n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	p.r = far_new(accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
	close(lfd);
	until_eof(&p);
	cr_assert_eq(p.r->hellos, 1);
	cr_assert_eq(p.r->byes, 1);
	cr_assert_eq(p.r->datas + ta.connects, 0);
	end_test(&p);
}

BED_TEST(filter, close_says_the_last_words_when_nothing_is_in_their_way)
{
	struct pair p;

	open_bed();
	p = met(TCP, 0);
	BED_CALL(&bed, stream_close(&p.n->s));
	until_eof(&p);
	cr_assert_eq(p.r->byes, 1);
	end_all(&p);
	p = begin(TCP, 0); /* not open yet */
	BED_CALL(&bed, stream_close(&p.n->s));
	until_eof(&p);
	cr_assert_eq(p.r->byes, 1);
	end_test(&p);
}

/* Cut: what was staged is dropped, and last words would say that it was not. */
BED_TEST(filter, close_with_something_staged_says_nothing)
{
	uint8_t *src = random_octets(300000);
	struct pair p;

	open_bed();
	p = met(UNIX, 0);
	stream_put(&p.n->s, SPAN_LIT("354 go on\r\n"));
	BED_CALL(&bed, stream_close(&p.n->s));
	until_eof(&p);
	cr_assert_eq(p.r->byes + p.r->datas, 0);
	end_all(&p);
	p = met(UNIX, 4096);
	stream_put(&p.n->s, span_of(src, 300000));
	bed_turn(&bed);
	cr_assert(ring_op_armed(&p.n->s.send_op));
	BED_CALL(&bed, stream_close(&p.n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	until_eof(&p);
	cr_assert_eq(p.r->byes, 0);
	cr_assert_eq(ta.bytes_out, p.r->plain.n);
	free(src);
	end_test(&p);
}

BED_TEST(filter, close_ends_a_finish_that_never_would)
{
	uint8_t *src = random_octets(300000);
	struct pair p;

	open_bed();
	p = met(UNIX, 4096);
	stream_put(&p.n->s, span_of(src, 300000));
	BED_CALL(&bed, stream_finish(&p.n->s));
	turns(5);
	cr_assert_eq(ta.closes, 0);
	BED_CALL(&bed, stream_close(&p.n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ca.finishes, 0);
	free(src);
	end_test(&p);
}

BED_TEST(filter, reset_is_seen_as_one)
{
	struct pair p;

	open_bed();
	p = met(TCP, 0);
	BED_CALL(&bed, stream_reset(&p.n->s));
	until_eof(&p);
	cr_assert(p.r->reset);
	end_test(&p);
}

BED_TEST(filter, the_peer_resets)
{
	uint8_t *src = random_octets(300000);
	struct pair p;

	open_bed();
	p = met(TCP, 8192);
	stream_put(&p.n->s, span_of(src, 300000));
	turns(3);
	fd_reset_close(p.r->fd);
	p.r->fd = -1;
	BED_UNTIL(&bed, ta.breaks == 1 && ta.ends == 1, (void)0);
	cr_assert_eq(stream_backlog(&p.n->s), 0);
	BED_CALL(&bed, stream_finish(&p.n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ca.finishes, 0);
	free(src);
	end_test(&p);
}

/* ---- half-close ---- */

static bool shut_done;

static void shut_when_drained(struct node *n, const char *what)
{
	if (strcmp(what, "drained") == 0 && !shut_done)
		shut_done = stream_shut(&n->s);
}

BED_TEST(filter, half_close)
{
	uint8_t *src = random_octets(100000);
	struct pair p;

	open_bed();
	p = met(UNIX, 4096);
	p.n->hook = shut_when_drained;
	stream_put(&p.n->s, span_of(src, 100000));
	BED_CALL(&bed, shut_done = stream_shut(&p.n->s));
	cr_assert_not(shut_done);
	BED_UNTIL(&bed, p.r->eof, far_read(p.r, 3000));
	cr_assert(shut_done);
	assert_same(&p.r->plain, src, 100000);
	cr_assert_eq(p.r->byes, 1);
	/* The other direction goes on; what would be said to it is not. */
	far_say(p.r, CLOAK_ASK, "still there?", 12);
	far_say(p.r, CLOAK_DATA, "more", 4);
	BED_UNTIL(&bed, ta.in.n == 4, far_write(p.r, SIZE_MAX));
	turns(3);
	cr_assert_eq(ta.breaks, 0);
	cr_assert_eq(p.r->answers, 0);
	far_say(p.r, CLOAK_BYE, NULL, 0);
	BED_UNTIL(&bed, ta.ends == 1, far_write(p.r, SIZE_MAX));
	BED_CALL(&bed, stream_finish(&p.n->s));
	BED_UNTIL(&bed, ta.closes == 1, (void)0);
	cr_assert_eq(ca.finishes, 1);
	free(src);
	end_test(&p);
}

BED_TEST(filter, half_close_of_a_broken_stream_is_done)
{
	struct pair p;

	open_bed();
	p = met(UNIX, 0);
	ca.fail_at = 1;
	stream_put(&p.n->s, SPAN_LIT("x"));
	BED_UNTIL(&bed, ta.breaks == 1, (void)0);
	BED_CALL(&bed, shut_done = stream_shut(&p.n->s));
	cr_assert(shut_done);
	cr_assert_eq(ca.finishes, 0);
	end_test(&p);
}

/* ---- from inside the callbacks ---- */

static const char *act_in;
static void (*act)(struct stream *s);

static void act_once(struct node *n, const char *what)
{
	if (strcmp(what, act_in) != 0)
		return;
	n->hook = NULL;
	/* What it has staged does not outlive stream_close(), and leaves before stream_finish(). */
	if (!n->s.broken)
		stream_put(&n->s, SPAN_LIT("421 bye\r\n"));
	act(&n->s);
}

/* Makes everything happen that can happen. */
static void provoke(struct pair *p, const uint8_t *src)
{
	ca.fail_at = strcmp(act_in, "broken") == 0 ? 2 : 0;
	far_say(p->r, CLOAK_HELLO, NULL, 0);
	far_say(p->r, CLOAK_DATA, "one", 3);
	far_say(p->r, CLOAK_ASK, "two", 3);
	if (strcmp(act_in, "end") == 0)
		far_say(p->r, CLOAK_BYE, NULL, 0);
	if (strcmp(act_in, "bytes") == 0)
		far_garble(p->r);
	far_say(p->r, CLOAK_DATA, "three", 5);
	if (strcmp(act_in, "drained") == 0 || strcmp(act_in, "broken") == 0)
		stream_put_lasting(&p->n->s, span_of(src, 300000));
}

static void act_in_callback(int kind, const uint8_t *src)
{
	bool finishes = act == stream_finish, goes_out;
	struct pair p = begin(kind, 8192);

	p.n->hook = act_once;
	provoke(&p, src);
	BED_UNTIL(&bed, ta.closes == 1, {
		far_write(p.r, SIZE_MAX);
		far_read(p.r, 9000);
	});
	cr_assert_eq(ca.gones, 1);
	until_eof(&p);
	goes_out = finishes && strcmp(act_in, "broken") != 0;
	if (!p.r->reset)
		cr_assert_eq(p.r->byes, goes_out, "%s", act_in);
	if (goes_out && !p.r->reset) {
		cr_assert(p.r->plain.n >= 9);
		cr_assert(memcmp(p.r->plain.p + p.r->plain.n - 9, "421 bye\r\n", 9) == 0);
	}
	end_all(&p);
}

BED_TEST(filter, ending_in_every_callback)
{
	static const char *const all[] = {"open", "bytes", "end", "drained", "broken"};
	static void (*const acts[])(struct stream *) = {stream_close, stream_finish, stream_reset};
	uint8_t *src = random_octets(300000);

	open_bed();
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		for (size_t k = 0; k < ARRAY_LEN(acts); k++) {
			act_in = all[i];
			act = acts[k];
			act_in_callback(UNIX, src);
			act_in_callback(TCP, src);
		}
	}
	free(src);
	bed_close(&bed);
}

/* ---- movers ---- */

static struct move mover;
static unsigned mover_ends;

static void mover_end(struct move *m, enum ring_res why, bool at_to)
{
	mover_ends++;
}

static const struct move_events mover_events = {.on_end = mover_end};

static void move_on(struct node *n, struct span data, int32_t buf)
{
	cr_assert(move_running(&mover));
	cr_assert_eq(move_bytes(&mover, data, buf), data.n);
	if (stream_backlog(&n->to->s) > STREAM_HIGH_BYTES)
		stream_read(&n->s, false);
}

BED_TEST(filter, movers_copy)
{
	enum { N = 1000000 };
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(N);
	struct node *from;
	struct pair p;
	int fd[2];
	size_t at = 0;

	c.pipe_count_max = 2;
	bed_open(&bed, &c, 8192, 2048);
	p = met(UNIX, 0);
	unix_pair(fd, 0);
	from = node_adopt(&bed, &tb, fd[0]);
	node_relay(from, p.n);
	from->bytes = move_on;
	move_start(&mover, &mover_events, MOVER_SPLICE, &from->s, &p.n->s, N);
	BED_UNTIL(&bed, p.r->plain.n == N, {
		peer_write(fd[1], src, N, &at, 70000);
		far_read(p.r, SIZE_MAX);
	});
	assert_same(&p.r->plain, src, N);
	cr_assert_not(move_running(&mover));
	cr_assert_eq(mover_ends, 0);
	cr_assert_eq(ring_stats(bed.r)->splices, 0);
	BED_CALL(&bed, stream_close(&from->s));
	BED_UNTIL(&bed, tb.closes == 1, (void)0);
	close(fd[1]);
	free(src);
	end_test(&p);
}

/* ---- chaos ---- */

/* Many at once, whatever comes: nothing is lost, nobody hangs, nothing is left behind. */
BED_TEST(filter, chaos_leaves_nothing_behind)
{
	enum { PAIRS = 24 };
	static struct tally t[PAIRS];
	static struct cloak_tally c[PAIRS];
	static struct pair p[PAIRS];
	struct ring_conf conf = bed_conf();
	uint8_t *src = random_octets(100000);

	bed_open(&bed, &conf, 2048, 256);
	for (unsigned i = 0; i < PAIRS; i++) {
		int fd[2];

		unix_pair(fd, i % 2 ? 4096 : 0);
		p[i] = begin_on(fd, &t[i], &c[i]);
		cloak_on(&p[i].n->s, &c[i], false);
		p[i].n->bytes = echo;
		stream_read(&p[i].n->s, true);
		far_say(p[i].r, CLOAK_HELLO, NULL, 0);
	}
	for (unsigned step = 0; step < 20000; step++) {
		struct pair *one = &p[rnd(&seed) % PAIRS];
		size_t n = rnd(&seed) % 20000;

		switch (t[one - p].closes == 0 ? rnd(&seed) % 12 : 3) {
		case 0:
			far_say(one->r, CLOAK_DATA, src + n, n);
			break;
		case 1:
			far_say(one->r, rnd(&seed) % 8 ? CLOAK_ASK : CLOAK_DATA, src, n % 300);
			break;
		case 2:
			far_write(one->r, n);
			break;
		case 3:
		case 4:
			far_read(one->r, n);
			break;
		case 5:
			stream_put(&one->n->s, span_of(src + n, n / 8));
			break;
		case 6:
			stream_read(&one->n->s, rnd(&seed) % 4);
			break;
		case 7:
			stream_doze(&one->n->s);
			break;
		case 8:
			if (step > 10000 && rnd(&seed) % 8 == 0)
				far_garble(one->r);
			break;
		case 9:
			if (step > 10000 && rnd(&seed) % 8 == 0)
				stream_finish(&one->n->s);
			break;
		case 10:
			if (step > 10000 && rnd(&seed) % 16 == 0)
				stream_close(&one->n->s);
			break;
		default:
			bed_turn(&bed);
		}
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		if (t[i].closes == 0)
			stream_finish(&p[i].n->s);
		BED_UNTIL(&bed, t[i].closes == 1, far_read(p[i].r, SIZE_MAX));
		end_all(&p[i]);
	}
	free(src);
	bed_close(&bed);
}
