/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the fuzzers share. Each fuzz_<name>.c is one libFuzzer target: it reads its choices from
 * the first octets of the input, does its work on the rest, and states its claims with ASSERT().
 * The same files are built without clang for `make test`, which replays corpora and old crashers
 * (replay.c).
 *
 * A claim that fails, or a sanitizer's finding, ends the process. Nothing here depends on the clock
 * or on addresses: the same input does the same again.
 */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include "ring/base.h"

#include <regex.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

/* ---- choices ---- */

/* The next octet of the input; 0 behind its end. */
static inline uint8_t take_octet(struct span *in)
{
	uint8_t c = 0;

	if (in->n > 0) {
		c = in->p[0];
		*in = span_drop(*in, 1);
	}
	return c;
}

/* ---- memory ---- */

/* A copy in a block of exactly its size: a read behind its end is seen. The caller frees p. */
static inline struct span exact_copy(struct span s)
{
	uint8_t *p = malloc(s.n > 0 ? s.n : 1);

	ASSERT(p);
	if (s.n > 0)
		memcpy(p, s.p, s.n);
	return span_of(p, s.n);
}

static inline void exact_free(struct span s)
{
	free((void *)(uintptr_t)s.p);
}

/* Empty spans may point anywhere; others must lie in `whole`. */
static inline bool lies_in(struct span part, struct span whole)
{
	return part.n == 0 ||
	       (part.p >= whole.p && part.n <= whole.n && part.p + part.n <= whole.p + whole.n);
}

/* ---- grammars ----
 * The reference of most parsers is a regular expression: slow, short, and written by somebody who
 * did not look at the parser. libc's, in the C locale: octets, not characters. */

struct grammar {
	const char *text; /* POSIX extended */
	bool any_case;
	bool ready;
	regex_t re;
};

#define GRAMMAR(t)          \
	{                   \
		.text = (t) \
	}
#define GRAMMAR_ANY_CASE(t)                   \
	{                                     \
		.text = (t), .any_case = true \
	}

#define GRAMMAR_BYTES_MAX 65536

/* Of a copy that ends in a NUL: sanitizers read up to one, whatever REG_STARTEND says. */
static inline bool grammar_has(struct grammar *g, struct span s)
{
	static char text[GRAMMAR_BYTES_MAX];
	regmatch_t all = {.rm_so = 0, .rm_eo = (regoff_t)s.n};

	ASSERT(s.n < sizeof(text));
	if (s.n > 0)
		memcpy(text, s.p, s.n);
	text[s.n] = 0;
	if (!g->ready) {
		int flags = REG_EXTENDED | REG_NOSUB | (g->any_case ? REG_ICASE : 0);

		ASSERT(regcomp(&g->re, g->text, flags) == 0);
		g->ready = true;
	}
	return regexec(&g->re, text, 1, &all, REG_STARTEND) == 0;
}

#endif
