/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bench's source addresses: lists, ranges, prefixes, and what is none.
 */
#include "bench/lib/sources.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct sources s;

static void add(const char *text, uint64_t count)
{
	memset(&s, 0, sizeof(s));
	cr_assert(sources_add(&s, text), "%s", text);
	cr_assert_eq(s.count, count, "%s: %lu addresses", text, s.count);
}

static void is(uint64_t i, const char *want)
{
	struct ring_addr a;
	char text[ADDR_TEXT_BYTES];

	sources_at(&s, i, &a);
	cr_assert_eq(addr_port(&a), 0);
	addr_text(&a, text);
	cr_assert_str_eq(text, want);
}

Test(sources, single_ones_in_turn)
{
	add("127.0.0.2,127.0.0.9", 2);
	is(0, "127.0.0.2:0");
	is(1, "127.0.0.9:0");
	is(2, "127.0.0.2:0");
	is(1000001, "127.0.0.9:0");
}

Test(sources, a_range_carries_over)
{
	add("127.0.0.250-127.0.2.3", 6 + 256 + 4);
	is(0, "127.0.0.250:0");
	is(5, "127.0.0.255:0");
	is(6, "127.0.1.0:0");
	is(265, "127.0.2.3:0");
	is(266, "127.0.0.250:0");
	add("127.0.0.7-127.0.0.7", 1);
}

Test(sources, a_prefix_without_network_and_broadcast)
{
	add("127.3.4.77/24", 254);
	is(0, "127.3.4.1:0");
	is(253, "127.3.4.254:0");
	add("127.0.0.0/8", (1u << 24) - 2);
	is((1u << 24) - 3, "127.255.255.254:0");
	add("10.0.0.6/31", 2);
	is(1, "10.0.0.7:0");
	add("10.0.0.6/32", 1);
	is(0, "10.0.0.6:0");
	add("10.0.0.6/29", 6);
	is(0, "10.0.0.1:0");
}

Test(sources, version_6)
{
	add("::1,fd00::ff-fd00::101,fd00:1::/120", 1 + 3 + 256);
	is(0, "[::1]:0");
	is(1, "[fd00::ff]:0");
	is(2, "[fd00::100]:0");
	is(3, "[fd00::101]:0");
	is(4, "[fd00:1::]:0");
	is(259, "[fd00:1::ff]:0");
	add("fd00::ffff:ffff-fd00::1:0:1", 3);
	is(2, "[fd00::1:0:1]:0");
}

Test(sources, several_options_add_up)
{
	add("127.0.0.2-127.0.0.3", 2);
	cr_assert(sources_add(&s, "127.0.9.9"));
	cr_assert_eq(s.count, 3);
	is(2, "127.0.9.9:0");
}

Test(sources, what_is_none)
{
	static const char *const bad[] = {"", ",", "127.0.0.1,,127.0.0.2", "x", "127.0.0.1:25",
		"/8", "-", "127.0.0.1/", "127.0.0.1/33", "127.0.0.1/7", "127.0.0.1/0",
		"127.0.0.1/-1", "127.0.0.1/8x", "127.0.0.1/0008", "127.0.0.9-127.0.0.8",
		"127.0.0.1-", "-127.0.0.1", "127.0.0.1-::1", "::1-127.0.0.1", "0.0.0.1-1.0.0.1",
		"::/103", "::1/129", "fd00::1-fd01::1", "fd00::1-fd00:0:0:1::1", "unix:/tmp/x",
		"127.0.0.1-127.0.0.2-127.0.0.3", "127.0.0.1/24-127.0.0.2"};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		memset(&s, 0, sizeof(s));
		cr_assert_not(sources_add(&s, bad[i]), "\"%s\" was taken", bad[i]);
	}
}

Test(sources, no_more_than_fit)
{
	memset(&s, 0, sizeof(s));
	for (unsigned i = 0; i < SOURCES_MAX; i++)
		cr_assert(sources_add(&s, "127.0.0.2"));
	cr_assert_not(sources_add(&s, "127.0.0.2"));
	cr_assert_eq(s.count, SOURCES_MAX);
}
