/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The simulated kernel: its beginning and end, faults, time, and the turn.
 *
 * A turn gives the kernel what was armed and taken back since the last one, then lets one thing
 * happen after the other (an operation that could move moves, octets travel, an actor acts), each
 * picked by chance out of all that could happen now, until a completion is there; by chance some
 * more happens before the turn ends. When nothing can happen, time jumps. Time also passes a little
 * with each turn: the engine has worked.
 *
 * Failure modes: none of its own; a caller that breaks a rule of ring.h is stopped (ASSERT). A turn
 * without a limit in which nothing can ever happen comes back, and sim_stuck() says so; a caller
 * that goes on all the same is stopped after STUCK_MAX of them.
 */
#include "tests/sim/kernel_int.h"

#define STEPS_MAX 20000u
#define STUCK_MAX 10000u
#define QUEUE_BYTES (64u << 10)
#define CROWDED_STOP 16

const char *const sim_fault_words[SIM_FAULT_COUNT] = {
#define X(id, word, max, text) [id] = word,
#include "tests/sim/faults.def"
#undef X
};

const uint8_t sim_fault_max[SIM_FAULT_COUNT] = {
#define X(id, word, max, text) [id] = max,
#include "tests/sim/faults.def"
#undef X
};

_Static_assert(SIM_FAULT_COUNT <= REC_FAULTS_MAX, "counted in the record");

static struct sim_kernel *current;

/* ---- small things ---- */

/* splitmix64 (Steele, Lea, Flood 2014). */
uint64_t sim_splitmix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

void *sim_room(void *p, uint32_t n, uint32_t *cap, size_t item)
{
	if (LIKELY(n < *cap))
		return p;
	*cap = MAX_OF(16u, *cap * 2);
	p = realloc(p, *cap * item);
	ASSERT(p);
	return p;
}

struct sim_kernel *sim_current(void)
{
	return current;
}

/* ---- beginning and end ---- */

struct sim_kernel *sim_kernel_new(
	const struct sim_kernel_conf *conf, struct tape *t, struct record *rec)
{
	static const uint8_t stops[] = {64, 255, 128, 16};
	struct sim_kernel *k = calloc(1, sizeof(*k));

	ASSERT(k);
	k->conf = *conf;
	if (k->conf.send_queue_bytes == 0)
		k->conf.send_queue_bytes = QUEUE_BYTES;
	k->t = t;
	k->rec = rec;
	k->now_us = conf->start_us;
	k->due_us = SIM_NEVER;
	k->random = tape_pick(t, UINT32_MAX);
	k->stop = conf->loopback ? 0 : stops[tape_pick(t, ARRAY_LEN(stops))];
	if (conf->crowded)
		k->stop = CROWDED_STOP;
	/* Row 0 is nobody's: a struct ring_op with slot 0 is not armed. */
	*SIM_PUSH(k, row) = (struct row){0};
	return k;
}

void sim_kernel_free(struct sim_kernel *k)
{
	ASSERT(!k->ring && sim_open_files(k) == 0);
	if (current == k)
		current = NULL;
	conns_free(k);
	for (uint32_t i = 0; i < k->row_n; i++)
		free(k->row[i].iov);
	for (uint32_t i = 0; i < k->listener_n; i++)
		free(k->listener[i]);
#define X(type, member) free(k->member);
	SIM_ARRAYS(X)
#undef X
	free(k);
}

void sim_kernel_use(struct sim_kernel *k)
{
	current = k;
}

void sim_kernel_env(struct sim_kernel *k, const struct sim_env *env)
{
	k->env = *env;
}

void sim_kernel_calm(struct sim_kernel *k)
{
	memset(k->conf.rate, 0, sizeof(k->conf.rate));
	record_event(k->rec, k->now_us, REC_NO_SOCK, REC_CALM, RING_OK, 0, 0);
}

uint64_t sim_now_us(const struct sim_kernel *k)
{
	return k->now_us;
}

bool sim_stuck(const struct sim_kernel *k)
{
	return k->stuck;
}

uint64_t sim_completions(const struct sim_kernel *k)
{
	return k->completions;
}

/* ---- faults ---- */

bool sim_strikes(struct sim_kernel *k, enum sim_fault f, uint32_t sock)
{
	if (!tape_chance(k->t, k->conf.rate[f]))
		return false;
	k->rec->faults[f]++;
	record_event(k->rec, k->now_us, sock, REC_FAULT, RING_OK, 0, f);
	return true;
}

bool sim_fault_strikes(struct sim_kernel *k, enum sim_fault f)
{
	return sim_strikes(k, f, REC_NO_SOCK);
}

uint32_t sim_short(struct sim_kernel *k, enum sim_fault f, uint32_t sock, uint32_t n)
{
	if (n < 2 || !sim_strikes(k, f, sock))
		return n;
	return 1 + tape_pick(k->t, n - 1);
}

/* ---- time ---- */

uint64_t sim_delay(struct sim_kernel *k)
{
	uint64_t d = tape_small(k->t, 255);

	return 1 + d * d * 16;
}

void sim_due(struct sim_kernel *k, uint64_t us)
{
	k->due_us = MIN_OF(k->due_us, us);
}

static void time_is(struct sim_kernel *k, uint64_t us)
{
	k->now_us = us;
	k->env_awake = true;
	if (k->now_us >= k->due_us)
		ops_look_all(k);
}

static void time_passes(struct sim_kernel *k)
{
	uint64_t us = 1 + sim_splitmix(&k->random) % 32;

	if (sim_strikes(k, FAULT_CLOCK_JUMPS, REC_NO_SOCK)) {
		uint64_t d = tape_small(k->t, 255);

		us += d * d * 64;
	}
	time_is(k, k->now_us + us);
}

/* Nothing can happen now. False: not before the deadline either. */
static bool jump(struct sim_kernel *k, uint64_t deadline_us)
{
	uint64_t next = k->due_us, env = k->env.next_us ? k->env.next_us(k->env.arg) : SIM_NEVER;

	next = MIN_OF(next, env);
	if (next == SIM_NEVER && deadline_us == SIM_NEVER) {
		k->stuck = true;
		ASSERT(++k->stuck_turns < STUCK_MAX); /* whoever waits here waits for ever */
		return false;
	}
	if (deadline_us <= next) {
		if (deadline_us > k->now_us)
			time_is(k, deadline_us);
		return false;
	}
	time_is(k, MAX_OF(next, k->now_us + 1));
	return true;
}

/* ---- the turn ---- */

/* One thing of all that could happen now. False: there is nothing. The first alternatives are the
 * dull ones: a completion that is due, then the network, then an actor. */
static bool happen(struct sim_kernel *k)
{
	uint32_t work = k->ready_n + k->moving_n;
	uint32_t env = k->env_awake ? 1 + work / 2 : 0, i;

	if (work + env == 0)
		return false;
	i = tape_pick(k->t, work + env);
	if (i < k->ready_n)
		op_run(k, k->ready[i]);
	else if (i < work)
		net_move(k, k->moving[i - k->ready_n]);
	else
		k->env_awake = k->env.step && k->env.step(k->env.arg);
	return true;
}

static void wait(struct sim_kernel *k, uint64_t deadline_us)
{
	for (uint32_t steps = 0; steps < STEPS_MAX; steps++) {
		bool due = k->cq_n > 0 || (steps > 0 && k->now_us >= deadline_us);

		if (due && tape_chance(k->t, k->stop))
			return;
		if (happen(k))
			continue;
		if (due || k->now_us >= deadline_us || !jump(k, deadline_us))
			return;
	}
}

void ring_turn(struct ring *r, uint64_t deadline_us)
{
	struct sim_kernel *k = r->k;

	ASSERT(!r->delivering);
	r->stats.enters++;
	k->stuck = false;
	bufs_publish(r);
	ops_submit(k);
	time_passes(k);
	if (deadline_us <= k->now_us || !sim_strikes(k, FAULT_IDLE_TURN, REC_NO_SOCK))
		wait(k, deadline_us);
	if (!k->stuck)
		k->stuck_turns = 0;
	r->now_us = k->now_us;
	r->delivering = true;
	ops_deliver(r);
	r->delivering = false;
}

/* ---- the ring ---- */

struct ring *ring_open(const struct ring_conf *conf, struct ring_barrier *why)
{
	struct sim_kernel *k = current;
	struct ring *r = calloc(1, sizeof(*r));

	ASSERT(k && !k->ring && r);
	ASSERT(conf->ops_max > 0);
	ASSERT(conf->buf_count > 0 && (conf->buf_count & (conf->buf_count - 1)) == 0);
	memset(why, 0, sizeof(*why));
	k->ring = r;
	k->cq_max = k->conf.cq_entries ? k->conf.cq_entries : conf->cq_entries;
	r->k = k;
	r->features = k->conf.features & ~conf->features_off;
	r->ops_max = conf->ops_max;
	r->now_us = k->now_us;
	r->random = sim_splitmix(&k->random);
	bufs_open(r, conf);
	pipes_open(r, conf);
	zc_open(r, conf);
	return r;
}

void ring_close(struct ring *r)
{
	struct sim_kernel *k = r->k;

	while (k->armed && k->armed == r->bells_closing)
		ring_turn(r, UINT64_MAX);
	ASSERT(k->armed == 0 && k->cq_n == 0);
	zc_close(r);
	pipes_close(r);
	bufs_close(r);
	k->ring = NULL;
	free(r);
}

uint32_t ring_features(const struct ring *r)
{
	return r->features;
}

struct ring_stats *ring_stats(struct ring *r)
{
	return &r->stats;
}

uint64_t ring_now_us(const struct ring *r)
{
	return r->now_us;
}

uint64_t ring_wall_us(const struct ring *r)
{
	return r->now_us;
}

uint64_t ring_random(struct ring *r)
{
	return sim_splitmix(&r->random);
}
