/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Dot stuffing: all of engine/smtp/dots.h. Claimed, for any octets in pieces of any size:
 *  - both ways give what a naive reader gives that has all octets before it;
 *  - what was stuffed and stripped is as before, and stripped and stuffed again as well;
 *  - each run lies in its piece, and a line is done exactly when it is.
 * Input: octet 0 how many of the octets behind it are sizes of pieces (taken in turn; none: whole),
 * the rest is the message.
 */
#include "tests/fuzz/fuzz.h"

#include "engine/smtp/dots.h"

#define SIZES_MAX 8

struct text {
	uint8_t *p;
	size_t n;
};

static struct text make_text(size_t max)
{
	struct text t = {malloc(max > 0 ? max : 1), 0};

	ASSERT(t.p);
	return t;
}

static void join(struct text *t, struct span s)
{
	if (s.n > 0)
		memcpy(t->p + t->n, s.p, s.n);
	t->n += s.n;
}

static bool at_line_start(struct span w, size_t at)
{
	return at == 0 || (at > 1 && memcmp(w.p + at - 2, "\r\n", 2) == 0);
}

static struct text naive(struct span w, unsigned dots)
{
	struct text t = make_text(2 * w.n);

	for (size_t i = 0; i < w.n; i++) {
		bool first = w.p[i] == '.' && at_line_start(w, i);

		for (unsigned k = first ? dots : 1; k > 0; k--)
			join(&t, span_of(w.p + i, 1));
	}
	return t;
}

static void feed_piece(struct dots *d, struct span in, bool stuff, struct text *out)
{
	while (in.n > 0) {
		struct span run;
		bool dot = false;
		size_t n = stuff ? dots_stuff(d, in, &run, &dot) : dots_strip(d, in, &run);

		ASSERT(n > 0 && n <= in.n && lies_in(run, span_of(in.p, n)));
		if (dot)
			join(out, SPAN_LIT("."));
		join(out, run);
		in = span_drop(in, n);
	}
}

static struct text ours(struct span w, struct span sizes, bool stuff)
{
	struct text t = make_text(2 * w.n);
	struct dots d = {0};

	for (size_t at = 0, i = 0, n; at < w.n; at += n, i++) {
		struct span piece;

		n = sizes.n > 0 ? MIN_OF(w.n - at, (size_t)sizes.p[i % sizes.n] + 1) : w.n;
		piece = exact_copy(span_of(w.p + at, n));
		feed_piece(&d, piece, stuff, &t);
		exact_free(piece);
		ASSERT(dots_line_done(&d) == at_line_start(w, at + n));
	}
	return t;
}

static void expect(struct text got, struct span want)
{
	ASSERT(got.n == want.n && (want.n == 0 || memcmp(got.p, want.p, want.n) == 0));
	free(got.p);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct span in = span_of(p, n), sizes;
	size_t count = take_octet(&in) % (SIZES_MAX + 1);
	struct text stripped, stuffed;

	sizes = span_of(in.p, MIN_OF(count, in.n));
	in = span_drop(in, sizes.n);
	stripped = naive(in, 0);
	stuffed = naive(in, 2);
	expect(ours(in, sizes, false), span_of(stripped.p, stripped.n));
	expect(ours(in, sizes, true), span_of(stuffed.p, stuffed.n));
	expect(ours(span_of(stuffed.p, stuffed.n), sizes, false), in);
	free(stripped.p);
	free(stuffed.p);
	return 0;
}
