/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The control thread: see control.h. Order of start (each step can still say why it failed):
 * signals blocked, certificates read, listeners bound, log opened, privileges dropped, limits
 * planned, workers started. Signals: TERM and INT drain for shutdown-grace, QUIT drains without
 * limit, a second one ends at once, USR1 reopens the log, HUP reads the certificates anew, USR2 is
 * answered with a warning. Failure modes: a file that is no good (78), an address that cannot be
 * bound (69), a ring that cannot be made (77).
 */
#include "engine/core/control.h"

#include "engine/core/certs.h"
#include "engine/core/doctor.h"
#include "engine/core/limits.h"
#include "engine/core/privileges.h"
#include "engine/core/worker.h"
#include "ring/listen.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define LOG_DRAIN_MS 50
#define OWN_LOG_BYTES (64u << 10)
#define BIND_TRIES 20
#define LAST_NEWS_MS 1000 /* what threads of hooks have at least, however hurried the end is */
#define BIND_RETRY_MS 50

struct control {
	const struct conf *conf;
	struct process_limits limits;
	struct hook_set *hooks; /* owns */
	struct certs certs;
	struct clients *clients;
	struct worker *workers;	    /* owns */
	struct acceptor *acceptors; /* workers x addresses; owns */
	uint32_t acceptor_count;    /* per worker */
	struct log_sink *sink;
	struct log_buf *log; /* the control thread's own records */
	struct stat_table stats;
	int signal_fd, wake_fd;
	uint64_t kill_at_ms; /* 0: never */
	bool draining, killing, at_once, lost_told;
};

static uint64_t clock_ms(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool begin(struct control *c, struct log_rec *rec, enum log_event ev)
{
	return log_begin(rec, c->log, ev, clock_ms(CLOCK_REALTIME) * 1000);
}

static void say(struct control *c, enum log_event ev, const char *what)
{
	struct log_rec rec;

	if (begin(c, &rec, ev)) {
		log_cstr(&rec, "note", what);
		log_end(&rec, &c->stats);
	}
}

static void note(struct control *c, const char *what)
{
	say(c, LOG_EV_NOTE, what);
}

/* What an operator should do something about. */
static void warn(struct control *c, const char *what)
{
	say(c, LOG_EV_WARNING, what);
}

/* ---- listeners ---- */

static struct acceptor *acceptor_of(struct control *c, uint32_t worker, uint32_t i)
{
	return &c->acceptors[worker * c->acceptor_count + i];
}

/* SO_REUSEPORT would let us join whoever listens there already, and share his connections. So a
 * plain bind first. A predecessor that was killed lets go of its sockets a moment after it is gone:
 * its ring is torn down behind its back by the kernel. */
static enum ring_res address_free(const struct ring_addr *addr)
{
	const struct timespec pause = {.tv_nsec = BIND_RETRY_MS * 1000000};
	enum ring_res res;

	for (unsigned i = 0; i < BIND_TRIES; i++) {
		struct ring_fd fd;

		res = listen_open(addr, 1, false, &fd);
		if (res == RING_OK)
			listen_close(&fd);
		if (res != RING_ADDRINUSE)
			break;
		nanosleep(&pause, NULL);
	}
	return res;
}

/* TCP: one socket per worker in a SO_REUSEPORT group, so the kernel spreads connections. With port
 * 0 the first socket's port holds for all. A Unix socket is one, shared. */
static bool bind_address(struct control *c, const struct conf_listener *lis,
	const struct ring_addr *want, uint32_t i)
{
	struct ring_addr addr = *want;
	bool local = want->sa.sa_family == AF_UNIX;
	char text[ADDR_TEXT_BYTES];

	for (uint32_t w = 0; w < c->conf->cpu_count; w++) {
		struct acceptor *a = acceptor_of(c, w, i);
		enum ring_res res = w == 0 ? address_free(&addr) : RING_OK;

		a->lis = lis;
		if (local && w > 0)
			a->fd = acceptor_of(c, 0, i)->fd;
		else if (res == RING_OK)
			res = listen_open(
				&addr, (int)c->conf->limits.accept_backlog, !local, &a->fd);
		if (res != RING_OK) {
			fprintf(stderr, "ringpost: listener %s: cannot listen on %s: %s (%s)\n",
				lis->name, addr_text(want, text), ring_res_word(res),
				ring_res_text(res));
			return false;
		}
		if (w == 0)
			listen_addr(a->fd, &addr);
	}
	return true;
}

static bool bind_all(struct control *c)
{
	uint32_t i = 0;

	c->acceptor_count = limits_addresses(c->conf);
	c->acceptors =
		calloc((size_t)c->acceptor_count * c->conf->cpu_count, sizeof(*c->acceptors));
	if (!c->acceptors)
		return false;
	for (uint32_t n = 0; n < c->acceptor_count * c->conf->cpu_count; n++)
		c->acceptors[n].fd = RING_FD_NONE;
	for (uint32_t l = 0; l < c->conf->listener_count; l++)
		for (uint32_t b = 0; b < c->conf->listeners[l].bind_count; b++, i++)
			if (!bind_address(
				    c, &c->conf->listeners[l], &c->conf->listeners[l].bind[b], i))
				return false;
	return true;
}

static void close_listeners(struct control *c)
{
	for (uint32_t w = 0; c->acceptors && w < c->conf->cpu_count; w++)
		for (uint32_t i = 0; i < c->acceptor_count; i++) {
			struct acceptor *a = acceptor_of(c, w, i);
			bool shared = w > 0 && a->fd.v == acceptor_of(c, 0, i)->fd.v;

			if (ring_fd_ok(a->fd) && !shared)
				listen_close(&a->fd);
		}
	free(c->acceptors);
}

/* ---- records of the process ---- */

static void record_start(struct control *c)
{
	struct log_rec rec;
	char all[512] = "", text[ADDR_TEXT_BYTES];
	size_t n = 0;

	for (uint32_t i = 0; i < c->acceptor_count; i++) {
		struct ring_addr a;

		listen_addr(acceptor_of(c, 0, i)->fd, &a);
		n += (size_t)snprintf(
			all + n, sizeof(all) - n, "%s%s", i ? " " : "", addr_text(&a, text));
		if (n >= sizeof(all))
			break;
	}
	if (!begin(c, &rec, LOG_EV_START))
		return;
	log_cstr(&rec, "version", RINGPOST_VERSION);
	log_cstr(&rec, "listen", all);
	log_u64(&rec, "pid", (uint64_t)getpid());
	log_u64(&rec, "workers", c->conf->cpu_count);
	log_u64(&rec, "sessions_max", c->limits.sessions);
	log_end(&rec, &c->stats);
}

static void record_stop(struct control *c)
{
	struct log_rec rec;

	if (!begin(c, &rec, LOG_EV_STOP))
		return;
	for (size_t row = 0; row < stat_row_count; row++) {
		uint64_t sum = stat_read(&c->stats, row);

		for (uint32_t w = 0; w < c->conf->cpu_count; w++)
			sum += stat_read(&c->workers[w].stats, row);
		log_u64(&rec, stat_rows[row].name, sum);
	}
#define X(name, text)                                             \
	{                                                         \
		uint64_t sum = 0;                                 \
		for (uint32_t w = 0; w < c->conf->cpu_count; w++) \
			sum += c->workers[w].ring_stats.name;     \
		log_u64(&rec, "ring_" #name, sum);                \
	}
	RING_STATS(X)
#undef X
	uint64_t heap = 0;
	for (uint32_t w = 0; w < c->conf->cpu_count; w++)
		heap += c->workers[w].heap_bytes;
	log_u64(&rec, "heap_bytes", heap);
	log_u64(&rec, "log_lost", log_sink_lost(c->sink));
	log_end(&rec, &c->stats);
}

/* What plugins have counted: a record for each hook that has counters. */
static void record_hooks(struct control *c)
{
	struct log_rec rec;
	const char *name;
	uint64_t value;

	for (uint32_t h = 0; h < c->conf->hook_count; h++) {
		if (!hook_set_counter(c->hooks, h, 0, &value) || !begin(c, &rec, LOG_EV_COUNTERS))
			continue;
		log_cstr(&rec, "hook", c->conf->hooks[h].name);
		for (uint32_t i = 0; (name = hook_set_counter(c->hooks, h, i, &value)); i++)
			log_u64(&rec, name, value);
		log_end(&rec, &c->stats);
	}
}

/* Told where somebody may still see it: the log itself is what fails. */
static void tell_lost(struct control *c)
{
	if (c->lost_told || log_sink_lost(c->sink) == 0)
		return;
	c->lost_told = true;
	fprintf(stderr, "ringpost: log records are being lost: writing to %s fails\n",
		c->conf->log.path ? c->conf->log.path : "standard error");
}

static void drain_logs(struct control *c)
{
	log_sink_drain(c->sink, c->log);
	for (uint32_t w = 0; w < c->conf->cpu_count; w++)
		if (c->workers[w].log)
			log_sink_drain(c->sink, c->workers[w].log);
	tell_lost(c);
}

/* ---- workers ---- */

static void order_all(struct control *c, enum worker_order o)
{
	for (uint32_t w = 0; w < c->conf->cpu_count; w++)
		worker_order(&c->workers[w], o);
}

static uint32_t in_state(const struct control *c, enum worker_state s)
{
	uint32_t n = 0;

	for (uint32_t w = 0; w < c->conf->cpu_count; w++)
		n += worker_state(&c->workers[w]) == s;
	return n;
}

static bool start_workers(struct control *c)
{
	for (uint32_t w = 0; w < c->conf->cpu_count; w++) {
		struct worker_conf wc = {.conf = c->conf,
			.clients = c->clients,
			.ring = c->limits.ring,
			.sessions = c->limits.worker,
			.index = w,
			.cpu = c->conf->pinned ? c->conf->cpus[w] : -1,
			.wake_fd = c->wake_fd,
			.log_fd = log_sink_fd(c->sink),
			.material = certs_current(&c->certs),
			.acceptors = acceptor_of(c, w, 0),
			.acceptor_count = c->acceptor_count};

		if (!worker_start(&c->workers[w], &wc)) {
			fprintf(stderr, "ringpost: cannot start a thread: %s\n", strerror(errno));
			return false;
		}
		/* One after the other: locked memory is charged to the user, and the first that
		 * does not fit says so alone. */
		while (worker_state(&c->workers[w]) == WORKER_STARTING) {
			struct pollfd p = {.fd = c->wake_fd, .events = POLLIN};
			uint64_t n;

			if (poll(&p, 1, 100) > 0 && read(c->wake_fd, &n, sizeof(n)) < 0) {
				/* Somebody else's wake-up; look again. */
			}
		}
		if (worker_state(&c->workers[w]) == WORKER_FAILED) {
			fprintf(stderr, "ringpost: worker %u: %s\nringpost: %s\n", w,
				c->workers[w].barrier.what, c->workers[w].barrier.fix);
			return false;
		}
	}
	return true;
}

static void join_workers(struct control *c)
{
	for (uint32_t w = 0; w < c->conf->cpu_count; w++)
		worker_join(&c->workers[w]);
}

/* ---- the way down ---- */

static void start_kill(struct control *c)
{
	if (c->killing)
		return;
	c->killing = true;
	note(c, "ending at once");
	order_all(c, ORDER_KILL);
}

static void start_drain(struct control *c, uint32_t grace_ms)
{
	struct log_rec rec;

	if (c->draining) {
		c->at_once = true;
		start_kill(c);
		return;
	}
	c->draining = true;
	c->kill_at_ms = grace_ms ? clock_ms(CLOCK_MONOTONIC) + grace_ms : 0;
	if (begin(c, &rec, LOG_EV_DRAIN)) {
		log_u64(&rec, "sessions", clients_sessions(c->clients));
		log_u64(&rec, "grace_ms", grace_ms);
		log_end(&rec, &c->stats);
	}
	order_all(c, ORDER_DRAIN);
}

static void reopen_log(struct control *c)
{
	char text[128];

	drain_logs(c);
	if (log_sink_reopen(c->sink)) {
		note(c, "log reopened");
		return;
	}
	snprintf(text, sizeof(text),
		"the log could not be reopened (%s): going on with the old one", strerror(errno));
	warn(c, text);
	fprintf(stderr, "ringpost: %s\n", text);
}

static void renew_certificates(struct control *c)
{
	if (!certs_renew(&c->certs))
		return;
	for (uint32_t w = 0; w < c->conf->cpu_count; w++)
		worker_renew(&c->workers[w], certs_current(&c->certs));
}

static void handle_signal(struct control *c, uint32_t sig)
{
	switch (sig) {
	case SIGTERM:
	case SIGINT:
		start_drain(c, MAX_OF(c->conf->shutdown_grace_ms, 1u));
		break;
	case SIGQUIT:
		start_drain(c, 0);
		break;
	case SIGUSR1:
		reopen_log(c);
		break;
	case SIGUSR2:
		warn(c, "USR2: this version cannot hand its listeners to a new one; ignored");
		break;
	case SIGHUP:
		renew_certificates(c);
		break;
	default:
		break;
	}
}

static void read_signals(struct control *c)
{
	struct signalfd_siginfo si;

	while (read(c->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		handle_signal(c, si.ssi_signo);
}

static int poll_timeout_ms(const struct control *c)
{
	uint64_t now;

	if (!c->draining || c->killing || !c->kill_at_ms)
		return LOG_DRAIN_MS;
	now = clock_ms(CLOCK_MONOTONIC);
	return c->kill_at_ms > now ? (int)MIN_OF(c->kill_at_ms - now, (uint64_t)LOG_DRAIN_MS) : 0;
}

static void loop(struct control *c)
{
	while (in_state(c, WORKER_RUNNING) + in_state(c, WORKER_DRAINED) > 0) {
		struct pollfd p[] = {{.fd = c->signal_fd, .events = POLLIN},
			{.fd = c->wake_fd, .events = POLLIN},
			{.fd = log_sink_fd(c->sink), .events = POLLIN}};
		uint64_t n;

		if (poll(p, ARRAY_LEN(p), poll_timeout_ms(c)) > 0) {
			if (p[0].revents)
				read_signals(c);
			if (p[1].revents && read(c->wake_fd, &n, sizeof(n)) < 0) {
				/* Nothing to read after all. */
			}
		}
		if (c->draining && !c->killing && in_state(c, WORKER_RUNNING) == 0) {
			c->killing = true;
			order_all(c, ORDER_KILL);
		}
		if (c->kill_at_ms && clock_ms(CLOCK_MONOTONIC) >= c->kill_at_ms)
			start_kill(c);
		certs_turn(&c->certs);
		drain_logs(c);
	}
}

/* No worker is left. Threads that hooks have of us may still be at their last events: they have
 * what is left of the grace. NULL: they are done. Else the name of a hook that does not come back.
 */
static const char *settle_hooks(struct control *c)
{
	uint64_t least_ms = clock_ms(CLOCK_MONOTONIC) + LAST_NEWS_MS;
	const char *hook;

	while ((hook = hook_set_settle(c->hooks, LOG_DRAIN_MS))) {
		uint64_t now = clock_ms(CLOCK_MONOTONIC);

		read_signals(c);
		drain_logs(c);
		/* QUIT: without limit, but for a second signal. */
		if (now >= least_ms && (c->at_once || (c->kill_at_ms && now >= c->kill_at_ms)))
			break;
	}
	return hook;
}

static void record_hang(struct control *c, const char *hook)
{
	struct log_rec rec;

	fprintf(stderr, "ringpost: hook %s: an event does not come back: ending without it\n",
		hook);
	if (!begin(c, &rec, LOG_EV_HOOK_ERROR))
		return;
	log_cstr(&rec, "hook", hook);
	log_cstr(&rec, "text", "an event does not come back: ending without it");
	log_end(&rec, &c->stats);
}

/* ---- start ---- */

static bool block_signals(struct control *c)
{
	static const int ours[] = {SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGHUP};
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(ours); i++)
		sigaddset(&set, ours[i]);
	signal(SIGPIPE, SIG_IGN);
	/* Blocked before any other thread exists: no system call of a worker is interrupted (U17).
	 */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	c->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	c->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return c->signal_fd >= 0 && c->wake_fd >= 0;
}

static bool allocate(struct control *c)
{
	c->workers = calloc(c->conf->cpu_count, sizeof(*c->workers));
	c->clients = clients_new(c->limits.sessions);
	c->log = log_buf_new(OWN_LOG_BYTES, &c->conf->log);
	if (c->workers && c->clients && c->log)
		return true;
	fprintf(stderr, "ringpost: out of memory\n");
	return false;
}

static bool uses_tls(const struct conf *c)
{
	for (uint32_t i = 0; i < c->listener_count; i++)
		if (c->listeners[i].starttls >= STARTTLS_OFFER)
			return true;
	for (uint32_t i = 0; i < c->upstream_count; i++)
		if (c->upstreams[i].tls.mode != CONF_TLS_OFF)
			return true;
	return false;
}

static void tell_start(struct control *c)
{
	char text[256];

	if (geteuid() == 0)
		warn(c, "running as root: `user:` names somebody with less to lose");
	else if (c->conf->user)
		warn(c, "not started as root: `user:` does nothing");
	if (doctor_slow_tls() && uses_tls(c->conf))
		warn(c, doctor_slow_tls());
	if (c->limits.cut == LIMITS_NOFILE)
		snprintf(text, sizeof(text),
			"RLIMIT_NOFILE %llu leaves room for %u sessions, not the %u configured: "
			"raise it (LimitNOFILE)",
			(unsigned long long)c->limits.nofile, c->limits.sessions,
			c->conf->limits.sessions);
	else if (c->limits.cut == LIMITS_RING)
		snprintf(text, sizeof(text), "a ring serves %u sessions, not the %u configured",
			c->limits.sessions, c->conf->limits.sessions);
	if (c->limits.cut != LIMITS_FIT)
		warn(c, text);
}

static int serve(struct control *c)
{
	const char *hang;
	int code = EXIT_RAN;

	if (start_workers(c)) {
		record_start(c);
		tell_start(c);
		certs_begin(&c->certs, c->log, &c->stats);
		loop(c);
	} else {
		code = EXIT_DENIED;
		order_all(c, ORDER_KILL);
	}
	join_workers(c);
	hang = settle_hooks(c);
	if (hang)
		record_hang(c, hang);
	if (code == EXIT_RAN) {
		record_stop(c);
		record_hooks(c);
	}
	drain_logs(c);
	/* Threads are still inside of a plugin: nothing may be pulled from under them. */
	if (hang)
		_exit(code);
	return code;
}

static int prepare(struct control *c)
{
	bool good;

	if (!block_signals(c))
		return EXIT_FAILED;
	/* Keys may be readable by root alone. */
	good = certs_open(&c->certs, c->conf, stderr);
	if (!bind_all(c))
		return EXIT_UNAVAILABLE;
	/* The log file belongs to whoever starts us, as the listeners do. */
	c->sink = log_sink_open(&c->conf->log, stderr);
	if (!c->sink)
		return EXIT_UNAVAILABLE;
	if (!privileges_own(c->conf->user, c->conf->log.path, stderr) ||
		!privileges_drop(c->conf->user, stderr))
		return EXIT_DENIED;
	limits_plan(c->conf, &c->limits);
	if (c->limits.nofile < c->limits.nofile_needed) {
		fprintf(stderr,
			"ringpost: RLIMIT_NOFILE is %llu, and %llu are needed: raise it (ulimit "
			"-n, LimitNOFILE)\n",
			(unsigned long long)c->limits.nofile,
			(unsigned long long)c->limits.nofile_needed);
		return EXIT_DENIED;
	}
	if (!allocate(c))
		return EXIT_FAILED;
	/* Last: threads of plugins inherit our signals and our rights. Also where a certificate is
	 * bad: one start shows all there is to mend. */
	c->limits.worker.hooks = c->hooks = hook_set_open(c->conf, c->conf->cpu_count, stderr);
	return c->hooks && good ? EXIT_RAN : EXIT_CONFIG;
}

int control_run(const struct conf *conf)
{
	struct control c = {.conf = conf, .signal_fd = -1, .wake_fd = -1};
	int code = prepare(&c);

	if (code == EXIT_RAN)
		code = serve(&c);
	close_listeners(&c);
	if (c.hooks)
		hook_set_close(c.hooks);
	for (uint32_t w = 0; c.workers && w < conf->cpu_count; w++)
		log_buf_free(c.workers[w].log);
	certs_close(&c.certs);
	free(c.workers);
	clients_free(c.clients);
	log_buf_free(c.log);
	if (c.sink)
		log_sink_close(c.sink);
	if (c.signal_fd >= 0)
		close(c.signal_fd);
	if (c.wake_fd >= 0)
		close(c.wake_fd);
	return code;
}
