/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Rows on bodies: the end-of-data scanner in its modes and implementations, and dot stuffing both
 * ways. Bodies are made-up text: lines of one length, a full stop here and there, every 40th line
 * begins with a dot that was stuffed. Pure but for the memory of a body.
 */
#include "bench/micro/micro.h"

#include "engine/smtp/dots.h"
#include "engine/smtp/scan.h"

#define HOT_BYTES (64u << 10)  /* in the second-level cache */
#define COLD_BYTES (64u << 20) /* in no cache, or hardly any of it */
#define COLUMNS 76
#define DOT_EVERY 40
#define BARE_EVERY 50

static const unsigned columns[] = {20, COLUMNS, 990};
static const size_t pieces[] = {512, 4096, 16384};
static const char *const modes[] = {[SCAN_GUARD] = "guard",
	[SCAN_REJECT] = "reject",
	[SCAN_NORMALIZE] = "normalize",
	[SCAN_PASS] = "pass"};

struct body {
	uint8_t *p; /* owns */
	size_t n;   /* with the end */
	uint64_t dots, bare;
};

#define END "\r\n.\r\n"
#define END_BYTES (sizeof(END) - 1)

/* Lines of `cols` octets and a line end; with `bare` every 50th ends with a lone LF. */
static void body_fill(struct body *b, size_t n, unsigned cols, bool bare)
{
	uint64_t seed = 20260101;
	unsigned line = 0, col = 0;

	b->n = n;
	for (size_t i = 0; i < n - END_BYTES; i++, col++) {
		bool lone = bare && line % BARE_EVERY == 1;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		b->p[i] = (uint8_t)((seed >> 33) % 64 == 0 ? '.' : 'a' + (seed >> 33) % 26);
		if (col < 2)
			b->p[i] = line % DOT_EVERY == 1 ? '.' : 'x';
		b->dots += col == 0 && line % DOT_EVERY == 1;
		if (col < cols || n - END_BYTES - i < 2)
			continue;
		b->bare += lone;
		if (!lone)
			b->p[i++] = '\r';
		b->p[i] = '\n';
		col = UINT32_MAX; /* 0 in the next round */
		line++;
	}
	memcpy(b->p + n - END_BYTES, END, END_BYTES);
}

static struct body body_new(size_t n, unsigned cols, bool bare)
{
	struct body b = {.p = micro_alloc(n)};

	body_fill(&b, n, cols, bare);
	return b;
}

/* ---- the end of the data ---- */

struct scan_row {
	void (*feed)(struct scan *s, struct span in, struct scan_step *out);
	enum scan_mode mode;
	struct span body;
	size_t piece;
};

/* One message. Returns the octets used; *s tells the rest. */
static size_t scan_once(
	const struct scan_row *r, struct scan *s, enum scan_end *end, size_t *passed)
{
	struct scan_step step;
	size_t at = 0;

	scan_init(s, r->mode);
	*passed = 0;
	do {
		r->feed(s, span_of(r->body.p + at, MIN_OF(r->piece, r->body.n - at)), &step);
		at += step.used;
		*passed += step.lead_cr + step.pass.n + step.tail.n;
	} while (step.end == SCAN_MORE && at < r->body.n);
	*end = step.end;
	return at;
}

static uint64_t scan_rounds(void *arg, uint64_t rounds)
{
	struct scan_row *r = arg;
	uint64_t sum = 0;

	while (rounds--) {
		enum scan_end end;
		struct scan s;
		size_t passed;

		r->body = micro_hide_span(r->body);
		sum += scan_once(r, &s, &end, &passed) + passed;
	}
	return sum;
}

/* Else an implementation that only looks at the last octets would pass for a fast one. */
static bool finds_in_midst(const struct scan_row *row, const struct body *b)
{
	uint8_t was[END_BYTES];
	size_t at = b->n / 2, passed;
	enum scan_end end;
	struct scan s;

	while (b->p[at - 1] < 'a') /* behind a letter: no line end is cut in two */
		at--;
	memcpy(was, b->p + at, END_BYTES);
	memcpy(b->p + at, END, END_BYTES);
	bool found = scan_once(row, &s, &end, &passed) == at + END_BYTES && end == SCAN_DONE;
	memcpy(b->p + at, was, END_BYTES);
	return found;
}

static void scan_measure(struct micro *m, const struct body *b, struct scan_row row)
{
	enum scan_end end;
	struct scan s;
	size_t passed;
	bool rewrites = row.mode == SCAN_NORMALIZE;

	row.body = span_of(b->p, b->n);
	micro_check(m, scan_once(&row, &s, &end, &passed) == b->n && end == SCAN_DONE,
		"the end is found at the end");
	micro_check(m, passed == b->n + (rewrites ? b->bare : 0), "every octet is passed on");
	micro_check(
		m, s.bare_lf == b->bare && s.bare_cr == 0 && s.nul == 0, "what is odd is counted");
	micro_check(m, finds_in_midst(&row, b), "an end in the midst is found there");
	micro_measure(m, (struct micro_size){"body", 1, b->n}, scan_rounds, &row);
}

static void scan_modes(struct micro *m)
{
	for (size_t c = 0; c < ARRAY_LEN(columns); c++) {
		struct body b = body_new(HOT_BYTES, columns[c], false);

		for (size_t mode = 0; mode < ARRAY_LEN(modes); mode++)
			if (micro_row(m, "scan/%s/%u columns", modes[mode], columns[c]))
				scan_measure(m, &b,
					(struct scan_row){.feed = scan_feed,
						.mode = (enum scan_mode)mode,
						.piece = SIZE_MAX});
		free(b.p);
	}
}

static void scan_pieces(struct micro *m)
{
	struct body b = body_new(HOT_BYTES, COLUMNS, false);

	for (size_t p = 0; p < ARRAY_LEN(pieces); p++)
		for (size_t mode = 0; mode < ARRAY_LEN(modes); mode++)
			if (micro_row(m, "scan/%s/pieces of %zu", modes[mode], pieces[p]))
				scan_measure(m, &b,
					(struct scan_row){.feed = scan_feed,
						.mode = (enum scan_mode)mode,
						.piece = pieces[p]});
	free(b.p);
}

/* Bare LFs: counted, or rewritten. */
static void scan_odd(struct micro *m)
{
	static const enum scan_mode odd[] = {SCAN_GUARD, SCAN_NORMALIZE, SCAN_PASS};
	struct body b = body_new(HOT_BYTES, COLUMNS, true);

	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		if (micro_row(m, "scan/%s/1 bare LF in %d lines", modes[odd[i]], BARE_EVERY))
			scan_measure(m, &b,
				(struct scan_row){
					.feed = scan_feed, .mode = odd[i], .piece = SIZE_MAX});
	free(b.p);
}

static void scan_impl_rows(struct micro *m, size_t n, unsigned cols, const char *heat)
{
	struct body b = {0};

	for (size_t i = 0; i < scan_impl_count; i++) {
		const struct scan_impl *impl = &scan_impls[i];

		if (!impl->usable() ||
			!micro_row(m, "scan/guard/%s/%u columns%s", impl->name, cols, heat))
			continue;
		if (!b.p)
			b = body_new(n, cols, false);
		scan_measure(m, &b,
			(struct scan_row){
				.feed = impl->feed, .mode = SCAN_GUARD, .piece = SIZE_MAX});
	}
	free(b.p);
}

/* ---- dots ---- */

static uint64_t strip_rounds(void *arg, uint64_t rounds)
{
	struct span *body = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct span in = *body = micro_hide_span(*body), out;
		struct dots d = {0};

		while (in.n) {
			in = span_drop(in, dots_strip(&d, in, &out));
			sum += out.n;
		}
	}
	return sum;
}

static uint64_t stuff_rounds(void *arg, uint64_t rounds)
{
	struct span *body = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct span in = *body = micro_hide_span(*body), out;
		struct dots d = {0};
		bool dot;

		while (in.n) {
			in = span_drop(in, dots_stuff(&d, in, &out, &dot));
			sum += out.n + dot;
		}
	}
	return sum;
}

static void dots_rows(struct micro *m, unsigned cols)
{
	struct body b = body_new(HOT_BYTES, cols, false);
	struct span body = span_of(b.p, b.n - END_BYTES);
	struct micro_size size = {"body", 1, body.n};

	if (micro_row(m, "dots/strip/%u columns", cols)) {
		micro_check(m, strip_rounds(&body, 1) == body.n - b.dots, "every dot is taken out");
		micro_measure(m, size, strip_rounds, &body);
	}
	if (micro_row(m, "dots/stuff/%u columns", cols)) {
		micro_check(m, stuff_rounds(&body, 1) == body.n + b.dots, "every dot is put in");
		micro_measure(m, size, stuff_rounds, &body);
	}
	free(b.p);
}

void rows_scan(struct micro *m)
{
	scan_modes(m);
	scan_pieces(m);
	scan_odd(m);
	for (size_t c = 0; c < ARRAY_LEN(columns); c++)
		scan_impl_rows(m, HOT_BYTES, columns[c], "");
	for (size_t c = 0; c < ARRAY_LEN(columns); c++)
		scan_impl_rows(m, COLD_BYTES, columns[c], " cold");
	for (size_t c = 0; c < ARRAY_LEN(columns); c++)
		dots_rows(m, columns[c]);
}
