/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The end-of-data scanner: scan_feed in its four modes and all its implementations, scan_swallow.
 * Claimed, for any body:
 *  - each implementation does what the naive reading of tests/unit/ref_scan.h does: the same octets
 *    out, the same end, the same counters; whole, in the pieces that the input says, and octet by
 *    octet;
 *  - nothing behind a piece is read;
 *  - after a stop, swallowing the rest finds the true end where a strict reader finds it, with the
 *    counters of the whole.
 * Input: octet 0 the mode, octet 1 how many of the octets behind it are sizes of pieces (taken in
 * turn; none: two halves), the rest is the body.
 */
#include "tests/fuzz/fuzz.h"

#include "tests/unit/ref_scan.h"

#define BODY_BYTES_MAX (REF_ROOM / 2 - 8)
#define SIZES_MAX 8

static void expect_same(const char *name, struct span body, const struct ref_outcome *got,
	const struct ref_outcome *want)
{
	if (ref_same(want, got))
		return;
	fprintf(stderr, "%s\n", name);
	ref_show("in ", body.p, body.n);
	ref_show_outcome("want", want);
	ref_show_outcome("got ", got);
	ASSERT(!"the scanner differs from the reference");
}

/* The body in pieces, each in a block of its own. */
static void run_pieces(const struct scan_impl *impl, enum scan_mode mode, struct span body,
	const struct span sizes, struct scan *s, struct ref_outcome *o)
{
	size_t at = 0;

	o->end = SCAN_MORE;
	o->used = o->n = 0;
	scan_init(s, mode);
	for (size_t i = 0; at < body.n && o->end == SCAN_MORE; i++) {
		size_t n = MIN_OF(body.n - at, (size_t)sizes.p[i % sizes.n] + 1);
		struct span in = exact_copy(span_of(body.p + at, n));

		ref_feed(impl, s, in, o);
		at += n;
		exact_free(in);
	}
	o->held_cr = s->held_cr;
	o->bare_lf = s->bare_lf;
	o->bare_cr = s->bare_cr;
	o->nul = s->nul;
}

/* `stopped` at o->used of the body: the rest is thrown away in two pieces. */
static void check_swallow(struct scan s, struct span body, const struct ref_outcome *o)
{
	static struct ref_outcome strict;
	struct span rest = span_drop(body, o->used);
	size_t half = rest.n / 3, took;
	bool done;

	ref_expect(body.p, body.n, SCAN_PASS, &strict);
	took = scan_swallow(&s, span_of(rest.p, half), &done);
	ASSERT(done || took == half);
	if (!done)
		took += scan_swallow(&s, span_drop(rest, half), &done);
	ASSERT(!s.held_cr && done == (strict.end == SCAN_DONE));
	ASSERT(o->used + took == strict.used);
	ASSERT(s.bare_lf == strict.bare_lf && s.bare_cr == strict.bare_cr && s.nul == strict.nul);
}

static void check(const struct scan_impl *impl, enum scan_mode mode, struct span body,
	struct span sizes, const struct ref_outcome *want)
{
	static const uint8_t one = 0;
	static struct ref_outcome got;
	struct scan s;

	ref_run_cut(impl, mode, body, body.n / 2, body.n, &s, &got);
	expect_same(impl->name, body, &got, want);
	ref_run_cut(impl, mode, body, body.n, body.n, &s, &got);
	expect_same(impl->name, body, &got, want);
	run_pieces(impl, mode, body, span_of(&one, 1), &s, &got);
	expect_same(impl->name, body, &got, want);
	if (sizes.n > 0) {
		run_pieces(impl, mode, body, sizes, &s, &got);
		expect_same(impl->name, body, &got, want);
	}
	if (got.end == SCAN_STOPPED)
		check_swallow(s, body, &got);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct ref_outcome want;
	const struct scan_impl chosen = {"chosen", NULL, scan_feed};
	struct span in = span_of(p, n), sizes, body;
	enum scan_mode mode = (enum scan_mode)(take_octet(&in) % REF_MODES);
	size_t count = take_octet(&in) % (SIZES_MAX + 1);

	sizes = span_of(in.p, MIN_OF(count, in.n));
	in = span_drop(in, sizes.n);
	if (in.n > BODY_BYTES_MAX)
		return 0;
	body = exact_copy(in);
	ref_expect(body.p, body.n, mode, &want);
	for (size_t m = 0; m < scan_impl_count; m++)
		if (scan_impls[m].usable())
			check(&scan_impls[m], mode, body, sizes, &want);
	check(&chosen, mode, body, sizes, &want);
	exact_free(body);
	return 0;
}
