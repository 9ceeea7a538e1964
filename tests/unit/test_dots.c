/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Dot stuffing (engine/smtp/dots.h). Every string over {CR, LF, '.', 'a'} up to MAX_LENGTH, cut
 * into up to three pieces in every way, both ways, against a naive reading; and the one way undoes
 * the other. Long random texts the same.
 */
#include <criterion/criterion.h>

#include "engine/smtp/dots.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define MAX_LENGTH 6
#else
#define MAX_LENGTH 9
#endif

#define LONG 4096

struct text {
	size_t n;
	uint8_t p[2 * LONG];
};

static void join(struct text *t, struct span s)
{
	ASSERT(s.n <= sizeof(t->p) - t->n);
	memcpy(t->p + t->n, s.p, s.n);
	t->n += s.n;
}

/* ---- naive ---- */

static bool line_start(struct span w, size_t at)
{
	return at == 0 || (at >= 2 && w.p[at - 2] == '\r' && w.p[at - 1] == '\n');
}

static void ref_strip(struct span w, struct text *out)
{
	out->n = 0;
	for (size_t i = 0; i < w.n; i++)
		if (w.p[i] != '.' || !line_start(w, i))
			join(out, span_of(w.p + i, 1));
}

static void ref_stuff(struct span w, struct text *out)
{
	out->n = 0;
	for (size_t i = 0; i < w.n; i++) {
		if (w.p[i] == '.' && line_start(w, i))
			join(out, SPAN_LIT("."));
		join(out, span_of(w.p + i, 1));
	}
}

/* ---- ours ---- */

static void feed(struct dots *d, struct span in, bool stuff, struct text *out)
{
	while (in.n > 0) {
		struct span run;
		bool dot = false;
		size_t n = stuff ? dots_stuff(d, in, &run, &dot) : dots_strip(d, in, &run);

		cr_assert(n > 0 && n <= in.n && run.p >= in.p && run.p + run.n == in.p + n);
		if (dot)
			join(out, SPAN_LIT("."));
		join(out, run);
		in = span_drop(in, n);
	}
}

static void run_cut(struct span w, bool stuff, size_t a, size_t b, struct text *out)
{
	struct dots d = {0};

	out->n = 0;
	feed(&d, span_of(w.p, a), stuff, out);
	feed(&d, span_of(w.p + a, b - a), stuff, out);
	feed(&d, span_drop(w, b), stuff, out);
	cr_assert_eq(dots_line_done(&d), line_start(w, w.n), "\"%.*s\"", (int)w.n, w.p);
}

static void try_cut(
	struct span w, bool stuff, size_t a, size_t b, const struct text *want, struct text *got)
{
	run_cut(w, stuff, a, b, got);
	cr_assert(got->n == want->n && memcmp(got->p, want->p, got->n) == 0,
		"stuff %d \"%.*s\" cut at %zu and %zu: \"%.*s\"", stuff, (int)w.n, w.p, a, b,
		(int)got->n, got->p);
}

static void try_string(struct span w)
{
	static struct text stripped, stuffed, got;
	struct text back = {.n = w.n};

	memcpy(back.p, w.p, w.n);
	ref_strip(w, &stripped);
	ref_stuff(w, &stuffed);
	for (size_t a = 0; a <= w.n; a++) {
		for (size_t b = a; b <= w.n; b++) {
			try_cut(w, false, a, b, &stripped, &got);
			try_cut(w, true, a, b, &stuffed, &got);
		}
	}
	for (size_t a = 0; a <= stuffed.n; a++)
		try_cut(span_of(stuffed.p, stuffed.n), false, a, stuffed.n, &back, &got);
}

Test(dots, every_string_every_cut, .timeout = 300)
{
	static const char alphabet[4] = {'\r', '\n', '.', 'a'};
	uint8_t w[MAX_LENGTH];

	for (size_t length = 0; length <= MAX_LENGTH; length++) {
		for (uint32_t k = 0; k < 1u << 2 * length; k++) {
			for (size_t i = 0; i < length; i++)
				w[i] = (uint8_t)alphabet[k >> 2 * i & 3];
			try_string(span_of(w, length));
		}
	}
}

/* Anything that was stuffed comes out the same behind both ways, through pieces of any size. */
Test(dots, there_and_back)
{
	static const char *const words[] = {
		"\r\n", "\r\n.", ".", "\r", "\n", "word", "\r\n..", "="};
	static struct text w, stuffed, stripped, again;
	uint32_t seed = 1;

	for (unsigned round = 0; round < 200; round++) {
		struct dots in = {0}, out = {0};

		w.n = stripped.n = again.n = 0;
		while (w.n < LONG / 2) {
			seed = seed * 1664525 + 1013904223;
			join(&w, span_str(words[seed >> 24 & 7]));
		}
		ref_stuff(span_of(w.p, w.n), &stuffed);
		for (size_t at = 0, n; at < stuffed.n; at += n) {
			size_t from = stripped.n;

			seed = seed * 1664525 + 1013904223;
			n = MIN_OF(stuffed.n - at, (size_t)(seed >> 24) + 1);
			feed(&in, span_of(stuffed.p + at, n), false, &stripped);
			feed(&out, span_of(stripped.p + from, stripped.n - from), true, &again);
		}
		cr_assert(stripped.n == w.n && memcmp(stripped.p, w.p, w.n) == 0);
		cr_assert(again.n == stuffed.n && memcmp(again.p, stuffed.p, again.n) == 0);
	}
}

/* A piece is one run unless a line begins with a dot. */
Test(dots, long_runs)
{
	static uint8_t w[65536];
	struct dots d = {0};
	struct span run;
	bool dot;

	for (size_t i = 0; i < sizeof(w); i++)
		w[i] = (uint8_t) "0123456789.\r\n"[i % 13];
	cr_expect_eq(dots_strip(&d, span_of(w, sizeof(w)), &run), sizeof(w));
	cr_expect(run.p == w && run.n == sizeof(w) && !dots_line_done(&d));
	memset(&d, 0, sizeof(d));
	memcpy(w + 30000 / 13 * 13, "..", 2);
	cr_expect_eq(dots_stuff(&d, span_of(w, sizeof(w)), &run, &dot), 30000 / 13 * 13);
	cr_expect(!dot && run.p == w && dots_line_done(&d));
	cr_expect_eq(dots_stuff(&d, span_drop(span_of(w, sizeof(w)), run.n), &run, &dot),
		sizeof(w) - 30000 / 13 * 13);
	cr_expect(dot);
}

Test(dots, nothing)
{
	struct dots d = {0};
	struct span run;
	bool dot;

	cr_expect(dots_line_done(&d));
	cr_expect_eq(dots_strip(&d, SPAN_NONE, &run), 0);
	cr_expect_eq(run.n, 0);
	cr_expect_eq(dots_stuff(&d, SPAN_NONE, &run, &dot), 0);
	cr_expect(run.n == 0 && !dot && dots_line_done(&d));
	cr_expect_eq(dots_strip(&d, SPAN_LIT("a\r"), &run), 2);
	cr_expect_eq(dots_strip(&d, SPAN_NONE, &run), 0);
	cr_expect(!dots_line_done(&d));
	cr_expect_eq(dots_strip(&d, SPAN_LIT("\n."), &run), 1);
	cr_expect(dots_line_done(&d));
}
