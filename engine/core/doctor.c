/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See doctor.h. Everything is found by trying, in the process and with the limits of the caller.
 */
#include "engine/core/doctor.h"

#include "engine/core/control.h"
#include "engine/core/limits.h"
#include "engine/core/privileges.h"
#include "ring/feat.h"

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

static uint32_t cpus_allowed(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

static void print_features(uint32_t bits, FILE *out)
{
	for (size_t i = 0; i < feat_row_count; i++) {
		const struct feat_row *f = &feat_rows[i];
		bool there = f->bit ? (bits & f->bit) != 0 : f->try_it();

		fprintf(out, "  %-4s %-40s since %-6s else %s\n", there ? "yes" : "no", f->name,
			f->since, f->without ? f->without : "ringpost does not run");
	}
}

static void print_limit(FILE *out, const char *name, uint64_t n, const char *unit)
{
	if (n == UINT64_MAX)
		fprintf(out, "  %-16s unlimited\n", name);
	else
		fprintf(out, "  %-16s %llu %s\n", name, (unsigned long long)n, unit);
}

static bool print_limits(const struct conf *c, FILE *out)
{
	static const struct conf_upstream up;
	struct conf defaults = {.cpu_count = cpus_allowed(), .upstreams = &up, .upstream_count = 1};
	struct process_limits l;
	bool enough;

	defaults.limits.sessions = 20000;
	limits_plan(c ? c : &defaults, &l);
	enough = l.memlock_needed <= l.memlock_limit && l.nofile_needed <= l.nofile;
	fprintf(out, "limits\n");
	print_limit(out, "RLIMIT_NOFILE", l.nofile, "descriptors");
	if (l.nofile < l.nofile_needed)
		fprintf(out,
			"  %-16s %llu descriptors: TOO FEW: raise it (ulimit -n, LimitNOFILE)\n",
			"needed", (unsigned long long)l.nofile_needed);
	fprintf(out, "  %-16s %u of %u\n", "sessions", l.sessions,
		(c ? c : &defaults)->limits.sessions);
	print_limit(out, "RLIMIT_MEMLOCK", l.memlock_limit, "bytes");
	fprintf(out, "  %-16s %llu bytes for %u workers: %s\n", "needed",
		(unsigned long long)l.memlock_needed, (c ? c : &defaults)->cpu_count,
		l.memlock_needed <= l.memlock_limit
			? "enough"
			: "TOO LITTLE: raise it (ulimit -l, LimitMEMLOCK) or run fewer workers");
	return enough;
}

int doctor(const struct conf *c, FILE *out)
{
	struct utsname un;
	struct ring_barrier why;
	uint32_t bits = 0;

	/* The limits that count are those of the account that will run. */
	if (c && c->user && !privileges_drop(c->user, stderr))
		return EXIT_DENIED;
	uname(&un);
	fprintf(out, "ringpost %s on %s %s\n", RINGPOST_VERSION, un.sysname, un.release);
	if (!feat_probe(&bits, &why)) {
		fprintf(out, "io_uring\n  no   %s\n       fix: %s\n", why.what, why.fix);
		(void)print_limits(c, out);
		fprintf(out, "ringpost cannot run here.\n");
		return EXIT_DENIED;
	}
	fprintf(out, "io_uring\n");
	print_features(bits, out);
	if (!print_limits(c, out)) {
		fprintf(out, "ringpost cannot run here with these limits.\n");
		return EXIT_DENIED;
	}
	fprintf(out, "ringpost can run here.\n");
	return EXIT_RAN;
}
