/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See sizes.h.
 */
#include "bench/lib/sizes.h"

#include "bench/lib/opts.h"

#define LINE_BYTES 128
#define WEIGHT_MAX 1000000000u

static void add(struct sizes *s, uint64_t weight, uint64_t bytes)
{
	ASSERT(s->count < SIZES_MAX && weight > 0);
	s->row[s->count++] = (struct size_row){weight, bytes};
	s->weight += weight;
}

void sizes_single(struct sizes *s, uint64_t bytes)
{
	memset(s, 0, sizeof(*s));
	add(s, 1, bytes);
}

/* Per ten thousand. Ascending, so that the table reads as a distribution. */
static const struct size_row real_rows[] = {
	{150, 2 << 10},
	{350, 3 << 10},
	{600, 5 << 10},
	{800, 8 << 10},
	{1000, 12 << 10},
	{1100, 18 << 10},
	{1100, 25 << 10},
	{1200, 35 << 10},
	{1100, 50 << 10},
	{900, 75 << 10},
	{650, 110 << 10},
	{400, 160 << 10},
	{240, 250 << 10},
	{150, 500 << 10},
	{110, 1 << 20},
	{80, 2 << 20},
	{40, 4 << 20},
	{20, 8 << 20},
	{8, 12 << 20},
	{2, 20 << 20},
};

void sizes_real(struct sizes *s)
{
	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i < ARRAY_LEN(real_rows); i++)
		add(s, real_rows[i].weight, real_rows[i].bytes);
}

/* Splits a line into its two words. */
static bool two_words(char *line, char **first, char **second)
{
	static const char blank[] = " \t\r\n";
	char *rest;

	*first = strtok_r(line, blank, &rest);
	*second = strtok_r(NULL, blank, &rest);
	return *second && !strtok_r(NULL, blank, &rest);
}

static const char *read_row(struct sizes *s, char *line)
{
	char *weight_text, *bytes_text;
	uint64_t weight, bytes;

	if (!two_words(line, &weight_text, &bytes_text))
		return "not \"WEIGHT SIZE\"";
	if (!opt_count(weight_text, &weight) || weight == 0 || weight > WEIGHT_MAX)
		return "a weight is a whole number from 1 to 1000000000";
	if (!opt_size(bytes_text, &bytes) || bytes > SIZES_BYTES_MAX)
		return "a size is a number of octets up to 1g";
	if (s->count == SIZES_MAX)
		return "more than 64 sizes";
	add(s, weight, bytes);
	return NULL;
}

const char *sizes_read(struct sizes *s, FILE *f, unsigned *line)
{
	char text[LINE_BYTES];

	memset(s, 0, sizeof(*s));
	for (*line = 1; fgets(text, sizeof(text), f); (*line)++) {
		const char *why;

		if (strlen(text) == sizeof(text) - 1)
			return "too long a line";
		if (text[strspn(text, " \t\r\n")] == '\0' || *text == '#')
			continue;
		why = read_row(s, text);
		if (why)
			return why;
	}
	if (ferror(f))
		return "cannot be read";
	return s->count ? NULL : "no sizes";
}

/* Mixes all bits of a number into all bits (the finalizer of SplitMix64). */
static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

unsigned sizes_pick(const struct sizes *s, uint64_t seed, uint64_t number)
{
	unsigned i = 0;

	if (s->count == 1)
		return 0;
	/* The weights are far below 2^64: the remainder's unevenness does not show. */
	uint64_t at = mix(mix(seed) ^ number) % s->weight;
	while (at >= s->row[i].weight)
		at -= s->row[i++].weight;
	return i;
}

double sizes_mean(const struct sizes *s)
{
	double sum = 0;

	for (unsigned i = 0; i < s->count; i++)
		sum += (double)s->row[i].weight * (double)s->row[i].bytes;
	return sum / (double)s->weight;
}

static int by_bytes(const void *a, const void *b)
{
	const struct size_row *x = a, *y = b;

	return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

uint64_t sizes_median(const struct sizes *s)
{
	struct size_row row[SIZES_MAX];
	uint64_t seen = 0;
	unsigned i = 0;

	memcpy(row, s->row, s->count * sizeof(*row));
	qsort(row, s->count, sizeof(*row), by_bytes);
	while (seen += row[i].weight, seen * 2 < s->weight)
		i++;
	return row[i].bytes;
}
