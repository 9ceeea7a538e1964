/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/mover.h on real sockets: every way delivers identical octets and stops exactly at its count;
 * ends, resets and stops in mid-move are told once; what a way needs and is not there means
 * copying; no descriptor, lease, pipe or registered buffer stays behind.
 */
#include "ring/mover.h"

#include "tests/unit/node.h"

#define PAYLOAD_BYTES (20u << 20)

static const enum mover every_way[] = {
	MOVER_AUTO, MOVER_COPY, MOVER_SPLICE, MOVER_RING_SPLICE, MOVER_ZERO_COPY};

static struct bed bed;
static uint64_t seed = 0x2545f4914f6cdd1du;

/* Two streams, two peers, one move from [0] to [1]. */
struct rig {
	struct node *n[2];
	struct tally t[2];
	int peer[2];
	struct move m;
	struct pile got; /* what the target's peer has read */
	size_t at;	 /* what the source's peer has written */
	unsigned ends;
	enum ring_res why;
	bool at_to;
	uint64_t unseen;  /* octets that on_progress() reported */
	uint64_t stop_at; /* move_stop() from on_progress() */
	bool done;	  /* over, whichever way */
};

static struct rig rig, other; /* `other`: the opposite direction of the same streams */

static struct rig *rig_of(struct move *m)
{
	return CONTAINER_OF(m, struct rig, m);
}

static void on_progress(struct move *m, uint64_t n)
{
	struct rig *g = rig_of(m);

	g->unseen += n;
	if (g->stop_at != 0 && g->unseen >= g->stop_at)
		move_stop(m);
}

static void on_end(struct move *m, enum ring_res why, bool at_to)
{
	struct rig *g = rig_of(m);

	cr_assert_not(bed.in_call, "on_end from inside a call");
	cr_assert_not(g->done, "a second end");
	cr_assert_not(move_running(m));
	g->ends++;
	g->why = why;
	g->at_to = at_to;
	g->done = true;
}

static const struct move_events events = {on_progress, on_end};

/* What a session does: the move takes what is its own, the rest is ours. */
static void from_bytes(struct node *n, struct span data, int32_t buf)
{
	struct rig *g = n == rig.n[0] ? &rig : &other;

	if (move_running(&g->m)) {
		size_t k;

		BED_CALL(&bed, k = move_bytes(&g->m, data, buf));
		data = span_drop(data, k);
		if (!move_running(&g->m))
			g->done = true;
		if (stream_backlog(&g->n[1]->s) > STREAM_HIGH_BYTES)
			stream_read(&n->s, false);
	}
	if (data.n > 0)
		pile_add(&n->t->in, data.p, data.n);
}

static void forward(struct rig *g, struct node *n, const char *what)
{
	if (n == g->n[0] && strcmp(what, "quiet") == 0)
		BED_CALL(&bed, move_from_quiet(&g->m));
	if (n == g->n[0] && strcmp(what, "end") == 0)
		BED_CALL(&bed, move_from_end(&g->m, n->t->end_res));
	if (n == g->n[1] && strcmp(what, "drained") == 0) {
		stream_read(&g->n[0]->s, true);
		BED_CALL(&bed, move_to_drained(&g->m));
	}
	if (n == g->n[1] && strcmp(what, "broken") == 0)
		BED_CALL(&bed, move_to_broken(&g->m, n->t->break_res));
}

static void hook(struct node *n, const char *what)
{
	forward(&rig, n, what);
	if (other.n[0] != NULL)
		forward(&other, n, what);
}

static void open_bed(void)
{
	struct ring_conf c = bed_conf();

	c.pipe_count_max = 2;
	c.zc_count = 2;
	bed_open(&bed, &c, 8192, 2048);
}

static void rig_open(bool tcp, int small)
{
	int fa[2], fb[2];

	memset(&rig, 0, sizeof(rig));
	if (tcp) {
		tcp_pair(fa, 0);
		tcp_pair(fb, small);
	} else {
		unix_pair(fa, 0);
		unix_pair(fb, small);
	}
	rig.n[0] = node_adopt(&bed, &rig.t[0], fa[0]);
	rig.n[1] = node_adopt(&bed, &rig.t[1], fb[0]);
	rig.peer[0] = fa[1];
	rig.peer[1] = fb[1];
	rig.n[0]->bytes = from_bytes;
	rig.n[0]->hook = rig.n[1]->hook = hook;
	stream_read(&rig.n[0]->s, true);
}

static const struct move_events *use = &events;

static void rig_start(struct rig *g, enum mover way, uint64_t left)
{
	BED_CALL(&bed, move_start(&g->m, use, way, &g->n[0]->s, &g->n[1]->s, left));
	g->done = false;
	g->ends = 0;
	g->unseen = 0;
}

/* One turn's worth of peers. */
static void feed(const uint8_t *src, size_t n, size_t write_max, size_t read_max)
{
	if (rig.peer[0] >= 0)
		peer_write(rig.peer[0], src, n, &rig.at, write_max);
	if (rig.peer[1] >= 0)
		peer_read(rig.peer[1], &rig.got, read_max);
}

static void rig_close(void)
{
	for (int i = 0; i < 2; i++) {
		BED_CALL(&bed, stream_close(&rig.n[i]->s));
		if (rig.peer[i] >= 0)
			close(rig.peer[i]);
	}
	BED_UNTIL(&bed, rig.t[0].closes == 1 && rig.t[1].closes == 1, (void)0);
	pile_free(&rig.got);
	pile_free(&rig.t[0].in);
	pile_free(&rig.t[1].in);
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
	cr_assert(n == 0 || memcmp(got->p, want, n) == 0, "octets differ");
}

/* ---- identical octets, exact count ---- */

static void identical(enum mover way, bool tcp, int small)
{
	enum { AFTER = 1000 };
	uint8_t *src = random_octets(PAYLOAD_BYTES + AFTER);

	open_bed();
	rig_open(tcp, small);
	rig_start(&rig, way, PAYLOAD_BYTES);
	BED_UNTIL(&bed, rig.done && rig.got.n >= PAYLOAD_BYTES && rig.t[0].in.n >= AFTER,
		feed(src, PAYLOAD_BYTES + AFTER, 1 << 20, small ? rnd(&seed) % 65536 + 1 : 65536));
	assert_same(&rig.got, src, PAYLOAD_BYTES);
	assert_same(&rig.t[0].in, src + PAYLOAD_BYTES, AFTER);
	cr_assert_eq(rig.m.moved, PAYLOAD_BYTES);
	cr_assert_eq(rig.m.left, 0);
	cr_assert(rig.ends == 0 || rig.why == RING_OK);
	/* It went the way that was asked for, all but the beginning. */
	if (way == MOVER_COPY)
		cr_assert_eq(rig.unseen, 0);
	else
		cr_assert(rig.unseen > PAYLOAD_BYTES / 2, "%lu", (unsigned long)rig.unseen);
	cr_assert_eq(rig.n[0]->s.bytes_in, PAYLOAD_BYTES + AFTER);
	cr_assert_eq(rig.n[1]->s.bytes_out, PAYLOAD_BYTES);
	if (way == MOVER_SPLICE || way == MOVER_RING_SPLICE || way == MOVER_AUTO)
		cr_assert(ring_stats(bed.r)->splices > 0);
	if (way == MOVER_ZERO_COPY)
		cr_assert(ring_stats(bed.r)->zc_sends > 0);
	rig_close();
	free(src);
	bed_close(&bed);
}

BED_TEST(mover, identical_copy)
{
	identical(MOVER_COPY, true, 0);
}

BED_TEST(mover, identical_splice)
{
	identical(MOVER_SPLICE, true, 0);
}

BED_TEST(mover, identical_ring_splice)
{
	identical(MOVER_RING_SPLICE, true, 0);
}

BED_TEST(mover, identical_zero_copy)
{
	identical(MOVER_ZERO_COPY, true, 0);
}

BED_TEST(mover, identical_auto)
{
	identical(MOVER_AUTO, true, 0);
}

BED_TEST(mover, identical_copy_slow_reader)
{
	identical(MOVER_COPY, true, 32768);
}

BED_TEST(mover, identical_splice_slow_reader)
{
	identical(MOVER_SPLICE, true, 32768);
}

BED_TEST(mover, identical_ring_splice_slow_reader)
{
	identical(MOVER_RING_SPLICE, true, 32768);
}

BED_TEST(mover, identical_zero_copy_slow_reader)
{
	identical(MOVER_ZERO_COPY, true, 32768);
}

BED_TEST(mover, identical_splice_unix)
{
	identical(MOVER_SPLICE, false, 8192);
}

BED_TEST(mover, identical_ring_splice_unix)
{
	identical(MOVER_RING_SPLICE, false, 0);
}

/* ---- chunk after chunk on the same two streams, as BDAT makes them ---- */

static uint8_t head[8];
static unsigned head_len;
static unsigned chunks, chunks_unseen;
static enum mover chunk_way;

/* Starts the chunk that `head` announces; the header goes on first. */
static void start_chunk(void)
{
	uint64_t left;

	memcpy(&left, head, 8);
	head_len = 0;
	chunks++;
	stream_put(&rig.n[1]->s, span_of(head, 8));
	if (left > 0)
		rig_start(&rig, chunk_way == MOVER_COUNT ? every_way[rnd(&seed) % 5] : chunk_way,
			left);
}

static void chunk_bytes(struct node *n, struct span data, int32_t buf)
{
	while (data.n > 0) {
		size_t k;

		if (move_running(&rig.m)) {
			BED_CALL(&bed, k = move_bytes(&rig.m, data, buf));
		} else {
			k = MIN_OF(data.n, (size_t)(8 - head_len));
			memcpy(head + head_len, data.p, k);
			head_len += (unsigned)k;
			if (head_len == 8)
				start_chunk();
		}
		data = span_drop(data, k);
	}
	if (stream_backlog(&rig.n[1]->s) > STREAM_HIGH_BYTES)
		stream_read(&n->s, false);
}

static void chunk_end(struct move *m, enum ring_res why, bool at_to)
{
	cr_assert_not(bed.in_call);
	cr_assert_eq(why, RING_OK, "%s after %lu of chunk %u", ring_res_word(why),
		(unsigned long)m->moved, chunks);
	cr_assert_eq(m->left, 0);
	chunks_unseen += rig.unseen > 0;
}

static const struct move_events chunk_events = {on_progress, chunk_end};

static void many_chunks(enum mover way, bool tcp, int small)
{
	enum { CHUNKS = 150 };
	struct pile src = {0};

	open_bed();
	chunk_way = way;
	use = &chunk_events;
	for (unsigned i = 0; i < CHUNKS; i++) {
		uint64_t n = rnd(&seed) % (rnd(&seed) % 4 ? 100000 : 900000);
		uint8_t *p = random_octets(n + 1);

		if (i % 10 == 0)
			n = i % 20 == 0 ? 0 : 1;
		pile_add(&src, &n, 8);
		pile_add(&src, p, n);
		free(p);
	}
	rig_open(tcp, small);
	rig.n[0]->bytes = chunk_bytes;
	BED_UNTIL(&bed, rig.got.n == src.n && !move_running(&rig.m),
		feed(src.p, src.n, rnd(&seed) % 200000 + 1, rnd(&seed) % 65536 + 1));
	assert_same(&rig.got, src.p, src.n);
	cr_assert_eq(chunks, CHUNKS);
	rig_close();
	pile_free(&src);
	bed_close(&bed);
}

BED_TEST(mover, chunks_splice)
{
	many_chunks(MOVER_SPLICE, true, 0);
}

BED_TEST(mover, chunks_ring_splice)
{
	many_chunks(MOVER_RING_SPLICE, true, 16384);
}

BED_TEST(mover, chunks_zero_copy)
{
	many_chunks(MOVER_ZERO_COPY, true, 16384);
}

BED_TEST(mover, chunks_every_way_in_turn)
{
	many_chunks(MOVER_COUNT, true, 16384);
}

BED_TEST(mover, chunks_every_way_in_turn_unix)
{
	many_chunks(MOVER_COUNT, false, 0);
}

/* ---- small and already here ---- */

BED_TEST(mover, what_the_owner_already_has_may_be_all)
{
	open_bed();
	rig_open(true, 0);
	for (unsigned i = 0; i < ARRAY_LEN(every_way); i++) {
		uint8_t *src = random_octets(50000);
		size_t k;

		rig_start(&rig, every_way[i], 50000);
		BED_CALL(&bed, k = move_bytes(&rig.m, span_of(src, 20000), -1));
		cr_assert_eq(k, 20000);
		cr_assert(move_running(&rig.m));
		BED_CALL(&bed, k = move_bytes(&rig.m, span_of(src + 20000, 30000), -1));
		cr_assert_eq(k, 30000);
		cr_assert_not(move_running(&rig.m));
		rig.got.n = 0;
		BED_UNTIL(&bed, rig.got.n == 50000, feed(src, 0, 0, 65536));
		assert_same(&rig.got, src, 50000);
		cr_assert_eq(rig.ends, 0);
		free(src);
	}
	/* Reading went on all the time. */
	cr_assert_eq(write(rig.peer[0], "NOOP", 4), 4);
	BED_UNTIL(&bed, rig.t[0].in.n == 4, (void)0);
	rig_close();
	bed_close(&bed);
}

BED_TEST(mover, small_counts_are_copied)
{
	uint8_t *src = random_octets(10000);

	open_bed();
	rig_open(true, 0);
	rig_start(&rig, MOVER_SPLICE, 10000);
	BED_UNTIL(&bed, rig.got.n == 10000, feed(src, 10000, 999, 65536));
	assert_same(&rig.got, src, 10000);
	cr_assert(rig.done);
	cr_assert_eq(rig.unseen, 0);
	cr_assert_eq(ring_stats(bed.r)->splices, 0);
	rig_close();
	free(src);
	bed_close(&bed);
}

/* ---- what a way needs and cannot have ---- */

BED_TEST(mover, without_pipes_and_buffers_it_copies)
{
	static const enum mover way[] = {
		MOVER_AUTO, MOVER_SPLICE, MOVER_RING_SPLICE, MOVER_ZERO_COPY};
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(2 << 20);

	c.pipe_count_max = 0;
	c.zc_count = 0;
	bed_open(&bed, &c, 8192, 2048);
	for (unsigned i = 0; i < ARRAY_LEN(way); i++) {
		rig_open(true, 0);
		rig_start(&rig, way[i], 2 << 20);
		BED_UNTIL(
			&bed, rig.done && rig.got.n == 2 << 20, feed(src, 2 << 20, 1 << 20, 65536));
		assert_same(&rig.got, src, 2 << 20);
		cr_assert_eq(rig.unseen, 0);
		rig_close();
	}
	free(src);
	bed_close(&bed);
}

/* The owner had stopped reading when the mover took the input; room came while it settled, which
 * the owner does not hear as long as the input is not its own. */
static void deaf_to_room(struct node *n, const char *what)
{
	if (strcmp(what, "drained") == 0)
		BED_CALL(&bed, move_to_drained(&rig.m));
	else
		hook(n, what);
}

BED_TEST(mover, what_is_given_back_is_read)
{
	enum { N = 200000 };
	uint8_t *src = random_octets(N);
	struct ring_conf c = bed_conf();

	c.pipe_count_max = 0;
	bed_open(&bed, &c, 8192, 2048);
	rig_open(true, 0);
	rig.n[0]->hook = rig.n[1]->hook = deaf_to_room;
	BED_CALL(&bed, stream_read(&rig.n[0]->s, false));
	rig_start(&rig, MOVER_SPLICE, N);
	BED_UNTIL(&bed, rig.got.n >= N, feed(src, N, N, N));
	assert_same(&rig.got, src, N);
	rig_close();
	free(src);
	bed_close(&bed);
}

/* ---- the source ends ---- */

static void source_ends(enum mover way, bool reset)
{
	uint8_t *src = random_octets(3 << 20);

	open_bed();
	rig_open(true, 0);
	rig_start(&rig, way, MOVE_OPAQUE);
	BED_UNTIL(&bed, rig.got.n == 3 << 20, feed(src, 3 << 20, 1 << 20, 65536));
	cr_assert_not(rig.done);
	if (reset)
		fd_reset_close(rig.peer[0]);
	else
		close(rig.peer[0]);
	rig.peer[0] = -1;
	BED_UNTIL(&bed, rig.done, feed(src, 0, 0, 65536));
	cr_assert_eq(rig.ends, 1);
	cr_assert_eq(rig.why, reset ? RING_RESET : RING_EOF);
	cr_assert_not(rig.at_to);
	assert_same(&rig.got, src, 3 << 20);
	cr_assert_eq(rig.m.moved, 3 << 20);
	/* Everything taken was handed on: the target still works. */
	stream_put(&rig.n[1]->s, SPAN_LIT("bye"));
	BED_UNTIL(&bed, rig.got.n == (3 << 20) + 3, feed(src, 0, 0, 100));
	rig_close();
	free(src);
	bed_close(&bed);
}

#define EACH_WAY(name, call)                \
	BED_TEST(mover, name##_copy)        \
	{                                   \
		call(MOVER_COPY);           \
	}                                   \
	BED_TEST(mover, name##_splice)      \
	{                                   \
		call(MOVER_SPLICE);         \
	}                                   \
	BED_TEST(mover, name##_ring_splice) \
	{                                   \
		call(MOVER_RING_SPLICE);    \
	}                                   \
	BED_TEST(mover, name##_zero_copy)   \
	{                                   \
		call(MOVER_ZERO_COPY);      \
	}                                   \
	BED_TEST(mover, name##_auto)        \
	{                                   \
		call(MOVER_AUTO);           \
	}

static void source_eof(enum mover way)
{
	source_ends(way, false);
}
EACH_WAY(source_eof, source_eof)

static void source_reset(enum mover way)
{
	source_ends(way, true);
}
EACH_WAY(source_reset, source_reset)

/* Half of a counted move, then the end, with a target that is slow. */
static void source_eof_while_blocked(enum mover way)
{
	uint8_t *src = random_octets(2 << 20);

	open_bed();
	rig_open(true, 16384);
	rig_start(&rig, way, 4 << 20);
	BED_UNTIL(&bed, rig.at == 2 << 20, feed(src, 2 << 20, 1 << 20, 2000));
	close(rig.peer[0]);
	rig.peer[0] = -1;
	BED_UNTIL(&bed, rig.done && rig.got.n == 2 << 20, feed(src, 0, 0, 30000));
	cr_assert_eq(rig.why, RING_EOF);
	cr_assert_eq(rig.m.left, 2 << 20);
	assert_same(&rig.got, src, 2 << 20);
	rig_close();
	free(src);
	bed_close(&bed);
}
EACH_WAY(source_eof_while_blocked, source_eof_while_blocked)

/* ---- the target goes ---- */

static void target_resets(enum mover way)
{
	uint8_t *src = random_octets(PAYLOAD_BYTES);

	open_bed();
	rig_open(true, 16384);
	rig_start(&rig, way, PAYLOAD_BYTES);
	BED_UNTIL(&bed, rig.got.n > 2 << 20, feed(src, PAYLOAD_BYTES, 1 << 20, 65536));
	fd_reset_close(rig.peer[1]);
	rig.peer[1] = -1;
	BED_UNTIL(&bed, rig.done, feed(src, PAYLOAD_BYTES, 1 << 20, 0));
	cr_assert_eq(rig.ends, 1);
	cr_assert(rig.at_to);
	cr_assert(rig.why == RING_RESET || rig.why == RING_PIPE, "%s", ring_res_word(rig.why));
	cr_assert(rig.n[1]->s.broken);
	rig_close();
	free(src);
	bed_close(&bed);
}
EACH_WAY(target_resets, target_resets)

/* ---- stopped by the owner ---- */

static void stopped(enum mover way)
{
	uint8_t *src = random_octets(PAYLOAD_BYTES);

	/* At every stage: just started, settling, running, blocked. */
	for (unsigned stage = 0; stage < 12; stage++) {
		open_bed();
		rig_open(true, stage % 2 ? 16384 : 0);
		rig_start(&rig, way, PAYLOAD_BYTES);
		for (unsigned i = 0; i < stage * stage; i++) {
			feed(src, PAYLOAD_BYTES / 2, 1 << 18, stage % 3 ? 65536 : 0);
			bed_turn(&bed);
		}
		BED_CALL(&bed, move_stop(&rig.m));
		BED_CALL(&bed, move_stop(&rig.m));
		cr_assert_eq(rig.ends, 0);
		BED_UNTIL(&bed, rig.done, (void)0);
		cr_assert_eq(rig.ends, 1);
		cr_assert_eq(rig.why, RING_CANCELED);
		cr_assert(rig.m.moved + rig.m.left == PAYLOAD_BYTES);
		/* Everything that was taken arrives, or the target is known to have a hole. */
		BED_UNTIL(&bed, rig.n[1]->s.broken || rig.got.n == rig.m.moved,
			feed(src, 0, 0, 65536));
		BED_CALL(&bed, move_stop(&rig.m));
		rig_close();
		bed_close(&bed);
	}
	free(src);
}
EACH_WAY(stopped, stopped)

/* Stopped and both streams closed in one go, as a session's destructor does. */
static void stopped_and_closed(enum mover way)
{
	uint8_t *src = random_octets(PAYLOAD_BYTES);

	for (unsigned stage = 0; stage < 8; stage++) {
		open_bed();
		rig_open(true, stage % 2 ? 16384 : 0);
		rig_start(&rig, way, PAYLOAD_BYTES);
		for (unsigned i = 0; i < stage * stage; i++) {
			feed(src, PAYLOAD_BYTES / 2, 1 << 18, stage % 3 ? 65536 : 0);
			bed_turn(&bed);
		}
		BED_CALL(&bed, move_stop(&rig.m));
		rig_close();
		/* Its end comes before the streams are gone. */
		cr_assert_eq(rig.ends, 1);
		bed_close(&bed);
	}
	free(src);
}
EACH_WAY(stopped_and_closed, stopped_and_closed)

static void stopped_in_progress(enum mover way)
{
	uint8_t *src = random_octets(PAYLOAD_BYTES);

	open_bed();
	rig_open(true, 0);
	rig_start(&rig, way, PAYLOAD_BYTES);
	rig.stop_at = 1 << 20;
	BED_UNTIL(&bed, rig.done, feed(src, PAYLOAD_BYTES, 1 << 20, 65536));
	cr_assert_eq(rig.why, RING_CANCELED);
	cr_assert(rig.m.left > 0);
	rig_close();
	free(src);
	bed_close(&bed);
}

BED_TEST(mover, stopped_in_progress_splice)
{
	stopped_in_progress(MOVER_SPLICE);
}

BED_TEST(mover, stopped_in_progress_ring_splice)
{
	stopped_in_progress(MOVER_RING_SPLICE);
}

BED_TEST(mover, stopped_in_progress_zero_copy)
{
	stopped_in_progress(MOVER_ZERO_COPY);
}

/* The owner closes without a stop while nothing is armed: the streams still close. */
BED_TEST(mover, closing_without_a_stop_at_the_start)
{
	open_bed();
	rig_open(true, 0);
	rig_start(&rig, MOVER_SPLICE, PAYLOAD_BYTES);
	rig_close();
	cr_assert_eq(rig.ends, 1);
	cr_assert_eq(rig.why, RING_CANCELED);
	bed_close(&bed);
}

/* ---- zero-copy and a peer that does not read (U7) ---- */

/* Much room to send, little to receive: what is counted stays unacknowledged. */
static void open_narrow(int bytes)
{
	open_bed();
	rig_open(true, 0);
	setsockopt(rig.peer[1], SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

/* Turns until the peer has taken what it will. True: the kernel still reads buffers. */
static bool lend(uint64_t left)
{
	uint8_t *src = random_octets(PAYLOAD_BYTES);

	open_narrow(4096);
	rig_start(&rig, MOVER_ZERO_COPY, left);
	for (unsigned i = 0; i < 200; i++) {
		feed(src, PAYLOAD_BYTES, 1 << 20, 0);
		bed_turn(&bed);
	}
	free(src);
	if (ring_stats(bed.r)->zc_sends == 0)
		return false;
	return !list_empty(&rig.n[1]->s.lent);
}

/* Descriptor and memory of the target are not the hostile peer's to keep; what it was sent is lost
 * to it, and everything is back though it neither reads nor goes. */
BED_TEST(mover, a_peer_that_never_reads_keeps_nothing)
{
	long end;

	cr_assert(lend(PAYLOAD_BYTES), "no buffer was out");
	BED_CALL(&bed, move_stop(&rig.m));
	BED_CALL(&bed, stream_close(&rig.n[1]->s));
	for (unsigned i = 0; i < 3; i++)
		bed_turn(&bed);
	cr_assert_eq(rig.ends, 1);
	cr_assert_eq(rig.t[1].closes, 1, "the target waits for its peer");
	BED_UNTIL(&bed, bed.ss.zc_holds.used == 0, (void)0);
	while ((end = peer_read(rig.peer[1], &rig.got, 65536)) > 0)
		;
	cr_assert_eq(end, -2, "a reset");
	BED_CALL(&bed, stream_close(&rig.n[0]->s));
	BED_UNTIL(&bed, rig.t[0].closes == 1, (void)0);
	close(rig.peer[0]);
	close(rig.peer[1]);
	pile_free(&rig.got);
	bed_close(&bed);
}

/* The last turn of a core: streams_fini() waits for the kernel. */
BED_TEST(mover, the_end_of_a_core_waits_for_lent_buffers)
{
	cr_assert(lend(PAYLOAD_BYTES), "no buffer was out");
	BED_CALL(&bed, move_stop(&rig.m));
	BED_CALL(&bed, stream_close(&rig.n[0]->s));
	BED_CALL(&bed, stream_close(&rig.n[1]->s));
	while (rig.t[0].closes == 0 || rig.t[1].closes == 0)
		bed_turn(&bed);
	streams_fini(&bed.ss);
	ring_close(bed.r);
	close(rig.peer[0]);
	close(rig.peer[1]);
	cr_assert_eq(bed_fds(), bed.fds_before);
}

/* A move that came to its good end, then stream_finish(): every octet arrives, in good order. */
BED_TEST(mover, finish_waits_for_lent_buffers)
{
	enum { N = 20 * 65536 };
	uint8_t *src = random_octets(N);

	open_narrow(32768);
	rig_start(&rig, MOVER_ZERO_COPY, N);
	BED_UNTIL(&bed, rig.done, feed(src, N, 65536, 16000));
	cr_assert(rig.ends == 1 && rig.why == RING_OK);
	cr_assert_not(list_empty(&rig.n[1]->s.lent));
	BED_CALL(&bed, stream_put(&rig.n[1]->s, SPAN_LIT("QUIT\r\n")));
	BED_CALL(&bed, stream_finish(&rig.n[1]->s));
	BED_UNTIL(&bed, rig.t[1].closes == 1 && rig.got.n == N + 6, feed(src, 0, 0, 16000));
	cr_assert_eq(memcmp(rig.got.p, src, N), 0);
	BED_UNTIL(&bed, peer_read(rig.peer[1], &rig.got, 1) == -1, (void)0);
	BED_CALL(&bed, stream_close(&rig.n[0]->s));
	BED_UNTIL(&bed, rig.t[0].closes == 1, (void)0);
	close(rig.peer[0]);
	close(rig.peer[1]);
	pile_free(&rig.got);
	free(src);
	bed_close(&bed);
}

/* A stop where everything taken is on its way leaves no mark: a later good end is one. */
BED_TEST(mover, a_stop_leaves_no_reset_behind)
{
	uint8_t *src = random_octets(PAYLOAD_BYTES);
	long end;

	open_bed();
	rig_open(true, 0);
	rig_start(&rig, MOVER_ZERO_COPY, PAYLOAD_BYTES);
	BED_UNTIL(&bed, rig.got.n == 1 << 20 && rig.m.moved == 1 << 20,
		feed(src, 1 << 20, 1 << 20, 65536));
	peer_write(rig.peer[0], src, PAYLOAD_BYTES, &rig.at, 65536);
	BED_UNTIL(&bed, rig.m.moved == rig.at && !list_empty(&rig.n[1]->s.lent), (void)0);
	BED_CALL(&bed, move_stop(&rig.m));
	BED_UNTIL(&bed, rig.done, (void)0);
	BED_CALL(&bed, stream_put(&rig.n[1]->s, SPAN_LIT("end")));
	BED_CALL(&bed, stream_finish(&rig.n[1]->s));
	BED_UNTIL(&bed, rig.t[1].closes == 1, feed(src, 0, 0, 65536));
	while ((end = peer_read(rig.peer[1], &rig.got, 65536)) > 0)
		;
	cr_assert_eq(end, -1, "an orderly end");
	cr_assert_eq(rig.got.n, rig.at + 3);
	cr_assert_eq(memcmp(rig.got.p, src, rig.at), 0);
	BED_CALL(&bed, stream_close(&rig.n[0]->s));
	BED_UNTIL(&bed, rig.t[0].closes == 1, (void)0);
	close(rig.peer[0]);
	close(rig.peer[1]);
	pile_free(&rig.got);
	free(src);
	bed_close(&bed);
}

/* A Unix socket knows no zero-copy send: one try, told by its own name, then copies. */
BED_TEST(mover, zero_copy_on_a_unix_socket_copies)
{
	enum { N = 1 << 20 };
	uint8_t *src = random_octets(N);

	open_bed();
	rig_open(false, 0);
	rig_start(&rig, MOVER_ZERO_COPY, N);
	BED_UNTIL(&bed, rig.done && rig.got.n == N, feed(src, N, 1 << 20, 65536));
	assert_same(&rig.got, src, N);
	cr_assert_eq(ring_stats(bed.r)->zc_sends, 1);
	rig_close();
	free(src);
	bed_close(&bed);
}

/* ---- both directions at once: TLS passed through ---- */

static void both_directions(enum mover way)
{
	enum { N = 6 << 20 };
	uint8_t *up = random_octets(N), *down = random_octets(N);
	size_t at = 0;
	struct pile got = {0};

	open_bed();
	rig_open(true, 0);
	memset(&other, 0, sizeof(other));
	other.n[0] = rig.n[1];
	other.n[1] = rig.n[0];
	other.n[0]->bytes = from_bytes;
	stream_read(&other.n[0]->s, true);
	rig_start(&rig, way, MOVE_OPAQUE);
	rig_start(&other, way, MOVE_OPAQUE);
	BED_UNTIL(&bed, rig.got.n == N && got.n == N, {
		feed(up, N, rnd(&seed) % 300000, rnd(&seed) % 65536);
		peer_write(rig.peer[1], down, N, &at, rnd(&seed) % 300000);
		peer_read(rig.peer[0], &got, rnd(&seed) % 65536);
	});
	assert_same(&rig.got, up, N);
	assert_same(&got, down, N);
	shutdown(rig.peer[0], SHUT_WR);
	BED_UNTIL(&bed, rig.done, (void)0);
	cr_assert_eq(rig.why, RING_EOF);
	cr_assert(move_running(&other.m));
	shutdown(rig.peer[1], SHUT_WR);
	BED_UNTIL(&bed, other.done, (void)0);
	cr_assert_eq(other.why, RING_EOF);
	rig_close();
	pile_free(&got);
	free(up);
	free(down);
	bed_close(&bed);
}
EACH_WAY(both_directions, both_directions)

/* Reading that the owner turns on while the mover reads the descriptor waits for it. */
BED_TEST(mover, an_owner_that_reads_meanwhile_disturbs_nothing)
{
	uint8_t *src = random_octets(PAYLOAD_BYTES + 10);

	open_bed();
	rig_open(true, 16384);
	rig_start(&rig, MOVER_SPLICE, PAYLOAD_BYTES);
	BED_UNTIL(&bed, rig.done && rig.got.n >= PAYLOAD_BYTES && rig.t[0].in.n >= 10, {
		feed(src, PAYLOAD_BYTES + 10, 1 << 20, 65536);
		stream_read(&rig.n[0]->s, rnd(&seed) % 4 != 0);
	});
	assert_same(&rig.got, src, PAYLOAD_BYTES);
	assert_same(&rig.t[0].in, src + PAYLOAD_BYTES, 10);
	cr_assert(rig.unseen > 0);
	rig_close();
	free(src);
	bed_close(&bed);
}

/* ---- everything at once, seeded ---- */

enum { CROWD = 16, CROWD_BYTES = 4 << 20 };
static struct rig crowd[CROWD];
static bool crowd_over[CROWD], crowd_closed[CROWD];

static unsigned crowd_index(const struct node *n)
{
	unsigned i = 0;

	while (crowd[i].n[0] != n && crowd[i].n[1] != n)
		cr_assert(++i < CROWD);
	return i;
}

static void crowd_end(struct move *m, enum ring_res why, bool at_to)
{
	struct rig *g = rig_of(m);

	cr_assert_not(bed.in_call);
	cr_assert_not(move_running(m));
	crowd_over[g - crowd] |= why != RING_OK;
}

static const struct move_events crowd_events = {on_progress, crowd_end};

static void crowd_bytes(struct node *n, struct span data, int32_t buf)
{
	unsigned i = crowd_index(n);
	struct rig *g = &crowd[i];
	size_t k;

	while (data.n > 0 && !crowd_over[i]) {
		if (!move_running(&g->m)) {
			uint64_t left = rnd(&seed) % 4 ? rnd(&seed) % 1000000 + 1 : MOVE_OPAQUE;

			BED_CALL(&bed, move_start(&g->m, &crowd_events, every_way[rnd(&seed) % 5],
					       &g->n[0]->s, &g->n[1]->s, left));
		}
		BED_CALL(&bed, k = move_bytes(&g->m, data, buf));
		if (k == 0)
			break; /* it is being ended; after that nothing more is taken */
		data = span_drop(data, k);
	}
	if (stream_backlog(&g->n[1]->s) > STREAM_HIGH_BYTES)
		stream_read(&n->s, false);
}

static void crowd_hook(struct node *n, const char *what)
{
	unsigned i = crowd_index(n);

	if (crowd_closed[i])
		return;
	forward(&crowd[i], n, what);
	if (strcmp(what, "end") == 0 || strcmp(what, "broken") == 0)
		crowd_over[i] |= !move_running(&crowd[i].m);
}

static void crowd_open(unsigned i)
{
	struct rig *g = &crowd[i];
	bool tcp = rnd(&seed) % 4 != 0;
	int fd[2], small = rnd(&seed) % 2 ? 0 : 16384;

	memset(g, 0, sizeof(*g));
	crowd_over[i] = crowd_closed[i] = false;
	for (unsigned k = 0; k < 2; k++) {
		if (tcp)
			tcp_pair(fd, k == 1 ? small : 0);
		else
			unix_pair(fd, k == 1 ? small : 0);
		g->n[k] = node_adopt(&bed, &g->t[k], fd[0]);
		g->n[k]->hook = crowd_hook;
		g->peer[k] = fd[1];
	}
	g->n[0]->bytes = crowd_bytes;
	stream_read(&g->n[0]->s, true);
}

static void crowd_close(unsigned i)
{
	struct rig *g = &crowd[i];
	unsigned how = rnd(&seed) % 3;

	if (crowd_closed[i])
		return;
	crowd_over[i] = crowd_closed[i] = true;
	if (how == 0 && !move_running(&g->m)) {
		BED_CALL(&bed, stream_finish(&g->n[1]->s));
	} else {
		BED_CALL(&bed, move_stop(&g->m));
		BED_CALL(&bed, (how == 1 ? stream_reset : stream_close)(&g->n[1]->s));
	}
	BED_CALL(&bed, stream_close(&g->n[0]->s));
}

static void crowd_drop_peer(int *fd)
{
	if (*fd >= 0)
		fd_reset_close(*fd);
	*fd = -1;
}

static void crowd_step(unsigned i, const uint8_t *src)
{
	struct rig *g = &crowd[i];
	size_t had = g->got.n;

	switch (rnd(&seed) % 500) {
	case 0:
		crowd_drop_peer(&g->peer[rnd(&seed) % 2]);
		break;
	case 1:
		if (g->peer[0] >= 0)
			shutdown(g->peer[0], SHUT_WR);
		break;
	case 2:
		crowd_close(i);
		break;
	case 3:
		if (!crowd_over[i])
			BED_CALL(&bed, move_stop(&g->m));
		break;
	}
	if (g->peer[0] >= 0)
		peer_write(g->peer[0], src, CROWD_BYTES, &g->at, rnd(&seed) % 200000);
	/* Some never read. */
	if (g->peer[1] >= 0 && i % 4 != 3)
		peer_read(g->peer[1], &g->got, rnd(&seed) % 65536);
	cr_assert(g->got.n <= g->at);
	cr_assert(g->got.n == had || memcmp(g->got.p + had, src + had, g->got.n - had) == 0,
		"octets differ");
}

BED_TEST(mover, chaos_leaves_nothing_behind)
{
	enum { ROUNDS = 6, STEPS = 250 };
	struct ring_conf c = bed_conf();
	uint8_t *src = random_octets(CROWD_BYTES);

	c.pipe_count_max = 4;
	c.zc_count = 6;
	c.zc_bytes = 32768;
	bed_open(&bed, &c, 8192, 2048);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < CROWD; i++)
			crowd_open(i);
		for (unsigned step = 0; step < STEPS; step++) {
			for (unsigned i = 0; i < CROWD; i++)
				crowd_step(i, src);
			bed_turn(&bed);
		}
		for (unsigned i = 0; i < CROWD; i++)
			crowd_close(i);
		/* Those that are closed do not wait for peers; those that finish may. */
		for (unsigned i = 0; i < CROWD; i++) {
			struct rig *g = &crowd[i];

			BED_UNTIL(&bed, g->t[0].closes == 1 && g->t[1].closes == 1,
				if (g->peer[1] >= 0) peer_read(g->peer[1], &g->got, 65536));
			pile_free(&g->got);
			for (unsigned k = 0; k < 2; k++)
				if (g->peer[k] >= 0)
					close(g->peer[k]);
		}
		BED_UNTIL(&bed, bed.ss.zc_holds.used == 0, (void)0);
	}
	free(src);
	bed_close(&bed);
}
