/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The worker's thread: see worker.h. Failure modes: the ring or the memory cannot be had
 * (WORKER_FAILED and why).
 *
 * Pressure (one named state): more than 80 % of the sessions, less than 20 % of the receive buffers
 * free, or timers more than LAG_MS late for most of a second; left at half of each. It shortens
 * what a client may waste.
 */
#include "engine/core/worker.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>
#ifdef HAVE_JEMALLOC
#include <jemalloc/jemalloc.h>
#endif

#define TICK_MS 250
#define LAG_MS 50
#define LATE_TICKS 2 /* of the four of a second */
#define LOG_BUFFER_BYTES (1u << 20)
#define MBOX_CAPACITY 64

static uint64_t now_ms(const struct worker *w)
{
	return ring_now_us(w->ring) / 1000;
}

static void wake_control(struct worker *w)
{
	uint64_t one = 1;

	if (write(w->wc.wake_fd, &one, sizeof(one)) < 0) {
		/* Full: the control thread is awake anyway. */
	}
}

static void set_state(struct worker *w, enum worker_state s)
{
	__atomic_store_n(&w->state, (uint32_t)s, __ATOMIC_RELEASE);
	wake_control(w);
}

enum worker_state worker_state(const struct worker *w)
{
	return (enum worker_state)__atomic_load_n(&w->state, __ATOMIC_ACQUIRE);
}

/* ---- accepting ---- */

static void start_accepting(struct worker *w)
{
	for (uint32_t i = 0; i < w->wc.acceptor_count; i++)
		acceptor_start(&w->wc.acceptors[i], &w->core);
}

static void stop_accepting(struct worker *w)
{
	for (uint32_t i = 0; i < w->wc.acceptor_count; i++)
		acceptor_stop(&w->wc.acceptors[i]);
}

static bool accepting(const struct worker *w)
{
	for (uint32_t i = 0; i < w->wc.acceptor_count; i++)
		if (acceptor_busy(&w->wc.acceptors[i]))
			return true;
	return false;
}

/* ---- pressure, and what others read ---- */

static bool under_pressure(const struct worker *w, bool now)
{
	unsigned share = now ? 2 : 1; /* leaves at half */
	uint64_t sessions = clients_sessions(w->wc.clients),
		 max = clients_sessions_max(w->wc.clients);
	uint64_t free_bufs = ring_bufs_free(w->ring), bufs = ring_bufs_total(w->ring);

	return sessions * 100 * share > max * 80 || (bufs - free_bufs) * 100 * share > bufs * 80 ||
	       w->late_ticks * share > LATE_TICKS;
}

static void note_pressure(struct worker *w, bool on)
{
	struct log_rec rec;

	w->core.pressure = on;
	STAT_SET(&w->stats, pressure_now, on);
	if (on)
		STAT_INC(&w->stats, pressure_entered);
	if (!log_begin(&rec, w->log, LOG_EV_PRESSURE, ring_wall_us(w->ring)))
		return;
	log_u64(&rec, "worker", w->wc.index);
	log_bool(&rec, "on", on);
	log_u64(&rec, "sessions", clients_sessions(w->wc.clients));
	log_u64(&rec, "buffers_free", ring_bufs_free(w->ring));
	log_u64(&rec, "late_ticks", w->late_ticks);
	log_end(&rec, &w->stats);
}

static uint64_t heap_bytes(void)
{
#ifdef HAVE_JEMALLOC
	uint64_t n = 0;
	size_t len = sizeof(n);

	if (mallctl("thread.allocated", &n, &len, NULL, 0) == 0)
		return n;
#endif
	return 0;
}

/* Each field is one relaxed store: a reader sees each number whole, not all of one instant. */
static void publish(struct worker *w)
{
	const struct ring_stats *from = ring_stats(w->ring);

#define X(name, text) __atomic_store_n(&w->ring_stats.name, from->name, __ATOMIC_RELAXED);
	RING_STATS(X)
#undef X
	__atomic_store_n(&w->heap_bytes, heap_bytes(), __ATOMIC_RELAXED);
}

static void tick(struct timer *t)
{
	struct worker *w = CONTAINER_OF(t, struct worker, pressure_timer);
	uint64_t now = now_ms(w);

	/* Late for most of a second is a core that cannot keep up; late once is a hiccup of the
	 * scheduler. */
	w->late_ticks += now > t->at_ms + TIMER_TICK_MS + LAG_MS;
	publish(w);
	if (++w->ticks % (1000 / TICK_MS) == 0) {
		bool on = w->wc.conf->limits.pressure && under_pressure(w, w->core.pressure);

		if (on != w->core.pressure)
			note_pressure(w, on);
		w->late_ticks = 0;
	}
	timer_set(&w->core.timers, t, now + TICK_MS);
}

/* ---- orders ---- */

static void take_renewed(struct worker *w)
{
	struct tls_material *old = w->material;

	pthread_mutex_lock(&w->orders);
	w->material = w->renewed;
	w->renewed = NULL;
	pthread_mutex_unlock(&w->orders);
	sess_core_material(&w->core, w->material);
	tls_material_unref(old);
}

static void ordered(void *arg, const struct mbox_msg *m)
{
	struct worker *w = arg;

	if (m->kind == ORDER_DRAIN && !w->draining) {
		w->draining = true;
		sess_drain_all(&w->core);
	} else if (m->kind == ORDER_KILL && !w->killing) {
		w->draining = w->killing = true;
		stop_accepting(w);
		sess_kill_all(&w->core);
	} else if (m->kind == ORDER_RENEW && worker_state(w) != WORKER_ENDING) {
		take_renewed(w);
	}
}

/* With the lock of orders. */
static void post(struct worker *w, enum worker_order o)
{
	/* Two orders in the life of a worker, and one that is not given again before it is taken
	 * up: the box cannot be full. */
	bool posted = mbox_post(w->mbox, (struct mbox_msg){.kind = o});

	ASSERT(posted);
}

static bool takes_orders(const struct worker *w)
{
	return worker_state(w) == WORKER_RUNNING || worker_state(w) == WORKER_DRAINED;
}

void worker_order(struct worker *w, enum worker_order o)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->orders);
	if (takes_orders(w))
		post(w, o);
	pthread_mutex_unlock(&w->orders);
}

void worker_renew(struct worker *w, struct tls_material *m)
{
	if (!w->started)
		return;
	pthread_mutex_lock(&w->orders);
	if (takes_orders(w)) {
		if (!w->renewed)
			post(w, ORDER_RENEW);
		tls_material_unref(w->renewed);
		w->renewed = tls_material_ref(m);
	}
	pthread_mutex_unlock(&w->orders);
}

/* From here on nobody posts. */
static void refuse_orders(struct worker *w)
{
	pthread_mutex_lock(&w->orders);
	set_state(w, WORKER_ENDING);
	pthread_mutex_unlock(&w->orders);
}

/* ---- the thread ---- */

static void pin(const struct worker *w)
{
	cpu_set_t set;

	if (w->wc.cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((unsigned)w->wc.cpu, &set);
	/* A CPU that went offline since the configuration was read: run unpinned rather than not at
	 * all. */
	(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static bool set_up(struct worker *w)
{
	const struct sess_admission adm = {clients_admit, clients_release, w->wc.clients};

	w->wc.sessions.worker = w->wc.index;
	w->wc.sessions.workers = w->wc.conf->cpu_count;
	w->ring = ring_open(&w->wc.ring, &w->barrier);
	if (!w->ring)
		return false;
	w->mbox = mbox_open(w->ring, MBOX_CAPACITY, ordered, w);
	w->log = log_buf_new(LOG_BUFFER_BYTES, &w->wc.conf->log);
	if (!w->mbox || !w->log ||
		!sess_core_init(
			&w->core, w->wc.conf, &w->wc.sessions, w->ring, &w->stats, w->log, &adm)) {
		snprintf(w->barrier.what, sizeof(w->barrier.what),
			"a worker's memory cannot be had");
		snprintf(w->barrier.fix, sizeof(w->barrier.fix),
			"lower limits.sessions or limits.memory, or allow overcommit");
		return false;
	}
	sess_core_material(&w->core, w->material);
	log_buf_wake(w->log, w->wc.log_fd);
	timer_init(&w->pressure_timer, tick);
	return true;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	char name[16];

	snprintf(name, sizeof(name), "worker-%u", w->wc.index);
	(void)pthread_setname_np(pthread_self(), name);
	pin(w);
	if (!set_up(w)) {
		set_state(w, WORKER_FAILED);
		return NULL;
	}
	timer_set(&w->core.timers, &w->pressure_timer, now_ms(w) + TICK_MS);
	start_accepting(w);
	set_state(w, WORKER_RUNNING);
	while (!w->killing) {
		sess_core_turn(&w->core);
		if (w->draining && sess_none_left(&w->core) && worker_state(w) == WORKER_RUNNING)
			set_state(w, WORKER_DRAINED);
	}
	while (accepting(w) || !sess_none_left(&w->core))
		sess_core_turn(&w->core);
	while (!sess_core_idle(&w->core))
		sess_core_turn(&w->core);
	refuse_orders(w);
	timer_stop(&w->core.timers, &w->pressure_timer);
	publish(w);
	sess_core_fini(&w->core);
	mbox_close(w->ring, w->mbox);
	ring_close(w->ring);
	return NULL;
}

bool worker_start(struct worker *w, const struct worker_conf *wc)
{
	memset(w, 0, sizeof(*w));
	w->wc = *wc;
	pthread_mutex_init(&w->orders, NULL);
	w->material = tls_material_ref(wc->material);
	errno = pthread_create(&w->thread, NULL, worker_main, w);
	w->started = errno == 0;
	if (!w->started)
		tls_material_unref(w->material);
	return w->started;
}

void worker_join(struct worker *w)
{
	if (!w->started)
		return;
	pthread_join(w->thread, NULL);
	tls_material_unref(w->renewed);
	tls_material_unref(w->material);
	w->started = false;
}
