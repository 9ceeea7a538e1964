/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See doctor.h. Everything is found by trying, in the process and with the limits of the caller.
 */
#include "engine/core/doctor.h"

#include "engine/core/control.h"
#include "engine/core/limits.h"
#include "engine/core/privileges.h"
#include "ring/feat.h"
#include "ring/probe.h"
#include "tls/tls.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
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

/* ---- TLS ---- */

#ifdef __x86_64__
#define AES_INSTRUCTIONS "AES-NI"
#else
#define AES_INSTRUCTIONS "AES instructions"
#endif

void doctor_library(FILE *out)
{
	fprintf(out, "%s, " AES_INSTRUCTIONS " %s\n", tls_library_version(),
		tls_library_accelerated() ? "on" : "off");
}

const char *doctor_slow_tls(void)
{
	if (tls_library_accelerated())
		return NULL;
	return "the TLS library works WITHOUT " AES_INSTRUCTIONS
	       ": some twenty times the CPU time for each octet; build it with "
	       "tls/wolfssl.sh, or run on a CPU that has them";
}

/* A socket that is not connected is refused for just that by a kernel that knows it. */
static bool kernel_tls(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool there;

	if (fd < 0)
		return false;
	there = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0 ||
		errno == ENOTCONN;
	close(fd);
	return there;
}

static void print_tls(FILE *out)
{
	const char *slow = doctor_slow_tls();

	fprintf(out, "tls\n  ");
	doctor_library(out);
	if (slow)
		fprintf(out, "  WARNING: %s\n", slow);
	fprintf(out, "  kernel TLS: %s\n", kernel_tls() ? "there, not used" : "not there");
}

/* ---- the conformance scripts ---- */

#define NAMELESS_ENOUGH 5u /* each may take seconds */

struct findings {
	unsigned run, skipped, failed, nameless; /* nameless: no feature is to blame */
	uint32_t unsafe, untried;		 /* RING_FEAT_* bits */
	const char *first[32];			 /* by bit: the script that told */
};

static void note_failure(
	struct findings *f, const struct probe_script *s, const struct probe_result *res, FILE *out)
{
	uint32_t blame = probe_blame(s, &probe_far_loopback, res);

	f->failed++;
	f->nameless += blame == 0;
	f->unsafe |= blame;
	for (unsigned i = 0; i < 32; i++)
		if ((blame & 1u << i) && !f->first[i])
			f->first[i] = s->name;
	fprintf(out, "  fail %s%s%s%s: %s\n", s->name, s->hazard[0] ? " (" : "", s->hazard,
		s->hazard[0] ? ")" : "", s->shows);
	fprintf(out, "       expected  %s\n", s->expect);
	fprintf(out, "       seen      %s\n", res->seen);
}

static void print_safety(const struct findings *f, uint32_t bits, FILE *out)
{
	for (size_t i = 0; i < feat_row_count; i++) {
		const struct feat_row *row = &feat_rows[i];

		if (!row->bit || !(bits & row->bit))
			continue;
		if (f->unsafe & row->bit)
			fprintf(out, "  NOT SAFE on this kernel: %s (script %s); else %s\n",
				row->name, f->first[__builtin_ctz(row->bit)], row->without);
		else if (f->untried & row->bit)
			fprintf(out, "  not tried: %s (limits of this process)\n", row->name);
		else
			fprintf(out, "  safe %s\n", row->name);
	}
}

static int probe_kernel(uint32_t bits, FILE *out)
{
	struct findings f = {0};
	struct probe_result res;
	const struct probe_script *s;

	fprintf(out, "conformance\n");
	for (size_t i = 0; (s = probe_script(i)) && f.nameless < NAMELESS_ENOUGH; i++) {
		probe_run(s, &probe_far_loopback, 0, &res);
		f.run += res.verdict != PROBE_SKIPPED;
		if (res.verdict == PROBE_SKIPPED) {
			f.skipped++;
			f.untried |= s->needs & res.features;
		}
		if (res.verdict == PROBE_FAILED)
			note_failure(&f, s, &res, out);
	}
	if (f.failed)
		fprintf(out, "  %u of %u scripts failed", f.failed, f.run);
	else
		fprintf(out, "  %u scripts, all as expected", f.run);
	if (f.skipped)
		fprintf(out, " (%u could not be run)", f.skipped);
	fprintf(out, "\n");
	if (f.nameless) {
		fprintf(out, "ringpost should not run on this kernel.\n");
		return EXIT_DENIED;
	}
	print_safety(&f, bits, out);
	return f.failed ? EXIT_FAILED : EXIT_RAN;
}

int doctor(const struct conf *c, bool probe, FILE *out)
{
	struct utsname un;
	struct ring_barrier why;
	uint32_t bits = 0;
	int code = EXIT_RAN;

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
	print_tls(out);
	if (!print_limits(c, out)) {
		fprintf(out, "ringpost cannot run here with these limits.\n");
		return EXIT_DENIED;
	}
	if (probe)
		code = probe_kernel(bits, out);
	if (code == EXIT_RAN)
		fprintf(out, "ringpost can run here.\n");
	else if (code == EXIT_FAILED)
		fprintf(out, "ringpost can run here, at the risk of what is not safe.\n");
	return code;
}
