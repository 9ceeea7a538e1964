/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/spool.h on real files: where octets stay, back-pressure, reading in any order, the two
 * budgets, every way a directory can refuse, leaving with operations in flight. The content is a
 * pattern of a prime period, so every octet has its place. Each test ends with no descriptor, block
 * or octet of the disk's budget left. The random walks are in tests/sim/spools.c.
 */
#include "ring/spool.h"
#include "tests/unit/bed.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define BLOCK ((uint64_t)SPOOL_BLOCK_BYTES)
#define PERIOD 65521u
#define MIB (1u << 20)

static struct bed bed;
static struct spools ss;
static uint64_t seed = 0x9e3779b97f4a7c15u;
static uint8_t pattern[2 * PERIOD];
static char dir[64] = "/var/tmp";

struct owner {
	struct spool *sp;
	unsigned rooms, readies;
	bool drops; /* from inside a callback */
};

static void on_room(void *who)
{
	struct owner *o = who;

	cr_assert(!bed.in_call);
	o->rooms++;
	if (o->drops) {
		spool_drop(o->sp);
		o->sp = NULL;
	}
}

static void on_ready(void *who)
{
	struct owner *o = who;

	cr_assert(!bed.in_call);
	o->readies++;
	if (o->drops) {
		spool_drop(o->sp);
		o->sp = NULL;
	}
}

static const struct spool_events events = {on_room, on_ready};

/* `memory` in blocks. */
static void open_spools(uint32_t memory, uint64_t disk, uint64_t spill)
{
	const struct spools_conf c = {
		.memory_bytes = memory * (BLOCK + 64),
		.disk_bytes = disk,
		.spill_bytes = spill,
		.directory = dir,
		.spools_max = 16,
	};
	struct ring_conf rc = bed_conf();

	for (uint32_t i = 0; i < PERIOD; i++)
		pattern[i] = pattern[i + PERIOD] = (uint8_t)(i * 2654435761u >> 13);
	bed_open(&bed, &rc, 64, 64);
	cr_assert(spools_init(&ss, &c, &bed.ss));
	cr_assert_eq(ss.blocks.count_max, memory);
}

static void close_spools(void)
{
	BED_UNTIL(&bed, spools_idle(&ss), (void)0);
	cr_assert_eq(ss.disk_used, 0);
	cr_assert_eq(ss.blocks.used, 0);
	spools_fini(&ss);
	bed_close(&bed);
}

static void begin(struct owner *o)
{
	*o = (struct owner){0};
	o->sp = spool_new(&ss, &events, o);
	cr_assert(o->sp != NULL);
}

static void leave(struct owner *o)
{
	BED_CALL(&bed, spool_drop(o->sp));
}

/* The next n octets, at most PERIOD. */
static enum spool_res add(struct owner *o, size_t n)
{
	uint64_t before = spool_bytes(o->sp);
	enum spool_res res;

	cr_assert_leq(n, PERIOD);
	BED_CALL(&bed, res = spool_add(o->sp, span_of(pattern + before % PERIOD, n)));
	cr_assert_eq(spool_bytes(o->sp), before + (res == SPOOL_OK ? n : 0));
	cr_assert_eq(res, spool_state(o->sp));
	return res;
}

/* Until it has `n` octets, in pieces of `piece`; waits as it is told. */
static void fill(struct owner *o, uint64_t n, size_t piece)
{
	while (spool_bytes(o->sp) < n) {
		uint64_t left = n - spool_bytes(o->sp);

		BED_UNTIL(&bed, !spool_full(o->sp), (void)0);
		cr_assert_eq(add(o, (size_t)MIN_OF(left, (uint64_t)piece)), SPOOL_OK);
	}
}

static void assert_octets(uint64_t at, struct span s)
{
	cr_assert_gt(s.n, 0);
	cr_assert_leq(s.n, BLOCK);
	cr_assert(memcmp(s.p, pattern + at % PERIOD, s.n) == 0, "octets at %lu differ",
		(unsigned long)at);
}

/* One read, waited for. */
static size_t read_at(struct owner *o, uint64_t at)
{
	struct span s;
	bool got;

	BED_CALL(&bed, got = spool_read(o->sp, at, &s));
	if (!got) {
		unsigned before = o->readies;

		cr_assert(spool_reading(o->sp), "nothing at %lu", (unsigned long)at);
		BED_UNTIL(&bed, o->readies > before, (void)0);
		cr_assert(!spool_reading(o->sp));
		BED_CALL(&bed, got = spool_read(o->sp, at, &s));
		cr_assert(got);
	}
	assert_octets(at, s);
	cr_assert_leq(s.n, spool_bytes(o->sp) - at);
	return s.n;
}

static void read_from(struct owner *o, uint64_t at)
{
	struct span s;

	while (at < spool_bytes(o->sp))
		at += read_at(o, at);
	cr_assert(!spool_read(o->sp, at, &s) && !spool_reading(o->sp));
}

static void wait_written(struct owner *o)
{
	BED_UNTIL(&bed, ss.blocks.used <= ss.conf.spill_bytes / BLOCK + 2, (void)0);
}

/* ---- sizes ---- */

Test(spool, an_empty_one)
{
	struct owner o;
	struct span s;

	open_spools(8, MIB, BLOCK);
	begin(&o);
	cr_assert_eq(add(&o, 0), SPOOL_OK);
	cr_assert_eq(spool_front(o.sp), 0);
	cr_assert(!spool_read(o.sp, 0, &s) && !spool_reading(o.sp));
	cr_assert(!spool_full(o.sp) && !spool_spilled(o.sp));
	leave(&o);
	cr_assert(spools_idle(&ss), "nothing was armed");
	close_spools();
}

Test(spool, what_is_small_stays_in_memory)
{
	struct owner o;
	uint8_t copy[1500];

	open_spools(8, 0, 4 * BLOCK);
	begin(&o);
	cr_assert_eq(add(&o, 1000), SPOOL_OK);
	cr_assert_eq(add(&o, 500), SPOOL_OK);
	read_from(&o, 0);
	read_from(&o, 999);
	spool_copy_front(o.sp, 0, 1500, copy);
	assert_octets(0, span_of(copy, 1500));
	spool_copy_front(o.sp, 700, 300, copy);
	assert_octets(700, span_of(copy, 300));
	cr_assert_eq(o.readies, 0);
	cr_assert_eq(ss.blocks.used, 1);
	leave(&o);
	cr_assert_eq(ss.files, 0);
	close_spools();
}

/* The file begins where the block behind the front is full and more comes. */
Test(spool, sizes_around_the_spill)
{
	static const struct {
		int64_t beyond; /* the front of 3 blocks */
		bool spilled;
		uint64_t filed; /* blocks */
	} rows[] = {{-1, false, 0}, {0, false, 0}, {1, true, 0}, {SPOOL_BLOCK_BYTES - 1, true, 0},
		{SPOOL_BLOCK_BYTES, true, 0}, {SPOOL_BLOCK_BYTES + 1, true, 1},
		{2 * SPOOL_BLOCK_BYTES, true, 1}, {2 * SPOOL_BLOCK_BYTES + 1, true, 2}};
	uint8_t *copy = malloc(3 * BLOCK);

	open_spools(16, MIB, 2 * BLOCK + 1); /* made 3 */
	cr_assert_eq(ss.conf.spill_bytes, 3 * BLOCK);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t n = (uint64_t)((int64_t)(3 * BLOCK) + rows[i].beyond), files = ss.files;
		struct owner o;

		begin(&o);
		fill(&o, n, 5000);
		cr_assert_eq(spool_spilled(o.sp), rows[i].spilled, "row %zu", i);
		cr_assert_eq(ss.disk_used, rows[i].filed * BLOCK, "row %zu", i);
		cr_assert_eq(ss.files - files, rows[i].filed > 0, "row %zu", i);
		cr_assert_eq(spool_front(o.sp), MIN_OF(n, 3 * BLOCK));
		spool_copy_front(o.sp, 0, spool_front(o.sp), copy);
		cr_assert(memcmp(copy, pattern, spool_front(o.sp)) == 0);
		read_from(&o, 0);
		wait_written(&o);
		read_from(&o, 0);
		leave(&o);
		BED_UNTIL(&bed, spools_idle(&ss), (void)0);
	}
	free(copy);
	close_spools();
}

static void large(size_t piece_max)
{
	const uint64_t n = 50 * MIB + 12345;
	struct owner o;

	open_spools(64, 64 * MIB, 4 * BLOCK);
	begin(&o);
	while (spool_bytes(o.sp) < n)
		fill(&o, MIN_OF(n, spool_bytes(o.sp) + 1 + rnd(&seed) % piece_max), piece_max);
	cr_assert_gt(o.rooms, 0, "50 MiB without a pause");
	cr_assert_leq(ss.blocks.high, 4 + 1 + 1 + SPOOL_WRITES_MAX + 4, "memory is bounded");
	for (uint64_t at = 0; at < n;) {
		size_t k = read_at(&o, at);

		at += rnd(&seed) % 2 ? k : 1 + rnd(&seed) % k;
	}
	read_from(&o, n / 2 + 7);
	read_from(&o, n - 1);
	cr_assert_eq(spool_state(o.sp), SPOOL_OK);
	cr_assert_eq(ss.files, 1);
	leave(&o);
	close_spools();
}

Test(spool, fifty_mib_in_odd_pieces, .timeout = 120)
{
	large(40000);
}

Test(spool, fifty_mib_on_tmpfs, .timeout = 120)
{
	strcpy(dir, "/dev/shm");
	large(3000);
}

/* ---- reading ---- */

/* Blocks that are on their way are read from memory, at once. */
Test(spool, reads_what_is_being_written)
{
	struct owner o;
	struct span s;

	open_spools(32, 8 * MIB, BLOCK);
	begin(&o);
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(add(&o, BLOCK), SPOOL_OK);
	for (uint64_t at = 0; at < 6 * BLOCK; at += s.n) {
		cr_assert(spool_read(o.sp, at, &s));
		assert_octets(at, s);
	}
	wait_written(&o);
	cr_assert(!spool_read(o.sp, BLOCK, &s) && spool_reading(o.sp));
	read_from(&o, 0);
	leave(&o);
	close_spools();
}

Test(spool, the_next_block_is_read_ahead)
{
	struct owner o;
	struct span s;

	open_spools(32, 8 * MIB, BLOCK);
	begin(&o);
	fill(&o, 10 * BLOCK, 9999);
	wait_written(&o);
	/* The last octets of memory are looked at: the file is next. */
	cr_assert(spool_read(o.sp, BLOCK - 10, &s));
	for (int i = 0; i < 3; i++)
		bed_turn(&bed);
	BED_UNTIL(&bed, spool_read(o.sp, BLOCK, &s), (void)0);
	cr_assert_eq(o.readies, 0);
	assert_octets(BLOCK, s);
	leave(&o);
	close_spools();
}

/* Two readers of one spool take turns at their own places. */
Test(spool, two_readers_take_turns)
{
	const uint64_t n = 40 * BLOCK + 77;
	struct owner o;

	open_spools(32, 8 * MIB, BLOCK);
	begin(&o);
	fill(&o, n, 30000);
	for (uint64_t a = 0, b = n / 3; a < n || b < n;) {
		if (a < n)
			a += read_at(&o, a);
		if (b < n)
			b += MIN_OF(read_at(&o, b), 5000u);
	}
	leave(&o);
	close_spools();
}

/* A read from elsewhere takes the place of one that waits: one callback, for the last one. */
Test(spool, the_last_place_counts)
{
	struct owner o;
	struct span s;

	open_spools(32, 8 * MIB, BLOCK);
	begin(&o);
	fill(&o, 30 * BLOCK, BLOCK);
	wait_written(&o);
	for (uint64_t at = 2 * BLOCK; at < 9 * BLOCK; at += BLOCK)
		cr_assert(!spool_read(o.sp, at, &s) && spool_reading(o.sp));
	BED_UNTIL(&bed, o.readies > 0, (void)0);
	cr_assert(spool_read(o.sp, 8 * BLOCK, &s));
	assert_octets(8 * BLOCK, s);
	/* And nothing is waited for any more once memory could answer. */
	cr_assert(!spool_read(o.sp, 20 * BLOCK, &s) && spool_reading(o.sp));
	cr_assert(spool_read(o.sp, 5, &s));
	cr_assert(!spool_reading(o.sp));
	for (int i = 0; i < 20; i++)
		bed_turn(&bed);
	cr_assert_eq(o.readies, 1);
	leave(&o);
	close_spools();
}

/* With one block to read through, and none for reading ahead. */
Test(spool, reads_without_a_block_to_spare)
{
	struct owner o, hog;

	open_spools(8, 8 * MIB, BLOCK);
	begin(&o);
	for (uint64_t n = BLOCK; n <= 20 * BLOCK; n += BLOCK) {
		fill(&o, n, BLOCK);
		wait_written(&o);
	}
	cr_assert_eq(ss.blocks.used, 3, "front, last, reader");
	begin(&hog);
	fill(&hog, 1, 1);
	while (ss.blocks.used < ss.blocks.count_max && add(&hog, 1000) == SPOOL_OK)
		continue; /* never turned: all stay in memory */
	for (uint64_t at = 0; at < 20 * BLOCK; at += 7000)
		read_at(&o, at);
	leave(&o);
	leave(&hog);
	close_spools();
}

/* ---- back-pressure and budgets ---- */

Test(spool, full_until_there_is_room)
{
	struct owner o;
	unsigned n = 0;

	open_spools(64, 8 * MIB, BLOCK);
	begin(&o);
	while (!spool_full(o.sp)) {
		cr_assert_eq(add(&o, BLOCK), SPOOL_OK);
		cr_assert_lt(++n, 32);
	}
	cr_assert_eq(n, 1 + SPOOL_WRITES_MAX + 1);
	cr_assert_eq(ring_stats(bed.r)->file_writes, SPOOL_WRITES_MAX);
	/* What was on its way is still taken. */
	cr_assert_eq(add(&o, 60000), SPOOL_OK);
	cr_assert_eq(ring_stats(bed.r)->file_writes, SPOOL_WRITES_MAX, "no more at once");
	cr_assert_eq(o.rooms, 0);
	BED_UNTIL(&bed, o.rooms > 0, (void)0);
	cr_assert(!spool_full(o.sp));
	read_from(&o, 0);
	cr_assert_eq(o.rooms, 1);
	leave(&o);
	close_spools();
}

Test(spool, the_disk_budget_is_shared_and_given_back)
{
	struct owner a, b;

	open_spools(64, 10 * BLOCK, BLOCK);
	begin(&a);
	begin(&b);
	fill(&a, 8 * BLOCK, BLOCK); /* 6 blocks of the file */
	cr_assert_eq(ss.disk_used, 6 * BLOCK);
	fill(&b, 6 * BLOCK, BLOCK); /* 4 */
	cr_assert_eq(add(&b, 1), SPOOL_FULL);
	cr_assert_eq(add(&b, 1), SPOOL_FULL, "it stays");
	cr_assert_eq(spool_why(b.sp), RING_OK);
	read_from(&b, 0);
	cr_assert_eq(add(&a, BLOCK), SPOOL_FULL);
	leave(&a);
	BED_UNTIL(&bed, ss.disk_used == 4 * BLOCK, (void)0);
	cr_assert_eq(add(&b, 1), SPOOL_FULL, "it stays though there is room");
	begin(&a);
	fill(&a, 8 * BLOCK, BLOCK);
	leave(&a);
	leave(&b);
	close_spools();
}

/* All of the data, or nothing of it. */
Test(spool, the_memory_budget_is_shared_and_given_back)
{
	struct owner a, b, c;
	struct owner d = {0};

	open_spools(6, MIB, 4 * BLOCK);
	begin(&a);
	begin(&b);
	fill(&a, 4 * BLOCK, BLOCK);
	cr_assert_eq(add(&b, 2 * BLOCK + 1), SPOOL_FULL, "one block is left for two");
	cr_assert_eq(spool_bytes(b.sp), 0);
	cr_assert_eq(ss.blocks.used, 5);
	begin(&c);
	cr_assert_null(spool_new(&ss, &events, &d), "no block");
	leave(&a);
	cr_assert_eq(add(&b, 1), SPOOL_FULL, "it stays");
	cr_assert_eq(add(&c, 2 * BLOCK + 1), SPOOL_OK);
	read_from(&c, 0);
	leave(&b);
	leave(&c);
	close_spools();
}

Test(spool, no_more_than_so_many)
{
	struct owner o[17];

	open_spools(64, MIB, BLOCK);
	for (unsigned i = 0; i < 16; i++)
		begin(&o[i]);
	cr_assert_null(spool_new(&ss, &events, &o[16]));
	for (unsigned i = 0; i < 16; i++)
		leave(&o[i]);
	close_spools();
}

/* ---- leaving ---- */

/* After so many turns: with writes in flight, with reads, with both, with nothing. */
Test(spool, dropped_with_operations_in_flight, .timeout = 60)
{
	open_spools(64, 64 * MIB, BLOCK);
	for (unsigned i = 0; i < 60; i++) {
		struct owner o;
		struct span s;

		begin(&o);
		fill(&o, (3 + i % 20) * BLOCK, 20000);
		for (unsigned t = i % 4; t > 0; t--)
			bed_turn(&bed);
		if (i % 3)
			(void)spool_read(o.sp, BLOCK + i * 100, &s);
		if (i % 5 == 0)
			cr_assert_neq(add(&o, 60000), SPOOL_FAILED);
		leave(&o);
	}
	close_spools();
}

Test(spool, dropped_from_inside_its_callbacks)
{
	struct owner o;
	struct span s;

	open_spools(64, 64 * MIB, BLOCK);
	begin(&o);
	o.drops = true;
	while (!spool_full(o.sp))
		cr_assert_eq(add(&o, BLOCK), SPOOL_OK);
	BED_UNTIL(&bed, o.sp == NULL, (void)0);
	cr_assert_eq(o.rooms, 1);
	begin(&o);
	fill(&o, 5 * BLOCK, BLOCK);
	wait_written(&o);
	o.drops = true;
	cr_assert(!spool_read(o.sp, BLOCK, &s));
	BED_UNTIL(&bed, o.sp == NULL, (void)0);
	cr_assert_eq(o.readies, 1);
	close_spools();
}

/* ---- directories that refuse ---- */

static void assert_refused(enum ring_res why)
{
	struct owner o;
	struct span s;
	uint8_t c;

	begin(&o);
	fill(&o, 2 * BLOCK, BLOCK);
	cr_assert_eq(add(&o, 1), SPOOL_FAILED);
	cr_assert_eq(spool_why(o.sp), why, "%s", ring_res_word(spool_why(o.sp)));
	cr_assert_eq(add(&o, 1), SPOOL_FAILED);
	cr_assert(!spool_read(o.sp, 0, &s) && !spool_reading(o.sp));
	spool_copy_front(o.sp, 0, 1, &c);
	cr_assert_eq(ss.files, 0);
	cr_assert_eq(ss.disk_used, 0);
	leave(&o);
}

Test(spool, no_directory)
{
	strcpy(dir, "/var/tmp/no/such");
	open_spools(8, MIB, BLOCK);
	assert_refused(RING_NOENT);
	close_spools();
}

Test(spool, not_a_directory)
{
	strcpy(dir, "/proc/self/status");
	open_spools(8, MIB, BLOCK);
	assert_refused(RING_NOTDIR);
	close_spools();
}

Test(spool, a_directory_of_somebody_else)
{
	char name[] = "/var/tmp/spool-XXXXXX";

	cr_assert(mkdtemp(name) && chmod(name, 0500) == 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534), 0);
	strcpy(dir, name);
	open_spools(8, MIB, BLOCK);
	assert_refused(RING_ACCES);
	close_spools();
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
	cr_assert_eq(rmdir(name), 0);
}

/* A file system of our own, which ends with the test's process. */
static void mount_tmpfs(unsigned long flags, const char *options)
{
	if (unshare(CLONE_NEWNS) != 0)
		cr_assert_eq(unshare(CLONE_NEWUSER | CLONE_NEWNS), 0, "%s", strerror(errno));
	cr_assert_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	cr_assert_eq(mount("tmpfs", "/mnt", "tmpfs", flags, options), 0, "%s", strerror(errno));
	strcpy(dir, "/mnt");
}

Test(spool, a_read_only_file_system)
{
	mount_tmpfs(MS_RDONLY, "");
	open_spools(8, MIB, BLOCK);
	assert_refused(RING_ROFS);
	close_spools();
}

/* The error comes with a completion: whoever waits is told. */
static void assert_fails_late(enum ring_res why)
{
	struct owner o;

	begin(&o);
	while (spool_state(o.sp) == SPOOL_OK) {
		if (spool_full(o.sp))
			bed_turn(&bed);
		else
			(void)add(&o, 30000);
		cr_assert_lt(spool_bytes(o.sp), 8 * MIB);
	}
	cr_assert_eq(spool_state(o.sp), SPOOL_FAILED);
	cr_assert_eq(spool_why(o.sp), why, "%s", ring_res_word(spool_why(o.sp)));
	cr_assert_eq(add(&o, 1), SPOOL_FAILED);
	BED_UNTIL(&bed, !spool_full(o.sp), (void)0);
	cr_assert_gt(o.rooms, 0);
	cr_assert_gt(ss.disk_used, 0, "its file is there until it is dropped");
	leave(&o);
}

Test(spool, a_full_disk)
{
	mount_tmpfs(0, "size=200k");
	open_spools(64, 64 * MIB, BLOCK);
	assert_fails_late(RING_NOSPC);
	BED_UNTIL(&bed, spools_idle(&ss), (void)0);
	assert_fails_late(RING_NOSPC); /* the first one's octets are gone, there is room again */
	close_spools();
}

Test(spool, files_that_may_not_grow)
{
	struct rlimit l = {300000, 300000};

	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &l), 0);
	open_spools(64, 64 * MIB, BLOCK);
	assert_fails_late(RING_FBIG);
	close_spools();
}

/* A read that waits when a write fails. */
Test(spool, who_waits_to_read_is_told_of_the_failure)
{
	struct rlimit l = {8 * BLOCK, 8 * BLOCK};
	struct owner o;
	struct span s;

	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &l), 0);
	open_spools(64, 64 * MIB, BLOCK);
	begin(&o);
	fill(&o, 5 * BLOCK, BLOCK);
	wait_written(&o);
	cr_assert(!spool_read(o.sp, 2 * BLOCK, &s) && spool_reading(o.sp));
	cr_assert_eq(add(&o, 60000), SPOOL_OK);
	cr_assert_eq(add(&o, 60000), SPOOL_OK);
	cr_assert_eq(add(&o, 60000), SPOOL_OK);
	BED_UNTIL(&bed, spool_state(o.sp) == SPOOL_FAILED, (void)0);
	BED_UNTIL(&bed, o.readies == 1, (void)0);
	cr_assert(!spool_reading(o.sp));
	cr_assert_eq(spool_why(o.sp), RING_FBIG);
	leave(&o);
	close_spools();
}
