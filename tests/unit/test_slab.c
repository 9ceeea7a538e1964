/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/slab.h: order of reuse, the counted refusal, disjoint objects, addresses that are not its
 * own.
 */
#include "ring/slab.h"

#include <criterion/criterion.h>
#include <signal.h>

Test(slab, hands_out_the_last_one_given_back)
{
	struct slab s;

	cr_assert(slab_init(&s, "t", 100, 16));
	cr_assert_eq(s.item_bytes, 128);
	void *a = slab_get(&s), *b = slab_get(&s), *c = slab_get(&s);
	slab_put(&s, a);
	slab_put(&s, b);
	cr_assert_eq(slab_get(&s), b);
	cr_assert_eq(slab_get(&s), a);
	cr_assert_eq(s.used, 3);
	cr_assert_eq(s.high, 3);
	slab_put(&s, a);
	slab_put(&s, b);
	slab_put(&s, c);
	slab_fini(&s);
}

Test(slab, full_is_a_counted_refusal)
{
	enum { N = 1000 };
	static uint8_t *item[N];
	struct slab s;

	cr_assert(slab_init(&s, "t", 24, N));
	for (unsigned i = 0; i < N; i++) {
		item[i] = slab_get(&s);
		cr_assert(item[i] != NULL);
		memset(item[i], (int)i, s.item_bytes);
	}
	cr_assert_null(slab_get(&s));
	cr_assert_null(slab_get(&s));
	cr_assert_eq(s.refused, 2);
	for (unsigned i = 0; i < N; i++)
		for (size_t k = 0; k < s.item_bytes; k++)
			cr_assert_eq(item[i][k], (uint8_t)i);
	for (unsigned i = 0; i < N; i++)
		slab_put(&s, item[i]);
	cr_assert_eq(s.used, 0);
	cr_assert_eq(s.high, N);
	for (unsigned i = N; i-- > 0;)
		cr_assert_eq(slab_get(&s), item[i]);
	for (unsigned i = 0; i < N; i++)
		slab_put(&s, item[i]);
	slab_fini(&s);
}

Test(slab, knows_its_own)
{
	struct slab s;
	int other;

	cr_assert(slab_init(&s, "t", 64, 4));
	uint8_t *a = slab_get(&s);
	cr_assert(slab_owns(&s, a));
	cr_assert_not(slab_owns(&s, a + 1));
	cr_assert_not(slab_owns(&s, a + 64)); /* never handed out */
	cr_assert_not(slab_owns(&s, &other));
	cr_assert_not(slab_owns(&s, NULL));
	slab_put(&s, a);
	slab_fini(&s);
}

Test(slab, a_reservation_costs_no_memory)
{
	struct slab s;

	/* 64 GiB of address space: only possible because nothing is touched. */
	cr_assert(slab_init(&s, "t", 1u << 16, 1u << 20));
	void *a = slab_get(&s);
	memset(a, 1, 1u << 16);
	slab_put(&s, a);
	slab_fini(&s);
}

Test(slab, an_impossible_size_is_refused)
{
	struct slab s;

	cr_assert_not(slab_init(&s, "t", SIZE_MAX / 4, UINT32_MAX));
	cr_assert_not(slab_init(&s, "t", SIZE_MAX - 8, 2));
}

Test(slab, fini_asserts_that_everything_came_back, .signal = SIGABRT)
{
	struct slab s;

	cr_assert(slab_init(&s, "t", 64, 4));
	cr_assert(slab_get(&s) != NULL);
	slab_fini(&s);
}

Test(slab, a_foreign_object_is_a_programming_error, .signal = SIGABRT)
{
	static uint8_t foreign[64];
	struct slab s;

	cr_assert(slab_init(&s, "t", 64, 4));
	slab_put(&s, foreign);
}
