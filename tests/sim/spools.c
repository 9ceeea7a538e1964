/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Spools against a model: some spools of one core, owners that add, read, look at the front, wait
 * and leave in any order, on a kernel whose disk is slow, small, cuts counts short or fails. Octet
 * `p` of a spool follows from its seed and `p`, so the model of its content is a number.
 *
 * Checked at each step: what was taken is there, in its place; nothing else is; a refusal leaves
 * everything as it was and stays; callbacks come from the end of the turn only, and when they are
 * owed; budgets hold. At the end: a disk that is well again serves whoever waits, and nothing is
 * left.
 *
 * Failure modes: see sim_spools(); an assertion of the ring, the spools or a sanitizer ends the
 * process. One thread.
 */
#include "tests/sim/spools.h"

#include "ring/spool.h"
#include "tests/sim/kernel.h"

#define OWNERS 4u
#define STEPS 600u
#define PIECE_MAX 40000u
#define QUIET_TURNS_MAX 100000u
#define FIRST_US 1000000u
#define DIRECTORY "/spool"

struct world;

struct owner {
	struct world *w;
	struct spool *sp; /* NULL: has none */
	uint64_t bytes;	  /* what it must have */
	uint64_t at;	  /* where it reads on */
	uint32_t seed;
	enum spool_res state;
	bool waits_for_room, waits_to_read;
};

struct world {
	uint64_t seed;
	struct tape tape;
	struct record rec;
	struct sim_kernel *k;
	struct ring *r;
	struct streams streams;
	struct spools ss;
	struct owner owner[OWNERS];
	uint32_t seeds;
	bool flushing; /* callbacks may come */
	bool well;     /* no fault is possible */
	bool broken;
};

#define CHECK(w, cond)                                                                     \
	do {                                                                               \
		if (!(cond) && !(w)->broken) {                                             \
			(w)->broken = true;                                                \
			printf("# spools, seed %llu: not so: %s (%s:%d)\n",                \
				(unsigned long long)(w)->seed, #cond, __FILE__, __LINE__); \
		}                                                                          \
	} while (0)

static uint8_t octet(uint32_t seed, uint64_t p)
{
	uint64_t x = (p + seed) * 0x9e3779b97f4a7c15u;

	return (uint8_t)(x >> 56 ^ x >> 31);
}

static bool same(const struct owner *o, uint64_t at, struct span s)
{
	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] != octet(o->seed, at + i))
			return false;
	return true;
}

/* ---- what comes back ---- */

static void on_room(void *who)
{
	struct owner *o = who;

	CHECK(o->w, o->w->flushing && o->sp && o->waits_for_room);
	CHECK(o->w, !spool_full(o->sp));
	o->waits_for_room = false;
	o->state = spool_state(o->sp);
}

static void on_ready(void *who)
{
	struct owner *o = who;
	struct span s = SPAN_NONE;
	bool got;

	CHECK(o->w, o->w->flushing && o->sp && o->waits_to_read);
	CHECK(o->w, !spool_reading(o->sp));
	o->waits_to_read = false;
	got = spool_read(o->sp, o->at, &s);
	CHECK(o->w, got || spool_state(o->sp) == SPOOL_FAILED);
	if (got)
		CHECK(o->w, s.n > 0 && same(o, o->at, s));
}

static const struct spool_events events = {on_room, on_ready};

/* ---- what owners do ---- */

static void begin(struct world *w, struct owner *o)
{
	*o = (struct owner){.w = w, .seed = ++w->seeds * 977};
	o->sp = spool_new(&w->ss, &events, o);
	CHECK(w, o->sp || w->ss.spools.refused + w->ss.blocks.refused > 0);
}

static void leave(struct owner *o)
{
	spool_drop(o->sp);
	o->sp = NULL;
}

/* Faults strike in the turn: the state is what the owner knew, or has become FAILED since. */
static void look(struct owner *o)
{
	enum spool_res now = spool_state(o->sp);

	CHECK(o->w, now == o->state || (now == SPOOL_FAILED && !o->w->well));
	CHECK(o->w, (now == SPOOL_FAILED) == (spool_why(o->sp) != RING_OK));
	o->state = now;
	CHECK(o->w, spool_bytes(o->sp) == o->bytes);
	CHECK(o->w, spool_spilled(o->sp) == (o->bytes > o->w->ss.conf.spill_bytes));
	CHECK(o->w, spool_full(o->sp) == o->waits_for_room);
	CHECK(o->w, spool_reading(o->sp) == o->waits_to_read);
}

static void add(struct owner *o)
{
	static uint8_t piece[PIECE_MAX];
	struct world *w = o->w;
	size_t n = tape_pick(&w->tape, 3) ? tape_pick(&w->tape, PIECE_MAX)
					  : tape_small(&w->tape, PIECE_MAX - 1);
	enum spool_res before = o->state, res;

	if (spool_full(o->sp) && tape_pick(&w->tape, 8)) /* most of them listen */
		return;
	for (size_t i = 0; i < n; i++)
		piece[i] = octet(o->seed, o->bytes + i);
	res = spool_add(o->sp, span_of(piece, n));
	memset(piece, 0, n);
	CHECK(w, res == spool_state(o->sp));
	CHECK(w, before == SPOOL_OK || res == before);
	CHECK(w, res != SPOOL_FAILED || before == SPOOL_FAILED || !w->well);
	if (res == SPOOL_OK)
		o->bytes += n;
	o->state = res;
	o->waits_for_room = spool_full(o->sp);
}

static void read_on(struct owner *o)
{
	struct world *w = o->w;
	struct span s = SPAN_NONE;
	size_t n;

	if (tape_pick(&w->tape, 4) == 3) /* from elsewhere */
		o->at = tape_pick(&w->tape, (uint32_t)o->bytes + 1);
	if (!spool_read(o->sp, o->at, &s)) {
		o->waits_to_read = spool_reading(o->sp);
		CHECK(w, o->waits_to_read || o->state == SPOOL_FAILED || o->at == o->bytes);
		CHECK(w, !o->waits_to_read || o->at >= w->ss.conf.spill_bytes);
		return;
	}
	o->waits_to_read = false;
	CHECK(w, s.n > 0 && s.n <= o->bytes - o->at && same(o, o->at, s));
	n = tape_pick(&w->tape, 4) ? s.n : 1 + tape_pick(&w->tape, (uint32_t)s.n);
	o->at += n;
}

static void look_at_front(struct owner *o)
{
	uint64_t front = spool_front(o->sp), at, n;
	uint8_t *to;

	CHECK(o->w, front == MIN_OF(o->bytes, o->w->ss.conf.spill_bytes));
	at = tape_pick(&o->w->tape, (uint32_t)front + 1);
	n = tape_pick(&o->w->tape, (uint32_t)(front - at) + 1);
	to = malloc(n + 1);
	ASSERT(to);
	spool_copy_front(o->sp, at, n, to);
	CHECK(o->w, same(o, at, span_of(to, n)));
	free(to);
}

/* In the middle of a turn, as from a completion of somebody else's: what is owed has not been told.
 */
static void meddle(struct world *w)
{
	struct owner *o = &w->owner[tape_pick(&w->tape, OWNERS)];

	if (o->sp == NULL || tape_pick(&w->tape, 4))
		return;
	o->state = spool_state(o->sp);
	if (tape_pick(&w->tape, 8) == 7)
		leave(o);
	else if (tape_pick(&w->tape, 2))
		read_on(o);
	else
		add(o);
}

static void turn(struct world *w, bool meddling)
{
	ring_turn(w->r, sim_now_us(w->k) + tape_small(&w->tape, 255));
	if (meddling)
		meddle(w);
	w->flushing = true;
	streams_flush(&w->streams);
	w->flushing = false;
	CHECK(w, w->ss.disk_used <= w->ss.conf.disk_bytes);
	CHECK(w, w->ss.blocks.used <= w->ss.blocks.count_max);
}

static void act(struct world *w)
{
	struct owner *o = &w->owner[tape_pick(&w->tape, OWNERS)];
	uint32_t what;

	if (o->sp == NULL) {
		begin(w, o);
		return;
	}
	look(o);
	what = tape_pick(&w->tape, 16);
	if (what < 6)
		add(o);
	else if (what < 10)
		read_on(o);
	else if (what == 10)
		look_at_front(o);
	else if (what > 11)
		turn(w, true);
	else if (tape_pick(&w->tape, 6) == 5)
		leave(o);
}

/* ---- beginning and end ---- */

static void choose(struct world *w, struct sim_kernel_conf *k, struct spools_conf *c)
{
	static const enum sim_fault often[] = {FAULT_SHORT_WRITE, FAULT_SHORT_READ, FAULT_SLOW_DISK,
		FAULT_LATE, FAULT_CANCEL_LATE};
	static const enum sim_fault rare[] = {FAULT_DISK_FULL, FAULT_DISK_FAILS, FAULT_FILE_FAILS};
	struct tape *t = &w->tape;

	*k = (struct sim_kernel_conf){.features = UINT32_MAX,
		.start_us = FIRST_US,
		.directory = DIRECTORY,
		.crowded = tape_pick(t, 2)};
	for (unsigned i = 0; i < ARRAY_LEN(often); i++)
		k->rate[often[i]] = tape_pick(t, 3) ? (uint8_t)tape_pick(t, 200) : 0;
	w->well = tape_pick(t, 2);
	for (unsigned i = 0; i < ARRAY_LEN(rare) && !w->well; i++)
		k->rate[rare[i]] = tape_pick(t, 2) ? (uint8_t)tape_pick(t, 4) : 0;
	if (!w->well && tape_pick(t, 4) == 3)
		k->disk_bytes = 1 + tape_pick(t, 1u << 20);
	*c = (struct spools_conf){
		.memory_bytes = (uint64_t)(4 + tape_pick(t, 120)) * (SPOOL_BLOCK_BYTES + 64),
		.disk_bytes = tape_pick(t, 3) ? 64u << 20 : tape_pick(t, 1u << 20),
		.spill_bytes = 1 + tape_pick(t, 5 * SPOOL_BLOCK_BYTES),
		.directory = w->well || tape_pick(t, 16) ? DIRECTORY : "/elsewhere",
		.spools_max = 1 + tape_pick(t, OWNERS),
	};
}

static void open_world(struct world *w)
{
	struct sim_kernel_conf k;
	struct spools_conf c;
	struct ring_conf rc;
	struct ring_barrier why;

	tape_from_seed(&w->tape, w->seed);
	record_init(&w->rec);
	choose(w, &k, &c);
	w->k = sim_kernel_new(&k, &w->tape, &w->rec);
	sim_kernel_use(w->k);
	ring_conf_defaults(&rc);
	rc.ops_max = 2 * OWNERS * SPOOL_OPS_MAX; /* those of dropped spools, too */
	w->r = ring_open(&rc, &why);
	ASSERT(w->r && streams_init(&w->streams, w->r, 16, 16));
	ASSERT(spools_init(&w->ss, &c, &w->streams));
}

/* Nothing fails any more: everybody who waits is served. */
static void come_to_rest(struct world *w)
{
	sim_kernel_calm(w->k);
	for (unsigned i = 0; i < OWNERS; i++) {
		struct owner *o = &w->owner[i];
		unsigned turns = 0;

		while (o->sp && (o->waits_for_room || o->waits_to_read) && !w->broken) {
			turn(w, false);
			CHECK(w, ++turns < QUIET_TURNS_MAX);
		}
	}
}

static void read_it_all(struct world *w, struct owner *o)
{
	unsigned turns = 0;

	look(o);
	for (o->at = 0; o->at < o->bytes && o->state != SPOOL_FAILED && !w->broken;) {
		struct span s = SPAN_NONE;

		if (spool_read(o->sp, o->at, &s)) {
			CHECK(w, same(o, o->at, s));
			o->at += s.n;
			continue;
		}
		/* What was under way when the disk became well may have failed. */
		o->waits_to_read = spool_reading(o->sp);
		o->state = spool_state(o->sp);
		CHECK(w, o->waits_to_read || o->state == SPOOL_FAILED);
		while (o->waits_to_read && !w->broken) {
			turn(w, false);
			CHECK(w, ++turns < QUIET_TURNS_MAX);
		}
	}
}

static void close_world(struct world *w)
{
	unsigned turns = 0;

	for (unsigned i = 0; i < OWNERS; i++)
		if (w->owner[i].sp)
			leave(&w->owner[i]);
	while (!spools_idle(&w->ss) && !w->broken) {
		turn(w, false);
		CHECK(w, ++turns < QUIET_TURNS_MAX);
	}
	CHECK(w, w->ss.disk_used == 0 && w->ss.blocks.used == 0 && sim_open_files(w->k) == 0);
	if (w->broken) /* it could not be closed */
		return;
	spools_fini(&w->ss);
	streams_fini(&w->streams);
	ring_close(w->r);
	sim_kernel_use(NULL);
	sim_kernel_free(w->k);
	record_free(&w->rec);
	tape_free(&w->tape);
}

bool sim_spools(uint64_t seed)
{
	struct world w = {.seed = seed};

	open_world(&w);
	for (unsigned i = 0; i < STEPS && !w.broken; i++)
		act(&w);
	if (tape_pick(&w.tape, 4)) { /* else: dropped as they are */
		come_to_rest(&w);
		for (unsigned i = 0; i < OWNERS; i++)
			if (w.owner[i].sp && !w.broken)
				read_it_all(&w, &w.owner[i]);
	}
	close_world(&w);
	return !w.broken;
}
