/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the outside is told: progress on a terminal, the marks of the measuring window, the report
 * and the exit status.
 */
#include "bench/blast/blast_int.h"

#include "bench/lib/json.h"

#define PROGRESS_US 500000

/* ---- progress: standard error, if that is a terminal ---- */

uint64_t report_wake_us(const struct blast *b)
{
	return b->tty ? b->progress_us + PROGRESS_US : UINT64_MAX;
}

static uint64_t all_sent(const struct blast *b)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < WINDOW_PHASES; i++)
		n += tally_sent(&b->tally[i]);
	return n;
}

/* How far the run is, 0..1, by whichever limit comes first; negative: nobody knows. */
static double share_done(const struct blast *b, uint64_t done)
{
	const struct blast_options *o = &b->opt;
	const struct window *w = &b->window;
	double share = -1;

	if (!b->loading)
		return -1;
	if (windowed(o)) {
		double in = o->messages ? (double)tally_sent(&b->tally[PART_MEASURED]) /
						  (double)o->messages
					: -1;
		double all = (double)(o->warm_up_us + o->duration_us);

		if (w->phase == WINDOW_CLOSED)
			return 1;
		if (o->duration_us)
			share = (double)(now_us(b) - b->began_us) / all;
		return MIN_OF(MAX_OF(share, in), 1);
	}
	if (b->total != UINT64_MAX)
		share = (double)done / (double)b->total;
	if (o->duration_us)
		share = MAX_OF(share, (double)(now_us(b) - b->began_us) / (double)o->duration_us);
	return MIN_OF(share, 1);
}

void report_progress(struct blast *b)
{
	uint64_t now = now_us(b), took = now - b->progress_us, n, backlog, active = 0;

	if (!b->tty || took < PROGRESS_US)
		return;
	n = all_sent(b);
	backlog = load_backlog(b);
	for (unsigned i = 0; i < ROLE_COUNT; i++)
		active += b->active[i];
	double share = share_done(b, n), spent = (double)(now - b->began_us) / 1e6;

	fputc('\r', stderr);
	if (share >= 0)
		fprintf(stderr, "%3.0f %%  ", share * 100);
	fprintf(stderr, "%" PRIu64 " done  %.0f/s  %" PRIu64 " connections", n,
		(double)(n - b->progress_count) / ((double)took / 1e6), active);
	if (backlog)
		fprintf(stderr, "  %" PRIu64 " behind schedule", backlog);
	if (windowed(&b->opt) && b->window.phase == WINDOW_WARM_UP)
		fputs("  warm-up", stderr);
	if (share > 0)
		fprintf(stderr, "  %.0f s left", spent / share - spent);
	fputs("\033[K", stderr);
	b->progress_us = now;
	b->progress_count = n;
}

void report_progress_end(const struct blast *b)
{
	if (b->tty)
		fprintf(stderr, "\r\033[K");
}

/* ---- marks: for whoever takes other counters at the same moments ---- */

static void mark_end(struct json *j)
{
	json_close(j);
	putchar('\n');
	fflush(stdout);
}

void report_idle_open(const struct blast *b)
{
	if (b->opt.connections || b->opt.quiet || b->opt.json || b->opt.marks)
		return;
	printf("idle: %" PRIu64 " sessions open\n", b->idle_opened);
	fflush(stdout);
}

void report_opened(struct blast *b)
{
	struct json j;

	if (windowed(&b->opt))
		b->cpu_opened = rig_cpu_seconds();
	if (!b->opt.marks)
		return;
	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("measuring"));
	mark_end(&j);
}

void report_closed(struct blast *b)
{
	const struct tally *t = &b->tally[PART_MEASURED];
	struct json j;

	b->cpu_closed = rig_cpu_seconds();
	if (!b->opt.marks)
		return;
	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("measured"));
	json_u64(&j, "messages", t->count[OUT_ACCEPTED]);
	json_u64(&j, "bytes", t->bytes);
	json_num(&j, "seconds", window_seconds(&b->window));
	mark_end(&j);
}

/* ---- the report ---- */

static bool idle_only(const struct blast *b)
{
	return b->opt.connections == 0;
}

/* What was to be sent and never was. */
static void count_unsent(struct blast *b)
{
	const struct blast_options *o = &b->opt;
	bool timed = o->duration_us && o->rate == 0 && !b->gave_up && !rig_stopped();

	b->tally[PART_IDLE].count[OUT_UNSENT] = b->idle_count - b->idle_begun;
	if (b->total != UINT64_MAX && !timed) /* else the time was the limit, as asked */
		b->tally[PART_MEASURED].count[OUT_UNSENT] = b->total - b->started;
}

static void describe(const struct blast *b, char *out, size_t max)
{
	const struct blast_options *o = &b->opt;
	const char *tls = o->starttls ? ", STARTTLS" : o->tls ? ", TLS" : "";

	if (idle_only(b))
		snprintf(out, max, "idle%s", tls);
	else
		snprintf(out, max, "%s%s%s%s", o->pipelining ? "pipelining" : "lock-step",
			o->bdat ? ", BDAT" : "", o->rate > 0 ? ", open loop" : "", tls);
}

/* Of messages as they are made, which may be a little larger than asked for. */
static double mean_bytes(const struct blast *b)
{
	struct sizes made = b->opt.sizes;

	for (unsigned i = 0; i < made.count; i++)
		made.row[i].bytes = maker_bytes(&b->maker[i]);
	return sizes_mean(&made);
}

static size_t list_parts(const struct blast *b, struct tally_part parts[PART_COUNT])
{
	size_t n = 0;

	if (windowed(&b->opt)) {
		parts[n++] =
			(struct tally_part){"warm-up", "warm_up", &b->tally[PART_WARM_UP], false};
		parts[n++] = (struct tally_part){"late", "late", &b->tally[PART_LATE], false};
	}
	if (b->opt.slow)
		parts[n++] = (struct tally_part){"slow", "slow", &b->tally[PART_SLOW], true};
	if (b->idle_count && !idle_only(b))
		parts[n++] = (struct tally_part){"idle", "idle", &b->tally[PART_IDLE], false};
	return n;
}

void report(struct blast *b)
{
	struct tally_part parts[PART_COUNT];
	char mode[128];
	const struct tally_run r = {
		.to = b->opt.to_text,
		.mode = mode,
		.connections = idle_only(b) ? b->idle_count : b->opt.connections,
		.message_bytes = (uint64_t)(mean_bytes(b) + 0.5),
		.seconds = window_seconds(&b->window),
		.cpu_seconds = b->cpu_closed - b->cpu_opened,
		.tls_version = secured(&b->opt) ? b->tls_version : NULL,
		.tls_cipher = b->tls_cipher,
		.mixed = b->opt.sizes.count > 1,
		.open_loop = b->opt.rate > 0,
		.histogram = b->opt.histogram,
		.backlog_max = b->backlog_max,
		.late = windowed(&b->opt) ? &b->tally[PART_LATE] : NULL,
		.parts = parts,
		.part_count = list_parts(b, parts),
	};
	const struct tally *t = &b->tally[idle_only(b) ? PART_IDLE : PART_MEASURED];

	count_unsent(b);
	describe(b, mode, sizeof(mode));
	if (b->opt.quiet)
		return;
	if (b->opt.json)
		tally_json(t, &r, stdout);
	else
		tally_print(t, &r, stdout);
}

bool report_all_well(const struct blast *b)
{
	for (unsigned i = 0; i < PART_COUNT; i++) {
		const uint64_t *n = b->tally[i].count;

		if (n[OUT_REJECTED] || n[OUT_FAILED] || n[OUT_UNSENT])
			return false;
	}
	if (b->idle_opened < b->idle_count || b->tally[PART_IDLE].idle_lost)
		return false;
	return idle_only(b) || b->tally[PART_MEASURED].count[OUT_ACCEPTED] > 0;
}
