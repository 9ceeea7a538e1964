/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See world.h. The turn of the core, accepting, sessions, links, streams, movers, timers, slabs,
 * parsers, log records and counters are the product's own objects; ring.h is the simulated
 * kernel's; admission is ours, so that it can refuse.
 *
 * Failure modes: whatever does not come to an end within TURNS_MAX turns or CALM_US of quiet
 * virtual time is I8.
 */
#include "tests/sim/world.h"

#include "engine/core/acceptor.h"
#include "engine/obs/log_buf.h"
#include "ring/listen.h"
#include "tests/sim/setup.h"
#include "tests/sim/see.h"
#include "tests/sim/swarm.h"
#include "tests/sim/virtual.h"
#include "tests/sim/wishes.h"

#define TURNS_MAX 60000u
#define CALM_US (3ull * 3600 * 1000000) /* longer than all time limits one after the other */
#define BODY_QUEUES_MAX 100u		/* a large message through a tiny window takes for ever */
#define IDLE_TURNS_MAX 1000u
#define IDLE_US 1000000u
#define KILL_RATE 1
#define KILL_AT_END_RATE 128
#define LOG_BYTES (1u << 18)

struct world {
	struct tape *t;
	enum theme theme;
	struct record rec;
	struct sim_kernel *k;
	struct servers servers;
	struct sim_clients *clients;
	struct verdicts verdicts;
	struct sess_core core;
	struct ring *ring;
	struct stat_table stats;
	struct log_buf *log;
	struct octets log_text;
	struct acceptor *acceptors;
	struct cli_door *doors;
	uint32_t listener_count;
	uint32_t admitted; /* and not released */
	uint8_t refuse_rate;
	uint32_t sessions_max;
	uint32_t held_max;
	bool drained, killed, pressed, refused;
	uint64_t turns, calm_at_turn, calm_us;
	bool calm;
	uint32_t cells_max;	/* of the engine's pool, when it was made smaller */
	struct ring_bell *bell; /* what is to be done when it rings: see disturb() */
	uint32_t order;
	struct ring_bell *more; /* hooks that were full may take more */
	bool more_rung;
	const char *hung; /* I8: what did not end */
	/* Turns in a row that delivered nothing, and when the first of them was. */
	uint64_t idle_turns, idle_us, completions;
};

/* The world whose pools may be exhausted by chance: slab_get() has no other way to know it. */
static struct world *current;

/* ---- exhausted pools ---- */

void *__real_slab_get(struct slab *s);
void *__wrap_slab_get(struct slab *s);

/* Not those whose users have made sure that something is left: there are a queue and two moves for
 * each session by construction, and the room in cells is counted before they are taken. */
static bool may_run_out(const struct slab *s)
{
	return strcmp(s->name, "queues") != 0 && strcmp(s->name, "moves") != 0 &&
	       strcmp(s->name, "cells") != 0;
}

void *__wrap_slab_get(struct slab *s)
{
	if (current && current->ring && may_run_out(s) &&
		sim_fault_strikes(current->k, FAULT_FULL_SLAB))
		return NULL;
	return __real_slab_get(s);
}

/* ---- admission ---- */

static int admit(
	void *arg, const struct conf_listener *lis, const struct ring_addr *client, uint64_t now_ms)
{
	struct world *w = arg;

	if (!w->calm && tape_chance(w->t, w->refuse_rate)) {
		w->refused = true;
		return tape_pick(w->t, 2) ? ADMIT_FULL : ADMIT_PER_CLIENT;
	}
	w->admitted++;
	return ADMIT_OK;
}

static void release(void *arg, const struct ring_addr *client)
{
	struct world *w = arg;

	ASSERT(w->admitted > 0);
	w->admitted--;
}

/* ---- what comes from outside ---- */

/* What an operator or the load may do to a core at any time. As in a worker, it comes among the
 * completions of a turn. */
static void disturb(struct world *w, uint32_t what)
{
	if (what == 0 && !w->drained) {
		w->drained = true;
		sess_drain_all(&w->core);
	} else if (what == 1 && w->drained && !w->killed) {
		w->killed = true;
		sess_kill_all(&w->core);
	} else if (what == 2) {
		w->pressed = true;
		w->core.pressure = !w->core.pressure;
	}
}

/* Between turns, now and then. */
static void maybe_disturb(struct world *w)
{
	bool hurried = w->theme == THEME_KILLED && !w->drained;
	uint32_t rarity = hurried ? 64 : 256;

	if (tape_pick(w->t, rarity) != rarity - 1)
		return;
	w->order = hurried ? 0 : tape_pick(w->t, 3);
	ring_bell_ring(w->bell);
}

/* Where worlds dwell on it the second TERM comes in the midst of what happens: when a server has
 * just seen the end of a message, say, and the completion of what brought it there is still to be
 * delivered. */
static void maybe_kill(struct world *w, bool ended)
{
	if (w->calm || w->theme != THEME_KILLED || !w->drained || w->killed ||
		!tape_chance(w->t, ended ? KILL_AT_END_RATE : KILL_RATE))
		return;
	w->order = 1;
	ring_bell_ring(w->bell);
}

static void rung(void *arg)
{
	struct world *w = arg;

	if (!w->calm)
		disturb(w, w->order);
}

static void take_more(void *arg)
{
	struct world *w = arg;

	w->more_rung = false;
	wishes_take_more(&w->verdicts);
}

/* ---- beginning ---- */

static bool env_step(void *arg)
{
	struct world *w = arg;
	uint32_t ends = w->servers.message_count;
	bool any;

	if (verdicts_step(&w->verdicts))
		return true;
	if (!w->more_rung && wishes_due(&w->verdicts)) {
		w->more_rung = true;
		ring_bell_ring(w->more);
		return true;
	}
	if (tape_pick(w->t, 2))
		any = servers_step(&w->servers) || clients_step(w->clients);
	else
		any = clients_step(w->clients) || servers_step(&w->servers);
	maybe_kill(w, w->servers.message_count > ends);
	return any;
}

static uint64_t env_next_us(void *arg)
{
	struct world *w = arg;

	uint64_t next = MIN_OF(servers_next_us(&w->servers), clients_next_us(w->clients));

	next = MIN_OF(next, wishes_next_us(&w->verdicts));
	return MIN_OF(next, verdicts_next_us(&w->verdicts));
}

static void open_core(struct world *w, const struct setup *s)
{
	struct ring_conf rc;
	struct ring_barrier why;
	const struct sess_admission adm = {admit, release, w};
	const struct sess_core_conf cc = {.sessions_max = w->sessions_max,
		.memory_bytes = 1u << 20,
		.hooks = w->verdicts.set};

	ring_conf_defaults(&rc);
	rc.ops_max = 4096;
	rc.pipe_count_max = 3;
	rc.pipe_bytes = 64u << 10;
	rc.zc_count = 4;
	rc.zc_bytes = 16u << 10;
	w->ring = ring_open(&rc, &why);
	ASSERT(w->ring);
	w->bell = ring_bell_open(w->ring, rung, w);
	w->more = ring_bell_open(w->ring, take_more, w);
	w->log = log_buf_new(LOG_BYTES, &s->conf->log);
	ASSERT(w->log);
	bool ok = sess_core_init(&w->core, s->conf, &cc, w->ring, &w->stats, w->log, &adm);
	sess_core_material(&w->core, &s->material);
	ASSERT(ok);
}

/* In some worlds there is little room for octets that wait: then it runs out by itself. */
static void make_small(struct world *w)
{
	struct slab *cells = &w->core.streams.cells;

	w->cells_max = cells->count_max;
	if (tape_pick(w->t, 8) != 7)
		return;
	cells->count_max = 4u << tape_pick(w->t, 4);
	w->rec.faults[FAULT_FULL_SLAB]++;
}

static void open_doors(struct world *w, const struct setup *s)
{
	w->listener_count = s->conf->listener_count;
	w->acceptors = calloc(w->listener_count, sizeof(*w->acceptors));
	ASSERT(w->acceptors);
	for (uint32_t i = 0; i < w->listener_count; i++) {
		struct acceptor *a = &w->acceptors[i];

		a->lis = &s->conf->listeners[i];
		a->fd = sim_listener(w->k, i);
	}
}

/* The one behind `l`, of the same sort. */
static uint32_t next_listener(const struct setup *s, uint32_t l)
{
	uint32_t n = s->plain_count, m = s->tls_first, all = s->conf->listener_count;

	if (l < n)
		return (l + 1) % n;
	return l < m ? n + (l + 1 - n) % (m - n) : m + (l + 1 - m) % (all - m);
}

/* One or two of the listeners are in use. */
static void choose_doors(struct world *w, uint32_t first, uint32_t *count)
{
	static const char *const nets[] = {"10.1.0.1:1", "10.9.0.1:1"};

	*count = 1 + (tape_pick(w->t, 4) == 3);
	w->doors = calloc(*count, sizeof(*w->doors));
	ASSERT(w->doors);
	for (uint32_t i = 0; i < *count; i++) {
		uint32_t l = i ? next_listener(setup_get(), first) : first;

		w->doors[i].listener = w->acceptors[l].fd;
		w->doors[i].tls = setup_get()->listeners[l].tls;
		addr_parse(span_str(nets[tape_pick(w->t, 8) == 7]), &w->doors[i].from);
		acceptor_start(&w->acceptors[l], &w->core);
	}
}

/* Behind `bare-newlines: pass` the server is declared strict. */
static bool must_be_strict(const struct setup *s, uint32_t first, uint32_t doors)
{
	bool strict = false;

	for (uint32_t i = 0; i < doors; i++)
		strict |=
			s->listeners[i ? next_listener(s, first) : first].newlines == NEWLINES_PASS;
	return strict;
}

#define HELD_ELSEWHERE (80u << 10) /* a pipe, input that waits, a piece */

/* The high mark, and what may still come when reading stops: all that is completed and what
 * completes before the receive is taken back, each bounded by the buffers; with a cap, no more than
 * that. Only where taking back is late by chance can it be several turns. */
static uint32_t held_max(const struct sim_kernel_conf *c)
{
	uint32_t turns = c->rate[FAULT_CANCEL_LATE] ? 8 : 1;
	uint32_t comes = turns * c->buf_count * c->buf_bytes;

	if (c->features & RING_FEAT_RECV_CAP)
		comes = MIN_OF(comes, 2 * STREAM_RECV_CAP_BYTES);
	return STREAM_HIGH_BYTES + HELD_ELSEWHERE + comes;
}

static void begin(struct world *w, struct tape *t)
{
	const struct setup *s = setup_get();
	struct sim_kernel_conf kc;
	struct servers_conf sc = {0};
	struct clients_conf cc = {0};
	uint32_t first, doors;

	w->t = t;
	record_init(&w->rec);
	w->theme = swarm_theme(t);
	swarm_kernel(t, w->theme, &kc);
	w->k = sim_kernel_new(&kc, t, &w->rec);
	sim_kernel_use(w->k);
	virtual_begin(w->k);
	w->sessions_max = 2 + tape_pick(t, 7);
	w->held_max = held_max(&kc);
	w->refuse_rate = tape_pick(t, 6) == 5 ? 40 : 0;
	verdicts_init(&w->verdicts, w->k, t, &w->rec, tape_pick(t, 4) == 3);
	w->verdicts.wishes->held_max = w->held_max;
	w->verdicts.set = hook_set_open(s->conf, 1, stderr);
	ASSERT(w->verdicts.set);
	verdicts_use(&w->verdicts);
	open_core(w, s);
	make_small(w);
	open_doors(w, s);
	first = swarm_listener(t, w->theme, s);
	choose_doors(w, first, &doors);
	swarm_servers(t, w->theme, &s->listeners[first], must_be_strict(s, first, doors), &sc);
	swarm_clients(t, w->theme, &s->listeners[first], &cc);
	cc.body_bytes = MIN_OF(cc.body_bytes, kc.send_queue_bytes * BODY_QUEUES_MAX);
	sc.tls = s->server_tls;
	servers_init(&w->servers, w->k, t, &sc, s->servers, s->server_count);
	w->clients = clients_new(w->k, t, &cc, w->doors, doors);
	sim_kernel_env(w->k, &(struct sim_env){env_step, env_next_us, w});
	current = w;
}

/* ---- running ---- */

static void take_log(struct world *w)
{
	struct iovec iov[2] = {{0}};
	size_t n = log_buf_peek(w->log, iov);

	for (unsigned i = 0; i < 2; i++)
		if (iov[i].iov_len)
			octets_add(&w->log_text, iov[i].iov_base, iov[i].iov_len);
	log_buf_take(w->log, n);
}

static void calm_down(struct world *w)
{
	w->calm = true;
	w->calm_at_turn = w->turns;
	w->calm_us = sim_now_us(w->k);
	w->core.pressure = false;
	sim_kernel_calm(w->k);
	servers_calm(&w->servers);
	clients_calm(w->clients);
	verdicts_calm(&w->verdicts);
}

static bool over(const struct world *w)
{
	return clients_gone(w->clients) && sess_none_left(&w->core);
}

/* A timer set into the past, again and again, keeps a core busy for nothing. */
static bool restless(struct world *w)
{
	uint64_t now = sim_now_us(w->k), done = sim_completions(w->k);

	if (done != w->completions) {
		w->completions = done;
		w->idle_turns = 0;
		w->idle_us = now;
	}
	return ++w->idle_turns > IDLE_TURNS_MAX && now - w->idle_us < IDLE_US;
}

static const char *stuck(struct world *w)
{
	if (restless(w))
		return "the loop does not rest";
	if (sim_stuck(w->k))
		return "nothing can happen any more and something is left";
	if (w->turns - w->calm_at_turn > TURNS_MAX)
		return "turns without end";
	if (w->calm && sim_now_us(w->k) - w->calm_us > CALM_US)
		return "hours passed and something is left";
	return NULL;
}

static void run(struct world *w)
{
	uint32_t patience = 100 + tape_pick(w->t, 2000);
	bool disturbed = tape_pick(w->t, 4) == 3 || w->theme == THEME_KILLED;

	if ((w->theme == THEME_SLOW || w->theme == THEME_CARRIED) && tape_pick(w->t, 2))
		disturb(w, 2);

	while (!over(w) && !w->hung) {
		sess_core_turn(&w->core);
		w->turns++;
		take_log(w);
		if (!w->calm && w->turns > patience)
			calm_down(w);
		if (!w->calm && disturbed)
			maybe_disturb(w);
		w->hung = over(w) ? NULL : stuck(w);
	}
	if (!w->calm)
		calm_down(w);
}

/* ---- ending ---- */

static bool accepting(const struct world *w)
{
	for (uint32_t i = 0; i < w->listener_count; i++)
		if (acceptor_busy(&w->acceptors[i]))
			return true;
	return false;
}

static void end(struct world *w)
{
	for (uint32_t i = 0; i < w->listener_count; i++)
		if (w->acceptors[i].core)
			acceptor_stop(&w->acceptors[i]);
	while ((accepting(w) || !sess_none_left(&w->core)) && !w->hung) {
		sess_core_turn(&w->core);
		w->turns++;
		w->hung = accepting(w) ? stuck(w) : NULL;
	}
	while (!w->hung && !sess_core_idle(&w->core)) {
		sess_core_turn(&w->core);
		w->turns++;
		w->hung = stuck(w);
	}
	take_log(w);
	if (w->hung)
		return;
	current = NULL;
	for (uint32_t i = 0; i < w->listener_count; i++)
		sim_listener_close(w->k, w->acceptors[i].fd);
	w->core.streams.cells.count_max = w->cells_max;
	sess_core_fini(&w->core);
	ring_bell_close(w->ring, w->bell);
	ring_bell_close(w->ring, w->more);
	ring_close(w->ring);
	w->ring = NULL;
}

static void say(struct verdict *v, enum invariant i, const char *text)
{
	v->broken = i;
	snprintf(v->text, sizeof(v->text), "%s", text);
}

static void judge(struct world *w, struct verdict *v)
{
	const struct setup *s = setup_get();
	struct record seen = {0};
	bool tls = w->theme == THEME_TLS;

	if (tls)
		see_record(&w->rec, &seen);
	const struct oracle_in in = {
		.rec = tls ? &seen : &w->rec,
		.raw = tls ? &w->rec : NULL,
		.servers = &w->servers,
		.clients = w->clients,
		.listeners = s->listeners,
		.listener_count = w->listener_count,
		.log = octets_span(&w->log_text),
		.stats = &w->stats,
		.drained = w->drained,
		.killed = w->killed,
		.pressure = w->pressed,
		.verdicts = &w->verdicts,
		.hooked = w->theme == THEME_HOOKS,
		.admission_refused = w->refused,
		.sessions_max = w->sessions_max,
		.held_max = w->held_max,
	};

	if (w->hung)
		say(v, I8_LIVE, w->hung);
	else if (clients_gave_up(w->clients))
		say(v, I8_LIVE, "a client waited for ever in quiet times");
	else if (sim_open_sockets(w->k))
		say(v, I8_LIVE, "a socket was never closed");
	else if (w->admitted)
		say(v, I9_COUNTERS, "an admission was not given back");
	else
		oracle_judge(&in, v);
	record_free(&seen);
}

static void measure(struct world *w, struct world_result *out)
{
	record_mix(&w->rec, w->log_text.p, w->log_text.n);
	record_mix(&w->rec, &w->stats, sizeof(w->stats));
	out->hash = w->rec.hash;
	out->turns = w->turns;
	out->events = w->rec.count;
	out->messages = w->servers.message_count;
	out->completions = sim_completions(w->k);
	out->virtual_us = sim_now_us(w->k);
	for (uint32_t i = 0; i < w->rec.sock_count; i++) {
		out->sessions += !w->rec.socks[i].dialled;
		out->links += w->rec.socks[i].dialled;
	}
	memcpy(out->faults, w->rec.faults, sizeof(out->faults));
}

static void tell(const struct world *w, const struct world_result *r, FILE *out)
{
	struct record seen = {0};

	record_print(&w->rec, out);
	if (w->theme == THEME_TLS) {
		fprintf(out, "---- the same without TLS\n");
		see_record(&w->rec, &seen);
		record_print(&seen, out);
		record_free(&seen);
	}
	fprintf(out, "---- log\n%.*s", (int)w->log_text.n, (const char *)w->log_text.p);
	fprintf(out, "---- %llu sessions, %llu links, %llu turns, %.3f s of virtual time\n",
		(unsigned long long)r->sessions, (unsigned long long)r->links,
		(unsigned long long)r->turns, (double)r->virtual_us / 1e6);
}

/* What hangs is left where it is: its operations and leases could not be closed. */
static void forget(struct world *w)
{
	current = NULL;
	sim_kernel_use(NULL);
	virtual_end();
	if (w->hung)
		return;
	sim_kernel_free(w->k);
	hook_set_close(w->verdicts.set);
	verdicts_free(&w->verdicts);
	clients_free(w->clients);
	servers_free(&w->servers);
	log_buf_free(w->log);
	octets_free(&w->log_text);
	free(w->acceptors);
	free(w->doors);
	record_free(&w->rec);
}

void world_run(struct tape *t, struct world_result *out, FILE *transcript)
{
	struct world w = {0};

	memset(out, 0, sizeof(*out));
	begin(&w, t);
	run(&w);
	end(&w);
	judge(&w, &out->verdict);
	measure(&w, out);
	if (transcript)
		tell(&w, out, transcript);
	forget(&w);
}

int sim_world_from_tape(const uint8_t *p, size_t n)
{
	struct world_result r;
	struct tape t;

	tape_from_bytes(&t, p, n);
	world_run(&t, &r, NULL);
	tape_free(&t);
	if (r.verdict.broken != I_NONE) {
		fprintf(stderr, "broken: %s\n", r.verdict.text);
		abort();
	}
	return 0;
}
