/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bench's message sizes: tables read and refused, shares as weighted, the same for the same
 * seed.
 */
#include "bench/lib/sizes.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct sizes s;

/* NULL, or the complaint; *line where. */
static const char *read_text(const char *text, unsigned *line)
{
	FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");

	cr_assert_not_null(f);
	const char *why = sizes_read(&s, f, line);
	fclose(f);
	return why;
}

Test(sizes, a_file)
{
	unsigned line;

	cr_assert_null(read_text("# weight size\n\n 3 4096\n1\t75k\r\n  \n1000000000 10m", &line));
	cr_assert_eq(s.count, 3);
	cr_assert_eq(s.weight, 1000000004);
	cr_assert_eq(s.row[0].bytes, 4096);
	cr_assert_eq(s.row[1].bytes, 75u << 10);
	cr_assert_eq(s.row[2].bytes, 10u << 20);
	cr_assert_eq(s.row[2].weight, 1000000000);
}

Test(sizes, what_is_wrong_and_where)
{
	static const struct {
		const char *text;
		unsigned line;
	} bad[] = {{"#\n", 2}, {"1 1k\n2\n", 2}, {"1 1k 3\n", 1}, {"0 1k\n", 1}, {"-1 1k\n", 1},
		{"1.5 1k\n", 1}, {"1000000001 1k\n", 1}, {"1 x\n", 1}, {"1 2g\n", 1},
		{"1 1k\n\n1k 1\n", 3}};
	unsigned line;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		cr_assert_not_null(read_text(bad[i].text, &line), "%s", bad[i].text);
		cr_assert_eq(line, bad[i].line, "%s: line %u", bad[i].text, line);
	}
}

Test(sizes, sixty_four_rows_and_no_more)
{
	char text[65 * 4 + 1] = "";
	unsigned line;

	for (unsigned i = 0; i < 64; i++)
		strcat(text, "1 1\n");
	cr_assert_null(read_text(text, &line));
	cr_assert_eq(s.count, 64);
	strcat(text, "1 1\n");
	cr_assert_not_null(read_text(text, &line));
	cr_assert_eq(line, 65);
}

Test(sizes, too_long_a_line)
{
	char text[300];
	unsigned line;

	memset(text, ' ', sizeof(text));
	strcpy(text + 290, "1 1\n");
	cr_assert_not_null(read_text(text, &line));
}

Test(sizes, shares_are_the_weights)
{
	enum { MESSAGES = 1000000 };
	uint64_t seen[SIZES_MAX] = {0};
	unsigned line;

	cr_assert_null(read_text("1 1\n9 2\n90 3\n", &line));
	for (uint64_t i = 0; i < MESSAGES; i++)
		seen[sizes_pick(&s, 42, i)]++;
	/* More than ten standard deviations wide; nothing here is random. */
	cr_assert_lt(llabs((long long)seen[0] - 10000), 1000);
	cr_assert_lt(llabs((long long)seen[1] - 90000), 3000);
	cr_assert_eq(seen[0] + seen[1] + seen[2], MESSAGES);
}

Test(sizes, seeds_decide)
{
	unsigned same = 0;

	sizes_real(&s);
	for (uint64_t i = 0; i < 1000; i++) {
		cr_assert_eq(sizes_pick(&s, 1, i), sizes_pick(&s, 1, i));
		same += sizes_pick(&s, 1, i) == sizes_pick(&s, 2, i);
	}
	cr_assert_lt(same, 300, "two seeds have the same sizes: %u of 1000", same);
	cr_assert_eq(sizes_pick(&s, 0, 0), sizes_pick(&s, 0, 0));
}

Test(sizes, single)
{
	sizes_single(&s, 4096);
	cr_assert_eq(sizes_pick(&s, 7, 1234), 0);
	cr_assert_float_eq(sizes_mean(&s), 4096, 1e-9);
	cr_assert_eq(sizes_median(&s), 4096);
}

/* What README.md says of it. */
Test(sizes, real)
{
	uint64_t large = 0;

	sizes_real(&s);
	cr_assert_eq(s.weight, 10000);
	cr_assert_eq(sizes_median(&s), 25u << 10);
	cr_assert_float_eq(sizes_mean(&s), 127844, 1);
	for (unsigned i = 0; i < s.count; i++) {
		cr_assert(i == 0 || s.row[i].bytes > s.row[i - 1].bytes, "row %u", i);
		if (s.row[i].bytes >= 10u << 20)
			large += s.row[i].weight;
	}
	cr_assert_eq(large, 10, "one in a thousand is above 10 MB");
}
