/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ringpost-sim: worlds by seed, one world again with its transcript, kept recordings as tests, the
 * conformance scripts on the simulated kernel. Status 0: nothing is broken; 1: something is; 64:
 * usage.
 */
#include "tests/sim/conform.h"
#include "tests/sim/runner.h"
#include "tests/sim/spools.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <unistd.h>

#define SHRINK_TRIES 2000
#define SPOOL_WORLDS 300u

struct options {
	struct run_conf run;
	const char *tape, *tapes, *save;
	bool replay, tap, no_shrink, quiet;
	uint64_t seed;
	uint64_t spools; /* worlds of them; 0 = another thing was asked for */
	unsigned test;	 /* TAP: tests so far */
	unsigned bad;
};

static const char usage[] =
	"ringpost-sim: the engine on a simulated kernel\n"
	"\n"
	"  --seeds FIRST COUNT   that many worlds (default 1, no end)\n"
	"  --seconds N           stop then (default 60; 0 = no limit)\n"
	"  --jobs N              processes (default: CPUs)\n"
	"  --twice N             one of N worlds runs twice and must come out the same (default "
	"100)\n"
	"  --failures N          stop behind so many broken worlds (default 1)\n"
	"  --save DIR            put the shrunk recordings of broken worlds there\n"
	"  --no-shrink           report broken worlds as they are\n"
	"  --seed N              this world alone, with its transcript\n"
	"  --tape FILE           the world of a recording, with its transcript\n"
	"  --tapes DIR           all recordings of DIR must hold\n"
	"  --spools N            N worlds of spools alone, from the FIRST of --seeds\n"
	"  --tap                 a test report: recordings, oracle, conformance, then the seeds\n"
	"  --quiet               no transcript, no progress\n";

/* A world that hangs is left as it is, and what the engine's pools hold is asserted at their end: a
 * list of leaks says nothing more. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

/* ---- reports ---- */

static void tap(struct options *o, bool ok, const char *name)
{
	o->test++;
	o->bad += !ok;
	if (o->tap)
		printf("%s %u - %s\n", ok ? "ok" : "not ok", o->test, name);
	fflush(stdout);
}

static void tell(void *arg, bool ok, const char *name)
{
	tap(arg, ok, name);
}

static void print_faults(const struct world_result *r)
{
	for (unsigned i = 0; i < SIM_FAULT_COUNT; i++)
		printf("#   %-14s %llu\n", sim_fault_words[i], (unsigned long long)r->faults[i]);
}

static void print_run(const struct options *o, const struct run_result *r)
{
	const struct world_result *s = &r->sum;
	uint64_t faults = 0;
	double per = s->sessions ? 1.0 / (double)s->sessions : 0;

	for (unsigned i = 0; i < SIM_FAULT_COUNT; i++)
		faults += s->faults[i];
	printf("# %llu sessions in %llu worlds from seed %llu, %u broken, %.1f s, %u jobs\n",
		(unsigned long long)s->sessions, (unsigned long long)r->worlds,
		(unsigned long long)o->run.first, r->failure_count, r->seconds, o->run.jobs);
	printf("# %.0f sessions/s, %.0f per CPU second; per session %.1f injected faults, "
	       "%.1f completions, %.2f messages, %.2f links, %.1f s of virtual time\n",
		(double)s->sessions / r->seconds, (double)s->sessions / r->cpu_seconds,
		(double)faults * per, (double)s->completions * per, (double)s->messages * per,
		(double)s->links * per, (double)s->virtual_us / 1e6 * per);
	printf("# %llu worlds ran twice and came out the same; hash of all %016llx\n",
		(unsigned long long)r->twice, (unsigned long long)s->hash);
	if (!o->quiet)
		print_faults(s);
}

static void keep(const struct options *o, const struct failure *f)
{
	struct octets tape = {0};
	struct failure now;
	char path[512], comment[640];
	size_t before;

	tape_of_seed(f->seed, &tape);
	before = tape.n;
	run_tape_apart(&tape, &now);
	if (now.verdict.broken == I_NONE) {
		printf("#   its recording does not break it again\n");
		octets_free(&tape);
		return;
	}
	shrink(&tape, &now, SHRINK_TRIES, o->quiet ? NULL : stdout);
	run_tape_apart(&tape, &now);
	snprintf(path, sizeof(path), "%s/%s-%llu.tape", o->save, invariant_word(now.verdict.broken),
		(unsigned long long)f->seed);
	snprintf(comment, sizeof(comment), "%s %s", invariant_word(now.verdict.broken),
		now.crashed ? "crashed" : now.verdict.text);
	if (tape_save(path, &tape, comment))
		printf("#   recording: %zu octets, shrunk from %zu: %s\n", tape.n, before, path);
	else
		printf("#   cannot write %s: %s\n", path, strerror(errno));
	octets_free(&tape);
}

static void print_failure(const struct options *o, const struct failure *f)
{
	printf("# seed %llu broke %s: %s\n#   %s\n", (unsigned long long)f->seed,
		invariant_word(f->verdict.broken), invariant_text(f->verdict.broken),
		f->verdict.text);
	if (!o->no_shrink)
		keep(o, f);
	fflush(stdout);
}

/* ---- what can be asked for ---- */

static void do_seeds(struct options *o)
{
	struct run_result r;

	run_seeds(&o->run, &r);
	print_run(o, &r);
	for (unsigned i = 0; i < r.failure_count; i++)
		print_failure(o, &r.failures[i]);
	tap(o, r.failure_count == 0, "worlds");
}

static int show(struct tape *t, bool quiet)
{
	struct world_result r;

	world_run(t, &r, quiet ? NULL : stdout);
	printf("---- %s: %s\n", invariant_word(r.verdict.broken),
		r.verdict.broken == I_NONE ? invariant_text(I_NONE) : r.verdict.text);
	printf("---- hash %016llx\n", (unsigned long long)r.hash);
	return r.verdict.broken != I_NONE;
}

static int do_seed(const struct options *o)
{
	struct tape t;

	tape_from_seed(&t, o->seed);
	return show(&t, o->quiet);
}

static int do_tape(const struct options *o)
{
	struct octets octets = {0};
	struct tape t;

	if (!tape_load(o->tape, &octets)) {
		fprintf(stderr, "ringpost-sim: %s is not a recording\n", o->tape);
		return 64;
	}
	tape_from_bytes(&t, octets.p, octets.n);
	return show(&t, o->quiet);
}

static int is_tape(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return n > 5 && strcmp(d->d_name + n - 5, ".tape") == 0;
}

static void do_tapes(struct options *o)
{
	struct dirent **names;
	int n = scandir(o->tapes, &names, is_tape, alphasort);

	if (n < 0) {
		printf("# %s: %s\n", o->tapes, strerror(errno));
		tap(o, false, "recordings");
		return;
	}
	for (int i = 0; i < n; i++) {
		char path[512], name[512];
		struct octets octets = {0};
		struct failure f = {.verdict.broken = I7_OPS};

		snprintf(path, sizeof(path), "%s/%s", o->tapes, names[i]->d_name);
		snprintf(name, sizeof(name), "recording %s", names[i]->d_name);
		if (tape_load(path, &octets))
			run_tape_apart(&octets, &f);
		tap(o, f.verdict.broken == I_NONE, name);
		octets_free(&octets);
		free(names[i]);
	}
	free(names);
}

/* In this process: a crash ends the report. */
static void do_spools(struct options *o, uint64_t first, uint64_t count)
{
	uint64_t bad = 0;

	for (uint64_t i = 0; i < count; i++)
		bad += !sim_spools(first + i);
	tap(o, bad == 0, "spools agree with a model");
}

static void do_report(struct options *o)
{
	if (o->tapes)
		do_tapes(o);
	tap(o, oracle_cases() == 0, "the oracle sees what is broken");
	sim_conform_each(o, tell);
	do_spools(o, 1, SPOOL_WORLDS);
	do_seeds(o);
	printf("1..%u\n", o->test);
}

/* ---- arguments ---- */

static bool number(const char *s, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(s, &end, 10);
	return errno == 0 && end != s && *end == '\0';
}

enum {
	OPT_SEEDS = 1,
	OPT_SECONDS,
	OPT_JOBS,
	OPT_TWICE,
	OPT_FAILURES,
	OPT_SEED,
	OPT_SPOOLS,
	OPT_TEXT,
	OPT_FLAG
};

static bool take_number(struct options *o, int opt, const char *arg)
{
	uint64_t n;

	if (!number(arg, &n))
		return false;
	switch (opt) {
	case OPT_SEEDS:
		o->run.first = n;
		break;
	case OPT_SECONDS:
		o->run.seconds = (unsigned)n;
		break;
	case OPT_JOBS:
		o->run.jobs = (unsigned)n;
		return n > 0;
	case OPT_TWICE:
		o->run.twice_every = (unsigned)n;
		break;
	case OPT_FAILURES:
		o->run.failures_max = (unsigned)MIN_OF(n, (uint64_t)FAILURES_MAX);
		return n > 0;
	case OPT_SPOOLS:
		o->spools = n;
		return n > 0;
	case OPT_SEED:
		o->seed = n;
		o->replay = true;
		break;
	}
	return true;
}

static bool parse(struct options *o, int argc, char **argv)
{
	int flag[3] = {0}, c;
	const char *texts[3] = {NULL};
	int which = 0;
	const struct option options[] = {{"seeds", 1, NULL, OPT_SEEDS},
		{"seconds", 1, NULL, OPT_SECONDS}, {"jobs", 1, NULL, OPT_JOBS},
		{"twice", 1, NULL, OPT_TWICE}, {"failures", 1, NULL, OPT_FAILURES},
		{"seed", 1, NULL, OPT_SEED}, {"spools", 1, NULL, OPT_SPOOLS},
		{"tape", 1, &which, 0}, {"tapes", 1, &which, 1}, {"save", 1, &which, 2},
		{"tap", 0, &flag[0], 1}, {"no-shrink", 0, &flag[1], 1}, {"quiet", 0, &flag[2], 1},
		{0}};

	while ((c = getopt_long_only(argc, argv, "", options, NULL)) != -1) {
		if (c == '?')
			return false;
		if (c == 0 && optarg)
			texts[which] = optarg;
		else if (c != 0 && !take_number(o, c, optarg))
			return false;
		/* --seeds takes two. */
		if (c == OPT_SEEDS && (optind >= argc || !number(argv[optind++], &o->run.count)))
			return false;
	}
	o->tape = texts[0];
	o->tapes = texts[1];
	o->save = texts[2] ? texts[2] : ".";
	o->tap = flag[0];
	o->no_shrink = flag[1];
	o->quiet = flag[2];
	o->run.progress = o->quiet ? NULL : stdout;
	return optind == argc;
}

int main(int argc, char **argv)
{
	struct options o = {.run = {.first = 1,
				    .count = UINT32_MAX,
				    .jobs = (unsigned)sysconf(_SC_NPROCESSORS_ONLN),
				    .twice_every = 100,
				    .seconds = 60,
				    .failures_max = 1}};

	if (!parse(&o, argc, argv)) {
		fputs(usage, stderr);
		return 64;
	}
	if (o.replay)
		return do_seed(&o);
	if (o.tape)
		return do_tape(&o);
	if (o.spools)
		do_spools(&o, o.run.first, o.spools);
	else if (o.tap)
		do_report(&o);
	else if (o.tapes)
		do_tapes(&o);
	else
		do_seeds(&o);
	return o.bad > 0;
}
