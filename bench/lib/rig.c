/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See rig.h. The stop flag and the bell are the only state shared with the signal handler;
 * ring_bell_ring() is async-signal-safe by its contract.
 */
#include "bench/lib/rig.h"

#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

/* What else is open: ring, bell, listeners, stored files, the standard three. */
#define RIG_OTHER_FDS 96

static volatile sig_atomic_t stops;
static struct ring_bell *volatile stop_bell;

static void on_signal(int sig)
{
	if (++stops > 1)
		_exit(128 + sig);
	if (stop_bell)
		ring_bell_ring(stop_bell);
}

static void rung(void *arg)
{
	(void)arg; /* it only had to end the wait */
}

bool rig_stopped(void)
{
	return stops != 0;
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal};

	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sa.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &sa, NULL);
}

static void pin(const struct rig_conf *c)
{
	cpu_set_t set;

	if (c->cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((unsigned)c->cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0) {
		fprintf(stderr, "%s: cannot run on CPU %d\n", c->program, c->cpu);
		exit(RIG_EXIT_UNAVAILABLE);
	}
}

/* Never used: a stream receives little at a time where there would be no cells to keep it in. */
#define RECV_CELLS (64u << 10)

uint32_t rig_connections_allowed(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) != 0)
		return 1024 - RIG_OTHER_FDS;
	if (l.rlim_cur < l.rlim_max) {
		l.rlim_cur = l.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &l) != 0)
			getrlimit(RLIMIT_NOFILE, &l);
	}
	if (l.rlim_cur <= RIG_OTHER_FDS + 16)
		return 16;
	return (uint32_t)MIN_OF(l.rlim_cur - RIG_OTHER_FDS, 1u << 20);
}

static void need(const struct rig_conf *c, bool had, const char *what)
{
	if (had)
		return;
	fprintf(stderr, "%s: no memory for %s\n", c->program, what);
	exit(RIG_EXIT_UNAVAILABLE);
}

void rig_open(struct rig *g, const struct rig_conf *c)
{
	struct ring_barrier why;
	struct ring_conf rc;

	memset(g, 0, sizeof(*g));
	pin(c);
	ring_conf_defaults(&rc);
	/* receive, send and connect or poll of each; listeners, bell, spare */
	rc.ops_max = c->connections * 3 + 256;
	rc.pipe_count_max = 0;
	rc.zc_count = 0;
	if (c->buf_bytes)
		rc.buf_bytes = (unsigned)c->buf_bytes;
	g->ring = ring_open(&rc, &why);
	if (!g->ring) {
		fprintf(stderr, "%s: %s: %s\n", c->program, why.what, why.fix);
		exit(RIG_EXIT_NOPERM);
	}
	timers_init(&g->timers, rig_now_ms(g));
	need(c,
		streams_init(&g->streams, g->ring,
			c->connections * (c->cells_each + 4) + RECV_CELLS + 1024,
			c->connections * c->cells_each + RECV_CELLS),
		"sends");
	need(c, stash_pools_init(&g->stashes, c->connections + 64, c->connections + 64), "input");
	g->bell = ring_bell_open(g->ring, rung, g);
	need(c, g->bell != NULL, "the bell");
	stop_bell = g->bell;
	catch_signals();
}

static void need_tls(const char *program, bool had, const struct tls_error *e)
{
	if (had)
		return;
	fprintf(stderr, "%s: no TLS: %s\n", program, e->text);
	exit(RIG_EXIT_UNAVAILABLE);
}

void rig_open_tls(struct rig *g, const char *program, uint32_t connections)
{
	struct tls_error e = {.text = "no memory"};

	need_tls(program, tls_library_init(&e), &e);
	need_tls(program, tls_core_init(&g->tls, &g->streams, connections), &e);
	g->tls_on = true;
}

void rig_close(struct rig *g)
{
	stop_bell = NULL;
	ring_bell_close(g->ring, g->bell);
	if (g->tls_on) {
		tls_core_fini(&g->tls);
		tls_library_fini();
	}
	streams_fini(&g->streams);
	stash_pools_fini(&g->stashes);
	ring_close(g->ring);
}

void rig_turn(struct rig *g, uint64_t until_us)
{
	uint64_t timer_ms = timers_next_ms(&g->timers);
	uint64_t timer_us = timer_ms > UINT64_MAX / 1000 ? UINT64_MAX : timer_ms * 1000;

	ring_turn(g->ring, g->tls_on && tls_core_waits(&g->tls) ? 0 : MIN_OF(until_us, timer_us));
	if (g->tls_on)
		tls_core_turn(&g->tls);
	timers_run(&g->timers, rig_now_ms(g));
}

double rig_cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}
