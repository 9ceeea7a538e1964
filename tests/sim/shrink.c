/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Shrinking a recording: cut pieces out of it, and set pieces to 0, from large to small, as long as
 * what is left fails the same way. A recording reads 0 behind its end, so cutting the tail is the
 * first and best thing to try.
 */
#include "tests/sim/runner.h"

struct shrinking {
	struct octets *tape; /* the shortest that fails */
	struct octets trial;
	const struct failure *was;
	unsigned left; /* worlds that may still be run */
};

static bool same(const struct failure *a, const struct failure *b)
{
	return a->crashed == b->crashed && a->verdict.broken == b->verdict.broken;
}

/* Takes the trial over when it fails like the original. */
static bool try(struct shrinking *s)
{
	struct failure f;

	if (s->left == 0)
		return false;
	s->left--;
	run_tape_apart(&s->trial, &f);
	if (!same(&f, s->was))
		return false;
	s->tape->n = 0;
	octets_add(s->tape, s->trial.p, s->trial.n);
	return true;
}

static void copy(struct shrinking *s)
{
	s->trial.n = 0;
	octets_add(&s->trial, s->tape->p, s->tape->n);
}

static bool try_cut(struct shrinking *s, size_t at, size_t n)
{
	copy(s);
	memmove(s->trial.p + at, s->trial.p + at + n, s->trial.n - at - n);
	s->trial.n -= n;
	return try(s);
}

static bool try_zero(struct shrinking *s, size_t at, size_t n)
{
	bool zero = true;

	for (size_t i = at; i < at + n; i++)
		zero &= s->tape->p[i] == 0;
	if (zero)
		return false;
	copy(s);
	memset(s->trial.p + at, 0, n);
	return try(s);
}

static void cut_tail(struct shrinking *s)
{
	for (size_t n = s->tape->n / 2; n > 0 && s->left > 0; n /= 2)
		while (s->tape->n > n && try_cut(s, s->tape->n - n, n))
			;
}

static bool pass(struct shrinking *s, size_t piece)
{
	bool better = false;

	for (size_t at = s->tape->n; at > 0 && s->left > 0;) {
		size_t n = MIN_OF(piece, at);

		at -= n;
		if (at + n > s->tape->n)
			continue;
		better |= try_cut(s, at, n) || try_zero(s, at, n);
	}
	return better;
}

void shrink(struct octets *tape, const struct failure *was, unsigned tries, FILE *progress)
{
	struct shrinking s = {.tape = tape, .was = was, .left = tries};

	cut_tail(&s);
	for (size_t piece = MAX_OF((size_t)1, tape->n / 4); s.left > 0;) {
		bool better = pass(&s, piece);

		if (progress)
			fprintf(progress, "# shrinking: %zu octets, pieces of %zu, %u tries left\n",
				tape->n, piece, s.left);
		if (piece == 1 && !better)
			break;
		piece = MAX_OF((size_t)1, piece / 2);
	}
	octets_free(&s.trial);
}
