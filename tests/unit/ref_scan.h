/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The reference of the end-of-data scanner (engine/smtp/scan.h): a naive reading that sees the
 * whole string at once and looks both ways, and a runner that feeds an implementation in pieces.
 * Both end in a struct ref_outcome, everything there is to see from outside; equal or not is the
 * test. Used by tests/unit/test_scan.c and tests/fuzz/fuzz_data.c.
 */
#ifndef TESTS_UNIT_REF_SCAN_H
#define TESTS_UNIT_REF_SCAN_H

#include "engine/smtp/scan.h"

#define REF_ROOM 2048 /* of an outcome: two octets for each octet of the longest string */
#define REF_MODES 4
#define REF_SANE_STEPS 4 /* steps an octet may take, and some */

static const char *const ref_mode_names[REF_MODES] = {"guard", "reject", "normalize", "pass"};

/* Everything there is to see from outside. */
struct ref_outcome {
	enum scan_end end;
	bool held_cr;
	size_t used, n;
	uint64_t bare_lf, bare_cr, nul;
	uint8_t out[REF_ROOM];
};

/* ---- the naive reading: whole string, positions, looking both ways ---- */

static inline bool ref_eol(uint8_t c)
{
	return c == '\r' || c == '\n';
}

/* Is w[e] the last octet of the true end? */
static inline bool ref_true_end(const uint8_t *w, size_t e)
{
	if (w[e] != '\n')
		return false;
	return (e == 2 && memcmp(w, ".\r", 2) == 0) ||
	       (e >= 4 && memcmp(w + e - 4, "\r\n.\r", 4) == 0);
}

/* Would w[e] = CR be the last but one octet of the true end, if an LF came? */
static inline bool ref_maybe_end(const uint8_t *w, size_t e)
{
	if (w[e] != '\r')
		return false;
	return (e == 1 && w[0] == '.') || (e >= 3 && memcmp(w + e - 3, "\r\n.", 3) == 0);
}

struct ref_look {
	size_t dot, line; /* the dot; the first octet behind the line end before it */
	size_t nuls_before, nuls_behind; /* around the dot */
};

/* Does w[e] complete: line end or start, NULs, dot, NULs, line end? */
static inline bool ref_lookalike(const uint8_t *w, size_t e, struct ref_look *l)
{
	size_t i = e;

	if (!ref_eol(w[e]))
		return false;
	while (i > 0 && w[i - 1] == 0)
		i--;
	if (i == 0 || w[i - 1] != '.')
		return false;
	l->dot = i - 1;
	l->nuls_behind = e - i;
	for (i = l->dot; i > 0 && w[i - 1] == 0; i--)
		;
	l->line = i;
	l->nuls_before = l->dot - i;
	return i == 0 || ref_eol(w[i - 1]);
}

static inline bool ref_bare_lf_at(const uint8_t *w, size_t i)
{
	return w[i] == '\n' && (i == 0 || w[i - 1] != '\r');
}

static inline void ref_count_used(const uint8_t *w, struct ref_outcome *o)
{
	o->bare_lf = o->bare_cr = o->nul = 0;
	for (size_t i = 0; i < o->used; i++) {
		o->bare_lf += ref_bare_lf_at(w, i);
		o->bare_cr += i > 0 && w[i - 1] == '\r' && w[i] != '\n';
		o->nul += w[i] == 0;
	}
}

/* Sets where it ends: `used` octets were taken, the first `n` of them go out as they are. */
static inline void ref_ends(struct ref_outcome *o, enum scan_end end, size_t used, size_t n)
{
	o->end = end;
	o->used = used;
	o->n = n;
	o->held_cr = n < used;
}

static inline void ref_expect_untouched(
	const uint8_t *w, size_t n, enum scan_mode mode, struct ref_outcome *o)
{
	struct ref_look l;
	bool strict = mode == SCAN_REJECT;

	ref_ends(o, SCAN_MORE, n, n);
	for (size_t e = 0; e < n && o->end == SCAN_MORE && !o->held_cr; e++) {
		bool wait = ref_maybe_end(w, e) || (strict && w[e] == '\r');

		if (ref_true_end(w, e))
			ref_ends(o, SCAN_DONE, e + 1, e + 1);
		else if (mode == SCAN_PASS)
			continue;
		else if (!ref_maybe_end(w, e) && ref_lookalike(w, e, &l))
			ref_ends(o, SCAN_STOPPED, e, e);
		else if (wait && e + 1 == n)
			ref_ends(o, SCAN_MORE, n, e);
		else if (wait && w[e + 1] != '\n')
			ref_ends(o, SCAN_STOPPED, e + 1, e);
		else if (strict && ref_bare_lf_at(w, e))
			ref_ends(o, SCAN_STOPPED, e, e);
	}
	memcpy(o->out, w, o->n);
}

static inline bool ref_line_start(const uint8_t *w, size_t i)
{
	return i == 0 || (i >= 2 && w[i - 2] == '\r' && w[i - 1] == '\n');
}

/* What octet i of w[0..n) is rewritten to. */
static const char *ref_rewritten(const uint8_t *w, size_t n, size_t i, struct ref_outcome *o)
{
	bool last = i + 1 == n;

	if (w[i] == '\r' && last) {
		o->held_cr = true;
		return "";
	}
	if (w[i] == '\r')
		return w[i + 1] == '\n' ? "\r" : " ";
	if (w[i] == '\n')
		return ref_bare_lf_at(w, i) ? "\r\n" : "\n";
	if (ref_line_start(w, i)) /* a dot */
		return last || w[i + 1] == '\n' || (w[i + 1] == '\r' && i + 2 == n) ? "" : ".";
	return ref_bare_lf_at(w, i - 1) ? ".." : ".";
}

/* A lookalike that normalizing leaves: no bare CR before it (that is a space now), NULs in it, and
 * the dot not doubled because it directly follows a bare LF. */
static inline bool ref_nul_lookalike(const uint8_t *w, size_t e)
{
	struct ref_look l;

	if (!ref_lookalike(w, e, &l) || l.nuls_before + l.nuls_behind == 0)
		return false;
	if (l.line == 0)
		return true;
	return w[l.line - 1] == '\n' && (l.nuls_before > 0 || !ref_bare_lf_at(w, l.line - 1));
}

static inline void ref_expect_normalized(const uint8_t *w, size_t n, struct ref_outcome *o)
{
	ref_ends(o, SCAN_MORE, n, n);
	for (size_t e = 0; e < n && o->end == SCAN_MORE; e++) {
		if (ref_true_end(w, e))
			ref_ends(o, SCAN_DONE, e + 1, e + 1);
		else if (ref_nul_lookalike(w, e))
			ref_ends(o, SCAN_STOPPED, e, e);
	}
	o->n = 0;
	for (size_t i = 0; i < o->used; i++) {
		if (ref_eol(w[i]) || w[i] == '.')
			for (const char *s = ref_rewritten(w, n, i, o); *s; s++)
				o->out[o->n++] = (uint8_t)*s;
		else
			o->out[o->n++] = w[i];
	}
}

static inline void ref_expect(
	const uint8_t *w, size_t n, enum scan_mode mode, struct ref_outcome *o)
{
	if (mode == SCAN_NORMALIZE)
		ref_expect_normalized(w, n, o);
	else
		ref_expect_untouched(w, n, mode, o);
	ref_count_used(w, o);
}

/* ---- running the scanner ---- */

static inline void ref_append(struct ref_outcome *o, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		o->out[o->n + i] = p[i];
	o->n += n;
}

static inline void ref_feed(
	const struct scan_impl *impl, struct scan *s, struct span in, struct ref_outcome *o)
{
	struct scan_step step;
	size_t at = 0, steps = 0;

	do {
		impl->feed(s, span_drop(in, at), &step);
		if (step.used > in.n - at || step.pass.n > step.used || step.pass.p != in.p + at ||
			++steps > REF_SANE_STEPS * (in.n + 1)) {
			o->end = (enum scan_end)99; /* equals no expectation */
			return;
		}
		if (step.lead_cr)
			ref_append(o, (const uint8_t *)"\r", 1);
		ref_append(o, step.pass.p, step.pass.n);
		ref_append(o, step.tail.p, step.tail.n);
		at += step.used;
	} while (step.end == SCAN_MORE && at < in.n);
	o->used += at;
	o->end = step.end;
}

/* Feeds w[0..cut), w[cut..cut2), w[cut2..n). */
static inline void ref_run_cut(const struct scan_impl *impl, enum scan_mode mode, struct span w,
	size_t cut, size_t cut2, struct scan *s, struct ref_outcome *o)
{
	const size_t at[] = {0, cut, cut2, w.n};

	o->end = SCAN_MORE;
	o->used = o->n = 0;
	scan_init(s, mode);
	for (int k = 0; k < 3 && o->end == SCAN_MORE; k++)
		ref_feed(impl, s, span_of(w.p + at[k], at[k + 1] - at[k]), o);
	o->held_cr = s->held_cr;
	o->bare_lf = s->bare_lf;
	o->bare_cr = s->bare_cr;
	o->nul = s->nul;
}

static inline bool ref_same(const struct ref_outcome *a, const struct ref_outcome *b)
{
	return a->end == b->end && a->used == b->used && a->n == b->n && a->held_cr == b->held_cr &&
	       a->bare_lf == b->bare_lf && a->bare_cr == b->bare_cr && a->nul == b->nul &&
	       memcmp(a->out, b->out, a->n) == 0;
}

static inline void ref_show(const char *what, const uint8_t *p, size_t n)
{
	fprintf(stderr, "  %s ", what);
	for (size_t i = 0; i < n; i++)
		fprintf(stderr, p[i] > ' ' && p[i] < 127 ? "%c" : "<%02x>", p[i]);
	fputc('\n', stderr);
}

static inline void ref_show_outcome(const char *what, const struct ref_outcome *o)
{
	fprintf(stderr, "  %s end %d used %zu held %d bare lf %lu cr %lu nul %lu\n", what, o->end,
		o->used, o->held_cr, (unsigned long)o->bare_lf, (unsigned long)o->bare_cr,
		(unsigned long)o->nul);
	ref_show("out", o->out, o->n);
}

#endif
