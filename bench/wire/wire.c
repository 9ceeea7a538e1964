/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-wire: joins two network interfaces and makes the way between them long, lossy or narrow.
 * For benches and tests on kernels without sch_netem, the same on every machine. Nothing of
 * ringpost's ring is in it: what is measured must not carry the measurement.
 *
 * One thread. A frame waits in the slot where the kernel put it, its time counts from the kernel's
 * own stamp (so being late to look does not make the way longer), and is sent from there. While
 * something waits nobody has to look at what comes in, so under load it wakes once for the frames
 * that are due, not for each that arrives.
 *
 * Failures: of the start 64, 69, 77; an interface that goes down ends it with 69; single frames
 * that cannot be carried are counted.
 */
#include "bench/lib/histogram.h"
#include "bench/lib/json.h"
#include "bench/lib/opts.h"
#include "bench/wire/lane.h"
#include "bench/wire/port.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "ringpost-wire"
#define EXIT_UNAVAILABLE 69
#define EXIT_NOPERM 77
#define NS_PER_S 1000000000ull

/* frames = sent + lost + dropped + foreign + failed + what waits now */
#define WIRE_COUNTERS(X)                                      \
	X(frames)  /* arrived */                              \
	X(bytes)   /* of them */                              \
	X(sent)	   /* at the other end */                     \
	X(lost)	   /* by the dice */                          \
	X(dropped) /* the queue of the rate limit was full */ \
	X(foreign) /* see port.h */                           \
	X(failed)  /* the other interface did not take it */  \
	X(frame_max)

struct direction {
	const char *name;
	struct port *from, *to;
	struct lane lane;
	uint64_t looked_ns; /* when all that had come was taken in */
#define X(name) uint64_t name;
	WIRE_COUNTERS(X)
#undef X
};

enum { FD_SIGNALS, FD_STDIN, FD_PORTS, FD_COUNT = FD_PORTS + 2 };

struct wire {
	struct port port[2];
	struct direction way[2];
	struct histogram late; /* nanoseconds from due to sent */
	uint64_t start_ns;
	int signals; /* owns; signalfd */
	bool stopped, warned;
	/* options */
	const char *name[2];
	struct lane_conf conf;
	uint64_t delay_us, jitter_us, ring_bytes, cpu;
	bool until_eof, realtime;
};

/* ---- options ---- */

static bool on_loss(void *ctx, const struct opt *row, const char *arg)
{
	struct wire *w = ctx;

	return lane_share(arg, &w->conf.loss);
}

static bool on_rate(void *ctx, const struct opt *row, const char *arg)
{
	struct wire *w = ctx;

	return lane_rate(arg, &w->conf.rate_bps);
}

static const struct opt rows[] = {
	OPT_HEADING("What is joined"),
	OPT_VALUE("a", "IF", OPT_TEXT, struct wire, name[0], "one network interface"),
	OPT_VALUE("b", "IF", OPT_TEXT, struct wire, name[1], "the other"),
	OPT_HEADING("The way, each direction alike"),
	OPT_BOUNDED("delay", "TIME", OPT_SECONDS, struct wire, delay_us, 0, 60,
		"one way, such as 10ms; the round trip is twice as long (0)"),
	OPT_BOUNDED("jitter", "TIME", OPT_SECONDS, struct wire, jitter_us, 0, 60,
		"up to so much more, evenly; frames do not overtake each other (0)"),
	OPT_FUNC("loss", "SHARE", on_loss, "of the frames, such as 0.5% or 0.005 (0)"),
	OPT_VALUE("seed", "N", OPT_COUNT, struct wire, conf.seed,
		"of the dice: the same frames are lost (1)"),
	OPT_FUNC("rate", "BITS", on_rate,
		"a second, such as 100m or 1g, counted as Ethernet does (no limit)"),
	OPT_BOUNDED("queue", "BYTES", OPT_SIZE, struct wire, conf.queue_bytes, 2048, 1ull << 32,
		"that wait for their turn at the rate; what comes then is dropped (1m)"),
	OPT_HEADING("Itself"),
	OPT_BOUNDED("ring", "BYTES", OPT_SIZE, struct wire, ring_bytes, 64 << 10, 1 << 30,
		"of memory for the frames under way in each direction, 2 KiB a frame at an MTU of "
		"1500 (16m)"),
	OPT_BOUNDED("cpu", "N", OPT_COUNT, struct wire, cpu, 0, 1023, "stay on this CPU"),
	OPT_VALUE("realtime", NULL, OPT_FLAG, struct wire, realtime,
		"go before all usual processes (SCHED_FIFO), for punctuality where CPUs are "
		"shared"),
	OPT_VALUE("until-eof", NULL, OPT_FLAG, struct wire, until_eof,
		"end when standard input does, so that it goes with whoever started it"),
};

static const struct opts options = {
	.program = PROGRAM,
	.usage = "--a IF --b IF [--delay TIME] [--loss SHARE] [OPTION...]",
	.about = "Carries Ethernet frames between two network interfaces, late, and not all of "
		 "them.\n"
		 "Says {\"ev\":\"ready\"} on standard output when it carries; statistics, a line "
		 "of JSON, at\n"
		 "SIGUSR1 and at the end (SIGTERM, SIGINT).",
	.examples = "  ringpost-wire --a veth1 --b veth2 --delay 10ms --loss 0.5% --seed 7\n"
		    "  ringpost-wire --a veth1 --b veth2 --delay 25ms --rate 100m --queue 256k\n",
	.rows = rows,
	.count = ARRAY_LEN(rows),
};

static void read_options(struct wire *w, int argc, char **argv)
{
	struct opts o = options;

	w->conf = (struct lane_conf){.seed = 1, .queue_bytes = 1 << 20};
	w->ring_bytes = 16 << 20;
	w->cpu = UINT64_MAX;
	o.ctx = w;
	opts_read(&o, argc, argv);
	if (!w->name[0] || !w->name[1])
		opts_die(&o, "--a and --b say what to join");
	if (strcmp(w->name[0], w->name[1]) == 0)
		opts_die(&o, "--a and --b are the same");
	w->conf.delay_ns = w->delay_us * 1000;
	w->conf.jitter_ns = w->jitter_us * 1000;
}

/* ---- start ---- */

__attribute__((noreturn)) static void die(int status, const char *what, const char *why)
{
	fprintf(stderr, "%s: %s: %s\n", PROGRAM, what, why);
	exit(status);
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void be_punctual(const struct wire *w)
{
	struct sched_param first = {.sched_priority = 1};
	cpu_set_t set;

	prctl(PR_SET_TIMERSLACK, 1ul, 0, 0, 0);
	if (w->realtime && sched_setscheduler(0, SCHED_FIFO, &first) != 0)
		fprintf(stderr, "%s: no realtime priority: %s\n", PROGRAM, strerror(errno));
	if (w->cpu == UINT64_MAX)
		return;
	CPU_ZERO(&set);
	CPU_SET(w->cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		die(EXIT_UNAVAILABLE, "cannot run on that CPU", strerror(errno));
}

/* Before anything says that we run: a signal that comes early must not be the end. */
static int take_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		die(EXIT_UNAVAILABLE, "signalfd", strerror(errno));
	return fd;
}

static void open_port(struct wire *w, unsigned i)
{
	const char *why;

	if (port_open(&w->port[i], w->name[i], w->ring_bytes, &why))
		return;
	int e = errno;
	fprintf(stderr, "%s: %s: %s: %s\n", PROGRAM, w->name[i], why, strerror(e));
	exit(e == EPERM || e == EACCES ? EXIT_NOPERM : EXIT_UNAVAILABLE);
}

static void start(struct wire *w)
{
	static const char *const names[2] = {"a_to_b", "b_to_a"};

	w->signals = take_signals();
	hist_init(&w->late);
	be_punctual(w);
	open_port(w, 0);
	open_port(w, 1);
	w->start_ns = clock_ns(CLOCK_MONOTONIC);
	for (unsigned i = 0; i < 2; i++) {
		struct direction *d = &w->way[i];
		struct lane_conf conf = w->conf;

		*d = (struct direction){.name = names[i],
			.from = &w->port[i],
			.to = &w->port[1 - i],
			.looked_ns = w->start_ns};
		conf.seed = 2 * w->conf.seed + i; /* two unlike series */
		if (!lane_init(&d->lane, &conf, d->from->slots))
			die(EXIT_UNAVAILABLE, "frames", "no memory");
	}
}

/* ---- statistics ---- */

static void print_way(struct json *j, struct direction *d)
{
	port_count_overruns(d->from);
	json_open(j, NULL, d->name);
#define X(name) json_u64(j, #name, d->name);
	WIRE_COUNTERS(X)
#undef X
	json_u64(j, "overruns", d->from->overruns);
	json_u64(j, "waiting", d->lane.count);
	json_u64(j, "waiting_max", d->lane.count_max);
	json_u64(j, "queue_max", lane_queue_max(&d->lane));
	json_close(j);
}

static void print_stats(struct wire *w)
{
	struct json j;

	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("stats"));
	json_num(&j, "seconds", (double)(clock_ns(CLOCK_MONOTONIC) - w->start_ns) / 1e9);
	json_num(&j, "cpu_s", (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e9);
	print_way(&j, &w->way[0]);
	print_way(&j, &w->way[1]);
	json_open(&j, NULL, "late_us");
	json_num(&j, "p50", (double)hist_at(&w->late, 0.5) / 1e3);
	json_num(&j, "p99", (double)hist_at(&w->late, 0.99) / 1e3);
	json_num(&j, "max", (double)w->late.max / 1e3);
	json_close(&j);
	json_close(&j);
	putchar('\n');
	fflush(stdout);
}

/* ---- frames ---- */

/* A frame that this wire cannot carry as an Ethernet would. */
static void turn_away(struct wire *w, struct direction *d, const struct port_frame *f)
{
	d->foreign++;
	if (w->warned)
		return;
	w->warned = true;
	fprintf(stderr,
		"%s: a frame of %u octets came to %s, which carries %u untagged: switch "
		"segmentation offload (tso) off at the other end of it\n",
		PROGRAM, f->bytes, d->from->name, d->from->frame_max);
}

static void take_frame(struct wire *w, struct direction *d, const struct port_frame *f, uint64_t at)
{
	enum lane_fate fate;

	d->frames++;
	d->bytes += f->bytes;
	d->frame_max = MAX_OF(d->frame_max, f->bytes);
	if (f->foreign) {
		turn_away(w, d, f);
		port_release(d->from, f->slot);
		return;
	}
	fate = lane_arrive(&d->lane, f->slot, at, f->bytes);
	if (fate == LANE_QUEUED)
		return;
	if (fate == LANE_LOST)
		d->lost++;
	else
		d->dropped++;
	port_release(d->from, f->slot);
}

/* Takes in all that has come. The kernel's stamps are of CLOCK_REALTIME, which may be set: what
 * comes now came after the last look and before this one, so a stamp cannot mislead for longer. */
static void take_frames(struct wire *w, struct direction *d)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC), real = clock_ns(CLOCK_REALTIME);
	struct port_frame f;

	while (port_next(d->from, &f)) {
		uint64_t at = f.arrival_ns + now - real; /* modulo 2^64, as intended */

		take_frame(w, d, &f, MIN_OF(MAX_OF(at, d->looked_ns), clock_ns(CLOCK_MONOTONIC)));
	}
	d->looked_ns = now;
}

/* Sends `n` frames; those that the interface does not take are counted and gone. */
static void send_batch(struct direction *d, const struct lane_due *due, uint32_t n)
{
	struct iovec frames[PORT_SEND_MAX];

	for (uint32_t i = 0; i < n; i++)
		frames[i] = port_octets(d->from, due[i].slot);
	for (uint32_t done = 0; done < n;) {
		unsigned went = port_send(d->to, frames + done, n - done);

		d->sent += went;
		done += went;
		if (went == 0) {
			d->failed++;
			done++;
		}
	}
	for (uint32_t i = 0; i < n; i++)
		port_release(d->from, due[i].slot);
}

static void send_due(struct wire *w, struct direction *d)
{
	struct lane_due due[PORT_SEND_MAX];
	uint32_t n;

	while ((n = lane_take(&d->lane, clock_ns(CLOCK_MONOTONIC), due, PORT_SEND_MAX)) > 0) {
		send_batch(d, due, n);
		uint64_t now = clock_ns(CLOCK_MONOTONIC);
		for (uint32_t i = 0; i < n; i++)
			hist_add(&w->late, now - due[i].due_ns);
	}
}

/* ---- the loop ---- */

static void on_signals(struct wire *w)
{
	struct signalfd_siginfo s;

	while (read(w->signals, &s, sizeof(s)) == sizeof(s)) {
		if (s.ssi_signo == SIGUSR1)
			print_stats(w);
		else
			w->stopped = true;
	}
}

static void on_input(struct wire *w)
{
	char trash[256];

	if (read(STDIN_FILENO, trash, sizeof(trash)) <= 0)
		w->stopped = true;
}

/* A port is looked at only while nothing of it waits: then all its slots are the kernel's, which
 * poll(2) wants (packet_poll() looks at the last slot), and the time of what waits comes first. */
static void wait_for_work(struct wire *w)
{
	struct pollfd fds[FD_COUNT] = {
		[FD_SIGNALS] = {.fd = w->signals, .events = POLLIN},
		[FD_STDIN] = {.fd = w->until_eof ? STDIN_FILENO : -1, .events = POLLIN},
	};
	uint64_t next = LANE_NEVER, now = clock_ns(CLOCK_MONOTONIC);

	for (unsigned i = 0; i < 2; i++) {
		uint64_t due = lane_next_ns(&w->way[i].lane);

		fds[FD_PORTS + i] = (struct pollfd){
			.fd = due == LANE_NEVER ? w->port[i].fd : -1, .events = POLLIN};
		next = MIN_OF(next, due);
	}
	uint64_t left = next > now ? next - now : 0;
	struct timespec t = {(time_t)(left / NS_PER_S), (long)(left % NS_PER_S)};
	if (ppoll(fds, FD_COUNT, next == LANE_NEVER ? NULL : &t, NULL) <= 0)
		return;
	if (fds[FD_SIGNALS].revents)
		on_signals(w);
	if (fds[FD_STDIN].revents)
		on_input(w);
	for (unsigned i = 0; i < 2; i++)
		if (fds[FD_PORTS + i].revents & POLLERR)
			die(EXIT_UNAVAILABLE, w->port[i].name, "the interface is down");
}

int main(int argc, char **argv)
{
	static struct wire wire; /* large: the histogram */
	struct wire *w = &wire;

	read_options(w, argc, argv);
	start(w);
	puts("{\"ev\":\"ready\"}");
	fflush(stdout);
	while (!w->stopped) {
		for (unsigned i = 0; i < 2; i++) {
			take_frames(w, &w->way[i]);
			send_due(w, &w->way[i]);
		}
		wait_for_work(w);
	}
	print_stats(w);
	for (unsigned i = 0; i < 2; i++) {
		lane_fini(&w->way[i].lane);
		port_close(&w->port[i]);
	}
	close(w->signals);
	return 0;
}
