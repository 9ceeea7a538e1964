/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/stash.h against a plain array: contents, growth, bounds, give-back, wiping.
 */
#include "ring/stash.h"

#include <criterion/criterion.h>

static struct stash_pools pools;

static void open_pools(uint32_t small, uint32_t large)
{
	cr_assert(stash_pools_init(&pools, small, large));
}

static struct span bytes(uint8_t first, size_t n)
{
	static uint8_t b[STASH_LARGE_BYTES + 1];

	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)(first + i);
	return span_of(b, n);
}

Test(stash, empty_holds_nothing)
{
	struct stash s = {0};

	open_pools(2, 2);
	cr_assert_eq(stash_span(&s).n, 0);
	cr_assert(stash_add(&s, &pools, SPAN_NONE));
	cr_assert_null(s.cell);
	cr_assert(stash_add(&s, &pools, SPAN_LIT("MAIL")));
	cr_assert_eq(pools.small.used, 1);
	stash_drop(&s, &pools, 4);
	cr_assert_null(s.cell);
	cr_assert_eq(pools.small.used, 0);
	stash_clear(&s, &pools);
	stash_wipe(&s, &pools);
	stash_pools_fini(&pools);
}

Test(stash, grows_once_and_keeps_order)
{
	struct stash s = {0};

	open_pools(2, 2);
	cr_assert(stash_add(&s, &pools, bytes(0, STASH_SMALL_BYTES)));
	cr_assert_eq(s.cap, STASH_SMALL_BYTES);
	stash_drop(&s, &pools, 100);
	/* Fits after closing the gap: no larger cell. */
	cr_assert(stash_add(&s, &pools, bytes(0, 100)));
	cr_assert_eq(s.cap, STASH_SMALL_BYTES);
	cr_assert(stash_add(&s, &pools, bytes(100, 1)));
	cr_assert_eq(s.cap, STASH_LARGE_BYTES);
	cr_assert_eq(pools.small.used, 0);
	cr_assert_eq(s.len, STASH_SMALL_BYTES + 1);
	for (size_t i = 0; i < s.len; i++)
		cr_assert_eq(stash_span(&s).p[i],
			(uint8_t)(i < STASH_SMALL_BYTES - 100 ? i + 100
							      : i - (STASH_SMALL_BYTES - 100)));
	stash_clear(&s, &pools);
	stash_pools_fini(&pools);
}

Test(stash, a_refusal_changes_nothing)
{
	struct stash s = {0}, t = {0};

	open_pools(1, 1);
	cr_assert(stash_add(&s, &pools, bytes(7, STASH_LARGE_BYTES)));
	cr_assert_not(stash_add(&s, &pools, bytes(0, 1)));
	cr_assert_not(stash_add(&s, &pools, bytes(0, STASH_LARGE_BYTES + 1)));
	cr_assert_eq(s.len, STASH_LARGE_BYTES);
	cr_assert_eq(stash_span(&s).p[0], 7);
	cr_assert(stash_add(&t, &pools, bytes(1, 10)));
	cr_assert_not(stash_add(&t, &pools, bytes(0, STASH_SMALL_BYTES))); /* no large one left */
	cr_assert_eq(t.len, 10);
	cr_assert_eq(stash_span(&t).p[9], 10);
	stash_clear(&s, &pools);
	stash_clear(&t, &pools);
	stash_pools_fini(&pools);
}

Test(stash, a_large_cell_serves_when_no_small_one_is_left)
{
	struct stash s = {0}, t = {0};

	open_pools(1, 1);
	cr_assert(stash_add(&s, &pools, bytes(0, 1)));
	cr_assert(stash_add(&t, &pools, bytes(0, 1)));
	cr_assert_eq(t.cap, STASH_LARGE_BYTES);
	stash_clear(&s, &pools);
	stash_clear(&t, &pools);
	cr_assert_eq(pools.large.used, 0);
	stash_pools_fini(&pools);
}

/* Without a sanitizer the cell can be looked at after it went back: only the link word may be set.
 */
#ifndef __SANITIZE_ADDRESS__
static void assert_clean(const uint8_t *cell, size_t n)
{
	for (size_t i = sizeof(void *); i < n; i++)
		cr_assert_eq(cell[i], 0, "octet %zu of a secret is left", i);
}

Test(stash, wiping_leaves_no_secret)
{
	struct stash s = {0};

	open_pools(1, 1);
	cr_assert(stash_add(&s, &pools, bytes(1, 200)));
	const uint8_t *small = s.cell;
	stash_drop(&s, &pools, 150);
	cr_assert(stash_add(&s, &pools, bytes(1, 1000)));
	assert_clean(small, STASH_SMALL_BYTES); /* growing wipes what it leaves */
	const uint8_t *large = s.cell;
	stash_drop(&s, &pools, 1000);
	stash_wipe(&s, &pools);
	assert_clean(large, STASH_LARGE_BYTES);
	stash_pools_fini(&pools);
}
#endif

Test(stash, agrees_with_a_plain_array)
{
	static uint8_t model[STASH_LARGE_BYTES];
	size_t len = 0;
	struct stash s = {0};
	uint32_t x = 12345;

	open_pools(1, 1);
	for (unsigned step = 0; step < 20000; step++) {
		x = x * 1664525u + 1013904223u;
		size_t n = (x >> 8) % 700;

		if (x >> 31) {
			struct span d = bytes((uint8_t)x, n);
			bool fits = len + n <= STASH_LARGE_BYTES;

			cr_assert_eq(stash_add(&s, &pools, d), fits);
			if (fits) {
				memcpy(model + len, d.p, n);
				len += n;
			}
		} else {
			n = MIN_OF(n, len);
			stash_drop(&s, &pools, n);
			memmove(model, model + n, len - n);
			len -= n;
		}
		cr_assert(span_eq(stash_span(&s), span_of(model, len)));
		cr_assert_eq(pools.small.used + pools.large.used, len > 0);
	}
	stash_clear(&s, &pools);
	stash_pools_fini(&pools);
}
