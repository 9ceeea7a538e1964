/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Conformance: files. Counts may be short on any kernel, so octets are written and read piece by
 * piece until all are there, and only sums are said. See probe.h.
 *
 * Failure modes: where no file can be made (a read-only root, no room) the scripts are left out.
 */
#include "ring/probe_int.h"

#define ROOM_BYTES (64u << 10)
#define SEED 1u
#define WRITES 8u

/* A file of the script's own; closed with the lab. */
static bool file_new(struct lab *l, struct ring_fd *out)
{
	enum ring_res res = ring_file_open(l->r, l->far->directory, out);

	if (l->room == NULL)
		l->room = malloc(ROOM_BYTES);
	ASSERT(l->room);
	l->left_out = res != RING_OK;
	if (res != RING_OK)
		return false;
	ASSERT(l->accepted_count < ARRAY_LEN(l->accepted));
	l->accepted[l->accepted_count++] = *out;
	return true;
}

/* The latest is closed before its time. */
static void file_close(struct lab *l)
{
	ring_close_fd(l->r, &l->accepted[--l->accepted_count]);
}

static bool ended(struct lab *l, struct watch *w)
{
	uint64_t limit = ring_now_us(l->r) + PROBE_PATIENCE_US;
	unsigned turns = 0;

	while (!watch_ended(w))
		if (!lab_turn(l, limit, &turns))
			return false;
	return true;
}

static void write_piece(struct lab *l, struct watch *w, struct ring_fd fd, size_t at, size_t n)
{
	ring_file_write(l->r, &w->op, fd, lab_octets(l, SEED, at), (uint32_t)n, at);
}

/* Octets [at, at + n) of the pattern to their place in the file. */
static bool write_all(struct lab *l, struct ring_fd fd, size_t at, size_t n)
{
	struct watch *w = lab_watch(l, NULL, WATCH_COUNT);

	while (w->n < n) {
		size_t before = w->n;

		write_piece(l, w, fd, at + w->n, n - w->n);
		if (!ended(l, w) || w->last.res != RING_OK || w->n == before)
			return false;
	}
	return w->n == n;
}

/* Reads what the file has of [at, at + n) and compares; *end: how the last read ended. */
static size_t read_all(struct lab *l, struct ring_fd fd, size_t at, size_t n, enum ring_res *end)
{
	struct watch *w = lab_watch(l, NULL, WATCH_COUNT);

	ASSERT(n <= ROOM_BYTES);
	*end = RING_OK;
	while (w->n < n && *end == RING_OK) {
		size_t before = w->n;

		ring_file_read(l->r, &w->op, fd, l->room + w->n, (uint32_t)(n - w->n), at + w->n);
		if (!ended(l, w))
			return 0;
		*end = w->last.res;
		if (*end == RING_OK && w->n == before) {
			lab_say(l, "NOTHING, AND NO END");
			return w->n;
		}
	}
	if (memcmp(l->room, lab_octets(l, SEED, at), w->n) != 0)
		lab_say(l, "WRONG OCTETS");
	return w->n;
}

static void say_read(struct lab *l, struct ring_fd fd, size_t at, size_t n)
{
	enum ring_res end;
	size_t got = read_all(l, fd, at, n, &end);

	lab_say(l, "read %zu %s", got, ring_res_word(end));
}

static void back_again(struct lab *l)
{
	struct ring_fd fd;

	LAB_HAVE(l, file_new(l, &fd));
	LAB_HAVE(l, write_all(l, fd, 0, 50000));
	say_read(l, fd, 0, 50000);
	say_read(l, fd, 12345, 6789);
	say_read(l, fd, 0, 1);
}

static void at_the_end(struct lab *l)
{
	struct ring_fd fd;

	LAB_HAVE(l, file_new(l, &fd));
	say_read(l, fd, 0, 10);
	LAB_HAVE(l, write_all(l, fd, 0, 1000));
	say_read(l, fd, 1000, 10);
	say_read(l, fd, 990, 100);
	say_read(l, fd, 5000, 10);
}

/* The place is the operation's, not the file's: the second half first. */
static void out_of_order(struct lab *l)
{
	struct ring_fd fd;

	LAB_HAVE(l, file_new(l, &fd));
	LAB_HAVE(l, write_all(l, fd, 20000, 10000));
	LAB_HAVE(l, write_all(l, fd, 0, 20000));
	say_read(l, fd, 0, 40000);
}

static void many_at_once(struct lab *l)
{
	struct watch *w[WRITES];
	struct ring_fd fd;
	unsigned ends = 0;

	LAB_HAVE(l, file_new(l, &fd));
	for (unsigned i = 0; i < WRITES; i++) {
		w[i] = lab_watch(l, NULL, WATCH_COUNT);
		write_piece(l, w[i], fd, i * 5000, 5000);
	}
	for (unsigned i = 0; i < WRITES; i++) {
		LAB_UNTIL(l, watch_ended(w[i]));
		ends += w[i]->ends;
		if (w[i]->n < 5000) /* it took a part */
			LAB_HAVE(l, write_all(l, fd, i * 5000 + w[i]->n, 5000 - w[i]->n));
	}
	lab_say(l, "ended %u", ends);
	say_read(l, fd, 0, 50000);
}

/* A page of its own is read while another is written. */
static void both_ways(struct lab *l)
{
	struct watch *in = lab_watch(l, NULL, WATCH_COUNT), *out = lab_watch(l, NULL, WATCH_COUNT);
	struct ring_fd fd;

	LAB_HAVE(l, file_new(l, &fd));
	LAB_HAVE(l, write_all(l, fd, 0, 4096));
	write_piece(l, out, fd, 4096, 4096);
	ring_file_read(l->r, &in->op, fd, l->room, 4096, 0);
	LAB_UNTIL(l, watch_ended(in) && watch_ended(out));
	lab_say(l, "%s, %s", ring_res_word(in->last.res), ring_res_word(out->last.res));
	lab_say(l, memcmp(l->room, lab_octets(l, SEED, 0), in->n) ? "WRONG OCTETS" : "right");
}

/* Taken back, or done before that: it ends once, and a count is no lie. */
static void taken_back(struct lab *l)
{
	struct watch *w = lab_watch(l, NULL, WATCH_COUNT);
	struct ring_fd fd;
	enum ring_res end;

	LAB_HAVE(l, file_new(l, &fd));
	write_piece(l, w, fd, 0, 40000);
	ring_cancel(l->r, &w->op);
	ring_cancel(l->r, &w->op);
	LAB_UNTIL(l, watch_ended(w));
	if (w->last.res == RING_CANCELED || w->n > 0)
		lab_say(l, "counted");
	else
		lab_say(l, "%s", ring_res_word(w->last.res));
	lab_say(l, read_all(l, fd, 0, 40000, &end) >= w->n ? "no lie" : "LESS THAN COUNTED");
	lab_settle(l);
	lab_say(l, "ended %u, %llu stale", w->ends, (unsigned long long)ring_stats(l->r)->stale);
}

/* Its number may be used again: nothing of the old one is in it. */
static void new_is_empty(struct lab *l)
{
	struct ring_fd fd, other;

	LAB_HAVE(l, file_new(l, &fd));
	LAB_HAVE(l, write_all(l, fd, 0, 3000));
	file_close(l);
	LAB_HAVE(l, file_new(l, &fd));
	LAB_HAVE(l, file_new(l, &other));
	LAB_HAVE(l, write_all(l, other, 0, 2000));
	say_read(l, fd, 0, 3000);
	say_read(l, other, 0, 3000);
}

static void nowhere(struct lab *l)
{
	struct ring_fd fd;
	enum ring_res res = ring_file_open(l->r, "/no/such/directory", &fd);

	lab_say(l, "%s, %s", ring_res_word(res), ring_fd_ok(fd) ? "A FILE" : "no file");
}

const struct probe_script probe_file_scripts[] = {
	{"file-back", "", "what is written is read back, from anywhere", .run = back_again,
		.expect = "read 50000 ok; read 6789 ok; read 1 ok"},
	{"file-end", "", "a read at the end, across it and behind it", .run = at_the_end,
		.expect = "read 0 EOF; read 0 EOF; read 10 EOF; read 0 EOF"},
	{"file-order", "", "octets have their place, in whatever order", .run = out_of_order,
		.expect = "read 30000 EOF"},
	{"file-many", "", "several writes in flight: each is counted, all are there",
		.run = many_at_once, .expect = "ended 8; read 40000 EOF"},
	{"file-both", "", "a read beside a write", .run = both_ways, .expect = "ok, ok; right"},
	{"file-cancel", "U1", "a write that is taken back ends once", .run = taken_back,
		.expect = "counted; no lie; ended 1, 0 stale"},
	{"file-close", "", "a new file has nothing of a closed one", .run = new_is_empty,
		.expect = "read 0 EOF; read 2000 EOF"},
	{"file-nowhere", "", "no directory: no file, and why", .run = nowhere,
		.expect = "ENOENT, no file"},
	{0},
};
