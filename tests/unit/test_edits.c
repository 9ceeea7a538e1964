/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a hook wants changed (engine/hook/edits.h): what is taken and what is refused of each kind,
 * the bounds, joining, and what can be had where.
 */
#include <criterion/criterion.h>

#include "engine/hook/hook.h"

/* A string literal with its inner NULs, without its last one. */
#define OCTETS(s)                                      \
	{                                              \
		(const uint8_t *)("" s), sizeof(s) - 1 \
	}

static struct hook_edit edit(enum hook_edit_kind kind, const char *name, const char *value)
{
	return (struct hook_edit){
		.kind = kind, .index = 1, .name = span_str(name), .value = span_str(value)};
}

static bool add(
	struct hook_edits **list, enum hook_edit_kind kind, const char *name, const char *value)
{
	struct hook_edit e = edit(kind, name, value);

	return hook_edits_add(list, &e, false);
}

static unsigned count(const struct hook_edits *list)
{
	struct hook_edit e;
	unsigned n = 0;

	for (size_t at = 0; hook_edits_next(list, &at, &e);)
		n++;
	return n;
}

/* ---- what is taken ---- */

struct example {
	enum hook_edit_kind kind;
	bool for_rcpt;
	const char *name;
	struct span value;
	bool good;
	struct span kept; /* when not `value` */
};

#define SAME \
	{    \
	}

static const struct example examples[] = {
	{EDIT_ADDRESS, false, "", OCTETS("a@b"), true, SAME},
	{EDIT_ADDRESS, false, "", OCTETS(""), true, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("root"), true, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("\"a b\"@[127.0.0.1]"), true, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("J\303\274@b"), true, SAME},
	{EDIT_ADDRESS, true, "", OCTETS("a@b"), true, SAME},
	{EDIT_ADDRESS, true, "", OCTETS(""), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("<a@b>"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a@b>"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a@b> SIZE=1"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a@b> SIZE=1 <"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a@b\r\nRSET"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a@b\n"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a\0@b"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("@relay:a@b"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS(" a@b"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a@b "), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("a@b@c"), false, SAME},
	{EDIT_ADDRESS, false, "", OCTETS("> "), false, SAME},
	{EDIT_PARAMS, false, "", OCTETS(""), true, SAME},
	{EDIT_PARAMS, false, "", OCTETS("SIZE=10 BODY=8BITMIME"), true, SAME},
	{EDIT_PARAMS, false, "", OCTETS("X-UNKNOWN=y"), true, SAME},
	{EDIT_PARAMS, false, "", OCTETS("SIZE=ten"), false, SAME},
	{EDIT_PARAMS, false, "", OCTETS("SIZE=1 size=1"), false, SAME},
	{EDIT_PARAMS, false, "", OCTETS("SIZE=1\r\nRSET"), false, SAME},
	{EDIT_PARAMS, false, "", OCTETS("=1"), false, SAME},
	{EDIT_PARAMS, false, "", OCTETS("X=\0"), false, SAME},
	{EDIT_PARAMS, true, "", OCTETS("NOTIFY=NEVER ORCPT=rfc822;a@b"), true, SAME},
	{EDIT_PARAMS, true, "", OCTETS("SIZE=ten"), true, SAME}, /* RCPT knows no SIZE */
	{EDIT_PARAMS, true, "", OCTETS("NOTIFY=SOMETIMES"), false, SAME},
	{EDIT_PARAMS, false, "", OCTETS("NOTIFY=SOMETIMES"), true, SAME},
	{EDIT_SENDER, false, "", OCTETS(""), true, SAME},
	{EDIT_SENDER, true, "SIZE=1", OCTETS("a@b"), true, SAME},
	{EDIT_SENDER, true, "SIZE=x", OCTETS("a@b"), false, SAME},
	{EDIT_SENDER, true, "\r\nRSET", OCTETS("a@b"), false, SAME},
	{EDIT_RCPT_ADD, false, "NOTIFY=NEVER", OCTETS("a@b"), true, SAME},
	{EDIT_RCPT_ADD, false, "NOTIFY=NO", OCTETS("a@b"), false, SAME},
	{EDIT_RCPT_ADD, false, "", OCTETS(""), false, SAME},
	{EDIT_RCPT_DELETE, false, "", OCTETS("a@b"), true, SAME},
	{EDIT_RCPT_DELETE, false, "", OCTETS(""), false, SAME},
	{EDIT_RCPT_DELETE, false, "", OCTETS("a@b>"), false, SAME},
	{EDIT_BODY, false, "", OCTETS("any\0\r\n.\r\n\xff"), true, SAME},
	{EDIT_BODY, false, "", OCTETS(""), true, SAME},
	{EDIT_HEADER_APPEND, false, "X-A", OCTETS(" b"), true, SAME},
	{EDIT_HEADER_APPEND, false, "X-A", OCTETS(""), true, SAME},
	{EDIT_HEADER_APPEND, false, "X-A", OCTETS("  \t"), true, SAME},
	{EDIT_HEADER_APPEND, false, "!~", OCTETS(" \xff\x01:"), true, SAME},
	{EDIT_HEADER_APPEND, false, "", OCTETS(" b"), false, SAME},
	{EDIT_HEADER_APPEND, false, "X A", OCTETS(" b"), false, SAME},
	{EDIT_HEADER_APPEND, false, "X:", OCTETS(" b"), false, SAME},
	{EDIT_HEADER_APPEND, false, "X\r\n", OCTETS(" b"), false, SAME},
	{EDIT_HEADER_APPEND, false, "\xc3\xbc", OCTETS(" b"), false, SAME},
	{EDIT_HEADER_INSERT, false, "X-A", OCTETS(" b\n\tc"), true, OCTETS(" b\r\n\tc")},
	{EDIT_HEADER_INSERT, false, "X-A", OCTETS(" b\r\n\tc"), true, SAME},
	{EDIT_HEADER_INSERT, false, "X-A", OCTETS("\n b\n  c\r\n d"), true,
		OCTETS("\r\n b\r\n  c\r\n d")},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\n\tc"), true, OCTETS(" b\r\n\tc")},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\nc"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\n"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\r\n"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS("\n"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\n \n c"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\n \t"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\n\n c"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\r"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\rc"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\r\r\n c"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\0"), false, SAME},
	{EDIT_HEADER_CHANGE, false, "X-A", OCTETS(" b\n c\0"), false, SAME},
	{EDIT_HEADER_DELETE, false, "X-A", OCTETS(""), true, SAME},
	{EDIT_HEADER_DELETE, false, "X-A", OCTETS("what\n"), true, OCTETS("")},
	{EDIT_HEADER_DELETE, false, "X A", OCTETS(""), false, SAME},
};

Test(edits, judged)
{
	for (size_t i = 0; i < ARRAY_LEN(examples); i++) {
		const struct example *x = &examples[i];
		struct hook_edits *list = NULL;
		struct hook_edit e = {x->kind, 1, span_str(x->name), x->value}, got;
		struct span want = x->kept.p ? x->kept : x->value;
		size_t at = 0;

		cr_expect_eq(hook_edits_add(&list, &e, x->for_rcpt), x->good, "%zu", i);
		cr_expect_eq(hook_edits_next(list, &at, &got), x->good, "%zu", i);
		if (x->good)
			cr_expect(got.kind == x->kind && span_eq(got.value, want) &&
					  span_eq(got.name, e.name),
				"%zu: \"%.*s\"", i, (int)got.value.n, got.value.p);
		else
			cr_expect_null(list);
		cr_expect(!hook_edits_next(list, &at, &got));
		hook_edits_free(list);
	}
}

/* What a kind does not use is not kept, and not judged. */
Test(edits, unused)
{
	for (int k = 0; k < EDIT_KIND_COUNT; k++) {
		bool header = k >= EDIT_HEADER_INSERT && k <= EDIT_HEADER_DELETE;
		bool names = header || k == EDIT_SENDER || k == EDIT_RCPT_ADD;
		bool indexes = header && k != EDIT_HEADER_APPEND;
		struct hook_edits *list = NULL;
		struct hook_edit e = edit((enum hook_edit_kind)k, names ? "X" : "a\r\nb", "a@b");
		struct hook_edit got = {0};
		size_t at = 0;

		if (k == EDIT_PARAMS)
			e.value = SPAN_LIT("X=y");
		e.index = indexes ? 7 : UINT32_MAX;
		cr_expect(hook_edits_add(&list, &e, false), "%d", k);
		cr_expect(hook_edits_next(list, &at, &got));
		cr_expect_eq(got.index, indexes ? 7 : 0, "%d", k);
		cr_expect_eq(got.name.n, names ? 1 : 0, "%d", k);
		cr_expect_eq(got.value.n, k == EDIT_HEADER_DELETE ? 0 : 3, "%d", k);
		hook_edits_free(list);
	}
}

Test(edits, indexes)
{
	static const struct {
		enum hook_edit_kind kind;
		uint32_t index;
		bool good;
	} rows[] = {
		{EDIT_HEADER_INSERT, 0, true},
		{EDIT_HEADER_INSERT, HOOK_EDIT_INDEX_MAX, true},
		{EDIT_HEADER_INSERT, HOOK_EDIT_INDEX_MAX + 1, false},
		{EDIT_HEADER_CHANGE, 0, false},
		{EDIT_HEADER_CHANGE, 1, true},
		{EDIT_HEADER_CHANGE, UINT32_MAX, false},
		{EDIT_HEADER_DELETE, 0, false},
		{EDIT_HEADER_DELETE, HOOK_EDIT_INDEX_MAX, true},
		{EDIT_HEADER_DELETE, HOOK_EDIT_INDEX_MAX + 1, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct hook_edits *list = NULL;
		struct hook_edit e = edit(rows[i].kind, "X", " y");

		e.index = rows[i].index;
		cr_expect_eq(hook_edits_add(&list, &e, false), rows[i].good, "%zu", i);
		hook_edits_free(list);
	}
}

/* ---- bounds ---- */

/* A refused one leaves the list as it was. */
Test(edits, refused)
{
	struct hook_edits *list = NULL;
	struct hook_edit e;

	cr_assert(add(&list, EDIT_HEADER_APPEND, "X-A", " b"));
	cr_expect(!add(&list, EDIT_HEADER_APPEND, "X-A", " b\n"));
	cr_expect(!add(&list, EDIT_ADDRESS, "", "<>"));
	cr_expect(count(list) == 1 && hook_edits_last(list, EDIT_HEADER_APPEND, &e));
	cr_expect(span_eq(e.name, SPAN_LIT("X-A")) && span_eq(e.value, SPAN_LIT(" b")));
	hook_edits_free(list);
}

Test(edits, how_many)
{
	struct hook_edits *list = NULL;

	for (int i = 0; i < HOOK_EDITS_COUNT_MAX; i++)
		cr_assert(add(&list, EDIT_ADDRESS, "", "a@b"));
	cr_expect(!add(&list, EDIT_ADDRESS, "", "a@b"));
	cr_expect_eq(count(list), HOOK_EDITS_COUNT_MAX);
	cr_expect(add(&list, EDIT_BODY, "", "x")); /* not counted */
	cr_expect_eq(count(list), HOOK_EDITS_COUNT_MAX + 1);
	hook_edits_free(list);
}

Test(edits, how_much)
{
	static char value[HOOK_EDITS_BYTES_MAX + 2];
	struct hook_edits *list = NULL;

	memset(value, 'x', sizeof(value) - 1);
	cr_expect(!add(&list, EDIT_HEADER_APPEND, "X", value) && !list);
	value[HOOK_EDITS_BYTES_MAX] = 0;
	cr_expect(!add(&list, EDIT_HEADER_APPEND, "X", value) && !list);
	value[HOOK_EDITS_BYTES_MAX - 2] = 0;
	cr_assert(add(&list, EDIT_HEADER_APPEND, "X", value));
	cr_expect(!add(&list, EDIT_HEADER_APPEND, "XY", ""));
	cr_expect(add(&list, EDIT_BODY, "", value));
	cr_expect(add(&list, EDIT_HEADER_APPEND, "X", ""));
	cr_expect(!add(&list, EDIT_HEADER_APPEND, "X", ""));
	cr_expect_eq(count(list), 3);
	hook_edits_free(list);
	/* LF counts as what it becomes. */
	list = NULL;
	memcpy(value + HOOK_EDITS_BYTES_MAX - 4, "\n x", 4);
	cr_expect(!add(&list, EDIT_HEADER_APPEND, "X", value));
	cr_expect(add(&list, EDIT_HEADER_APPEND, "X", value + 1));
	hook_edits_free(list);
}

/* The longest of each fit into a command together. */
Test(edits, one_command)
{
	static char address[SMTP_PATH_BYTES_MAX + 2], params[4096];
	struct hook_edits *list = NULL;
	struct hook_edit e;
	char command[4096 + 1];
	size_t most = 0;

	memset(address, 'a', SMTP_PATH_BYTES_MAX + 1);
	cr_expect(!add(&list, EDIT_ADDRESS, "", address));
	address[SMTP_PATH_BYTES_MAX] = 0;
	cr_assert(add(&list, EDIT_ADDRESS, "", address));
	memset(params, 'A', sizeof(params) - 1);
	for (size_t n = 1; n < sizeof(params); n++) {
		params[n] = 0;
		most = add(&list, EDIT_PARAMS, "", params) ? n : most;
		params[n] = 'A';
		if (n > 100 && most < n)
			break;
		hook_edits_free(list);
		list = NULL;
	}
	params[most] = 0;
	cr_expect(snprintf(command, sizeof(command), "MAIL FROM:<%s> %s\r\n", address, params) ==
		  4096);
	hook_edits_free(list);
	list = NULL;
	cr_assert(add(&list, EDIT_PARAMS, "", params) && hook_edits_last(list, EDIT_PARAMS, &e));
	cr_expect_eq(e.value.n, most);
	hook_edits_free(list);
}

/* ---- order, bodies, joining ---- */

Test(edits, in_order)
{
	struct hook_edits *list = NULL;
	struct hook_edit e;
	char value[16];
	size_t at = 0;

	cr_expect(hook_edits_kinds(NULL) == 0 && !hook_edits_last(NULL, EDIT_BODY, &e));
	for (int i = 0; i < 500; i++) {
		snprintf(value, sizeof(value), "a%d@b", i);
		cr_assert(add(&list, i % 2 ? EDIT_RCPT_ADD : EDIT_RCPT_DELETE, "", value));
	}
	for (int i = 0; i < 500; i++) {
		snprintf(value, sizeof(value), "a%d@b", i);
		cr_assert(hook_edits_next(list, &at, &e));
		cr_expect_eq(e.kind, i % 2 ? EDIT_RCPT_ADD : EDIT_RCPT_DELETE);
		cr_expect(span_eq(e.value, span_str(value)));
	}
	cr_expect(!hook_edits_next(list, &at, &e));
	cr_expect_eq(hook_edits_kinds(list), 1u << EDIT_RCPT_ADD | 1u << EDIT_RCPT_DELETE);
	cr_expect(hook_edits_last(list, EDIT_RCPT_DELETE, &e));
	cr_expect(span_eq(e.value, SPAN_LIT("a498@b")));
	cr_expect(!hook_edits_last(list, EDIT_SENDER, &e));
	hook_edits_free(list);
	hook_edits_free(NULL);
}

Test(edits, body_pieces)
{
	struct hook_edits *list = NULL;
	struct hook_edit e;
	size_t at = 0;

	for (int i = 0; i < 5000; i++)
		cr_assert(add(&list, EDIT_BODY, "", "0123456789"));
	cr_assert(add(&list, EDIT_BODY, "", ""));
	cr_expect_eq(count(list), 1);
	cr_assert(add(&list, EDIT_HEADER_APPEND, "X", " y"));
	cr_assert(add(&list, EDIT_BODY, "", "end"));
	cr_assert(hook_edits_next(list, &at, &e));
	cr_expect(e.kind == EDIT_BODY && e.value.n == 50000);
	for (size_t i = 0; i < e.value.n; i++)
		cr_assert_eq(e.value.p[i], '0' + i % 10);
	cr_assert(hook_edits_next(list, &at, &e) && e.kind == EDIT_HEADER_APPEND);
	cr_assert(hook_edits_next(list, &at, &e) && span_eq(e.value, SPAN_LIT("end")));
	cr_expect(!hook_edits_next(list, &at, &e));
	hook_edits_free(list);
}

Test(edits, joined)
{
	struct hook_edits *a = NULL, *b = NULL;
	struct hook_edit e;

	cr_expect(hook_edits_join(&a, NULL) && !a);
	cr_assert(add(&b, EDIT_HEADER_APPEND, "X", " 1"));
	cr_assert(hook_edits_join(&a, b) && a == b);
	b = NULL;
	cr_assert(add(&b, EDIT_HEADER_APPEND, "Y", " 2"));
	cr_assert(hook_edits_join(&a, b));
	cr_expect(count(a) == 2 && hook_edits_last(a, EDIT_HEADER_APPEND, &e));
	cr_expect(span_eq(e.name, SPAN_LIT("Y")));
	cr_expect(hook_edits_join(&a, NULL) && count(a) == 2);
	cr_assert(add(&a, EDIT_BODY, "", "z"));
	cr_expect(hook_edits_last(a, EDIT_BODY, &e) && span_eq(e.value, SPAN_LIT("z")));
	hook_edits_free(a);
}

/* Both together have to keep the bounds. */
Test(edits, joined_too_many)
{
	static char value[HOOK_EDITS_BYTES_MAX / 2 + 1];
	struct hook_edits *a = NULL, *b = NULL;

	for (int i = 0; i < HOOK_EDITS_COUNT_MAX / 2; i++)
		cr_assert(add(&a, EDIT_ADDRESS, "", "a@b") && add(&b, EDIT_ADDRESS, "", "a@b"));
	cr_assert(hook_edits_join(&a, b));
	b = NULL;
	cr_assert(add(&b, EDIT_ADDRESS, "", "a@b"));
	cr_expect(!hook_edits_join(&a, b));
	cr_expect_eq(count(a), HOOK_EDITS_COUNT_MAX);
	hook_edits_free(a);

	a = b = NULL;
	memset(value, 'x', sizeof(value) - 1);
	cr_assert(add(&a, EDIT_HEADER_APPEND, "X", value));
	cr_assert(add(&b, EDIT_HEADER_APPEND, "X", value));
	cr_expect(!hook_edits_join(&a, b));
	cr_expect_eq(count(a), 1);
	hook_edits_free(a);
}

/* The later body takes the place of the earlier one, wherever that lies. */
Test(edits, joined_bodies)
{
	struct hook_edits *a = NULL, *b = NULL;
	struct hook_edit e;
	size_t at = 0;

	cr_assert(add(&a, EDIT_BODY, "", "old") && add(&a, EDIT_HEADER_APPEND, "X", " 1") &&
		  add(&a, EDIT_BODY, "", "older") && add(&a, EDIT_SENDER, "", "c@d"));
	cr_assert(add(&b, EDIT_BODY, "", "new"));
	cr_assert(hook_edits_join(&a, b));
	cr_assert(add(&a, EDIT_BODY, "", "er"));
	cr_assert(hook_edits_next(a, &at, &e) && e.kind == EDIT_HEADER_APPEND);
	cr_expect(span_eq(e.value, SPAN_LIT(" 1")));
	cr_assert(hook_edits_next(a, &at, &e) && e.kind == EDIT_SENDER);
	cr_assert(hook_edits_next(a, &at, &e) && e.kind == EDIT_BODY);
	cr_expect(span_eq(e.value, SPAN_LIT("newer")), "\"%.*s\"", (int)e.value.n, e.value.p);
	cr_expect(!hook_edits_next(a, &at, &e));

	/* Without one the earlier stays. */
	b = NULL;
	cr_assert(add(&b, EDIT_SENDER, "", "e@f") && hook_edits_join(&a, b));
	cr_expect(count(a) == 4 && hook_edits_last(a, EDIT_BODY, &e));
	hook_edits_free(a);
}

/* ---- what can be had where ---- */

#define BIT(k) (1u << (k))

Test(edits, possible)
{
	uint32_t headers = BIT(EDIT_HEADER_INSERT) | BIT(EDIT_HEADER_APPEND) |
			   BIT(EDIT_HEADER_CHANGE) | BIT(EDIT_HEADER_DELETE);
	uint32_t path = BIT(EDIT_ADDRESS) | BIT(EDIT_PARAMS);

	for (int p = 0; p < HOOK_POINT_COUNT; p++) {
		for (int m = HOOK_STREAM; m <= HOOK_HOLD_ALL; m++) {
			uint32_t want = 0;

			if (p == HOOK_MAIL || p == HOOK_RCPT)
				want = path | BIT(EDIT_HEADER_INSERT);
			if (p == HOOK_DATA)
				want = BIT(EDIT_HEADER_INSERT);
			if (p == HOOK_END_OF_DATA && m == HOOK_HOLD_ALL)
				want = (BIT(EDIT_KIND_COUNT) - 1) & ~path;
			cr_expect_eq(
				hook_edits_possible((enum hook_point)p, (enum conf_hook_mode)m),
				want, "%d %d", p, m);
		}
	}
	cr_expect_eq(headers & ~hook_edits_possible(HOOK_END_OF_DATA, HOOK_HOLD_ALL), 0);
}

Test(edits, words)
{
	for (int k = 0; k < EDIT_KIND_COUNT; k++)
		for (int other = 0; other < k; other++)
			cr_expect_str_neq(hook_edit_word((enum hook_edit_kind)k),
				hook_edit_word((enum hook_edit_kind)other));
	cr_expect_str_eq(hook_edit_word(EDIT_ADDRESS), "change-address");
	cr_expect_str_eq(hook_edit_word(EDIT_BODY), "replace-body");
}
