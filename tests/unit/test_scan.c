/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The proof of the end-of-data scanner (engine/smtp/scan.h). Every string over {CR, LF, '.', NUL,
 * 'a'} up to MAX_LENGTH, cut into up to three pieces in every way, in every mode, through every
 * implementation, is compared with a naive reading that sees the whole string at once. The same
 * strings are put across the borders of the 64-octet blocks, and long random ones are cut at
 * random. Then three properties that do not need the reference: no sloppy server ever finds an end
 * that is not one, normalizing keeps the content that a strict reader sees, and swallowing finds
 * the end.
 */
#include <criterion/criterion.h>

#include "engine/smtp/scan.h"
#include "tests/unit/ref_scan.h"

/* Sanitizers and unoptimized code are 5 to 20 times slower: shorter strings there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAX_LENGTH 6
#define EMBED_LENGTH 4
#elif !defined(__OPTIMIZE__)
#define MAX_LENGTH 7
#define EMBED_LENGTH 5
#else
#define MAX_LENGTH 8
#define EMBED_LENGTH 6
#endif

static const char alphabet[5] = {'\r', '\n', '.', '\0', 'a'};

static void compare(const struct scan_impl *impl, enum scan_mode mode, struct span w, size_t cut,
	size_t cut2, const struct ref_outcome *want)
{
	static struct ref_outcome got;
	struct scan s;

	ref_run_cut(impl, mode, w, cut, cut2, &s, &got);
	if (LIKELY(ref_same(want, &got)))
		return;
	fprintf(stderr, "%s, %s, cut at %zu and %zu\n", impl->name, ref_mode_names[mode], cut,
		cut2);
	ref_show("in ", w.p, w.n);
	ref_show_outcome("want", want);
	ref_show_outcome("got ", &got);
	cr_assert(false, "%s differs from the reference in mode %s", impl->name,
		ref_mode_names[mode]);
}

/* Whole, and every cut into two and three pieces that are not empty. */
static void compare_all_cuts(const struct scan_impl *impl, enum scan_mode mode, struct span w,
	const struct ref_outcome *want)
{
	compare(impl, mode, w, w.n, w.n, want);
	for (size_t cut = 1; cut < w.n; cut++)
		for (size_t cut2 = cut + 1; cut2 <= w.n; cut2++)
			compare(impl, mode, w, cut, cut2, want);
}

/* Writes string number k of `length` octets; false behind the last one. */
static bool nth_string(uint32_t k, size_t length, uint8_t *w)
{
	for (size_t i = 0; i < length; i++, k /= 5)
		w[i] = (uint8_t)alphabet[k % 5];
	return k == 0;
}

static const struct scan_impl *usable(size_t k)
{
	return scan_impls[k].usable() ? &scan_impls[k] : NULL;
}

/* ---- every short string ---- */

static void prove(enum scan_mode mode)
{
	static struct ref_outcome want;
	uint8_t w[MAX_LENGTH];
	/* `make check` proves less; `make test` all of it. */
	size_t max = getenv("UNIT_QUICK") ? MIN_OF(6, MAX_LENGTH) : MAX_LENGTH;

	for (size_t length = 0; length <= max; length++) {
		for (uint32_t k = 0; nth_string(k, length, w); k++) {
			ref_expect(w, length, mode, &want);
			for (size_t m = 0; m < scan_impl_count; m++)
				if (usable(m))
					compare_all_cuts(
						usable(m), mode, span_of(w, length), &want);
		}
	}
}

Test(scan, every_string_every_cut_guard, .timeout = 300)
{
	prove(SCAN_GUARD);
}

Test(scan, every_string_every_cut_reject, .timeout = 300)
{
	prove(SCAN_REJECT);
}

Test(scan, every_string_every_cut_normalize, .timeout = 300)
{
	prove(SCAN_NORMALIZE);
}

Test(scan, every_string_every_cut_pass, .timeout = 300)
{
	prove(SCAN_PASS);
}

/* ---- the same strings across the borders of blocks ---- */

#define EMBED_ROOM 320

/* The outcome of 'a' * at + w + 'a' * rest is that of 'a' + w + 'a', moved. */
static void embed(enum scan_mode mode, const uint8_t *w, size_t length)
{
	static struct ref_outcome want, moved;
	uint8_t text[EMBED_ROOM], small[EMBED_LENGTH + 2];

	small[0] = small[length + 1] = 'a';
	memcpy(small + 1, w, length);
	ref_expect(small, length + 2, mode, &want);
	memset(text, 'a', sizeof(text));
	for (size_t at = 56; at <= 136; at = at == 72 ? 120 : at + 1) {
		size_t tail = EMBED_ROOM - at - length;

		memcpy(text + at, w, length);
		moved = want;
		memset(moved.out, 'a', at);
		memcpy(moved.out + at, want.out + 1, want.n - 1);
		moved.used += at - 1;
		moved.n += at - 1;
		if (want.end == SCAN_MORE) {
			memset(moved.out + moved.n, 'a', tail - 1);
			moved.used += tail - 1;
			moved.n += tail - 1;
		}
		for (size_t m = 0; m < scan_impl_count; m++) {
			if (!usable(m))
				continue;
			compare(usable(m), mode, span_of(text, sizeof(text)), sizeof(text),
				sizeof(text), &moved);
			compare(usable(m), mode, span_of(text, sizeof(text)), at - 30,
				at + length / 2, &moved);
		}
		memset(text + at, 'a', length);
	}
}

static void embed_all(enum scan_mode mode)
{
	uint8_t w[EMBED_LENGTH];

	for (size_t length = 1; length <= EMBED_LENGTH; length++)
		for (uint32_t k = 0; nth_string(k, length, w); k++)
			embed(mode, w, length);
}

Test(scan, every_string_across_blocks_guard, .timeout = 300)
{
	embed_all(SCAN_GUARD);
}

Test(scan, every_string_across_blocks_reject, .timeout = 300)
{
	embed_all(SCAN_REJECT);
}

Test(scan, every_string_across_blocks_normalize, .timeout = 300)
{
	embed_all(SCAN_NORMALIZE);
}

Test(scan, every_string_across_blocks_pass, .timeout = 300)
{
	embed_all(SCAN_PASS);
}

/* ---- long random strings ---- */

static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint64_t draw(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % below;
}

/* Mail-like: text with whole line ends; `odd` in 256 octets is drawn from the alphabet. */
static size_t random_text(uint8_t *w, size_t max, unsigned odd)
{
	size_t n = draw(max - 2), column = 0;

	for (size_t i = 0; i < n; i++, column++) {
		w[i] = (uint8_t)('a' + draw(26));
		if (draw(256) < odd)
			w[i] = (uint8_t)alphabet[draw(5)];
		else if (column > 20 && draw(30) == 0 && i + 1 < n) {
			w[i++] = '\r';
			w[i] = '\n';
			column = 0;
		}
	}
	return n;
}

Test(scan, long_random_strings, .timeout = 300)
{
	static struct ref_outcome want;
	static uint8_t w[REF_ROOM / 2];
	static const unsigned odd[] = {0, 2, 10, 60, 256};

	for (int round = 0; round < 20000; round++) {
		size_t n = random_text(w, sizeof(w), odd[round % 5]);
		enum scan_mode mode = (enum scan_mode)draw(REF_MODES);
		size_t cut = draw(n + 1), cut2 = cut + draw(n - cut + 1);

		ref_expect(w, n, mode, &want);
		for (size_t m = 0; m < scan_impl_count; m++)
			if (usable(m))
				compare(usable(m), mode, span_of(w, n), cut, cut2, &want);
	}
}

/* scan_feed and scan_swallow choose for themselves: the same results as the one proved above. */
Test(scan, the_chosen_one_agrees)
{
	static struct ref_outcome want, got;
	static uint8_t w[REF_ROOM / 2];
	const struct scan_impl chosen = {"chosen", NULL, scan_feed};
	struct scan s;

	for (int round = 0; round < 2000; round++) {
		size_t n = random_text(w, sizeof(w), 20);
		enum scan_mode mode = (enum scan_mode)draw(REF_MODES);

		ref_expect(w, n, mode, &want);
		ref_run_cut(&chosen, mode, span_of(w, n), n / 2, n, &s, &got);
		cr_assert(ref_same(&want, &got));
	}
	cr_assert(scan_impls[scan_impl_count - 1].usable());
}

/* ---- no server is fooled ---- */

/* Does `s` hold [start or before] "." behind, other than as its own last octets? */
static bool fooled(struct span s, const char *before, const char *behind, bool done)
{
	size_t nb = strlen(before), ne = strlen(behind);

	for (size_t d = 0; d + ne < s.n; d++) {
		bool starts = d == 0 || (d >= nb && memcmp(s.p + d - nb, before, nb) == 0);

		if (s.p[d] != '.' || !starts || memcmp(s.p + d + 1, behind, ne) != 0)
			continue;
		/* The true end's own dot may be read in any way. */
		if (!(done && d + 3 == s.n))
			return true;
	}
	return false;
}

static size_t strip_nuls(struct span s, uint8_t *out)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++)
		if (s.p[i] != 0)
			out[n++] = s.p[i];
	return n;
}

/* Servers that take any of CR, LF, CRLF on either side of the dot; with NULs, and dropping them. */
static void nobody_is_fooled(const struct ref_outcome *o, struct span in)
{
	static const char *const ends_of_line[] = {"\r", "\n", "\r\n"};
	static uint8_t bare[REF_ROOM];
	struct span views[2] = {span_of(o->out, o->n), span_of(bare, 0)};
	bool done = o->end == SCAN_DONE;

	views[1].n = strip_nuls(views[0], bare);
	for (int v = 0; v < 2; v++)
		for (int i = 0; i < 9; i++)
			if (fooled(views[v], ends_of_line[i / 3], ends_of_line[i % 3], done)) {
				ref_show("in ", in.p, in.n);
				ref_show_outcome("got ", o);
				cr_assert(false, "server %d, NULs %s", i, v ? "dropped" : "kept");
			}
}

/* Every string, alone and with the true end behind it. */
static void fool(enum scan_mode mode)
{
	static struct ref_outcome o;
	uint8_t w[MAX_LENGTH + 5];
	struct scan s;

	for (size_t length = 0; length <= MAX_LENGTH; length++) {
		for (uint32_t k = 0; nth_string(k, length, w); k++) {
			struct span in = span_of(w, length);

			ref_run_cut(&scan_impls[0], mode, in, length / 2, length, &s, &o);
			nobody_is_fooled(&o, in);
			memcpy(w + length, "\r\n.\r\n", 5);
			in.n += 5;
			ref_run_cut(&scan_impls[0], mode, in, length, length + 2, &s, &o);
			nobody_is_fooled(&o, in);
			cr_assert(o.end != SCAN_MORE);
		}
	}
}

Test(scan, sloppy_servers_behind_guard, .timeout = 300)
{
	fool(SCAN_GUARD);
}

Test(scan, sloppy_servers_behind_reject, .timeout = 300)
{
	fool(SCAN_REJECT);
}

Test(scan, sloppy_servers_behind_normalize, .timeout = 300)
{
	fool(SCAN_NORMALIZE);
}

/* The test would notice: behind `pass` they are fooled. */
Test(scan, sloppy_servers_behind_pass_are_fooled)
{
	static struct ref_outcome o;
	struct scan s;

	ref_run_cut(&scan_impls[0], SCAN_PASS, SPAN_LIT("a\n.\nb\r\n.\r\n"), 0, 0, &s, &o);
	cr_assert(o.end == SCAN_DONE);
	cr_assert(fooled(span_of(o.out, o.n), "\n", "\n", true));
	cr_assert(!fooled(span_of(o.out, o.n), "\r\n", "\r\n", true));
}

/* ---- normalizing keeps the content ---- */

/* The content a strict reader takes from a body with its end: dots at line starts dropped. Returns
 * its length; asserts that the end is where the body ends, and nowhere before. */
static size_t strict_content(struct span body, uint8_t *out)
{
	size_t n = 0, start = 0;

	for (size_t i = 0; i < body.n; i++) {
		if (i == start && body.p[i] == '.') {
			if (body.n - i >= 3 && memcmp(body.p + i, ".\r\n", 3) == 0) {
				cr_assert(i + 3 == body.n, "an end before the end");
				return n;
			}
			continue;
		}
		out[n++] = body.p[i];
		if (i > start && body.p[i] == '\n' && body.p[i - 1] == '\r')
			start = i + 1;
	}
	cr_assert(false, "no end");
	return 0;
}

static size_t normalized(struct span s, uint8_t *out)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++) {
		bool bare_cr = s.p[i] == '\r' && (i + 1 == s.n || s.p[i + 1] != '\n');

		if (ref_bare_lf_at(s.p, i))
			out[n++] = '\r';
		out[n++] = bare_cr ? ' ' : s.p[i];
	}
	return n;
}

Test(scan, normalizing_keeps_the_content, .timeout = 300)
{
	static struct ref_outcome o;
	static uint8_t in[REF_ROOM], want[REF_ROOM], got[REF_ROOM];
	uint8_t w[MAX_LENGTH + 5];
	struct scan s;
	size_t compared = 0;

	for (size_t length = 0; length <= MAX_LENGTH; length++) {
		for (uint32_t k = 0; nth_string(k, length, w); k++) {
			size_t n_in, n_want, n_got;

			memcpy(w + length, "\r\n.\r\n", 5);
			ref_run_cut(&scan_impls[k % scan_impl_count], SCAN_NORMALIZE,
				span_of(w, length + 5), length / 2, length + 2, &s, &o);
			if (o.end != SCAN_DONE)
				continue;
			n_in = strict_content(span_of(w, o.used), in);
			n_want = normalized(span_of(in, n_in), want);
			n_got = strict_content(span_of(o.out, o.n), got);
			cr_assert(n_want == n_got && memcmp(want, got, n_got) == 0);
			compared++;
		}
	}
	cr_assert(compared > 10000, "only %zu were compared", compared);
}

/* ---- throwing the rest away ---- */

/* After a stop, anywhere: swallowing in two pieces ends where the first true end is. */
static void swallow(enum scan_mode mode, const uint8_t *w, size_t n)
{
	static struct ref_outcome o, all;
	struct scan s;
	size_t rest, half, took;
	bool done;

	ref_run_cut(&scan_impls[0], mode, span_of(w, n), n / 3, n / 2, &s, &o);
	ref_expect(w, n, SCAN_PASS, &all);
	if (o.end != SCAN_STOPPED)
		return;
	rest = n - o.used;
	half = rest / 2;
	took = scan_swallow(&s, span_of(w + o.used, half), &done);
	cr_assert(!s.held_cr);
	if (!done) {
		cr_assert(took == half);
		took += scan_swallow(&s, span_of(w + o.used + half, rest - half), &done);
	}
	if (done != (all.end == SCAN_DONE) || o.used + took != all.used ||
		s.bare_lf != all.bare_lf || s.bare_cr != all.bare_cr || s.nul != all.nul) {
		ref_show("in ", w, n);
		cr_assert(false, "%s: %d, took %zu after %zu", ref_mode_names[mode], done, took,
			o.used);
	}
}

Test(scan, swallowing_finds_the_end, .timeout = 300)
{
	uint8_t w[MAX_LENGTH + 5];

	for (size_t length = 0; length <= MAX_LENGTH; length++) {
		for (uint32_t k = 0; nth_string(k, length, w); k++) {
			memcpy(w + length, "\r\n.\r\n", 5);
			for (unsigned mode = 0; mode < SCAN_PASS; mode++) {
				swallow((enum scan_mode)mode, w, length);
				swallow((enum scan_mode)mode, w, length + 5);
			}
		}
	}
}

/* ---- by example: what the header promises, readable ---- */

static const struct {
	enum scan_mode mode;
	const char *in;
	size_t n;
	enum scan_end end;
	size_t used;
	const char *out;
} examples[] = {
#define ROW(mode, in, end, used, out)                    \
	{                                                \
		mode, in, sizeof(in) - 1, end, used, out \
	}
	ROW(SCAN_GUARD, ".\r\nQUIT", SCAN_DONE, 3, ".\r\n"),
	ROW(SCAN_GUARD, "a\r\n.\r\nQUIT", SCAN_DONE, 6, "a\r\n.\r\n"),
	ROW(SCAN_GUARD, "a\nb\rc\r\n.\r\n", SCAN_DONE, 10, "a\nb\rc\r\n.\r\n"),
	ROW(SCAN_GUARD, "a\r\n..\r\n", SCAN_MORE, 7, "a\r\n..\r\n"),
	ROW(SCAN_GUARD, "a\n.\nb", SCAN_STOPPED, 3, "a\n."),
	ROW(SCAN_GUARD, "a\n.\r\nb", SCAN_STOPPED, 3, "a\n."),
	ROW(SCAN_GUARD, "a\r.\rb", SCAN_STOPPED, 3, "a\r."),
	ROW(SCAN_GUARD, "a\r\n.\nb", SCAN_STOPPED, 4, "a\r\n."),
	ROW(SCAN_GUARD, "a\r\n.\rb", SCAN_STOPPED, 5, "a\r\n."),
	ROW(SCAN_GUARD, "a\r\n.\r", SCAN_MORE, 5, "a\r\n."),
	ROW(SCAN_REJECT, "a\nb", SCAN_STOPPED, 1, "a"),
	ROW(SCAN_REJECT, "a\rb", SCAN_STOPPED, 2, "a"),
	ROW(SCAN_REJECT, "a\r", SCAN_MORE, 2, "a"),
	ROW(SCAN_NORMALIZE, "a\nb\rc\r\n", SCAN_MORE, 7, "a\r\nb c\r\n"),
	ROW(SCAN_NORMALIZE, "a\n.\nb", SCAN_MORE, 5, "a\r\n..\r\nb"),
	ROW(SCAN_NORMALIZE, "a\r\r\n.\r\n", SCAN_DONE, 7, "a \r\n.\r\n"),
	ROW(SCAN_NORMALIZE, "a\r\n.\nb", SCAN_MORE, 6, "a\r\n\r\nb"),
	ROW(SCAN_NORMALIZE, "a\r\n.\rb", SCAN_MORE, 6, "a\r\n. b"),
	ROW(SCAN_PASS, "a\r\n.\r\r\n.\r\nb", SCAN_DONE, 10, "a\r\n.\r\r\n.\r\n"),
	ROW(SCAN_PASS, "a\n.\r\nb", SCAN_MORE, 6, "a\n.\r\nb"),
#undef ROW
};

Test(scan, examples)
{
	static struct ref_outcome o;
	struct scan s;

	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		struct span in = span_of(examples[i].in, examples[i].n);

		ref_run_cut(&scan_impls[0], examples[i].mode, in, in.n, in.n, &s, &o);
		cr_expect(o.end == examples[i].end && o.used == examples[i].used &&
				  span_eq(span_of(o.out, o.n), span_str(examples[i].out)),
			"row %zu: end %d, used %zu, out %zu", i, o.end, o.used, o.n);
	}
}
