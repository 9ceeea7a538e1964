/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The end-of-data scanner: one table over octet classes decides everything; the implementations
 * only differ in how they skip what the table would not react to (scan_priv.h).
 *
 * Only CRLF.CRLF ends a message (RFC 5321 4.1.1.4). The modes differ in which flags of a
 * transition interrupt the run, and in which octets wait at the end of a piece for the next one.
 * Cannot fail; a stop is a result. tests/unit/test_scan.c proves it against a naive reading.
 */
#include "engine/smtp/scan_priv.h"

enum octet_class { K_OTHER, K_DOT, K_CR, K_LF, K_NUL, K_COUNT };

static const uint8_t class_of[256] = {['.'] = K_DOT, ['\r'] = K_CR, ['\n'] = K_LF, ['\0'] = K_NUL};

enum flag {
	F_BARE_LF = 1 << 4,  /* this octet is one */
	F_BARE_CR = 1 << 5,  /* the octet before was one */
	F_NUL = 1 << 6,	     /* this octet is one */
	F_LOOK = 1 << 7,     /* this octet completes a lookalike without NULs */
	F_LOOK_LAX = 1 << 8, /* this octet completes one behind SCAN_ST_LAX */
	F_LOOK_CR = 1 << 9,  /* the CR before completed one */
	F_NEW_DOT = 1 << 10, /* a dot right after a bare LF */
	F_END = 1 << 11,     /* the true end */
	F_COUNTED = F_BARE_LF | F_BARE_CR | F_NUL,
};
#define NEXT_STATE(e) ((e)&15)

#define LINE SCAN_ST_LINE
#define TEXT SCAN_ST_TEXT
#define CR SCAN_ST_CR
#define LF (SCAN_ST_LF | F_BARE_LF)
#define NULS (SCAN_ST_NULS | F_NUL)
#define LAX SCAN_ST_LAX

/* [state][class]: the next state and flags. It follows the octets alone, whatever the mode, so that
 * the true end is found after any number of lookalikes. */
static const uint16_t table[SCAN_ST_COUNT][K_COUNT] = {
	/* clang-format off */
	/*                 other  dot              CR            LF               NUL */
	[SCAN_ST_LINE] = { TEXT,  SCAN_ST_DOT,     CR,           LF,              NULS },
	[SCAN_ST_TEXT] = { TEXT,  TEXT,            CR,           LF,              TEXT | F_NUL },
	[SCAN_ST_CR]   = { TEXT | F_BARE_CR, LAX | F_BARE_CR, CR | F_BARE_CR, LINE, NULS | F_BARE_CR },
	[SCAN_ST_LF]   = { TEXT,  LAX | F_NEW_DOT, CR,           LF,              NULS },
	[SCAN_ST_NULS] = { TEXT,  LAX,             CR,           LF,              NULS },
	[SCAN_ST_DOT]  = { TEXT,  TEXT,            SCAN_ST_END,  LF | F_LOOK,     LAX | F_NUL },
	[SCAN_ST_LAX]  = { TEXT,  TEXT,            CR | F_LOOK_LAX, LF | F_LOOK_LAX, LAX | F_NUL },
	[SCAN_ST_END]  = { TEXT | F_BARE_CR | F_LOOK_CR, LAX | F_BARE_CR | F_LOOK_CR,
			   CR | F_BARE_CR | F_LOOK_CR, LINE | F_END, NULS | F_BARE_CR | F_LOOK_CR },
	/* clang-format on */
};

#undef LINE
#undef TEXT
#undef CR
#undef LF
#undef NULS
#undef LAX

/* What interrupts the run. Normalizing makes a dot after a bare LF and a bare CR plain text, so the
 * lax lookalikes that it still meets are those with NULs. */
static const uint16_t interrupts[] = {
	[SCAN_GUARD] = F_END | F_LOOK | F_LOOK_LAX | F_LOOK_CR,
	[SCAN_REJECT] = F_END | F_LOOK | F_LOOK_LAX | F_LOOK_CR | F_BARE_LF | F_BARE_CR,
	[SCAN_NORMALIZE] = F_END | F_LOOK_LAX | F_BARE_LF | F_BARE_CR | F_NEW_DOT,
	[SCAN_PASS] = F_END,
};

/* How many octets before the end of a piece wait for the next octet to tell what they are. Whoever
 * is in such a state when a call begins has them in hand: the state is the memory. */
static const uint8_t waiting[][SCAN_ST_COUNT] = {
	[SCAN_GUARD] = {[SCAN_ST_END] = 1},
	[SCAN_REJECT] = {[SCAN_ST_CR] = 1, [SCAN_ST_END] = 1},
	[SCAN_NORMALIZE] = {[SCAN_ST_CR] = 1, [SCAN_ST_DOT] = 1, [SCAN_ST_END] = 2},
	[SCAN_PASS] = {0},
};

void scan_init(struct scan *s, enum scan_mode mode)
{
	*s = (struct scan){.state = SCAN_ST_LINE, .mode = (uint8_t)mode};
}

static void count(struct scan *s, unsigned flags)
{
	s->bare_lf += (flags & F_BARE_LF) != 0;
	s->bare_cr += (flags & F_BARE_CR) != 0;
	s->nul += (flags & F_NUL) != 0;
}

/* Runs the table over p[*at..limit). Returns the interrupting transition, not taken, with *at on
 * its octet; 0 at the limit. */
static unsigned run_table(
	struct scan *s, unsigned interrupt, const uint8_t *p, size_t *at, size_t limit)
{
	unsigned state = s->state, e = 0;
	size_t i = *at;

	for (; i < limit; i++) {
		e = table[state][class_of[p[i]]];
		if (UNLIKELY(e & (interrupt | F_COUNTED))) {
			if (e & interrupt)
				break;
			count(s, e);
		}
		state = NEXT_STATE(e);
	}
	s->state = (uint8_t)state;
	*at = i;
	return i < limit ? e : 0;
}

static unsigned run(struct scan *s, enum scan_mode mode, scan_skip skip, struct span in, size_t *at)
{
	unsigned e = 0;

	while (e == 0 && *at < in.n) {
		*at = skip(s, mode, in.p, *at, in.n);
		e = run_table(s, interrupts[mode], in.p, at, MIN_OF(in.n, *at + SCAN_STRIDE));
	}
	return e;
}

static void set_step(struct scan_step *out, struct span in, size_t used, size_t pass)
{
	out->used = used;
	out->pass = span_of(in.p, pass);
}

/* SCAN_NORMALIZE, the state says that octets wait and in.p[0] tells what they are. True: *out is
 * this call's whole step. An octet that is not used comes again in the next call. */
static bool resume_normalize(struct scan *s, struct span in, struct scan_step *out)
{
	bool dot = s->state == SCAN_ST_DOT, end = s->state == SCAN_ST_END;
	uint8_t c = in.p[0];

	if (dot && c == '\r') {
		s->state = SCAN_ST_END;
		s->held_cr = true;
		out->used = 1;
	} else if (dot && c == '\n') { /* an empty line: its dot, stuffing, goes */
		s->state = SCAN_ST_LF;
		s->bare_lf++;
		out->used = 1;
		out->tail = SPAN_LIT("\r\n");
	} else if (dot) {
		s->state = SCAN_ST_LAX; /* no line end comes, and a NUL must be noticed */
		out->tail = SPAN_LIT(".");
	} else if (end && c == '\n') {
		s->held_cr = false;
		s->state = SCAN_ST_LINE;
		out->end = SCAN_DONE;
		out->used = 1;
		out->tail = SPAN_LIT(".\r\n");
	} else if (c != '\n') {
		s->held_cr = false;
		s->state = SCAN_ST_TEXT;
		s->bare_cr++;
		out->tail = end ? SPAN_LIT(". ") : SPAN_LIT(" ");
	} else {
		return false;
	}
	out->pass = span_of(in.p, 0);
	return true;
}

/* Octets wait from an earlier call. True: *out is this call's whole step. */
static bool resume(struct scan *s, struct span in, struct scan_step *out)
{
	if (s->mode == SCAN_NORMALIZE && resume_normalize(s, in, out))
		return true;
	if (in.p[0] != '\n') { /* the CR that waits is the octet that must not be passed on */
		out->end = SCAN_STOPPED;
		set_step(out, in, 0, 0);
		return true;
	}
	s->held_cr = false;
	out->lead_cr = true;
	return false;
}

/* SCAN_NORMALIZE came to transition `e` at in.p[i]. */
static void rewrite(struct scan *s, unsigned e, size_t i, struct span in, struct scan_step *out)
{
	if (e & F_BARE_CR) {
		set_step(out, in, i, i - 1);
		out->tail = SPAN_LIT(" ");
		s->bare_cr++;
		s->state = SCAN_ST_TEXT;
	} else if (e & F_LOOK_LAX) {
		out->end = SCAN_STOPPED;
		set_step(out, in, i, i);
	} else if (e &
		   F_BARE_LF) { /* behind a lone dot the line is empty: the dot, stuffing, goes */
		set_step(out, in, i + 1, i - (s->state == SCAN_ST_DOT));
		out->tail = SPAN_LIT("\r\n");
		s->bare_lf++;
		s->state = SCAN_ST_LF;
	} else {
		ASSERT(e & F_NEW_DOT);
		set_step(out, in, i + 1, i);
		out->tail = SPAN_LIT("..");
		s->state = SCAN_ST_TEXT;
	}
}

/* The run came to transition `e` at in.p[i], or to the end of the piece (e == 0). */
static void finish(struct scan *s, unsigned e, size_t i, struct span in, struct scan_step *out)
{
	if (e == 0) {
		s->held_cr = waiting[s->mode][s->state] != 0 && s->state != SCAN_ST_DOT;
		set_step(out, in, i, i - waiting[s->mode][s->state]);
	} else if (e & F_END) {
		out->end = SCAN_DONE;
		s->state = SCAN_ST_LINE;
		set_step(out, in, i + 1, i + 1);
	} else if (s->mode == SCAN_NORMALIZE) {
		rewrite(s, e, i, in, out);
	} else {
		s->held_cr = (e & F_BARE_CR) != 0;
		out->end = SCAN_STOPPED;
		set_step(out, in, i, i - s->held_cr);
	}
}

void scan_feed_with(struct scan *s, struct span in, struct scan_step *out, scan_skip skip)
{
	size_t i = 0;
	unsigned e;

	*out = (struct scan_step){.end = SCAN_MORE, .pass = span_of(in.p, 0)};
	if (in.n == 0 || (waiting[s->mode][s->state] != 0 && resume(s, in, out)))
		return;
	e = run(s, s->mode, skip, in, &i);
	finish(s, e, i, in, out);
}

/* ---- the portable implementation ---- */

#define EACH_OCTET(c) ((uint64_t)(c)*0x0101010101010101u)

/* In text nothing below 14 means nothing to see: eight octets at a time. */
static size_t skip_words(struct scan *s, enum scan_mode mode, const uint8_t *p, size_t i, size_t n)
{
	uint64_t w;

	(void)mode;
	if (s->state != SCAN_ST_TEXT)
		return i;
	for (; n - i >= sizeof(w); i += sizeof(w)) {
		memcpy(&w, p + i, sizeof(w));
		if ((w - EACH_OCTET(14)) & ~w & EACH_OCTET(0x80))
			break;
	}
	return i;
}

static void feed_words(struct scan *s, struct span in, struct scan_step *out)
{
	scan_feed_with(s, in, out, skip_words);
}

static bool always(void)
{
	return true;
}

/* ---- the choice ---- */

#if defined(__x86_64__)
static void feed_avx2(struct scan *s, struct span in, struct scan_step *out)
{
	scan_feed_with(s, in, out, scan_skip_avx2);
}

static void feed_sse2(struct scan *s, struct span in, struct scan_step *out)
{
	scan_feed_with(s, in, out, scan_skip_sse2);
}

/* __builtin_cpu_supports reads what libgcc found out at start: no state of ours. */
static scan_skip best(void)
{
	return scan_avx2_usable() ? scan_skip_avx2 : scan_skip_sse2;
}

const struct scan_impl scan_impls[] = {
	{"avx2", scan_avx2_usable, feed_avx2},
	{"sse2", always, feed_sse2},
	{"portable", always, feed_words},
};
#else
static scan_skip best(void)
{
	return skip_words;
}

const struct scan_impl scan_impls[] = {{"portable", always, feed_words}};
#endif
const size_t scan_impl_count = ARRAY_LEN(scan_impls);

void scan_feed(struct scan *s, struct span in, struct scan_step *out)
{
	scan_feed_with(s, in, out, best());
}

size_t scan_swallow(struct scan *s, struct span in, bool *done)
{
	size_t i = 0;

	s->held_cr = false;
	*done = run(s, SCAN_PASS, best(), in, &i) != 0;
	if (*done)
		s->state = SCAN_ST_LINE;
	return i + *done;
}
