/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See tally.h.
 */
#include "bench/lib/tally.h"

#include "bench/lib/json.h"

#include <inttypes.h>

const char *const outcome_words[OUTCOME_COUNT] = {"accepted", "rejected", "failed", "unsent"};

static const struct {
	const char *text, *key;
	double share;
} points[] = {
	{"p50", "p50", 0.5}, {"p90", "p90", 0.9}, {"p99", "p99", 0.99}, {"p99.9", "p999", 0.999}};

void tally_init(struct tally *t)
{
	memset(t, 0, sizeof(*t));
	hist_init(&t->latency);
	hist_init(&t->greeting);
	hist_init(&t->handshake);
}

static bool same_word(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

static struct tally_kind *find_kind(
	struct tally *t, enum outcome o, const char *stage, const char *why, uint16_t code)
{
	for (unsigned i = 0; i < t->kinds; i++) {
		struct tally_kind *k = &t->kind[i];

		if (k->outcome == o && k->code == code && same_word(k->stage, stage) &&
			same_word(k->why, why))
			return k;
	}
	if (t->kinds == TALLY_KINDS_MAX)
		return NULL;
	struct tally_kind *k = &t->kind[t->kinds++];
	*k = (struct tally_kind){.outcome = o, .stage = stage, .why = why, .code = code};
	return k;
}

void tally_add(struct tally *t, enum outcome o, const char *stage, const char *why, uint16_t code,
	struct span text)
{
	t->count[o]++;
	if (o == OUT_ACCEPTED || o == OUT_UNSENT)
		return;
	struct tally_kind *k = find_kind(t, o, stage, why, code);
	if (!k) /* the table is full: into its last row, which then means "other" */
		k = &t->kind[TALLY_KINDS_MAX - 1];
	if (k->count++ == 0) {
		size_t n = MIN_OF(text.n, sizeof(k->text) - 1);

		for (size_t i = 0; i < n; i++)
			k->text[i] = text.p[i] >= 32 && text.p[i] < 127 ? (char)text.p[i] : '?';
	}
}

char *tally_time(uint64_t us, char *out)
{
	if (us < 1000)
		snprintf(out, 16, "%" PRIu64 " us", us);
	else if (us < 1000000)
		snprintf(out, 16, "%.2f ms", (double)us / 1e3);
	else
		snprintf(out, 16, "%.2f s", (double)us / 1e6);
	return out;
}

static void print_histogram(const struct histogram *h, const char *name, const char *what, FILE *f)
{
	char text[16];

	if (h->count == 0)
		return;
	fprintf(f, "%-11s", name);
	for (size_t i = 0; i < ARRAY_LEN(points); i++)
		fprintf(f, " %s %s ", points[i].text,
			tally_time(hist_at(h, points[i].share), text));
	fprintf(f, " max %s  (%s)\n", tally_time(h->max, text), what);
}

uint64_t tally_sent(const struct tally *t)
{
	return t->count[OUT_ACCEPTED] + t->count[OUT_REJECTED] + t->count[OUT_FAILED];
}

static double rate(const struct tally *t, const struct tally_run *r)
{
	return r->seconds > 0 ? (double)t->count[OUT_ACCEPTED] / r->seconds : 0;
}

static double mb_rate(const struct tally *t, const struct tally_run *r)
{
	return r->seconds > 0 ? (double)t->bytes / r->seconds / 1e6 : 0;
}

static double shakes(const struct tally *t, const struct tally_run *r)
{
	return r->seconds > 0 ? (double)t->handshakes / r->seconds : 0;
}

/* `of`: "" or "late " */
static void print_kinds(const struct tally *t, const char *of, FILE *f)
{
	for (unsigned i = 0; i < t->kinds; i++) {
		const struct tally_kind *k = &t->kind[i];

		if (k->code)
			fprintf(f, "%-11s %" PRIu64 " x %s%s %u \"%s\"\n",
				outcome_words[k->outcome], k->count, of, k->stage, k->code,
				k->text);
		else
			fprintf(f, "%-11s %" PRIu64 " x %s%s: %s\n", outcome_words[k->outcome],
				k->count, of, k->stage, k->why);
	}
}

static void print_counts(const struct tally *t, const char *name, FILE *f)
{
	fprintf(f,
		"%-11s %" PRIu64 " sent  %" PRIu64 " accepted  %" PRIu64 " rejected  %" PRIu64
		" failed",
		name, tally_sent(t), t->count[OUT_ACCEPTED], t->count[OUT_REJECTED],
		t->count[OUT_FAILED]);
	if (t->count[OUT_UNSENT])
		fprintf(f, "  %" PRIu64 " never sent", t->count[OUT_UNSENT]);
	fputc('\n', f);
}

static void print_parts(const struct tally_run *r, FILE *f)
{
	for (size_t i = 0; i < r->part_count; i++) {
		const struct tally_part *p = &r->parts[i];
		char of[32];

		if (tally_sent(p->tally) == 0 && p->tally->connected == 0)
			continue;
		print_counts(p->tally, p->name, f);
		if (p->latency)
			print_histogram(&p->tally->latency, "", p->name, f);
		snprintf(of, sizeof(of), "%s ", p->name);
		print_kinds(p->tally, of, f);
	}
}

static void print_tls(const struct tally *t, const struct tally_run *r, FILE *f)
{
	if (!r->tls_version)
		return;
	fprintf(f, "handshakes  %" PRIu64 "  %" PRIu64 " resumed  %.0f/s  %s %s\n", t->handshakes,
		t->resumed, shakes(t, r), r->tls_version, r->tls_cipher);
	print_histogram(&t->handshake, "handshake", "its first octet to its last", f);
}

static void print_notes(const struct tally *t, const struct tally_run *r, FILE *f)
{
	if (t->rcpts_refused)
		fprintf(f, "recipients  %" PRIu64 " refused\n", t->rcpts_refused);
	if (r->backlog_max)
		fprintf(f, "backlog     %" PRIu64 " were due and had to wait for a connection\n",
			r->backlog_max);
	if (t->lockstep)
		fprintf(f,
			"note        PIPELINING not offered on %" PRIu64
			" connections: lock-step there\n",
			t->lockstep);
}

void tally_print(const struct tally *t, const struct tally_run *r, FILE *f)
{
	double done = (double)MAX_OF(tally_sent(t), 1);

	fprintf(f, "%s: %" PRIu64 " connections, messages of %" PRIu64 " octets%s, %s\n", r->to,
		r->connections, r->message_bytes, r->mixed ? " on average" : "", r->mode);
	print_counts(t, "messages", f);
	fprintf(f, "rate        %.0f msg/s  %.1f MB/s  in %.3f s\n", rate(t, r), mb_rate(t, r),
		r->seconds);
	print_histogram(&t->latency, "latency",
		r->open_loop ? "scheduled time to the final reply" : "MAIL to the final reply", f);
	print_histogram(&t->greeting, "greeting", "connect to greeting", f);
	fprintf(f,
		"connections %" PRIu64 " opened  %" PRIu64 " failed  %" PRIu64 " lost while idle\n",
		t->connected, t->connect_failed, t->idle_lost);
	fprintf(f, "cpu         %.3f s of its own, %.1f us a message\n", r->cpu_seconds,
		r->cpu_seconds * 1e6 / done);
	print_tls(t, r, f);
	print_notes(t, r, f);
	print_kinds(t, "", f);
	print_parts(r, f);
}

static void json_histogram(struct json *j, const char *key, const struct histogram *h)
{
	json_open(j, NULL, key);
	json_u64(j, "count", h->count);
	for (size_t i = 0; i < ARRAY_LEN(points); i++)
		json_u64(j, points[i].key, hist_at(h, points[i].share));
	json_u64(j, "max", h->max);
	json_num(j, "mean", hist_mean(h));
	json_close(j);
}

/* [[largest value, count], ...] of the buckets with something in them. */
static void json_buckets(struct json *j, const char *key, const struct histogram *h)
{
	json_list(j, key);
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		if (h->bucket[i] == 0)
			continue;
		json_list(j, NULL);
		json_u64(j, NULL, i == HIST_BUCKETS - 1 ? h->max : hist_bucket_top(i));
		json_u64(j, NULL, h->bucket[i]);
		json_list_end(j);
	}
	json_list_end(j);
}

static void json_kinds(struct json *j, const struct tally *t)
{
	json_list(j, "kinds");
	for (unsigned i = 0; i < t->kinds; i++) {
		const struct tally_kind *k = &t->kind[i];

		json_open(j, NULL, NULL);
		json_str(j, "outcome", span_str(outcome_words[k->outcome]));
		json_str(j, "stage", span_str(k->stage));
		json_str(j, "why", k->why ? span_str(k->why) : SPAN_LIT("reply"));
		json_u64(j, "code", k->code);
		json_u64(j, "count", k->count);
		json_str(j, "text", span_str(k->text));
		json_close(j);
	}
	json_list_end(j);
}

static void json_counts(struct json *j, const struct tally *t)
{
	json_u64(j, "sent", tally_sent(t));
	for (unsigned o = 0; o < OUTCOME_COUNT; o++)
		json_u64(j, outcome_words[o], t->count[o]);
}

static void json_connections(struct json *j, const struct tally *t)
{
	json_u64(j, "connected", t->connected);
	json_u64(j, "connect_failed", t->connect_failed);
	json_u64(j, "idle_lost", t->idle_lost);
}

static void json_tls(struct json *j, const struct tally *t, const struct tally_run *r)
{
	json_open(j, NULL, "tls");
	json_u64(j, "handshakes", t->handshakes);
	json_u64(j, "resumed", t->resumed);
	json_num(j, "handshakes_per_second", shakes(t, r));
	json_str(j, "version", span_str(r->tls_version));
	json_str(j, "cipher", span_str(r->tls_cipher));
	json_histogram(j, "handshake_us", &t->handshake);
	json_close(j);
}

static void json_part(struct json *j, const struct tally_part *p)
{
	json_open(j, NULL, p->key);
	json_counts(j, p->tally);
	json_u64(j, "bytes", p->tally->bytes);
	json_connections(j, p->tally);
	if (p->latency)
		json_histogram(j, "latency_us", &p->tally->latency);
	json_kinds(j, p->tally);
	json_close(j);
}

void tally_json(const struct tally *t, const struct tally_run *r, FILE *f)
{
	struct json j;

	json_open(&j, f, NULL);
	json_str(&j, "to", span_str(r->to));
	json_str(&j, "mode", span_str(r->mode));
	json_u64(&j, "connections", r->connections);
	json_u64(&j, "message_bytes", r->message_bytes);
	json_counts(&j, t);
	json_u64(&j, "bytes", t->bytes);
	json_num(&j, "seconds", r->seconds);
	json_num(&j, "messages_per_second", rate(t, r));
	json_num(&j, "mb_per_second", mb_rate(t, r));
	json_num(&j, "cpu_seconds", r->cpu_seconds);
	json_histogram(&j, "latency_us", &t->latency);
	json_histogram(&j, "greeting_us", &t->greeting);
	if (r->histogram)
		json_buckets(&j, "latency_histogram", &t->latency);
	json_connections(&j, t);
	if (r->tls_version)
		json_tls(&j, t, r);
	json_u64(&j, "recipients_refused", t->rcpts_refused);
	json_u64(&j, "lockstep_connections", t->lockstep);
	json_u64(&j, "backlog_max", r->backlog_max);
	json_kinds(&j, t);
	if (r->late)
		json_u64(&j, "late_failed",
			r->late->count[OUT_REJECTED] + r->late->count[OUT_FAILED]);
	for (size_t i = 0; i < r->part_count; i++)
		json_part(&j, &r->parts[i]);
	json_close(&j);
	putc('\n', f);
}
