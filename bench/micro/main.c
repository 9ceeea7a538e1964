/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-micro: see micro.h. Options, the clock, the table.
 *
 * The clock is CLOCK_THREAD_CPUTIME_ID: what others run on the same core is not counted, what they
 * push out of its caches is. Exit status: 0, 1 a check did not hold, 64 usage (or a filter that no
 * row has), 69 no memory or no such CPU.
 */
#include "bench/micro/micro.h"

#include "bench/lib/json.h"
#include "bench/lib/opts.h"
#include "bench/lib/sample.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <time.h>

#define PROGRAM "ringpost-micro"
#define EXIT_BROKEN 1
#define EXIT_UNAVAILABLE 69

/* ---- rows ---- */

static bool wanted(const struct micro *m)
{
	char glob[256];

	if (!m->filter)
		return true;
	snprintf(glob, sizeof(glob), "*%s*", m->filter);
	return fnmatch(glob, m->name, 0) == 0;
}

bool micro_row(struct micro *m, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	int n = vsnprintf(m->name, sizeof(m->name), format, ap);
	va_end(ap);
	ASSERT(n > 0 && (size_t)n < sizeof(m->name));
	if (!wanted(m))
		return false;
	m->rows++;
	if (m->list)
		puts(m->name);
	return !m->list;
}

void micro_check(const struct micro *m, bool good, const char *what)
{
	if (good)
		return;
	fflush(stdout);
	fprintf(stderr, PROGRAM ": %s: %s: not so, nothing is measured\n", m->name, what);
	exit(EXIT_BROKEN);
}

void *micro_alloc(size_t n)
{
	void *p = malloc(n);

	if (p)
		return p;
	fprintf(stderr, PROGRAM ": no memory\n");
	exit(EXIT_UNAVAILABLE);
}

/* ---- measuring ---- */

static double cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double time_rounds(struct micro *m, micro_work *work, void *arg, uint64_t rounds)
{
	double t0 = cpu_ns();

	m->consumed += work(arg, rounds);
	return cpu_ns() - t0;
}

struct result {
	struct spread ns; /* of one thing */
	double gb_s;
	uint64_t rounds;
};

static void show_head(void)
{
	printf("%-38s %11s  %-24s %8s\n", "", "median", "range", "GB/s");
}

/* Three or four digits, whatever the size. */
static void put_ns(char *out, size_t n, double ns)
{
	if (ns < 1000)
		snprintf(out, n, "%.*f ns", ns < 10 ? 2 : ns < 100 ? 1 : 0, ns);
	else
		snprintf(out, n, "%.*f us", ns < 1e4 ? 2 : ns < 1e5 ? 1 : 0, ns / 1e3);
}

static void show(const struct micro *m, struct micro_size size, const struct result *r)
{
	char median[24], min[24], max[24], range[64], rate[24] = "";

	put_ns(median, sizeof(median), r->ns.median);
	put_ns(min, sizeof(min), r->ns.min);
	put_ns(max, sizeof(max), r->ns.max);
	snprintf(range, sizeof(range), "%s .. %s", min, max);
	if (size.bytes)
		snprintf(rate, sizeof(rate), "%.2f", r->gb_s);
	printf("%-38s %11s  %-24s %8s  a %s\n", m->name, median, range, rate, size.thing);
	fflush(stdout);
}

static void show_json(const struct micro *m, struct micro_size size, const struct result *r)
{
	struct json j;

	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("micro"));
	json_str(&j, "row", span_str(m->name));
	json_str(&j, "thing", span_str(size.thing));
	json_num(&j, "median_ns", r->ns.median);
	json_num(&j, "min_ns", r->ns.min);
	json_num(&j, "max_ns", r->ns.max);
	if (size.bytes)
		json_num(&j, "gb_s", r->gb_s);
	json_u64(&j, "samples", m->samples);
	json_u64(&j, "rounds", r->rounds);
	json_close(&j);
	putchar('\n');
	fflush(stdout);
}

void micro_measure(struct micro *m, struct micro_size size, micro_work *work, void *arg)
{
	double ns[MICRO_SAMPLES_MAX], want = (double)m->sample_ms * 1e6, took;
	struct result r = {.rounds = 1};

	ASSERT(size.things >= 1 && m->samples >= 1 && m->samples <= MICRO_SAMPLES_MAX);
	for (uint64_t next = 1; next; next = next == r.rounds ? 0 : next) {
		r.rounds = next;
		took = time_rounds(m, work, arg, r.rounds);
		next = sample_rounds(r.rounds, took, want);
	}
	for (uint64_t i = 0; i < m->samples; i++)
		ns[i] = time_rounds(m, work, arg, r.rounds) / (double)r.rounds;
	r.ns = sample_spread(ns, m->samples);
	r.gb_s = r.ns.median > 0 ? (double)size.bytes / r.ns.median : 0;
	r.ns.median /= (double)size.things;
	r.ns.min /= (double)size.things;
	r.ns.max /= (double)size.things;
	if (m->json)
		show_json(m, size, &r);
	else
		show(m, size, &r);
}

/* ---- options ---- */

static const char about[] =
	"CPU time of single calls of ringpost's parsers, of its scanner, of its log writer, and of "
	"whole\nsessions on a ring without a kernel. Each row checks its result before it is "
	"measured.\n"
	"Prints the median of all samples and their range; GB are 10^9 octets.";

static const char examples[] = "  ringpost-micro --cpu 1\n"
			       "  ringpost-micro --filter scan/guard\n"
			       "  ringpost-micro --filter 'session/*4k' --samples 21 --json\n";

static const struct opt option_rows[] = {
	OPT_VALUE("filter", "GLOB", OPT_TEXT, struct micro, filter,
		"only rows whose name has this in it; * and ? as in a shell"),
	OPT_VALUE("list", NULL, OPT_FLAG, struct micro, list, "the names of the rows, no more"),
	OPT_VALUE("json", NULL, OPT_FLAG, struct micro, json, "a JSON line for each row"),
	OPT_BOUNDED("samples", "N", OPT_COUNT, struct micro, samples, 1, MICRO_SAMPLES_MAX,
		"of each row (11)"),
	OPT_BOUNDED("sample-ms", "MS", OPT_MILLIS, struct micro, sample_ms, 0, 60000,
		"CPU time of a sample, at least (50)"),
	OPT_BOUNDED("cpu", "N", OPT_COUNT, struct micro, cpu, 0, CPU_SETSIZE - 1,
		"pin to this CPU (default: where it starts)"),
};

/* A thread that moves leaves its caches behind. */
static void pin(uint64_t cpu)
{
	cpu_set_t set;
	int here = cpu == UINT64_MAX ? sched_getcpu() : (int)cpu;

	CPU_ZERO(&set);
	if (here >= 0)
		CPU_SET((unsigned)here, &set);
	if (here < 0 || sched_setaffinity(0, sizeof(set), &set) != 0) {
		fprintf(stderr, PROGRAM ": cannot run on CPU %d\n", here);
		exit(EXIT_UNAVAILABLE);
	}
}

int main(int argc, char **argv)
{
	struct micro m = {.samples = 11, .sample_ms = 50, .cpu = UINT64_MAX};
	const struct opts o = {
		PROGRAM, "[options]", about, examples, option_rows, ARRAY_LEN(option_rows), &m};

	opts_read(&o, argc, argv);
	pin(m.cpu);
	if (!m.json && !m.list)
		show_head();
	rows_scan(&m);
	rows_command(&m);
	rows_reply(&m);
	rows_header(&m);
	rows_log(&m);
	rows_session(&m);
	if (m.rows == 0)
		opts_die(&o, "no row is called like `%s`", m.filter);
	(void)micro_hide(&m); /* somebody could look at what was consumed */
	return 0;
}
