/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bounded matcher of patterns against the library's own, on seeded random patterns and
 * subjects: both find the same, or both object. And: it stops when it gets no more steps.
 */
#include "engine/hook/lua/lua_match.h"

#include <criterion/criterion.h>
#include <lauxlib.h>
#include <lualib.h>

enum { STEPS_EACH = 100 };

static uint32_t without_end(void *arg)
{
	return STEPS_EACH;
}

/* What string.find() of the library says, as text: "1 2 capture (position)", "nil", "error". */
static void library_says(
	lua_State *L, struct span subject, struct span pattern, char *out, size_t max)
{
	size_t n = 0;
	int values;

	lua_settop(L, 0);
	lua_getglobal(L, "string");
	lua_getfield(L, -1, "find");
	lua_remove(L, 1);
	lua_pushlstring(L, (const char *)subject.p, subject.n);
	lua_pushlstring(L, (const char *)pattern.p, pattern.n);
	out[0] = '\0';
	if (lua_pcall(L, 2, LUA_MULTRET, 0) != LUA_OK) {
		snprintf(out, max, "error");
		return;
	}
	values = lua_gettop(L);
	for (int i = 1; i <= values; i++) {
		bool number = lua_type(L, i) == LUA_TNUMBER;

		n += (size_t)snprintf(out + n, max - n, number ? "(%s) " : "%s ",
			lua_isnil(L, i) ? "nil" : lua_tostring(L, i));
	}
}

static void we_say(struct span subject, struct span pattern, char *out, size_t max)
{
	struct match m = {.subject = subject, .more = without_end};
	const uint8_t *at = subject.p, *end;
	bool anchored = pattern.n > 0 && *pattern.p == '^';
	size_t n;

	m.pattern = anchored ? span_drop(pattern, 1) : pattern;
	switch (match_from(&m, anchored, &at, &end)) {
	case MATCH_NO:
		snprintf(out, max, "nil ");
		return;
	case MATCH_YES:
		break;
	default:
		snprintf(out, max, "error");
		return;
	}
	n = (size_t)snprintf(out, max, "(%td) (%td) ", at - subject.p + 1, end - subject.p);
	for (uint32_t i = 0; i < m.captures; i++) {
		if (m.capture[i].n == MATCH_OPEN) {
			snprintf(out, max, "error");
			return;
		}
		if (m.capture[i].n == MATCH_POSITION)
			n += (size_t)snprintf(
				out + n, max - n, "(%td) ", m.capture[i].at - subject.p + 1);
		else
			n += (size_t)snprintf(out + n, max - n, "%.*s ", (int)m.capture[i].n,
				(const char *)m.capture[i].at);
	}
}

static uint64_t seed = 88172645463325252u;

static uint32_t any(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 33) % below;
}

static struct span make(char *out, const char *const *parts, uint32_t count, uint32_t length)
{
	size_t n = 0;

	for (uint32_t i = any(length + 1); i > 0; i--) {
		const char *part = parts[any(count)];

		memcpy(out + n, part, strlen(part));
		n += strlen(part);
	}
	out[n] = '\0';
	return span_of(out, n);
}

Test(lua_match, finds_what_the_library_finds)
{
	static const char *const pieces[] = {"a", "b", ".", "%a", "%d", "%S", "%W", "%.", "[ab]",
		"[^a]", "[a-c]", "[%d_]", "[]]", "[^]]", "[a-]", "[]", "[^", "[", "*", "+", "-",
		"?", "(", ")", "()", "^", "$", "%1", "%2", "%0", "%b()", "%bab", "%b", "%f[%a]",
		"%f[^b]", "%f", "%", "x", "%x", "[%]", "[%a-z]", "1", "%g", "%c", "%p", "%L", "%u"};
	static const char *const octets[] = {"a", "b", "c", "ab", "1", "_", " ", "(", ")", "]", "-",
		"^", ".", "A", "\n", "\xe4"};
	lua_State *L = luaL_newstate();
	unsigned found = 0, objected = 0;

	luaL_openlibs(L);
	for (unsigned round = 0; round < 300000; round++) {
		char p[64], s[64], want[400], got[400];
		struct span pattern = make(p, pieces, ARRAY_LEN(pieces), 6);
		struct span subject = make(s, octets, ARRAY_LEN(octets), 10);

		/* find() does not look at it as a pattern. */
		if (match_is_plain(pattern))
			continue;
		library_says(L, subject, pattern, want, sizeof(want));
		we_say(subject, pattern, got, sizeof(got));
		cr_assert_str_eq(got, want, "`%s` in `%s`", p, s);
		found += want[0] == '(';
		objected += want[0] == 'e';
	}
	cr_expect_gt(found, 20000u);
	cr_expect_gt(objected, 20000u);
	lua_close(L);
}

/* NUL octets are octets. */
Test(lua_match, nul_octets)
{
	struct match m = {.subject = SPAN_LIT("a\0b\0c"),
		.pattern = SPAN_LIT("\0[^\0]\0"),
		.more = without_end};
	const uint8_t *at = m.subject.p, *end;

	cr_expect_eq(match_from(&m, false, &at, &end), MATCH_YES);
	cr_expect_eq(at - m.subject.p, 1);
	cr_expect_eq(end - m.subject.p, 4);
}

Test(lua_match, plain_or_not)
{
	cr_expect(match_is_plain(SPAN_LIT("a@b,c]d)e")));
	cr_expect(match_is_plain(SPAN_LIT("a\0b")));
	cr_expect_not(match_is_plain(SPAN_LIT("a.b")));
	cr_expect_not(match_is_plain(SPAN_LIT("a\0%")));
}

/* ---- the bound ---- */

static uint64_t steps_max, steps;

static uint32_t bounded(void *arg)
{
	steps += STEPS_EACH;
	return steps <= steps_max ? STEPS_EACH : 0;
}

static enum match_res run(const char *pattern, char octet, size_t n)
{
	static char subject[5000];
	bool anchored = pattern[0] == '^';
	struct match m = {.subject = span_of(subject, n),
		.pattern = span_str(pattern + anchored),
		.more = bounded};
	const uint8_t *at = m.subject.p, *end;
	enum match_res res;

	cr_assert(n <= sizeof(subject));
	memset(subject, octet, n);
	steps = 0;
	res = match_from(&m, anchored, &at, &end);
	if (res == MATCH_STOPPED)
		cr_expect_leq(steps, steps_max + STEPS_EACH, "it asked again: %s", pattern);
	return res;
}

Test(lua_match, it_stops)
{
	static const char *const bombs[] = {".-.-.-b", "a-a-b", "(.-)(.-)(.-)%1%2%3b", "a*a*a*a*b",
		"a+a+a+[b]", "%b()%b()x", "%f[a].-.-.-c"};

	steps_max = 1000000;
	for (size_t i = 0; i < ARRAY_LEN(bombs); i++)
		cr_expect_eq(
			run(bombs[i], i == 5 ? '(' : 'a', 5000), MATCH_STOPPED, "%s", bombs[i]);
	cr_expect_eq(
		run("a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?aaaaaaaaaaaaaaaaaaaaaaaab",
			'a', 24),
		MATCH_STOPPED);
	/* What is usual is linear. */
	steps_max = 20000;
	cr_expect_eq(run("^%s*(.-)%s*$", ' ', 5000), MATCH_YES);
	cr_expect_eq(run("a*b?$", 'a', 5000), MATCH_YES);
	/* A step for each octet at least: nothing is for nothing. */
	steps_max = 4800;
	cr_expect_eq(run("^a*$", 'a', 5000), MATCH_STOPPED);
	cr_expect_eq(run("b", 'a', 5000), MATCH_STOPPED);
	cr_expect_eq(run("%b()", '(', 4900), MATCH_STOPPED);
}
