/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See runner.h. Each job is a child that works through every jobs-th seed and adds up in memory it
 * shares with the parent. When a child dies, the seed it was at is a failure, and another child
 * goes on behind it. A child that makes no progress for HANG_S is killed: a world cannot hang in a
 * turn.
 */
#include "tests/sim/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX 64
#define HANG_S 60
#define POLL_NS 20000000L
#define TAPE_BYTES_MAX (16u << 20)

/* One job's, shared with its child. */
struct job {
	uint64_t seed; /* being run */
	bool done;     /* no seed is left */
	uint64_t worlds, twice;
	struct world_result sum;
	struct failure failures[FAILURES_MAX];
	unsigned failure_count;
	/* the parent's */
	pid_t pid;
	uint64_t seen_seed;
	double seen_at;
};

const char *invariant_word(enum invariant i)
{
	static const char *const words[] = {"none",
#define X(id, word, text) word,
		INVARIANTS(X)
#undef X
	};
	return words[i];
}

const char *invariant_text(enum invariant i)
{
	static const char *const texts[] = {"all hold",
#define X(id, word, text) text,
		INVARIANTS(X)
#undef X
	};
	return texts[i];
}

static double clock_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *shared(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ASSERT(p != MAP_FAILED);
	return p;
}

static pid_t child(void)
{
	fflush(NULL);
	pid_t pid = fork();

	ASSERT(pid >= 0);
	return pid;
}

/* ---- a job ---- */

static void add(struct world_result *sum, const struct world_result *r, uint64_t seed)
{
	sum->hash += r->hash * (2 * seed + 1);
	sum->sessions += r->sessions;
	sum->links += r->links;
	sum->messages += r->messages;
	sum->turns += r->turns;
	sum->completions += r->completions;
	sum->events += r->events;
	sum->virtual_us += r->virtual_us;
	for (unsigned i = 0; i < SIM_FAULT_COUNT; i++)
		sum->faults[i] += r->faults[i];
}

static void fail(struct job *j, const struct verdict *v)
{
	if (j->failure_count < FAILURES_MAX)
		j->failures[j->failure_count++] = (struct failure){.seed = j->seed, .verdict = *v};
}

static void run_one(struct job *j, bool twice)
{
	struct world_result r, again;
	struct tape t;

	tape_from_seed(&t, j->seed);
	world_run(&t, &r, NULL);
	tape_free(&t);
	if (twice && r.verdict.broken == I_NONE) {
		tape_from_seed(&t, j->seed);
		world_run(&t, &again, NULL);
		tape_free(&t);
		j->twice++;
		if (again.hash != r.hash) {
			r.verdict.broken = I7_OPS;
			snprintf(r.verdict.text, sizeof(r.verdict.text),
				"the same seed gave two different worlds");
		}
	}
	if (r.verdict.broken != I_NONE)
		fail(j, &r.verdict);
	add(&j->sum, &r, j->seed);
	j->worlds++;
}

static void work(
	struct job *j, const struct run_conf *c, uint64_t from, uint64_t step, double until)
{
	uint64_t end = c->first + c->count;

	for (j->seed = from; j->seed < end; j->seed += step) {
		if (j->failure_count >= c->failures_max || (until > 0 && clock_s() > until))
			break;
		run_one(j, c->twice_every && (j->seed / step) % c->twice_every == 0);
	}
	j->done = true;
	exit(0); /* and not _exit(): coverage is written then */
}

static void start(struct job *j, const struct run_conf *c, uint64_t from, double until)
{
	j->seen_seed = from;
	j->seen_at = clock_s();
	pid_t pid = child();
	if (pid == 0)
		work(j, c, from, c->jobs, until);
	j->pid = pid; /* not in the child: the memory is shared */
}

/* The child is gone without having finished: its seed broke it. */
static void died(struct job *j, const struct run_conf *c, int status, double until)
{
	struct failure *f;

	if (j->failure_count < FAILURES_MAX) {
		f = &j->failures[j->failure_count++];
		*f = (struct failure){.seed = j->seed, .crashed = true};
		f->verdict.broken = I7_OPS;
		snprintf(f->verdict.text, sizeof(f->verdict.text), "the process %s %d",
			WIFSIGNALED(status) ? "was ended by signal" : "ended with status",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
	if (j->failure_count < c->failures_max)
		start(j, c, j->seed + c->jobs, until);
	else
		j->pid = 0;
}

static bool look(struct job *j, const struct run_conf *c, double until)
{
	int status;

	if (j->pid == 0)
		return false;
	if (j->seed != j->seen_seed) {
		j->seen_seed = j->seed;
		j->seen_at = clock_s();
	} else if (clock_s() - j->seen_at > HANG_S) {
		kill(j->pid, SIGKILL);
	}
	if (waitpid(j->pid, &status, WNOHANG) != j->pid)
		return true;
	if (j->done)
		j->pid = 0;
	else
		died(j, c, status, until);
	return j->pid != 0;
}

/* ---- all jobs ---- */

static void report(const struct run_conf *c, const struct job *jobs, double began, double *next)
{
	uint64_t worlds = 0, sessions = 0;
	double now = clock_s();

	if (!c->progress || now < *next)
		return;
	*next = now + 10;
	for (unsigned i = 0; i < c->jobs; i++) {
		worlds += jobs[i].worlds;
		sessions += jobs[i].sum.sessions;
	}
	fprintf(c->progress, "# %.0f s: %llu worlds, %llu sessions, %.0f sessions/s\n", now - began,
		(unsigned long long)worlds, (unsigned long long)sessions,
		(double)sessions / (now - began));
	fflush(c->progress);
}

static void gather(const struct job *j, struct run_result *out)
{
	out->worlds += j->worlds;
	out->twice += j->twice;
	add(&out->sum, &j->sum, 0);
	for (unsigned i = 0; i < j->failure_count && out->failure_count < FAILURES_MAX; i++)
		out->failures[out->failure_count++] = j->failures[i];
}

static double children_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_CHILDREN, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

void run_seeds(const struct run_conf *conf, struct run_result *out)
{
	struct run_conf c = *conf;
	double began = clock_s(), next = began + 10, cpu = children_s();
	double until = c.seconds ? began + c.seconds : 0;
	const struct timespec pause = {.tv_nsec = POLL_NS};
	bool busy = true;

	c.jobs = MIN_OF(c.jobs, (unsigned)JOBS_MAX);
	ASSERT(c.jobs > 0);
	struct job *jobs = shared(c.jobs * sizeof(*jobs));
	memset(out, 0, sizeof(*out));
	for (unsigned i = 0; i < c.jobs; i++)
		start(&jobs[i], &c, c.first + i, until);
	while (busy) {
		busy = false;
		nanosleep(&pause, NULL);
		for (unsigned i = 0; i < c.jobs; i++)
			busy |= look(&jobs[i], &c, until);
		report(&c, jobs, began, &next);
	}
	for (unsigned i = 0; i < c.jobs; i++)
		gather(&jobs[i], out);
	munmap(jobs, c.jobs * sizeof(*jobs));
	out->seconds = clock_s() - began;
	out->cpu_seconds = children_s() - cpu;
}

/* ---- one world apart ---- */

static void hush(void)
{
	int fd = open("/dev/null", O_WRONLY);

	if (fd >= 0)
		dup2(fd, STDERR_FILENO);
}

static void wait_for(pid_t pid, int *status)
{
	while (waitpid(pid, status, 0) < 0 && errno == EINTR)
		;
}

void run_tape_apart(const struct octets *tape, struct failure *out)
{
	struct failure *f = shared(sizeof(*f));
	struct world_result r;
	struct tape t;
	int status;

	f->crashed = true;
	f->verdict.broken = I7_OPS;
	pid_t pid = child();
	if (pid == 0) {
		hush();
		alarm(HANG_S);
		tape_from_bytes(&t, tape->p, tape->n);
		world_run(&t, &r, NULL);
		f->verdict = r.verdict;
		f->crashed = false;
		_exit(0);
	}
	wait_for(pid, &status);
	*out = *f;
	munmap(f, sizeof(*f));
}

/* The child keeps its tape where the parent can read it when the child has crashed. */
void tape_of_seed(uint64_t seed, struct octets *out)
{
	struct recorded {
		size_t n;
		uint8_t p[TAPE_BYTES_MAX];
	} *rec = shared(sizeof(*rec));
	struct world_result r;
	struct tape t;
	int status;
	pid_t pid = child();

	if (pid == 0) {
		hush();
		alarm(HANG_S);
		tape_from_seed(&t, seed);
		tape_record_into(&t, rec->p, sizeof(rec->p), &rec->n);
		world_run(&t, &r, NULL);
		_exit(0);
	}
	wait_for(pid, &status);
	octets_add(out, rec->p, rec->n);
	munmap(rec, sizeof(*rec));
}

/* ---- files ---- */

static int hex_digit(int c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool load_line(const char *s, struct octets *out)
{
	for (; *s && *s != '\n'; s += 2) {
		int a = hex_digit(s[0]), b = a < 0 ? -1 : hex_digit(s[1]);
		uint8_t octet = (uint8_t)(a << 4 | b);

		if (b < 0)
			return false;
		octets_add(out, &octet, 1);
	}
	return true;
}

bool tape_load(const char *path, struct octets *out)
{
	FILE *f = fopen(path, "r");
	char line[512];
	bool ok = f != NULL;

	while (ok && fgets(line, sizeof(line), f))
		if (line[0] != '#')
			ok = load_line(line, out);
	if (f)
		fclose(f);
	return ok;
}

bool tape_save(const char *path, const struct octets *tape, const char *comment)
{
	FILE *f = fopen(path, "w");

	if (!f)
		return false;
	fprintf(f, "# %s\n", comment);
	for (size_t i = 0; i < tape->n; i++)
		fprintf(f, "%02x%s", tape->p[i], i % 40 == 39 || i + 1 == tape->n ? "\n" : "");
	return fclose(f) == 0;
}
